"""The six families: each one's function, the ranges of its parameters, its share, the noise."""

import jax
import numpy as np
import pytest

from metarun.tasks import mixture
from metarun.tasks.mixture import FAMILIES, Mixture

# Each family's function, written in another way, and the middle and half-width of each of its parameters.
FUNCTIONS = {
    "sinusoid": lambda a, b, c, x, y: a * (np.sin(b * x) * np.cos(c) + np.cos(b * x) * np.sin(c)),
    "line": lambda a, b, x, y: np.polyval([a, b], x),
    "quadratic": lambda a, b, c, x, y: np.polyval([a, b, c], x),
    "cubic": lambda a, b, c, d, x, y: np.polyval([a, b, c, d], x),
    "quadratic_surface": lambda a, b, x, y: np.stack([x * x, y * y], -1) @ np.array([a, b]),
    "ripple": lambda a, b, x, y: b - np.sin(a * x * x + a * y * y),
}
PARAMETERS = {
    "sinusoid": ([2.55, 1.0, np.pi], [2.45, 0.2, np.pi]),
    "line": ([0, 0], [3, 3]),
    "quadratic": ([0, 0, 0], [0.2, 2, 3]),
    "cubic": ([0, 0, 0, 0], [0.1, 0.2, 2, 3]),
    "quadratic_surface": ([0, 0], [1, 1]),
    "ripple": ([0, 0], [0.2, 3]),
}


@pytest.fixture(scope="module")
def functions() -> tuple[np.ndarray, np.ndarray]:
    """12,000 functions: their families and parameters."""
    keys = jax.random.split(jax.random.key(0), 12_000)
    families, parameters = jax.jit(jax.vmap(mixture.function))(keys)
    return np.asarray(families), np.asarray(parameters)


values = jax.jit(mixture.values)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_parameters_are_even_in_the_papers_ranges_and_its_function_is_the_papers(functions, name):
    families, parameters = functions
    number = FAMILIES.index(name)
    middle, half = PARAMETERS[name]
    found = (parameters[families == number][:, : len(half)] - middle) / half
    assert not parameters[families == number][:, len(half) :].any()
    assert np.abs(found).max() <= 1 + 1e-6
    np.testing.assert_allclose([found.min(0), found.max(0)], [[-1] * len(half), [1] * len(half)], atol=0.02)
    np.testing.assert_allclose(found.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(found.std(0), 1 / np.sqrt(3), atol=0.03)

    x, y = np.random.default_rng(0).uniform(0, 5, (2, 50)).astype(np.float32)
    for own in parameters[families == number][:5]:
        got = values(np.int32(number), own, x, y)
        want = FUNCTIONS[name](*own[: len(half)].astype(float), x.astype(float), y.astype(float))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_each_family_is_as_likely_as_another(functions):
    counts = np.bincount(functions[0], minlength=6)
    assert ((counts - 2000) ** 2 / 2000).sum() < 25.7  # of chi-squared with 5 degrees of freedom, 1 time in 10,000


def test_an_episode_is_one_function_at_even_points_and_curves_are_of_x_alone(functions):
    def one(key):
        support, query, _, group = Mixture(10, 20, 0.0).sample((), jax.random.clone(key))
        return support, query, group, mixture.function(jax.random.split(key, 3)[0])

    support, query, group, (family, parameters) = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 3000))
    np.testing.assert_array_equal(group, family)
    points, targets = (np.concatenate([getattr(support, n), getattr(query, n)], 1) for n in "xy")
    curves = np.asarray(family) < 4
    assert (points[curves][..., 1] == 1).all()
    for coordinate in (points[..., 0], points[~curves][..., 1]):
        assert 0 <= coordinate.min() < 0.01
        assert 4.99 < coordinate.max() <= 5
        np.testing.assert_allclose(coordinate.mean(), 2.5, atol=0.03)
    want = jax.jit(jax.vmap(mixture.values))(family, parameters, points[..., 0], points[..., 1])
    np.testing.assert_allclose(targets[..., 0], want, rtol=1e-4, atol=1e-4)


def test_the_noise_is_gaussian_of_its_size_in_support_and_query_alike():
    keys = [jax.random.split(jax.random.key(0), 12_000) for _ in range(2)]
    still, noisy = jax.device_get(
        [
            jax.jit(jax.vmap(Mixture(10, 20, noise).sample, (None, 0)))((), k)
            for noise, k in zip((0.0, 0.3), keys, strict=True)
        ]
    )
    for part in (noisy.support.y - still.support.y, noisy.query.y - still.query.y):
        np.testing.assert_allclose(part.std(), 0.3, atol=0.003)
        np.testing.assert_allclose(part.mean(), 0, atol=0.005)
        np.testing.assert_allclose((np.abs(part) < 0.3).mean(), 0.6827, atol=0.005)
