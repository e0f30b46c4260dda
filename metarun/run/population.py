"""Several runs at work in one program: their meta-steps together, and for each of them what the host does for one.

Every member is a `Loop` with its own directory, files and tracker. A call of the program makes meta-steps of those that
are furthest behind, all of them as a rule: after a kill between two saves some have to catch up.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metarun import engine
from metarun.config import going_on
from metarun.config.run import Run
from metarun.core import ConfigError, PyTree, State
from metarun.run import begin as beginning
from metarun.run import ending, results
from metarun.run.announce import of_its_data, of_its_privacy
from metarun.run.begin import Begun, Opened, Shared
from metarun.run.clock import Clock
from metarun.run.log import FAILED, in_log_file, open_log, speaking, words
from metarun.run.loop import Call, Loop
from metarun.run.meta_test import Tested
from metarun.run.nonfinite import NotFinite
from metarun.run.status import AGAIN, Status
from metarun.run.stop import Interrupted, Stop
from metarun.run.train import NotWritten, write
from metarun.run.transfer import must_have_a_source, source_of
from metarun.run.watch import Watch
from metarun.text import first_line

log = logging.getLogger("metarun")


class Together(NamedTuple):
    """A call to the devices, until the host has dealt with what came of it. `Call` is a member's part of it."""

    step: int  # meta-steps that its members have done after it
    steps: int  # in it
    who: list[int]  # its members
    report: engine.Report  # stacked, as is the next
    kept: State | None


