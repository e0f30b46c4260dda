"""A search: what it may choose from, what it is after, and that its trials are counted right however it was ended."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from support import composed

from metarun.config import conf_dir
from metarun.config.run import build_tasks
from metarun.core import ConfigError
from metarun.sweep import record, study, table, trials
from metarun.sweep.composed import Mistake
from metarun.sweep.launch import Work
from metarun.sweep.objective import Objective, direction_of, must_be_validated, validations
from metarun.sweep.record import Job, Sweep
from metarun.sweep.space import Space, space_of
from metarun.sweep.trials import Trials

LR = "learner.inner_lr"
SINUSOID, STROKES = (build_tasks(composed(f"task={task}")) for task in ("sinusoid", "strokes"))


@pytest.fixture
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("interval(0.1,1)", FloatDistribution(0.1, 1)),
        ("interval(1,5)", FloatDistribution(1, 5)),
        ("tag(log,interval(0.001,1))", FloatDistribution(0.001, 1, log=True)),
        ("int(interval(1,5))", IntDistribution(1, 5)),
        ("tag(int,interval(1,5))", IntDistribution(1, 5)),
        ("int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("tag(int,log,interval(1,64))", IntDistribution(1, 64, log=True)),
        ("range(1,10)", IntDistribution(1, 9)),
        ("range(1,10,4)", IntDistribution(1, 9, step=4)),
        ("range(9,0,-4)", IntDistribution(1, 9, step=4)),
        ("tag(log,range(1,10))", IntDistribution(1, 9, log=True)),
        ("range(0.1,0.4,0.1)", FloatDistribution(0.1, 0.3, step=0.1)),
        ("choice(0.1,0.2)", CategoricalDistribution(("0.1", "0.2"))),
        ("0.1,0.2,0.1", CategoricalDistribution(("0.1", "0.2"))),
        ("'a b',null", CategoricalDistribution(("'a b'", "null"))),
    ],
)
def test_hydras_sweeps_are_distributions(hydra, value, expected):
    space = space_of([f"{LR}={value}"], {})
    assert space.searched == {LR: expected}
    assert space.text == {LR: value}


def test_a_glob_is_of_what_there_is(hydra):
    assert space_of(["learner=glob(ma*)"], {}).searched == {
        "learner": CategoricalDistribution(("maml", "mamlpp", "mann", "matching"))
    }


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("interval(1,0.1)", "is inverted"),
        ("interval(1,1)", "is empty"),
        ("interval(0,inf)", "has an end that is no number"),
        ("tag(log,interval(0,1))", "has an end <= 0, which log cannot have"),
        ("tag(int,interval(0.5,3))", "has the tag int and an end that is no whole number"),
        ("tag(lg,interval(0.1,1))", "has the tag lg; allowed: log, int"),
        ("range(5,1)", "is empty"),
        ("range(1,5,0)", "has steps of 0"),
        ("tag(log,range(0,5))", "has the tag log, which wants whole numbers > 0"),
        ("tag(int,range(0,1,0.5))", "has the tag int and numbers that are not whole"),
        ("tag(log,choice(1,2))", "is a choice, which has no order"),
    ],
)
def test_what_is_no_space_is_told_in_one_line(hydra, value, says):
    with pytest.raises(ConfigError) as error:
        space_of([f"{LR}={value}"], {})
    assert str(error.value).startswith(f"{LR}={value}: {says}")
    assert "\n" not in str(error.value)


def test_nothing_to_search_is_refused(hydra):
    with pytest.raises(ConfigError, match=r"nothing is searched; .*interval"):
        space_of([f"{LR}=0.1"], {LR: "interval(0.1,1)"})


def test_settings_stand_in_their_order_and_the_command_overrides_a_yaml(hydra):
    space = space_of(["task=sinusoid", "+model.x=range(1,3)", "train.seed=3"], {LR: "interval(0.1,1)", "+model.x": "7"})
    chosen = {LR: 0.123456789, "+model.x": 2}
    assert space.settings(chosen) == (f"{LR}=0.123457", "+model.x=2", "task=sinusoid", "train.seed=3")
    assert space.settings({**chosen, LR: 0.1})[0] == f"{LR}=0.1"
    assert [one[:2] for one in space.ends(chosen)] == [
        (f"{LR}=0.1", "+model.x=2"), (f"{LR}=1.0", "+model.x=2"),
        (f"{LR}=0.123457", "+model.x=1"), (f"{LR}=0.123457", "+model.x=2"),
    ]  # fmt: skip


def test_a_number_that_is_rounded_stays_within_its_ends(hydra):
    space = space_of([f"{LR}=interval(0.12345678,0.12345699)"], {})
    assert space.settings({LR: 0.12345678}) == (f"{LR}=0.12345699",)


def test_a_grid_is_all_combinations_each_once(hydra):
    space = space_of([f"{LR}=0.1,0.2", "learner.inner_steps=range(1,4)", "x.y=range(0,0.5,0.25)"], {})
    every = [space.settings(space.combination(n, seed=1)) for n in range(space.combinations())]
    assert len(set(every)) == len(every) == 2 * 3 * 2
    assert {one[2] for one in every} == {"x.y=0.0", "x.y=0.25"}
    with pytest.raises(ConfigError, match=r"inner_lr=interval\(0,1\): has no end of values"):
        space_of([f"{LR}=interval(0,1)"], {}).combinations()


def test_more_accuracy_is_better_and_less_of_all_else():
    assert [direction_of(name) for name in ("accuracy", "accuracy_by_instance", "mse", "loss")] == [
        "maximize", "maximize", "minimize", "minimize",
    ]  # fmt: skip
    found = {10: 0.3, 20: 0.5, 30: 0.4}
    assert Objective("accuracy", "maximize").best(found) == 0.5
    assert Objective("mse", "minimize").best(found) == 0.3
    assert Objective("mse", "minimize").best({}) is None
    assert sorted([0.3, None, 0.5], key=Objective("accuracy", "maximize").order) == [0.5, 0.3, None]


def test_validations_are_read_without_what_is_no_number(tmp_path):
    assert validations(tmp_path, "mse") == {}
    rows = [(10, "train", 9.0), (10, "val", 2.0), (20, "val", None), (30, "val", 1.0)]
    text = "".join(json.dumps({"step": step, "split": split, "mse": value}) + "\n" for step, split, value in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 40, "spl')
    assert validations(tmp_path, "mse") == {10: 2.0, 30: 1.0}
    with pytest.raises(ConfigError, match=r"hydra.sweeper.objective=accuracy: is no metric of a validation; .*: mse"):
        validations(tmp_path, "accuracy")


# A search with jobs that are made here: what a job comes to is (x - 0.3) ** 2 + n / 100, by meta-step 100.
SPACE = Space(
    {"task": "task=sinusoid"},
    {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 4)},
    {"x": "interval(0,1)", "n": "range(1,5)"},
    ("task", "x", "n"),
)


class Killed(Exception):
    """As kill -9: nothing is done after it."""


def numbers(job: Job) -> tuple[float, int]:
    found = dict(one.split("=") for one in job.settings)
    return float(found["x"]), int(found["n"])


def row(job: Job, step: int, value: float) -> None:
    job.directory.mkdir(parents=True, exist_ok=True)
    (job.directory / "config.yaml").write_text("train: {steps: 100}")
    with (job.directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "split": "val", "mse": value}) + "\n")


def finish(job: Job) -> None:
    (job.directory / "results.json").write_text(
        json.dumps({"protocol": {"split": "test", "metric": "mse"}, "test": {"mse": {"mean": 1.0, "ci95": 0.1}}})
    )


class Launcher:
    """Makes jobs here, one after another, and notes which; killed in the middle of one, or one fails."""

    def __init__(self, killed_in: int | None = None, fails: tuple[int, ...] = ()) -> None:
        self.killed_in, self.fails, self.made = killed_in, fails, []

    def work(self, work: Work) -> None:
        while (job := work.next()) is not None:
            self.made.append(job.number)
            work.is_hopeless(job)  # as its process begins
            self.make(work, job)

    def make(self, work: Work, job: Job) -> None:
        x, n = numbers(job)
        there = max(validations(job.directory, "mse"), default=0)
        for step in range(there + 20, 101, 20):
            row(job, step, (x - 0.3) ** 2 + n / 100 + (100 - step) / 1000)
            if self.killed_in == job.number and step == 60:
                raise Killed
            if work.is_hopeless(job):
                (job.directory / "checkpoints" / "last" / str(step)).mkdir(parents=True)
                return work.stopped(job)
        if job.number in self.fails:
            return work.ended(job, "no memory")
        finish(job)
        return work.ended(job)


@pytest.fixture
def search(monkeypatch):
    """Goes on with the search in a directory, until it has so many trials or is killed."""

    def sound(config, every, common):
        """As metarun.sweep.composed.runs; x=0.99 is a mistake."""
        for settings in every.values():
            if "x=0.99" in settings:
                raise Mistake("x=0.99: must be another")
        run = SimpleNamespace(train=SimpleNamespace(steps=100), tasks=SINUSOID)
        return [(Path(config, str(n)), run) for n in every]

    monkeypatch.setattr(trials, "runs", sound)
    monkeypatch.setattr("os.fsync", lambda file: None)  # a kill here loses nothing of what was written

    def go_on(directory: Path, many: int, launcher: Launcher, retry: bool = False, **options) -> Sweep:
        if not record.is_sweep(directory):
            what = {"sampler": "tpe", "pruner": "median", "seed": 0, "objective": "mse", "direction": "minimize"}
            given = {"trials": many, **what, "space": SPACE.text, **options}
            record.begin(Sweep(directory, (), ("task=sinusoid",), "optuna", search=given))
        sweep = record.read(directory)
        sweep.search["trials"] = many
        at_work = Trials(directory, SPACE, sweep, retry)
        try:
            launcher.work(at_work.work)
        except Killed:
            return record.read(directory)
        at_work.settle(record.read(directory))
        return record.read(directory)

    return go_on


def states(directory: Path) -> list[str]:
    return [trial.state.name for trial in study.opened(directory, "minimize").trials]


@pytest.fixture(scope="module")
def undisturbed_in(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def undisturbed(search, undisturbed_in) -> Sweep:
    """A search of 16 trials that nothing has disturbed."""
    return search(undisturbed_in, 16, Launcher())


def test_trials_are_jobs_of_the_same_number_and_the_search_finds_the_best(undisturbed):
    jobs, found = undisturbed.jobs, study.opened(undisturbed.directory, "minimize")
    assert [job.number for job in jobs] == [trial.number for trial in found.trials] == list(range(16))
    assert [job.settings for job in jobs] == [SPACE.settings(trial.params) for trial in found.trials]
    assert {trial.state for trial in found.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for job, trial in zip(jobs, found.trials, strict=True):
        assert trial.intermediate_values == validations(job.directory, "mse")
        assert job.stand == ("pruned" if trial.state == TrialState.PRUNED else "finished")
    best = table.gathered(undisturbed)[0]
    assert best.validation == found.best_value
    assert best.jobs[0].settings == SPACE.settings(found.best_params)
    assert abs(numbers(best.jobs[0])[0] - 0.3) < 0.1


def test_what_is_hopeless_is_pruned_and_what_that_saved_is_told(undisturbed):
    pruned = [job for job in undisturbed.jobs if job.stand == "pruned"]
    steps = [max(validations(job.directory, "mse")) for job in pruned]
    assert len(pruned) > 2
    assert set(steps) <= {20, 40, 60, 80}  # never at its end
    assert min(job.number for job in pruned) >= study.STARTUP
    made, of_all = sum(steps), 100 * len(pruned)
    assert table.saved(pruned) == (
        f"{len(pruned)} jobs were pruned after {made} of {of_all:,} meta-steps, "
        f"which saved {of_all - made:,} and their tests"
    )


@pytest.mark.filterwarnings("error")  # of Optuna's, over what it is told twice
@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("killed_in", [0, 6])
def test_a_search_that_was_killed_ends_as_one_that_was_not(search, undisturbed, tmp_path, sampler, killed_in):
    if sampler == "random":
        undisturbed = search(tmp_path / "undisturbed", 16, Launcher(), sampler=sampler)
    stopped = search(tmp_path / "S", 16, Launcher(killed_in=killed_in), sampler=sampler)
    assert [job.stand for job in stopped.jobs][killed_in:] == ["stopped"]
    assert states(tmp_path / "S")[killed_in:] == ["RUNNING"]
    launcher = Launcher()
    sweep = search(tmp_path / "S", 16, launcher)
    assert launcher.made == list(range(killed_in, 16))
    assert [job.settings for job in sweep.jobs] == [job.settings for job in undisturbed.jobs]
    assert [job.stand for job in sweep.jobs] == [job.stand for job in undisturbed.jobs]
    assert states(tmp_path / "S") == states(undisturbed.directory)


def test_a_trial_that_a_kill_kept_from_the_record_is_a_job(search, undisturbed, tmp_path, monkeypatch):
    def add(*_) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(record, "add", add)
        assert search(tmp_path, 16, Launcher()).jobs == ()
    assert states(tmp_path) == ["RUNNING"]
    sweep = search(tmp_path, 16, Launcher())
    assert [job.settings for job in sweep.jobs] == [job.settings for job in undisturbed.jobs]


@pytest.mark.parametrize("how", ["finished", "failed", "pruned"])
def test_an_end_that_a_kill_kept_from_the_study_is_told_later(search, tmp_path, monkeypatch, how):
    class Ends(Launcher):
        def make(self, work: Work, job: Job) -> None:
            row(job, 20, 1.0)
            if how == "pruned":
                work.pruned.add(job.number)
                return work.stopped(job)
            if how == "finished":
                finish(job)
            return work.ended(job, "no memory" if how == "failed" else None)

    def told(*_) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "told", told)
        assert [job.stand for job in search(tmp_path, 3, Ends()).jobs] == [how]
    assert states(tmp_path) == ["RUNNING"]
    launcher = Launcher()
    search(tmp_path, 3, launcher)
    assert launcher.made == [1, 2]
    assert states(tmp_path)[0] == {"finished": "COMPLETE", "failed": "FAIL", "pruned": "PRUNED"}[how]


@pytest.mark.parametrize("line", ["none of Optuna's", "{}", "[]", "1"])
def test_a_journal_that_is_damaged_otherwise_is_called_so(tmp_path, line):
    (tmp_path / study.JOURNAL).write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"its optuna.journal is damaged \(.*\); put back a whole one"):
        study.opened(tmp_path, "minimize")
    assert (tmp_path / study.JOURNAL).read_text().startswith(f"{line}\n")


def test_a_journal_that_a_kill_has_cut_off_is_gone_on_with(search, tmp_path):
    search(tmp_path, 4, Launcher(killed_in=3))
    journal = tmp_path / study.JOURNAL
    whole = journal.read_text()
    journal.write_text(whole + '{"op_code":6,"worker')
    (tmp_path / f"{study.JOURNAL}.lock").symlink_to(journal)  # which Optuna would wait 30 seconds for
    assert study.mended(journal).read_text() == whole
    assert not (tmp_path / f"{study.JOURNAL}.lock").is_symlink()
    journal.write_text(whole + '{"op_code":6,"worker')
    sweep = search(tmp_path, 5, Launcher())
    assert [job.stand for job in sweep.jobs] == ["finished"] * 5
    assert journal.read_text().startswith(whole)
    assert states(tmp_path) == ["COMPLETE"] * 5


def test_jobs_without_their_trials_are_refused(search, tmp_path):
    search(tmp_path, 2, Launcher())
    (tmp_path / study.JOURNAL).unlink()
    with pytest.raises(ConfigError, match=r"its optuna.journal lacks trial 0"):
        search(tmp_path, 2, Launcher())


def test_more_trials_later_go_on_with_the_same_search(search, undisturbed, tmp_path):
    search(tmp_path, 6, Launcher())
    launcher = Launcher()
    sweep = search(tmp_path, 16, launcher)
    assert launcher.made == list(range(6, 16))
    assert [job.settings for job in sweep.jobs] == [job.settings for job in undisturbed.jobs]
    assert search(tmp_path, 3, launcher).jobs == sweep.jobs


def test_a_trial_that_failed_counts_and_is_made_again_if_asked(search, tmp_path):
    sweep = search(tmp_path, 4, Launcher(fails=(1, 2)))
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    launcher = Launcher()
    assert search(tmp_path, 4, launcher).jobs == sweep.jobs
    assert launcher.made == []
    again = search(tmp_path, 4, launcher, retry=True)
    assert launcher.made == [1, 2]
    assert [(job.number, job.settings, job.stand) for job in again.jobs] == [
        (job.number, job.settings, "finished") for job in sweep.jobs
    ]
    assert states(tmp_path) == ["COMPLETE"] * 4


def test_a_trial_whose_settings_are_a_mistake_fails_and_the_others_go_on(search, tmp_path, monkeypatch):
    real = study.drawn
    wrong = {"x": 0.99, "n": 1}
    monkeypatch.setattr(study, "drawn", lambda *given: wrong if given[3] == 1 else real(*given))
    launcher = Launcher()
    sweep = search(tmp_path, 3, launcher)
    assert launcher.made == [0, 2]
    assert sweep.jobs[1].end == {"failed": "x=0.99: must be another"}
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE"]


class Told(Launcher):
    """Its jobs come to what `values` says, by number and meta-step."""

    def make(self, work: Work, job: Job) -> None:
        for step in range(20, 101, 20):
            row(job, step, values(job.number, step))
            if self.asks and work.is_hopeless(job):
                return work.stopped(job)
        finish(job)
        return work.ended(job)

    asks = True


def values(number: int, step: int) -> float:
    """Five that are good in the end alone, then one that is better until then."""
    return 0.5 if number == 5 else 0.1 if step == 100 else 1.0


def test_a_trial_is_not_pruned_at_its_end_where_there_is_nothing_to_save(search, tmp_path):
    assert [job.stand for job in search(tmp_path, 6, Told()).jobs] == ["finished"] * 6


def test_the_study_knows_all_validations_of_a_job_that_nobody_watched(search, tmp_path):
    """As a launcher of Hydra's makes it."""
    launcher = Told()
    launcher.asks = False
    search(tmp_path, 2, launcher)
    found = study.opened(tmp_path, "minimize").trials
    assert [one.intermediate_values for one in found] == [{20: 1.0, 40: 1.0, 60: 1.0, 80: 1.0, 100: 0.1}] * 2
    assert [one.value for one in found] == [0.1, 0.1]


