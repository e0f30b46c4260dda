"""The nouns of metarun, and the protocols that tasks and learners keep.

A task distribution draws episodes; a learner adapts to an episode's support set and predicts its query
set; a net is all that a learner may know of the model and the tasks. Shapes are given for ONE task:
whatever holds many tasks carries a leading task axis and says so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le, Lt

Array = jax.Array
Key = jax.Array
PyTree = Any
Metrics = dict[str, Array]

# The value ranges of yaml keys: metarun.config checks a component's fields against its annotations.
# Devices count in int32.
Count = Annotated[int, Ge(1), Lt(2**31)]
CountOrZero = Annotated[int, Ge(0), Lt(2**31)]
Ways = Annotated[int, Ge(2), Lt(2**31)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]


class ConfigError(Exception):
    """A mistake in the configuration, told in one line: the key, what was given, what is allowed."""

    def __init__(self, key: str, given: object, allowed: str) -> None:
        super().__init__(f"{key}={given}: {allowed}")
        self.key, self.given, self.allowed = key, given, allowed

    def under(self, group: str) -> "ConfigError":
        """The same error, its key seen from the whole configuration (`ways` -> `task.ways`)."""
        return ConfigError(f"{group}.{self.key}", self.given, self.allowed)


class DataError(Exception):
    """Data that is missing or damaged, told in one line: what, where it was looked for, what to do."""


class Batch(NamedTuple):
    """Inputs x (n, ...) and their labels y (n,) int32, or targets y (n, d) float32."""

    x: Array
    y: Array


class Episode(NamedTuple):
    """One task as drawn: adapt to the support set, be judged on the query set."""

    support: Batch
    query: Batch
    classes: Array | None = None  # (ways,) int32: which of the split's classes the labels stand for
    group: Array | None = None  # () int32: which of the split's groups the task is of, where tasks are in groups


def examples(episode: Episode) -> Batch:
    """All examples of an episode, the support set's first."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), episode.support, episode.query)


class State(NamedTuple):
    """All that training changes, saved and restored whole."""

    step: Array  # () int32: meta-steps done
    params: PyTree  # what is meta-learned
    opt_state: PyTree  # the outer optimizer's
    sums: Metrics  # metrics summed over the meta-steps since the last logged row
    summed: Array  # () int32: meta-steps in `sums`, which those without a finite gradient are not
    skipped: Array  # () int32: meta-steps without an update, as their gradient was not finite
    in_a_row: Array  # () int32: of these, the last ones in a row


class Policy(NamedTuple):
    """How outputs (n, n_out) stand for distributions over actions (n, ...)."""

    sample: Callable[[Array, Key], Array]  # (outputs, key) -> an action each
    log_probability: Callable[[Array, Array], Array]  # (outputs, actions) -> (n,), densities' for continuous actions
    divergence: Callable[[Array, Array], Array]  # (outputs of old, of new) -> (n,): KL(old || new)
    entropy: Callable[[Array], Array]  # outputs -> (n,), in nats; differential for continuous actions


class Act(NamedTuple):
    """A policy as it acts in n trajectories side by side, step after step."""

    # memory, observations (n, ...) -> outputs (n, n_out), memory
    answer: Callable[[PyTree, Array], tuple[Array, PyTree]]
    memory: PyTree = ()  # at the trajectories' start, leaves (n, ...)


def memoryless(predict: Callable[[Array], Array]) -> Act:
    """The policy that answers to observations (n, ...) with `predict` of them (n, n_out), whatever was before."""
    return Act(lambda memory, x: (predict(x), memory))


def given(source: Batch, act: Act, key: Key, step: Array | int) -> Batch:
    """The examples of a task that gives them: they need no collecting."""
    return source


