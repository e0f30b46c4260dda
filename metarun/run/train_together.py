"""Several runs in one program, from checked configurations to tested results: `train`. Their loop is `Population`."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from metarun.config import going_on
from metarun.config.population import must_agree
from metarun.config.run import Run
from metarun.run import earlier
from metarun.run.lock import only_process_in
from metarun.run.log import FAILED, STOPPED, in_log_file
from metarun.run.population import Population
from metarun.run.status import Status
from metarun.run.stop import Interrupted, Stopping, stop_on_signals
from metarun.run.train import NotWritten
from metarun.run.watch import watched
from metarun.text import first_line


def train(
    runs: Sequence[Run], directory: Path, stopping: Stopping | None = None, begun: Callable[[], object] = lambda: None
) -> dict[int, str]:
    """Trains and tests runs that share a program, or goes on with them. Returns why some failed, by their place.

    Those that are finished are left as they are. Raises DataError or ConfigError before any device work, and
    Interrupted.
    """
    left = [i for i, run in enumerate(runs) if not is_finished(run)]
    if not left:
        return {}
    own, info = [runs[i] for i in left], runs[0].info
    must_agree(own)
    with ExitStack() as open_:
        stop = open_.enter_context((stopping or stop_on_signals)(info.max_minutes))
        for place in (directory, *(Path(run.info.dir) for run in own)):
            open_.enter_context(only_process_in(place))
        watch = open_.enter_context(watched(info.max_silent_minutes, directory / "stacks.txt"))
        status = open_.enter_context(Status())
        try:
            population = Population(own, directory, stop, watch, status, begun)
        except Exception as error:
            for run in own:
                in_log_file(Path(run.info.dir), f"{FAILED}{first_line(error)}")
            raise
        try:
            population.meta_train()
            population.test()
        except Interrupted:
            raise stopped(population, directory) from None
        except Exception as error:
            for i in population.live:
                in_log_file(population.members[i].directory, f"{FAILED}{first_line(error)}")
            raise
        finally:
            status.at("saving")
            population.close()
    return {left[i]: why for i, why in population.failed.items()}


def is_finished(run: Run) -> bool:
    return earlier.has_figures(Path(run.info.dir), run.config)


def stopped(population: Population, directory: Path) -> Exception:
    """What to raise after Interrupted: it says from where the runs can go on, if they came any further."""
    further = population.compiled or population.tested or any(member.is_further for member in population.members)
    if population.stop.out_of_time and not further:
        return population.members[population.live[0]].out_of_time()
    unsaved = []
    for member in population.members:
        member.checkpoints.wait()
        in_log_file(member.directory, STOPPED)
        if member.checkpoints.unsaved is not None:
            unsaved.append(f"{member.directory} cannot be saved ({member.checkpoints.unsaved})")
    if unsaved:
        return NotWritten(f"stopped, and {'; '.join(unsaved)}", None)
    whole = min(population.members[i].checkpoints.whole or 0 for i in population.live or range(len(population.members)))
    return Interrupted(
        f"stopped and saved at meta-step {whole} of {population.first.train.steps}; go on with: {going_on(directory)}"
    )
