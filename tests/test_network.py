"""Servers that refuse, hang, drop or deliver something else: real sockets on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_cli import QUICK, start

from metarun.core import DataError
from metarun.tasks import omniglot

RUN_OF_WANDB = {
    "id": "x", "name": "x", "displayName": "x", "config": "{}", "wandbConfig": "{}", "historyLineCount": 0,
    "project": {"id": "p", "name": "metarun", "entity": {"id": "e", "name": "me"}},
}  # fmt: skip
ANSWER = {
    "viewer": {"id": "v", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "features": []},
    "upsertBucket": {"bucket": RUN_OF_WANDB, "inserted": True},
    "model": None,
    "createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []},
}


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that leaves is no news
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def wandb_server(breaks_at: str, how: str) -> ThreadingHTTPServer:
    """As much of W&B's server as its client needs to begin; requests whose path has `breaks_at` in it hang or drop."""

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if breaks_at in self.path:
                if how == "hangs":
                    time.sleep(300)
                self.connection.close()
                return
            body = json.dumps({"data": ANSWER}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):  # the other side, or we, have closed it
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return serve(Server)


@pytest.mark.parametrize(
    ("breaks_at", "how"),
    [
        ("/", "refuses"),
        ("/", "hangs"),
        pytest.param("/", "drops", marks=pytest.mark.slow),
        ("file_stream", "hangs"),
        pytest.param("file_stream", "drops", marks=pytest.mark.slow),
    ],
)
def test_a_wandb_server_that_breaks_costs_no_result_and_is_told_of_once(tmp_path, how, breaks_at):
    server = wandb_server(breaks_at, how)
    if how == "refuses":
        server.server_close()
    impatient = (
        "import sys; from metarun import cli, loggers; loggers.PATIENCE, loggers.TIME_TO_BEGIN = 4.0, 3.0;"
        "sys.argv = ['metarun', *sys.argv[1:]]; cli.main()"
    )
    key = "s3cret" * 7
    done = subprocess.run(
        [sys.executable, "-c", impatient, *QUICK, "logger.mode=online", "run.dir=RUN"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "WANDB_API_KEY": key, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"},
    )  # fmt: skip
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "RUN" / "results.json").exists()
    told = [line for line in done.stdout.splitlines() if line.startswith("W&B: ")]
    lost = [line for line in told if "cannot be reached" in line or "no answer" in line]
    assert len(lost) == 1, done.stdout
    for file in (path for path in (tmp_path / "RUN").rglob("*") if path.is_file()):
        assert key.encode() not in file.read_bytes(), f"the key is in {file}"
    assert key not in done.stdout + done.stderr


class Mirror:
    """Omniglot's home on this machine, which can be told to deliver it badly."""

    def __init__(self, folder: Path) -> None:
        self.how = "well"
        self.asked: list[str] = []
        mirror = self

        class Server(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                content = (folder / self.path.rsplit("/", 1)[1]).read_bytes()
                if mirror.how == "something else":
                    content = b"<html>please log in</html>"
                self.send_response(404 if mirror.how == "nothing" else 200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if mirror.how == "half" else content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = serve(Server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def mirror(omniglot_dir, tmp_path, monkeypatch):
    mirror = Mirror(Path(omniglot_dir) / "omniglot")
    monkeypatch.setattr(omniglot, "HOME", mirror.url)
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    yield mirror
    mirror.server.shutdown()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", ["half", "something else", "nothing"])
def test_a_bad_download_is_refused_by_name_and_leaves_nothing(mirror, tmp_path, how):
    mirror.how = how
    with pytest.raises(DataError, match=r"images_background\.zip"):
        omniglot.load_drawings(None)
    assert files(tmp_path / "cache") == []


def test_after_a_download_that_broke_the_next_try_works(mirror, tmp_path, omniglot_dir):
    mirror.how = "half"
    with pytest.raises(DataError):
        omniglot.load_drawings(None)
    mirror.how = "well"
    _, images = omniglot.load_drawings(None)
    assert images.shape == (1623, 20, 28, 28)
    asked = len(mirror.asked)
    omniglot.load_drawings(None)  # kept
    assert len(mirror.asked) == asked
    assert not [name for name in files(tmp_path / "cache") if "partial" in name]


def test_two_processes_that_prepare_the_same_data_both_succeed(tmp_path, omniglot_dir):
    cache = {"METARUN_CACHE_DIR": str(tmp_path / "cache")}
    both = [start("data", "omniglot", f"data_dir={omniglot_dir}", cwd=tmp_path, **cache) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")
        assert out == "omniglot: 1,623 characters, 32,460 drawings, ready\n"
    assert len(files(tmp_path / "cache")) == 1


@pytest.mark.parametrize("damage", ["truncated", "swapped", "corrupted", "empty", "no images"])
def test_a_bad_archive_is_refused_by_name_and_leaves_nothing(tmp_path, omniglot_dir, monkeypatch, damage):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "omniglot"
    shutil.copytree(Path(omniglot_dir) / "omniglot", folder)
    path, other = folder / "images_background.zip", folder / "images_evaluation.zip"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:middle],
            "swapped": other.read_bytes(),
            "corrupted": content[:middle]
            + bytes(b ^ 255 for b in content[middle : middle + 64])
            + content[middle + 64 :],
            "empty": b"",
            "no images": content.replace(b"\x89PNG", b"\x89PNK"),
        }[damage]
    )
    with pytest.raises(DataError, match=r"images_background\.zip is not Omniglot's"):
        omniglot.load_drawings(str(tmp_path))
    assert files(tmp_path / "cache") == []
