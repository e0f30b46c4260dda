"""Headless Chromium with a hand on its mouse and keys, through the pipe of its developer tools."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Chromium reads commands from file 3 and writes answers to file 4.
START = """
import os, sys
r, w = (os.dup(os.dup(os.dup(int(n)))) for n in sys.argv[1:3])
os.dup2(r, 3), os.dup2(w, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


class Tab:
    """One page. Each method waits until Chromium has done it."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, os.fdopen(answers, "rb")
        self.session: str | None = None
        self.number = 0
        self.said: list[str] = []  # on the console, and exceptions
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self.message())
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.said.append(json.dumps(answer["params"]))
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def message(self) -> bytes:
        content = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            content += byte
        return bytes(content)

    def look(self, width: int, height: int, dark: bool = False, scale: int = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, or of what it promises."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 120) -> Any:
        """Waits until the expression is true, of which an empty object is not, and returns it."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression}; the console: {self.said}")
            time.sleep(0.05)
        return found

    def draw(self, selector: str, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
        """Draws lines by the mouse on an element, whose corners are (0, 0) and (1, 1)."""
        quoted = json.dumps(selector)
        self.value(f"document.querySelector({quoted}).scrollIntoView({{block: 'center'}})")
        box = self.value(f"document.querySelector({quoted}).getBoundingClientRect().toJSON()")
        for line in lines:
            places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
            self.mouse("mousePressed", *places[0])
            for place in places[1:]:
                self.mouse("mouseMoved", *place)
            self.mouse("mouseReleased", *places[-1])

    def mouse(self, what: str, x: float, y: float) -> None:
        pressed = 0 if what == "mouseReleased" else 1
        self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", buttons=pressed, clickCount=1)

    def press(self, key: str, code: int) -> None:
        """A key with its `windowsVirtualKeyCode`."""
        for what in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=what, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG file."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))


@contextlib.contextmanager
def tab(program: str, profile: Path) -> Iterator[Tab]:
    """A new Chromium with an empty page, which ends with the block."""
    (their_commands, commands), (answers, their_answers) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(their_commands), str(their_answers), program, "--headless=new",
         "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", f"--user-data-dir={profile}",
         "--remote-debugging-pipe"],
        pass_fds=(their_commands, their_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_commands)
    os.close(their_answers)
    try:
        one = Tab(commands, answers)
        yield one
        with contextlib.suppress(RuntimeError):
            one.session = None
            one.call("Browser.close")
    finally:
        os.close(commands)
        process.terminate()
        process.wait(20)
