"""The page: what is sent with it, the command that serves it, and a real browser that draws, asks and reads."""

import logging
import re
import signal
import sys
from base64 import b64decode

import browser
import numpy as np
import pytest
from served import Served, drawing, served_of
from support import MARKUP, Page, metarun, start

from metarun import learned
from metarun.command import serve
from metarun.serve.examples import CHARACTERS


def test_its_files_bring_nothing_from_elsewhere_and_no_script_of_their_own_line(served_drawings):
    status, text, headers = served_drawings.ask("GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    tags = Page(text).tags
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "style"]
    links = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert sorted(links) == ["data:,", "page.css", "page.js"]
    scripts = [served_drawings.ask("GET", f"/{name}.js")[1] for name in ("page", "tiles", "answers")]
    for file in (text, *scripts, served_drawings.ask("GET", "/page.css")[1]):
        assert "//" not in re.sub(r"(?m)^//.*| // .*", "", file)
        assert "innerHTML" not in file
    assert served_drawings.ask("GET", "/answer")[0] == 405
    assert served_drawings.ask("GET", "/../app.py")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "serve: names no run; give one, or a name of metarun ready: metarun serve RUN"),
        (["a", "b"], "serve: 2 runs; give one, or a name of metarun ready: metarun serve RUN"),
        (["a", "--port"], "serve --port : must be an integer from 0 to 65535"),
        (["a", "--port=65536"], "serve --port 65536: must be an integer from 0 to 65535"),
        (["a", "--host", "0.0.0.0"], "serve --host: no such option; allowed: --port N, --no-open"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, says):
    with pytest.raises(SystemExit) as end:
        serve.main(arguments)
    assert (end.value.code, capsys.readouterr().err) == (2, f"metarun: {says}\n")


def test_arguments_are_the_run_its_port_and_whether_a_browser_opens():
    assert serve.read(["runs/a"]) == ("runs/a", None, True)
    assert serve.read(["--port", "0", "runs/a", "--no-open"]) == ("runs/a", 0, False)
    assert serve.read(["--port=80", "runs/a"]) == ("runs/a", 80, True)


