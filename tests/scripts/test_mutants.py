"""The list of mutants fits the files; what pytest says of one is told apart."""

from pathlib import Path

import mutants
import pytest
from mutants import Mutant, Stale

MUTANTS = mutants.read()


def test_what_a_mutant_changes_stands_once_in_its_file_and_its_tests_are_there():
    assert mutants.stale(MUTANTS, mutants.ROOT) == []
    assert [mutant for mutant in MUTANTS if mutant.before == mutant.after] == []


def test_no_mutant_is_there_twice():
    assert len({(mutant.file, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.area, mutant.name) for mutant in MUTANTS}) == len(MUTANTS) >= 60


@pytest.fixture(scope="module")
def pytest_(tmp_path_factory):
    """Without what takes long to import: the tree below needs none of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        started = mutants.Pytest(tmp_path_factory.mktemp("forks"), imports=["pytest"])
    with started:
        yield started


@pytest.fixture
def tree(tmp_path) -> Path:
    """A program of one line, and its test."""
    root = tmp_path / "metarun"
    root.mkdir()
    (root / "double.py").write_text("def double(x):\n    return 2 * x\n")
    (root / "test_double.py").write_text("from double import double\n\n\ndef test():\n    assert double(2) == 4\n")
    return root


@pytest.mark.parametrize(
    ("after", "equivalent", "verdict"),
    [
        ("3 * x", None, "killed"),
        ("x**2", None, "survived"),
        ("x * 2", "the product of two numbers knows no order", "changes nothing"),
        ("3 * x", "wrongly said", "broken"),
        ("y * 2", None, "broken"),  # there is no y
        ("__import__('time').sleep(60)", None, "killed by the clock"),
        ("2 * x\n\n\nimport nowhere", None, "broken"),  # nothing is collected: the tests have noticed nothing
    ],
)
def test_what_came_of_a_mutant_is_told_apart_and_the_tree_is_mended(tree, pytest_, after, equivalent, verdict):
    before = (tree / "double.py").read_text()
    mutant = Mutant("area", "name", "double.py", "2 * x", after, ("test_double.py::test",), equivalent)
    found = mutants.tried(mutant, tree, pytest_, seconds=2 if verdict == "killed by the clock" else 60)
    assert found.verdict == verdict, found.said
    assert (tree / "double.py").read_text() == before


def test_a_list_that_no_longer_fits_is_refused(tree):
    for file, before, times in (("double.py", "5 * x", 0), ("test_double.py", "double", 3)):
        with pytest.raises(Stale, match=f"stands {times} times in {file}, not once"):
            mutants.mutated(Mutant("area", "name", file, before, "", ()), tree)
    gone = Mutant("area", "name", "double.py", "2 * x", "3 * x", ("test_double.py::test_other", "test_double.py::test"))
    assert mutants.stale([gone], tree) == ["name: there is no test_double.py::test_other: mend the list"]
    with pytest.raises(SyntaxError):
        mutants.mutated(Mutant("area", "name", "double.py", "2 * x", "2 *", ()), tree)


def test_the_page_counts_by_area():
    each = [
        Mutant(area, str(i), "file", "a", "b", ()) for i, area in enumerate(("tasks", "tasks", "learners", "tasks"))
    ]
    page = mutants.page(each, ["killed", "survived", "killed by the clock", "changes nothing"], "86c15dd9", 120.0)
    assert "| tasks | 3 | 1 | 1 | 1 |" in page
    assert "| learners | 1 | 1 | 0 | 0 |" in page
    assert "| all | 4 | 2 | 1 | 1 |" in page
    assert "commit 86c15dd9, in 2 minutes" in page