def test_several_at_once_are_different_trials(search, tmp_path):
    class Several(Launcher):
        def work(self, work: Work) -> None:
            live = [work.next() for _ in range(3)]
            assert len({job.settings for job in live}) == 3
            while live:
                job = live.pop(0)
                self.make(work, job)
                live += [more] if (more := work.next()) is not None else []

    sweep = search(tmp_path, 8, Several())
    assert [job.number for job in sweep.jobs] == list(range(8))
    assert "RUNNING" not in states(tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_settings_are_made_twice(search, tmp_path, monkeypatch, sampler):
    few = Space({"task": "task=sinusoid"}, {"x": CategoricalDistribution(("0.1", "0.2")), "n": IntDistribution(1, 3)},
                {"x": "0.1,0.2", "n": "range(1,4)"}, ("task", "x", "n"))  # fmt: skip
    monkeypatch.setitem(globals(), "SPACE", few)
    sweep = search(tmp_path, 6, Launcher(killed_in=2), sampler=sampler)
    sweep = search(tmp_path, 6, Launcher())
    assert len({job.settings for job in sweep.jobs}) == 6


def test_what_was_pruned_is_not_pruned_without_a_pruner(search, tmp_path):
    sweep = search(tmp_path, 16, Launcher(), pruner="none", sampler="random")
    assert {job.stand for job in sweep.jobs} == {"finished"}


@pytest.mark.parametrize(
    ("tasks", "metric", "there"),
    [(SINUSOID, "accuracy", "loss, mse"), (STROKES, "mse", "accuracy, loss"), (STROKES, "acuracy", "accuracy, loss")],
)
def test_an_objective_that_no_validation_has_is_refused_before_any(tasks, metric, there):
    with pytest.raises(ConfigError, match=rf"objective={metric}: is no metric of a validation; take of: {there}$"):
        must_be_validated(tasks, metric)
    for one in there.split(", "):
        must_be_validated(tasks, one)


def test_a_trial_whose_tasks_have_another_metric_fails_and_others_go_on(search, tmp_path):
    sweep = search(tmp_path, 3, Launcher(), objective="accuracy")
    assert [job.stand for job in sweep.jobs] == ["failed"] * 3
    assert all("accuracy: is no metric of a validation" in job.end["failed"] for job in sweep.jobs)
