"""Training images changed at random: what each change does, how often, and to which images."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from support import composed, equal, run_of

from metarun.config.build import build
from metarun.core import ConfigError
from metarun.tasks import classes
from metarun.tasks.augment import Augment, Augmentation, augmented, changed, turned

OFF = Augment(rotate=0.0, crop=0, flip=False, brightness=0.0, contrast=0.0, saturation=0.0, cutout=0)
SIDE, N = 6, 6000


def how(**changes) -> Augment:
    return dataclasses.replace(OFF, **changes)


def images(n: int = N, channels: int = 3, low: float = 0.2) -> np.ndarray:
    """n times the same image: no two of its pixels are alike, none is black."""
    one = np.random.default_rng(0).uniform(low, 1, (SIDE, SIDE, channels)).astype(np.float32)
    return np.broadcast_to(one, (n, SIDE, SIDE, channels))


def after(which: Augment, x: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.asarray(jax.jit(lambda x, key: augmented(x, key, which))(x, jax.random.key(seed)))


def counts_of(found: np.ndarray, every: list[np.ndarray]) -> np.ndarray:
    """How many of `found` are each of `every`; all of them must be one."""
    same = np.array([(found == one).reshape(len(found), -1).all(1) for one in every])
    assert (same.sum(0) == 1).all()
    return same.sum(1)


def chi_squared(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_a_flip_is_the_mirror_image_or_the_image_evenly():
    x = images()
    counts = counts_of(after(how(flip=True), x), [x[0], x[0][:, ::-1]])
    assert chi_squared(counts) < 15.1  # 1 degree of freedom, one time in 10,000


def test_a_crop_is_a_window_of_the_framed_image_each_as_likely_as_another():
    x = images()
    framed = np.pad(x[0], ((2, 2), (2, 2), (0, 0)))
    windows = [framed[i : i + SIDE, j : j + SIDE] for i in range(5) for j in range(5)]
    assert chi_squared(counts_of(after(how(crop=2), x), windows)) < 60  # 24 degrees of freedom


def test_cutout_makes_one_square_black_each_as_likely_as_another():
    x = images()
    every = []
    for i in range(4):
        for j in range(4):
            one = x[0].copy()
            one[i : i + 3, j : j + 3] = 0
            every.append(one)
    assert chi_squared(counts_of(after(how(cutout=3), x), every)) < 46  # 15 degrees of freedom


def test_brightness_contrast_and_saturation_are_factors_within_their_bounds():
    x = images(low=0.45)[..., :] * 0.6  # far from 0 and 1: nothing is cut off
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    middles = {
        "brightness": np.zeros_like(x),
        "contrast": np.broadcast_to(grey.mean((1, 2))[:, None, None, None], x.shape),
        "saturation": np.broadcast_to(grey[..., None], x.shape),
    }
    for name, middle in middles.items():
        found = after(how(**{name: 0.3}), x)
        factors = ((found - middle) * (x - middle)).sum((1, 2, 3)) / ((x - middle) ** 2).sum((1, 2, 3))
        np.testing.assert_allclose(found, middle + factors[:, None, None, None] * (x - middle), atol=1e-5)
        assert 0.7 - 1e-4 <= factors.min() < 0.701
        assert 1.299 < factors.max() <= 1.3 + 1e-4
        np.testing.assert_allclose(factors.mean(), 1, atol=0.01)
        np.testing.assert_allclose(factors.std(), 0.3 / np.sqrt(3), atol=0.005)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_stay_from_0_to_1(name):
    x = np.array(images(200, low=0.0))
    x[:, 0, 0], x[:, 0, 1] = [1, 0, 0], [1, 1, 0]  # of the strongest colours, so that all three would leave the range
    found = after(how(**{name: 1.0}), x)
    assert found.min() == 0
    assert found.max() == 1


def test_a_rotation_is_within_its_bounds_and_of_all_colours_alike():
    """A bright line from the middle upwards tells by how much it was turned."""
    x = np.zeros((500, 33, 33, 3), np.float32)
    x[:, :16, 16] = 1
    found = after(how(rotate=30.0), x)
    np.testing.assert_allclose(found[..., :1] + 0 * found, found, atol=1e-6)
    down, right = np.meshgrid(np.arange(33) - 16, np.arange(33) - 16, indexing="ij")
    total = found[..., 0].sum((1, 2))
    angles = np.degrees(
        np.arctan2((found[..., 0] * right).sum((1, 2)) / total, -(found[..., 0] * down).sum((1, 2)) / total)
    )
    assert 28 < np.abs(angles).max() < 31
    np.testing.assert_allclose(angles.mean(), 0, atol=4)
    np.testing.assert_allclose(angles.std(), 30 / np.sqrt(3), atol=1.5)


def test_an_image_is_turned_counter_clockwise_about_its_middle():
    x = images(1)[0]
    by = jax.jit(turned)
    for quarters in range(-1, 3):
        np.testing.assert_allclose(by(x, quarters * np.pi / 2), np.rot90(x, quarters), atol=1e-5)


def test_each_image_is_changed_by_itself_and_what_is_switched_on_moves_nothing_else():
    x = images(400)
    both = after(how(flip=True, cutout=2), x)
    flipped = after(how(flip=True), x)
    seen = both != 0
    np.testing.assert_array_equal(both[seen], flipped[seen])
    assert (seen.sum((1, 2, 3)) == 3 * (SIDE * SIDE - 4)).all()
    is_flipped = (flipped == x[0][:, ::-1]).reshape(400, -1).all(1)
    assert 140 < is_flipped.sum() < 260
    one = jax.jit(lambda x: changed(x, jax.random.uniform(jax.random.key(0), (400, 9))[7], how(flip=True)))(x[7])
    np.testing.assert_array_equal(one, flipped[7])


def test_grey_images_are_changed_too():
    x = images(100, channels=1)
    found = after(how(brightness=0.3, contrast=0.3, crop=1, flip=True, rotate=10.0, cutout=1), x)
    assert found.shape == x.shape
    assert np.abs(found - x).mean() > 0.05


def cifar(cifar_dir: str, augment: Augmentation | None):
    from metarun.tasks.cifar_fs import CifarFS

    return CifarFS(ways=3, shots=4, queries=5, data_dir=cifar_dir, augment=augment)


def program(sample: Callable, data) -> str:
    """All that is computed of a split's data and a key."""
    traced = jax.make_jaxpr(sample)(data, jax.random.key(0))
    assert not traced.consts
    return str(traced)


