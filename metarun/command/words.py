"""The words of a command line."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial


def each_word(arguments: Sequence[str]) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Each word, its name, which is what stands before an equals sign, and what tells the value of an option.

    That stands after the equals sign, or it is the next word, which then comes no more. It is empty where there is
    none: another option is no value.
    """
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        yield word, word.partition("=")[0], partial(value_of, word, rest)


def value_of(word: str, rest: list[str]) -> str:
    _, equals, value = word.partition("=")
    if equals:
        return value
    return rest.pop(0) if rest and not rest[0].startswith("--") else ""
