"""minidl's estimators do what scikit-learn's do: the same steps from the same weights."""

import inspect
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scipy.sparse
from sklearn import neural_network
from sklearn.datasets import load_diabetes, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

import minidl
from minidl.lowering import mode
from minidl.sklearn import MLPClassifier, MLPRegressor, lbfgs

THEIRS = {
    MLPClassifier: neural_network.MLPClassifier,
    MLPRegressor: neural_network.MLPRegressor,
}
kinds = pytest.mark.parametrize("kind", THEIRS)

# Weights after some epochs, relative to the largest: the same formulas in another order.
RTOL = {"float64": 1e-9, "float32": 2e-4}
# Of Adam, whose epsilon stands elsewhere: the tests have one that does not count.
RTOL_ADAM = {"float64": 1e-6, "float32": 1e-3}
# With a strong penalty, which is that of weights that go in a straight line through an epoch.
RTOL_PENALTY = 3e-3
ROWS = 120


def data(task, dtype="float64"):
    """X and y of a task, in batches of one size."""
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(3).permutation(len(X))[:ROWS]
    X, y = (X[order] / 4).astype(dtype), y[order]
    return X, {
        "binary": y > 0,
        "multiclass": np.array(["a", "b", "c"])[y],
        "multilabel": np.column_stack([y > 0, y > 1, X[:, 0] > 1.4]).astype(int),
        "values": X[:, 0] * X[:, 1] - X[:, 2],
        "several values": np.column_stack([X[:, 0] * X[:, 1], X[:, 2] ** 2]),
        "counts": np.rint(3 * X[:, 2]),
        "several counts": np.rint(np.column_stack([3 * X[:, 2], 2 * X[:, 3]])),
    }[task]


def class_for(task):
    """The class and the parameters that belong to a task."""
    if task in ("binary", "multiclass", "multilabel"):
        return MLPClassifier, {}
    return MLPRegressor, {"loss": "poisson"} if "counts" in task else {}


TASKS = ["binary", "multiclass", "multilabel", "values", "several values", "counts",
         "several counts"]  # fmt: skip
tasks = pytest.mark.parametrize("task", TASKS)


def fit_both(task, dtype="float64", fit=None, **options):
    """Ours and theirs, without a shuffle, which has another order."""
    kind, own = class_for(task)
    X, y = data(task, dtype)
    options = {
        "hidden_layer_sizes": (7, 5), "activation": "tanh", "batch_size": 20, "shuffle": False,
        "max_iter": 6, "random_state": 5, "alpha": 0.1, "epsilon": 1e-14,
    } | own | options  # fmt: skip
    found = []
    for one in (kind, THEIRS[kind]):
        estimator = one(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if fit is None:
                estimator.fit(X, y)
            else:
                fit(estimator, X, y)
        found.append(estimator)
    return found


def assert_same(ours, theirs, rtol):
    """Weights and curves agree, and all other fitted attributes are equal."""
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())
    curve = getattr(theirs, "loss_curve_", [theirs.loss_])
    np.testing.assert_allclose(
        ours.loss_curve_[-len(curve) :], curve, rtol=max(rtol, RTOL_PENALTY if theirs.alpha else 0)
    )
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name)
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)


# Parameters and attributes.


@kinds
def test_parameters_have_the_same_order_and_defaults(kind):
    ours = inspect.signature(kind).parameters
    theirs = inspect.signature(THEIRS[kind]).parameters
    shared = {name: p for name, p in ours.items() if name in theirs}
    assert list(shared) == list(theirs)
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert shared[name].default == parameter.default, name
        assert shared[name].kind == parameter.kind, name


@kinds
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score"])
def test_methods_take_the_same_arguments(kind, method):
    ours = list(inspect.signature(getattr(kind, method)).parameters)
    theirs = list(inspect.signature(getattr(THEIRS[kind], method)).parameters)
    assert ours[: len(theirs)] == theirs


