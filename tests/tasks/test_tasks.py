"""What is particular to each task distribution."""

import dataclasses
import io
import zipfile
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from support import run_of

from metarun.core import ConfigError, DataError
from metarun.tasks import omniglot, strokes
from metarun.tasks.omniglot import Omniglot
from metarun.tasks.sinusoid import Sinusoid
from metarun.tasks.strokes import Strokes


def test_sinusoid_is_one_wave_within_the_ranges():
    task = Sinusoid(shots=10, queries=30, amplitude=(0.1, 5.0), phase=(0.0, np.pi), x=(-5.0, 5.0))
    for seed in range(20):
        support, query, *_ = task.sample((), jax.random.key(seed))
        x, y = (np.concatenate([getattr(support, n), getattr(query, n)])[:, 0] for n in "xy")
        assert x.min() >= -5
        assert x.max() <= 5
        # y = a sin x - b cos x with a = A cos(phase), b = A sin(phase): two unknowns, forty points.
        basis = np.stack([np.sin(x), -np.cos(x)], axis=1)
        (a, b), *_ = np.linalg.lstsq(basis, y, rcond=None)
        np.testing.assert_allclose(basis @ [a, b], y, atol=1e-4)
        assert 0.1 <= np.hypot(a, b) <= 5.0
        assert -1e-4 <= np.arctan2(b, a) <= np.pi + 1e-4


def test_waves_of_intervals_are_as_likely_of_one_as_of_another_and_within_it():
    intervals = ((0.1, 1.05, 95), (4.95, 5.0, 5))
    task = Sinusoid(1, 200, amplitude=(0.1, 5.0), phase=(0.0, np.pi), x=(-5.0, 5.0), intervals=intervals)
    edges = [(0.1 + 0.01 * i, 0.11 + 0.01 * i) for i in range(95)] + [
        (4.95 + 0.01 * i, 4.96 + 0.01 * i) for i in range(5)
    ]
    np.testing.assert_allclose(task.bounds(), edges, atol=1e-6)
    names = task.group_names("test")
    assert (len(names), names[0], names[95]) == (100, "0.1 to 0.11", "4.95 to 4.96")
    drawn = jax.jit(jax.vmap(task.sample, (None, 0)))((), jax.random.split(jax.random.key(0), 5000))
    highest = np.abs(drawn.query.y).max((1, 2))  # of 200 points of a wave: nearly its amplitude
    low, high = np.array(edges)[np.asarray(drawn.group)].T
    assert (highest <= high + 1e-4).all()
    assert (highest > 0.97 * low).all()
    counts = np.bincount(drawn.group, minlength=100)
    assert ((counts - 50) ** 2 / 50).sum() < 163  # of chi-squared with 99 degrees of freedom, 1 time in 20,000
    offset = (highest - low) / 0.01
    assert np.quantile(offset[low > 4.9], 0.9) > 0.7  # the whole of an interval


def test_without_intervals_waves_are_those_of_before_and_in_no_groups():
    task = Sinusoid(5, 5, amplitude=(0.1, 5.0), phase=(0.0, np.pi), x=(-5.0, 5.0))
    assert task.group_names("test") is None
    drawn = task.sample((), jax.random.key(0))
    assert drawn.group is None
    keys = jax.random.split(jax.random.key(0), 3)
    amplitude = jax.random.uniform(keys[0], minval=0.1, maxval=5.0)
    phase = jax.random.uniform(keys[1], minval=0.0, maxval=np.pi)
    np.testing.assert_allclose(drawn.query.y, amplitude * jnp.sin(drawn.query.x - phase), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[[0.1,1.0]]", r"task\.intervals=\[\[0\.1, 1\.0\]\]: must be a list, each a list of 3"),
        ("[[1.0,0.1,5]]", r"task\.intervals=\[1\.0, 0\.1, 5\]: the lowest amplitude first"),
        ("[[0.1,1.0,0]]", r"task\.intervals=\[\[0\.1, 1\.0, 0\]\]: must be"),
        ("[[0.1,1.0,20000]]", r"task\.intervals=20,000 together: at most 10,000"),
        ("3", r"task\.intervals=3: must be a list"),
    ],
)
def test_intervals_that_are_none_are_refused_in_a_line(given, told):
    with pytest.raises(ConfigError, match=told) as refused:
        run_of("task=sinusoid", f"task.intervals={given}")
    assert "\n" not in str(refused.value)


