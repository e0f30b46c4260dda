"""The one training loop: from a checked configuration to a tested result."""

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import yaml
from filelock import FileLock, Timeout
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from metarun import answers, engine, nonfinite, results, separation
from metarun.checkpoint import Checkpoints
from metarun.chunks import choose_chunk, must_fit, until_it_fits
from metarun.clock import Clock
from metarun.config import Run, with_shots
from metarun.core import ConfigError, DataError, PyTree, State
from metarun.evaluate import Evaluation, Figures
from metarun.log import Bar, MetricsFile, console, finite, open_log, words, write_atomically
from metarun.program import Programs, nets, programs
from metarun.stop import Interrupted, Stop, stop_on_signals
from metarun.text import first_line, printable
from metarun.transfer import no_run, start_from

log = logging.getLogger("metarun")


class NotFinite(Exception):
    """The loss, its gradient or a parameter is no longer a number."""


class NotWritten(Exception):
    """The run is done, or stopped, and the disk did not take all that it leaves."""

    def __init__(self, message: str, found: dict[str, Any] | None) -> None:
        super().__init__(message)
        self.found = found  # the results, if the run is done


def train(run: Run) -> dict[str, Any]:
    """Trains `run` (or goes on with it), tests it, and returns what stands in its results.json.

    Raises DataError or ConfigError before any device work, Interrupted when asked to stop (a signal that comes while
    nothing is unsaved ends the process), NotFinite, NotWritten.
    """
    with stop_on_signals(run.info.max_minutes) as stop, only_process_in(Path(run.info.dir)):
        return train_alone(run, stop)


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
        with suppress(OSError):  # the directory may have been taken away
            if [file.name for file in directory.iterdir()] == [path.name]:
                path.unlink()
        lock.release()


