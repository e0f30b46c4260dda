"""How long things take: what results.json says of speed, and how long a call to the devices should be."""

import time

# One call to the device lasts about this long: short enough to stop soon, long enough to cost nothing.
SECONDS_PER_CALL = 0.5
FORGOTTEN = 0.8  # what a report leaves of those before it in the rate


class Clock:
    """How long things take, in seconds: the start of a run, compilation, and the meta-steps."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.startup_s: float | None = None  # until all was there but the compiled meta-step
        self.compile_s: float | None = None  # from then until the first call was done; None before
        self.seconds = 0.0  # of calls that were timed
        self.steps = 0  # meta-steps in them
        self.of_late = (0.0, 0.0)  # meta-steps and their seconds, the older the less they count
        self.last: float | None = None  # when the last report came; None if something else came between

    def since_start(self) -> float:
        return time.monotonic() - self.began

    def started(self) -> None:
        """All is there but the compiled meta-step."""
        self.startup_s = self.since_start()

    def compiled(self) -> None:
        """The first call has been made."""
        self.compile_s = self.since_start() - (self.startup_s or 0.0)

    def arrived(self, steps: int) -> None:
        """A call's report is here. The devices were at it since the report before it."""
        now = time.perf_counter()
        if self.last is not None:
            taken = now - self.last
            self.seconds += taken
            self.steps += steps
            late_steps, late_seconds = self.of_late
            self.of_late = (FORGOTTEN * late_steps + steps, FORGOTTEN * late_seconds + taken)
        self.last = now

    @property
    def rate(self) -> float:
        """Meta-steps per second, of late; 0 while it is unknown.

        A quotient of sums: where the host was late two reports are there at once, and the second took no time at all.
        """
        steps, seconds = self.of_late
        return steps / seconds if seconds else 0.0

    def as_of(self, other: "Clock") -> None:
        """The report of a run in the same program was timed already, by the other clock."""
        self.seconds, self.steps, self.of_late = other.seconds, other.steps, other.of_late
        self.interrupted()

    def interrupted(self) -> None:
        """The host did something between: the next report tells nothing of the devices' speed."""
        self.last = None

    def mean_rate(self) -> float | None:
        """Meta-steps per second, of all that were timed."""
        return self.steps / self.seconds if self.seconds else None

    def steps_per_call(self) -> int:
        return max(1, int(self.rate * SECONDS_PER_CALL))

    def speed(self, meta_batch: int, left: int) -> str:
        """`  12.3 meta-steps/s  394 tasks/s  0:04:11 left`, `left` meta-steps to go; nothing while it is unknown."""
        if not self.rate:
            return ""
        seconds = int(left / self.rate)
        time_left = f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left" if left else ""
        return f"  {self.rate:.1f} meta-steps/s  {self.rate * meta_batch:.0f} tasks/s{time_left}"
