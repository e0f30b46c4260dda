"""What the page's server answers, and what it refuses."""

import asyncio
import io
import socket
from concurrent.futures import Future
from functools import cache

import numpy as np
import pytest
from PIL import Image
from served import Served, drawing, sent
from support import MARKUP

from metarun import serve
from metarun.serve.answer import accuracies
from metarun.serve.asked import BYTES


def decoded(served: Served, *contents: bytes) -> np.ndarray:
    return np.stack([served.learned.purpose.prepares.decode(content) for content in contents])


def test_it_answers_what_the_learner_does_on_the_decoded_files(served_drawings):
    files = {"wren": [drawing(0), drawing(1, kind="JPEG")], "ant": [drawing(2)], MARKUP: [drawing(3, (28, 28))]}
    queries = [drawing(n) for n in range(4, 9)]
    truths = ["ant", None, MARKUP, "wren", None]
    classes = [{"name": name, "examples": [sent(file) for file in some]} for name, some in files.items()]
    asked = [{"example": sent(file), "class": truth} for file, truth in zip(queries, truths, strict=True)]
    status, said = served_drawings.answer({"classes": classes, "queries": asked})
    assert status == 200
    names = list(files)
    assert said["classes"] == names  # as they were given, and as text
    x, y = (
        decoded(served_drawings, *(file for some in files.values() for file in some)),
        ["wren", "wren", "ant", MARKUP],
    )
    q = decoded(served_drawings, *queries)
    steps = [0, 1, 2, 3, 5]
    assert said["inner_steps"] == {"own": 2, "shown": steps}
    accuracies = []
    for place, n in enumerate(steps):
        adapted = served_drawings.learned.adapt(x, y, inner_steps=n)
        wanted = adapted.predict_proba(q)[:, [adapted.classes.tolist().index(name) for name in names]]
        found = [query["by_inner_steps"][place] for query in said["queries"]]
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        right = adapted.predict(q) == np.array([truth or "" for truth in truths])
        accuracies.append(right.sum() / 3)
    assert said["accuracy"]["queries"] == 3
    np.testing.assert_allclose(said["accuracy"]["by_inner_steps"], accuracies)
    assert said["accuracy"]["accuracy"] == accuracies[2]
    own = served_drawings.learned.adapt(x, y)
    np.testing.assert_allclose(
        [query["probabilities"] for query in said["queries"]],
        own.predict_proba(q)[:, [own.classes.tolist().index(name) for name in names]],
        atol=1e-6,
    )
    assert not np.allclose(said["queries"][0]["by_inner_steps"][0], said["queries"][0]["by_inner_steps"][-1], atol=1e-3)