@kinds
def test_public_names_of_theirs_are_there(kind):
    X, y = data("binary" if kind is MLPClassifier else "values")
    found = []
    for one in (kind, THEIRS[kind]):
        estimator = one(max_iter=2, early_stopping=True, hidden_layer_sizes=3)
        with pytest.warns(ConvergenceWarning, match=r"^Stochastic Optimizer: Maximum iterations"):
            estimator.fit(X, y)
        found.append({name for name in dir(estimator) if not name.startswith("_")})
    assert found[1] - found[0] == set()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("hidden_layer_sizes", -1), ("hidden_layer_sizes", (3, 0)), ("activation", "step"),
        ("solver", "newton"), ("alpha", -1), ("batch_size", 0), ("learning_rate", "fast"),
        ("learning_rate_init", 0.0), ("power_t", -1.0), ("max_iter", 0), ("shuffle", "yes"),
        ("random_state", "seed"), ("tol", -0.1), ("verbose", "loud"), ("warm_start", None),
        ("momentum", 1.1), ("nesterovs_momentum", 3), ("early_stopping", None),
        ("validation_fraction", 1.0), ("beta_1", 1.0), ("beta_2", -0.5), ("epsilon", 0.0),
        ("n_iter_no_change", 0), ("max_fun", 1.5),
    ],
)  # fmt: skip
@kinds
def test_wrong_parameters_are_the_same_errors(kind, parameter, value):
    X, y = data("binary" if kind is MLPClassifier else "values")
    texts = []
    for one in (kind, THEIRS[kind]):
        with pytest.raises(ValueError, match=parameter) as caught:
            one(**{parameter: value}).fit(X, y)
        texts.append((type(caught.value), str(caught.value)))
    assert texts[0][0] is texts[1][0]
    if parameter not in ("activation", "solver", "learning_rate"):  # of which there are more here
        assert texts[0][1].rstrip(".") == texts[1][1].rstrip(".")


# Weights and steps.


