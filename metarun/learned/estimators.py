"""What a run has learned as estimators of scikit-learn: to fit one is to adapt the learner to a support set."""

from pathlib import Path
from typing import Any

import numpy as np

from metarun.core import ConfigError
from metarun.learned.learner import Learned, Queries
from metarun.learned.loaded import load

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"metarun's estimators need scikit-learn ({error}): pip install 'metarun[sklearn]'") from None


class MetaLearnedClassifier(ClassifierMixin, BaseEstimator):
    """Classifies by what a run has learned, adapted to the examples that it is fitted to.

    `run`: a run's directory, one that a learner was kept in, or a learner (`metarun.load`). X is (n, features), rows of
    all numbers of an example, or of the run's own shape. As in `Learned.adapt`, bytes stand for numbers from 0 to 1;
    numbers are as the model has them: of a table encoded and standardised already, by `Learned.purpose.prepares`.
    `inner_steps`: in place of the learner's own number. `queries`: what a prediction may depend on beside the support
    set, see `Adapted.outputs`. `seed`: of learners that adapt at random.
    """

    def __init__(
        self, run: str | Path | Learned, inner_steps: int | None = None, queries: Queries = "alone", seed: int = 0
    ) -> None:
        self.run = run
        self.inner_steps = inner_steps
        self.queries = queries
        self.seed = seed

    def fit(self, X: Any, y: Any) -> "MetaLearnedClassifier":
        """Adapts the learner to the support set X, y. Raises ValueError for what it cannot serve."""
        X, y = validate_data(self, in_rows(X), y)
        check_classification_targets(y)
        self.adapted_ = adapted(self, X, y, classification=True)
        self.classes_ = self.adapted_.classes
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X -> (n,) labels as they were given to `fit`."""
        return asked(self, X, "predict")

    def predict_proba(self, X: Any) -> np.ndarray:
        """X -> (n, ways): the probability of each of `classes_`."""
        return asked(self, X, "predict_proba")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # as good as the run is for such data
        return tags


class MetaLearnedRegressor(RegressorMixin, BaseEstimator):
    """Predicts targets by what a run has learned, adapted to the examples that it is fitted to.

    Its parameters are those of `MetaLearnedClassifier`; y is (n,), or (n, d) with as many targets as the run has.
    """

    def __init__(
        self, run: str | Path | Learned, inner_steps: int | None = None, queries: Queries = "alone", seed: int = 0
    ) -> None:
        self.run = run
        self.inner_steps = inner_steps
        self.queries = queries
        self.seed = seed

    def fit(self, X: Any, y: Any) -> "MetaLearnedRegressor":
        """Adapts the learner to the support set X, y. Raises ValueError for what it cannot serve."""
        X, y = validate_data(self, in_rows(X), y, multi_output=True, y_numeric=True)
        self.adapted_ = adapted(self, X, y, classification=False)
        self.one_target_ = y.ndim == 1
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """X -> targets, (n,) or (n, d) as `fit` was given them.

        With `return_std` also their standard deviations, of learners that tell them, as scikit-learn's own regressors
        have it. Raises ValueError for other learners.
        """
        found = asked(self, X, "predict", return_std=return_std)
        each = [one[:, 0] if self.one_target_ else one for one in (found if return_std else [found])]
        return tuple(each) if return_std else each[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True  # as good as the run is for such data
        return tags


def in_rows(X: Any) -> Any:
    """Examples of a shape of their own (n, ...) as rows (n, features); all else is scikit-learn's to judge."""
    return X.reshape(len(X), -1) if isinstance(X, np.ndarray) and X.ndim > 2 and len(X) else X


def adapted(estimator: Any, X: np.ndarray, y: np.ndarray, classification: bool) -> Any:
    """The estimator's learner, adapted to rows X (n, features) and y."""
    try:
        learned = estimator.run if isinstance(estimator.run, Learned) else load(estimator.run)
        kind, other = ("a regression", "MetaLearnedRegressor")
        if learned.classification:
            kind, other = ("a classification", "MetaLearnedClassifier")
        if learned.classification != classification:
            raise ConfigError("run", estimator.run, f"its task is {kind}; use {other}")
        features = int(np.prod(learned.purpose.shape))
        if X.shape[1] != features:
            raise ConfigError(
                "X",
                f"{X.shape[1]} feature(s)",
                f"must have {features}, an example of the run is {learned.purpose.shape}",
            )
        X = X.reshape(len(X), *learned.purpose.shape)
        return learned.adapt(X, y, inner_steps=estimator.inner_steps, seed=estimator.seed)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def asked(estimator: Any, X: Any, method: str, **how: Any) -> Any:
    """What the adapted learner answers about X."""
    check_is_fitted(estimator)
    X = validate_data(estimator, in_rows(X), reset=False)
    try:
        X = X.reshape(len(X), *estimator.adapted_.learned.purpose.shape)
        return getattr(estimator.adapted_, method)(X, estimator.queries, **how)
    except ConfigError as error:
        raise ValueError(str(error)) from error
