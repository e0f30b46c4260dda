"""Weights & Biases that breaks: a server on this machine, real sockets, and no result lost."""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import QUICK, serve

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
        pytest.param("/", "refuses", marks=pytest.mark.slow),
        pytest.param("/", "hangs", marks=pytest.mark.slow),
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
        "import sys; from metarun.command import main; from metarun.run import to_wandb; "
        "to_wandb.PATIENCE, to_wandb.TIME_TO_BEGIN = 4.0, 3.0;"
        "sys.argv = ['metarun', *sys.argv[1:]]; main.main()"
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
