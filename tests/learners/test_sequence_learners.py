"""Learners that read: causality, adapt-then-predict against one long sequence, the memory's closed forms."""

import dataclasses
import itertools
from collections import Counter
from functools import cache, partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import close, drawn_like, identity, one_of

from metarun import label_codes, sequence
from metarun.core import Batch, ConfigError, Episode
from metarun.learners.attention import Attention
from metarun.learners.lstm import LSTM
from metarun.learners.mann import MANN, Carry, least_used
from metarun.transformer import Block

WAYS = 3
NET = identity(WAYS)
MANN_ = MANN(units=8, memory=(6, 4), heads=2, usage_decay=0.9, sharpness=2.0, label_width=4)
OWN = dataclasses.replace(
    MANN_, labels="iid", standardise=False, forget_bias=1.0, written="own", addressed="before", free="all",
    emptied="one", memory_start=1e-6, weights_start="first",
)  # fmt: skip
KEY = partial(jax.random.key, 3)
READERS = [MANN_, OWN, LSTM(units=8, label_width=4)]
SUPPORT, QUERY = (
    Batch(jnp.asarray(np.random.default_rng(n).normal(size=(6, 5))), jnp.array(y))
    for n, y in enumerate(([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2]))
)


@cache
def params_of(learner):
    return drawn_like(lambda: learner.init(NET, jax.random.key(2), SUPPORT.x))


def memory_of(heads: int, sharpness: float, usage_decay: float, **how) -> MANN:
    return MANN(1, memory=(8, 4), heads=heads, usage_decay=usage_decay, sharpness=sharpness, label_width=2, **how)


def blank_carry(slots: int, width: int, heads: int) -> Carry:
    shapes = Carry(
        lstm=((1,), (1,)), memory=(slots, width), usage=(slots,), read_weights=(heads, slots), read=(heads * width,)
    )
    return jax.tree.map(lambda shape: np.zeros(shape, np.float32), shapes, is_leaf=lambda v: type(v[0]) is int)


def accessed_once(mann: MANN, carry: Carry, key, gate: float) -> Carry:
    """The memory after one step whose head reads and writes `key`, in one program."""
    key = np.array([key], np.float32)
    return jax.device_get(jax.jit(mann.access)(carry, key, key, np.full((1, 1), gate, np.float32)))


def test_a_memory_read_back_after_one_write_returns_what_was_written():
    """Every empty slot has similarity 0 and the written one 1, so it is read with weight e^b / (e^b + slots - 1)."""
    key = np.array([3.0, -4.0, 12.0])
    for sharpness in (1.0, 40.0):
        carry = accessed_once(memory_of(1, sharpness, 0.9), blank_carry(8, 3, 1), key, 0.0)
        expected = np.exp(sharpness) / (np.exp(sharpness) + 7) * key
        np.testing.assert_allclose(carry.read, expected, rtol=1e-4)


def test_writes_go_to_the_least_used_slots_and_zero_them_first():
    usage, memory = np.array([0.5, 0.1, 0.9, 0.3], np.float32), np.full((4, 2), 7, np.float32)
    carry = blank_carry(4, 2, 1)._replace(usage=usage, memory=memory)
    least = jax.jit(lambda usage: least_used(usage, 2))(usage)
    np.testing.assert_array_equal(least, [[0, 1, 0, 0], [0, 0, 0, 1]])
    after = accessed_once(memory_of(1, 1.0, 0.9), carry, [1.0, 2.0], 0.0)
    np.testing.assert_allclose(after.memory, [[7, 7], [1, 2], [7, 7], [7, 7]])


def test_the_gate_chooses_between_the_slots_just_read_and_the_least_used():
    usage, read_weights = np.array([1, 1, 0], np.float32), np.array([[1, 0, 0]], np.float32)
    carry = blank_carry(3, 2, 1)._replace(usage=usage, read_weights=read_weights)
    after = accessed_once(memory_of(1, 1.0, 0.5), carry, [4.0, 8.0], 0.25)
    np.testing.assert_allclose(after.memory, [[1, 2], [0, 0], [3, 6]], rtol=1e-6)  # eq. 7 and 8
    expected = 0.5 * carry.usage + after.read_weights.sum(0) + np.array([0.25, 0.0, 0.75])  # eq. 5
    np.testing.assert_allclose(after.usage, expected, rtol=1e-6)


