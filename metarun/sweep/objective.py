"""What a search is after: the best validation of a job, told from the rows that the job writes."""

from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import yaml

from metarun.core import Collecting, ConfigError, Tasks, rises
from metarun.files import read_yaml
from metarun.run.record import newest_in, read_rows
from metarun.sweep.record import Job

Direction = Literal["maximize", "minimize"]


class Objective(NamedTuple):
    """A metric of validations, and whether more of it is better."""

    metric: str
    direction: Direction

    def best(self, found: dict[int, float]) -> float | None:
        """The best of validations; None if there are none."""
        return (max if self.direction == "maximize" else min)(found.values(), default=None)

    def order(self, value: float | None) -> float:
        """What puts the best first and what has no value last."""
        if value is None:
            return float("inf")
        return -value if self.direction == "maximize" else value


def direction_of(metric: str) -> Direction:
    """More accuracy or return is better, and less of all else: losses and errors."""
    return "maximize" if rises(metric) else "minimize"


def must_be_validated(tasks: Tasks, metric: str) -> None:
    """Raises ConfigError if the tasks' validations have no such metric. Of what is collected it is not known before."""
    if isinstance(tasks, Collecting):
        return
    labels, targets = jnp.zeros(1, jnp.int32), jnp.zeros((1, tasks.n_out))
    y = labels if tasks.metric == "accuracy" else targets
    names = list(jax.eval_shape(tasks.loss, targets, y)[1])
    if metric not in names:
        raise ConfigError(
            "hydra.sweeper.objective", metric, f"is no metric of a validation; take of: {', '.join(names)}"
        )


def validations(directory: Path, metric: str) -> dict[int, float]:
    """A run's validations so far by meta-step, without those that were no number. Raises ConfigError for no metric."""
    with suppress(OSError):
        rows = [row for row in read_rows(directory / "metrics.jsonl") if row["split"] == "val"]
        for row in rows:
            if metric not in row:
                names = ", ".join(name for name in row if name not in ("step", "split"))
                raise ConfigError(
                    "hydra.sweeper.objective",
                    metric,
                    f"is no metric of a validation; in a new run.dir take of: {names}",
                )
        return {row["step"]: row[metric] for row in rows if row[metric] is not None}
    return {}


def best_validation(job: Job, objective: Objective) -> float | None:
    """A job's figure in a search; None if it has none, or it cannot be read."""
    with suppress(ConfigError, TypeError):
        return objective.best(validations(job.directory, objective.metric))
    return None


def steps_made(directory: Path) -> tuple[int, int]:
    """How many meta-steps a run has made and saved, and how many it was to make; 0 and 0 if that cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        steps = int(read_yaml(directory / "config.yaml")["train"]["steps"])
        return newest_in(directory / "checkpoints" / "last") or 0, steps
    return 0, 0
