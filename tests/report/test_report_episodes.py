"""Test episodes in a report: which are kept and shown, and how."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from support import Page, composed

from metarun.config.build import build
from metarun.engine.evaluate import Answers
from metarun.report import episodes, page, runs
from metarun.run import answers, pictures
from metarun.run.figures import by_success

pytestmark = pytest.mark.usefixtures("unsaved")


def test_episodes_are_ranked_by_what_was_right_or_by_their_error():
    labels = np.array([[0, 1], [0, 1], [0, 1], [0, 1]])
    outputs = np.eye(2)[np.array([[1, 0], [0, 1], [0, 0], [0, 1]])]  # 0, 2, 1 and 2 of 2 right
    assert by_success(outputs, labels).tolist() == [3, 0, 2, 1]
    outputs[1] = np.nan  # two wrong ones, no matter which label stands first
    assert by_success(outputs, labels).tolist() == [2, 3, 1, 0]
    targets = np.zeros((3, 1, 1), np.float32)
    assert by_success(np.array([[[3.0]], [[np.nan]], [[-1.0]]]), targets).tolist() == [1, 2, 0]


def test_the_best_the_median_and_the_worst_of_the_whole_test_are_kept_then_the_first():
    assert answers.telling(np.array([4, 3, 2, 1, 0, 5, 8, 7, 6])).tolist() == [4, 0, 6, 1, 2, 3]
    assert answers.telling(np.array([1, 0])).tolist() == [1, 0]
    assert answers.telling(np.array([0])).tolist() == [0]


def test_a_run_keeps_and_shows_the_best_the_median_and_the_worst(two_runs):
    for name in ("blobs", "sinusoid"):
        (run,) = runs.read([two_runs / name])
        kept = run.examples
        assert sorted(set(kept["rank"].tolist()) & {0, 3, 7}) == [0, 3, 7]
        assert kept["tested"].tolist() == [8] * 6
        titles = [title for title, _ in episodes.episodes(run)]
        assert titles == ["Best of 8 test episodes", "Median of 8 test episodes", "Worst of 8 test episodes"]
    # Targets are drawn anew, from the keys of these episodes: the errors that they give are in the order of the ranks.
    errors = ((kept["outputs"] - kept["query_y"]) ** 2).mean((1, 2))[np.argsort(kept["rank"])]
    assert np.all(np.diff(errors) > 0)


def test_an_older_run_shows_the_best_the_median_and_the_worst_of_the_few_it_kept(two_runs):
    (run,) = runs.read([two_runs / "sinusoid"])
    old = {name: array for name, array in run.examples.items() if name not in ("index", "rank", "tested")}
    ranks = by_success(old["outputs"], old["query_y"])
    shown = episodes.telling(old)
    assert [title for title, _ in shown] == [
        f"{one} of the first 6 test episodes" for one in ("Best", "Median", "Worst")
    ]
    assert [ranks[i] for _, i in shown] == [0, 2, 5]


def test_vectors_are_drawn_the_darker_the_larger_a_number():
    one, other = pictures.strips(np.array([[0.0, 1.0, 3.0, 4.0]]), np.array([[4.0, np.nan, 2.0, np.inf]]))
    np.testing.assert_array_equal(one[:, :, :, 0], [[[0, 0.25, 0.75, 1]]])
    np.testing.assert_array_equal(other[:, :, :, 0], [[[1, 0, 0.5, 1]]])
    (long,) = pictures.strips(np.arange(100.0)[None])
    assert long.shape == (1, 5, 20, 1)
    (alike,) = pictures.strips(np.ones((2, 3)))
    np.testing.assert_array_equal(alike, np.zeros((2, 1, 3, 1)))


def test_episodes_of_vectors_are_shown_in_pictures(two_runs):
    (run,) = runs.read([two_runs / "blobs"])
    assert page.html([run]).count('<img src="data:image/png;base64,') == 3 * (3 + 6)


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_pictures_are_what_was_drawn():
    grey = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1)
    np.testing.assert_array_equal(pixels(episodes.picture(grey)), (255 * grey[:, :, 0]).astype(np.uint8))
    colours = np.linspace(0, 1, 18, dtype=np.float32).reshape(2, 3, 3)
    np.testing.assert_array_equal(pixels(episodes.picture(colours)), (255 * colours).astype(np.uint8))
    assert episodes.picture(grey[:, :, 0]) is None


@pytest.mark.parametrize(("said", "dark"), [(True, True), (False, False), (None, True)])
def test_ink_is_shown_black_on_white_and_a_photograph_as_it_is(said, dark):
    grey = (np.arange(256, dtype=np.float32) / 255).reshape(1, 16, 16, 1)
    e = {"support_x": grey, "query_x": grey, "support_y": np.array([0]), "query_y": np.array([0])}
    e |= {"outputs": np.array([[1.0, 0.0]])} | ({} if said is None else {"inverted": np.array(said)})
    seen = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shown = episodes.classified(e)
    np.testing.assert_array_equal(pixels(shown.query[0].image), 255 - seen if dark else seen)
    framed = pictures.framed(pictures.inputs(e)[1], ["#000000"])[0, 1:-1, 1:-1]
    np.testing.assert_allclose(255 * framed, np.repeat((255 - seen if dark else seen)[..., None], 3, -1), atol=1e-4)


def test_whether_images_were_inverted_is_told_of_all_tasks():
    folder = ("task=folder", "task.path=x", "task.image.side=28", "task.image.colour=grey")
    for settings, inverted in (
        (("task=strokes",), True),
        (("task=omniglot",), True),
        (folder, False),
        ((*folder, "task.image.invert=true"), True),
        (("task=miniimagenet",), False),
        (("task=sinusoid",), False),
    ):
        assert answers.is_inverted(build("task", composed(*settings)["task"])) == inverted, settings


def test_an_episode_is_shown_with_what_was_predicted(two_runs):
    (run,) = runs.read([two_runs / "blobs"])
    images = np.zeros((1, 3, 2, 2, 1), np.float32)
    examples = {
        "support_x": images, "support_y": np.array([[0, 1, 2]]),
        "query_x": images, "query_y": np.array([[0, 2, 1]]),
        "outputs": np.array([[[9.0, 0, 0], [0, 0, 9], [9, 0, 0]]]), "names": np.array([["a", "b", "c"]]),
    }  # fmt: skip
    ((title, episode),) = episodes.episodes(dataclasses.replace(run, examples=examples))
    assert title == "Best of the first 1 test episodes"
    assert [shown.name for shown in episode.support] == ["a", "b", "c"]
    assert [(shown.name, shown.predicted, shown.right) for shown in episode.query] == [
        ("a", "a", True), ("c", "c", True), ("b", "a", False)
    ]  # fmt: skip
    assert (episode.right, episode.asked, episode.supported) == (2, 3, 3)
    text = page.html([dataclasses.replace(run, examples=examples)])
    assert text.count('<img src="data:image/png;base64,') == 6
    assert "2 of 3 right" in text
    assert "a, is b" in Page(text).text
    examples["outputs"][0, 0] = np.nan  # whose largest is the first, which is the true one
    ((_, episode),) = episodes.episodes(dataclasses.replace(run, examples=examples))
    assert (episode.right, episode.query[0].predicted, episode.query[0].right) == (1, "not a number", False)
    ((_, caption, _),) = pictures.of_episodes(examples)
    assert "1 of 3 right" in caption


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("output", "said"), [(0.5, "0.25"), (1e30, "1e+60"), (np.nan, "not a number"), (np.inf, "not a number")]
)
def test_a_regressions_error_is_told_however_large_it_is(output, said):
    x = np.linspace(0, 1, 4, dtype=np.float32)[:, None]
    e = {"support_x": x, "support_y": 0 * x, "query_x": x, "query_y": 0 * x}
    e["outputs"] = np.full_like(x, output)
    assert episodes.fitted(e).said == f"squared error {said}"
    assert pictures.fitted(e)[0] == f"mean squared error {said}"


def test_of_a_large_episode_the_first_examples_are_shown_and_all_are_counted(two_runs):
    (run,) = runs.read([two_runs / "blobs"])
    most = episodes.MOST_SHOWN
    outputs = np.zeros((1, most + 5, 2))
    outputs[0, most:, 1] = 1  # only those that are not shown are right
    examples = {
        "support_x": np.zeros((1, most + 20, 2, 2, 1)), "support_y": np.zeros((1, most + 20), int),
        "query_x": np.zeros((1, most + 5, 2, 2, 1)), "query_y": np.ones((1, most + 5), int), "outputs": outputs,
    }  # fmt: skip
    text = page.html([dataclasses.replace(run, examples=examples)])
    assert text.count('<img src="data:image/png;base64,') == 2 * most
    assert f"Support, {most} of {most + 20}" in text
    assert f"Query, {most} of {most + 5}" in text
    assert f": 5 of {most + 5} right" in text


def test_classes_are_counted_over_tasks_by_name():
    found = Answers(
        outputs=np.eye(2)[np.array([[0, 1, 1], [0, 0, 1]])],
        y=np.array([[0, 1, 0], [0, 1, 1]]),
        classes=np.array([[2, 0], [0, 1]]),
    )
    counted = answers.by_class(found, ["a", "b", "a"])
    # Tasks: (a as 0, a as 1): right, right, wrong but of the same name; (a, b): right, b taken for a, right.
    assert counted.classes == {"a": (4, 4), "b": (1, 2)}
    assert counted.confusions == [("b", "a", 1)]
    found.outputs[1, 2] = np.nan  # taken for nothing
    assert answers.by_class(found, ["a", "b", "a"]).classes == {"a": (4, 4), "b": (0, 2)}
