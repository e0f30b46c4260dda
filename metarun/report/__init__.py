"""One page about one run or many: `runs` reads them, `plots` draws, `page` puts it together. Imports no jax program."""

from metarun.report.page import html
from metarun.report.runs import as_text, find, read
from metarun.report.tables import as_csv, as_markdown, markdown_text

__all__ = ["as_csv", "as_markdown", "as_text", "find", "html", "markdown_text", "read"]