def test_strokes_splits_never_meet():
    task = Strokes(ways=7, shots=1, queries=1, jitter=1.0, pool=None)
    ranges = [(strokes.FIRST_CLASS[s], strokes.FIRST_CLASS[s] + strokes.CLASSES) for s in ("train", "val", "test")]
    assert all(a_end <= b_first for (_, a_end), (b_first, _) in pairwise(ranges))
    assert ranges[-1][1] <= 2**31
    draw = jax.jit(jax.vmap(task.classes, (None, 0)))
    for split, (first, end) in zip(("train", "val", "test"), ranges, strict=True):
        numbers = draw(task.load(split), jax.random.split(jax.random.key(0), 500))
        assert numbers.min() >= first
        assert numbers.max() < end
        assert all(len(set(row)) == 7 for row in np.asarray(numbers).tolist())


def test_strokes_label_tells_nothing_of_the_class_number():
    task = Strokes(ways=5, shots=1, queries=1, jitter=1.0, pool=None)
    draw = jax.jit(jax.vmap(task.classes, (None, 0)))
    numbers = np.asarray(draw(task.load("train"), jax.random.split(jax.random.key(0), 2000)))
    counts = np.bincount(numbers[:, 0] % 5, minlength=5)
    assert counts.min() > 300  # 400 expected of each residue


def test_strokes_images_are_ink_on_paper_with_soft_edges():
    draw = jax.jit(jax.vmap(lambda n, key: strokes.draw(strokes.program(n), key, 1.0)))
    images = np.asarray(draw(jnp.arange(200), jax.random.split(jax.random.key(0), 200)))
    assert images.shape == (200, 28, 28, 1)
    assert images.min() >= 0
    assert images.max() <= 1
    assert ((images > 0.1) & (images < 0.9)).mean() > 0.02  # neither black nor white: anti-aliased edges
    inked = (images > 0.5).mean(axis=(1, 2, 3))
    assert (inked > 0.004).all()  # every character shows
    assert inked.mean() < 0.3


def test_a_character_is_drawn_as_a_pen_moves_along_its_curves():
    """Point by point, each curve by de Casteljau's construction; the more ink the farther the pen moves."""
    program = jax.jit(strokes.program)(jnp.int32(5))
    x, y = np.meshgrid(*2 * [(np.arange(strokes.SIDE) + 0.5) * 2 / strokes.SIDE - 1])
    ink = np.zeros_like(x)
    for curve, pressure in zip(np.asarray(program.control, np.float64), program.pressure, strict=True):

        def at(t, curve=curve):
            first, second = (a + t * (b - a) for a, b in pairwise(curve))
            return first + t * (second - first)

        for k in range(strokes.POINTS):
            t = (k + 0.5) / strokes.POINTS
            moved = np.linalg.norm(at(t + 1e-5) - at(t - 1e-5)) / 2e-5 / strokes.POINTS
            away = (x - at(t)[0]) ** 2 + (y - at(t)[1]) ** 2
            ink += pressure * moved / 0.06 * np.exp(-away / (2 * 0.06**2))
    assert program.pressure.sum() >= 2
    drawn = jax.jit(strokes.draw)(program, jax.random.key(0), 0.0)[..., 0]
    np.testing.assert_allclose(drawn, np.minimum(ink, 1), atol=1e-5)


def test_strokes_without_jitter_are_the_same_drawing_and_with_it_are_not():
    program = jax.jit(strokes.program)(jnp.int32(3))
    draw = jax.jit(strokes.draw)
    still = [draw(program, jax.random.key(seed), 0.0) for seed in (0, 1)]
    moved = [draw(program, jax.random.key(seed), 1.0) for seed in (0, 1)]
    np.testing.assert_array_equal(*still)
    assert np.abs(moved[0] - moved[1]).max() > 0.5


@pytest.mark.parametrize(
    ("split", "sizes"),
    [("finn", (1100, 100, 423)), ("vinyals", (1028, 172, 423)), ("lake", (883, 81, 659)), ("reptile", (1150, 50, 423))],
)
def test_omniglot_splits_are_disjoint_and_complete(split, sizes):
    parts = omniglot.characters(split)
    assert tuple(len(parts[part]) for part in ("train", "val", "test")) == sizes
    assert len({name for names in parts.values() for name in names}) == 1623


def test_omniglot_finn_split_never_changes():
    task = Omniglot(5, 1, 1, "finn", None)
    digests = [task.digest(split) for split in ("train", "val", "test")]
    assert digests == ["13e0c6e855f6524d", "e170cfddb721fba5", "075c149fb04efe7a"]


