"""A search's study, as Optuna keeps it in the sweep's directory: one writer at a time, a trial has its job's number.

Imports Optuna, so it is imported only once that is known to be there.
"""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from metarun.core import ConfigError
from metarun.sweep.objective import Direction
from metarun.sweep.space import Space
from metarun.text import first_line

optuna.logging.set_verbosity(optuna.logging.ERROR)

# A journal: each change is a line more, on the disk before it counts, and a state is what all lines come to. A process
# that is killed (-9) can leave its last line cut off, which `mended` takes away, and nothing half changed before it.
# SQLite would do as well on a disk of the machine's own, and not on many that machines share, where its locks fail.
JOURNAL = "optuna.journal"
NAME = "metarun"
ATTEMPTS = 20  # at settings that no trial had, before one is looked for
STARTUP = 5  # trials that are finished before one is pruned
WARMUP = 0.2  # of its meta-steps that a trial has before it is pruned


def opened(directory: Path, direction: Direction) -> Study:
    """The study in a sweep's directory, which this process has for itself; a new one if there is none.

    Raises ConfigError for a journal that was damaged otherwise than by a kill.
    """
    file = mended(directory / JOURNAL)
    try:
        return study_in(file, direction)
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # of lines that are none of Optuna's
        what = f"its {JOURNAL} is damaged ({first_line(error)}); put back a whole one, or name another directory"
        raise ConfigError("run.dir", directory, what) from error


def in_memory() -> Study:
    """A study of which nothing is kept."""
    return optuna.create_study(sampler=RandomSampler(0))


def study_in(file: Path, direction: Direction) -> Study:
    storage = JournalStorage(JournalFileBackend(str(file)))
    # Trials are drawn by `drawn`, so it needs no sampler; the pruner is another for each job.
    return optuna.create_study(
        storage=storage, study_name=NAME, direction=direction, sampler=RandomSampler(0), load_if_exists=True
    )


def mended(file: Path) -> Path:
    """A journal without the last line, if a kill has cut that off, and without the lock of who was killed."""
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("r+b") as open_file:
            open_file.truncate(content.rfind(b"\n") + 1)
    return file


def reopened(directory: Path, direction: Direction, numbers: Collection[int]) -> Study:
    """The study with these trials to be made anew, which Optuna itself has no way to do: another takes its place."""
    new = directory / f".{JOURNAL}.new"
    new.unlink(missing_ok=True)
    study = study_in(new, direction)
    for trial in opened(directory, direction).get_trials():
        if trial.number in numbers and trial.state.is_finished():
            trial = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
        study.add_trial(trial)
    new.replace(directory / JOURNAL)
    return opened(directory, direction)


def ask(study: Study, kind: str, seed: int, space: Space) -> Trial:
    """The next trial. What is drawn depends on the seed, its number and the trials before it alone.

    So a search that was killed goes on as it would have gone on.
    """
    number = begun(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if number == len(study.get_trials(deepcopy=False)):  # else it was killed after it had got so far
            study.enqueue_trial(drawn(study, kind, seed, number, space))
        trial = study.ask()
    space.suggested(trial)
    return trial


def drawn(study: Study, kind: str, seed: int, number: int, space: Space) -> dict[str, Any]:
    """What a trial has for each key: what none before it had, as the same settings come to the same."""
    if kind == "grid":
        return space.combination(number, seed)
    before = study.get_trials(deepcopy=False)
    made = {space.settings(trial.params) for trial in before if trial.params.keys() == space.searched.keys()}
    for attempt in range(ATTEMPTS):
        own = int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0])
        copy = optuna.create_study(direction=study.direction, sampler=sampler(kind, own))
        copy.add_trials(before)
        found = space.suggested(copy.ask())
        if space.settings(found) not in made:
            return found
    every = range(space.combinations() if space.is_finite() else 0)
    others = (space.combination(place, seed) for place in every)
    return next((one for one in others if space.settings(one) not in made), found)


def sampler(kind: str, seed: int) -> BaseSampler:
    return TPESampler(seed=seed) if kind == "tpe" else RandomSampler(seed=seed)


def begun(study: Study) -> int:
    """How many trials there are, however they ended, but for one that only waits to be asked for."""
    return sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def unfinished(study: Study) -> list[Trial]:
    """The trials that were begun and not ended, as they can be gone on with."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(study, trial._trial_id) for trial in trials]  # Optuna has no other way to one that is there


def report(trial: Trial, found: dict[int, float]) -> bool:
    """Tells a trial of its validations; whether there were any that it did not know."""
    known = frozen(trial).intermediate_values
    new = {step: value for step, value in found.items() if step not in known}
    for step, value in sorted(new.items()):
        trial.report(value, step)
    return bool(new)


def frozen(trial: Trial) -> FrozenTrial:
    """A trial as it stands in its study."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def should_prune(trial: Trial, kind: str, steps: int) -> bool:
    """Whether a trial of so many meta-steps is hopeless, by what it has reported."""
    trial.study.pruner = pruner(kind, steps)
    return trial.should_prune()


def pruner(kind: str, steps: int) -> BasePruner:
    if kind == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=int(WARMUP * steps))


def importance(study: Study) -> dict[str, float]:
    """How much of what trials came to is due to each key, the most first; nothing if there are too few to tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
    except (ValueError, RuntimeError, ImportError):
        return {}
    return {} if any(np.isnan(list(found.values()))) else found


def must_know(study: Study, numbers: Collection[int], directory: Path) -> None:
    """Raises ConfigError if jobs were made of which the study does not know."""
    if missing := sorted(set(numbers) - set(range(len(study.trials)))):
        raise ConfigError(
            "run.dir",
            directory,
            f"its {JOURNAL} lacks trial {missing[0]}, which jobs.jsonl has; name another directory",
        )
