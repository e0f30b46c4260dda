"""What the page asks, checked: whoever sends it, each mistake is one line."""

import json
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from starlette.requests import Request

from metarun.serve.examples import Given
from metarun.serve.refused import Refused
from metarun.text import one_line

BYTES = 8 * 2**20  # of a request
CLASSES, EXAMPLES, QUERIES = 50, 250, 50  # at most; examples are those of all classes
NAME = 100  # characters of a class's name
STEPS = 100  # inner steps


class Asked(NamedTuple):
    classes: list[str]
    support: list[Given]
    labels: list[int]  # of each example its class's place in `classes`
    queries: list[Given]
    truths: list[int | None]  # of each query its class's place, if it is told
    inner_steps: int | None


async def body(request: Request) -> bytes:
    """All that is sent, read no further than it may be long. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(f"Content-Type: {one_line(kind)[:100] or 'none'}; must be application/json", 415)
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > BYTES:
            raise Refused(f"more than {BYTES // 2**20} MB; send fewer or smaller examples", 413)
    return bytes(content)


def read(content: bytes) -> Asked:
    """{"classes": [{"name", "examples"}], "queries": [{"example", "class"?}], "inner_steps"?}. Raises Refused."""
    try:
        asked = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON") from error
    must_have("the request", asked, {"classes", "queries"}, {"inner_steps"})
    names: list[str] = []
    support: list[Given] = []
    labels: list[int] = []
    for number, one in enumerate(must_be_a_list("classes", asked["classes"], CLASSES)):
        must_have(f"class {number + 1}", one, {"name", "examples"})
        name = must_be_a_name(f"class {number + 1}", one["name"])
        if name in names:
            raise Refused(f"two classes are called {one_line(name)}; give each a name of its own")
        names.append(name)
        examples = must_be_a_list(f"examples of {one_line(name)}", one["examples"], EXAMPLES)
        support += given(f"of {one_line(name)}", examples)
        labels += [number] * len(examples)
    if len(names) < 2:
        raise Refused(f"{len(names)} class; give examples of two or more, to tell them apart")
    if len(support) > EXAMPLES:
        raise Refused(f"{len(support)} examples; at most {EXAMPLES} in all")
    queries, truths = [], []
    for number, one in enumerate(must_be_a_list("queries", asked["queries"], QUERIES)):
        must_have(f"query {number + 1}", one, {"example"}, {"class"})
        queries.append(must_be_text(f"query {number + 1}", one["example"]))
        truths.append(place_of(f"query {number + 1}", one.get("class"), names))
    return Asked(names, support, labels, queries, truths, steps_of(asked.get("inner_steps")))


def must_have(where: str, one: Any, needed: Set[str], more: Set[str] = frozenset()) -> None:
    if not isinstance(one, dict) or not needed <= set(one) <= needed | more:
        keys = ", ".join(sorted(needed)) + "".join(f", {key} (optional)" for key in sorted(more))
        raise Refused(f"{where}: must be an object with {keys}")


def must_be_a_list(where: str, some: Any, most: int) -> list[Any]:
    if not isinstance(some, list) or not some:
        raise Refused(f"{where}: must be a list of one or more")
    if len(some) > most:
        raise Refused(f"{where}: {len(some)}; at most {most}")
    return some


def must_be_a_name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > NAME or not encodable(name):
        raise Refused(f"{where}: its name must be a text of 1 to {NAME} characters")
    return name.strip()


def encodable(text: str) -> bool:
    """Whether it is of whole characters: JSON can spell halves of some."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def given(whose: str, examples: list[Any]) -> Iterator[Given]:
    for number, example in enumerate(examples):
        yield must_be_text(f"example {number + 1} {whose}", example)


def must_be_text(where: str, example: Any) -> Given:
    if not isinstance(example, str):
        raise Refused(f"{where}: must be a text, or an image's file in base64")
    return Given(where, example)


def place_of(where: str, name: Any, names: list[str]) -> int | None:
    if name is None:
        return None
    if not isinstance(name, str) or name.strip() not in names:
        raise Refused(f"{where}: is said to be of {one_line(name)[:NAME]}, of which there is no example")
    return names.index(name.strip())


def steps_of(steps: Any) -> int | None:
    if steps is not None and (type(steps) is not int or not 0 <= steps <= STEPS):
        raise Refused(f"inner_steps={one_line(steps)[:NAME]}: must be an integer from 0 to {STEPS}")
    return steps
