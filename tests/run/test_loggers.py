"""What W&B and TensorBoard hold of a run, read back; several loggers at once, of which one breaks."""

import dataclasses
import io
import json
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import blobs
import numpy as np
import pytest
from PIL import Image
from support import equal, on_blobs, rows

import metarun
from metarun.command.from_python import run_of
from metarun.config.run import build_run
from metarun.core import ConfigError, InSweep, Tracked
from metarun.run import display, ending, to_wandb, train
from metarun.run.log import close_log, open_log, speaking
from metarun.run.loggers import Trackers
from metarun.run.shown import shown
from metarun.run.to_tensorboard import TensorBoard
from metarun.run.to_wandb import Wandb, WandbRun

LOGGERS = {
    "wandb": {
        "_target_": "metarun.run.to_wandb.Wandb", "project": "p", "entity": None, "group": None, "mode": "offline",
        "job_type": "train", "notes": "of the test", "checkpoint": True,
    },
    "tensorboard": {"_target_": "metarun.run.to_tensorboard.TensorBoard"},
}  # fmt: skip


@dataclass(frozen=True)
class NamedBlobs(blobs.Blobs):
    """Their classes have names."""

    def class_names(self, split: str) -> list[str]:
        return [f"{split} | {number}" for number in range(self.pool)]


