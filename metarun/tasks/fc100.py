"""FC100: CIFAR-100's classes shared out by superclass, 60/20/20. Oreshkin et al. 2018."""

from dataclasses import dataclass

from metarun.core import Count, Ways
from metarun.data import Found
from metarun.tasks import cifar100, classes, published
from metarun.tasks.augment import Augmentation, must_suit, sample_images


@dataclass(frozen=True)
class FC100:
    """N-way classification of small photographs, 32x32 in colour, of superclasses that were not seen in training."""

    ways: Ways
    shots: Count
    queries: Count  # per class
    data_dir: str | None
    augment: Augmentation | None = None
    facts = cifar100.facts("fc100")
    prepares = cifar100.IMAGE
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_suit(self.augment, self.facts.shape)

    def found(self) -> Found:
        return cifar100.found("fc100", self.data_dir)

    n_out = property(classes.n_out)
    check, n_classes, class_names = published.check, published.n_classes, published.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = published.digest, classes.fingerprint
    sample, loss = sample_images, classes.loss
