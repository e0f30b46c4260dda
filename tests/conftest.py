"""Set before jax is first used: strict JAX, two devices, quick compilation, no writing to the user's own cache."""

import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("METARUN_CACHE_DIR", str(Path(tempfile.gettempdir()) / "metarun-tests"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(os.environ["METARUN_CACHE_DIR"]) / "xla"))
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling small programs: half of it with these.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.pop("WANDB_API_KEY", None)
os.environ["METARUN_ALLOW"] = "blobs"  # tests/blobs.py stands for a user's own component

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


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
def two_runs(tmp_path_factory) -> Path:
    """A classification and a regression, finished; the classification's name and classes have markup in them."""
    from support import MARKUP, composed, on_blobs

    from metarun import config, train

    folder = tmp_path_factory.mktemp("runs")
    quick = ("logger=none", "train.steps=4", "train.meta_batch=2", "eval.episodes=8", "eval.val_episodes=2")
    quick += ("eval.inner_steps=[0,1]",)
    blobs = on_blobs(*quick, "eval.shots=[1,2]")
    sinusoid = composed("task=sinusoid", "model.hidden=[8]", *quick)
    for name, values in (("blobs", blobs), ("sinusoid", sinusoid)):
        values["run"] |= {"dir": str(folder / name), "name": MARKUP}
        train.train(config.build_run(values))
    classes = {"classes": {MARKUP: [1, 2], "b": [3, 3]}, "confusions": [[MARKUP, "b", 1]]}
    (folder / "blobs" / "classes.json").write_text(json.dumps(classes))
    return folder