@dataclass(frozen=True)
class Breaking:
    """Fails at one of its methods; what it was told before that is kept."""

    at: str
    told: list = dataclasses.field(default_factory=list)

    def open(self, run: Tracked) -> "Breaking":
        return self.heard("open")

    def row(self, step: int, row: dict[str, float]) -> None:
        self.heard("row")

    def close(self, summary: dict[str, float]) -> None:
        self.heard("close")

    def heard(self, method: str) -> "Breaking":
        self.told.append(method)
        if method == self.at:
            raise RuntimeError(f"no {method}\nand more")
        return self


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> tuple[Path, list[Breaking]]:
    """The directory of a job of a sweep that was tracked by W&B, by TensorBoard, and by three that broke."""
    quick = ("train.steps=6", "train.meta_batch=2", "train.eval_every=2", "eval.episodes=8", "eval.val_episodes=4")
    quick += ("eval.inner_steps=[0,1,3]", "run.tags=[a,b]", "learner=fomaml", "hardware.devices=1")
    directory = tmp_path_factory.mktemp("tracked") / "RUN"
    values = on_blobs(*quick) | {"logger": LOGGERS}
    values["run"] |= {"dir": str(directory)}
    run = build_run(values)
    breaking = [Breaking(at) for at in ("open", "row", "close")]
    loggers = {f"breaks at {one.at}": one for one in breaking} | run.loggers
    tasks = NamedBlobs(**{field.name: getattr(run.tasks, field.name) for field in dataclasses.fields(run.tasks)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "of_this_job", lambda: (("train.seed=0",), InSweep("SWEEP", ("train.seed=0,1",))))
        train.train(dataclasses.replace(run, loggers=loggers, tasks=tasks, eval_tasks=tasks))
    train.close_log()
    return directory, breaking


def by_wandbs_reader(folder: Path) -> list[dict]:
    """The records of the one offline run there."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def of_type(records: list[dict], name: str) -> list[dict]:
    return [record[name] for record in records if record["type"] == name]


def summary_of(records: list[dict]) -> dict:
    found = {}
    for one in of_type(records, "summary"):
        found |= one["update"]
    return found


@pytest.fixture(scope="module")
def records(tracked) -> list[dict]:
    return by_wandbs_reader(tracked[0])


def test_wandb_knows_what_a_run_is_and_which_sweep_it_is_of(tracked, records):
    (run,) = of_type(records, "run")
    assert (run["project"], run["run_group"], run["job_type"], run["notes"]) == ("p", "SWEEP", "train", "of the test")
    assert run["display_name"] == "NAME train.seed=0"
    assert run["tags"] == ["a", "b"]
    config = run["config"]["update"]
    assert config["command"] == json.loads((tracked[0] / "results.json").read_text())["training"]["command"]
    assert config["train"]["meta_batch"] == 2


def test_wandb_has_every_row_on_the_axis_of_meta_steps(tracked, records):
    defined = {one.get("name") or one["glob_name"]: one for one in of_type(records, "metric")}
    axis = {name: one.get("step_metric") for name, one in defined.items()}
    assert axis == {"meta_step": None, "train/*": "meta_step", "val/*": "meta_step", "val/accuracy": "meta_step"}
    assert defined["val/accuracy"]["summary"] == {"max": True, "last": True}
    assert defined["meta_step"]["options"]["hidden"]
    logged = [one["item"] for one in of_type(records, "history")]
    expected: dict[int, dict] = {}
    for row in rows(tracked[0]):
        split = row.pop("split")
        expected.setdefault(row.pop("step"), {}).update({f"{split}/{name}": value for name, value in row.items()})
    assert [row["meta_step"] for row in logged] == list(expected)
    for row, figures in zip(logged, expected.values(), strict=True):
        assert {name: value for name, value in row.items() if name in figures} == figures


def test_wandbs_summary_has_the_best_validation_and_the_test_with_its_intervals(tracked, records):
    found, summary = json.loads((tracked[0] / "results.json").read_text()), summary_of(records)
    best = max((row for row in rows(tracked[0]) if row["split"] == "val"), key=lambda row: row["accuracy"])
    assert summary["val/best_accuracy"] == summary["val/accuracy"]["max"] == best["accuracy"]
    assert summary["val/best_meta_step"] == best["step"]
    figures = {f"test/{name}": figure for name, figure in found["test"].items()}
    figures |= {f"test/accuracy_after_{n}": f["accuracy"] for n, f in found["test_by_inner_steps"].items()}
    assert len(figures) >= 5
    for name, figure in figures.items():
        assert (summary[name], summary[f"{name}_ci95"]) == (figure["mean"], figure["ci95"])


def test_wandb_has_the_adaptation_curve_the_classes_and_the_episodes(tracked, records):
    folder, summary = tracked[0], summary_of(records)
    (files,) = folder.glob("wandb/offline-run-*/files")

    def table(name: str) -> list[list]:
        return json.loads((files / summary[f"{name}.path"]).read_text())["data"]

    found = json.loads((folder / "results.json").read_text())["test_by_inner_steps"]
    assert table("test/adaptation_table") == [
        [n, found[str(n)]["accuracy"]["mean"], found[str(n)]["accuracy"]["ci95"]] for n in (0, 1, 3)
    ]
    (plot,) = [v for one in of_type(records, "config") for k, v in one["update"].items() if "visualize" in k]
    assert plot["panel_config"]["fieldSettings"] == {"x": "inner_steps", "y": "accuracy", "stroke": None}
    classes = json.loads((folder / "classes.json").read_text())
    assert table("test/classes") == [
        [n, right / asked, right, asked] for n, (right, asked) in classes["classes"].items()
    ]
    assert table("test/confusions") == classes["confusions"]
    for name, place in (("best", 0), ("median", 3), ("worst", 7)):
        with np.load(folder / "examples.npz") as kept:
            (i,) = np.flatnonzero(kept["rank"] == place)[:1]
            right = (kept["outputs"][i].argmax(-1) == kept["query_y"][i]).sum()
        assert f"{right} of 6 right" in summary[f"test/{name}_episode.caption"]
        with Image.open(files / summary[f"test/{name}_episode.path"]) as picture:
            assert picture.width > 200


def test_wandbs_artifact_of_the_best_checkpoint_loads_as_the_run_does(tracked, records, tmp_path):
    artifact = next(one for one in of_type(records, "artifact") if one["type"] == "model")
    assert sorted(artifact["aliases"]) == ["best", "latest"]
    facts, summary = json.loads(artifact["metadata"]), summary_of(records)
    assert facts["test/accuracy"] == summary["test/accuracy"]
    assert facts["val/best_meta_step"] == summary["val/best_meta_step"]
    for file in artifact["manifest"]["contents"]:
        (tmp_path / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        assert tracked[0] in Path(file["local_path"]).parents  # of an offline run all is in the run's directory
        shutil.copy(file["local_path"], tmp_path / file["path"])
    assert f"checkpoints/best/{facts['val/best_meta_step']}" in {
        str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*/*")
    }
    equal(metarun.load(tmp_path, "best").params, metarun.load(tracked[0], "best").params)


def test_a_figure_that_is_not_finite_is_null_beside_the_artifact(tmp_path):
    kept = []
    of = Tracked(tmp_path, on_blobs(), "n", (), "mse", "metarun", 0)
    run = SimpleNamespace(id="one", log_artifact=lambda artifact, aliases: kept.append(artifact))
    (tmp_path / "file").write_text("best")
    tracker = SimpleNamespace(of=of, run=run, folder=tmp_path)
    WandbRun._keep(tracker, [tmp_path / "file"], {"test/mse": float("inf"), "val/best_mse": 0.5})
    assert kept[0].metadata.items() >= {"test/mse": None, "val/best_mse": 0.5, "metric": "mse"}.items()


def test_a_regression_is_best_where_it_is_least_and_an_untested_run_has_no_pictures(tmp_path):
    wandb = Wandb("p", None, "mine", "offline").open(Tracked(tmp_path, on_blobs(), "n", (), "mse", "metarun", 0))
    for step, error in ((1, 3.0), (2, 1.0), (3, 2.0)):
        wandb.row(step, {"val/mse": error})
    wandb.close({"val/best_mse": 1.0})
    found = by_wandbs_reader(tmp_path)
    assert summary_of(found)["val/mse"] == {"min": 1.0, "last": 2.0}
    assert summary_of(found)["val/best_mse"] == 1.0
    assert of_type(found, "run")[0]["run_group"] == "mine"
    assert not of_type(found, "artifact")


def test_what_wandbs_thread_logs_is_of_the_member_whose_tracker_it_is(tmp_path, monkeypatch):
    """Of runs that share a program; not of all of them together."""
    init = Mock(return_value=Mock(id="x", dir=str(tmp_path / "files"), define_metric=Mock(side_effect=OSError("gone"))))
    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setattr("metarun.run.to_wandb.abandoned", [])
    open_log(tmp_path, tmp_path / "3")
    try:
        with speaking(tmp_path / "3"):
            of = Tracked(tmp_path / "3", on_blobs(), "n", (), "mse", "metarun", 0)
            wandb = Wandb("p", None, "mine", "offline").open(of)
        wandb.thread.join()
    finally:
        close_log()
    assert "stopped logging there (gone)" in (tmp_path / "3" / "metarun.log").read_text()
    assert not (tmp_path / "metarun.log").read_text()


def test_where_wandb_cannot_be_reached_one_waits_and_all_are_logged_offline_the_users_own_too(
    tmp_path, monkeypatch, caplog
):
    """Each under its own id; one that an earlier process has begun is uploaded to it by --id."""
    import wandb

    nobody = {"api_key": "0" * 40, "base_url": "http://127.0.0.1:9"}
    init, asked = wandb.init, []

    def to_nobody(mode: str, settings: wandb.Settings, **given: object) -> wandb.Run:
        asked.append(mode)
        settings.update_from_dict(nobody)
        return init(mode=mode, settings=settings, **given)

    quiet = wandb.Settings(console="off", silent=True)
    own = init(mode="offline", dir=tmp_path, reinit="create_new", settings=quiet)
    monkeypatch.setenv("WANDB_API_KEY", nobody["api_key"])
    monkeypatch.setattr("wandb.init", to_nobody)
    monkeypatch.setattr(to_wandb, "TIME_TO_BEGIN", 0.5)
    for name in ("held", "silent"):
        monkeypatch.setattr(to_wandb, name, type(getattr(to_wandb, name))())
    caplog.set_level("INFO", "metarun")

    def opened(name: str) -> WandbRun:
        of = Tracked(tmp_path / name, on_blobs(), "n", (), "mse", "metarun", 0)
        return Wandb("p", None, "mine", "online", checkpoint=False).open(of)

    def id_of(name: str) -> str:
        return (tmp_path / name / "wandb" / "run_id").read_text()

    for name, known in {"begun": "earlier", "new": ""}.items():  # of the second a full disk took no letter
        (tmp_path / name / "wandb").mkdir(parents=True)
        (tmp_path / name / "wandb" / "run_id").write_text(known)
    members = {name: opened(name) for name in ("begun", "new")}
    assert asked == ["online", "offline", "offline"]
    assert f"wandb sync --id earlier {Path(members['begun'].run.dir).parent}" in caplog.text
    to_wandb.silent.clear()
    members["late"] = opened("late")
    assert asked[3:] == ["online", "offline"]
    assert id_of("begun") == "earlier"
    assert all(id_of(name) == members[name].run.id for name in ("new", "late"))
    for step in (1, 2):
        own.log({"own": step}, step=step)
        for member in members.values():
            member.row(step, {"train/loss": float(step)})
    own.finish()
    for member in members.values():
        member.close({})
    members["again"] = opened("begun")
    members["again"].close({})
    assert "stopped logging" not in caplog.text
    for name in ("begun", "new", "late"):
        file = next((tmp_path / name).glob(f"wandb/offline-run-*/run-{members[name].run.id}.wandb"))
        assert b"train/loss" in file.read_bytes()


def events(file: Path) -> list:
    """What TensorBoard would read: records of a length, a checksum, the bytes of an event, and another checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content, found = io.BytesIO(file.read_bytes()), []
    while header := content.read(12):
        length, check = struct.unpack("<QI", header)
        assert masked_crc32c(header[:8]) == check
        data = content.read(length)
        assert (masked_crc32c(data),) == struct.unpack("<I", content.read(4))
        found.append(Event.FromString(data))
    return found


def values(found: list) -> dict[str, dict]:
    """Tag -> meta-step -> what is there."""
    by_tag: dict[str, dict] = {}
    for event in found:
        for value in event.summary.value:
            by_tag.setdefault(value.tag, {})[event.step] = value
    return by_tag


def test_tensorboard_has_rows_pictures_tables_and_hyperparameters_with_final_figures(tracked):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    (file,) = (tracked[0] / "tensorboard").glob("events.out.tfevents.*")
    held = values(events(file))
    for row in rows(tracked[0]):
        split, step = row.pop("split"), row.pop("step")
        for name, value in row.items():
            assert held[f"{split}/{name}"][step].simple_value == np.float32(value)
    found = json.loads((tracked[0] / "results.json").read_text())
    assert held["test/accuracy"][6].simple_value == np.float32(found["test"]["accuracy"]["mean"])
    assert held["test/accuracy_ci95"][6].simple_value == np.float32(found["test"]["accuracy"]["ci95"])
    for name in ("adaptation", "best_episode", "median_episode", "worst_episode"):
        image = held[f"test/{name}"][6].image
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.size == (image.width, image.height)
    classes = json.loads((tracked[0] / "classes.json").read_text())["classes"]
    text = held["test/classes/text_summary"][6].tensor.string_val[0].decode()
    assert len(text.splitlines()) == 2 + len(classes)
    name, (right, asked) = next(iter(classes.items()))
    assert f"| {name.replace('|', chr(92) + '|')} | {right / asked:.4f} | {asked} |" in text

    def plugin(tag: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(held[f"_hparams_/{tag}"][6].metadata.plugin_data.content)

    hparams = plugin("session_start_info").session_start_info.hparams
    assert hparams["learner.inner_lr"].number_value == 0.4
    assert hparams["optimizer._target_"].string_value == "optax.adam"
    assert not [key for key in hparams if key.startswith(("run.", "logger"))]
    metrics = {info.name.tag for info in plugin("experiment").experiment.metric_infos}
    assert {"test/accuracy", "val/best_accuracy", "test/accuracy_after_3"} <= metrics <= held.keys()


def test_final_figures_on_validations_tasks_stand_apart_from_its_curve(tracked, tmp_path):
    half = {"accuracy": {"mean": 0.5, "ci95": 0.1}}
    one = SimpleNamespace(evaluation=SimpleNamespace(figures=half))
    tested = SimpleNamespace(**vars(one), figures_by_inner_steps={3: half}, by_shots={5: one}, by_domain={"d": one})
    for split, place in (("val", "final_val"), ("test", "test")):
        found = ending.summary(split, "accuracy", {"mean": 0.6, "step": 2}, tested)
        finals = {
            f"{place}/{name}" for name in ("accuracy", "accuracy_after_3", "accuracy_with_5_shots", "on d/accuracy")
        }
        best = {"val/best_accuracy", "val/best_meta_step"}
        assert found.keys() == {*finals, *(f"{name}_ci95" for name in finals), *best}
        results = (tracked[0] / "results.json").read_text().replace('"test', f'"{split}')
        (tmp_path / "results.json").write_text(results)
        assert shown(tmp_path).place == place


def test_tensorboard_takes_a_figure_that_is_not_finite_without_a_word(tmp_path, caplog):
    tracker = TensorBoard().open(Tracked(tmp_path, {}, "n", (), "mse", "metarun", 0))
    tracker.row(1, {"train/loss": float("nan")})
    tracker.close({})
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert np.isnan(values(events(file))["train/loss"][1].simple_value)
    assert not caplog.messages


def test_tensorboard_forgets_what_is_written_again_and_nothing_else(tmp_path):
    """Of a run that begins again, one that goes on, and one that is tested again; with TensorBoard's own rule."""
    from tensorboardX.proto.event_pb2 import SessionLog

    metrics, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    held: dict[str, list[tuple[int, float]]] = {}

    def process(step: int, kept: list[dict], *written: tuple[int, str, float], total: int = 8) -> list[int]:
        """A process of the run, which goes on from `step` with these rows; where the ones before become void."""
        metrics.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        there = set(folder.iterdir()) if folder.exists() else set()
        of = Tracked(tmp_path, {"train": {"steps": total}}, "n", (), "mse", "metarun", step)
        tracker = TensorBoard().open(of)
        for at, name, value in written:
            tracker.row(at, {name: value})
        tracker.close({})
        (file,) = set(folder.iterdir()) - there
        starts = []
        for event in events(file):
            if event.session_log.status == SessionLog.START:
                starts.append(event.step)
                for tag in held:
                    held[tag] = [point for point in held[tag] if point[0] < event.step]
            for value in event.summary.value:
                held.setdefault(value.tag, []).append((event.step, value.simple_value))
        return starts

    last = [{"step": 8, "split": "train", "loss": 5.0}, {"step": 8, "split": "val", "loss": None}]
    assert process(0, [], (4, "train/loss", 1.0), (5, "train/loss", 2.0)) == []
    assert process(0, [], (4, "train/loss", 1.0), (5, "train/loss", 3.0)) == [0]
    assert process(4, [], (5, "train/loss", 4.0), (8, "train/loss", 5.0), (8, "test/mse", 6.0)) == [5]
    assert process(8, [{"step": 4, "split": "train", "loss": 1.0}, *last], (8, "test/mse", 7.0)) == [8]
    assert held["train/loss"] == [(4, 1.0), (5, 4.0), (8, 5.0)]
    assert held["test/mse"] == [(8, 7.0)]
    assert [step for step, value in held["val/loss"] if np.isnan(value)] == [8]
    assert process(8, last, (12, "train/loss", 8.0), (12, "test/mse", 9.0), total=12) == [9]
    assert held["train/loss"][-2:] == [(8, 5.0), (12, 8.0)]
    assert held["test/mse"] == [(8, 7.0), (12, 9.0)]


def test_a_logger_that_breaks_is_told_of_once_and_takes_nothing_with_it(tracked):
    directory, breaking = tracked
    heard = {one.at: one.told for one in breaking}
    assert heard["open"] == ["open"]
    assert heard["row"] == ["open", "row"]
    assert heard["close"] == ["open", *["row"] * len(rows(directory)), "close"]
    told = [line for line in (directory / "metarun.log").read_text().splitlines() if "logger breaks" in line]
    assert [line.partition(" logger ")[2] for line in told] == [
        f"breaks at {at}: nothing more goes there (no {at})" for at in ("open", "row", "close")
    ]


def test_a_tracker_cannot_change_what_another_is_given(tmp_path):
    given = []

    class Greedy:
        def open(self, run):
            return self

        def row(self, step, row):
            given.append(row.copy())
            row.clear()

        close = None

    Trackers({"one": Greedy(), "two": Greedy()}, Tracked(tmp_path, {}, "n", (), "mse", "metarun", 0)).row(1, {"a": 1.0})
    assert given == [{"a": 1.0}, {"a": 1.0}]


def test_tensorboard_without_its_package_is_refused_with_the_command_that_installs_it(monkeypatch):
    """Before anything is trained. A run that was logged there may still be read."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for logger in ("logger=tensorboard", "logger=[none,tensorboard]"):
        with pytest.raises(ConfigError, match=r"^logger=tensorboard: .*pip install 'metarun\[tensorboard\]'"):
            run_of(["learner=maml", logger])
    build_run(on_blobs() | {"logger": LOGGERS})