class Net(NamedTuple):
    """All that a learner may know of the model and the tasks."""

    init: Callable[[Key, Array], PyTree]  # (key, x) -> params
    apply: Callable[[PyTree, Array], Array]  # (params, x) -> outputs (len(x), width)
    features: Callable[[PyTree, Array], Array]  # (params, x) -> (len(x), d): what the model's head is given
    loss: Callable[[Array, Array], tuple[Array, Metrics]]  # (outputs, y) -> scalar, metrics
    n_out: int  # outputs a prediction has: ways, or the targets' dimension
    classification: bool  # labels, not targets
    n_classes: int | None  # training classes there are; None: no classes, or no end of them
    # Of tasks that are `Collecting`; what they collect is a constant to every derivative.
    collect: Callable[[Batch, Act, Key, Array | int], Batch] = given  # (source, act, key, inner step) -> examples
    inner_loss: Callable[[Array, Array], Array] | None = None  # what inner steps follow; None: `loss`
    policy: Policy | None = None  # what the outputs stand for
    trial: int | None = None  # steps of a trajectory, of tasks that are `InTrials`
    by_step: Callable[[PyTree], Array] | None = None  # theirs, too


class Tasks(Protocol):
    """A distribution over tasks: a frozen dataclass whose fields are its yaml's keys."""

    @property
    def n_out(self) -> int:
        """Ways of a classification, dimension of a regression's targets."""
        ...

    @property
    def metric(self) -> str:
        """The metric that selects and sums up a run: "accuracy" or "return" (see `rises`), or "mse"."""
        ...

    def check(self, split: str) -> None:
        """Raises ConfigError if `split` (train, val or test) cannot give such episodes. Host only, cheap."""
        ...

    def n_classes(self, split: str) -> int | None:
        """How many classes the split has; None where there are none, or no end of them."""
        ...

    def load(self, split: str) -> PyTree:
        """What `sample` needs of a split, as host arrays. Raises DataError."""
        ...

    def digest(self, split: str) -> str:
        """A short digest of which classes (or functions) the split holds."""
        ...

    def sample(self, data: PyTree, key: Key) -> Episode:
        """ONE episode, a pure function of the key; runs under jit and vmap."""
        ...

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        """outputs (n, n_out), y -> mean loss (), metrics; "loss" is always one of the metrics."""
        ...


@runtime_checkable
class Named(Protocol):
    """A task distribution whose classes have names: reports give accuracy by class, and what was taken for what."""

    def class_names(self, split: str) -> list[str] | None:
        """The names of a split's classes, by their numbers in `Episode.classes`; None where there are no classes."""
        ...


@runtime_checkable
class Grouped(Protocol):
    """A task distribution whose tasks are in groups, families of functions say: a test tells how each of them fared."""

    def group_names(self, split: str) -> list[str] | None:
        """The names of a split's groups, by their numbers in `Episode.group`; None where there are no groups."""
        ...


@runtime_checkable
class OfGroups(Protocol):
    """A task distribution each of whose tasks may be of one group: a user's, a patient's, a machine's own data."""

    def n_groups(self, split: str) -> int | None:
        """How many groups the split's tasks are drawn from; None where tasks are of no group."""
        ...

    def of_group(self, data: PyTree, group: Array) -> PyTree:
        """The split's data with that group () alone; as they are where tasks are of no group."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A task distribution whose data have something to be told of: what is left out, and why."""

    def told(self) -> list[str]:
        """A line each."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A task distribution whose examples are made from files, texts or rows: a user's own are made so, too."""

    @property
    def prepares(self) -> Any:
        """What makes an example: an `Image`, an `Encoder` or `Columns` of metarun.data, whose fields are all of it."""
        ...


