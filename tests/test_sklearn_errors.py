"""Bad input to minidl's estimators: a clear error, and nothing has changed."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scipy.sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

import minidl
from minidl.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, NUMBERS = load_iris(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, NUMBERS = (X[ORDER] - X.mean(axis=0)) / X.std(axis=0), NUMBERS[ORDER]
Y = np.array(["a", "b", "c"])[NUMBERS]
VALUES = X[:, 0] * X[:, 1] + 2 * X[:, 2]
TARGETS = {MLPClassifier: Y, MLPRegressor: VALUES}
kinds = pytest.mark.parametrize("kind", TARGETS)

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "learning_rate_init": 0.02}


class Stop(Exception):
    """An error of the user's."""


class Fails(minidl.Callback):
    """Fails in an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs):
        if epoch == self.epoch:
            raise Stop


def state(estimator):
    """All attributes, and the values of those that change in place."""
    found = dict(vars(estimator))
    if "model_" in found:
        found |= {name: array.copy() for name, array in found["model_"].state_dict().items()}
        found |= {f"{k} copied": list(v) for k, v in found.items() if isinstance(v, list)}
    return found


def assert_unchanged(estimator, before):
    after = state(estimator)
    assert after.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(after[name], value)
        else:
            assert after[name] is value or after[name] == value, name


SMALL = {"early_stopping": True, "validation_fraction": 0.001}
# Parameters, more of the call, and the error.
WRONG = {
    "columns": ({}, {"X_val": X, "y_val": True}, r"X_val, y_val: X has 4 features"),
    "y_val": ({}, {"X_val": X[:, :3], "y_val": False}, r"X_val, y_val: "),
    "half": ({}, {"X_val": X[:, :3]}, "^y_val: expected one"),
    "weight": ({}, {"sample_weight": np.ones(3)}, "sample_weight"),
    "weight_val": (
        {}, {"X_val": X[:, :3], "y_val": True, "sample_weight_val": -np.ones(150)},
        "^X_val, y_val: Negative values",
    ),
    "scoring": ({"early_stopping": True, "scoring": "nope"}, {}, "nope"),
    "dropout": ({"solver": "lbfgs", "dropout": 0.5}, {}, "^dropout: expected 0"),
    "small": (SMALL, {}, r"The validation set is too small|test_size = 1"),
    "batches": ({"batch_norm": True, "batch_size": 1}, {}, "^batch_size: expected at least 2"),
    "activations": ({"activation": ["relu"] * 3}, {}, "^activation: expected one"),
    "schedule": ({"learning_rate": minidl.CosineAnnealingLR(9)}, {}, "takes 9 epochs"),
    "callbacks": ({"callbacks": [3]}, {}, "callback"),
    "loss": ({"loss": "KLDivLoss"}, {}, "^loss: expected one that suits"),
}  # fmt: skip


@kinds
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_to_fit_changes_nothing(kind, fitted, case):
    parameters, call, message = WRONG[case]
    estimator = kind(**QUICK)
    if fitted:
        estimator.fit(X, TARGETS[kind])
        expected = estimator.predict(X)
    # Other columns and classes than those that are known.
    y = np.where(Y == "a", "z", "y") if kind is MLPClassifier else VALUES
    if "y_val" in call:
        wrong = Y if kind is MLPClassifier else np.where(VALUES > 0, np.nan, 0)
        call = call | {"y_val": y if call["y_val"] else wrong}
    estimator.set_params(**parameters)
    before = state(estimator)
    with pytest.raises((ValueError, TypeError), match=message):
        estimator.fit(X[:, :3], y, **call)
    assert_unchanged(estimator, before)
    if fitted:
        np.testing.assert_array_equal(estimator.predict(X), expected)
        estimator.set_params(**kind(**QUICK).get_params()).partial_fit(X, TARGETS[kind])
    else:
        with pytest.raises(NotFittedError):
            estimator.predict(X)


def test_sparse_rows_for_batch_norm_with_lbfgs_change_nothing():
    reg = MLPRegressor(**QUICK).fit(X, VALUES)
    reg.set_params(batch_norm=True, solver="lbfgs")
    before = state(reg)
    with pytest.raises(ValueError, match=r"^batch_norm: expected False with solver"):
        reg.fit(scipy.sparse.csr_array(X[:, :3]), VALUES)
    assert_unchanged(reg, before)


@kinds
def test_wrong_input_changes_nothing_when_training_goes_on(kind):
    y = TARGETS[kind]
    estimator = kind(**QUICK, warm_start=True).fit(X, y)
    before = state(estimator)
    with pytest.raises(ValueError, match="X has 3 features"):
        estimator.fit(X, y, X_val=X[:, :3], y_val=y)
    with pytest.raises(ValueError, match="X has 3 features"):
        estimator.partial_fit(X[:, :3], y)
    with pytest.raises(ValueError, match="sample_weight"):
        estimator.partial_fit(X, y, sample_weight=np.ones(3))
    assert_unchanged(estimator, before)
    estimator.partial_fit(X, y)


def test_a_first_call_of_partial_fit_that_fails():
    clf = MLPClassifier(**QUICK)
    before = state(clf)
    for wrong in (np.where(Y == "a", "z", Y), Y[:7]):
        with pytest.raises(ValueError, match=r"classes not in|inconsistent numbers"):
            clf.partial_fit(X, wrong, classes=["a", "b", "c"])
        assert_unchanged(clf, before)
    assert list(clf.partial_fit(X, NUMBERS, classes=[0, 1, 2]).classes_) == [0, 1, 2]


@kinds
def test_a_training_that_fails(kind):
    """A first one leaves nothing; one that goes on, the epochs that it has made."""
    y = TARGETS[kind]
    estimator = kind(**QUICK, callbacks=[Fails(1)])
    before = state(estimator)
    with pytest.raises(Stop):
        estimator.fit(X, y)
    assert_unchanged(estimator, before)

    estimator.set_params(callbacks=None, warm_start=True).fit(X, y)
    curve = estimator.loss_curve_
    estimator.set_params(callbacks=[Fails(1)])
    with pytest.raises(Stop):
        estimator.fit(X, y)
    assert estimator.loss_curve_ is curve
    assert len(curve) == 3 + 2
    assert estimator.n_iter_ == 2
    assert estimator.t_ == 5 * len(X)
    assert not estimator.model_.training


def test_a_training_that_diverges_leaves_nothing():
    reg = MLPRegressor(**QUICK | {"solver": "sgd", "learning_rate_init": 1e30, "max_iter": 9})
    with pytest.raises(ValueError, match=r"^Solver produced non-finite"):
        reg.fit(X, VALUES)
    with pytest.raises(NotFittedError):
        reg.predict(X)


# Words.


def missing(what):
    pd = pytest.importorskip("pandas")
    labels = [*Y[:-1], None]
    if what == "polars":
        return pytest.importorskip("polars").Series(labels)
    if what in ("list", "NaN"):
        return labels if what == "list" else np.array([*labels[:-1], np.nan], object)
    return pd.Series(labels, dtype=what)


@pytest.mark.parametrize("what", ["string", "string[pyarrow]", "object", "list", "polars", "NaN"])
def test_missing_labels(what):
    y = missing(what)
    for clf in (MLPClassifier(**QUICK), MLPClassifier(**QUICK).fit(X, Y)):
        before = state(clf)
        with pytest.raises(ValueError, match=r"^y: expected no missing values, got one in row 149"):
            clf.fit(X, y)
        with pytest.raises(ValueError, match=r"^X_val, y_val: y: expected no missing values"):
            clf.fit(X, Y, X_val=X, y_val=y)
        assert_unchanged(clf, before)


def test_labels_of_pandas_strings():
    pd = pytest.importorskip("pandas")
    clf = MLPClassifier(**QUICK).fit(X, pd.Series(Y, dtype="string"))
    np.testing.assert_array_equal(clf.predict(X), MLPClassifier(**QUICK).fit(X, Y).predict(X))


@pytest.mark.parametrize("wrong", [-2, np.nan, np.inf, "3", None])
def test_wrong_class_weights(wrong):
    clf = MLPClassifier(**QUICK, class_weight={"a": 1, "b": wrong})
    with pytest.raises(ValueError, match=r"^class_weight\['b'\]: expected a number in \[0, inf\)"):
        clf.fit(X, Y)
    labels = np.column_stack([NUMBERS > 0, NUMBERS > 1]).astype(int)
    clf.set_params(class_weight=[{0: 1, 1: 1}, {0: 1, 1: wrong}])
    with pytest.raises(ValueError, match=r"^class_weight\[1\]: expected a number"):
        clf.fit(X, labels)


def test_class_weights_of_classes_that_a_batch_has_not():
    clf, plain = (MLPClassifier(**QUICK, class_weight=w) for w in ({"b": 3.0}, None))
    for first, y in enumerate((Y[Y != "b"], Y[Y != "c"], Y[Y != "b"])):
        known = {"classes": ["a", "b", "c"]} if first == 0 else {}
        weight = np.where(y == "b", 3.0, 1.0)
        clf.partial_fit(X[: len(y)], y, **known)
        plain.partial_fit(X[: len(y)], y, sample_weight=weight, **known)
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_what_scikit_learn_takes(solver):
    """As the docstring has it."""
    reg = MLPRegressor(**QUICK, solver=solver)
    with pytest.raises(ValueError, match=r"^Negative values in data passed to `sample_weight`"):
        reg.fit(X, VALUES, sample_weight=X[:, 0])
    with pytest.raises(ValueError, match=r"^y: expected counts of at least 0, got -"):
        reg.set_params(loss="poisson").fit(X, VALUES)
    reg.set_params(loss="squared_error").fit(X.astype(np.float32), VALUES)
    assert reg.predict(X).dtype == np.float32
    with pytest.raises(ValueError, match=r"as float32: expected finite numbers, got inf"):
        reg.predict(X * 1e300)


@pytest.mark.parametrize("name", ["coefs_", "intercepts_"])
def test_half_of_the_weights(name):
    reg = MLPRegressor(**QUICK)
    first = MLPRegressor(**QUICK).fit(X, VALUES)
    setattr(reg, name, getattr(first, name))
    other = {"coefs_": "intercepts_", "intercepts_": "coefs_"}[name]
    with pytest.raises(ValueError, match=rf"^{other}: expected arrays, since {name} are given"):
        reg.partial_fit(X, VALUES)
    setattr(reg, other, getattr(first, other))
    reg.partial_fit(X, VALUES)


def test_training_does_not_go_on_with_other_outputs():
    clf = MLPClassifier(**QUICK, warm_start=True).fit(X, NUMBERS > 0)
    clf.set_params(loss="CrossEntropyLoss")
    reg = MLPRegressor(**QUICK, warm_start=True).fit(X, VALUES)
    message = r"^y, loss: expected ones for 1 output, .*, got ones for 2$"
    for go_on in (
        lambda: clf.fit(X, NUMBERS > 0), lambda: clf.partial_fit(X, NUMBERS > 0),
        lambda: reg.fit(X, X[:, :2]), lambda: reg.partial_fit(X, X[:, :2]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            go_on()
