"""A learner as a program: one file that runs with jax alone, without metarun, on several platforms."""

import dataclasses
import importlib.metadata
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import metarun
from metarun import engine
from metarun.config import laid_over
from metarun.config.learned import Parts
from metarun.core import Array, Batch, ConfigError, Learner, PyTree
from metarun.files import write_bytes_atomically
from metarun.gradients import differentiated
from metarun.learned.learner import Adapted, Learned, Queries, must_be_served, whole
from metarun.learned.programs import made, net_of, predicted
from metarun.run import purpose
from metarun.text import first_line

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, TOLD = "program.stablehlo", "learner.json"  # in the file
VERSION = 1  # of this form
BLOCK = 16  # queries that are predicted at once; what is left over goes one by one
READER = "flatbuffers"  # by which jax reads a program, and which does not come with it

Outputs = Array | tuple[Array, Array]
Predict = Callable[[Array], Array]  # x (n, ...) -> as `programs.predicted`


class Exported(NamedTuple):
    """What the file holds."""

    program: bytes  # of jax.export: StableHLO
    told: dict[str, Any]  # what it takes and gives, and what it is from


def predictor(adapted: Adapted, *, queries: Queries = "alone", platforms: Sequence[str] = PLATFORMS) -> Exported:
    """x (b, ...) -> probabilities (b, ways), or targets (b, d): what was adapted, for any number of queries b.

    A learner that is uncertain gives the targets and their standard deviations (b, d). The answers are those of
    `Adapted.predict_proba` and `predict`; what it adapted to is part of the program. Raises ConfigError.
    """
    learned, parts = adapted.learned, adapted.learned.parts
    n_out = learned.purpose.n_out if adapted.classes is None else len(adapted.classes)
    learner, net = fixed(parts, adapted.inner_steps), net_of(made(parts, n_out, learned.classification))
    fast = jax.device_get(adapted.fast)

    def program(x: Array) -> Outputs:
        predict = predicting(learner, net, jax.tree.map(jnp.asarray, fast), adapted.support_x, parts, queries)
        return answers(learned, predict(x))

    exported = lowered(program, [asked_of(learned)], parts, platforms)
    told = {
        "kind": "predictor",
        "classes": None if adapted.classes is None else as_json(adapted.classes),
        "call": f"{', '.join(names_of_outputs(learned))} = program.call(x)",
    }
    return Exported(bytes(exported.serialize()), told | about(learned, exported, ["x"], queries, adapted.inner_steps))


def as_json(classes: np.ndarray) -> list[Any]:
    """The labels, dates as text."""
    return (classes.astype(str) if classes.dtype.kind in "mM" else classes).tolist()


