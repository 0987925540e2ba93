"""Metrics are scikit-learn's, from raw outputs, for every task, with and without weights."""

import functools
import warnings

import numpy as np
import pytest
from helpers import python

import minidl
from minidl.metrics import Metric, as_metrics

sklearn = pytest.importorskip("sklearn.metrics")

ROWS = 40
CLASSIFICATION = ["accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc"]
REGRESSION = ["mae", "rmse", "r2"]


def named(name):
    return as_metrics([name])[0]


def weights(weighted, rows=ROWS):
    """Weights, or none."""
    return np.random.default_rng(9).integers(1, 4, rows).astype(float) if weighted else None


def logits(columns, *, ties=False, seed=0, dtype=np.float32):
    """Outputs of a network; with few different values if ties are wanted."""
    z = np.random.default_rng(seed).normal(size=(ROWS, columns))
    return (np.round(z) if ties else z).astype(dtype)


def softmax(z):
    p = np.exp(z.astype(float) - z.max(axis=1, keepdims=True))  # exact where z are whole numbers
    return p / p.sum(axis=1, keepdims=True)


def close(value, expected):
    """Equal within rounding, or both NaN; and a float of Python."""
    assert type(value) is float
    assert value == pytest.approx(float(expected), rel=1e-12, abs=1e-12, nan_ok=True)


both = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
tied = pytest.mark.parametrize("ties", [False, True], ids=["different", "ties"])


# Against scikit-learn.


@both
@tied
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("name", [*CLASSIFICATION, "top_k", "top_1", "top_2", "top_7"])
def test_classes(name, classes, ties, weighted):
    y = np.random.default_rng(1).integers(0, classes, ROWS)
    y[:classes] = range(classes)
    z, w = logits(classes, ties=ties), weights(weighted)
    p = z.argmax(axis=1)
    options = {"sample_weight": w}
    if name.startswith("top"):
        k = 5 if name == "top_k" else int(name[4:])
        if k >= classes:
            return close(named(name)(y, z, "multiclass", w), 1)
        scores = z[:, 1] - z[:, 0] >= 0 if classes == 2 else z  # for two the cut is at 0.5
        expected = sklearn.top_k_accuracy_score(y, scores, k=k, labels=range(classes), **options)
    elif name == "auc":
        scores = z[:, 1] - z[:, 0] if classes == 2 else softmax(z)
        expected = sklearn.roc_auc_score(y, scores, multi_class="ovr", **options)
    elif name in ("accuracy", "balanced_accuracy"):
        expected = getattr(sklearn, f"{name}_score")(y, p, **options)
    else:
        expected = getattr(sklearn, f"{name}_score")(y, p, average="macro", **options)
    close(named(name)(y, z, "multiclass", w), expected)
    close(named(name)(y[:, None], z, "multiclass", w), expected)
    onehot = np.eye(classes, dtype=np.float32)[y] * 0.8 + 0.1 / classes  # probabilities
    close(named(name)(onehot, z, "multiclass", w), expected)


@both
@tied
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_one_column_of_yes_and_no(name, ties, weighted):
    y = np.random.default_rng(1).integers(0, 2, ROWS)
    z, w = logits(1, ties=ties), weights(weighted)
    predicted = z[:, 0] if name == "auc" else z[:, 0] > 0
    function = sklearn.roc_auc_score if name == "auc" else getattr(sklearn, f"{name}_score")
    expected = function(y, predicted, sample_weight=w)
    close(named(name)(y[:, None].astype(np.float32), z, "binary", w), expected)
    close(named(name)(y, z, "binary", w), expected)
    close(named(name)(y * 0.4 + 0.3, z, "binary", w), expected)  # soft targets


@both
@tied
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_several_columns_of_yes_and_no(name, ties, weighted):
    y = np.random.default_rng(1).integers(0, 2, (ROWS, 3)).astype(np.float32)
    z, w = logits(3, ties=ties), weights(weighted)
    if name == "auc":
        expected = sklearn.roc_auc_score(y, z, average="macro", sample_weight=w)
    elif name in ("accuracy", "balanced_accuracy"):
        function = getattr(sklearn, f"{name}_score")
        expected = np.mean([function(y[:, j], z[:, j] > 0, sample_weight=w) for j in range(3)])
    else:
        function = getattr(sklearn, f"{name}_score")
        expected = function(y, z > 0, average="macro", sample_weight=w)
    close(named(name)(y, z, "binary", w), expected)