def train_alone(run: Run, stop: Stop) -> dict[str, Any]:
    """`train`, once no other process can be in the run's directory."""
    directory = Path(run.info.dir)
    if (directory / "results.json").exists():
        console.print(printable(f"{directory} is finished; its figures again:"), markup=False)
        try:
            return json.loads((directory / "results.json").read_text())
        except ValueError as error:
            raise DataError(
                f"{directory / 'results.json'} is damaged ({first_line(error)}); move it away, and the same command "
                f"tests the run again"
            ) from error
    source = run.train.init_from
    if source is not None and not (directory / "checkpoints").exists() and not (Path(source) / "checkpoints").is_dir():
        raise no_run(Path(source))  # before there is anything of this run
    clock = Clock()
    data = {"train": run.tasks.load("train"), "val": run.eval_tasks.load("val"), "test": run.eval_tasks.load("test")}
    tasks = {"train": run.tasks, "val": run.eval_tasks, "test": run.eval_tasks}
    separate = separation.check(tasks, data)
    data = {"train": data["train"], "val": data["val"], "eval": data[run.eval.split]}
    net, eval_net = nets(run)
    shapes = engine.check_shapes(run.learner, net, run.tasks, data["train"])
    engine.check_shapes(run.eval_learner, eval_net, run.eval_tasks, data["eval"], shapes)

    mesh = run.hardware.set_up(run.train.meta_batch)
    open_log(directory)
    write_atomically(directory / "config.yaml", yaml.safe_dump(run.config, sort_keys=False))
    stop.how_to_go_on = f"metarun run.dir={directory}"
    on_devices = NamedSharding(mesh, P())
    data = jax.device_put(data, on_devices)
    state = programs(run, mesh, 1).start(data["train"], run.numbers, engine.stream(run.train.seed, engine.INIT))
    state = jax.device_put(state, on_devices)
    checkpoints = Checkpoints(directory / "checkpoints")
    host: dict[str, Any] = {
        "best": None,
        "seconds": 0.0,
        "command": " ".join(["metarun", *sys.argv[1:]]),
        "unvalidated": False,  # whether the validation due at this meta-step was cut short
    }
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
    metrics_file = MetricsFile(directory / "metrics.jsonl", step, "val" if host["unvalidated"] else None)
    tracker = run.logger.open(directory, run.config, run.info.name, run.info.tags)
    if separate and separate["duplicate_examples_across_splits"]:
        some = "; ".join(" = ".join(places) for places in separate["duplicates"][:3])
        log.warning(f"{separate['duplicate_examples_across_splits']} examples stand in two splits alike: {some}")
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
        stop.unsaved = True
        return done

    k_eval = engine.stream(run.eval.seed, engine.EVAL)

    def evaluate(
        params: PyTree, split: str, episodes: int, inner_steps: int | None = None, run: Run = run
    ) -> Evaluation:
        nonlocal eval_chunk
        numbers = run.numbers["eval_learner"]
        found, eval_chunk = until_it_fits(
            run, mesh, eval_chunk,
            lambda programs: programs.evaluate(
                params, data[split], episodes, k_eval, numbers, inner_steps, pause=stop.check
            ),
        )  # fmt: skip
        return found

    def by_steps(params: PyTree, run: Run = run) -> dict[str, Evaluation]:
        """The final test after each number of inner steps, for learners that have such."""
        counts = run.eval.inner_steps if hasattr(run.eval_learner, "inner_steps") else ()
        return {str(n): evaluate(params, "eval", run.eval.episodes, n, run) for n in counts}

    def row(step: int, split: str, metrics: dict[str, float]) -> None:
        metrics_file.write(step, split, metrics)
        tracker.row(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def finish(call: Call) -> None:
        """All that the host has to do about a call, while the devices are at the next one."""
        step = call.step
        report = jax.device_get(call.report)
        clock.arrived(call.steps)
        if report.stopped:
            raise NotFinite(nonfinite.keep(run, state, report.metrics))
        summed = int(report.summed) or math.nan  # a mean over nothing is no number
        metrics = {name: float(value) / summed for name, value in report.sums.items()}
        bar.update(step, clock.rate, clock.rate * run.train.meta_batch, metrics)
        if is_due(run, step, "log_every"):
            since = step % run.train.period("log_every") or run.train.period("log_every")
            if skipped := since - int(report.summed):
                log.warning(f"{skipped} of the last meta-steps had no finite gradient, and changed nothing")
            row(step, "train", metrics | ({"skipped": skipped} if skipped else {}))
            log.debug(
                f"meta-step {step}/{run.train.steps}  {words(metrics)}  {clock.rate:.1f} meta-steps/s  "
                f"{clock.rate * run.train.meta_batch:.0f} tasks/s  {clock.left(run.train.steps - step)} left"
            )
        if call.kept is not None:
            look_after(call.kept, step, call.last)
            clock.interrupted()

    def look_after(kept: State, step: int, last: bool) -> None:
        """Validates a state and saves it, each if it is time to."""
        if is_due(run, step, "eval_every"):
            host["unvalidated"] = True
            try:
                validate(kept, step)
            except Interrupted:
                save(kept)
                raise
            host["unvalidated"] = False
        # With every new best too, so that what `last` says of the best is what `best` holds.
        is_best = host["best"] is not None and host["best"]["step"] == step
        if is_due(run, step, "save_every") or is_best or last:
            save(kept)

    def validate(kept: State, step: int) -> None:
        figures = evaluate(kept.params, "val", run.eval.val_episodes).figures
        means = {name: figure["mean"] for name, figure in figures.items()}
        row(step, "val", means)
        shown = {name: means[name] for name in kept.sums if name in means}
        better = is_better(figures, host["best"], run.tasks.metric)
        log.info(f"meta-step {step}/{run.train.steps}  validation  {words(shown)}{'  (best)' if better else ''}")
        if better and (digest := checkpoints.save_best(step, kept.params)) is not None:
            host["best"] = {"step": step, "digest": digest, **figures[run.tasks.metric]}

    def save(kept: State) -> None:
        if int(kept.step) not in (checkpoints.whole, checkpoints.writing):
            host["seconds"] = earlier + clock.since_start()
            checkpoints.save(kept, host)

    call: Call | None = None
    summary: dict[str, float] = {}
    try:
        if host["unvalidated"]:
            look_after(state, step, last=False)
        with Bar(run.train.steps, step) as bar:
            while step < run.train.steps and not stop.asked:
                n = min(boundary(run, step) - step, clock.steps_per_call())
                state, report = advance(state, n)
                step += n
                if is_due(run, step, "log_every"):
                    zeros = jax.tree.map(jnp.zeros_like, (state.sums, state.summed))
                    state = state._replace(sums=zeros[0], summed=zeros[1])
                if call is not None:
                    finish(call)
                # The state's memory goes into the next call: what the host has to do with it, it does with a copy.
                # A CPU waits for the state to copy it: this comes once the report before has arrived and been timed.
                copied = is_due(run, step, "eval_every") or is_due(run, step, "save_every")
                call = Call(step, n, report, jax.tree.map(jnp.copy, state) if copied else None, last=False)
            if call is not None:
                finish(call._replace(kept=state, last=True))
        if step < run.train.steps:
            save(state)
            raise Interrupted
        checkpoints.wait()
        stop.unsaved = checkpoints.unsaved is not None

        best = host["best"]
        use_best = run.eval.state == "best" and best is not None
        params = checkpoints.restore_best(best, state.params) if use_best else state.params
        tested = evaluate(params, "eval", run.eval.episodes)
        after = by_steps(params)
        by_shots = {}
        for shots in run.eval.shots:
            other = dataclasses.replace(run, eval_tasks=with_shots(run.eval_tasks, shots))
            by_shots[str(shots)] = (evaluate(params, "eval", run.eval.episodes, run=other), by_steps(params, other))
        found = results.summary(
            run,
            figures=tested.figures,
            by_inner_steps={n: found.figures for n, found in after.items()},
            by_shots={
                shots: {"figures": found.figures, "by_inner_steps": {n: one.figures for n, one in steps.items()}}
                for shots, (found, steps) in by_shots.items()
            },
            used={"state": "best", **best} if use_best else {"state": "last", "step": step},
            state=state,
            mesh=mesh,
            task_chunk=task_chunk,
            separation=separate,
            clock=clock,
            command=host["command"],
            seconds=earlier + clock.since_start(),
        )
        summary = {f"{run.eval.split}/{name}": figure["mean"] for name, figure in tested.figures.items()}
    except Interrupted:
        checkpoints.wait()
        if checkpoints.unsaved is not None:
            raise NotWritten(f"stopped, and {not_saved(checkpoints)}", None) from None
        raise Interrupted(
            f"stopped and saved at meta-step {checkpoints.whole} of {run.train.steps}; "
            f"go on with: metarun run.dir={directory}"
        ) from None
    finally:
        checkpoints.close()
        lost = metrics_file.close()
        tracker.close(summary)
    try:
        answers.keep(run, directory, data["eval"], k_eval, tested.answers, after["0"].answers if "0" in after else None)
    except OSError as error:
        lost.append(f"examples.npz cannot be written ({error.strerror})")
    try:
        write_atomically(directory / "results.json", json.dumps(finite(found), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        lost.append(f"results.json cannot be written ({error.strerror})")
    if checkpoints.unsaved is not None:
        lost.append(not_saved(checkpoints))
    if lost:
        raise NotWritten(f"{directory}: {'; '.join(lost)}", found)
    return found


def not_saved(checkpoints: Checkpoints) -> str:
    newest = "nothing is saved" if checkpoints.whole is None else f"the newest checkpoint is of {checkpoints.whole}"
    return f"the last state cannot be saved ({checkpoints.unsaved}); {newest}"


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