@tasks
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_initial_weights(task, activation):
    """A rate of next to nothing leaves them as they are."""
    ours, theirs = fit_both(
        task, activation=activation, learning_rate_init=1e-300, max_iter=1, solver="sgd"
    )
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_array_equal(a, b)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0}, {"momentum": 0.9, "nesterovs_momentum": False}, {"momentum": 0.9},
        {"momentum": 1.0, "max_iter": 2}, {"learning_rate": "invscaling", "power_t": 0.3},
        {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 9},
    ],
    ids=str,
)  # fmt: skip
@tasks
def test_sgd(task, options, dtype):
    ours, theirs = fit_both(task, dtype, solver="sgd", learning_rate_init=0.02, **options)
    assert_same(ours, theirs, RTOL[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@tasks
def test_losses_without_a_penalty(task, dtype):
    ours, theirs = fit_both(task, dtype, solver="sgd", learning_rate_init=0.02, alpha=0)
    assert_same(ours, theirs, RTOL[dtype])
    assert ours.loss_ == ours.loss_curve_[-1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@tasks
def test_adam(task, dtype):
    ours, theirs = fit_both(task, dtype, learning_rate_init=0.02, beta_1=0.8, beta_2=0.99)
    assert_same(ours, theirs, RTOL_ADAM[dtype])


@tasks
def test_epsilon_of_adam(task):
    """A large one, whose place matters little once beta_2 to the power of the step is 0."""
    ours, theirs = fit_both(task, epsilon=0.1, beta_2=0.0, learning_rate_init=0.02)
    assert_same(ours, theirs, 1e-9)


@tasks
def test_lbfgs(task):
    ours, theirs = fit_both(task, solver="lbfgs", max_iter=12)
    if ours.n_outputs_ == 1 or task not in ("several values",):
        assert_same(ours, theirs, 1e-5)
    assert ours.n_iter_ == 12
    assert ours.loss_curve_[-1] == ours.loss_ < 0.9 * ours.loss_curve_[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("batch_norm", "sparse"), [(False, False), (False, True), (True, False)])
@tasks
def test_the_gradient_of_lbfgs(task, batch_norm, sparse, weighted, monkeypatch):
    """That of its value, by central differences; rows come in parts of 50, but with BatchNorm."""
    monkeypatch.setattr(lbfgs, "ROWS", 50)
    functions = []

    class Function(lbfgs.Function):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            functions.append(self)

    monkeypatch.setattr(lbfgs, "Function", Function)
    kind, own = class_for(task)
    X, y = data(task)
    estimator = kind(
        hidden_layer_sizes=(4,), activation="tanh", solver="lbfgs", alpha=2.0, max_iter=2,
        random_state=0, batch_norm=batch_norm, **own,
    )  # fmt: skip
    weight = np.linspace(0, 2, ROWS) if weighted else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(scipy.sparse.csr_array(X) if sparse else X, y, sample_weight=weight)
    (function,) = functions
    point = function.store.values[: function.size].copy()
    with mode(function.model, True):
        _, gradient = function(point)
        numbers = np.flatnonzero(gradient)
        assert len(numbers) > 20
        for i in numbers:
            step = np.zeros_like(point)
            step[i] = 1e-5
            slope = (function(point + step)[0] - function(point - step)[0]) / 2e-5
            assert slope == pytest.approx(gradient[i], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@tasks
def test_sample_weights_of_one_sum_in_each_batch(task, solver):
    weight = np.tile(np.linspace(0.5, 1.5, 20), ROWS // 20)
    ours, theirs = fit_both(
        task, solver=solver, learning_rate_init=0.02, max_iter=4,
        fit=lambda estimator, X, y: estimator.fit(X, y, sample_weight=weight),
    )  # fmt: skip
    if (task, solver) != ("several values", "lbfgs"):
        assert_same(ours, theirs, RTOL_ADAM["float64"])


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@tasks
def test_partial_fit(task, solver):
    def fit(estimator, X, y):
        known = {}
        if task in ("binary", "multiclass"):
            known = {"classes": np.unique(y)}
        if task == "multilabel":
            known = {"classes": [0, 1, 2]}
        for start in (0, 40, 80):
            estimator.partial_fit(X[start : start + 40], y[start : start + 40], **known)
            known = {}

    ours, theirs = fit_both(task, solver=solver, learning_rate_init=0.02, fit=fit)
    assert_same(ours, theirs, RTOL_ADAM["float64"])
    assert ours.n_iter_ == 1
    assert ours.t_ == ROWS


def one_row_and_then_many(estimator, X, y):
    estimator.partial_fit(X[:1], y[:1])
    for _ in range(20):
        estimator.partial_fit(X, y)


def many_rows_and_then_one(estimator, X, y):
    estimator.fit(X, y)
    for i in range(20):
        estimator.partial_fit(X[i : i + 1], y[i : i + 1])


def other_alphas(estimator, X, y):
    for alpha in (0.0, 100.0, 1.0, 0.0):
        estimator.set_params(alpha=alpha)
        for _ in range(3):
            estimator.partial_fit(X, y)


def other_weights(estimator, X, y):
    for weight in (1.0, 9.0, 0.1):
        estimator.partial_fit(X, y, sample_weight=np.full(len(y), weight))


def warm_refits(estimator, X, y):
    for rows, alpha in ((1, 1.0), (ROWS, 1.0), (ROWS, 50.0)):
        estimator.set_params(alpha=alpha).fit(X[:rows], y[:rows])


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", ["values", "several values", "counts"])
@pytest.mark.parametrize(
    "calls",
    [one_row_and_then_many, many_rows_and_then_one, other_alphas, other_weights, warm_refits],
)
def test_the_penalty_is_that_of_the_call(task, solver, calls):
    """Divided by the rows of its own batches, of the alpha that there is: in steps and in loss_."""
    ours, theirs = fit_both(
        task, solver=solver, alpha=1.0, learning_rate_init=0.01, batch_size="auto", fit=calls,
        warm_start=calls is warm_refits,
    )  # fmt: skip
    assert_same(ours, theirs, RTOL_ADAM["float64"])
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("task", ["multiclass", "values"])
def test_warm_start(task, solver):
    ours, theirs = fit_both(
        task, solver=solver, warm_start=True, learning_rate="invscaling",
        fit=lambda estimator, X, y: [estimator.fit(X, y) for _ in range(3)],
    )  # fmt: skip
    assert_same(ours, theirs, RTOL_ADAM["float64"])


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_sparse_rows(form, solver):
    ours, theirs = fit_both(
        "multiclass", solver=solver, fit=lambda estimator, X, y: estimator.fit(form(X), y)
    )
    assert_same(ours, theirs, 1e-5)
    X = data("multiclass")[0]
    np.testing.assert_allclose(ours.predict_proba(form(X)), ours.predict_proba(X), rtol=1e-12)


def test_a_smaller_last_batch():
    """It is trained on, and counts in the loss by its rows."""
    ours, theirs = fit_both("multiclass", batch_size=33, alpha=0.0, solver="sgd")
    assert_same(ours, theirs, RTOL["float64"])


# Predictions.


@tasks
def test_predictions(task):
    ours, theirs = fit_both(task, solver="sgd", learning_rate_init=0.1)
    X, y = data(task)
    rtol = 1e-7
    if class_for(task)[0] is MLPClassifier:
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        assert ours.predict(X).dtype == theirs.predict(X).dtype
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=rtol)
        np.testing.assert_allclose(
            ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-6, atol=1e-9
        )
    else:
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=rtol, atol=1e-9)
        assert ours.predict(X).shape == theirs.predict(X).shape
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-6)


def test_logarithms_of_probabilities_are_finite():
    X = np.array([[-1e4], [1e4]])
    for y in (["a", "b"], ["a", "c"]):
        clf = MLPClassifier(4, max_iter=1, learning_rate_init=1e-9, random_state=0)
        with pytest.warns(ConvergenceWarning):
            clf.fit(np.repeat(X / 1e4, 3, axis=0), np.repeat(y, 3))
        assert np.isfinite(clf.predict_log_proba(X)).all()


# When training stops.


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "values"])
def test_stops_after_the_same_epoch(task, solver):
    ours, theirs = fit_both(
        task, solver=solver, tol=0.02, n_iter_no_change=3, max_iter=500, learning_rate_init=0.05,
        alpha=0,
    )  # fmt: skip
    assert_same(ours, theirs, 1e-4)
    assert 4 < ours.n_iter_ < 500
    assert ours.best_loss_ == pytest.approx(theirs.best_loss_, rel=1e-4)
    assert ours.validation_scores_ is ours.best_validation_score_ is None


