"""A run tested again, in another way if that is asked for, with nothing of the run touched."""

import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from metarun import engine
from metarun.config import PLACE
from metarun.config.resume import tested_otherwise
from metarun.config.run import Run, build_run
from metarun.core import ConfigError, PyTree
from metarun.run import domains, kept_tests, purpose, results, separation
from metarun.run.announce import of_its_data
from metarun.run.domains import OWN, Domain
from metarun.run.figures import episodes_in_short
from metarun.run.log import log_on_terminal
from metarun.run.loggers import without_key
from metarun.run.meta_test import Tested, everywhere, of_its_classes
from metarun.run.provenance import made_with
from metarun.run.purpose import Purpose
from metarun.run.restored import saved, stored
from metarun.run.separation import Part
from metarun.run.status import Status
from metarun.run.terminal import console, say


class Loaded(NamedTuple):
    """The data of a test, on the host, and how they are separate from training's."""

    train: PyTree
    test: PyTree
    separation: dict[str, Any] | None
    domains: dict[str, Domain]


class Known(NamedTuple):
    """What is to be tested where no run's directory tells it."""

    config: dict[str, Any]  # of the run that learned it, resolved
    params: PyTree  # on the host
    used: dict[str, Any]  # which of that run's states
    purpose: Purpose


class Evaluated(NamedTuple):
    """A run that was tested again."""

    config: dict[str, Any]  # its configuration, with what was asked for
    found: dict[str, Any]  # what is told of the test: see `summary`
    told: list[str]  # what of its data is left out or doubled, a line each


@contextmanager
def on_terminal(errors: bool) -> Iterator[None]:
    """What is told goes to the terminal, by standard error if `errors`."""
    log_on_terminal(errors)
    try:
        yield
    finally:
        console.stderr = False


def evaluate(
    directory: Path,
    config: dict[str, Any],
    named: Collection[str],
    keep: str | None = None,
    of: str = "",
    known: Known | None = None,
) -> Evaluated:
    """Tests the run in `directory`, or what is `known`: its configuration with what `config` has for the keys `named`.

    Only what the test needs is loaded, and training's data, from which the test's must be apart. With `keep` the test
    is kept beside the run, under that name. `of` says which of several runs, for who waits. Raises ConfigError and
    DataError; OSError where a test cannot be kept.
    """
    run = to_be_tested(tested_otherwise(stored(directory) if known is None else known.config, config, named))
    file = None if keep is None else kept_tests.place(directory, keep)
    if file is not None:
        kept_tests.must_be_free(file, run.config["eval"])
    with Status(of) as status:
        status.at("loading the data")
        train, test = run.tasks.load("train"), run.eval_tasks.load(run.eval.split)
        mesh = run.hardware.set_up(run.train.meta_batch)
        status.opened()
        status.at("reading what was learned")
        if known is None:
            params, used = saved(run.config, directory, run.eval.state)
            learned_for = purpose.told(directory)
        else:
            params, used, learned_for = known.params, known.used, purpose.as_told(known.purpose)
        status.at("comparing the data with training's")
        loaded, changed = checked(run, train, test, params, learned_for)
        tested, chunk = test_of(run, loaded, params, mesh, status)
        found = summary(run, loaded, tested, used, params, mesh, chunk)
    if file is not None:
        kept_tests.write(file, found)
    others = [domain.separation for domain in loaded.domains.values()]
    told = of_its_data(run, [loaded.separation, *others])
    return Evaluated(run.config, found, [changed, *told] if changed else told)


def to_be_tested(config: dict[str, Any]) -> Run:
    """The run, checked for all that a test needs. Raises ConfigError."""
    try:
        return build_run(config, selected_by=())
    except ConfigError as error:
        if error.key not in ("task.path", "task.data_dir"):
            raise
        where = f"put them there, or say where they are, {'data_dir' if error.key == 'task.data_dir' else PLACE}=WHERE"
        needed = f"{error.allowed}; a test needs the run's own data, too, to be apart from training's: {where}"
        raise ConfigError(error.key, error.given, needed) from error


