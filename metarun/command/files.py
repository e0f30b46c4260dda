"""Files that commands are asked to write."""

from pathlib import Path

from metarun.command.exits import MISTAKE, fail


def must_be_writable(verb: str, option: str, file: Path) -> Path:
    """The file, if there may be one: `metarun VERB OPTION FILE`. Ends the program over one that there cannot be."""
    if file.is_dir():
        fail(f"{verb} {option} {file}: is a directory; name a file in it", MISTAKE)
    if not file.absolute().parent.is_dir():
        fail(f"{verb} {option} {file}: cannot be written (make the directory first)", MISTAKE)
    return file