@runtime_checkable
class Collecting(Protocol):
    """A task distribution whose examples a learner collects by acting, as in reinforcement learning.

    An episode's support and query sets are then SOURCES: x what a policy sees at the start of each trajectory
    (n, ...), y what the environment is told of the task (n, ...). A learner turns them into examples with
    `Net.collect`: observations x (steps, ...), and y what was done there and what came of it (`acting.Steps`).
    """

    @property
    def policy(self) -> Policy:
        """What the outputs stand for."""
        ...

    def collect(self, source: Batch, act: Act, key: Key) -> Batch:
        """Examples collected by acting: a pure function that runs under jit and vmap, and is not differentiated."""
        ...

    def inner_loss(self, outputs: Array, y: PyTree) -> Array:
        """outputs (steps, n_out), y of examples -> (): what inner steps follow. `loss` judges what came of them."""
        ...


@runtime_checkable
class InTrials(Protocol):
    """`Collecting` tasks whose trajectories are trials: what a policy sees tells of the step before, its reward too.

    So a memory can learn the task within a trial. Duan et al. 2016.
    """

    @property
    def trial(self) -> int:
        """Steps of a trial: all are of one length, and stand one after another in what is collected."""
        ...

    def by_step(self, y: PyTree) -> Array:
        """y of examples -> the mean over trials of the reward of each step (trial,)."""
        ...


@runtime_checkable
class Solved(Protocol):
    """`InTrials` tasks of which is known what can be reached: a test tells what was missed, the regret."""

    def best(self, goal: PyTree) -> Array:
        """What who knows the task is paid by each step (trial,), in expectation."""
        ...


class Learner(Protocol):
    """A meta-learning algorithm: a frozen dataclass of pure methods whose fields are its yaml's keys.

    Its floats are arguments of the compiled programs. A field `inner_steps` is an argument of the compiled evaluation,
    which so serves every number of inner steps: there it is a traced () int32. `adapt` and `predict` must loop over it
    with `inner.loop` or `inner.descend`, where one loop tells after all of the numbers, or `jax.lax.fori_loop`, not
    Python's `range`, and let no shape depend on it.
    """

    def check(self, tasks: Tasks) -> None:
        """Raises ConfigError if the learner cannot serve such tasks. Host only, cheap."""
        ...

    def width(self, n_out: int) -> int | None:
        """The outputs asked of the model; None asks for its features, without a head."""
        ...

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        """What is meta-learned, at the start."""
        ...

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        """What the learner knows after the support set: adapted parameters, prototypes, a memory."""
        ...

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        """x (n, ...) -> outputs (n, n_out)."""
        ...

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        """The mean meta-gradient over tasks (leading axis of `episodes` and `keys`), and mean metrics."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A learner that acts with a memory. `predict` of whole trajectories gives the outputs that it acted by."""

    def blank(self, net: Net, fast: PyTree, x: Array) -> PyTree:
        """The memory at the start of n trajectories, leaves (n, ...), whose observations are like x (n, ...)."""
        ...

    def remember(self, net: Net, fast: PyTree, memory: PyTree, x: Array) -> tuple[Array, PyTree]:
        """One step of each: observations x (n, ...) -> outputs (n, n_out), and the memory after it."""
        ...


@runtime_checkable
class Valuing(Protocol):
    """A learner with a critic of its own, which tells what reward is to follow: the policy does not depend on it."""

    critic: str  # the name of its parameters among those of the learner
    value_weight: float  # of its error, in what `meta_grad` follows: 0 leaves the policy's gradient

    def read(self, net: Net, params: PyTree, x: Array) -> tuple[Array, Array]:
        """x (steps, ...) of whole trials -> what `predict` says of them, and values (steps,)."""
        ...

    def judged(self, net: Net, params: PyTree, examples: Batch) -> Batch:
        """What was collected, with advantages over the critic's values."""
        ...

    def value_loss(self, net: Net, params: PyTree, examples: Batch) -> Array:
        """(): the mean squared error of values, by examples `judged` with these parameters; quadratic in the critic's.

        It is told of the parameters it is differentiated at: targets are constants.
        """
        ...


