"""What was learned as an estimator: it keeps scikit-learn's contract, and predicts as the learner does."""

import pickle
import subprocess
import sys
from contextlib import suppress
from functools import cache
from unittest import SkipTest

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from support import composed, drawn_like

from metarun import MetaLearnedClassifier, MetaLearnedRegressor, engine
from metarun.config.run import build_run
from metarun.learned import Learned, keep
from metarun.run.purpose import Purpose


@cache
def learned(metric: str, learner: str, *shape: int) -> Learned:
    """Numbers of a learner's parameters' shapes, of tasks whose examples have this shape."""
    run = build_run(composed("task=strokes" if metric == "accuracy" else "task=sinusoid", f"learner={learner}",
                             "model=mlp", "model.hidden=[8]"))  # fmt: skip
    net = engine.nets(run.shape)[0]
    params = drawn_like(lambda: run.learner.init(net, jax.random.key(1), np.zeros((5, *shape), np.float32)))
    return Learned(run.config, Purpose(shape, "float32", metric, net.n_out, None), params, {})


def estimators(features: int):
    return [
        MetaLearnedClassifier(learned("accuracy", "protonet", features)),
        MetaLearnedRegressor(learned("mse", "maml", features)),
    ]


# How many features the data have that a check makes; those that are not here make 4, or none.
FEATURES = {
    2: [
        "check_classifier_data_not_an_array", "check_classifiers_classes", "check_classifiers_train",
        "check_estimators_fit_returns_self", "check_estimators_overwrite_params", "check_fit_check_is_fitted",
        "check_fit_idempotent", "check_n_features_in", "check_readonly_memmap_input",
    ],
    3: [
        "check_classifiers_one_label", "check_dict_unchanged", "check_dont_overwrite_parameters",
        "check_estimators_nan_inf", "check_estimators_pickle", "check_f_contiguous_array_estimator",
        "check_fit2d_predict1d", "check_fit_score_takes_y", "check_methods_sample_order_invariance",
        "check_methods_subset_invariance", "check_pipeline_consistency", "check_supervised_y_2d",
    ],
    5: ["check_estimators_dtypes"],
    10: [
        "check_dtype_object", "check_fit2d_1sample", "check_regressor_data_not_an_array", "check_regressors_int",
        "check_regressors_train", "check_regressor_multioutput",
    ],
}  # fmt: skip
OTHER_FEATURES = {check: f"its data have {n} features, not the run's" for n in FEATURES for check in FEATURES[n]}

# What no run could meet.
ROUNDED = "asks for 1e-7: a model computes in float32, and rounds by the place that a query has among the others"
NEVER = {
    "MetaLearnedClassifier": {"check_methods_subset_invariance": ROUNDED},
    "MetaLearnedRegressor": {
        "check_methods_sample_order_invariance": ROUNDED,
        "check_methods_subset_invariance": ROUNDED,
        "check_regressor_multioutput": "its targets are 5, and a run has as many as it was trained for",
    },
}


def expected_to_fail(estimator) -> dict[str, str]:
    return OTHER_FEATURES | NEVER[type(estimator).__name__]


@parametrize_with_checks(estimators(4), expected_failed_checks=expected_to_fail)
def test_it_passes_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", [MetaLearnedClassifier, MetaLearnedRegressor])
@pytest.mark.parametrize("features", FEATURES)
def test_with_a_run_of_as_many_features_it_passes_those_too_that_make_others(kind, features):
    estimator = next(one for one in estimators(features) if type(one) is kind)
    wanted = set(FEATURES[features]) - set(NEVER[kind.__name__])
    for one, check in estimator_checks_generator(estimator):
        if check.func.__name__ in wanted:
            with suppress(SkipTest):  # the last part of some checks asks for pandas
                check(one)


RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(30, 4, 3, 1)).astype(np.float32)
ANIMALS = np.array(["ant", "bee", "cow"])[np.arange(30) % 3]


@pytest.mark.parametrize(
    ("learner", "queries"),
    [("protonet", "alone"), ("maml", "together"), pytest.param("mann", "alone", marks=pytest.mark.slow)],
)
def test_it_predicts_as_the_learner_does_from_rows_or_examples(learner, queries):
    one = learned("accuracy", learner, 4, 3, 1)
    adapted = one.adapt(IMAGES[:6], ANIMALS[:6], seed=3)
    for x in (IMAGES, IMAGES.reshape(30, 12)):
        fitted = MetaLearnedClassifier(one, queries=queries, seed=3).fit(x[:6], ANIMALS[:6])
        np.testing.assert_array_equal(fitted.predict(x), adapted.predict(IMAGES, queries))
        np.testing.assert_array_equal(fitted.predict_proba(x), adapted.predict_proba(IMAGES, queries))
        np.testing.assert_array_equal(fitted.classes_, ["ant", "bee", "cow"])
        assert fitted.n_features_in_ == 12
        assert fitted.score(x, ANIMALS) == (adapted.predict(IMAGES, queries) == ANIMALS).mean()


def test_a_regressors_targets_have_the_shape_that_it_was_given():
    one = learned("mse", "maml", 2)
    x, y = RANDOM.normal(size=(8, 2)), RANDOM.normal(size=8)
    expected = one.adapt(x, y, inner_steps=3).predict(x)
    for own, found in ((y, expected[:, 0]), (y[:, None], expected)):
        fitted = MetaLearnedRegressor(one, inner_steps=3).fit(x, own)
        np.testing.assert_array_equal(fitted.predict(x), found)
    assert not np.array_equal(MetaLearnedRegressor(one, inner_steps=0).fit(x, y).predict(x), expected[:, 0])