def test_a_quarter_turn_is_counter_clockwise_and_each_drawing_is_its_own():
    images = jax.random.randint(jax.random.key(0), (5, 6, 6), 0, 256, jnp.uint8)
    rows, turns = jnp.array([[4, 0], [1, 2], [3, 3], [0, 1]]), jnp.array([1, 0, 3, 2])
    drawn = np.asarray(images)
    expected = [[np.rot90(drawn[row], turn) for row in of_class] for of_class, turn in zip(rows, turns, strict=True)]
    look = jax.jit(omniglot.look)
    np.testing.assert_array_equal(look(images, rows, turns), expected)
    still = jnp.zeros((4, 2, 3))
    np.testing.assert_allclose(look(images, rows, turns, still), expected, atol=1e-4)
    by = still.at[..., 1].set(2.0)  # down, whichever way it was turned
    found = np.asarray(look(images, rows, turns, by))
    np.testing.assert_allclose(found[..., 2:, :], np.array(expected)[..., :-2, :], atol=1e-4)


@jax.jit
def moved(image, by):
    """One image (side, side), moved `by` (3,)."""
    return omniglot.look(image[None], jnp.array([[0]]), jnp.array([0]), jnp.asarray(by)[None, None])[0, 0]


def test_a_moved_drawing_is_turned_counter_clockwise_then_goes_down_and_right():
    image = jax.random.uniform(jax.random.key(0), (7, 7))
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(moved(image, jnp.zeros(3)), image, **close)
    np.testing.assert_allclose(moved(image, jnp.array([jnp.pi / 2, 0, 0])), np.rot90(image), **close)
    shifted = moved(image, jnp.array([0.0, 2.0, -1.0]))
    np.testing.assert_allclose(shifted[2:, :-1], image[:-2, 1:], **close)
    assert not np.any(shifted[:2])
    assert not np.any(shifted[:, -1])
    half = moved(image, jnp.array([0.0, 0.5, 0.0]))
    np.testing.assert_allclose(half[1:], (image[1:] + image[:-1]) / 2, **close)
    by = np.array([0.3, 0.7, -1.2])
    down, right = np.meshgrid(*2 * [np.arange(7) - 3], indexing="ij") - by[1:, None, None]
    at = [np.cos(0.3) * down + np.sin(0.3) * right + 3, np.cos(0.3) * right - np.sin(0.3) * down + 3]
    np.testing.assert_allclose(
        moved(image, by), scipy.ndimage.map_coordinates(image, at, order=1, mode="grid-constant"), **close
    )


def test_each_drawing_is_turned_and_shifted_by_itself_within_its_bounds(omniglot_dir):
    still = Omniglot(ways=3, shots=2, queries=2, split="lake", data_dir=omniglot_dir)
    moving = dataclasses.replace(still, rotate=10.0, shift=0.1)
    data = still.load("test")
    before, after = (jax.jit(task.sample)(data, jax.random.key(5)) for task in (still, moving))
    np.testing.assert_array_equal(before.classes, after.classes)
    found = []
    tries = [(a, d, r) for a in np.radians([-10, -5, 0, 5, 10]) for d in (-2, 0, 2) for r in (-2, 0, 2)]
    differences = jax.jit(jax.vmap(lambda x, y, by: jnp.abs(moved(x, by) - y).mean(), (None, None, 0)))
    for x, y in zip(before.query.x[..., 0], after.query.x[..., 0], strict=True):
        apart = np.asarray(differences(x, y, jnp.array(tries)))
        found.append(tries[int(np.argmin(apart))])
        assert apart.min() < np.abs(x - y).mean()
    assert len(set(found)) > 2
    moves = np.array(omniglot.moves(jax.random.key(0), (50, 60), 10.0, 0.1))
    np.testing.assert_allclose(np.abs(moves).max((0, 1)), [np.radians(10), 2.8, 2.8], rtol=0.01)
    assert (np.abs(moves.mean((0, 1))) < [0.01, 0.15, 0.15]).all()


def test_omniglot_episode_shows_the_drawings_turned_per_class(omniglot_dir):
    """Each image of an episode is a drawing of one character, turned by its class's number of quarter turns."""
    task = Omniglot(ways=5, shots=2, queries=3, split="finn", data_dir=omniglot_dir)
    data = task.load("test")
    drawings = data.pool.x.reshape(-1, omniglot.DRAWERS, omniglot.SIDE, omniglot.SIDE)
    lookup = {
        np.rot90(drawings[c, d], turn).tobytes(): (c, d, turn)
        for c in range(len(drawings))
        for d in range(omniglot.DRAWERS)
        for turn in range(4)
    }
    sample, turns, by_episode = jax.jit(task.sample), set(), []
    for seed in range(10):
        by_episode.append(set())
        support, query, classes, *_ = sample(data, jax.random.key(seed))
        x = np.concatenate([support.x, query.x])[..., 0]
        found = [lookup[np.rint(image * 255).astype(np.uint8).tobytes()] for image in x]
        y = np.concatenate([support.y, query.y])
        for label in range(5):
            of_class = [f for f, at in zip(found, y, strict=True) if at == label]
            assert {4 * c + turn for c, _, turn in of_class} == {int(classes[label])}
            assert len({d for _, d, _ in of_class}) == 5
            turns.add(of_class[0][2])
            by_episode[-1].add(of_class[0][2])
        assert len({f[0] for f in found}) == 5
    assert turns == {0, 1, 2, 3}
    assert max(len(of_one) for of_one in by_episode) > 1  # each class of an episode is turned by itself


