"""What was given, and a little of what can be learned of it: for vectors of an encoder that is good already."""

import flax.linen as nn

from metarun.core import Array, Count, Positive


class Adapter(nn.Module):
    """x (n, ...), flattened to (n, d) -> scale * (x + up(relu(down(x)))), (n, d), or a head's (n, n_out).

    `down` has `hidden` outputs, `up` begins at 0: an untrained model is the encoder's vectors. Houlsby et al. 2019
    (section 2.1), who put such layers into an encoder; Gao et al. 2021 (CLIP-Adapter, equation 5), after one. `scale`
    is learned: vectors of length 1 are so near to each other that distances between them tell little.
    """

    hidden: Count
    scale: Positive  # in the beginning
    n_out: int | None  # None: features, no head
    dtype: str | None = None  # to compute in; parameters keep theirs
    transductive = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        down = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="down")(x))
        up = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name="up")(down)
        x = self.param("scale", nn.initializers.constant(self.scale), ()) * (x + up)
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)