def test_a_regressor_tells_standard_deviations_as_scikit_learns_do_if_the_learner_has_them():
    one = learned("mse", "cnp", 2)
    x, y = RANDOM.normal(size=(8, 2)), RANDOM.normal(size=8)
    mean, sd = one.adapt(x, y).predict(x, return_std=True)
    for own, shape in ((y, (8,)), (y[:, None], (8, 1))):
        found = MetaLearnedRegressor(one).fit(x, own).predict(x, return_std=True)
        np.testing.assert_array_equal(found, (mean.reshape(shape), sd.reshape(shape)))
    with pytest.raises(ValueError, match="return_std=True: MAML has no standard deviations of targets") as told:
        MetaLearnedRegressor(learned("mse", "maml", 2)).fit(x, y).predict(x, return_std=True)
    assert "\n" not in str(told.value)


def test_bytes_stand_for_numbers_from_0_to_1_as_in_training():
    one = learned("accuracy", "protonet", 4, 3, 1)
    pixels = RANDOM.integers(0, 256, size=(6, 12), dtype=np.uint8)
    in_bytes = MetaLearnedClassifier(one).fit(pixels, ANIMALS[:6]).predict_proba(pixels)
    as_numbers = MetaLearnedClassifier(one).fit(pixels / np.float32(255), ANIMALS[:6])
    np.testing.assert_array_equal(in_bytes, as_numbers.predict_proba(pixels / np.float32(255)))


@pytest.fixture
def kept(tmp_path):
    """A directory with a learner of 4 features in it."""
    keep(learned("accuracy", "protonet", 4), tmp_path / "kept")
    return tmp_path / "kept"


CENTERS = RANDOM.normal(size=(3, 4))
POINTS = CENTERS[np.arange(30) % 3] + 0.05 * RANDOM.normal(size=(30, 4))


def test_it_works_in_a_pipeline_and_in_cross_validation_from_a_directory(kept):
    pipeline = make_pipeline(StandardScaler(), MetaLearnedClassifier(kept))
    scaled = StandardScaler().fit(POINTS[:6]).transform(POINTS)
    expected = learned("accuracy", "protonet", 4).adapt(scaled[:6], ANIMALS[:6]).predict_proba(scaled)
    np.testing.assert_array_equal(pipeline.fit(POINTS[:6], ANIMALS[:6]).predict_proba(POINTS), expected)
    np.testing.assert_array_equal(cross_val_score(pipeline, POINTS, ANIMALS, cv=3), [1.0, 1.0, 1.0])


def test_a_clone_has_the_parameters_and_knows_no_task(kept):
    one = MetaLearnedClassifier(str(kept), inner_steps=None, queries="together", seed=5).fit(POINTS, ANIMALS)
    other = clone(one)
    assert other.get_params() == {"run": str(kept), "inner_steps": None, "queries": "together", "seed": 5}
    assert not hasattr(other, "adapted_")
    np.testing.assert_array_equal(other.fit(POINTS, ANIMALS).predict_proba(POINTS), one.predict_proba(POINTS))
    other.set_params(queries="apart")
    with pytest.raises(ValueError, match="queries=apart: must be one of: alone, together"):
        other.predict(POINTS)


def test_pickled_it_answers_the_same_and_needs_no_run(kept):
    one = MetaLearnedClassifier(kept, seed=7).fit(POINTS[:6], ANIMALS[:6])
    content = pickle.dumps(one)
    kept.rename(kept.parent / "gone")
    other = pickle.loads(content)
    np.testing.assert_array_equal(other.predict_proba(POINTS), one.predict_proba(POINTS))
    np.testing.assert_array_equal(other.predict(POINTS), one.predict(POINTS))
    assert other.adapted_.seed == 7


@pytest.mark.parametrize(
    ("make", "x", "y", "said"),
    [
        (lambda: MetaLearnedClassifier(learned("accuracy", "protonet", 4)), POINTS[:, :3], ANIMALS,
         r"X=3 feature\(s\): must have 4, an example of the run is \(4,\)"),
        (lambda: MetaLearnedClassifier(learned("accuracy", "maml", 4)), POINTS, np.arange(30) % 7,
         "y=7 classes: at most 5: MAML was trained with so many outputs"),
        (lambda: MetaLearnedClassifier(learned("mse", "maml", 4)), POINTS, ANIMALS,
         "run=.*: its task is a regression; use MetaLearnedRegressor"),
        (lambda: MetaLearnedRegressor(learned("accuracy", "maml", 4)), POINTS, np.arange(30),
         "run=.*: its task is a classification; use MetaLearnedClassifier"),
        (lambda: MetaLearnedClassifier("nowhere"), POINTS, ANIMALS, "run=nowhere: no such directory"),
        (lambda: MetaLearnedClassifier(learned("accuracy", "protonet", 4), inner_steps=2), POINTS, ANIMALS,
         "inner_steps=2: ProtoNet takes none"),
        (lambda: MetaLearnedClassifier(learned("accuracy", "protonet", 4), seed=None), POINTS, ANIMALS,
         "seed=None: must be a whole number from 0 to"),
        (lambda: MetaLearnedClassifier(None), POINTS, ANIMALS, "run=None: must be a run's directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_scikit_learns_kind_of_error(make, x, y, said):
    with pytest.raises(ValueError, match=said) as told:
        make().fit(x, y)
    assert "\n" not in str(told.value)


def test_scikit_learn_is_imported_where_an_estimator_is_asked_for_and_without_it_one_line_says_what_to_do():
    program = """
import sys
import metarun
metarun.load
print("sklearn" in sys.modules)
sys.modules["sklearn"] = None
try:
    metarun.MetaLearnedClassifier
except ImportError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    imported, said = told.splitlines()
    assert imported == "False"
    assert said.startswith("metarun's estimators need scikit-learn (")
    assert said.endswith("): pip install 'metarun[sklearn]'")
