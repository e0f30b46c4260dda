"""One page about one run or many: `runs` reads them, `plots` draws, `page` puts it together. Imports no jax program."""

from metarun.report.page import html
from metarun.report.paths import as_text, find
from metarun.report.runs import damaged, read
from metarun.report.written import as_csv, as_markdown, markdown_text

__all__ = ["as_csv", "as_markdown", "as_text", "damaged", "find", "html", "markdown_text", "read"]
