"""docs/notebook.ipynb and docs/use.md, In Python: the code runs as it stands there."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from test_pages import blocks, section

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def namespace(tmp_path, monkeypatch) -> dict[str, Any]:
    """An empty one, in an empty working directory, where figures are drawn and not shown."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg", force=True)
    return {}


def test_the_notebook_runs_cell_by_cell_and_its_learner_learns_the_curve(namespace):
    notebook = json.loads((DOCS / "notebook.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    curve = 2.5 * np.sin(namespace["line"] + 1)
    before, after = (np.square(namespace[name][:, 0] - curve).mean() for name in ("before", "after"))
    assert after < 0.4 * before
    drawn = namespace["axes"].get_lines()
    np.testing.assert_array_equal(drawn[2].get_ydata(), namespace["after"][:, 0])
    namespace["plt"].close("all")


@pytest.mark.slow
def test_the_code_of_the_page_runs_and_tells_most_symbols_apart(namespace):
    for number, block in enumerate(blocks(section((DOCS / "use.md").read_text(), "In Python"), "python")):
        exec(compile(block, f"block {number}", "exec"), namespace)
    right = namespace["adapted"].predict(namespace["new"]) == np.array(namespace["symbols"] * 4)
    assert right.mean() >= 0.75  # after 30 meta-steps; a guess has 1/3
