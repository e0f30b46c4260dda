"""The one training loop: from a checked configuration to a tested result."""

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import yaml
from filelock import FileLock, Timeout
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from metarun import engine, results
from metarun.checkpoint import Checkpoints
from metarun.chunks import choose_chunk, must_fit, until_it_fits
from metarun.config import Run
from metarun.core import ConfigError, PyTree, State
from metarun.evaluate import Figures
from metarun.log import Bar, MetricsFile, console, open_log, words, write_atomically
from metarun.program import Programs, nets, programs
from metarun.transfer import no_run, start_from

log = logging.getLogger("metarun")

# One call to the device lasts about this long: short enough to stop soon, long enough to cost nothing.
SECONDS_PER_CALL = 0.5


class Interrupted(Exception):
    """Asked to stop: all is saved, and the same command goes on."""


class Diverged(Exception):
    """The loss is no longer a number."""


def train(run: Run) -> dict[str, Any]:
    """Trains `run` (or goes on with it), tests it, and returns what stands in its results.json.

    Raises DataError or ConfigError before any device work, Interrupted on Ctrl-C or SIGTERM, Diverged.
    """
    with only_process_in(Path(run.info.dir)):
        return train_alone(run)


@contextmanager
def only_process_in(directory: Path) -> Iterator[None]:
    """Raises ConfigError if another process, on this machine, is at work in the run's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError("run.dir", directory, "another process is at work there; name another directory") from error
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)


def train_alone(run: Run) -> dict[str, Any]:
    """`train`, once no other process can be in the run's directory."""
    directory = Path(run.info.dir)
    if (directory / "results.json").exists():
        console.print(f"{directory} is finished; its figures again:", markup=False)
        return json.loads((directory / "results.json").read_text())
    source = run.train.init_from
    if source is not None and not (directory / "checkpoints").exists() and not (Path(source) / "checkpoints").is_dir():
        raise no_run(Path(source))  # before there is anything of this run
    clock = Clock()
    data = {"train": run.tasks.load("train"), "val": run.eval_tasks.load("val")}
    data["eval"] = run.eval_tasks.load(run.eval.split)
    net, eval_net = nets(run)
    shapes = engine.check_shapes(run.learner, net, run.tasks, data["train"])
    engine.check_shapes(run.eval_learner, eval_net, run.eval_tasks, data["eval"], shapes)

    mesh = run.hardware.set_up(run.train.meta_batch)
    open_log(directory)
    write_atomically(directory / "config.yaml", yaml.safe_dump(run.config, sort_keys=False))
    on_devices = NamedSharding(mesh, P())
    data = jax.device_put(data, on_devices)
    state = programs(run, mesh, 1).start(data["train"], run.numbers, engine.stream(run.train.seed, engine.INIT))
    state = jax.device_put(state, on_devices)
    checkpoints = Checkpoints(directory / "checkpoints")
    host: dict[str, Any] = {"best": None, "seconds": 0.0, "command": " ".join(["metarun", *sys.argv[1:]])}
    if source is not None and checkpoints.is_empty():
        begin = start_from(state.params, Path(source))
        log.info(f"from {source}: {named(begin.taken)}; as initialised: {named(begin.left) or 'nothing'}")
        state = jax.device_put(state._replace(params=begin.params), on_devices)
    if (saved := checkpoints.restore(state)) is not None:
        state, host = saved[0], host | saved[1]  # the command that began the run stands
        log.info(f"going on from meta-step {int(state.step)} of {directory}")
    earlier = host["seconds"]
    clock.started()
    task_chunk = eval_chunk = choose_chunk(run, mesh, state, data["train"])

    step = int(state.step)
    metrics_file = MetricsFile(directory / "metrics.jsonl", step)
    tracker = run.logger.open(directory, run.config, run.info.name, run.info.tags)
    log.info(
        f"{run.info.name}: {sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, "
        f"{run.train.meta_batch} tasks a meta-step in chunks of {task_chunk} on {mesh.size} "
        f"{mesh.devices.flat[0].platform} device(s)"
    )

    def advance(state: State, n: int) -> tuple[State, engine.Report]:
        """n meta-steps further, not waited for: but for the first time, when memory may turn out too small."""
        nonlocal task_chunk
        k_train = engine.stream(run.train.seed, engine.TRAIN)
        if clock.compile_s is not None:
            return programs(run, mesh, task_chunk).meta_steps(state, data["train"], run.numbers, k_train, jnp.int32(n))
        kept = jax.device_get(state)  # a call takes the state's memory, and what fails gives nothing back

        def first(programs: Programs) -> tuple[State, engine.Report]:
            arguments = (jax.device_put(kept, on_devices), data["train"], run.numbers, k_train, jnp.int32(n))
            must_fit(programs.meta_steps, mesh, *arguments)
            return programs.meta_steps(*arguments)

        done, task_chunk = until_it_fits(run, mesh, task_chunk, first)
        clock.compiled()
        return done

    def evaluate(params: PyTree, split: str, episodes: int, inner_steps: int | None = None) -> Figures:
        nonlocal eval_chunk
        k_eval, numbers = engine.stream(run.eval.seed, engine.EVAL), run.numbers["eval_learner"]
        figures, eval_chunk = until_it_fits(
            run, mesh, eval_chunk,
            lambda programs: programs.evaluate(params, data[split], episodes, k_eval, numbers, inner_steps),
        )  # fmt: skip
        return figures

    def row(step: int, split: str, metrics: dict[str, float]) -> None:
        metrics_file.write(step, split, metrics)
        tracker.row(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def finish(call: Call) -> None:
        """All that the host has to do about a call, while the devices are at the next one."""
        step = call.step
        sums, finite = jax.device_get(call.report)
        clock.arrived(call.steps)
        if not (finite and all(math.isfinite(value) for value in sums.values())):
            checkpoints.close()
            tracker.close({})
            raise Diverged(
                f"{run.info.name}: the loss or a parameter is not finite after meta-step {step} "
                f"(all were after {step - call.steps}); try a smaller learner.inner_lr or optimizer.learning_rate; "
                f"{directory}/checkpoints holds what was saved"
            )
        since = step % run.train.period("log_every") or run.train.period("log_every")
        metrics = {name: float(value) / since for name, value in sums.items()}
        bar.update(step, clock.rate, clock.rate * run.train.meta_batch, metrics)
        if is_due(run, step, "log_every"):
            row(step, "train", metrics)
            log.debug(
                f"meta-step {step}/{run.train.steps}  {words(metrics)}  {clock.rate:.1f} meta-steps/s  "
                f"{clock.rate * run.train.meta_batch:.0f} tasks/s  {clock.left(run.train.steps - step)} left"
            )
        if call.kept is None:
            return
        if is_due(run, step, "eval_every"):
            figures = evaluate(call.kept.params, "val", run.eval.val_episodes)
            means = {name: figure["mean"] for name, figure in figures.items()}
            row(step, "val", means)
            shown = {name: means[name] for name in metrics if name in means}
            better = is_better(figures, host["best"], run.tasks.metric)
            log.info(f"meta-step {step}/{run.train.steps}  validation  {words(shown)}{'  (best)' if better else ''}")
            if better:
                host["best"] = {"step": step, **figures[run.tasks.metric]}
                checkpoints.save_best(step, call.kept.params)
        # With every new best too, so that what `last` says of the best is what `best` holds.
        is_best = host["best"] is not None and host["best"]["step"] == step
        if is_due(run, step, "save_every") or is_best or call.last:
            host["seconds"] = earlier + clock.since_start()
            checkpoints.save(call.kept, host)
        clock.interrupted()

    call: Call | None = None
    with stop_on_signals() as stop, Bar(run.train.steps, step) as bar:
        while step < run.train.steps and not stop:
            n = min(boundary(run, step) - step, clock.steps_per_call())
            state, report = advance(state, n)
            step += n
            if is_due(run, step, "log_every"):
                state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
            if call is not None:
                finish(call)
            # The state's memory goes into the next call: what the host has to do with it, it does with a copy. A CPU
            # waits for the state to copy it, so this comes after the report before it has arrived and been timed.
            copied = is_due(run, step, "eval_every") or is_due(run, step, "save_every")
            call = Call(step, n, report, jax.tree.map(jnp.copy, state) if copied else None, last=False)
        if call is not None:
            finish(call._replace(kept=state, last=True))
        if step < run.train.steps:
            if call is None:
                checkpoints.save(state, host)
            checkpoints.close()
            tracker.close({})
            raise Interrupted(
                f"stopped and saved at meta-step {step} of {run.train.steps}; go on with: metarun run.dir={directory}"
            )

    best = host["best"]
    use_best = run.eval.state == "best" and best is not None
    params = checkpoints.restore_best(best["step"], state.params) if use_best else state.params
    figures = evaluate(params, "eval", run.eval.episodes)
    counts = run.eval.inner_steps if hasattr(run.eval_learner, "inner_steps") else ()
    by_inner_steps = {str(n): evaluate(params, "eval", run.eval.episodes, n) for n in counts}
    found = results.summary(
        run,
        figures=figures,
        by_inner_steps=by_inner_steps,
        used={"state": "best", **best} if use_best else {"state": "last", "step": step},
        params=params,
        mesh=mesh,
        task_chunk=task_chunk,
        clock=clock,
        command=host["command"],
        seconds=earlier + clock.since_start(),
    )
    write_atomically(directory / "results.json", json.dumps(finite(found), indent=2, allow_nan=False) + "\n")
    checkpoints.close()
    tracker.close({f"{run.eval.split}/{name}": figure["mean"] for name, figure in figures.items()})
    return found


class Call(NamedTuple):
    """A call to the devices, from when it is sent until the host has dealt with what came of it."""

    step: int  # meta-steps done after it
    steps: int  # in it
    report: engine.Report
    kept: State | None  # the state after it, where the host has something to do with it
    last: bool


def named(paths: Iterable[str]) -> str:
    """Parameters in words, a layer's together: `conv0 (bias, kernel), head (bias)`."""
    layers: dict[str, list[str]] = {}
    for path in paths:
        layer, _, name = path.rpartition("/")
        layers.setdefault(layer, []).append(name)
    return ", ".join(f"{layer} ({', '.join(sorted(names))})" for layer, names in sorted(layers.items()))


def finite(values: Any) -> Any:
    """Nested results with null for every number that is none: NaN is not JSON."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def is_due(run: Run, step: int, period: str) -> bool:
    """Whether a period ends at `step`; every period also ends with the run."""
    return step % run.train.period(period) == 0 or step == run.train.steps


def boundary(run: Run, step: int) -> int:
    """The next meta-step after `step` at which there is something to do."""
    periods = (run.train.period(name) for name in ("log_every", "eval_every", "save_every"))
    return min(run.train.steps, *(step - step % period + period for period in periods))


def is_better(figures: Figures, best: dict[str, Any] | None, metric: str) -> bool:
    """Whether validation's figures beat the best so far: more accuracy, or less error."""
    now = figures[metric]["mean"]
    if best is None:
        return math.isfinite(now)
    return now > best["mean"] if metric == "accuracy" else now < best["mean"]


class Clock:
    """How long things take, in seconds: the start of a run, compilation, and the meta-steps."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.startup_s: float | None = None  # until all was there but the compiled meta-step
        self.compile_s: float | None = None  # from then until the first call was done; None before
        self.seconds = 0.0  # of calls that were timed
        self.steps = 0  # meta-steps in them
        self.rate = 0.0  # meta-steps per second, of late
        self.last: float | None = None  # when the last report came; None if something else came between

    def since_start(self) -> float:
        return time.monotonic() - self.began

    def started(self) -> None:
        """All is there but the compiled meta-step."""
        self.startup_s = self.since_start()

    def compiled(self) -> None:
        """The first call has been made."""
        self.compile_s = self.since_start() - (self.startup_s or 0.0)

    def arrived(self, steps: int) -> None:
        """A call's report is here. The devices were at it since the report before it."""
        now = time.perf_counter()
        if self.last is not None:
            taken = now - self.last
            self.seconds += taken
            self.steps += steps
            self.rate = steps / taken if self.rate == 0.0 else 0.8 * self.rate + 0.2 * steps / taken
        self.last = now

    def interrupted(self) -> None:
        """The host did something between: the next report tells nothing of the devices' speed."""
        self.last = None

    def steps_per_call(self) -> int:
        return max(1, int(self.rate * SECONDS_PER_CALL))

    def left(self, steps: int) -> str:
        """The time that `steps` more will take, as h:mm:ss."""
        if not self.rate:
            return "?"
        seconds = int(steps / self.rate)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM asks to stop; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
