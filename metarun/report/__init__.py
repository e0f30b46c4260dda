"""One page about one run or many: `runs` reads them, `plots` draws, `page` puts it together. Imports no jax program."""

from metarun.report.compared import Compared, Tested, compared
from metarun.report.page import html
from metarun.report.paths import as_text, find
from metarun.report.runs import read
from metarun.report.written import as_csv, as_markdown, markdown_text
from metarun.run.drawn import Drawn, draw_episodes, episodes_as_text, is_images

__all__ = [
    "Compared", "Drawn", "Tested", "as_csv", "as_markdown", "as_text", "compared", "draw_episodes",
    "episodes_as_text", "find", "html", "is_images", "markdown_text", "read",
]  # fmt: skip
