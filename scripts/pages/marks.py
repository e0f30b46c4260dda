"""Pages that scripts write a part of: what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from pathlib import Path

from metarun.files import write_atomically


def between(page: Path, name: str) -> str:
    """What stands between the two marks of that name."""
    return page.read_text().split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0].strip()


def write_between(page: Path, name: str, text: str) -> None:
    """Puts `text` between the two marks of that name, which the page must have once."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    write_atomically(page, f"{before}{begin}\n{text}\n{end}{after}")