@pytest.mark.parametrize("weighted", [False, True])
@tasks
def test_early_stopping(task, weighted):
    """The same rows are held out, the same scores found, the same weights brought back."""
    weight = np.linspace(0.5, 1.5, ROWS) if weighted else None
    ours, theirs = fit_both(
        task, early_stopping=True, validation_fraction=0.2, tol=0.01, n_iter_no_change=4,
        max_iter=200, solver="sgd", learning_rate_init=0.05, batch_size=96, alpha=0.01,
        fit=lambda estimator, X, y: estimator.fit(X, y, sample_weight=weight),
    )  # fmt: skip
    assert_same(ours, theirs, 1e-5)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-6)
    assert ours.best_validation_score_ == max(ours.validation_scores_)
    assert ours.best_loss_ is None
    assert len(ours.validation_loss_curve_) == ours.n_iter_ < 200


def printed(capsys, **options):
    fit_both("multiclass", verbose=True, **options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    return lines[: len(lines) // 2]


def test_what_is_printed(capsys):
    lines = printed(capsys, solver="sgd", tol=1.0, n_iter_no_change=2, max_iter=99, alpha=0.0)
    assert lines[0].startswith("Iteration 1, loss = ")
    assert lines[-1] == (
        "Training loss did not improve more than tol=1.000000 for 2 consecutive epochs. Stopping."
    )
    lines = printed(
        capsys, solver="sgd", tol=1.0, n_iter_no_change=2, max_iter=99, alpha=0.0,
        learning_rate="adaptive", learning_rate_init=4e-5,
    )  # fmt: skip
    assert any(line.endswith("epochs. Setting learning rate to 0.000008") for line in lines)
    assert lines[-1].endswith("epochs. Learning rate too small. Stopping.")
    lines = printed(
        capsys, solver="sgd", tol=1.0, n_iter_no_change=2, max_iter=99, alpha=0.0,
        early_stopping=True,
    )  # fmt: skip
    assert lines[1].startswith("Validation score: ")
    assert lines[-1].startswith("Validation score did not improve more than tol=1.000000 for 2")


@kinds
def test_warnings(kind):
    X, y = data("binary" if kind is MLPClassifier else "values")
    for one in (kind, THEIRS[kind]):
        with pytest.warns(
            ConvergenceWarning,
            match=r"^Stochastic Optimizer: Maximum iterations \(2\) reached and the optimization "
            r"hasn't converged yet\.$",
        ) as caught:
            one(max_iter=2).fit(X, y)
        assert caught[0].filename == __file__ or one is not kind
        with pytest.warns(UserWarning, match=r"^Got `batch_size` less than 1 or larger than"):
            one(batch_size=9999, tol=10.0, max_iter=50).fit(X, y)
        with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge after 2 iteration"):
            one(solver="lbfgs", max_iter=2, tol=0).fit(X, y)
        with pytest.warns(UserWarning, match="A column-vector y was passed"):
            one(tol=10.0, max_iter=50).fit(X, y[:, None])


@kinds
def test_ctrl_c_keeps_what_there_is(kind):
    class Interrupt(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                raise KeyboardInterrupt

    X, y = data("binary" if kind is MLPClassifier else "values")
    estimator = kind(callbacks=[Interrupt()], random_state=0)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        estimator.fit(X, y)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 3
    assert len(estimator.predict(X)) == len(X)


def test_errors_of_classes():
    X, y = data("multiclass")
    for one in (MLPClassifier, neural_network.MLPClassifier):
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            one().partial_fit(X, y)
        clf = one().partial_fit(X, y, classes=["a", "b", "c"])
        with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
            clf.partial_fit(X, y, classes=["a", "b"])
        with pytest.raises(ValueError, match=r"`y` has classes not in `self\.classes_`"):
            clf.partial_fit(X, np.where(y == "a", "z", y))
        with pytest.raises(ValueError, match="Unknown label type"):
            one().fit(X, X[:, 0])
        with pytest.raises(ValueError, match="Multioutput target data is not supported"):
            one().fit(X, np.column_stack([np.arange(ROWS) % 3] * 2))
        with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
            one(solver="lbfgs").partial_fit  # noqa: B018
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            one(early_stopping=True).partial_fit(X, y, classes=["a", "b", "c"])


def test_random_states_are_used_up_alike():
    """An instance goes on from fit to fit: the weights of the second are others, and the same."""
    X, y = data("values")
    found = []
    for one in (MLPRegressor, neural_network.MLPRegressor):
        state = check_random_state(7)
        first = one(random_state=state, shuffle=False, max_iter=1, solver="lbfgs")
        second = one(random_state=state, shuffle=False, max_iter=1, solver="lbfgs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append([first.fit(X, y).coefs_[0], second.fit(X, y).coefs_[0]])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
    assert not np.allclose(found[0][0], found[0][1])


def test_shuffled_training_is_as_good():
    """With another order of the rows, the mean score over seeds is the same within its error."""
    X, y = make_classification(300, 12, n_informative=6, random_state=0)
    scores = {}
    for one in (MLPClassifier, neural_network.MLPClassifier):
        scores[one] = [
            one((16,), learning_rate_init=0.01, tol=1e-3, max_iter=400, random_state=seed)
            .fit(X[:200], y[:200])
            .score(X[200:], y[200:])
            for seed in range(8)
        ]
    ours, theirs = (np.array(s) for s in scores.values())
    error = np.hypot(ours.std(ddof=1), theirs.std(ddof=1)) / np.sqrt(8)
    assert abs(ours.mean() - theirs.mean()) < 3 * error + 0.01


def test_diabetes_by_lbfgs():
    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    options = {"solver": "lbfgs", "hidden_layer_sizes": (8,), "random_state": 1, "alpha": 1.0,
               "max_iter": 30}  # fmt: skip
    losses = []
    for one in (MLPRegressor, neural_network.MLPRegressor):
        with pytest.warns(ConvergenceWarning):
            losses.append(one(**options).fit(10 * X, y).loss_)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
