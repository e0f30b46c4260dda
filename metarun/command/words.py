"""The words of a command line."""


def value_of(argument: str, rest: list[str]) -> str:
    """What an option is given: after its equals sign, or by the next word, which is then taken off the `rest`.

    Nothing where it is given nothing: another option is no value.
    """
    _, equals, value = argument.partition("=")
    if equals:
        return value
    return rest.pop(0) if rest and not rest[0].startswith("--") else ""
