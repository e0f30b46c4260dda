"""mini-ImageNet: 100 classes of ImageNet, 600 images each. Vinyals et al. 2016, split by Ravi and Larochelle 2017."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from metarun.core import Count, DataError, Ways
from metarun.data import SPLITS, Found, Image, images_in, must_be_a_folder
from metarun.tasks import classes, published
from metarun.tasks.augment import Augmentation, must_suit, sample_images
from metarun.tasks.published import Facts
from metarun.text import first_line

IMAGE = Image(side=84, colour="rgb", fit="stretch", invert=False)
LISTS_HOME = "github.com/twitter-research/meta-learning-lstm, data/miniImagenet"
# What a split's list must be: sha256 over its lines, sorted, with a line feed between them.
LISTS = {
    "train": "04248b9d354668fcf26c53aab36b722818cb21ea1e592b5e2598497f5151ec04",
    "val": "dd3f05f2e6ffc6ee100b97c214cdddc207a7fca3e8c5e8172d59d69f63cff8ae",
    "test": "1fbcd7418801a5f7179eab6f8cab9f19d345e24733d46d3ac8ff2a1d8f5233ad",
}
# WordNet's numbers of the classes.
CLASSES = json.loads(Path(__file__).with_name("miniimagenet_classes.json").read_text())
PICKLES = {".pkl", ".pickle", ".plk", ".p"}


@dataclass(frozen=True)
class MiniImageNet:
    """N-way classification of photographs, 84x84 in colour, of classes that were not seen in training.

    The images are ImageNet's and may not be passed on, so nothing is downloaded: whoever has them puts them, of any
    size, into data_dir/miniimagenet, either beside the three published lists (train.csv, val.csv, test.csv), in
    images/ or in directories, or without lists as SPLIT/CLASS/NAME.
    """

    ways: Ways
    shots: Count
    queries: Count  # per class
    data_dir: str | None
    augment: Augmentation | None = None
    facts = Facts({split: tuple(CLASSES[split]) for split in SPLITS}, 600, IMAGE.shape)
    prepares = IMAGE
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_suit(self.augment, self.facts.shape)

    def found(self) -> Found:
        return found(self.data_dir, self.facts)

    n_out = property(classes.n_out)
    check, n_classes, class_names = published.check, published.n_classes, published.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = published.digest, classes.fingerprint
    sample, loss = sample_images, classes.loss


def found(data_dir: str | None, facts: Facts) -> Found:
    """The images of data_dir/miniimagenet, whole. Raises DataError, and ConfigError for a data_dir that is no folder.

    Decoded once and kept in the user's cache directory for as long as the files stay as they are.
    """
    folder = home(data_dir)
    must_have_files(folder)
    for split in SPLITS if any((folder / f"{split}.csv").exists() for split in SPLITS) else ():
        must_be_published(folder / f"{split}.csv", LISTS[split])
    sets = images_in(str(folder), IMAGE, fractions=(0.64, 0.16, 0.2), seed=0)
    for split, names in facts.classes.items():
        here = sets.splits[split]
        if set(here.names) != set(names):
            lacking, more = set(names) - set(here.names), set(here.names) - set(names)
            wrong = f"lacks {min(lacking)}" if lacking else f"has {min(more)}, which is none of them"
            raise DataError(
                f"{folder}: its {split} images are of {len(here.names)} classes, not of the {len(names)} that Ravi and "
                f"Larochelle 2017 published: it {wrong}; for splits of your own take task=folder task.path={folder}"
            )
        for name, size in zip(here.names, here.pool.size.tolist(), strict=True):
            if size != facts.each:
                why = "".join(f"; {line}" for line in sets.told)
                raise DataError(f"{folder}: {split}'s class {name} has {size} images, not {facts.each}{why}")
    return sets


def home(data_dir: str | None) -> Path:
    """The folder of the images. Raises DataError, and ConfigError for a data_dir that is no folder."""
    if data_dir is None:
        raise DataError(
            "no miniimagenet data: neither data_dir= nor METARUN_DATA_DIR is set, and ImageNet's images may not be "
            "passed on, so they are not downloaded; put them and their lists into data_dir/miniimagenet"
        )
    must_be_a_folder(data_dir)
    folder = Path(data_dir).expanduser() / "miniimagenet"
    if not folder.is_dir():
        raise DataError(
            f"no miniimagenet data: {folder} is no folder; it is to hold train.csv, val.csv, test.csv ({LISTS_HOME}) "
            "and the images of ImageNet that they name, or the same as SPLIT/CLASS/NAME; they may not be passed on, so "
            "they are not downloaded"
        )
    return folder


def must_have_files(folder: Path) -> None:
    """Raises DataError where the images are in pickles only, in which much code passes them on."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles and not any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in folder.rglob("*")):
        raise DataError(
            f"{folder} holds {pickles[0]}, a pickle, and no images: to open a pickle runs whatever program is in it, "
            "so metarun opens none; if you trust it, write its images as files once, SPLIT/CLASS/NUMBER.png"
        )


def must_be_published(path: Path, digest: str) -> None:
    """Raises DataError for a list that is not the published one, in whichever order."""
    try:
        lines = sorted(path.read_text(encoding="ascii").split())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); it is to be had from {LISTS_HOME}") from error
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != digest:
        raise DataError(f"{path} is not the published list of Ravi and Larochelle 2017; it is at {LISTS_HOME}")
