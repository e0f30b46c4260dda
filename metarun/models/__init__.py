"""One model a file: a stateless flax module, (params, x (n, ...)) -> outputs (n, n_out).

Its last layer is linear and named `head`; with `n_out` None there is no head, and features (n, d) come out.
`dtype`, if it is given, is what it computes in; parameters and statistics of normalisation stay in float32.
"""