@runtime_checkable
class Keeping(Protocol):
    """A learner that keeps, beside what it learns, what no optimizer is to move: an inner optimizer's moments, say.

    Its parameters are a dict. Of a part that is kept `meta_grad` returns what it is minus what it is to become.
    """

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of such parts; none, if its settings want none."""
        ...


@runtime_checkable
class Holding(Protocol):
    """A learner whose parameters, a dict, hold more than the model's: step sizes, a memory, a second network."""

    @property
    def network(self) -> str:
        """The name of the part that is the model's, which another run may start from; "" if all of them are."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A learner with figures of its own: evaluation reports them beside those of its predictions."""

    def measure(self, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
        """Metrics of ONE episode: accuracy by instance of a sequence learner, likelihood of a neural process."""
        ...


@runtime_checkable
class Uncertain(Protocol):
    """A learner that tells of a regression how sure it is."""

    def deviations(self, net: Net, fast: PyTree, x: Array) -> Array:
        """x (n, ...) -> the standard deviation (n, n_out) of each target that `predict` tells."""
        ...


class InSweep(NamedTuple):
    """The sweep that a run is of."""

    directory: str  # as it was given
    common: tuple[str, ...]  # the settings of all its runs; of metarun -m as they are typed, with what is swept over


class Tracked(NamedTuple):
    """The run whose figures a tracker is given."""

    directory: Path  # where a logger may have a folder of its own
    config: dict[str, Any]  # the whole configuration, resolved
    name: str
    tags: tuple[str, ...]
    metric: str  # the one that selects and sums up the run: see `rises`
    command: str  # that began the run
    step: int  # meta-steps that are done: more than 0 of a run that goes on
    settings: tuple[str, ...] = ()  # that this process was given, without + and ~: learner.inner_lr=0.1
    sweep: InSweep | None = None


class Tracker(Protocol):
    """An open connection to where figures are kept besides the run's directory.

    What one raises is told once; it is then left out, and neither the run nor another tracker hears of it.
    """

    def row(self, step: int, row: dict[str, float]) -> None:
        """Figures of a meta-step by their names: train/loss, val/accuracy, ..."""
        ...

    def close(self, summary: dict[str, float]) -> None:
        """The end of the run in this process: the best validation so far and, of a run that is tested, its figures.

        What else a test leaves is then in the run's directory (metarun.run.ending).
        """
        ...


class Logger(Protocol):
    """Where figures go besides the run's directory: a frozen dataclass whose fields are its yaml's keys."""

    def open(self, run: Tracked) -> Tracker:
        """The run's tracker, the same one each time for the same directory."""
        ...


@runtime_checkable
class Needing(Protocol):
    """A logger that needs what is not in every installation."""

    def check(self) -> None:
        """Raises ConfigError if that is not there."""
        ...


def rises(metric: str) -> bool:
    """Whether more of a metric is better: of accuracies and returns, whatever follows their name; not of errors."""
    return metric.startswith(("accuracy", "return"))


def is_collected(metric: str) -> bool:
    """Whether tasks with this metric are `Collecting`."""
    return metric.startswith("return")


def name_of(component: object) -> str:
    """What a component is called on the command line: as the file that its class is in."""
    return type(component).__module__.rpartition(".")[2]


def must_be_given(learner: object, tasks: Tasks) -> None:
    """Raises ConfigError if the tasks' examples are to be collected, for a learner that does not act."""
    if isinstance(tasks, Collecting):
        name, task = map(name_of, (learner, tasks))
        raise ConfigError("learner", name, f"does not act, and {task} has to be acted in")


def must_classify(learner: object, tasks: Tasks) -> None:
    """Raises ConfigError unless the tasks are classifications."""
    must_be_given(learner, tasks)
    if tasks.metric != "accuracy":
        name, task = map(name_of, (learner, tasks))
        what = "is a regression" if tasks.metric == "mse" else f"has the metric {tasks.metric!r}, not 'accuracy'"
        raise ConfigError("learner", name, f"classifies, and {task} {what}; use maml, cnp or another")