def test_without_the_extra_it_says_how_to_install_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("metarun.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("metarun.serve", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        serve.main(["a"])
    assert capsys.readouterr().err == 'metarun: serve: needs uvicorn, which is not here; pip install "metarun[serve]"\n'


def test_what_cannot_be_drawn_or_written_is_not_served(served_drawings, tmp_path, capsys):
    purpose = served_drawings.learned.purpose._replace(prepares=None)
    learned.keep(
        learned.Learned(served_drawings.learned.config, purpose, served_drawings.learned.params, {}), tmp_path / "rows"
    )
    with pytest.raises(SystemExit) as end:
        serve.main([str(tmp_path / "rows")])
    said = "serve=a learner of arrays or rows of numbers: serves classes of images and of texts; others: metarun adapt"
    assert (end.value.code, capsys.readouterr().err) == (2, f"metarun: {said}\n")


def test_the_command_serves_until_ctrl_c_which_is_a_good_end(served_drawings, tmp_path):
    learned.keep(served_drawings.learned, tmp_path / "kept")
    process = start("serve", "kept", "--no-open", "--port", "0", cwd=tmp_path)
    try:
        address, *_ = process.stdout.readline().split()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        status, about, _ = Served(served_drawings.learned, port).ask("GET", "/about")
        assert (status, about["name"], about["learner"], about["ways"]) == (200, "kept", "MAML", 3)
        taken = metarun("serve", "kept", "--port", str(port), cwd=tmp_path, code=2)
        assert taken.stderr.startswith(f"metarun: port={port}: cannot be had (Address already in use")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_it_leaves_the_handlers_of_logging_as_they_are(served_drawings):
    closed = []
    handler = logging.NullHandler()
    handler.close = lambda: closed.append(handler)
    served_of(served_drawings.learned).ask("GET", "/about")
    assert closed == []


needs_chromium = pytest.mark.skipif(browser.chromium() is None, reason="needs chromium")
CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
BAR = [[(0.5, 0.1), (0.5, 0.9)]]


@needs_chromium
def test_in_a_browser_one_draws_names_asks_and_reads_the_answer(served_drawings, tmp_path):
    with browser.tab(browser.chromium(), tmp_path) as tab:
        tab.look(400, 800, dark=True)
        tab.open(f"http://127.0.0.1:{served_drawings.port}/")
        tab.until("document.querySelectorAll('#queries canvas').length")
        assert tab.value("document.querySelectorAll('#classes .card').length") == 3
        first, second, third = (f"#classes .card:nth-child({n})" for n in (1, 2, 3))
        tab.value(f"document.querySelector('{first} header input').select()")
        tab.call("Input.insertText", text=MARKUP)
        tab.draw(f"{first} canvas", CROSS)
        tab.draw(f"{second} canvas", BAR)
        # The third by the keyboard: the pen goes down, right and right again, and is lifted.
        tab.value(f"document.querySelector('{third} canvas').focus()")
        for key, code in ((" ", 32), ("ArrowRight", 39), ("ArrowRight", 39), (" ", 32)):
            tab.press(key, code)
        black = (
            f"(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter(v => v < 128).length)"
            f"(document.querySelector('{third} canvas'))"
        )
        assert tab.value(black) > 1000
        tab.draw("#queries canvas", CROSS)
        text = tab.until("document.querySelector('.answer')?.innerText")
        assert f"{MARKUP}" in text
        shown = [float(p) for p in re.findall(r"(\d+\.\d) %", text)]
        # The same as the learner says to the pixels of the canvases.
        urls = tab.value("[...document.querySelectorAll('canvas')].map(c => c.toDataURL())")
        support, query = [urls[n] for n in (0, 2, 4)], urls[6]
        x = np.stack(
            [served_drawings.learned.purpose.prepares.decode(b64decode(u.split(",")[1])) for u in (*support, query)]
        )
        adapted = served_drawings.learned.adapt(x[:3], [MARKUP, "class b", "class c"])
        np.testing.assert_allclose(shown, 100 * adapted.predict_proba(x[3:])[0], atol=0.051)
        assert "2" in tab.value("document.querySelector('.answer tbody').innerText")  # its own inner steps
        # A second example of the first class: another answer, by itself.
        tab.draw(f"{first} .tile:nth-child(2) canvas", BAR)
        tab.until("document.getElementById('status').textContent.startsWith('Adapted to 4 examples')")
        # A mistake of the server's telling.
        tab.value("document.querySelector('#add').click()")
        tab.draw("#classes .card:nth-child(4) canvas", BAR)
        said = tab.until("document.querySelector('#error').textContent")
        assert said.startswith("4 classes: at most 3: MAML")
        assert tab.value("[document.documentElement.scrollWidth <= innerWidth, window.alerted || 0]") == [True, 0]
        ground = tab.value("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", ground))) < 384  # dark
        assert [line for line in tab.said if "400 (Bad Request)" not in line] == []


@needs_chromium
def test_in_a_browser_texts_are_written_and_files_dropped(served_texts, served_drawings, tmp_path):
    (tmp_path / "a.png").write_bytes(drawing(0))
    (tmp_path / "b.png").write_bytes(drawing(1))
    with browser.tab(browser.chromium(), tmp_path / "profile") as tab:
        tab.look(1200, 900)
        tab.open(f"http://127.0.0.1:{served_texts.port}/")
        tab.until("document.querySelectorAll('#queries textarea').length")
        for place, text in ((".card:nth-child(1)", "bread"), (".card:nth-child(2)", "rain"), ("#queries", "bread")):
            tab.value(f"document.querySelector('{place} textarea').focus()")
            tab.call("Input.insertText", text=text)
        text = tab.until("document.querySelector('.answer')?.innerText")
        assert "class a, 0.00" in text  # the nearest is the same
        assert "By inner step" not in text
        # A file that is too long ends before the character that would be cut in two.
        (tmp_path / "long.txt").write_text("a" * (CHARACTERS - 1) + "\U0001f600")
        root = tab.call("DOM.getDocument")["root"]["nodeId"]
        node = tab.call("DOM.querySelector", nodeId=root, selector=".card:nth-child(1) input[type=file]")["nodeId"]
        tab.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "long.txt")])
        length = tab.until("document.querySelector('.card:nth-child(1) .tile:nth-child(2) textarea')?.value.length")
        assert length == CHARACTERS - 1

        tab.open(f"http://127.0.0.1:{served_drawings.port}/")
        tab.until("document.querySelectorAll('#queries canvas').length")
        root = tab.call("DOM.getDocument")["root"]["nodeId"]
        for place, file in ((".card:nth-child(1)", "a"), (".card:nth-child(2)", "b"), ("#queries", "b")):
            node = tab.call("DOM.querySelector", nodeId=root, selector=f"{place} input[type=file]")["nodeId"]
            tab.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / f"{file}.png")])
        assert "class b, 0.00" in tab.until("document.querySelector('.answer')?.innerText")
        assert tab.said == []