@both
@pytest.mark.parametrize("task", ["regression", None])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("name", REGRESSION)
def test_values(name, columns, task, weighted):
    p, w = logits(columns), weights(weighted)
    y = p + logits(columns, seed=5)
    function = {
        "mae": sklearn.mean_absolute_error,
        "rmse": sklearn.root_mean_squared_error,
        "r2": sklearn.r2_score,
    }[name]
    expected = function(y.astype(float), p.astype(float), sample_weight=w)
    close(named(name)(y, p, task, w), expected)
    if columns == 1:
        close(named(name)(y[:, 0], p, task, w), expected)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_r2_without_variance(offset):
    y = np.ones((5, 1))
    expected = sklearn.r2_score(y, y + offset)
    close(named("r2")(y, y + offset, "regression"), expected)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("task", ["multiclass", "binary", "several"])
def test_a_missing_class_gives_what_scikit_learn_warns_about_without_the_warning(name, task):
    """All rows of class 1; auc is not defined then."""
    if task == "multiclass":
        y, z = np.ones(ROWS, int), logits(3)
        p, average = z.argmax(axis=1), "macro"
    else:
        columns = 1 if task == "binary" else 2
        y, z = np.ones((ROWS, columns)), logits(columns)
        y[:, 1:] = logits(columns)[:, 1:] > 0.5
        p, average = (z > 0).squeeze(), "binary" if columns == 1 else "macro"
    value = named(name)(y, z, task if task == "multiclass" else "binary")
    if name == "auc":
        return close(value, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in ("accuracy", "balanced_accuracy"):
            function = getattr(sklearn, f"{name}_score")
            columns = zip(np.atleast_2d(y.squeeze().T), np.atleast_2d(p.T), strict=True)
            expected = np.mean([function(a, b) for a, b in columns])
        else:
            expected = getattr(sklearn, f"{name}_score")(y.squeeze(), p, average=average)
    close(value, expected)


def test_precision_where_nothing_is_said_to_be_of_the_class():
    y, z = np.array([0.0, 1.0]), np.full((2, 1), -1.0)
    for name in ("precision", "recall", "f1"):
        close(named(name)(y, z, "binary"), 0)


def test_one_class_alone():
    y, z = np.zeros(3, int), np.zeros((3, 1))
    for name, value in {"accuracy": 1, "top_k": 1, "f1": 1, "auc": np.nan}.items():
        close(named(name)(y, z, "multiclass"), value)


def test_weights_of_zero_can_make_a_class_missing():
    y, z = np.array([0, 0, 1]), np.array([[1.0], [0.0], [2.0]])
    close(named("auc")(y, z, "binary", np.array([1.0, 2.0, 1.0])), 1)
    close(named("auc")(y, z, "binary", np.array([1.0, 2.0, 0.0])), np.nan)
    close(named("auc")(y, z, "binary", np.zeros(3)), np.nan)


@pytest.mark.parametrize("name", [*CLASSIFICATION, "top_2"])
def test_rows_of_weight_zero_are_as_if_they_were_not_there(name):
    y, z, w = np.arange(ROWS) % 3, logits(3), weights(True)
    some = slice(5, None)
    z[:5, 2] += 9
    w[:5] = 0
    close(named(name)(y, z, "multiclass", w), named(name)(y[some], z[some], "multiclass", w[some]))


def test_one_row():
    close(named("r2")(np.ones(1), np.ones((1, 1)), "regression"), np.nan)
    close(named("rmse")(np.ones(1), np.zeros((1, 1)), "regression"), 1)
    close(named("accuracy")(np.ones(1, int), np.eye(2)[1:], "multiclass"), 1)


def test_auc_does_not_saturate():
    """Probabilities would all be 1."""
    y, z = np.array([0, 1, 0, 1]), np.array([[60.0], [61.0], [62.0], [63.0]])
    close(named("auc")(y, z, "binary"), 0.75)
    close(named("auc")(y, np.hstack([0 * z, z]), "multiclass"), 0.75)


def test_accuracy_is_that_of_the_compiled_losses():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)).astype(np.float32)
    model = minidl.Sequential(minidl.Linear(4, 3, seed=0))
    z = model.predict(X)
    for loss, task, y in [
        (minidl.CrossEntropyLoss(), "multiclass", rng.integers(0, 3, 50)),
        (minidl.CrossEntropyLoss(), "multiclass", softmax(rng.normal(size=(50, 3)))),
        (minidl.BCEWithLogitsLoss(), "binary", rng.random((50, 3))),
    ]:
        expected = minidl.Trainer(model, loss).evaluate(X, y)["accuracy"]
        assert named("accuracy")(y, z, task) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["accuracy", "auc", "top_2", "f1"])