def learner(
    learned: Learned,
    *,
    ways: int | None = None,
    shots: int | None = None,
    inner_steps: int | None = None,
    seed: int = 0,
    queries: Queries = "alone",
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """(support x (n, ...), support y (n,), x (b, ...)) -> probabilities (b, ways): it adapts, and answers.

    n is ways * shots, by default those of the run's test; labels are 0 to ways - 1. A regression has no ways, n is
    shots, y (n, d), and what `predictor` gives comes out. `seed`: of learners that adapt at random, always the same.
    Raises ConfigError.
    """
    parts, seed = learned.parts, whole("seed", seed)
    inner_steps = None if inner_steps is None else whole("inner_steps", inner_steps)
    ways, shots = protocol(learned, parts, ways, shots)
    n, n_out = (shots, learned.purpose.n_out) if ways is None else (ways * shots, ways)
    adapts, net = fixed(parts, inner_steps), net_of(made(parts, n_out, learned.classification))

    def program(support_x: Array, support_y: Array, x: Array) -> Outputs:
        with differentiated(parts.inner):
            params = jax.tree.map(jnp.asarray, learned.params)  # numpy's cannot be looked up in by what is traced
            fast = adapts.adapt(net, params, Batch(support_x, support_y), jax.random.key(seed))
        predict = predicting(adapts, net, fast, support_x, parts, queries)
        return answers(learned, predict(x))

    support_x = jax.ShapeDtypeStruct((n, *learned.purpose.shape), learned.purpose.dtype)
    labels, targets = jax.ShapeDtypeStruct((n,), jnp.int32), jax.ShapeDtypeStruct((n, n_out), jnp.float32)
    support_y = labels if learned.classification else targets
    try:
        exported = lowered(program, [support_x, support_y, asked_of(learned)], parts, platforms)
    except OverflowError:
        allowed = f"a support set of {n:,} has more numbers than jax counts; give fewer shots, or ways"
        raise ConfigError("shots", shots, allowed) from None
    told = {
        "kind": "learner",
        "ways": ways,
        "shots": shots,
        "seed": seed,
        "labels": None if ways is None else f"0 to {ways - 1}, each of them in support_y",
        "call": f"{', '.join(names_of_outputs(learned))} = program.call(support_x, support_y, x)",
    }
    names = ["support_x", "support_y", "x"]
    return Exported(bytes(exported.serialize()), told | about(learned, exported, names, queries, inner_steps))


def write(file: Path, one: Exported) -> None:
    """One zip file, whole or not at all: the program, what is told of it, and what jax needs to read it.

    The same learner gives the same file, byte for byte. Raises OSError.
    """
    told = json.dumps(one.told, indent=1) + "\n"
    contents = {TOLD: told.encode(), PROGRAM: one.program, **reader()}

    def zipped(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:  # stored: Python finds modules in it, and weights pack badly
            for name, content in contents.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # of no date

    write_bytes_atomically(file, zipped)


def reader() -> dict[str, bytes]:
    """The modules of flatbuffers, and its licence, which is jax's, too."""
    there = [path for path in importlib.metadata.files(READER) or [] if path.parent.name == READER]
    needed = [path for path in there if path.suffix == ".py" and path.name != "flexbuffers.py"]
    licences = [path for path in importlib.metadata.files("jax") or [] if path.name == "LICENSE"]
    return {str(path): path.read_binary() for path in needed} | {f"{READER}/LICENSE": licences[0].read_binary()}


def fixed(parts: Parts, inner_steps: int | None) -> Learner:
    """Evaluation's learner, with all of its numbers. Raises ConfigError."""
    if inner_steps is None:
        return parts.learner
    if not hasattr(parts.learner, "inner_steps"):
        raise ConfigError("inner_steps", inner_steps, f"{type(parts.learner).__name__} takes none; leave it out")
    return dataclasses.replace(parts.learner, inner_steps=inner_steps)  # type: ignore[type-var]


def predicting(learner: Learner, net: Any, fast: PyTree, support_x: Any, parts: Parts, queries: Queries) -> Predict:
    """As `Adapted.outputs`, for a number of queries that is not known."""

    def together(x: Array) -> Array:
        return predicted(learner, net, fast, x)

    def beside_the_support_set(x: Array) -> Array:
        def one(x: Array) -> Array:
            return together(jnp.concatenate([support_x, x[None]]))[-1]

        return jax.vmap(one)(x)

    if queries not in ("alone", "together"):
        raise ConfigError("queries", queries, "must be one of: alone, together")
    if not engine.is_transductive(parts.model):
        return in_blocks(together)
    return together if queries == "together" else in_blocks(beside_the_support_set)


def in_blocks(predict: Predict) -> Predict:
    """The same as `predict` of each query, in blocks of a size that is known: memory does not grow with the queries."""

    def of_any(x: Array) -> Array:
        n, padded = x.shape[0], jnp.pad(x, ((0, BLOCK - 1), *((0, 0) for _ in x.shape[1:])))

        def those(size: int) -> Callable[[Array, Array], Array]:
            def at(first: Array, outputs: Array) -> Array:
                some = predict(jax.lax.dynamic_slice_in_dim(padded, first, size))
                return jax.lax.dynamic_update_slice_in_dim(outputs, some, first, 0)

            return at

        one = jax.eval_shape(predict, padded[:1])
        blocks = jnp.asarray(n) // BLOCK
        outputs = jnp.zeros((n + BLOCK - 1, one.shape[1]), one.dtype)
        outputs = jax.lax.fori_loop(0, blocks, lambda i, outputs: those(BLOCK)(i * BLOCK, outputs), outputs)
        return jax.lax.fori_loop(blocks * BLOCK, n, those(1), outputs)[:n]

    return of_any


def answers(learned: Learned, outputs: Array) -> Outputs:
    if learned.uncertain:
        return outputs[:, : learned.purpose.n_out], outputs[:, learned.purpose.n_out :]
    return jax.nn.softmax(outputs) if learned.classification else outputs


def names_of_outputs(learned: Learned) -> list[str]:
    return ["probabilities" if learned.classification else "targets", *(["sd"] if learned.uncertain else [])]


def asked_of(learned: Learned) -> jax.ShapeDtypeStruct:
    """Any number of queries."""
    return jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *learned.purpose.shape), learned.purpose.dtype)