def test_the_nearest_examples_are_those_of_the_inputs_as_the_model_takes_them(served_drawings):
    files = [drawing(n) for n in range(4)]
    classes = [
        {"name": "a", "examples": [sent(files[0]), sent(files[1])]},
        {"name": "b", "examples": [sent(files[2]), sent(files[3])]},
    ]
    _, said = served_drawings.answer({"classes": classes, "queries": [{"example": sent(files[3])}]})
    x = decoded(served_drawings, *files).reshape(4, -1) / 255
    distances = np.linalg.norm(x - x[3], axis=1)
    order = np.argsort(distances)[:3]
    nearest = said["queries"][0]["nearest"]
    assert [(one["class"], one["example"]) for one in nearest] == [(i // 2, i % 2) for i in order]
    assert nearest[0]["distance"] == 0
    np.testing.assert_allclose([one["distance"] for one in nearest], distances[order], rtol=1e-6)
    assert said["accuracy"] is None


def test_asked_for_other_inner_steps_it_adapts_by_them(served_drawings):
    classes = [{"name": name, "examples": [sent(drawing(n))]} for n, name in enumerate("ab")]
    asked = {"classes": classes, "queries": [{"example": sent(drawing(7))}], "inner_steps": 4}
    _, said = served_drawings.answer(asked)
    assert said["inner_steps"] == {"own": 4, "shown": [0, 1, 3, 4, 5]}
    assert said["queries"][0]["probabilities"] == said["queries"][0]["by_inner_steps"][3]
    adapted = served_drawings.learned.adapt(decoded(served_drawings, drawing(0), drawing(1)), ["a", "b"], inner_steps=4)
    wanted = adapted.predict_proba(decoded(served_drawings, drawing(7)))
    np.testing.assert_allclose([said["queries"][0]["probabilities"]], wanted, atol=1e-6)


def test_texts_are_encoded_as_the_runs_own(served_texts):
    classes = [{"name": "food", "examples": ["bread and soup", "a pear"]}, {"name": "sky", "examples": ["rain <b>"]}]
    status, said = served_texts.answer({"classes": classes, "queries": [{"example": " soup\n"}]})
    assert status == 200
    encode = served_texts.learned.purpose.prepares.encode
    adapted = served_texts.learned.adapt(encode(["bread and soup", "a pear", "rain <b>"]), ["food", "food", "sky"])
    wanted = adapted.predict_proba(encode(["soup"]))
    np.testing.assert_allclose([said["queries"][0]["probabilities"]], wanted, atol=1e-6)
    assert said["queries"][0]["by_inner_steps"] is None
    assert said["inner_steps"] is None


def test_a_prediction_that_has_diverged_is_not_right():
    by_steps = np.array([[[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]]])  # (steps, queries, ways)
    assert accuracies(by_steps, [0, 0, None], 0, True) == {"queries": 2, "accuracy": 0.5, "by_inner_steps": [0.5]}


def asking(classes=None, queries=None, **more) -> dict:
    """A question that is none too bad, but for what is given."""
    two = [{"name": name, "examples": [sent(drawing(n))]} for n, name in enumerate("ab")]
    one = [{"example": sent(drawing(2))}]
    return {"classes": two if classes is None else classes, "queries": one if queries is None else queries, **more}


def of(*examples, name="a") -> list[dict]:
    return [{"name": name, "examples": list(examples)}, {"name": "b", "examples": [sent(drawing(1))]}]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@cache
def bomb(side: int) -> str:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    return sent(file.getvalue())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "the request: must be an object with classes, queries, inner_steps (optional)"),
        (asking(more=1), "the request: must be an object with classes, queries, inner_steps (optional)"),
        (asking(classes=[]), "classes: must be a list of one or more"),
        (asking(classes=of(sent(drawing(0)))[:1]), "1 class; give examples of two or more, to tell them apart"),
        (asking(classes=of()), "examples of a: must be a list of one or more"),
        (asking(classes=of(1)), "example 1 of a: must be a text, or an image's file in base64"),
        (asking(classes=of(sent(drawing(0)), name="b")), "two classes are called b; give each a name of its own"),
        (asking(classes=of(sent(drawing(0)), name=" ")), "class 1: its name must be a text of 1 to 100 characters"),
        (asking(classes=of(sent(drawing(0)), name="\ud800")), "class 1: its name must be a text of 1 to 100 char"),
        (asking(classes=of(sent(drawing(0)), name="n" * 101)), "class 1: its name must be a text of 1 to 100 char"),
        (asking(classes=of(*["x"] * 251)), "examples of a: 251; at most 250"),
        (asking(classes=of(*["x"] * 250)), "251 examples; at most 250 in all"),
        (asking(queries=[]), "queries: must be a list of one or more"),
        (asking(queries=["x"]), "query 1: must be an object with example, class (optional)"),
        (
            asking(queries=[{"example": "", "class": MARKUP}]),
            f"query 1: is said to be of {MARKUP}, of which there is no example",
        ),
        (asking(inner_steps=101), "inner_steps=101: must be an integer from 0 to 100"),
        (asking(inner_steps=True), "inner_steps=True: must be an integer from 0 to 100"),
        (asking(classes=of("no base64!")), "example 1 of a: must be an image's file in base64"),
        (asking(classes=of("é")), "example 1 of a: must be an image's file in base64"),
        (asking(classes=of(sent(b"<svg/>"))), "example 1 of a: no image that can be read; allowed: PNG, JPEG"),
        (asking(classes=of(sent(POSTSCRIPT))), "example 1 of a: no image that can be read; allowed: PNG, JPEG"),
        (asking(queries=[{"example": sent(drawing(0)[:-200])}]), "query 1: no image that can be read ("),
        (
            lambda: asking(classes=of(bomb(9000))),
            "example 1 of a: with it the images have 81,000,000 pixels together, at most",
        ),
        (
            lambda: asking(classes=of(bomb(18_000))),
            "example 1 of a: it has more pixels than all images together may have",
        ),
        (lambda: asking(classes=of(*[bomb(5000)] * 3)), "example 3 of a: with it the images have 75,000,000"),
        (
            asking(classes=[{"name": f"{n}", "examples": [sent(drawing(n))]} for n in range(4)]),
            "4 classes: at most 3: MAML was trained with so many outputs",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(served_drawings, content, says):
    status, said = served_drawings.answer(content() if callable(content) else content)  # a bomb takes long to make
    assert (status, list(said)) == (400, ["error"])
    assert said["error"].startswith(says)
    assert "\n" not in said["error"]


@pytest.mark.parametrize(
    ("example", "says"),
    [("  ", "example 1 of a: an empty text"), ("x" * 10_001, "example 1 of a: 10,001 characters; at most 10,000")],
)
def test_texts_are_some_and_no_books(served_texts, example, says):
    status, said = served_texts.answer(asking(classes=of(example)))
    assert (status, said) == (400, {"error": says})


def test_steps_are_asked_of_learners_that_take_some(served_texts):
    status, said = served_texts.answer(asking(classes=of("soup"), inner_steps=2))
    assert (status, said) == (400, {"error": "inner_steps=2: ProtoNet takes none; leave it out"})


def test_what_is_too_large_is_read_no_further(served_drawings):
    assert served_drawings.answer(b" " * (BYTES + 1))[0] == 413
    with socket.create_connection(("127.0.0.1", served_drawings.port), timeout=60) as connection:
        head = f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1:{served_drawings.port}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        read = 0
        try:
            while read < 64:  # without an end
                connection.sendall(chunk)
                read += 1
            answer = connection.recv(12)
        except ConnectionError:  # it has hung up
            answer = b"HTTP/1.1 413"
    assert answer == b"HTTP/1.1 413"
    assert read < 64
    status, said = served_drawings.answer(asking(), Content_Type="text/plain")
    assert (status, said) == (415, {"error": "Content-Type: text/plain; must be application/json"})


def test_who_goes_away_while_sending_leaves_no_trace(served_drawings):
    ready: Future[None] = Future()
    headers = [(b"host", b"127.0.0.1:1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/answer", "headers": headers, "query_string": b""}
    received = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    said = []

    async def receive():
        return next(received)

    async def send(message):
        said.append(message)

    asyncio.run(serve.app(served_drawings.learned, "a run", 1, ready)(scope, receive, send))  # which raises nothing
    assert said[0]["status"] == 499


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.example.org:{}", "", None])
def test_whoever_calls_it_by_another_name_is_refused(served_drawings, host):
    # Without a Host it is no HTTP: uvicorn closes before it has read a body, which can cost its answer on the way.
    content = b"" if host is None else asking()
    host = host and host.format(served_drawings.port)
    for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/answer")):
        assert served_drawings.ask(method, path, content, Host=host)[0] in (400, 403)


def test_other_sites_pages_are_refused(served_drawings):
    port = served_drawings.port
    for origin in ("https://example.org", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{port}"):
        assert served_drawings.answer(asking(), Origin=origin) == (403, {"error": "from a page of another origin"})
    for site in ("cross-site", "same-site"):
        assert served_drawings.answer(asking(), Sec_Fetch_Site=site)[0] == 403
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}", "Sec_Fetch_Site": "same-origin"}
    assert served_drawings.answer(asking(), **own)[0] == 200