def checked(
    run: Run, train: PyTree, test: PyTree, params: PyTree, learned_for: purpose.Told | None
) -> tuple[Loaded, str | None]:
    """All data of a test that what was learned can be tested on, and a line if training's are not all as they were.

    Raises ConfigError and DataError.
    """
    purpose.must_be_learned_from(learned_for, purpose.here(run.tasks, train))
    trained = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    must_be_taken(run, train, test, trained)
    split = run.eval.split
    apart = separation.apart({"train": Part(run.tasks, "train", train), split: Part(run.eval_tasks, split, test)})
    changed = purpose.must_be_learned_from(learned_for, purpose.here(run.tasks, train, apart))
    others = domains.load(run, {"train": train}, trained)
    needed = {"eval": (run.eval_tasks, test)}
    needed |= {name: (run.domains[name], domain.data) for name, domain in others.items()}
    engine.must_have_examples(run.hardware.data, needed)
    return Loaded(train, test, apart, others), changed


def must_be_taken(run: Run, train: PyTree, test: PyTree, trained: PyTree) -> None:
    """Raises ConfigError unless what was learned can be tested so; of the settings of `eval.learner` it names one."""
    try:
        domains.must_be_taken(run, OWN, train, test, trained)
    except ConfigError as error:
        for name, value in run.eval.learner.items() if error.key == "eval.learner" else ():
            alone = {**run.config, "eval": {**run.config["eval"], "learner": {name: value}}}
            try:
                domains.must_be_taken(build_run(alone, selected_by=()), OWN, train, test, trained)
            except ConfigError:
                allowed = "changes the shape of what the run has learned, and only a run of its own can; leave it out"
                raise ConfigError(f"eval.learner.{name}", value, allowed) from error
        raise


def test_of(run: Run, loaded: Loaded, params: PyTree, mesh: Mesh, status: Status) -> tuple[Tested, int]:
    """The test of these parameters, as the run itself would make it at its end; and its chunk of tasks."""
    size, device = engine.episode_size(run.eval_tasks, loaded.test), mesh.devices.flat[0]
    chunk = run.hardware.chunk_of_evaluation(run.train.meta_batch // mesh.size, size, device.platform)
    own = engine.held(run.hardware.data, {"eval": (run.eval_tasks, loaded.test)}, mesh)["eval"]
    params, k_eval = engine.placed(params, mesh), engine.stream(run.eval.seed, engine.EVAL)

    def there(name: str) -> PyTree:
        return engine.held(run.hardware.data, {name: (run.domains[name], loaded.domains[name].data)}, mesh)[name]

    def evaluate(
        test: Run, loaded_for: Run, elsewhere: PyTree, progress: Callable[[int], None]
    ) -> list[engine.Evaluation]:
        nonlocal chunk
        data = of_its_classes(test, loaded_for, own if elsewhere is None else elsewhere, mesh)

        def attempt(programs: engine.Programs) -> list[engine.Evaluation]:
            status.at("compiling the test")
            given = (params, data, test.eval.episodes, k_eval, test.numbers["eval_learner"], test.other_steps)
            return programs.evaluate(*given, pause=progress)

        found, chunk = engine.until_it_fits(test.shape, mesh, chunk, range(1, chunk), attempt)
        return found

    return everywhere(run, status, evaluate, there), chunk


def summary(
    run: Run, loaded: Loaded, tested: Tested, used: dict[str, Any], params: PyTree, mesh: Mesh, chunk: int
) -> dict[str, Any]:
    """What is told of a test, by the names of results.json: figures, what they are of, and of which run."""
    return {
        **results.figures_of(run, tested, loaded.domains),
        "state": used,
        "protocol": results.protocol(run, ("train", run.eval.split), loaded.separation),
        "eval": run.config["eval"],
        "run": {
            "dir": run.info.dir,
            "name": run.info.name,
            "tags": list(run.info.tags),
            "seed": run.train.seed,
            "steps": run.train.steps,
            "meta_batch": run.train.meta_batch,
            "parameters": engine.size_of(run.learner, params),
        },
        "command": without_key(shlex.join(["metarun", *sys.argv[1:]])),
        **made_with(run, mesh, chunk),
    }


def tell(found: dict[str, Any], keep: str | None) -> None:
    """A test's figures on the terminal, what they are of, and where they are kept."""
    protocol = found["protocol"]
    told = {"tested on": of} if (of := episodes_in_short(protocol)) else {}
    told["held-out tasks"] = f"{protocol['episodes']:,}, of seed {protocol['seed']}, for 95 % intervals"
    told["state"] = results.state_in_words(found["state"])
    console.print(results.table_of(results.figure_rows(found), told))
    lines = {"run": found["run"]["dir"]}
    lines |= {} if keep is None else {"kept": str(kept_tests.place(Path(found["run"]["dir"]), keep))}
    for name, line in lines.items():
        say(f"{name:<12}{line}")
