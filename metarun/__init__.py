"""metarun: a config-driven meta-learning runner on JAX."""

__version__ = "0.1.0"
