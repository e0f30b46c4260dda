"""What a process has read of a user's own files, read anew."""

from metarun.data.arrays import arrays_in
from metarun.data.folder import images_in
from metarun.data.table import prepared
from metarun.data.texts import texts_in


def read_anew() -> None:
    """Files are read once for all jobs of a sweep. Of calls that come one after another each finds them as they are."""
    for read in (arrays_in, images_in, prepared, texts_in):
        read.cache_clear()
