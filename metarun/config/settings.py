"""The sections of a configuration that no component stands behind: training, evaluation, the run's place, the paper."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from metarun import engine
from metarun.core import ConfigError, Count, CountOrZero, Positive

Seed = Annotated[int, Ge(0), Lt(2**32)]
Tail = Annotated[float, Ge(0), Lt(1)]  # of all, a share that leaves some
Period = Count | Literal["auto"]

# Far above what has been published, and below what makes a machine silent for minutes: a host array has a row for each.
MOST_TASKS = 65_536
MetaBatch = Annotated[int, Ge(1), Le(MOST_TASKS)]
Episodes = Annotated[int, Gt(1), Le(1_000_000)]


@dataclass(frozen=True)
class Train:
    """The training loop. Periods are in meta-steps."""

    seed: Seed
    steps: Count
    meta_batch: MetaBatch
    selection: Literal["uniform", "hard", "curriculum"]  # of a meta-step's tasks, from candidates: see engine.Selection
    tail: Tail  # of the candidates that are left out
    hardest_at: Count | None  # the meta-step from which a curriculum takes the hardest; None: the last
    task: dict[str, Any]  # where training's episodes differ: more ways, more shots
    init_from: str | None  # a run whose parameters to start from
    log_every: Period
    eval_every: Period
    save_every: Period
    on_nonfinite: Literal["stop", "skip"]  # a meta-step whose gradient is not finite
    skip_at_most: Count  # so many in a row
    clip_value: Positive | None  # of the meta-gradient: see engine.Guard
    clip_norm: Positive | None
    private: dict[str, Any]  # see engine.Private

    def __post_init__(self) -> None:
        for name in ("log_every", "eval_every", "save_every"):
            period = getattr(self, name)
            if period != "auto" and self.steps % period:
                raise ConfigError(name, period, f"must divide train.steps={self.steps}, or be auto")
        if self.screening is not None and not self.meta_batch < self.screening.candidates <= MOST_TASKS:
            allowed = (
                f"with train.meta_batch={self.meta_batch} it makes {self.screening.candidates:,} candidates; "
                f"train.selection={self.selection} chooses from more than that, and at most {MOST_TASKS:,}"
            )
            raise ConfigError("tail", self.tail, allowed)

    @property
    def screening(self) -> engine.Selection | None:
        """How many tasks are scored for a meta-step, and when the hardest of them are taken; None: all are."""
        if self.selection == "uniform":
            return None
        hardest_at = 0 if self.selection == "hard" else self.hardest_at or self.steps - 1
        return engine.Selection(round(self.meta_batch / (1 - self.tail)), hardest_at)

    @property
    def guard(self) -> engine.Guard:
        return engine.Guard(self.clip_value, self.clip_norm, self.skip_at_most if self.on_nonfinite == "skip" else 0)

    def is_due(self, step: int, period: str) -> bool:
        """Whether a period ends at `step`; every period also ends with the run."""
        return step % self.period(period) == 0 or step == self.steps

    def next_due(self, step: int) -> int:
        """The next meta-step after `step` at which some period ends."""
        periods = (self.period(name) for name in ("log_every", "eval_every", "save_every"))
        return min(self.steps, *(step - step % period + period for period in periods))

    def period(self, name: str) -> int:
        """A period in meta-steps; `auto` is 1/50 of the run, 1 to 100 (logging), or 1/10, 10 to 2,000.

        A row costs nothing. A validation, of 100 tasks by default, costs about what some meta-steps of 32 do, and
        a save waits for the disk: at least 10 meta-steps between them, so that a short run is not all of these.
        """
        chosen = getattr(self, name)
        if chosen != "auto":
            return chosen
        parts, least, most = (50, 1, 100) if name == "log_every" else (10, 10, 2000)
        return min(max(self.steps // parts, least), most, self.steps)


@dataclass(frozen=True)
class Eval:
    """The evaluation; `task` and `learner` hold what differs there from training."""

    split: Literal["val", "test"]
    state: Literal["best", "last"]
    episodes: Episodes
    val_episodes: Episodes
    seed: Seed
    inner_steps: tuple[CountOrZero, ...]
    shots: tuple[Count, ...]
    inductive: engine.Inductive
    tail: Tail
    task: dict[str, Any]
    learner: dict[str, Any]
    tasks: dict[str, dict[str, Any]]  # other domains for the test, by their names


@dataclass(frozen=True)
class RunInfo:
    """What a run is called, and where it lives."""

    dir: str
    name: str
    tags: tuple[str, ...]
    max_minutes: Positive | None  # of this process: then the run stops, saved
    max_silent_minutes: Positive | None  # without an answer, and without work for the processor: then it hangs

    def __post_init__(self) -> None:
        # orbax finds its own files by such a pattern, or does not, and reads a backslash as a slash
        if set("*?[\\") & set(str(Path(self.dir).absolute())):
            raise ConfigError("dir", self.dir, "its whole path must do without * ? [ and \\; name another directory")


@dataclass(frozen=True)
class Paper:
    """What an experiment reproduces."""

    source: str  # paper and table
    quoted_by: str | None  # where the figure was read, if not in the paper itself
    # A metric of the test, or `<metric>_after_<inner steps>`, to its mean and half of its 95% interval, if it has one.
    figures: dict[str, list[float | None]]
