"""Learners that read: causality, adapt-then-predict against one long sequence, the memory's closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import close, identity, one_of

from metarun import sequence
from metarun.core import Batch, Episode
from metarun.learners.attention import Attention, Block
from metarun.learners.lstm import LSTM
from metarun.learners.mann import MANN, Carry, access, least_used

WAYS = 3
NET = identity(WAYS)
MANN_ = MANN(units=8, memory=(6, 4), heads=2, usage_decay=0.9, sharpness=2.0, label_width=4)
READERS = [MANN_, LSTM(units=8, label_width=4)]
SUPPORT = Batch(jax.random.normal(jax.random.key(0), (6, 5)), jnp.array([0, 1, 2, 0, 1, 2]))
QUERY = Batch(jax.random.normal(jax.random.key(1), (6, 5)), jnp.array([0, 0, 1, 1, 2, 2]))


def blank_carry(slots: int, width: int, heads: int) -> Carry:
    return Carry(
        lstm=(jnp.zeros(1), jnp.zeros(1)), memory=jnp.zeros((slots, width)), usage=jnp.zeros(slots),
        read_weights=jnp.zeros((heads, slots)), read=jnp.zeros(heads * width),
    )  # fmt: skip


def test_a_memory_read_back_after_one_write_returns_what_was_written():
    """Every empty slot has similarity 0 and the written one 1, so it is read with weight e^b / (e^b + slots - 1)."""
    key = jnp.array([[3.0, -4.0, 12.0]])
    for sharpness in (1.0, 40.0):
        carry = access(blank_carry(8, 3, 1), key, jnp.zeros((1, 1)), 0.9, sharpness)
        expected = np.exp(sharpness) / (np.exp(sharpness) + 7) * key[0]
        np.testing.assert_allclose(carry.read, expected, rtol=1e-4)


def test_writes_go_to_the_least_used_slots_and_zero_them_first():
    carry = blank_carry(4, 2, 1)._replace(usage=jnp.array([0.5, 0.1, 0.9, 0.3]), memory=jnp.full((4, 2), 7.0))
    np.testing.assert_array_equal(least_used(carry.usage, 2), [[0, 1, 0, 0], [0, 0, 0, 1]])
    after = access(carry, jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1)), 0.9, 1.0)
    np.testing.assert_allclose(after.memory, [[7, 7], [1, 2], [7, 7], [7, 7]])


def test_the_gate_chooses_between_the_slots_just_read_and_the_least_used():
    carry = blank_carry(3, 2, 1)._replace(usage=jnp.array([1.0, 1.0, 0.0]), read_weights=jnp.array([[1.0, 0.0, 0.0]]))
    after = access(carry, jnp.array([[4.0, 8.0]]), jnp.full((1, 1), 0.25), 0.5, 1.0)
    np.testing.assert_allclose(after.memory, [[1, 2], [0, 0], [3, 6]], rtol=1e-6)  # eq. 7 and 8
    expected = 0.5 * carry.usage + after.read_weights.sum(0) + jnp.array([0.25, 0.0, 0.75])  # eq. 5
    np.testing.assert_allclose(after.usage, expected, rtol=1e-6)


def accessed(memory, usage, read_weights, keys, gates, decay, sharpness):
    """Equations 2 to 8 in numpy, head by head and slot by slot: memory, usage, read weights, what was read."""
    heads, slots = len(keys), len(memory)
    free = np.argsort(usage, kind="stable")[:heads]  # the h-th least used slot is head h's
    memory = memory.copy()
    memory[free] = 0
    write_weights = gates[:, None] * read_weights
    for h in range(heads):
        write_weights[h, free[h]] += 1 - gates[h]
        for i in range(slots):
            memory[i] += write_weights[h, i] * keys[h]
    read_weights = np.empty((heads, slots))
    for h in range(heads):
        lengths = np.linalg.norm(keys[h]) * np.linalg.norm(memory, axis=1)
        similar = np.where(lengths > 0, memory @ keys[h] / np.maximum(lengths, 1e-9), 0)
        read_weights[h] = np.exp(sharpness * similar) / np.exp(sharpness * similar).sum()
    return memory, decay * usage + read_weights.sum(0) + write_weights.sum(0), read_weights, read_weights @ memory


def test_a_memory_of_four_heads_is_numpys():
    """Five steps: each head has a key, a gate and a least used slot of its own."""
    draw = np.random.default_rng(0)
    carry = blank_carry(6, 3, 4)
    memory, usage, read_weights = (np.asarray(part, np.float64) for part in carry[1:4])
    for _ in range(5):
        keys, gates = draw.normal(size=(4, 3)), draw.uniform(size=4)
        carry = access(carry, jnp.array(keys, jnp.float32), jnp.array(gates[:, None], jnp.float32), 0.95, 5.0)
        memory, usage, read_weights, read = accessed(memory, usage, read_weights, keys, gates, 0.95, 5.0)
        close(carry[1:4], (memory, usage, read_weights), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(carry.read, read.reshape(-1), rtol=1e-3, atol=1e-4)


def test_labels_come_one_step_late():
    inputs, last = sequence.one_step_late(jnp.array([[7.0], [8.0], [9.0]]), jnp.array([2, 0, 1]), 3)
    np.testing.assert_array_equal(inputs, [[7, 0, 0, 0], [8, 0, 0, 1], [9, 1, 0, 0]])
    np.testing.assert_array_equal(last, [0, 1, 0])


def test_instance_accuracy_counts_how_often_a_class_was_seen():
    y = jnp.array([0, 1, 1, 0])
    outputs = jax.nn.one_hot(jnp.array([0, 0, 1, 1]), 3)  # right, wrong, right, wrong
    found = sequence.instance_accuracy(outputs, y, 2)
    np.testing.assert_allclose([found["accuracy_instance_01"], found["accuracy_instance_02"]], [0.5, 0.5])
    found = sequence.instance_accuracy(jax.nn.one_hot(jnp.array([0, 1, 0, 1]), 3), y, 2)
    np.testing.assert_allclose([found["accuracy_instance_01"], found["accuracy_instance_02"]], [1.0, 0.0])


def test_a_sequence_holds_every_example_once_with_its_label_in_a_new_order():
    whole = sequence.whole(Episode(SUPPORT, QUERY), jax.random.key(1))
    rows = {bytes(np.asarray(x)): int(y) for x, y in zip(whole.x, whole.y, strict=True)}
    expected = {bytes(np.asarray(x)): int(y) for b in (SUPPORT, QUERY) for x, y in zip(b.x, b.y, strict=True)}
    assert rows == expected
    assert not np.array_equal(whole.y, sequence.whole(Episode(SUPPORT, QUERY), jax.random.key(2)).y)


@pytest.mark.parametrize("learner", READERS)
def test_an_answer_depends_on_earlier_labels_only(learner):
    reader, params = learner.reader(), learner.init(NET, jax.random.key(2), SUPPORT.x)
    read = jax.jit(lambda y: sequence.read(reader, NET, params, Batch(SUPPORT.x, y))[1])
    outputs, changed = read(SUPPORT.y), read(SUPPORT.y.at[2].set(3))
    np.testing.assert_array_equal(outputs[:3], changed[:3])
    assert (np.abs(outputs[3:] - changed[3:]).max(1) > 0).all()
    last = read(SUPPORT.y.at[-1].set(3))
    np.testing.assert_array_equal(outputs, last)


@pytest.mark.parametrize("learner", READERS)
def test_to_adapt_and_predict_is_the_next_step_of_one_long_sequence(learner):
    reader, params = learner.reader(), learner.init(NET, jax.random.key(2), SUPPORT.x)
    memory = jax.jit(lambda key: learner.adapt(NET, params, SUPPORT, key))(jax.random.key(3))
    predicted = jax.jit(lambda memory: learner.predict(NET, memory, QUERY.x))(memory)
    read = jax.jit(lambda x, y: sequence.read(reader, NET, params, Batch(x, y))[1])
    order = jax.random.permutation(jax.random.key(3), len(SUPPORT.y))
    for i in range(2):
        x = jnp.concatenate([SUPPORT.x[order], QUERY.x[i : i + 1]])
        y = jnp.concatenate([SUPPORT.y[order], jnp.array([0])])  # the query's own label is never seen
        np.testing.assert_allclose(predicted[i], read(x, y)[-1, :WAYS], rtol=1e-5, atol=1e-6)


def test_a_mann_with_one_step_has_the_gradient_of_every_steps_loss():
    learner, params = MANN_, MANN_.init(NET, jax.random.key(2), SUPPORT.x)
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    grads, metrics = jax.jit(lambda *a: learner.meta_grad(NET, *a))(params, batch, jax.random.key(3)[None], 0)

    def loss(params):
        whole = sequence.whole(one_of(batch), jax.random.key(3))
        return NET.loss(sequence.read(learner.reader(), NET, params, whole)[1][:, :WAYS], whole.y)[0]

    value, expected = jax.jit(jax.value_and_grad(loss))(params)
    close(grads, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_features_are_standardised_one_example_at_a_time():
    x = np.asarray(3 + 2 * SUPPORT.x)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(sequence.embed(NET, {}, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sequence.embed(NET, {}, x[:, :1]), x[:, :1])


def test_a_block_of_attention_is_numpys():
    """Pre-normalised attention of two heads to what is seen and to itself, then two layers (Vaswani et al. 2017)."""
    k_params, k_tokens, k_context = jax.random.split(jax.random.key(0), 3)
    tokens, context = jax.random.normal(k_tokens, (3, 4)), jax.random.normal(k_context, (5, 4))
    seen = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    block = Block(heads=2)
    params = block.init(k_params, tokens, context, seen)
    p = jax.tree.map(np.asarray, params["params"])

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    (q, own_k, own_v), (_, k, v) = (np.split(dense("qkv", norm(np.asarray(x))), 3, axis=1) for x in (tokens, context))
    read = np.zeros((3, 4))
    for n in range(3):
        for head in (slice(0, 2), slice(2, 4)):
            keys = np.concatenate([k[seen[n], head], own_k[n : n + 1, head]])
            values = np.concatenate([v[seen[n], head], own_v[n : n + 1, head]])
            weights = np.exp(keys @ q[n, head] / np.sqrt(2))
            read[n, head] = weights / weights.sum() @ values
    expected = np.asarray(tokens) + dense("out", read)
    expected = expected + dense("down", np.asarray(jax.nn.gelu(dense("up", norm(expected)))))
    np.testing.assert_allclose(jax.jit(block.apply)(params, tokens, context, seen), expected, rtol=1e-3, atol=1e-4)


def test_attention_reads_the_support_set_causally_and_each_query_alone():
    learner = Attention(units=8, heads=2, blocks=2, label_width=4)
    params = learner.init(NET, jax.random.key(2), SUPPORT.x)
    transformer = learner.transformer(NET)

    @jax.jit
    def run(z, labels):
        return transformer.apply({"params": params["transformer"]}, z, labels)[0]

    labels = jax.nn.one_hot(SUPPORT.y, 4)
    outputs = run(SUPPORT.x, labels)
    changed = run(SUPPORT.x.at[3].add(1.0), labels)
    np.testing.assert_allclose(outputs[:3], changed[:3], atol=1e-6)
    assert (np.abs(outputs[3:] - changed[3:]).max(1) > 1e-5).all()

    # What was kept of the support set gives a query the answer it has as the last of one sequence.
    fast = jax.jit(lambda key: learner.adapt(NET, params, SUPPORT, key))(jax.random.key(3))
    predicted = jax.jit(lambda fast: learner.predict(NET, fast, QUERY.x))(fast)
    order = jax.random.permutation(jax.random.key(3), len(SUPPORT.y))
    for i in range(2):
        z = sequence.embed(NET, {}, jnp.concatenate([SUPPORT.x[order], QUERY.x[i : i + 1]]))
        together = run(z, jnp.concatenate([labels[order], jnp.zeros((1, 4))]))
        np.testing.assert_allclose(predicted[i], together[-1, :WAYS], rtol=1e-4, atol=1e-5)


def test_fewer_ways_than_labels_leave_the_surplus_out():
    params = jax.jit(lambda key: MANN_.init(NET, key, SUPPORT.x))(jax.random.key(2))
    narrow = dataclasses.replace(MANN_, label_width=WAYS)
    assert params["cell"]["labels"]["bias"].shape == (4,)
    init = jax.eval_shape(lambda: narrow.init(NET, jax.random.key(9), SUPPORT.x))
    assert init["cell"]["labels"]["bias"].shape == (WAYS,)
    predict = lambda: MANN_.predict(NET, MANN_.adapt(NET, params, SUPPORT, jax.random.key(4)), QUERY.x)  # noqa: E731
    assert jax.eval_shape(predict).shape == (6, WAYS)
