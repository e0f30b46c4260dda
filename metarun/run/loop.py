"""A run at work: meta-steps, rows, validations and saves, then the test."""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metarun import engine
from metarun.config.run import Run
from metarun.core import ConfigError, PyTree, State, rises
from metarun.run import nonfinite
from metarun.run.answers import EPISODES
from metarun.run.begin import Begun, begin
from metarun.run.clock import Clock
from metarun.run.domains import on
from metarun.run.log import words
from metarun.run.meta_test import Tested, all_tests, everywhere, of_its_classes
from metarun.run.status import AGAIN, Status
from metarun.run.stop import Interrupted, Stop
from metarun.run.watch import Watch

log = logging.getLogger("metarun")


Ready = Callable[[Run, Stop, Watch, Status, Clock], Begun]


class OutOfTime(ConfigError):
    """run.max_minutes was over before the process came any further, and so it would be in the next one."""


class Call(NamedTuple):
    """A call to the devices, from when it is sent until the host has dealt with what came of it."""

    step: int  # meta-steps done after it
    steps: int  # in it
    report: engine.Report
    kept: State | None  # the state after it, where the host has something to do with it
    due: bool  # it is to be validated or saved


class Loop:
    """A run at work: what is on the devices, and what the host keeps of it."""

    def __init__(self, run: Run, stop: Stop, watch: Watch, status: Status, make_ready: Ready = begin) -> None:
        """With all that `begin` makes ready."""
        self.run, self.stop, self.watch, self.status, self.clock = run, stop, watch, status, Clock()
        begun = make_ready(run, stop, watch, status, self.clock)
        self.directory, self.checkpoints = begun.opened.directory, begun.opened.checkpoints
        self.mesh, self.data, self.separation, self.domains, self.eval_chunk = begun.shared
        self.parts, self.task_chunk = begun.parts, begun.task_chunk
        self.k_train, self.k_eval = begun.k_train, begun.k_eval
        self.state, self.host, self.step = begun.state, begun.host, int(begun.state.step)
        self.began = (self.step, self.host["unvalidated"])
        self.seconds_before = self.host["seconds"]
        self.evaluated: set[tuple[engine.Shape, str]] = set()  # what evaluations are compiled for
        self.metrics_file, self.tracker = begun.metrics_file, begun.tracker
        self.newest: State | None = None  # of several processes: what can be saved when another has gone

    @property
    def programs(self) -> engine.Programs:
        """Those of the evaluation, as large as its chunks are by now."""
        return engine.programs(self.run.shape, self.mesh, self.eval_chunk)

    @property
    def is_further(self) -> bool:
        """Whether this process has made a meta-step or finished a validation: the next one begins further on."""
        return (self.step, self.host["unvalidated"]) != self.began

    def out_of_time(self) -> OutOfTime:
        """What to raise where it is not, and the time is over."""
        if self.host["unvalidated"]:
            why = "the validation alone takes longer"
        elif self.step < self.run.train.steps:
            why = "was over before the first meta-step"
        else:
            why = "the test alone takes longer"
        return OutOfTime("run.max_minutes", self.run.info.max_minutes, f"{why}; give it more")

    def meta_train(self) -> None:
        """All meta-steps that are left. Raises Interrupted, with all saved, or NotFinite."""
        period, steps = self.run.train, self.run.train.steps
        call: Call | None = None
        if self.host["unvalidated"]:
            self.look_after(self.state, self.step, last=False)
        while self.step < steps:
            data, most = self.parts.at(self.step)
            n = min(period.next_due(self.step) - self.step, self.clock.steps_per_call(), most)
            n = engine.hosts.agreed(0 if self.stop.asked else n)
            if n == 0:
                break
            report = self.advance(data, n)
            self.step += n
            if call is not None:
                self.finish(call)
            # A CPU waits for the state to change or copy it: once the report before has arrived and been timed.
            if period.is_due(self.step, "log_every"):
                self.state = engine.sums_at_zero(self.state)
            # The state's memory goes into the next call: what the host has to do with it, it does with a copy.
            due = period.is_due(self.step, "eval_every") or period.is_due(self.step, "save_every")
            # Of several processes one may be gone at any time, and with it the state that a call was given.
            kept = engine.copied(self.state) if due or engine.hosts.are_several() else None
            call = Call(self.step, n, report, kept, due)
        if call is not None:
            meta_steps = engine.programs(self.run.shape, self.mesh, self.task_chunk).meta_steps
            given = (self.state, data, self.run.numbers, self.k_train, np.int32(1))
            self.host["gflop_per_meta_step"] = engine.gflop(meta_steps, self.mesh, *given)
            self.finish(call._replace(kept=self.state, due=True), last=True)
        if self.step < steps:
            self.save(self.state)
            raise Interrupted
        self.checkpoints.wait()
        self.stop.unsaved = self.checkpoints.unsaved is not None

    def advance(self, data: PyTree, n: int) -> engine.Report:
        """n meta-steps further, not waited for: but for the first time, when memory may turn out too small."""
        self.watch.at(f"meta-steps {self.step + 1} to {self.step + n}")
        shape, fixed = self.run.shape, (data, self.run.numbers, self.k_train, np.int32(n))
        if self.clock.compile_s is not None:
            meta_steps = engine.programs(shape, self.mesh, self.task_chunk).meta_steps
            self.state, report = engine.send(meta_steps, self.state, *fixed)
            return report
        self.status.at("compiling the meta-steps")
        kept = jax.device_get(self.state)  # a call takes the state's memory, and what fails gives nothing back

        def first(programs: engine.Programs) -> tuple[State, engine.Report]:
            state = engine.placed(kept, self.mesh)
            engine.must_fit(programs.meta_steps, self.mesh, state, *fixed)
            return engine.send(programs.meta_steps, state, *fixed)

        allowed = engine.sizes(shape.meta_batch, self.mesh)
        (self.state, report), self.task_chunk = engine.until_it_fits(shape, self.mesh, self.task_chunk, allowed, first)
        self.clock.compiled()
        self.compile_evaluations()
        self.stop.unsaved = True
        return report

    def compile_evaluations(self) -> None:
        """In a thread of its own, while meta-steps are made: what validates, what tests, and what draws examples.

        Not beside the meta-steps' own compilation: that takes all cores, and most of the memory that a run ever needs.
        """
        params = jax.tree.map(engine.shape_of, self.state.params)  # the state's memory goes into the next call
        programs: list[tuple[engine.Program, tuple[Any, ...]]] = []
        tests = [(self.run, self.data["eval"])]
        tests += [(on(self.run, name), self.there(name, ahead=True)) for name in self.domains]
        of_tests = [
            (run, "eval", of_its_classes(run, of, data, self.mesh)) for of, data in tests for run in all_tests(of)
        ]
        for run, split, data in [(self.run, "val", self.data["val"]), *of_tests]:
            evaluate = engine.programs(run.shape, self.mesh, self.eval_chunk).evaluate
            data = evaluate.stand_in(data)
            given = (data, self.k_eval[split], run.numbers["eval_learner"], run.other_steps)
            programs.append((evaluate.program, evaluate.arguments(params, *given)))
        kept = min(EPISODES, self.run.eval.episodes)
        index = jax.ShapeDtypeStruct((kept,), np.int32)
        data = engine.stand_in(self.run.eval_tasks, self.data["eval"], 1, kept)
        engine.ahead(*programs, (self.programs.sample, (data, self.k_eval["eval"], index)))

    def finish(self, call: Call, last: bool = False) -> None:
        """All that the host has to do about a call, while the devices are at the next one, if it is not the last."""
        step, train, clock = call.step, self.run.train, self.clock
        report = jax.device_get(call.report)
        clock.arrived(call.steps)
        if report.stopped:
            raise nonfinite.NotFinite(nonfinite.keep(self.run, self.state, report.metrics))
        summed = int(report.summed) or math.nan  # a mean over nothing is no number
        metrics = {name: float(value) / summed for name, value in report.sums.items()}
        speed = clock.speed(train.meta_batch, train.steps - step)
        self.status.at("meta-steps", train.steps, step, f"{words(metrics)}{speed}", quiet=AGAIN)
        if train.is_due(step, "log_every"):
            if skipped := step - self.host["logged"] - int(report.summed):
                log.warning(f"{skipped} of the last meta-steps had no finite gradient, and changed nothing")
            self.row(step, "train", metrics | ({"skipped": skipped} if skipped else {}))
            self.host["logged"] = step
            log.debug(f"meta-step {step}/{train.steps}  {words(metrics)}{speed}")
            self.status.heard()
        self.newest = call.kept
        if call.kept is not None and call.due:
            self.look_after(call.kept, step, last)
            clock.interrupted()
            self.status.at("meta-steps", train.steps, step, quiet=AGAIN)

    def look_after(self, kept: State, step: int, last: bool) -> None:
        """Validates a state and saves it, each if it is time to.

        A validation that was broken off is made good: then the state is on disk, and what is known of the best is not.
        """
        broken_off = self.host["unvalidated"]
        if self.run.train.is_due(step, "eval_every"):
            self.host["unvalidated"] = True
            try:
                self.validate(kept, step)
            except Interrupted:
                self.save(kept)
                raise
        self.host["unvalidated"] = False
        if broken_off:
            self.host["seconds"] = self.seconds()
            self.checkpoints.amend(self.host)
        # With every new best too, so that what `last` says of the best is what `best` holds.
        is_best = self.host["best"] is not None and self.host["best"]["step"] == step
        if self.run.train.is_due(step, "save_every") or is_best or last:
            self.save(kept)

    def validate(self, kept: State, step: int) -> None:
        run, best = self.run, self.host["best"]
        n = run.eval.val_episodes
        figures = self.evaluate(
            run, kept.params, "val", self.data["val"], n, lambda done: self.status.at("validation episodes", n, done)
        )[0].figures
        means = {name: figure["mean"] for name, figure in figures.items()}
        self.row(step, "val", means)
        shown = {name: means[name] for name in kept.sums if name in means}
        better = is_better(figures, best, run.tasks.metric)
        log.info(f"meta-step {step}/{run.train.steps}  validation  {words(shown)}{'  (best)' if better else ''}")
        digest = self.checkpoints.save_best(step, kept.params) if better else None
        if (digest := engine.hosts.agreed(digest)) is not None:
            self.host["best"] = {"step": step, "digest": digest, **figures[run.tasks.metric]}

    def save(self, kept: State) -> None:
        if int(kept.step) not in (self.checkpoints.whole, self.checkpoints.writing):
            self.host["seconds"] = self.seconds()
            self.host["steps_per_s"] = self.clock.mean_rate() or self.host["steps_per_s"]
            self.checkpoints.save(kept, self.host)

    def rescue(self) -> None:
        """Saves the newest state there is, after another process has gone. Not twice."""
        newest, self.newest = self.newest, None
        if newest is not None and engine.hosts.is_first():
            self.save(newest)
            self.checkpoints.wait()

    def seconds(self) -> float:
        """How long the run has taken, in all processes that were at it."""
        return self.seconds_before + self.clock.since_start()

    def row(self, step: int, split: str, metrics: dict[str, float]) -> None:
        self.metrics_file.write(step, split, metrics)
        self.tracker.row(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def evaluate(
        self, run: Run, params: PyTree, split: str, data: PyTree, episodes: int, progress: Callable[[int], None]
    ) -> list[engine.Evaluation]:
        """The validation ("val") or the test ("eval") of `run`, the run itself or it with other test tasks.

        As `engine.programs` has them; `data` as `engine.held`. `progress` is told how many episodes are done. Raises
        Interrupted.
        """
        given = (data, episodes, self.k_eval[split], run.numbers["eval_learner"])
        after = run.other_steps if split == "eval" else None

        def pause(done: int) -> None:
            self.watch.at("validation" if split == "val" else "the test")
            self.stop.check()
            progress(done)

        def attempt(programs: engine.Programs) -> list[engine.Evaluation]:
            pause(0)
            if (run.shape, split) not in self.evaluated:
                self.status.at("compiling the validation" if split == "val" else "compiling the test")
            return programs.evaluate(params, *given, after, pause=pause)

        allowed = range(1, self.eval_chunk)
        found, self.eval_chunk = engine.until_it_fits(run.shape, self.mesh, self.eval_chunk, allowed, attempt)
        self.evaluated.add((run.shape, split))
        return found

    def test(self) -> tuple[Tested, dict[str, Any]]:
        """The final test of the best state or the last, and which one that was. Raises Interrupted."""
        best, episodes = self.host["best"], self.run.eval.episodes
        use_best = self.run.eval.state == "best" and best is not None
        params = self.state.params
        if use_best:
            of_best = self.checkpoints.restore_best(best, params)
            params = engine.placed(engine.hosts.of_process_0(of_best), self.mesh)
        used = {"state": "best", **best} if use_best else {"state": "last", "step": self.step}

        def evaluate(
            run: Run, loaded_for: Run, elsewhere: PyTree, progress: Callable[[int], None]
        ) -> list[engine.Evaluation]:
            data = of_its_classes(run, loaded_for, self.data["eval"] if elsewhere is None else elsewhere, self.mesh)
            return self.evaluate(run, params, "eval", data, episodes, progress)

        return everywhere(self.run, self.status, evaluate, self.there), used

    def there(self, name: str, ahead: bool = False) -> PyTree:
        """The data of another domain, as `engine.held`."""
        domain = {name: (self.run.domains[name], self.domains[name].data)}
        return engine.held(self.run.hardware.data, domain, self.mesh, ahead)[name]

    def close(self, summary: dict[str, float]) -> None:
        """Waits until all is written that can be."""
        self.status.at("saving")
        self.checkpoints.close()
        self.metrics_file.close()
        self.tracker.close(summary)


def is_better(figures: engine.Figures, best: dict[str, Any] | None, metric: str) -> bool:
    """Whether validation's figures beat the best so far: more accuracy or return, or less error."""
    now = figures[metric]["mean"]
    if best is None:
        return math.isfinite(now)
    return now > best["mean"] if rises(metric) else now < best["mean"]
