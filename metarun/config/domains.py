"""Other domains that a run is tested on, `eval.tasks`: from a choice and what differs to a whole task distribution."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.config.build import build, is_component, locate, unknown
from metarun.config.conf import choices, conf_dir, flat, nearest
from metarun.core import ConfigError, Learner, Prepares, Tasks, name_of
from metarun.data import Columns, Encoder
from metarun.text import first_line

OF_AN_EPISODE = ("ways", "shots", "queries")
OF_AN_INPUT = ("encoder",)  # what a text becomes means the same to a model only if it is made the same way
EXAMPLE = "eval.tasks={omniglot: {}}"


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with each of `eval.tasks` as the whole group that a task's yaml would give; whole ones are left alone.

    What is not given is as in the yaml of the choice; the size of an episode and the encoder of texts are those of the
    run's own evaluation. Nothing is trained on another domain, so classes without a split of their own are all of the
    split that the run is tested on; not those of a table beside a run on something else, whose training rows tell how
    to standardise. Raises ConfigError.
    """
    evaluation = config.get("eval")
    asked = evaluation.get("tasks") if isinstance(evaluation, Mapping) else None
    if not asked or not isinstance(evaluation, Mapping):
        return config
    if not isinstance(asked, Mapping):
        raise ConfigError("eval.tasks", asked, f"must be a group of tasks, each with its settings: {EXAMPLE}")
    if all(map(is_component, asked.values())):
        return config
    whole = {
        name: values if is_component(values) else expanded(name, values or {}, config) for name, values in asked.items()
    }
    return {**config, "eval": {**evaluation, "tasks": whole}}


def expanded(name: Any, values: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A domain's whole group: its choice's yaml, with `values` over it."""
    key = f"eval.tasks.{name}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ConfigError("eval.tasks", name, "names a domain; a name has letters, digits, - and _")
    if not isinstance(values, Mapping):
        raise ConfigError(key, values, f"must be a group of settings: eval.tasks={{{name}: {{}}}}")
    choice, values = values.get("task", name), {part: value for part, value in values.items() if part != "task"}
    base = as_composed(key, choice)
    evaluation, task = config["eval"], config.get("task")
    unknown(values, set(base), key)
    own = {**(task if isinstance(task, Mapping) else {}), **(evaluation.get("task") or {})}
    given = {part: own[part] for part in (*OF_AN_EPISODE, *OF_AN_INPUT) if part in own and part in base}
    needs_training = "feature_columns" in base and "feature_columns" not in own
    if "fractions" in base and not needs_training and evaluation.get("split") in ("val", "test"):
        given["fractions"] = [0.0, *([1.0, 0.0] if evaluation["split"] == "val" else [0.0, 1.0])]
    try:
        merged = OmegaConf.create({**config, "task": OmegaConf.merge(base, given, values)})
        resolved: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}.task", choice, first_line(error)) from error
    found: dict[str, Any] = resolved["task"]
    if missing := next((part for part, value in flat(found).items() if value == "???"), None):
        raise ConfigError(f"{key}.{missing}", "(nothing)", "needs a value")
    return found


def as_composed(key: str, choice: Any) -> dict[str, Any]:
    """The task that a choice of conf/task gives, or one of the user's own conf, not resolved."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    if not GlobalHydra.instance().is_initialized():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return as_composed(key, choice)
    known = GlobalHydra.instance().config_loader().get_group_options("task")
    if choice not in known:
        raise ConfigError(f"{key}.task", choice, f"no such task; {nearest(str(choice), known or choices('task'))}")
    primary = HydraConfig.get().job.config_name if HydraConfig.initialized() else None
    return OmegaConf.to_container(compose(primary or "config", [f"task={choice}"]).task)  # type: ignore[return-value]


def as_they_are(tasks: Tasks) -> Tasks:
    """The same tasks, of images as they are: only training's are changed at random (metarun.tasks.augment)."""
    return dataclasses.replace(tasks, augment=None) if hasattr(tasks, "augment") else tasks  # type: ignore[type-var]


def build_domains(
    asked: Mapping[str, Any], split: str, shots: tuple[int, ...], trained: Tasks, learner: Learner, width: int | None
) -> dict[str, Tasks]:
    """Name -> the tasks of each domain. Raises ConfigError for one that cannot be tested on.

    It is the learner of evaluation that serves them, after training on tasks like `trained`, with a model of so many
    outputs; with `shots` support examples each, too.
    """
    found = {}
    columns = columns_of(trained) if asked else None
    for name, values in asked.items():
        key = f"eval.tasks.{name}"
        is_alike = locate(f"{key}._target_", values.get("_target_", "")) is type(trained)
        tasks: Any = build(key, values, kind=Tasks, columns=columns if is_alike else None)
        what = name_of(tasks)
        if tasks.metric != trained.metric:
            kinds = {"accuracy": "classifications", "mse": "regressions", "return": "to be acted in"}
            theirs, ours = (kinds.get(one.metric, one.metric) for one in (tasks, trained))
            raise ConfigError(f"{key}.task", what, f"its tasks are {theirs}, and the run's are {ours}")
        if shots and not hasattr(tasks, "shots"):
            raise ConfigError("eval.shots", list(shots), f"[], as {key} has no key shots")
        try:
            for each in (tasks, *(dataclasses.replace(tasks, shots=n) for n in shots)):
                each.check(split)
        except ConfigError as error:
            raise error.under(key) from error
        try:
            learner.check(tasks)
        except ConfigError as error:
            raise ConfigError(f"{key}.task", what, f"cannot be served ({error})") from error
        wanted = learner.width(tasks.n_out)
        if tasks.metric != "accuracy" and tasks.n_out != trained.n_out:
            raise ConfigError(f"{key}.task", what, f"has {tasks.n_out} targets, and the run's tasks {trained.n_out}")
        if width is not None and wanted is not None and wanted > width:
            raise ConfigError(
                f"{key}.ways", tasks.n_out, f"at most {width}, the outputs that training with {width} ways gives"
            )
        must_be_encoded_alike(key, tasks, trained)
        found[name] = as_they_are(tasks)
    return found


def columns_of(trained: Tasks) -> Columns | None:
    """How the rows of a table are encoded, by what its training rows tell; None of other tasks. Raises ConfigError."""
    fields = dataclasses.fields(trained)  # type: ignore[arg-type]
    if not any(field.name == "columns" and "program" in field.metadata for field in fields):
        return None
    try:
        encoding = trained.prepares if isinstance(trained, Prepares) else None
    except ConfigError as error:
        raise error.under("task") from error
    return encoding if isinstance(encoding, Columns) else None


def must_be_encoded_alike(key: str, tasks: Tasks, trained: Tasks) -> None:
    """Raises ConfigError for texts whose vectors are not made as training's were: they would fit, and mean nothing."""
    ours, theirs = (one.prepares if isinstance(one, Prepares) else None for one in (trained, tasks))
    if isinstance(ours, Encoder) and isinstance(theirs, Encoder) and ours != theirs:
        raise ConfigError(f"{key}.encoder", theirs, f"must be the run's own, {ours}; leave it out")
