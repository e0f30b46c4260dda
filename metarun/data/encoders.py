"""Texts as vectors, without a download: hashed n-grams, or averages of word vectors that a package brings along."""

import hashlib
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Le

from metarun.core import ConfigError, DataError
from metarun.text import first_line, whole_characters

Length = Annotated[int, Ge(0), Le(16)]


@runtime_checkable
class Encoder(Protocol):
    """A frozen dataclass whose fields are its yaml's keys."""

    @property
    def dimension(self) -> int: ...
    def __hash__(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimension) float32: the same for the same text, wherever and beside whatever others."""
        ...


@dataclass(frozen=True)
class HashedNGrams:
    """Words and parts of words, counted: each n-gram adds 1 + log(count), or takes it away, at one place by its hash.

    Weinberger et al. 2009. Vectors have length 1. It is written out here, as scikit-learn, whose HashingVectorizer
    does the same, is much to install for so little. The hash is BLAKE2's: with a checksum, n-grams that differ in the
    same letters would all be as far apart.
    """

    dimension: Annotated[int, Ge(8), Le(65_536)]
    words: tuple[Length, Length]  # n-grams of so many words, fewest and most; 0: none
    characters: tuple[Length, Length]  # and of so many characters, within a word and its ends

    def __post_init__(self) -> None:
        for name in ("words", "characters"):
            low, high = getattr(self, name)
            if low > high or (low == 0) != (high == 0):
                raise ConfigError(name, [low, high], "the fewest first, then the most, or [0, 0] for none")
        if self.words == self.characters == (0, 0):
            raise ConfigError("words", [0, 0], "or characters must be more than none")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), self.dimension), np.float32)
        known: dict[str, tuple[int, float]] = {}
        for vector, text in zip(found, texts, strict=True):
            for gram, n in Counter(self.ngrams(text)).items():
                if gram not in known:
                    number = int.from_bytes(
                        hashlib.blake2b(gram.encode(errors="replace"), digest_size=8).digest(), "big"
                    )
                    known[gram] = number // 2 % self.dimension, 1.0 if number % 2 else -1.0
                place, sign = known[gram]
                vector[place] += sign * (1 + math.log(n))
            vector /= np.linalg.norm(vector) or 1.0
        return found

    def ngrams(self, text: str) -> Iterator[str]:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        for n in range(self.words[0], self.words[1] + 1 if self.words[1] else 0):
            yield from (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        for n in range(self.characters[0], self.characters[1] + 1 if self.characters[1] else 0):
            for word in words:
                # A word alone is one of the words; its parts are told from words by the line before them.
                ends = f" {word} "
                yield from (f"|{ends[i : i + n]}" for i in range(len(ends) - n + 1))


WEIGHTS, TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"


@dataclass(frozen=True)
class WordLlama:
    """The mean of a text's token vectors, 32,000 x 256, of the package wordllama (MIT), to length 1.

    The first 128 or 64 of its numbers serve as well. Its files are read as they stand in the package, without a line
    of its code: that would set up Python's logging, and look for what is not there in the network.
    """

    dimension: Literal[64, 128, 256]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        try:
            package = importlib.util.find_spec("wordllama")
            if package is None or package.origin is None:
                raise ImportError
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            need = "needs a package: pip install 'metarun[wordllama]'; or take task=text's own, HashedNGrams"
            raise ConfigError("encoder", "WordLlama", need) from error
        folder = Path(package.origin).parent
        try:
            vectors = load_file(folder / WEIGHTS)["embedding.weight"].astype(np.float32)[:, : self.dimension]
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # each of the two packages raises its own
            raise DataError(f"{folder} lacks its vectors ({first_line(error)}); install wordllama 0.4 anew") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        found = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), 1024):
            some = [whole_characters(text) for text in texts[start : start + 1024]]
            for row, tokens in enumerate(tokenizer.encode_batch(some, add_special_tokens=False)):
                if tokens.ids:
                    mean = vectors[tokens.ids].mean(0)
                    found[start + row] = mean / (np.linalg.norm(mean) or 1.0)
        return found
