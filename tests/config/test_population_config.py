"""Which runs `train.seeds` and `train.population` make, and what they refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from support import composed

from metarun.config import conf_dir, translate
from metarun.config.population import Member, axes_of, grid, is_asked_for, members
from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.sweep.together import axes

SINE = ("task=sinusoid", "learner=maml", "logger=none")


@contextmanager
def asked(*settings: str) -> Iterator[DictConfig]:
    """What Hydra composes for the command line."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=["run.name=NAME", *translate(list(settings))], return_hydra_config=True)
    HydraConfig.instance().cfg = None
    HydraConfig.instance().set_config(cfg)
    try:
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg
    finally:
        HydraConfig.instance().cfg = None


def found(directory: Path, *settings: str) -> list[Member]:
    with asked(*settings) as cfg:
        assert is_asked_for(cfg)
        return members(cfg, directory)


def test_a_grid_and_seeds_make_a_run_for_each_combination_seeds_first(tmp_path):
    population = "train.population=learner.inner_lr=0.1,0.2"
    runs = found(tmp_path, *SINE, population, "train.seeds=2", "train.seed=7", f"run.dir={tmp_path}")
    assert [(one.run.learner.inner_lr, one.run.train.seed) for one in runs] == [(0.1, 7), (0.1, 8), (0.2, 7), (0.2, 8)]
    assert [Path(one.run.info.dir).name for one in runs] == ["0", "1", "2", "3"]
    assert len({one.run.shape for one in runs}) == 1
    assert runs[3].settings[-2:] == ("learner.inner_lr=0.2", "train.seed=8")
    assert runs[3].run.command == "metarun run.name=NAME " + " ".join((*SINE, *runs[3].settings[-2:]))


def test_a_members_configuration_is_that_of_the_same_run_alone(tmp_path):
    (one,) = found(tmp_path, *SINE, "train.seeds=[5]", "train.population=learner.inner_lr=0.2")
    alone = composed(*SINE, "train.seed=5", "learner.inner_lr=0.2", f"run.dir={tmp_path}/0")
    assert one.run.config == build_run(alone).config
    assert not {"seeds", "population"} & one.run.config["train"].keys()


def test_what_follows_a_number_follows_it_in_each_member(tmp_path):
    runs = found(
        tmp_path, *SINE, "learner.inner_lr=${suggested.inner_lr}", "train.population=suggested.inner_lr=0.1,0.3"
    )
    assert [one.run.learner.inner_lr for one in runs] == [0.1, 0.3]


def test_what_they_are_is_what_a_sweep_of_them_is_given(tmp_path):
    runs = found(tmp_path, *SINE, "train.seeds=2", "train.population=learner.inner_lr=0.1,0.2")
    given = ("run.name=NAME", *SINE, "learner.inner_lr=0.1,0.2", "train.seed=0,1")
    assert axes([one.settings for one in runs]) == given


def test_seeds_are_a_number_from_the_first_on_or_a_list():
    assert axes_of(3, None, 5) == [("train.seed", ["5", "6", "7"])]
    assert axes_of(OmegaConf.create([9, 2]), None, 5) == [("train.seed", ["9", "2"])]


def test_a_grid_takes_what_hydra_takes():
    assert grid("a.b=1e-3,2e-3 c=range(2)") == [("a.b", ["0.001", "0.002"]), ("c", ["0", "1"])]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.seeds=0"], r"^train\.seeds=0: must be a number of seeds"),
        (["train.seeds=[1,1]"], r"^train\.seeds=\[1, 1\]: must be a number of seeds"),
        (["train.seeds=[-1]"], r"^train\.seed=-1: must be an integer >= 0"),
        (["train.population=word"], r"^train\.population=word: word cannot be read"),
        (["train.population=learner.inner_lr=0.1,0.1"], "each of its values once"),
        (["train.population=train.seed=0,1", "train.seeds=2"], "leave one of them out"),
        (["train.population=task.shots=5,10"], r"^task\.shots=5,10: is no number that the compiled program is given"),
        (["train.population=train.clip_norm=1.0,2.0"], r"^train\.clip_norm=1\.0,2\.0: is no number"),
        (["train.population=train.init_from=a,b", "train.private.clip=1"], r"^train\.init_from=a,b: is no number"),
        (["train.population=eval.seed=0,1"], r"^eval\.seed=0,1: is no number"),
        (["train.population=learner.inner_lrr=0.1"], "no such key; did you mean inner_lr"),
        (["train.population=learner.inner_lr=0.1,-1.0"], r"^learner\.inner_lr=-1\.0: must be a number > 0"),
        (["train.population=learner.inner_lr=0.1,0.2 train.meta_batch=4,8"], r"^train\.meta_batch=4,8: is no number"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says):
        found(tmp_path, *SINE, *settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["train.seeds=2", "train.population=learner.inner_lr=0.1"])
def test_where_one_run_is_wanted_several_are_refused(setting):
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}=.*makes several runs in one program, and here one is wanted"):
        build_run(composed(*SINE, *translate([setting])))