def test_outputs_that_are_not_finite(name, bad):
    z = logits(3)
    z[4, 1] = bad
    close(named(name)(np.arange(ROWS) % 3, z, "multiclass"), np.nan)


# Functions.


@both
@pytest.mark.parametrize(
    ("function", "needs"),
    [
        (sklearn.accuracy_score, None),
        (sklearn.cohen_kappa_score, None),
        (sklearn.log_loss, "scores"),
    ],
)
def test_functions_of_scikit_learn_work_as_they_are(function, needs, weighted):
    y, z, w = np.arange(ROWS) % 3, logits(3), weights(weighted)
    p = softmax(z) if needs else z.argmax(axis=1)
    metric = Metric(function, needs=needs)
    assert metric.name == function.__name__
    close(metric(y, z, "multiclass", w), function(y, p, sample_weight=w))


class Seen:
    """Notes what it is called with."""

    __name__ = "seen"

    def __call__(self, y_true, y_pred):
        self.arguments = y_true, y_pred
        return 1


@pytest.mark.parametrize(
    ("task", "columns", "needs", "shapes", "kinds"),
    [
        ("multiclass", 3, None, [(ROWS,), (ROWS,)], "ii"),
        ("multiclass", 3, "labels", [(ROWS,), (ROWS,)], "ii"),
        ("multiclass", 3, "scores", [(ROWS,), (ROWS, 3)], "if"),
        ("multiclass", 3, "values", [(ROWS,), (ROWS, 3)], "if"),
        ("binary", 1, None, [(ROWS,), (ROWS,)], "ii"),
        ("binary", 1, "scores", [(ROWS,), (ROWS,)], "if"),
        ("binary", 1, "values", [(ROWS,), (ROWS,)], "ff"),
        ("binary", 2, "labels", [(ROWS, 2), (ROWS, 2)], "ii"),
        ("binary", 2, "scores", [(ROWS, 2), (ROWS, 2)], "if"),
        ("regression", 1, None, [(ROWS,), (ROWS,)], "ff"),
        ("regression", 2, None, [(ROWS, 2), (ROWS, 2)], "ff"),
        (None, 1, None, [(ROWS, 1), (ROWS, 1)], "ff"),
    ],
)
def test_what_functions_get(task, columns, needs, shapes, kinds):
    seen, z = Seen(), logits(columns)
    y = np.arange(ROWS) % 3 if task == "multiclass" else np.abs(logits(columns, seed=3)) % 1
    close(Metric(seen, needs=needs)(y, z, task), 1)
    assert [a.shape for a in seen.arguments] == shapes
    assert "".join(a.dtype.kind for a in seen.arguments) == kinds
    if needs == "scores":
        expected = softmax(z) if task == "multiclass" else 1 / (1 + np.exp(-z.astype(float)))
        np.testing.assert_allclose(seen.arguments[1], expected.reshape(shapes[1]), rtol=1e-12)


def plain(y_true, y_pred):
    return 0.5


