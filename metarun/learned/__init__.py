"""What was learned, in use: adapted to one's own task, asked, kept and passed on."""

from metarun.learned.examples import as_inputs
from metarun.learned.kept import keep, weights
from metarun.learned.learner import Adapted, Learned
from metarun.learned.loaded import load, load_adapted

__all__ = ["Adapted", "Learned", "as_inputs", "keep", "load", "load_adapted", "weights"]
