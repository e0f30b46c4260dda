"""A page on this machine on which a learner is tried: a few examples of each class, a query, its answer."""

from metarun.serve.app import app, readied
from metarun.serve.examples import examples_of
from metarun.serve.server import address, listen, serve

__all__ = ["address", "app", "examples_of", "listen", "readied", "serve"]
