"""A user's own images: a folder, zip or tar with a directory a class."""

from dataclasses import dataclass

from metarun.core import Count, Ways
from metarun.data import Found, Image, images_in, must_be_fractions
from metarun.tasks import classes
from metarun.tasks.augment import Augmentation, must_suit, sample_images


@dataclass(frozen=True)
class Folder:
    """N-way classification of images of classes that were not seen in training.

    Splits are the folder's own (directories train, val and test, or lists of that name, .txt or .csv); what has none
    is drawn from the classes, by `fractions` for train, val and test and `seed`.
    """

    ways: Ways
    shots: Count
    queries: Count  # per class
    path: str
    image: Image
    fractions: tuple[float, float, float]
    seed: int
    augment: Augmentation | None = None
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_be_fractions(self.fractions)
        must_suit(self.augment, self.image.shape)

    def found(self) -> Found:
        return images_in(self.path, self.image, self.fractions, self.seed)

    n_out = property(classes.n_out)
    prepares = property(lambda self: self.image)
    check, n_classes, class_names = classes.check, classes.n_classes, classes.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = classes.digest, classes.fingerprint
    sample, loss = sample_images, classes.loss
