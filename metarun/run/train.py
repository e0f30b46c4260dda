"""From a checked configuration to a tested result: `train`. Its loop is metarun.run.loop."""

import json
from pathlib import Path
from typing import Any

from metarun import engine
from metarun.config import going_on
from metarun.config.run import Run
from metarun.core import DataError
from metarun.files import write_atomically
from metarun.run import answers, earlier, ending, results, team
from metarun.run.lock import only_process_in
from metarun.run.log import FAILED, STOPPED, close_log, in_log_file
from metarun.run.loop import Loop
from metarun.run.meta_test import Tested
from metarun.run.nonfinite import NotFinite
from metarun.run.status import Status
from metarun.run.stop import Interrupted, Stopping, raising_on_interrupt, stop_on_signals
from metarun.run.terminal import say
from metarun.run.watch import watched
from metarun.text import first_line

__all__ = ["Interrupted", "NotFinite", "NotWritten", "close_log", "raising_on_interrupt", "train"]


class NotWritten(Exception):
    """The run is done, or stopped, and the disk did not take all that it leaves."""

    def __init__(self, message: str, found: dict[str, Any] | None) -> None:
        super().__init__(message)
        self.found = found  # the results, if the run is done


def train(run: Run, stopping: Stopping | None = None) -> dict[str, Any]:
    """Trains `run` (or goes on with it), tests it, and returns what stands in its results.json.

    Raises DataError or ConfigError before any device work, Interrupted when asked to stop (a signal that comes while
    nothing is unsaved ends the process, or what `stopping` makes of it), OutOfTime, NotFinite, NotWritten.
    """
    with team.joined(run) as (own, others):
        return at_work(own, others, stopping)


def at_work(run: Run, others: team.Others, stopping: Stopping | None) -> dict[str, Any]:
    """`train`, where all processes of the run are there."""
    directory = Path(run.info.dir)
    with (
        (stopping or stop_on_signals)(run.info.max_minutes) as stop,
        only_process_in(directory),
        watched(run.info.max_silent_minutes, directory / "stacks.txt") as watch,
        Status() as status,
    ):
        others.stop_with(stop)
        finished = earlier.has_figures(directory, run.config)
        if engine.hosts.agreed(finished):
            return engine.hosts.agreed(earlier_results(directory) if finished else {})
        try:
            loop = others.loop = Loop(run, stop, watch, status)
        except Exception as error:
            in_log_file(directory, f"{FAILED}{first_line(error)}")
            raise
        tested = None
        try:
            loop.meta_train()
            tested, used = loop.test()
            found = results.summary(loop, tested, used)
            write(loop, found, tested)
            return found
        except Interrupted:
            raise stopped(loop) from None
        except Exception as error:
            if not isinstance(error, NotFinite | NotWritten):
                others.give_up()
            in_log_file(directory, f"{FAILED}{first_line(error)}")
            raise
        finally:
            # The trackers may keep us waiting: the results are written before.
            loop.close(ending.summary(run.eval.split, run.tasks.metric, loop.host["best"], tested))


def earlier_results(directory: Path) -> dict[str, Any]:
    """The results of a run that is finished. Raises DataError if they are damaged."""
    say(f"{directory} is finished; its figures again:")
    try:
        found = json.loads((directory / "results.json").read_text())
        results.told_of(found, directory)
        return found
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = first_line(error) if isinstance(error, ValueError) else "it is not what a run writes"
        raise DataError(
            f"{directory / 'results.json'} is damaged ({why}); move it away, and the same command tests the run again"
        ) from error


def stopped(loop: Loop) -> Exception:
    """What to raise after Interrupted: it says from where the run can go on, if it came any further."""
    loop.checkpoints.wait()
    if engine.hosts.agreed(loop.stop.out_of_time and not loop.is_further):
        in_log_file(loop.directory, f"{FAILED}{first_line(error := loop.out_of_time())}")
        return error
    in_log_file(loop.directory, STOPPED)
    if loop.checkpoints.unsaved is not None:
        return NotWritten(f"stopped, and {not_saved(loop)}", None)
    several, again = engine.hosts.are_several(), f"go on with: {going_on(loop.directory)}"
    return Interrupted(
        f"stopped and saved at meta-step {loop.checkpoints.whole} of {loop.run.train.steps}; "
        f"{'the same commands go on' if several else again}"
    )


def write(loop: Loop, found: dict[str, Any], tested: Tested) -> None:
    """Writes the answers, then results.json: with it the run is done. Raises NotWritten with all that is lost."""
    lost = loop.metrics_file.close()
    try:
        answers.keep(loop.run, loop.directory, loop.programs.sample, loop.data["eval"], loop.k_eval["eval"], tested)
    except Exception as error:  # the figures stand, whatever becomes of the pictures
        lost.append(f"classes.json and examples.npz cannot be written ({first_line(error)})")
    try:
        text = json.dumps(found, indent=2, allow_nan=False) + "\n"
        write_atomically(loop.directory / "results.json", text)
    except OSError as error:
        lost.append(f"results.json cannot be written ({error.strerror})")
    if loop.checkpoints.unsaved is not None:
        lost.append(not_saved(loop))
    if lost:
        raise NotWritten(f"{loop.directory}: {'; '.join(lost)}", found)


def not_saved(loop: Loop) -> str:
    whole = loop.checkpoints.whole
    newest = "nothing is saved" if whole is None else f"the newest checkpoint is of {whole}"
    return f"the last state cannot be saved ({loop.checkpoints.unsaved}); {newest}"
