"""What was learned, in use: adapted to one's own task, asked, kept and passed on."""

from metarun.learned.learner import Adapted, Learned, Queries, load

__all__ = ["Adapted", "Learned", "Queries", "load"]
