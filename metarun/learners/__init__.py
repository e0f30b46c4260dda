"""One learner a file: a frozen dataclass that keeps the `Learner` protocol of metarun.core."""