def test_omniglot_vinyals_counts_a_rotation_as_a_class_and_lake_turns_nothing(omniglot_dir):
    vinyals = Omniglot(5, 1, 1, "vinyals", omniglot_dir).load("train")
    assert vinyals.turns.tolist() == [0, 1, 2, 3] * 1028
    assert vinyals.pool.first.tolist() == [20 * c for c in range(1028) for _ in range(4)]
    lake = Omniglot(5, 1, 1, "lake", omniglot_dir).load("test")
    assert lake.turns.tolist() == [0] * 659


def test_omniglot_drawings_are_ink_1_on_paper_0(omniglot_dir):
    names, images = omniglot.load_drawings(omniglot_dir)
    assert images.shape == (1623, 20, 28, 28)
    assert images.dtype == np.uint8
    with zipfile.ZipFile(f"{omniglot_dir}/omniglot/images_background.zip") as file:
        member = next(n for n in sorted(file.namelist()) if n.endswith(".png") and "Greek/character03" in n)
        original = 255 - np.asarray(Image.open(io.BytesIO(file.read(member))).convert("L"))
    mine = images[names.index("Greek/character03"), 0]
    assert abs(mine.mean() - original.mean()) < 2
    assert mine[0, 0] < 30  # a corner is paper


def flipped(path):
    """An archive in which a byte of a compressed drawing has changed."""
    content = bytearray(archive(path, compression=zipfile.ZIP_DEFLATED).read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)
    return path


def archive(path, characters=2, drawers=20, broken=False, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for c in range(characters):
            for d in range(drawers):
                png = io.BytesIO()
                Image.new("1", (105, 105), 1).save(png, "PNG")
                file.writestr(f"images_background/Greek/character{c + 1:02}/0001_{d + 1:02}.png", png.getvalue())
    if broken:
        path.write_bytes(path.read_bytes()[:-200])
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: archive(p, broken=True), "cannot be read"),
        (lambda p: p.write_text("no zip") and p, "cannot be read"),
        (flipped, "cannot be read"),
        (lambda p: archive(p, drawers=19), "not 20 of each"),
        (lambda p: archive(p, characters=1), "not 20 of each"),
        (lambda p: archive(p), "not the published ones"),
    ],
)
def test_a_damaged_archive_is_refused_by_name(tmp_path, make, says):
    path = make(tmp_path / "images_background.zip")
    expected = omniglot.BACKGROUND._replace(characters=2)
    with pytest.raises(DataError, match=says) as error:
        omniglot.read(path, expected)
    assert str(path) in str(error.value)
    assert "metarun data omniglot" in str(error.value)


def test_strokes_with_a_pool_trains_on_so_many_classes_and_numbers_them():
    task = Strokes(ways=3, shots=1, queries=1, jitter=0.0, pool=6)
    data = task.load("train")
    sample = jax.jit(jax.vmap(task.sample, (None, 0)))
    drawn = jax.device_get(sample(data, jax.random.split(jax.random.key(0), 60)))
    assert set(np.unique(drawn.classes)) == set(range(6))
    # A class's number and its drawing (without jitter) go together, whichever label it has.
    by_class = {}
    for x, classes in zip(drawn.support.x, drawn.classes, strict=True):
        for image, number in zip(x, np.asarray(classes), strict=True):
            np.testing.assert_allclose(by_class.setdefault(int(number), image), image, atol=1e-6)
    assert task.n_classes("test") is None
    assert task.load("test").ndim == 0


def test_omniglot_numbers_a_turned_character_as_a_class_of_its_own(omniglot_dir):
    for split, turns in (("finn", 4), ("vinyals", 4), ("lake", 1), ("reptile", 4)):
        task = Omniglot(ways=5, shots=1, queries=1, split=split, data_dir=omniglot_dir)
        data = task.load("train")
        drawn = jax.jit(jax.vmap(lambda data, key, of=task: of.sample(data, key).classes, (None, 0)))
        classes = np.asarray(drawn(data, jax.random.split(jax.random.key(0), 400)))
        assert task.n_classes("train") == turns * len(data.pool.x) // omniglot.DRAWERS == len(task.class_names("train"))
        assert 0 <= classes.min() < classes.max() < task.n_classes("train")
        assert classes.max() > 0.95 * task.n_classes("train")
