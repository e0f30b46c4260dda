"""Texts with a label each: a user's own file of them, and what every set of texts needs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.data import encoders
from metarun.data.cache import cached
from metarun.data.cells import complete, must_have, read, taken, texts
from metarun.data.encoders import Encoder
from metarun.data.labelled import pools, splits_of
from metarun.data.pool import Found


@lru_cache(maxsize=8)
def texts_in(
    path: str,
    text_column: str,
    label_column: str,
    split_column: str | None,
    encoder: Encoder,
    fractions: tuple[float, ...],
    seed: int,
) -> Found:
    """The texts of a CSV or Parquet file or of JSON lines, encoded. Raises ConfigError and DataError.

    Rows without a text, a label or a split are left out, and told of.
    """
    table = read(path)
    used: list[str] = []
    for key, name in (("text_column", text_column), ("label_column", label_column), ("split_column", split_column)):
        if name is not None:
            must_have(table, key, name, used)
            used.append(name)
    rows, told = complete(table, used)
    if not len(rows):
        raise DataError(f"{path}: no row has both a text and a label")
    text, labels, *given = (texts(taken(table.columns[name], rows)) for name in used)
    splits = splits_of(path, "class", labels, given[0] if given else None, fractions, seed)
    return by_label(text, labels, splits, encoder)._replace(told=(*table.told, *told))


def by_label(
    text: Sequence[str], labels: Sequence[str], splits: Mapping[str, Iterable[str]], encoder: Encoder
) -> Found:
    """Texts (n,) of the classes `labels` (n,) as pools of their vectors (n, encoder.dimension)."""
    rows = pools(np.arange(len(text)), labels, splits)
    texts = {split: [text[row] for row in found.pool.x] for split, found in rows.items()}
    return Found(pools(encoded(text, encoder), labels, splits), (), texts=texts)


def encoded(text: Sequence[str], encoder: Encoder) -> np.ndarray:
    """Vectors (n, dimension) float32, kept in the cache directory: of the same texts they are not made again."""
    state = hashlib.sha256(f"{encoder}\n{Path(encoders.__file__).read_text()}".encode())
    for one in text:
        state.update(f"{len(one)} {one}\n".encode(errors="surrogatepass"))
    shape = (len(text), encoder.dimension)

    def make(_: Path) -> dict[str, np.ndarray]:
        return {"vectors": encoder.encode(text)}

    def is_whole(arrays: dict[str, np.ndarray]) -> bool:
        return arrays.keys() == {"vectors"} and arrays["vectors"].shape == shape

    return cached(f"texts-{state.hexdigest()[:32]}", make, is_whole)["vectors"]


def must_be_an_encoder(encoder: object) -> None:
    """Raises ConfigError for a component of another kind."""
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            "encoder", type(encoder).__name__, "encodes no text; HashedNGrams and WordLlama of metarun.data.encoders do"
        )