def lowered(
    program: Callable[..., Outputs], given: list[Any], parts: Parts, platforms: Sequence[str]
) -> export.Exported:
    """Raises ConfigError for platforms that there are not, or that the learner cannot be made for."""
    if not platforms or (unknown := sorted(set(platforms) - set(PLATFORMS))):
        raise ConfigError("platforms", ",".join(unknown if platforms else ()), f"some of: {', '.join(PLATFORMS)}")
    platforms = [platform for platform in PLATFORMS if platform in platforms]
    with jax.default_matmul_precision(parts.hardware.matmul_precision), unlocated():
        try:
            return export.export(jax.jit(program), platforms=platforms)(*given)
        except (NotImplementedError, ValueError) as error:
            raise ConfigError(
                "platforms",
                ",".join(platforms),
                f"{type(parts.learner).__name__} cannot be made for all of them ({first_line(error)}); leave some out",
            ) from error


@contextmanager
def unlocated() -> Iterator[None]:
    """What is lowered inside does not say in which of this machine's files each operation stands."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def protocol(learned: Learned, parts: Parts, ways: int | None, shots: int | None) -> tuple[int | None, int]:
    """Ways (None of a regression) and shots, by default those of the run's test. Raises ConfigError."""
    task = laid_over(learned.config["task"], learned.config["eval"]["task"])

    def number(name: str, given: int | None) -> int:
        value = task.get(name) if given is None else whole(name, given)
        if not isinstance(value, int):
            raise ConfigError(name, value, f"the run's task has no one number of {name}; give it")
        if value < 1:
            raise ConfigError(name, value, "must be 1 or more")
        return value

    if not learned.classification:
        if ways is not None:
            raise ConfigError("ways", ways, "the run's task is a regression, which has none; leave it out")
        return None, number("shots", shots)
    ways = number("ways", ways)
    try:
        return must_be_served(learned, parts, ways), number("shots", shots)
    except ConfigError as error:
        raise ConfigError("ways" if error.key == "y" else error.key, error.given, error.allowed) from error


def about(
    learned: Learned, exported: export.Exported, names: list[str], queries: Queries, inner_steps: int | None
) -> dict[str, Any]:
    """What learner.json says of either kind."""

    def described(name: str, value: Any) -> dict[str, Any]:
        shape = [size if isinstance(size, int) else str(size) for size in value.shape]
        return {"name": name, "shape": shape, "dtype": str(value.dtype)}

    outputs = [described(*one) for one in zip(names_of_outputs(learned), exported.out_avals, strict=True)]
    own = getattr(learned.parts.learner, "inner_steps", None)
    return {
        "inputs": [described(name, value) for name, value in zip(names, exported.in_avals, strict=True)],
        "output": outputs[0],
        **({"further_output": outputs[1]} if learned.uncertain else {}),
        "queries": queries if engine.is_transductive(learned.parts.model) else "alone",
        "inner_steps": own if inner_steps is None else inner_steps,
        "preprocessing": purpose.as_json(learned.purpose)["prepares"],
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "learner": type(learned.parts.learner).__name__,
        "used": learned.used,
        "version": VERSION,
        "metarun": metarun.__version__,
        "jax": jax.__version__,
    }
