"""What a sweep's directory tells of it: which jobs it has, and how each of them stands.

sweep.json has the command. jobs.jsonl has a line for each job, and one for each that has ended: the last one counts.
Whether a job is finished its own directory says, which a process that is killed cannot leave behind in between.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metarun.config import going_on, key_of
from metarun.core import ConfigError
from metarun.files import named, write_atomically
from metarun.run.record import is_taken

COMMAND, JOBS = "sweep.json", "jobs.jsonl"
TOGETHER = "together.json"  # the command, of jobs that began in one program: see sweep.together
FORMAT = 1
Stand = Literal["finished", "running", "stopped", "failed", "pruned", "waiting"]


class Job(NamedTuple):
    """A run of a sweep."""

    number: int
    settings: tuple[str, ...]  # those of all jobs, and its own
    directory: Path
    end: dict[str, Any] = {}  # noqa: RUF012 (read only): what is known of how it ended last: failed, pruned, seconds

    @property
    def stand(self) -> Stand:
        """How it stands now."""
        if (self.directory / "results.json").exists():
            return "finished"
        if is_taken(self.directory):
            return "running"
        if "pruned" in self.end:
            return "pruned"
        if "failed" in self.end:
            return "failed"
        return "stopped" if (self.directory / "config.yaml").exists() else "waiting"

    @property
    def lines(self) -> Path:
        """The file beside its directory to which the lines of a process of its own go."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def log(self) -> Path:
        """Where its lines are."""
        return self.lines if self.lines.exists() else self.directory / "metarun.log"


@dataclass(frozen=True)
class Sweep:
    """A sweep's command, and the jobs that it has come to."""

    directory: Path
    options: tuple[str, ...]  # Hydra's, with their values
    settings: tuple[str, ...]  # what is swept over stands there as it was given
    sweeper: str  # grid, optuna
    jobs: tuple[Job, ...] = field(default=(), repr=False)
    sweeping: tuple[str, ...] = ()  # the settings of its sweeper, but for those that may change
    search: dict[str, Any] = field(default_factory=dict)  # of a search: trials, objective, direction, space, ...
    beside: tuple[str, ...] = ()  # the settings of all else in Hydra: its launcher, where jobs are within the directory

    @property
    def wanted(self) -> int:
        """How many jobs there are to be in the end."""
        return max(len(self.jobs), self.search.get("trials", 0))

    def again(self, given: Sequence[str] = ()) -> list[str]:
        """The settings that go on with it, with those `given`: of another launcher than its own."""
        other = any(key_of(one) == "hydra/launcher" for one in given)
        beside = without_launcher(self.beside) if other else self.beside
        changed = [f"hydra.sweeper.{key}={self.search[key]}" for key in ("trials", "pruner") if key in self.search]
        return [*beside, *self.sweeping, *changed, *self.settings]

    @property
    def of_each(self) -> tuple[str, ...]:
        """What a job's command has before its settings: Hydra's options, and what Hydra is told of each run."""
        own = (one for one in without_launcher(self.beside) if not key_of(one).startswith("hydra.sweep."))
        return (*self.options, *own)

    @property
    def common(self) -> set[str]:
        """The settings that all jobs have, or of a search what is not searched; of a single one all set it apart."""
        every = [set(job.settings) for job in self.jobs]
        if self.search:
            shared = set.intersection(*every) if every else set()
            return {one for one in shared if one.partition("=")[0] not in self.search["space"]}
        return set.intersection(*every) if len(every) > 1 else set()

    @property
    def going_on(self) -> str:
        """The command that goes on with it."""
        return how_to_go_on(self.directory)

    def own(self, job: Job) -> str:
        """What sets a job apart from the others."""
        common = self.common
        return " ".join(setting.lstrip("+") for setting in job.settings if setting not in common)


def is_sweep(directory: Path) -> bool:
    return (directory / COMMAND).exists()


def are_together(directory: Path) -> bool:
    return (directory / TOGETHER).exists()


def how_to_go_on(directory: Path) -> str:
    """The command that goes on with the sweep in a directory."""
    return going_on(directory, *([] if are_together(directory) else ["-m"]))


def begin(sweep: Sweep) -> None:
    """Writes a sweep down, with the jobs that are known."""
    sweep.directory.mkdir(parents=True, exist_ok=True)
    write_atomically(sweep.directory / JOBS, "".join(line_of(sweep.directory, job) for job in sweep.jobs))
    revise(sweep)


def revise(sweep: Sweep) -> None:
    """Writes a sweep's command down, which may have changed in what it may."""
    said: dict[str, Any] = {"format": FORMAT, "sweeper": sweep.sweeper, "options": sweep.options}
    said |= {"settings": sweep.settings, "sweeping": sweep.sweeping, "beside": sweep.beside}
    said |= {"search": sweep.search} if sweep.search else {}
    write_atomically(sweep.directory / COMMAND, json.dumps(said, indent=2) + "\n")


def line_of(directory: Path, job: Job) -> str:
    """The line that makes a job of the sweep in `directory` known, wherever that will be."""
    place = os.path.relpath(job.directory, directory)
    return json.dumps({"job": job.number, "settings": job.settings, "directory": place}) + "\n"