class Population:
    """Runs that share a program."""

    def __init__(
        self,
        runs: Sequence[Run],
        directory: Path,
        stop: Stop,
        watch: Watch,
        status: Status,
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        """Loads what they share, and makes each ready. Raises ConfigError and DataError.

        `begun` is called once all of their directories have their configurations.
        """
        self.stop, self.watch, self.status, self.first = stop, watch, status, runs[0]
        for run in runs:
            must_have_a_source(run)
        status.at("loading the data")
        loaded = beginning.load(self.first)
        mesh = self.first.hardware.set_up(self.first.train.meta_batch)
        sources = [source_of(run, mesh, loaded.data["train"]) for run in runs]
        open_log(directory, *(Path(run.info.dir) for run in runs))
        status.opened()
        opened = [
            beginning.open_directory(run, mesh, loaded, source) for run, source in zip(runs, sources, strict=True)
        ]
        begun()
        stop.how_to_go_on = going_on(directory)
        watch.saved = lambda: beginning.saved_in_words(self.first, directory, saved_by_all(opened))
        watch.at("placing the data on the devices")
        self.shared = beginning.place(self.first, loaded, mesh)
        must_be_on_devices(self.first, self.shared)
        watch.at("the first states")
        status.at("preparing the first states")
        self.members = [
            Loop(run, stop, watch, status, partial(go_on, one, self.shared))
            for run, one in zip(runs, opened, strict=True)
        ]
        self.mesh = engine.of_members(mesh, len(runs))
        self.task_chunk = chunk(self.first, self.mesh, loaded.data["train"], len(runs))
        for member in self.members:
            member.task_chunk = self.task_chunk
        self.state = engine.stacked([member.state for member in self.members], self.mesh)
        self.fixed = [
            engine.stacked(trees, self.mesh)
            for trees in ([run.numbers for run in runs], [member.k_train for member in self.members])
        ]
        self.steps = np.array([member.step for member in self.members], np.int32)
        self.live = list(range(len(runs)))  # those that have not failed
        self.failed: dict[int, str] = {}  # why the others have
        self.tested: dict[int, Tested] = {}
        self.compiled = False
        announce(self)

    def meta_train(self) -> None:
        """All meta-steps that are left. Raises Interrupted, with all saved."""
        period, total = self.first.train, self.first.train.steps
        call: Together | None = None
        for member in self.members:
            if member.host["unvalidated"]:
                with speaking(member.directory):
                    member.look_after(member.state, member.step, last=False)
        while self.live and not self.stop.asked and (step := int(self.steps[self.live].min())) < total:
            who = [i for i in self.live if self.steps[i] == step]
            ahead = [int(self.steps[i]) - step for i in self.live if self.steps[i] > step]
            n = min(period.next_due(step) - step, self.members[who[0]].clock.steps_per_call(), *ahead)
            report = self.advance(who, step, n)
            self.steps[who] += n
            step += n
            if call is not None:
                self.finish(call)
            if period.is_due(step, "log_every"):
                self.state = engine.at_zero(self.state, self.mask(who))
            copied = period.is_due(step, "eval_every") or period.is_due(step, "save_every")
            call = Together(step, n, who, report, engine.copied(self.state) if copied else None)
        if call is not None:
            members, mesh = len(self.members), self.shared.mesh
            together = engine.programs(self.first.shape, mesh, self.task_chunk).together(members)
            given = (self.state, self.shared.data["train"], *self.fixed, np.zeros(members, np.int32))
            gflop = engine.gflop(together, mesh, *given)
            for member in self.members:
                member.host["gflop_per_meta_step"] = gflop and gflop / members
            self.finish(call._replace(kept=self.state), last=True)
        if self.live and self.steps[self.live].min() < total:
            raise Interrupted
        final = jax.device_get(self.state)
        for i, member in enumerate(self.members):
            member.checkpoints.wait()
            member.state, member.step = engine.placed(engine.cut(final, i), self.shared.mesh), int(self.steps[i])
        self.stop.unsaved = any(self.members[i].checkpoints.unsaved is not None for i in self.live)

    def advance(self, who: list[int], step: int, n: int) -> engine.Report:
        """n meta-steps further with these members, not waited for: but for the first time, as of a single run."""
        self.watch.at(f"meta-steps {step + 1} to {step + n}")
        data, fixed = self.shared.data["train"], (*self.fixed, n * self.mask(who).astype(np.int32))
        shape, members = self.first.shape, len(self.members)
        if self.compiled:
            together = engine.programs(shape, self.shared.mesh, self.task_chunk).together(members)
            self.state, report = engine.send(together, self.state, data, *fixed)
            return report
        self.status.at("compiling the meta-steps")
        kept = [engine.cut(jax.device_get(self.state), i) for i in range(members)]

        def first(programs: engine.Programs) -> tuple[State, engine.Report]:
            state, together = engine.stacked(kept, self.mesh), programs.together(members)
            engine.must_fit(together, self.shared.mesh, state, data, *fixed)
            return engine.send(together, state, data, *fixed)

        allowed = engine.sizes(shape.meta_batch, self.mesh)
        (self.state, report), self.task_chunk = engine.until_it_fits(
            shape, self.shared.mesh, self.task_chunk, allowed, first
        )
        for member in self.members:
            member.clock.compiled()
            member.task_chunk = self.task_chunk
        self.members[0].compile_evaluations()
        self.compiled = self.stop.unsaved = True
        return report

    def finish(self, call: Together, last: bool = False) -> None:
        """What `Loop.finish` does about its part of a call, for each of its members.

        One that is not finite fails by itself. Raises Interrupted once all of them are saved.
        """
        report, kept = jax.device_get((call.report, call.kept))
        who = [i for i in call.who if i in self.live]
        states = {} if kept is None else {i: engine.placed(engine.cut(kept, i), self.shared.mesh) for i in who}
        sums: list[dict[str, float]] = []
        interrupted = False
        for i in who:
            member, own = self.members[i], engine.cut(report, i)
            if i != who[0]:  # what the first one does about its report is no time of the devices
                member.clock.as_of(self.members[who[0]].clock)
            if own.stopped:  # in the calls that are already on their way it stays as it is
                member.state = engine.cut(jax.device_get(self.state), i)
            try:
                with speaking(member.directory):
                    member.finish(Call(call.step, call.steps, own, states.get(i), due=True), last)
            except NotFinite as error:
                self.fails(i, str(error))
            except Interrupted:
                interrupted = True
            else:
                sums.append({name: float(value) / (int(own.summed) or math.nan) for name, value in own.sums.items()})
        if interrupted:
            for i in who:
                if i in self.live:
                    self.members[i].save(states[i])
            raise Interrupted
        if sums:
            self.tell(call.step, sums, self.members[who[0]].clock)

    def tell(self, step: int, sums: list[dict[str, float]], clock: Clock) -> None:
        """Where all of them are: their mean metrics."""
        train = self.first.train
        metrics = {name: float(np.mean([one[name] for one in sums])) for name in sums[0]}
        line = f"{words(metrics)}{clock.speed(train.meta_batch, train.steps - step)}"
        self.status.at("meta-steps", train.steps, step, line, quiet=AGAIN)
        if train.is_due(step, "log_every"):
            log.debug(f"meta-step {step}/{train.steps}  mean of {len(sums)}: {line}")
            self.status.heard()
        bests = [self.members[i].host["best"] for i in self.live]
        if train.is_due(step, "eval_every") and all(bests):
            mean, metric = np.mean([best["mean"] for best in bests]), self.first.tasks.metric
            log.info(
                f"meta-step {step}/{train.steps}  best validation so far, mean of {len(bests)}: {metric} {mean:.4f}"
            )

    def fails(self, i: int, why: str) -> None:
        """A member goes no further, and the others do."""
        self.live.remove(i)
        self.failed[i] = why
        directory = self.members[i].directory
        with speaking(directory):
            log.warning(f"failed: {why}")
        in_log_file(directory, f"{FAILED}{first_line(RuntimeError(why))}")

    def mask(self, who: Sequence[int]) -> np.ndarray:
        """(members,) bool: whether each is one of these."""
        return np.isin(np.arange(len(self.members)), who)

    def test(self) -> None:
        """Tests and writes down each member. Raises Interrupted."""
        for i in list(self.live):
            member = self.members[i]
            with speaking(member.directory):
                tested, used = member.test()
                found = results.summary(member, tested, used)
                found["speed"]["members"] = len(self.members)  # of the program that was as fast as it is said there
                self.tested[i] = tested
                try:
                    write(member, found, tested)
                except NotWritten as error:
                    self.fails(i, str(error))

    def close(self) -> None:
        """Waits until all is written that can be, and for the trackers."""
        for i, member in enumerate(self.members):
            with speaking(member.directory):
                run, best = member.run, member.host["best"]
                member.close(ending.summary(run.eval.split, run.tasks.metric, best, self.tested.get(i)))


def go_on(opened: Opened, shared: Shared, run: Run, stop: Stop, watch: Watch, status: Status, clock: Clock) -> Begun:
    """What `begin` makes ready, of one member."""
    with speaking(opened.directory):
        begun = beginning.go_on(run, opened, shared, status, lambda *_: 1)  # all together: see Population
    clock.started()
    return begun


def must_be_on_devices(run: Run, shared: Shared) -> None:
    if engine.is_on_host(shared.data["train"]):
        raise ConfigError(
            "hardware.data",
            run.hardware.data,
            "the examples stay on the host, a part at a time for the meta-steps of one run: metarun -m makes the runs "
            "one after another, and hardware.data=device places them all the same",
        )


def chunk(run: Run, mesh: Mesh, data: PyTree, members: int) -> int:
    """How many tasks of each run a device computes at once."""
    rows, tasks = mesh.shape.get("members", 1), run.train.meta_batch // mesh.shape["tasks"]
    size, platform = engine.episode_size(run.tasks, data), mesh.devices.flat[0].platform
    return run.hardware.chunk_of_members(tasks, size, platform, members // rows)


def announce(population: Population) -> None:
    """What the runs are, in a line, here and in the log of each; what of their data is left out or doubled."""
    run, mesh = population.first, population.mesh
    for line in of_its_data(run, beginning.separations(population.shared)):
        log.warning(line)
    if private := of_its_privacy(run, population.shared.data["train"]):
        log.info(private)
    parameters = engine.size_of(run.learner, population.members[0].state.params)
    line = (
        f"{run.info.name}: {len(population.members)} runs of {parameters:,} parameters in one program, "
        f"{run.train.meta_batch} tasks a meta-step of each in chunks of {population.task_chunk} on {mesh.size} "
        f"{mesh.devices.flat[0].platform} device(s)"
    )
    log.info(line)
    for member in population.members:
        with speaking(member.directory):
            log.info(line)


def saved_by_all(opened: Sequence[Opened]) -> int | None:
    """The newest meta-step up to which all of them are saved; None if one of them is not."""
    steps = [one.checkpoints.on_disk() for one in opened]
    known = [step for step in steps if step is not None]
    return min(known) if len(known) == len(steps) else None
