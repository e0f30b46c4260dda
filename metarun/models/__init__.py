"""One model a file: a stateless flax module, (params, x (n, ...)) -> outputs (n, n_out)."""