def test_with_all_off_episodes_and_program_are_those_without(cifar_dir):
    without, off = cifar(cifar_dir, None), cifar(cifar_dir, Augmentation(OFF, OFF))
    data = without.load("train")
    plain = program(lambda data, key: classes.sample(without, data, key), data)
    for tasks in (without, off):
        assert program(tasks.sample, data) == plain


@pytest.mark.parametrize("part", ["support", "query"])
def test_support_and_query_are_changed_apart(cifar_dir, part):
    other = {"support": "query", "query": "support"}[part]
    tasks = cifar(cifar_dir, Augmentation(**{part: how(cutout=4), other: OFF}))
    data = tasks.load("train")
    found = jax.jit(tasks.sample)(data, jax.random.key(0))
    k_draw = jax.random.split(jax.random.key(0), 3)[0]
    as_drawn = jax.jit(lambda data, key: classes.sample(tasks, data, key))(data, k_draw)
    equal(getattr(found, other), getattr(as_drawn, other))
    equal(found.classes, as_drawn.classes)
    mine, before = getattr(found, part), getattr(as_drawn, part)
    np.testing.assert_array_equal(mine.y, before.y)
    black = (np.asarray(mine.x) != np.asarray(before.x)).any(-1)
    assert (black.sum((1, 2)) <= 16).all()
    assert len({one.tobytes() for one in black}) > len(black) / 2  # not all in the same place


def test_support_and_query_have_random_numbers_of_their_own(cifar_dir):
    tasks = dataclasses.replace(cifar(cifar_dir, Augmentation(how(cutout=4), how(cutout=4))), queries=4)
    support, query, *_ = jax.jit(tasks.sample)(tasks.load("train"), jax.random.key(0))
    places = [(np.asarray(batch.x)[:, 1:, :-1] == 0).all(-1) for batch in (support, query)]
    assert not np.array_equal(*places)


ON = ("task.augment.support.flip=true", "task.augment.query.crop=4", "augment@task.augment.query=standard")


@pytest.mark.parametrize("task", ["cifar_fs", "fc100", "miniimagenet", "folder"])
def test_only_training_is_augmented(task, data_for):
    plain, on = (run_of(f"task={task}", *data_for(task), *settings) for settings in ((), ON))
    assert on.tasks.augment == Augmentation(
        how(flip=True), how(crop=4, flip=True, brightness=0.4, contrast=0.4, saturation=0.4)
    )
    assert plain.tasks.augment == Augmentation(OFF, OFF)
    assert on.eval_tasks == plain.eval_tasks == dataclasses.replace(on.tasks, augment=None)


def test_validation_and_test_show_the_same_episodes_with_and_without(cifar_dir):
    plain, on = (run_of("task=cifar_fs", f"data_dir={cifar_dir}", *settings) for settings in ((), ON))
    for split in ("val", "test"):
        data = on.eval_tasks.load(split)
        equal(data, plain.eval_tasks.load(split))
        assert program(on.eval_tasks.sample, data) == program(plain.eval_tasks.sample, data)
    data = on.tasks.load("train")
    one, other = (jax.jit(run.tasks.sample)(data, jax.random.key(3)) for run in (on, plain))
    assert not np.array_equal(one.query.x, other.query.x)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.augment.support.crop=32", "task.augment.support.crop=32: less than 32, the images' side in pixels"),
        ("task.augment.query.cutout=40", "task.augment.query.cutout=40: less than 32"),
        ("task.augment.query.flip=2", "task.augment.query.flip=2: must be true or false"),
        ("task.augment.query.rotate=181.0", "task.augment.query.rotate=181.0: must be a number >= 0 and <= 180"),
        ("task.augment.support.contrast=1.5", "task.augment.support.contrast=1.5: must be a number >= 0 and <= 1"),
        ("++task.augment.support.flop=true", "task.augment.support.flop=True: no such key; did you mean flip?"),
        ("++eval.task.augment.support.flip=true", "eval.task.augment=.*goes under task.augment"),
        ("++train.task.augment.support.flip=true", "train.task.augment=.*goes under task.augment"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(override, said):
    with pytest.raises(ConfigError, match=said) as error:
        run_of("task=cifar_fs", override)
    assert "\n" not in str(error.value)


def test_grey_images_have_no_saturation():
    values = composed("task=folder", "task.path=x", "task.image.colour=grey", "task.augment.query.saturation=0.1")
    with pytest.raises(ConfigError, match=r"task.augment.query.saturation=0.1: 0, as the images are grey"):
        build("task", values["task"])
