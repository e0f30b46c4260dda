"""Data sets on disk: found where the user has them, fetched where he has not, and kept as arrays once decoded.

And a user's own. Whatever has classes, or groups, becomes a `Pool`, from which `draw` takes what an episode needs.
"""

from metarun.data.anew import read_anew
from metarun.data.arrays import arrays_in, with_groups
from metarun.data.cache import cached, empty
from metarun.data.encoders import Encoder
from metarun.data.features import Columns
from metarun.data.fetch import download, fetched
from metarun.data.folder import images_in
from metarun.data.images import Image
from metarun.data.local import find, must_be_a_folder
from metarun.data.mapped import let_go, look_up
from metarun.data.own import Own, arrays_of_task, is_arrays
from metarun.data.own_images import images_of_task
from metarun.data.own_rows import is_by_columns, rows_by_columns, rows_of_task
from metarun.data.own_texts import texts_of_task
from metarun.data.pool import Classes, Found, Pool, choose, draw, examples_of, large_enough
from metarun.data.splits import SPLITS, must_be_fractions
from metarun.data.table import Roles, columns_in, table_in
from metarun.data.texts import by_label, must_be_an_encoder, texts_in

__all__ = [
    "SPLITS", "Classes", "Columns", "Encoder", "Found", "Image", "Own", "Pool", "Roles", "arrays_in", "arrays_of_task",
    "by_label", "cached", "choose", "columns_in", "download", "draw", "empty", "examples_of", "fetched", "find",
    "images_in", "images_of_task", "is_arrays", "is_by_columns", "large_enough", "let_go", "look_up",
    "must_be_a_folder", "must_be_an_encoder", "must_be_fractions", "read_anew", "rows_by_columns", "rows_of_task",
    "table_in", "texts_in", "texts_of_task", "with_groups",
]  # fmt: skip
