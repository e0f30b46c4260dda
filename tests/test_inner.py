"""Second derivatives forward over reverse are those of reverse over reverse, for every learner that takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import classifier, episodes, run_of

from metarun import gradients, inner
from metarun.gradients import Inner

REVERSE = Inner("reverse", unroll=0, remat=False)
MIXED = Inner("mixed", unroll=0, remat=False)
MORE_WAYS = [Inner("mixed", unroll=9, remat=False), Inner("mixed", 0, remat=True)]
ONE_OF_ITS_OWN = ("mamlpp", "learner.multi_step_loss=2000000")  # half-way; its loop is not `inner.descend`'s
SECOND_ORDER = [
    ("maml",),
    ("maml", "learner.inner_optimizer=adam", "learner.inner_lr=0.01"),
    ONE_OF_ITS_OWN,
    ("proto_maml",),
]
# As maml's, with other parameters.
SAME_LOOP = [("anil",), ("boil",), ("meta_sgd",), ("cavia", "learner.layers=[hidden]")]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def in_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, tree)


def flattened(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    "settings", [*SECOND_ORDER, *(pytest.param(s, marks=pytest.mark.slow) for s in SAME_LOOP)], ids=" ".join
)
def test_every_way_of_differentiating_gives_the_same_meta_gradient(settings, float64):
    learner, net = run_of(f"learner={settings[0]}", *settings[1:], "learner.inner_steps=2").learner, classifier(3)
    batch = in_float64(episodes(2, 3))
    params = in_float64(jax.jit(lambda key: learner.init(net, key, batch.support.x[0]))(jax.random.key(1)))

    def meta_gradient(how):
        def grad(params):
            keys = jax.random.split(jax.random.key(0), 2)
            with gradients.differentiated(how):
                return learner.meta_grad(net, params, batch, keys, jnp.int32(10**6))[0]

        return flattened(jax.jit(grad)(params))

    expected = meta_gradient(REVERSE)
    assert expected.dtype == np.float64
    ways = {("maml",): [MIXED, *MORE_WAYS], ONE_OF_ITS_OWN: MORE_WAYS[1:]}
    for how in ways.get(settings, [MIXED]):
        np.testing.assert_allclose(meta_gradient(how), expected, atol=1e-10 * np.abs(expected).max(), rtol=0)


def test_the_derivative_of_a_gradient_is_the_hessian_and_the_mixed_derivative():
    """L(phi, theta) = sum (phi^3 theta): grad = 3 phi^2 theta, its derivatives 6 phi theta and 3 phi^2."""
    phi, theta, v = np.float32([1, 2]), np.float32([0.5, -1]), np.float32([3, 1])

    def along_v(phi, theta):
        return gradients.gradient(lambda phi: (phi**3 * theta).sum())(phi) @ v

    with gradients.differentiated(MIXED):
        of_phi, of_theta = jax.jit(jax.grad(along_v, argnums=(0, 1)))(phi, theta)
    np.testing.assert_allclose(of_phi, 6 * phi * theta * v, rtol=1e-6)
    np.testing.assert_allclose(of_theta, 3 * phi**2 * v, rtol=1e-6)


def temporary_bytes(how: Inner, steps: int, examples: int = 2000) -> int:
    """The compiled program's buffers: one layer of 8 x 8, many examples, so that activations outweigh parameters."""
    x = np.ones((examples, 8), np.float32)

    def loss(w, _):
        return jnp.square(jnp.tanh(x @ w)).mean()

    def after(w):
        return loss(inner.descend(loss, w, optax.sgd(0.1), steps, first_order=False), 0)

    def grad(w):
        with gradients.differentiated(how):
            return jax.grad(after)(w)

    return jax.jit(grad).lower(np.ones((8, 8), np.float32)).compile().memory_analysis().temp_size_in_bytes


def test_memory_of_mixed_mode_grows_by_parameters_and_of_reverse_mode_by_activations():
    parameters, activations = 4 * 8 * 8, 4 * 2000 * 8
    assert temporary_bytes(MIXED, 40) - temporary_bytes(MIXED, 20) <= 4 * 20 * parameters
    assert temporary_bytes(REVERSE, 40) - temporary_bytes(REVERSE, 20) >= 20 * activations


def test_rematerialisation_keeps_the_root_of_the_steps():
    kept, remat = (temporary_bytes(Inner("mixed", 0, remat), 400, examples=2) for remat in (False, True))
    assert remat < 0.25 * kept


@pytest.mark.parametrize("how", [MIXED, *MORE_WAYS], ids=str)
def test_every_way_of_looping_takes_each_step_once_with_its_index(how):
    def step(i, carry):
        return (7 * carry + i) % 10007

    def looped(carry):
        with gradients.differentiated(how):
            return [inner.loop(steps, step, carry) for steps in (0, 1, 7, 10)]

    found = jax.device_get(jax.jit(looped)(np.int32(1)))
    assert found == [functools.reduce(lambda carry, i: step(i, carry), range(steps), 1) for steps in (0, 1, 7, 10)]
