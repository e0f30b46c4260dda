"""From a composed configuration to checked, frozen objects; every mistake ends in a one-line ConfigError."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import flax.linen as nn
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from metarun import engine
from metarun.config import serving
from metarun.config.build import Recipe, build, recipe, unknown
from metarun.config.conf import flat, laid_over
from metarun.config.domains import (
    OF_AN_EPISODE,
    as_they_are,
    build_domains,
    columns_of,
    complete,
    must_be_encoded_alike,
)
from metarun.config.loggers import build_loggers
from metarun.config.optimizer import check_kept, check_optimizer
from metarun.config.private import among_users, noise_number
from metarun.config.settings import Eval, Paper, RunInfo, Train
from metarun.core import ConfigError, InSweep, Learner, Logger, Tasks
from metarun.gradients import Inner


@dataclass(frozen=True)
class Run:
    """One run, checked."""

    tasks: Tasks
    learner: Learner
    eval_tasks: Tasks
    eval_learner: Learner
    domains: dict[str, Tasks]  # to be tested on, too, by their names
    model: Any  # a flax module, its number of outputs set
    optimizer: Recipe  # of an optax.GradientTransformation
    # The floats of learner, eval_learner and optimizer, and the noise's number: arguments of the programs.
    numbers: dict[str, dict[str, Any]]
    inner: Inner
    train: Train
    private: engine.Private
    eval: Eval
    hardware: engine.Hardware
    loggers: dict[str, Logger]  # by their names
    info: RunInfo
    config: dict[str, Any] = field(repr=False)  # the whole configuration, resolved: enough to run it again
    command: str | None = None  # that asks for it; None: the process's own
    settings: tuple[str, ...] | None = None  # of that, without + and ~; None: those of the job that Hydra runs
    sweep: InSweep | None = None  # where it is asked for with others

    @cached_property
    def shape(self) -> engine.Shape:
        """What the run's programs are made from."""
        return engine.Shape(
            tasks=self.tasks,
            eval_tasks=self.eval_tasks,
            learner=engine.without_numbers(self.learner),
            eval_learner=engine.without_numbers(self.eval_learner),
            model=self.model,
            optimizer=self.optimizer,
            inner=self.inner,
            guard=self.train.guard,
            asked=self.asked,
            meta_batch=self.train.meta_batch,
            content=engine.content_of(self.tasks, self.eval_tasks),
            selection=self.train.screening,
            private=self.private if self.private.clip is not None else None,
        )

    @property
    def other_steps(self) -> tuple[int, ...]:
        """The numbers of inner steps that the test answers after beside the learner's own; none if it takes none."""
        own = getattr(self.eval_learner, "inner_steps", None)
        return () if own is None else tuple(n for n in dict.fromkeys(self.eval.inner_steps) if n != own)

    @property
    def asked(self) -> engine.Asked:
        """What the test tells; a model whose predictions do not depend on their company has no inductive ones."""
        return engine.Asked(
            after=len(self.other_steps),
            inductive=self.eval.inductive if engine.is_transductive(self.model) else "none",
        )

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that shape the run's programs: no learning rate, no seed, no place."""
        parts = ("task.", "learner.", "model.", "optimizer.", "inner.")
        shaping = (*parts, "train.task.", "train.meta_batch", "train.selection", "train.private.")
        return {
            key: value
            for key, value in flat(self.config).items()
            if key.startswith(shaping) and not isinstance(value, float) and not key.endswith("data_dir")
        }


