"""Files that commands are asked to write."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail


def must_be_writable(verb: str, option: str, file: Path) -> Path:
    """The file, if there may be one: `metarun VERB OPTION FILE`. Ends the program over one that there cannot be."""
    if file.is_dir():
        fail(f"{verb} {option} {file}: is a directory; name a file in it", MISTAKE)
    if not file.absolute().parent.is_dir():
        fail(f"{verb} {option} {file}: cannot be written (make the directory first)", MISTAKE)
    return file


def write(verb: str, file: Path, text: str) -> None:
    """The text into the file, or to standard output for `-`. Ends the program if that cannot be."""
    from metarun.files import write_atomically

    if str(file) == "-":
        print(text.rstrip("\n"))
        return
    try:
        write_atomically(file, text)
    except OSError as error:
        fail(f"{verb}: {file} cannot be written ({error.strerror})", FAILED)
