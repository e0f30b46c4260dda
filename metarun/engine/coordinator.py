"""jax's coordination service in a process of its own: `python -m metarun.engine.coordinator ADDRESS PROCESSES SECONDS`.

jax keeps it in process 0, and ends every other process, with a stack trace, as soon as that one is gone. Here it
outlives process 0 for long enough that the others see what has become of it, and end in their own way.
"""

import sys
import time

from jaxlib import _jax

SECONDS_LEFT = 45  # after process 0 has ended: longer than a process without a sign of life counts as there


def main() -> None:
    """Serves until standard input ends, which process 0 holds, and somewhat longer."""
    address, processes, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    service = _jax.get_distributed_runtime_service(address, processes, heartbeat_timeout=seconds)
    print("ready", flush=True)
    sys.stdin.read()
    time.sleep(SECONDS_LEFT)
    service.shutdown()


if __name__ == "__main__":
    main()
