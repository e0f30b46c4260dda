"""Parameters of which some are adapted and the others are not."""

from flax.traverse_util import flatten_dict, unflatten_dict

from metarun.core import ConfigError, PyTree


def partition(params: PyTree, freeze: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """Splits a nested dict into (adapted, frozen) flat dicts by path.

    A leaf is frozen if its path, written `layer/name`, contains one of the strings in `freeze`.
    """
    flat = flatten_dict(params, sep="/")
    frozen = {path: leaf for path, leaf in flat.items() if any(part in path for part in freeze)}
    return {path: leaf for path, leaf in flat.items() if path not in frozen}, frozen


def must_be_there(params: PyTree, freeze: tuple[str, ...]) -> PyTree:
    """`params`, once each of the strings in `freeze` is in the path of some of them. Raises ConfigError if one is not.

    For a learner's `init`, which is traced before anything is trained.
    """
    paths = flatten_dict(params, sep="/")
    for part in freeze:
        if not any(part in path for path in paths):
            layers = sorted({path.rpartition("/")[0] or path for path in paths})
            raise ConfigError(
                "learner.freeze", list(freeze), f"{part!r} is in no parameter's path; there are: {', '.join(layers)}"
            )
    return params


def join(adapted: PyTree, frozen: PyTree) -> PyTree:
    """Undoes `partition`."""
    return unflatten_dict({**adapted, **frozen}, sep="/")
