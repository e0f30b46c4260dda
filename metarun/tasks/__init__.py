"""One task distribution a file: a frozen dataclass that keeps the `Tasks` protocol of metarun.core."""
