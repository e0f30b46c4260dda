"""Runs pytest again and again, each time in a fork of a process that has imported what is slow to import.

`python scripts/forks.py MODULE...` imports these, reads requests and writes answers, a line of JSON each: from
`{"root": directory, "arguments": [...], "said": file, "seconds": number}` to pytest's exit code, or null if it took
longer. Nothing of metarun is imported before the fork, and no device touched: every fork sees the tree as it is then.
"""

import importlib
import json
import os
import signal
import sys
import time


def run(root: str, arguments: list[str], said: str) -> int:
    """What the fork does, in a session of its own: pytest's exit code."""
    import pytest

    os.setsid()
    os.chdir(root)
    output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.dont_write_bytecode = True
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = root
    return int(pytest.main(arguments))


def waited_for(child: int, seconds: float) -> int | None:
    """A fork's exit code; None, and it is ended with all that it started, if it takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 3  # pytest's own number for an error of its own
            try:
                code = run(asked["root"], asked["arguments"], asked["said"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps(waited_for(child, asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