def add(directory: Path, job: Job) -> None:
    """One job more, or one that is there with settings which have changed in what they may."""
    append(directory, line_of(directory, job))


def ended(directory: Path, job: Job, **how: Any) -> None:
    """How a job ended: `failed` with the reason, `pruned`, or neither of them; and the `seconds` of this stretch."""
    append(directory, json.dumps({"job": job.number, **how}) + "\n")


def append(directory: Path, line: str) -> None:
    """A line more, on the disk before this returns. One that a kill has cut off before it stays alone."""
    with named(directory / JOBS), (directory / JOBS).open("a+b") as file:
        torn = b""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(directory: Path) -> Sweep:
    """The sweep in a directory. Raises ConfigError."""
    try:
        said = json.loads((directory / COMMAND).read_text())
        if said["format"] != FORMAT:
            raise ConfigError(
                "run.dir",
                directory,
                f"holds a sweep in format {said['format']} of another version of metarun, this one reads {FORMAT}; "
                "name another directory",
            )
        options, settings, sweeper = words(said["options"]), words(said["settings"]), str(said["sweeper"])
        sweeping, beside = sweeping_of(words(said.get("sweeping", []))), words(said.get("beside", []))
        search = said.get("search", {})
        if search and not is_search(search):
            raise ValueError("its search")
        jobs = jobs_of(directory, (directory / JOBS).read_text().splitlines())
    except FileNotFoundError as error:
        what = f"holds no sweep (no {COMMAND})" if directory.is_dir() else "no such directory"
        raise ConfigError("run.dir", directory, f"{what}; name a sweep's directory") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError("run.dir", directory, f"its {COMMAND} or {JOBS} cannot be read ({error!r})") from error
    return Sweep(directory, options, settings, sweeper, jobs, sweeping, search, beside)


def words(said: Any) -> tuple[str, ...]:
    """A list of words. Raises TypeError for what is none."""
    if not (isinstance(said, list) and all(isinstance(word, str) for word in said)):
        raise TypeError(f"{said!r} is no list of words")
    return tuple(said)


def is_search(said: Any) -> bool:
    """Whether it says all that is to be known of a search."""
    kinds = {"trials": int, "sampler": str, "seed": int, "objective": str, "space": dict}
    known = isinstance(said, dict) and all(isinstance(said.get(key), kind) for key, kind in kinds.items())
    return known and said.get("direction") in ("maximize", "minimize")


def jobs_of(directory: Path, lines: Iterable[str]) -> tuple[Job, ...]:
    """The jobs of a jobs.jsonl, by number; a line that was cut off is left out."""
    found: dict[int, Job] = {}
    for line in lines:
        with suppress(json.JSONDecodeError):
            said = json.loads(line)
            number = int(said.pop("job"))
            if "settings" in said:
                end = found[number].end if number in found else {}  # of one whose settings are others by now
                found[number] = Job(number, words(said["settings"]), directory / said["directory"], end)
            elif number in found:
                found[number] = found[number]._replace(end=said)
    return tuple(found[number] for number in sorted(found))


def unfinished(
    parent: Path, options: Sequence[str], settings: Sequence[str], hydras: Sequence[str] = ()
) -> Path | None:
    """The newest sweep below `parent` of the same command that has something left to do, and that nobody is at.

    `hydras` are those of Hydra among the command's settings. Its launcher may be another one.
    """
    own = tuple(one for one in settings if not is_hydras(one))
    asked = (tuple(options), own, sweeping_of(hydras), without_launcher(beside_of(hydras)))
    for file in sorted(parent.glob(f"*/{COMMAND}"), reverse=True):
        with suppress(ConfigError):
            sweep = read(file.parent)
            left = sweep.wanted > len(sweep.jobs) or any(job.stand in ("waiting", "stopped") for job in sweep.jobs)
            its = (sweep.options, sweep.settings, sweep.sweeping, without_launcher(sweep.beside))
            if its == asked and left and not is_taken(file.parent):
                return file.parent
    return None


def sweeping_of(settings: Sequence[str]) -> tuple[str, ...]:
    """Of settings those that say how a sweep is made, but for those that may change."""
    found = (one for one in settings if one.lstrip("+").startswith(("hydra/sweeper=", "hydra.sweeper.")))
    may_change = ("hydra.sweeper.trials=", "hydra.sweeper.pruner=", "hydra.sweeper.retry=")
    return tuple(dict.fromkeys(one for one in found if not one.startswith(may_change)))


def beside_of(settings: Sequence[str]) -> tuple[str, ...]:
    """Of settings those of Hydra that are not the sweeper's, and do not say where the sweep is; the last of each."""
    found = (
        one for one in settings if is_hydras(one) and not key_of(one).startswith(("hydra/sweeper", "hydra.sweeper."))
    )
    where = ("hydra.sweep.dir", "hydra.run.dir", "hydra.mode")
    return tuple({one.partition("=")[0]: one for one in found if key_of(one) not in where}.values())


def without_launcher(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in settings if not key_of(one).startswith(("hydra/launcher", "hydra.launcher.")))


def is_hydras(setting: str) -> bool:
    return key_of(setting).startswith(("hydra.", "hydra/"))