def build_run(config: dict[str, Any], selected_by: Collection[str] = ("val",)) -> Run:
    """Checks a resolved configuration and builds what it names. No device is touched. Raises ConfigError.

    Episodes of training and of the test must be there, and of the splits that it is `selected_by`: of none, if it is
    only tested.
    """
    unknown(config, set(SECTIONS), "")
    for section in SECTIONS:
        if section not in config:
            raise ConfigError(section, "(nothing)", "every run needs it: leave it in")
    must_hold_no_key(config)
    config = complete(of_one_run(config))
    train = build("train", config["train"], Train)
    evaluation = build("eval", config["eval"], Eval)
    hardware = build("hardware", config["hardware"], kind=engine.Hardware)
    how = build("inner", config["inner"], Inner)
    hardware.check(train.meta_batch)
    if train.screening is not None and hardware.data == "host":
        allowed = f"auto or device, as train.selection={train.selection} scores tasks of which it trains on some"
        raise ConfigError("hardware.data", hardware.data, allowed)
    private = build("train.private", train.private, engine.Private)
    if private.clip is not None and train.screening is not None:
        allowed = "uniform with train.private.clip, as a choice by losses tells of tasks, too"
        raise ConfigError("train.selection", train.selection, allowed)

    learner = build("learner", config["learner"], kind=Learner)
    # Before a key of train.task that only a classification has.
    serving.check(learner, build("task", config["task"], kind=Tasks), config)
    for key, overrides in {"train.task": train.task, "eval.task": evaluation.task}.items():
        if "augment" in overrides:
            allowed = "goes under task.augment: it is of training's images, and of no others"
            raise ConfigError(f"{key}.augment", overrides["augment"], allowed)
    tasks = build("train.task", laid_over(config["task"], known("train.task", train.task, config["task"])))
    tested_on = laid_over(config["task"], known("eval.task", evaluation.task, config["task"]))
    columns = columns_of(tasks) if evaluation.task.keys() - {*OF_AN_EPISODE} else None
    eval_tasks = as_they_are(build("eval.task", tested_on, columns=columns))
    eval_learner = build(
        "eval.learner",
        laid_over(config["learner"], known("eval.learner", evaluation.learner, config["learner"])),
    )
    must_give_episodes(tasks, train, eval_tasks, evaluation, selected_by)
    private = among_users(private, tasks, train, hardware)
    must_be_encoded_alike("eval.task", eval_tasks, tasks)
    serving.check(learner, tasks, config)
    serving.check(eval_learner, eval_tasks, config)

    width, eval_width = learner.width(tasks.n_out), eval_learner.width(eval_tasks.n_out)
    if width is not None and eval_width is not None and eval_width > width:
        raise ConfigError(
            "eval.task.ways", eval_width, f"at most {width}, the outputs that training with {width} ways gives"
        )
    others = build_domains(evaluation.tasks, evaluation.split, evaluation.shots, tasks, eval_learner, width)
    check_kept(engine.kept_by(learner), config["optimizer"], private)
    check_optimizer(config["optimizer"], learner, tasks, train, private)
    optimizer, optimizer_numbers = recipe("optimizer", config["optimizer"])
    if config["paper"] is not None:
        build("paper", config["paper"], Paper)
    return Run(
        tasks=tasks,
        learner=learner,
        eval_tasks=eval_tasks,
        eval_learner=eval_learner,
        domains=others,
        model=build("model", config["model"], kind=nn.Module, n_out=width, dtype=hardware.dtype),
        optimizer=optimizer,
        numbers={
            "learner": engine.numbers_of(learner),
            "eval_learner": engine.numbers_of(eval_learner),
            "optimizer": optimizer_numbers,
        }
        | ({} if private.clip is None else {"private": {"noise": noise_number(config, tasks)}}),
        inner=how,
        train=train,
        private=private,
        eval=evaluation,
        hardware=hardware,
        loggers=build_loggers(config["logger"]),
        info=build("run", config["run"], RunInfo),
        config=config,
    )


def must_give_episodes(
    tasks: Tasks, train: Train, eval_tasks: Tasks, evaluation: Eval, selected_by: Collection[str]
) -> None:
    """Raises ConfigError, by the key to change, unless there are episodes to train on, to select by and to test on."""
    parts = [("train", tasks, "train.task", train.task)]
    parts += [(split, eval_tasks, "eval.task", evaluation.task) for split in (*selected_by, evaluation.split)]
    for shots in evaluation.shots:
        if not hasattr(eval_tasks, "shots"):
            raise ConfigError("eval.shots", list(evaluation.shots), "[], as the task has no key shots")
        parts.append((evaluation.split, with_shots(eval_tasks, shots), "eval", {"shots": shots}))
    for split, distribution, own, overrides in parts:
        try:
            distribution.check(split)
        except ConfigError as error:
            # The key to change is the one that set the value: the task's, unless the split has its own.
            of_its_own = bool(set(error.key.split("+")) & set(overrides))
            if of_its_own and own == "train.task":
                whose = "training's own, by your settings or the learner's yaml"
                error = ConfigError(error.key, error.given, f"{error.allowed}; it is {whose}")
            raise error.under(own if of_its_own else "task") from None


TOGETHER = ("seeds", "population")  # of `train`: what several runs in one program differ in (config.population)


def of_one_run(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that ask for several runs. Raises ConfigError if they do."""
    train = config["train"]
    if not isinstance(train, Mapping):
        return config  # which `build` tells of
    for key in TOGETHER:
        if train.get(key) is not None:
            allowed = "makes several runs in one program, and here one is wanted: `metarun` without -m trains them"
            raise ConfigError(f"train.{key}", train[key], allowed)
    return {**config, "train": {key: value for key, value in train.items() if key not in TOGETHER}}


def build_tasks(config: dict[str, Any]) -> Tasks:
    """The tasks of a resolved configuration, and no more of it. Raises ConfigError."""
    return build("task", config["task"], kind=Tasks)


SHORTEST_KEY = 16  # a shorter one is a stand-in, and may be any word


def must_hold_no_key(config: dict[str, Any]) -> None:
    """Raises ConfigError if W&B's key stands in the configuration, which is kept in files and sent to W&B."""
    secret = os.environ.get("WANDB_API_KEY", "")
    for key, value in flat(config).items():
        if len(secret) >= SHORTEST_KEY and secret in str(value):
            raise ConfigError(key, "(WANDB_API_KEY)", "the configuration is kept in files; leave the key where it is")


def with_shots(tasks: Tasks, shots: int) -> Tasks:
    """The same tasks with another number of support examples a class."""
    return dataclasses.replace(tasks, shots=shots)  # type: ignore[type-var]


SECTIONS = (
    "task", "learner", "model", "optimizer", "inner", "hardware", "logger", "train", "eval", "run", "data_dir",
    "suggested", "paper",
)  # fmt: skip


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, every interpolation replaced by what it stands for."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(key, "(nothing)", f"needs a value: {key}=...") from error
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        raise ConfigError(str(getattr(error, "full_key", "config")), "?", message) from error
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def known(key: str, overrides: Mapping[str, Any], base: Mapping[str, Any]) -> Mapping[str, Any]:
    """`overrides`, once each of them is a key of `base`."""
    unknown(overrides, set(base) - {"_target_"}, key)
    return overrides