def test_weights_that_a_function_does_not_take():
    y, z, w = np.zeros(4), np.zeros((4, 1)), np.ones(4)
    assert Metric(plain)(y, z, "regression") == 0.5
    assert Metric(plain, weighted=False)(y, z, "regression", w) == 0.5
    with pytest.raises(ValueError, match=r"'plain' takes no sample_weight; .*weighted=False"):
        Metric(plain)(y, z, "regression", w)
    Metric(plain).check("regression")
    with pytest.raises(ValueError, match="sample_weight"):
        Metric(plain).check("regression", weights=True)


def test_names_of_functions():
    beta = functools.partial(sklearn.fbeta_score, beta=2, average="macro")
    assert [m.name for m in as_metrics([plain, beta, Seen()])] == ["plain", "fbeta_score", "seen"]
    assert Metric(lambda y, p: 0, "zero").name == "zero"
    assert Metric(beta).weighted
    assert not Metric(max, "largest").weighted


@pytest.mark.parametrize("value", [np.zeros(2), "a", None, 1j])
def test_functions_that_return_no_number(value):
    with pytest.raises(TypeError, match="expected a number from 'name', got"):
        Metric(lambda y, p: value, "name")(np.zeros(2), np.zeros((2, 1)), "regression")


# Errors.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("accuracy", TypeError, "metrics: expected a list, got 'accuracy'"),
        (3, TypeError, "metrics: expected a list, got 3"),
        (["acuracy"], ValueError, "unknown 'acuracy', did you mean 'accuracy'"),
        (["F1"], ValueError, "unknown 'F1', did you mean 'f1'"),
        (["top_0"], ValueError, "unknown 'top_0', did you mean 'top_k'"),
        (["zzzz"], ValueError, "unknown 'zzzz'; known are accuracy, auc"),
        ([3], TypeError, "metrics: expected names, functions .* got 3"),
        ([dict], TypeError, "metrics: expected names, functions"),
        (["f1", "f1"], ValueError, "each name once, got 'f1' twice"),
        ([lambda y, p: 0], ValueError, "a lambda has no name"),
    ],
)
def test_lists_that_are_none(given, error, message):
    with pytest.raises(error, match=message):
        as_metrics(given)


@pytest.mark.parametrize("name", ["loss", "val_x", "lr", "epoch"])
def test_names_that_are_taken(name):
    with pytest.raises(ValueError, match=f"name: expected one that no other .* got '{name}'"):
        Metric(plain, name)


def test_arguments_of_metric():
    with pytest.raises(ValueError, match="needs: expected 'labels', 'scores' or 'values', got 'x'"):
        Metric(plain, needs="x")
    with pytest.raises(TypeError, match="name: expected a string, got ''"):
        Metric(plain, "")


@pytest.mark.parametrize(
    ("name", "task", "suited"),
    [
        ("accuracy", "regression", "multiclass or binary"),
        ("f1", None, "multiclass or binary"),
        ("mae", "multiclass", "regression or function"),
        ("top_3", "binary", "multiclass"),
    ],
)
def test_tasks_that_do_not_suit(name, task, suited):
    message = f"'{name}' is for a {suited} loss, got a {task or 'function'} loss"
    with pytest.raises(ValueError, match=message):
        named(name).check(task)
    with pytest.raises(ValueError, match=message):
        named(name)(np.zeros(3, int), np.zeros((3, 2)), task)


def test_outputs_that_are_not_like_the_targets():
    with pytest.raises(ValueError, match=r"outputs like the targets \(3, 1\), got \(3, 2\)"):
        named("mae")(np.zeros(3), np.zeros((3, 2)), None)


def test_without_scikit_learn():
    """What needs it says so at once; the others work."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import numpy as np; from minidl.metrics import as_metrics\n"
        "y, z = np.arange(4) % 2, np.eye(4)[:, :2]\n"
        "for m in as_metrics(['accuracy', 'top_1']): print(m(y, z, 'multiclass'))\n"
        "for name in ['auc', 'balanced_accuracy', 'f1', 'precision', 'recall']:\n"
        "    try: as_metrics([name])\n"
        "    except ImportError as error: print(error)\n"
    )
    done = python("-c", code)
    first, second, *errors = done.stdout.splitlines()
    assert float(first) >= float(second) > 0
    assert len(errors) == 5
    assert errors[2] == "the metric 'f1' needs sklearn: pip install 'minidl[sklearn]'"
