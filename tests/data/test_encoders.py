"""Encoders of texts: the same text is the same vector, wherever it stands; and what was encoded is kept."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from metarun.core import ConfigError
from metarun.data import texts as texts_module
from metarun.data.encoders import TOKENIZER, WEIGHTS, HashedNGrams, WordLlama
from metarun.data.texts import encoded

TEXTS = ["Pay my bill", "pay, pay my BILLS!", "ün naïve café", "", "a"]
ENCODER = HashedNGrams(1024, (1, 2), (3, 5))


def test_a_text_is_its_ngrams_counted():
    assert list(HashedNGrams(64, (1, 2), (0, 0)).ngrams("Pay my bill")) == ["pay", "my", "bill", "pay my", "my bill"]
    assert list(HashedNGrams(64, (0, 0), (3, 4)).ngrams("a be")) == ["| a ", "| be", "|be ", "| be "]
    only_words = HashedNGrams(65_536, (1, 1), (0, 0))
    one, three = only_words.encode(["pay bill", "pay bill pay pay"])
    assert sorted(np.abs(one[one != 0]).tolist()) == pytest.approx([math.sqrt(0.5)] * 2)
    size = math.hypot(1, 1 + math.log(3))
    assert sorted(np.abs(three[three != 0]).tolist()) == pytest.approx([1 / size, (1 + math.log(3)) / size])


def test_a_text_has_the_same_vector_wherever_it_stands_and_its_length_is_1():
    together = ENCODER.encode(TEXTS)
    assert together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(ENCODER.encode([text])[0], vector)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 1, 0, 1], rtol=1e-6)
    near, far = together[0] @ together[1], together[0] @ together[2]
    assert near > 0.5 > 0.2 > abs(far)


def test_vectors_are_the_same_on_every_machine():
    """The hash is no process's own: what is kept in a cache, or in a run, stays true."""
    vectors = HashedNGrams(1024, (1, 1), (0, 0)).encode(["pay", "my", "bill"])
    places = np.abs(vectors).argmax(1)
    assert [(int(place), float(vector[place])) for place, vector in zip(places, vectors, strict=True)] == [
        (109, 1.0),
        (269, 1.0),
        (570, 1.0),
    ]


def test_hashes_do_not_favour_a_place_or_a_sign():
    words = [f"word{i}" for i in range(4000)]
    vectors = HashedNGrams(16, (1, 1), (0, 0)).encode(words)
    counts = (vectors != 0).sum(0)
    assert counts.sum() == 4000
    assert ((counts - 250) ** 2 / 250).sum() < 45  # of chi-squared with 15 degrees of freedom, one time in 13,000
    assert abs(vectors.sum()) < 4 * math.sqrt(4000)


def test_what_was_encoded_is_kept_until_the_texts_or_the_encoder_are_others(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    made = []
    encode = HashedNGrams.encode
    monkeypatch.setattr(HashedNGrams, "encode", lambda self, texts: made.append(texts) or encode(self, texts))
    first = encoded(TEXTS, ENCODER)
    np.testing.assert_array_equal(encoded(TEXTS, ENCODER), first)
    assert len(made) == 1
    np.testing.assert_array_equal(first, encode(ENCODER, TEXTS))
    assert encoded(TEXTS[::-1], ENCODER).tolist() == first[::-1].tolist()
    assert not np.array_equal(encoded(TEXTS, HashedNGrams(1024, (1, 1), (3, 5))), first)
    assert encoded(TEXTS, HashedNGrams(512, (1, 2), (3, 5))).shape == (5, 512)
    assert len(made) == 4
    encoded(["ab", "c"], ENCODER)
    encoded(["a", "bc"], ENCODER)
    assert len(made) == 6
    monkeypatch.setattr(texts_module.encoders, "__file__", __file__)  # another version may encode otherwise
    encoded(TEXTS, ENCODER)
    assert len(made) == 7


def test_ngrams_of_no_kind_and_from_many_to_few_are_refused():
    for words, characters in (((0, 0), (0, 0)), ((2, 1), (3, 5)), ((1, 2), (0, 4))):
        with pytest.raises(ConfigError):
            HashedNGrams(64, words, characters)


def test_word_vectors_are_the_mean_of_the_packages_own():
    wordllama = pytest.importorskip("wordllama")
    from pathlib import Path

    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(wordllama.__file__).parent
    vectors = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    expected = wordllama.WordLlamaInference(vectors, tokenizer).embed(TEXTS[:3], norm=True)
    np.testing.assert_allclose(WordLlama(256).encode(TEXTS[:3]), expected, atol=1e-6)
    half = expected[:, :64] / np.linalg.norm(expected[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(WordLlama(64).encode(TEXTS[:3]), half, atol=1e-6)
    assert (WordLlama(256).encode([""]) == 0).all()


def test_half_a_character_is_a_character_of_its_own(tmp_path, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    from safetensors.numpy import save_file

    for file in (WEIGHTS, TOKENIZER):
        (tmp_path / file).parent.mkdir()
    save_file({"embedding.weight": np.eye(3, 256, dtype=np.float16)}, tmp_path / WEIGHTS)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"smile": 0, "\ufffd": 1, "?": 2}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / TOKENIZER))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    found = WordLlama(64).encode(["smile", "\ud83d", "\ude00", "\U0001f600"])
    assert found.argmax(1).tolist() == [0, 1, 1, 2]
    assert (HashedNGrams(64, (1, 1), (0, 0)).encode(["\ud83d"]) != 0).sum() == 1


def test_word_vectors_without_their_package_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"encoder=WordLlama: needs a package: pip install 'metarun\[wordllama\]'"):
        WordLlama(256).encode(TEXTS)
