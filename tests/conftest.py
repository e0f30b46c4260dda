"""Set before jax is first used: strict JAX, two devices, quick compilation, no writing to the user's own cache."""

import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

os.environ.setdefault("METARUN_CACHE_DIR", str(Path(tempfile.gettempdir()) / "metarun-tests"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(os.environ["METARUN_CACHE_DIR"]) / "xla"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as metarun does, if it is imported before jax
os.environ.pop("WANDB_API_KEY", None)
os.environ["METARUN_ALLOW"] = "blobs,hanging"  # tests/blobs.py stands for a user's own component

import jax
import numpy as np
import owned
import pytest
import support
from filelock import FileLock

from metarun.engine.xla_flags import PATIENT, RIGHT, set_flags

if importlib.util.find_spec("gymnax") is None:
    import stand_in_gymnax

    sys.modules["gymnax"] = stand_in_gymnax

pytest_plugins = ["folders", "own_files", "quick_hydra", "serve_fixtures"]

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_traceback_in_locations_limit", 0)  # where each operation was called from takes time to tell

gc.set_threshold(100_000, 20, 100)  # jax makes so many objects that a tenth of the time goes into looking for cycles
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C

# Most of the time goes into compiling small programs: a quarter of it with these.
QUICK_COMPILATION = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


if "XLA_FLAGS" not in os.environ:  # xdist's workers, and the commands that tests run, inherit it
    set_flags(QUICK_COMPILATION | PATIENT | RIGHT)
jax.devices()  # touched, there are two: else the first test's run would say how many


MAKING_PROGRAMS = ("tests", "engine", "learned", "learners", "models", "tasks")  # the folders whose tests make them


@pytest.fixture(autouse=True, scope="module")
def _no_key_is_used_twice(request):
    """Looked for where programs are what is tested: to look is a fifth of a run, and other tests make the same ones."""
    jax.config.update("jax_debug_key_reuse", request.path.parent.name in MAKING_PROGRAMS)


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """A test that fails leaves none at work, which would slow the others."""
    yield
    for process in support.STARTED:
        process.kill()
        process.wait()
    support.STARTED.clear()


def data_dir() -> Path | None:
    """Where the real data sets are: $METARUN_DATA_DIR, else ../shared/data beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    found = Path(os.environ["METARUN_DATA_DIR"]) if "METARUN_DATA_DIR" in os.environ else beside
    return found.absolute() if found.is_dir() else None


@pytest.fixture(scope="session")
def omniglot_dir() -> str:
    """The folder that holds omniglot/, or a skip."""
    found = data_dir()
    if found is None or not (found / "omniglot" / "images_background.zip").exists():
        pytest.skip("Omniglot is in neither $METARUN_DATA_DIR nor ../shared/data")
    return str(found)


@pytest.fixture(scope="session")
def small_miniimagenet(tmp_path_factory) -> Path:
    """A data_dir whose miniimagenet/ has 6, 5 and 5 classes of 20 images, each of one colour that tells which it is."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data") / "miniimagenet"
    (folder / "images").mkdir(parents=True)
    for s, (split, classes) in enumerate({"train": 6, "val": 5, "test": 5}.items()):
        lines = ["filename,label"]
        for c in range(classes):
            for i in range(20):
                name = f"n{s}{c}{i:02}.jpg"
                Image.new("RGB", (100, 90), (80 * s, 40 * c, 12 * i)).save(folder / "images" / name, quality=100)
                lines.append(f"{name},n{s}{c}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder.parent


@pytest.fixture
def miniimagenet_dir(small_miniimagenet, monkeypatch) -> str:
    """`small_miniimagenet`, taken for the published lists."""
    from metarun.data import images_in
    from metarun.tasks import miniimagenet
    from metarun.tasks.published import Facts

    def lines(split: str) -> list[str]:
        return sorted((small_miniimagenet / "miniimagenet" / f"{split}.csv").read_text().split())

    digests = {split: sha256("\n".join(lines(split)).encode()).hexdigest() for split in miniimagenet.LISTS}
    labels = {split: sorted({line.split(",")[1] for line in lines(split)} - {"label"}) for split in digests}
    monkeypatch.setenv("METARUN_CACHE_DIR", str(small_miniimagenet / "cache"))
    monkeypatch.setattr(miniimagenet, "LISTS", digests)
    facts = Facts({split: tuple(names) for split, names in labels.items()}, 20, (84, 84, 3))
    monkeypatch.setattr(miniimagenet.MiniImageNet, "facts", facts)
    images_in.cache_clear()
    return str(small_miniimagenet)


CIFAR_CLASSES = {"train": 12, "val": 5, "test": 6}  # of 20 images each, 15 of them in the part train.bin
CIFAR_SPLITS = ("cifar_fs", "fc100")


@pytest.fixture(scope="session")
def small_cifar(tmp_path_factory) -> Path:
    """A data_dir with an archive like CIFAR-100's, of few classes. Image i of class c is of the colour (10 c, 12 i, 7),
    but for its first row, which is black, and its last column, which is white."""
    import io
    import tarfile

    folder = tmp_path_factory.mktemp("cifar") / "cifar100"
    folder.mkdir()
    with tarfile.open(folder / "cifar-100-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, numbers in (("train.bin", range(15)), ("test.bin", range(15, 20))):
            content = bytearray()
            for i in reversed(numbers):
                for c in range(sum(CIFAR_CLASSES.values())):
                    image = np.zeros((3, 32, 32), np.uint8)
                    image[:] = np.array([10 * c, 12 * i, 7]).reshape(3, 1, 1)
                    image[:, 0] = 0
                    image[:, :, -1] = 255
                    content += bytes([c // 5, c]) + image.tobytes()
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder.parent


@pytest.fixture
def cifar_dir(small_cifar, monkeypatch) -> str:
    """`small_cifar`, taken for the published archive: classes a, b, c, ... shared out in that order."""
    from metarun.tasks import cifar100
    from metarun.tasks.cifar_fs import CifarFS
    from metarun.tasks.fc100 import FC100

    labels = [chr(ord("a") + c) for c in range(sum(CIFAR_CLASSES.values()))]
    train, val, test = CIFAR_CLASSES.values()
    shared_out = {"train": labels[:train], "val": labels[train : train + val], "test": labels[-test:]}
    content = {part.name: in_archive(small_cifar, part.name) for part in cifar100.PARTS}
    parts = [
        cifar100.Part(name, len(rows), sha256(b"".join(sorted(rows))).hexdigest()) for name, rows in content.items()
    ]
    monkeypatch.setenv("METARUN_CACHE_DIR", str(small_cifar / "cache"))
    monkeypatch.setattr(cifar100, "CLASSES", dict.fromkeys(CIFAR_SPLITS, shared_out))
    monkeypatch.setattr(cifar100, "LABELS", labels)
    monkeypatch.setattr(cifar100, "EACH", 20)
    monkeypatch.setattr(cifar100, "PARTS", parts)
    for task, name in ((CifarFS, "cifar_fs"), (FC100, "fc100")):
        monkeypatch.setattr(task, "facts", cifar100.facts(name))
    cifar100.found.cache_clear()
    return str(small_cifar)


def in_archive(folder: Path, name: str) -> list[bytes]:
    """The records of one of the archive's files."""
    import tarfile

    with tarfile.open(folder / "cifar100" / "cifar-100-binary.tar.gz") as archive:
        content = archive.extractfile(f"cifar-100-binary/{name}").read()
    return [content[i : i + 3074] for i in range(0, len(content), 3074)]


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A folder of images with a directory for each of 25 classes: 8 images, whose colours tell class and number."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("folder") / "colours"
    for c in range(25):
        (folder / f"class {c:02}").mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20 + c, 30), (10 * c, 20 + i, 200)).save(folder / f"class {c:02}" / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def text_dir() -> str:
    """The folder that holds text/, with CLINC150 and BANKING77, or a skip."""
    found = data_dir()
    if found is None or not (found / "text" / "clinc150_data_full.json").exists():
        pytest.skip("text/ is in neither $METARUN_DATA_DIR nor ../shared/data")
    return str(found)


@pytest.fixture(scope="session")
def small_arrays(tmp_path_factory) -> Path:
    return owned.points(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="session")
def small_table(tmp_path_factory) -> Path:
    return owned.people(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="session")
def small_texts(tmp_path_factory) -> Path:
    return owned.texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def data_for(request) -> Callable[[str], list[str]]:
    """The settings that let a task find its data, whichever it is; a skip where they are not at hand."""
    needs = {
        "omniglot": ("data_dir", "omniglot_dir"),
        "miniimagenet": ("data_dir", "miniimagenet_dir"),
        "folder": ("task.path", "small_folder"),
        "arrays": ("task.path", "small_arrays"),
        "table": ("task.path", "small_table"),
        "text": ("task.path", "small_texts"),
        "clinc150": ("data_dir", "text_dir"),
        "banking77": ("data_dir", "text_dir"),
        "cifar_fs": ("data_dir", "cifar_dir"),
        "fc100": ("data_dir", "cifar_dir"),
    }
    short = ["task.shots=3", "task.queries=2", "task.horizon=5", "eval.task={shots: 3, queries: 2}"]
    few = ["task.shots=3", "task.queries=2"]
    more = {"table": owned.OF_PEOPLE, "navigation": short, "bandits": few, "tabular_mdp": few}
    more |= {"gymnax": [*few, "task.horizon=5"], "gymnax_trials": [*few, "task.steps=4"]}

    def settings(task: str) -> list[str]:
        if task not in needs:
            return ["data_dir=null", *more.get(task, [])]
        key, fixture = needs[task]
        return [f"{key}={request.getfixturevalue(fixture)}", *more.get(task, [])]

    return settings


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: a directory that `make` has filled, for all of xdist's workers; no test may change it."""
    own = tmp_path_factory.getbasetemp()
    of_all = own if worker_id == "master" else own.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = of_all / name, of_all / f"{name}.whole"
        with FileLock(of_all / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def two_runs(once) -> Path:
    """A classification and a regression, finished; the classification's name and classes have markup in them.

    Of their checkpoints the names are left: a report reads no more, and tests copy the runs often.
    """
    return once("two_runs", make_two_runs)


@pytest.fixture
def unsaved(monkeypatch) -> None:
    """A report's plots are drawn and not written: that takes most of a page's time, and is tested with the page."""
    from matplotlib.figure import Figure

    from metarun.report import plots

    def drawn(draw) -> str:
        draw(Figure().subplots())
        return "<svg></svg>"

    monkeypatch.setattr(plots, "svg", drawn)


def make_two_runs(folder: Path) -> None:
    from support import MARKUP, composed, on_blobs

    from metarun.config.run import build_run
    from metarun.run import train

    quick = ("logger=none", "train.steps=4", "train.meta_batch=2", "eval.episodes=8", "eval.val_episodes=2")
    quick += ("eval.inner_steps=[0,1]",)
    blobs = on_blobs(*quick, "eval.shots=[1,2]")
    sinusoid = composed("task=sinusoid", "model.hidden=[8]", "hardware.task_chunk=1", *quick)
    for name, values in (("blobs", blobs), ("sinusoid", sinusoid)):
        values["run"] |= {"dir": str(folder / name), "name": MARKUP}
        train.train(build_run(values))
        for file in (folder / name / "checkpoints").glob("*/*/*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    classes = {"classes": {MARKUP: [1, 2], "b": [3, 3]}, "confusions": [[MARKUP, "b", 1]]}
    (folder / "blobs" / "classes.json").write_text(json.dumps(classes))