def accessed(memory, usage, read_weights, keys, written, gates, mann):
    """Equations 2 to 8 in numpy, head by head and slot by slot: memory, usage, read weights, what was read."""
    heads, slots = len(keys), len(memory)
    free = np.argsort(usage, kind="stable")[:heads]
    before, memory = memory, memory.copy()
    memory[free if mann.emptied == "all" else free[:1]] = 0
    write_weights = gates[:, None] * read_weights
    for h in range(heads):
        write_weights[h, free if mann.free == "all" else free[h : h + 1]] += 1 - gates[h]
        for i in range(slots):
            memory[i] += write_weights[h, i] * written[h]
    addressed = before if mann.addressed == "before" else memory
    read_weights = np.empty((heads, slots))
    for h in range(heads):
        lengths = np.sqrt((np.sum(keys[h] ** 2) + 1e-6) * (np.sum(addressed**2, axis=1) + 1e-6))
        similar = addressed @ keys[h] / lengths
        read_weights[h] = np.exp(mann.sharpness * similar) / np.exp(mann.sharpness * similar).sum()
    usage = mann.usage_decay * usage + read_weights.sum(0) + write_weights.sum(0)
    return memory, usage, read_weights, read_weights @ memory


@pytest.mark.parametrize(
    ("addressed", "free", "emptied"), list(itertools.product(("before", "after"), ("each", "all"), ("one", "all")))
)
def test_a_memory_of_four_heads_is_numpys(addressed, free, emptied):
    """Five steps: each head has a key, a gate and a vector to write of its own."""
    mann = memory_of(4, 5.0, 0.95, addressed=addressed, free=free, emptied=emptied)
    access = jax.jit(mann.access)
    draw = np.random.default_rng(0)
    carry = blank_carry(6, 3, 4)
    memory, usage, read_weights = (np.asarray(part, np.float64) for part in carry[1:4])
    for _ in range(5):
        keys, written, gates = draw.normal(size=(4, 3)), draw.normal(size=(4, 3)), draw.uniform(size=4)
        given = (np.float32(part) for part in (keys, written, gates[:, None]))
        carry = access(carry, *given)
        memory, usage, read_weights, read = accessed(memory, usage, read_weights, keys, written, gates, mann)
        close(carry[1:4], (memory, usage, read_weights), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(carry.read, read.reshape(-1), rtol=1e-3, atol=1e-4)


def test_a_memory_begins_as_asked():
    blank = dataclasses.replace(MANN_, memory_start=0.5, weights_start="first").blank()
    np.testing.assert_array_equal(blank.memory, np.full((6, 4), 0.5))
    np.testing.assert_array_equal(blank.usage, [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(blank.read_weights, [[1, 0, 0, 0, 0, 0]] * 2)
    assert not any(np.any(part) for part in jax.tree.leaves(MANN_.blank()))


@pytest.mark.parametrize("written", ["key", "own"])
def test_a_step_of_a_mann_is_an_lstm_whose_hidden_state_gives_keys_gates_and_what_is_written(written):
    mann = dataclasses.replace(MANN_, written=written)
    params = params_of(mann)["cell"]
    *lstm, read, x = (np.float32(np.random.default_rng(3).normal(size=shape)) for shape in (8, 8, 8, (1, 9)))
    carry = mann.blank()._replace(lstm=tuple(lstm), read=read)
    after, outputs = jax.jit(lambda *a: sequence.steps(mann.reader(), *a))({"cell": params}, carry, x)

    def dense(name, v):
        return v @ params[name]["kernel"] + params[name]["bias"]

    @jax.jit
    def by_hand(carry, x):
        cell = nn.OptimizedLSTMCell(8)
        lstm, hidden = cell.apply({"params": params["lstm"]}, carry.lstm, jnp.concatenate([x[0], carry.read]))
        keys = jnp.tanh(dense("keys", hidden)).reshape(2, 4)
        own = jnp.tanh(dense("writes", hidden)).reshape(2, 4) if written == "own" else keys
        expected = mann.access(carry._replace(lstm=lstm), keys, own, nn.sigmoid(dense("gate", hidden))[:, None])
        return expected, dense("labels", jnp.concatenate([hidden, expected.read]))

    close((after, outputs[0]), by_hand(carry, x), rtol=1e-5, atol=1e-6)


def test_an_lstm_is_flaxs_and_forgets_little_at_the_start():
    learner = LSTM(units=8, label_width=4, forget_bias=1.5)
    params = jax.jit(lambda key: learner.init(NET, key, SUPPORT.x))(jax.random.key(2))["cell"]
    np.testing.assert_array_equal(params["lstm"]["hf"]["bias"], np.full(8, 1.5))
    assert not np.any(params["lstm"]["hi"]["bias"])
    inputs = np.float32(np.random.default_rng(0).normal(size=(5, 9)))
    read = jax.jit(lambda inputs: sequence.steps(learner.reader(), {"cell": params}, learner.reader().blank, inputs))
    step = jax.jit(lambda carry, x: nn.OptimizedLSTMCell(8).apply({"params": params["lstm"]}, carry, x))
    (_, last), outputs = read(inputs)
    carry = (np.zeros(8, np.float32), np.zeros(8, np.float32))
    for x, output in zip(inputs, np.asarray(outputs), strict=True):
        carry, hidden = jax.device_get(step(carry, x))
        expected = hidden @ np.asarray(params["labels"]["kernel"]) + np.asarray(params["labels"]["bias"])
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learner", READERS)
def test_matrices_have_the_derivative_of_every_step(learner):
    """That of the loop written out, through the outputs and through the state at the end."""
    reader, params = learner.reader(), params_of(learner)["cell"]
    inputs = np.float32(np.random.default_rng(3).normal(size=(3, 9)))

    def written_out(step, carry, matrices, added):
        features = []
        for t in range(len(inputs)):
            carry, feature = step(lambda name, v, t=t: v @ matrices[name] + added[name][t], carry)
            features.append(feature)
        return carry, jnp.stack(features)

    def value(scan, params, inputs):
        carry, features = scan(reader.step, reader.blank, *reader.prepare(params, inputs))
        weighed = [jnp.sum(jnp.sin(leaf + 1.0) ** 2) for leaf in jax.tree.leaves(carry)]
        return jnp.sum(jnp.cos(features)) + sum(weighed)

    found, expected = (
        jax.jit(jax.grad(lambda *a, scan=scan: value(scan, *a), (0, 1)))(params, inputs)
        for scan in (sequence.scan, written_out)
    )
    close(found, expected, rtol=1e-4, atol=1e-5)


def test_labels_come_one_step_late():
    inputs, last = jax.jit(sequence.one_step_late)(np.float32([[7], [8], [9]]), np.float32(np.eye(3)[[2, 0, 1]]))
    np.testing.assert_array_equal(inputs, [[7, 0, 0, 0], [8, 0, 0, 1], [9, 1, 0, 0]])
    np.testing.assert_array_equal(last, [0, 1, 0])


def test_instance_accuracy_counts_how_often_a_class_was_seen():
    y = jnp.array([0, 1, 1, 0])
    found = sequence.instance_accuracy(jnp.array([0, 0, 1, 1]) == y, y, 2)  # right, wrong, right, wrong
    np.testing.assert_allclose([found["accuracy_instance_01"], found["accuracy_instance_02"]], [0.5, 0.5])
    found = sequence.instance_accuracy(jnp.array([0, 1, 0, 1]) == y, y, 2)
    np.testing.assert_allclose([found["accuracy_instance_01"], found["accuracy_instance_02"]], [1.0, 0.0])


def test_a_sequence_holds_every_example_once_with_its_label_in_a_new_order():
    read = jax.jit(lambda key: sequence.whole(Episode(SUPPORT, QUERY), key))
    whole = jax.device_get(read(jax.random.key(1)))
    rows = {bytes(np.asarray(x)): int(y) for x, y in zip(whole.x, whole.y, strict=True)}
    expected = {bytes(np.asarray(x)): int(y) for b in (SUPPORT, QUERY) for x, y in zip(b.x, b.y, strict=True)}
    assert rows == expected
    assert not np.array_equal(whole.y, read(jax.random.key(2)).y)


def test_labels_drawn_anew_come_with_examples_of_their_class_each_before_any_twice():
    episode = Episode(SUPPORT, QUERY)  # 4 examples of each of 3 classes
    of = {bytes(np.asarray(x)): int(y) for b in episode[:2] for x, y in zip(b.x, b.y, strict=True)}
    drawn = jax.jit(lambda key: sequence.drawn(episode, key, WAYS))
    counts, first = Counter(), Counter()
    for seed in range(300):
        batch = drawn(jax.random.key(seed))
        assert batch.y.shape == (12,)
        rows = [bytes(np.asarray(x)) for x in batch.x]
        assert [of[row] for row in rows] == batch.y.tolist()
        for label in range(WAYS):
            mine = [row for row in rows if of[row] == label]
            assert len(set(mine)) == min(len(mine), 4)
            counts[len(mine)] += 1
        first[rows[0]] += 1
    # Binomial(12, 1/3): 4 of a class is likeliest, and yet in less than a quarter.
    assert 0.18 < counts[4] / 900 < 0.30
    assert max(counts) >= 9
    assert len(first) == 12
    assert max(first.values()) < 50  # each of 12 examples comes first about 25 times in 300


def test_training_reads_labels_as_the_learner_says():
    params = params_of(OWN)
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    for learner, sequence_of in ((OWN, lambda e, k: sequence.drawn(e, k, WAYS)), (MANN_, sequence.whole)):
        mine = learner if learner is OWN else dataclasses.replace(OWN, labels="balanced")
        measured = jax.jit(lambda *a, mine=mine: mine.meta_grad(NET, *a)[1])  # without the gradient
        metrics = measured(params, batch, jax.random.key(3)[None], 0)

        @jax.jit
        def loss(key, mine=mine, sequence_of=sequence_of):
            read = sequence_of(Episode(SUPPORT, QUERY), key)
            return NET.loss(sequence.read(mine.reader(), NET, params, read)[1][:, :WAYS], read.y)[0]

        np.testing.assert_allclose(metrics["loss"], loss(jax.random.key(3)), rtol=1e-5)


@pytest.mark.parametrize("learner", READERS)
def test_an_answer_depends_on_earlier_labels_only(learner):
    reader, params = learner.reader(), params_of(learner)
    read = jax.jit(lambda y: sequence.read(reader, NET, params, Batch(SUPPORT.x, y))[1])
    y = np.asarray(SUPPORT.y)
    outputs, changed, last = (np.asarray(read(of)) for of in (y, np.where(np.arange(6) == 2, 3, y), [*y[:-1], 3]))
    np.testing.assert_array_equal(outputs[:3], changed[:3])
    assert (np.abs(outputs[3:] - changed[3:]).max(1) > 0).all()
    np.testing.assert_array_equal(outputs, last)


@pytest.mark.parametrize("learner", READERS)
def test_to_adapt_and_predict_is_the_next_step_of_one_long_sequence(learner):
    reader, params = learner.reader(), params_of(learner)
    predicted = jax.jit(lambda key: learner.predict(NET, learner.adapt(NET, params, SUPPORT, key), QUERY.x))(KEY())
    read = jax.jit(lambda x, y: sequence.read(reader, NET, params, Batch(x, y))[1])
    order = np.asarray(jax.random.permutation(KEY(), len(SUPPORT.y)))
    support_x, support_y = (np.asarray(part)[order] for part in SUPPORT)
    for i in range(2):
        x = np.concatenate([support_x, np.asarray(QUERY.x)[i : i + 1]])
        y = np.append(support_y, np.int32(0))  # the query's own label is never seen
        np.testing.assert_allclose(predicted[i], read(x, y)[-1, :WAYS], rtol=1e-5, atol=1e-6)


def test_a_mann_with_one_step_has_the_gradient_of_every_steps_loss():
    learner, params = MANN_, params_of(MANN_)
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    grads, metrics = jax.jit(lambda *a: learner.meta_grad(NET, *a))(params, batch, jax.random.key(3)[None], 0)

    def loss(params):
        whole = sequence.whole(one_of(batch), jax.random.key(3))
        return NET.loss(sequence.read(learner.reader(), NET, params, whole)[1][:, :WAYS], whole.y)[0]

    value, expected = jax.jit(jax.value_and_grad(loss))(params)
    close(grads, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("learner", READERS)
def test_where_jax_has_doubles_a_reader_takes_inputs_and_parameters_of_either_kind(learner, kind):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params_of(learner))
    with jax.enable_x64(True):
        support, query = (Batch(np.asarray(part.x, kind), np.asarray(part.y)) for part in (SUPPORT, QUERY))
        episodes = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
        keys = jax.random.split(jax.random.key(3), 1)
        grads, _ = jax.eval_shape(partial(learner.meta_grad, NET), params, episodes, keys, 0)
        answer = jax.eval_shape(
            lambda *given: learner.predict(NET, learner.adapt(NET, *given), query.x), params, support, keys[0]
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}  # those of the parameters
    assert answer.dtype == kind


def all_strings() -> np.ndarray:
    """Every string of five letters, by counting."""
    return np.array([np.eye(5)[list(letters)].reshape(25) for letters in itertools.product(range(5), repeat=5)])


def test_strings_are_five_letters_of_five_and_no_two_classes_of_an_episode_have_the_same():
    drawn = jax.jit(jax.vmap(lambda key: label_codes.drawn(key, 40)))(jax.random.split(jax.random.key(0), 200))
    letters = np.asarray(drawn).reshape(200, 40, 5, 5)
    np.testing.assert_array_equal(letters.sum(-1), 1)
    assert all(len({row.tobytes() for row in np.asarray(episode)}) == 40 for episode in drawn)
    np.testing.assert_allclose(letters.mean((0, 1)), 0.2, atol=0.02)  # each letter at each place
    assert len({episode.tobytes() for episode in np.asarray(drawn)}) == 200


def test_a_strings_probability_is_its_letters_product_and_the_likeliest_of_all_is_right():
    outputs = np.float32(np.random.default_rng(0).normal(size=(7, 25)) * 2)
    every = np.float32(all_strings())
    shares = np.exp(np.asarray(outputs).reshape(7, 5, 5))
    shares /= shares.sum(-1, keepdims=True)
    expected = [[np.prod((share * string.reshape(5, 5)).sum(-1)) for string in every[::100]] for share in shares]
    found = np.asarray(jax.jit(label_codes.log_probabilities)(outputs, every))
    np.testing.assert_allclose(np.exp(found[:, ::100]), expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-4)
    best, are_right = every[found.argmax(1)], jax.jit(label_codes.are_right)
    assert are_right(outputs, best).all()
    all_but_one = np.concatenate([best[:, :20], np.roll(best[:, 20:], 1, axis=1)], axis=1)
    assert not are_right(outputs, all_but_one).any()
    names = np.concatenate([best[:2], every[:1]])
    loss, metrics = jax.jit(label_codes.loss)(outputs[:3], np.array([0, 1, 2]), names)
    np.testing.assert_allclose(loss, -found[np.arange(3), [*found.argmax(1)[:2], 0]].mean(), rtol=1e-5)
    np.testing.assert_allclose([metrics["loss"], metrics["accuracy"]], [loss, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("learner", [dataclasses.replace(one, code="strings") for one in (OWN, READERS[-1])])
def test_with_strings_an_episodes_classes_are_called_by_them_in_what_is_read_and_answered(learner):
    reader, params = learner.reader(), params_of(learner)
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    numbered = np.array([2, 0])

    @jax.jit
    def own(key):
        """What the learner makes of it."""
        fast = learner.adapt(NET, params, SUPPORT, key)
        _, metrics = learner.meta_grad(NET, params, batch, jax.random.clone(key)[None], 0)
        measured = learner.measure(NET, params, one_of(batch), jax.random.clone(key))
        return fast.strings, learner.predict(NET, fast, QUERY.x)[:1], metrics["loss"], measured

    @jax.jit
    def expected(key):
        key, strings = sequence.named(reader, key, WAYS)
        every = one_of(batch)

        def read(x, y):
            return sequence.read(reader, NET, params, Batch(x, y), strings)[1]

        order = jax.random.permutation(jax.random.clone(key), len(SUPPORT.y))
        outputs = read(jnp.concatenate([SUPPORT.x[order], QUERY.x[:1]]), jnp.append(SUPPORT.y[order], 0))
        predicted = label_codes.log_probabilities(outputs[-1:], strings)
        drawn = partial(sequence.drawn, ways=WAYS) if reader.labels == "iid" else sequence.whole
        x, y = drawn(every, jax.random.clone(key))
        loss, _ = label_codes.loss(read(x, y), y, strings)
        x, y = sequence.whole(every, jax.random.clone(key))
        measured = sequence.instance_accuracy(label_codes.are_right(read(x, y), strings[y]), y, WAYS)
        return sequence.told(reader, numbered, strings), (strings, predicted, loss, measured)

    (strings, *found), (told, (named, *wanted)) = own(jax.random.key(3)), expected(jax.random.key(3))
    np.testing.assert_array_equal(strings, named)
    np.testing.assert_array_equal(told, np.asarray(named)[numbered])
    for one, other in zip(found, wanted, strict=True):
        close(one, other, rtol=1e-4, atol=1e-5)


def test_features_are_standardised_one_example_at_a_time():
    def of(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)

    x = 3 + 2 * np.asarray(SUPPORT.x)
    np.testing.assert_allclose(sequence.embed(NET, {}, x), of(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sequence.embed(NET, {}, np.round(x * 8) / 8 + 4000), of(np.round(x * 8) / 8), atol=1e-3)
    np.testing.assert_array_equal(sequence.embed(NET, {}, x, standardise=False), x)
    np.testing.assert_array_equal(sequence.embed(NET, {}, x[:, :1]), x[:, :1])


def test_a_block_of_attention_is_numpys():
    """Pre-normalised attention of two heads to what is seen and to itself, then two layers (Vaswani et al. 2017)."""
    tokens, context = (np.float32(np.random.default_rng(n).normal(size=(n, 4))) for n in (3, 5))
    seen = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    block = Block(heads=2)
    params = drawn_like(lambda: block.init(jax.random.key(0), tokens, np.ones((3, 3), bool)))
    p = params["params"]

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p[name]["scale"] + p[name]["bias"]

    (q, own_k, own_v), (_, k, v) = (
        np.split(dense("qkv", norm("norm_attention", x)), 3, axis=1) for x in (tokens, context)
    )
    read = np.zeros((3, 4))
    for n in range(3):
        for head in (slice(0, 2), slice(2, 4)):
            keys = np.concatenate([k[seen[n], head], own_k[n : n + 1, head]])
            values = np.concatenate([v[seen[n], head], own_v[n : n + 1, head]])
            weights = np.exp(keys @ q[n, head] / np.sqrt(2))
            read[n, head] = weights / weights.sum() @ values
    expected = tokens + dense("out", read)
    expected = expected + dense("down", np.asarray(jax.nn.gelu(dense("up", norm("norm_mlp", expected)))))
    found, own = jax.jit(block.apply)(params, tokens, seen, tuple(part.reshape(5, 2, 2) for part in (k, v)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    for one, other in zip(own, (own_k, own_v), strict=True):
        np.testing.assert_allclose(one.reshape(3, 4), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_attention_reads_the_support_set_causally_and_each_query_alone(standardise):
    learner = Attention(units=8, heads=2, blocks=2, label_width=4, standardise=standardise)
    params = params_of(learner)
    transformer = learner.transformer(NET)

    @jax.jit
    def run(z, labels):
        return transformer.apply({"params": params["transformer"]}, z, labels)[0]

    x, labels = np.asarray(SUPPORT.x), np.eye(4, dtype=np.float32)[np.asarray(SUPPORT.y)]
    outputs = np.asarray(run(x, labels))
    changed = np.asarray(run(x + np.float32(np.arange(6) == 3)[:, None], labels))
    np.testing.assert_allclose(outputs[:3], changed[:3], atol=1e-6)
    assert (np.abs(outputs[3:] - changed[3:]).max(1) > 1e-5).all()

    # What was kept of the support set gives a query the answer it has as the last of one sequence.
    predicted = jax.jit(lambda key: learner.predict(NET, learner.adapt(NET, params, SUPPORT, key), QUERY.x))(KEY())
    order = np.asarray(jax.random.permutation(KEY(), len(SUPPORT.y)))
    embed = jax.jit(lambda x: sequence.embed(NET, {}, x, standardise))
    for i in range(2):
        z = embed(np.concatenate([x[order], np.asarray(QUERY.x)[i : i + 1]]))
        together = run(z, np.concatenate([labels[order], np.zeros((1, 4), np.float32)]))
        np.testing.assert_allclose(predicted[i], together[-1, :WAYS], rtol=1e-4, atol=1e-5)


def test_fewer_ways_than_labels_leave_the_surplus_out():
    params = params_of(MANN_)
    narrow = dataclasses.replace(MANN_, label_width=WAYS)
    assert params["cell"]["labels"]["bias"].shape == (4,)
    init = jax.eval_shape(lambda: narrow.init(NET, jax.random.key(9), SUPPORT.x))
    assert init["cell"]["labels"]["bias"].shape == (WAYS,)
    predict = lambda: MANN_.predict(NET, MANN_.adapt(NET, params, SUPPORT, jax.random.key(4)), QUERY.x)  # noqa: E731
    assert jax.eval_shape(predict).shape == (6, WAYS)


def test_there_are_no_more_ways_than_strings():
    tasks = SimpleNamespace(metric="accuracy", n_out=3126)
    sequence.check(LSTM(units=8, label_width=4000), 4000, tasks)
    sequence.check(LSTM(units=8, label_width=4000), 4000, SimpleNamespace(metric="accuracy", n_out=3125), "strings")
    with pytest.raises(ConfigError, match=r"^task\.ways=3126: at most 3125: there are no more strings"):
        LSTM(units=8, label_width=4000, code="strings").check(tasks)
