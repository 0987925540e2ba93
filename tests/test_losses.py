"""Losses against the NumPy baseline in float64 and against PyTorch."""

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    LOSSES,
    RTOL,
    RTOL_TORCH,
    assert_close,
    dtypes,
    for_all_threads,
    losses,
    losses_of,
    numbers,
    same_bits,
)

import minidl
from minidl import numpy_baseline as baseline

COLUMNS = [1, 2, 3, 10, 16, 17, 33, 100]
ROWS = [1, 2, 7, 16, 33, 200]


def example(case, rows, columns, dtype, spread=1.0):
    """Predictions and targets."""
    rng = np.random.default_rng([rows, columns])
    prediction = (spread * rng.normal(size=(rows, columns))).astype(dtype)
    targets = case.targets(rng, rows, columns)
    return prediction, targets if targets.dtype.kind == "i" else targets.astype(dtype)


def in_float64(y):
    """Targets as the oracle reads them."""
    return y if y.dtype.kind == "i" else y.astype(np.float64)


@losses_of(*COLUMNS)
@dtypes
@pytest.mark.parametrize("rows", ROWS)
def test_loss_and_gradient(case, rows, columns, dtype):
    prediction, y = example(case, rows, columns, dtype, spread=3)
    loss = case.make()
    value, gradient = case.baseline(prediction.astype(np.float64), in_float64(y))
    assert_close(loss.forward(prediction, y), value, RTOL[dtype], max(value, 1.0))
    assert loss.backward().dtype == np.dtype(dtype)
    assert_close(loss.backward(), gradient, RTOL[dtype], max(np.abs(gradient).max(), 1 / rows))


@losses_of(1, 10, 17)
@dtypes
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_as_torch(case, rows, columns, dtype):
    torch = pytest.importorskip("torch")
    prediction, y = example(case, rows, columns, dtype)
    p = torch.tensor(prediction, requires_grad=True)
    expected = getattr(torch.nn.functional, case.torch)(p, torch.as_tensor(y))
    expected.backward()
    loss = case.make()
    assert_close(loss(prediction, y), expected.detach(), RTOL_TORCH[dtype], 1)
    assert_close(loss.backward(), p.grad, RTOL_TORCH[dtype], 1 / rows)


@losses_of(1, 3, 17)
@dtypes
def test_large_logits(case, columns, dtype):
    prediction, y = example(case, 16, columns, dtype)
    prediction = np.where(prediction > 0, 1e4, -1e4).astype(dtype)
    prediction[0], prediction[1] = 1e4, -1e4
    value, gradient = case.baseline(prediction.astype(np.float64), in_float64(y))
    loss = case.make()
    assert_close(loss(prediction, y), value, RTOL[dtype], max(value, 1.0))
    assert_close(loss.backward(), gradient, RTOL[dtype], max(np.abs(gradient).max(), 1.0))


@dtypes
def test_gradient_of_large_logits(dtype):
    loss = minidl.CrossEntropyLoss()
    assert loss(np.array([[1e4, -1e4]], dtype), [1]) == 2e4
    assert loss.backward().tolist() == [[1, -1]]
    loss = minidl.BCEWithLogitsLoss()
    assert loss(np.array([[1e4], [-1e4]], dtype), [0, 1]) == 1e4
    assert loss.backward().tolist() == [[0.5], [-0.5]]


@losses
@dtypes
def test_any_layout_gives_the_same_and_stays_unchanged(case, dtype):
    prediction, y = example(case, 33, 5, dtype)
    loss = case.make()
    value, gradient = loss(prediction, y), loss.backward()
    for layout in LAYOUTS.values():
        p_there = layout(prediction)
        y_there = layout(y) if y.ndim == 2 else np.repeat(y, 2)[::2].astype(np.uint8)
        other = case.make()
        assert other(p_there, y_there) == value
        assert same_bits(other.backward(), gradient)
        assert np.array_equal(p_there, prediction)
        assert np.array_equal(y_there, y)


@losses
@dtypes
@pytest.mark.parametrize("rows", [1, 15, 33, 200])
def test_equal_bits_on_any_threads(case, rows, dtype):
    prediction, y = example(case, rows, 10, dtype)

    def run():
        loss = case.make()
        return np.float64(loss(prediction, y)), loss.backward()

    for_all_threads(run)


@dtypes
def test_vectors_stand_for_one_column(dtype):
    rng = np.random.default_rng(0)
    p = rng.normal(size=(9, 1)).astype(dtype)
    y = rng.random(9).astype(dtype)
    for loss in (minidl.MSELoss(), minidl.BCEWithLogitsLoss()):
        assert loss(p, y) == loss(p, y[:, None])
    labels = rng.integers(0, 3, 9)
    logits = rng.normal(size=(9, 3)).astype(dtype)
    loss = minidl.CrossEntropyLoss()
    assert loss(logits, labels) == loss(logits, labels[:, None])


@dtypes
def test_one_hot_probabilities_are_labels(dtype):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(20, 7)).astype(dtype), rng.integers(0, 7, 20)
    hard, soft = minidl.CrossEntropyLoss(), minidl.CrossEntropyLoss()
    expected = hard(logits, y)
    assert_close(soft(logits, np.eye(7, dtype=dtype)[y]), expected, RTOL[dtype])
    assert_close(soft.backward(), hard.backward(), RTOL[dtype])


def test_function_loss_is_called_with_what_was_given():
    p, y = np.random.default_rng(0).normal(size=(2, 6, 3))
    loss, other = minidl.FunctionLoss(baseline.mse_loss), minidl.MSELoss()
    assert_close(loss(p, y), other(p, y), RTOL["float64"])
    assert_close(loss.backward(), other.backward(), RTOL["float64"])


# --------------------------------------------------------------------------------- metrics


def share(loss, prediction, y, **params):
    """The accuracy that `evaluate` gives for predictions."""
    trainer = minidl.Trainer(minidl.Sequential(minidl.Identity()), loss)
    trainer.model.set_dtype(prediction.dtype)
    return trainer.evaluate(prediction, y, **params)["accuracy"]


@dtypes
@pytest.mark.parametrize("columns", COLUMNS[1:])
@pytest.mark.parametrize("rows", ROWS)
def test_accuracy_with_ties(rows, columns, dtype):
    rng = np.random.default_rng([rows, columns])
    p = rng.integers(-2, 1, (rows, columns)).astype(dtype)  # many equal maxima
    first = p.argmax(axis=1)
    y = np.where(rng.random(rows) < 0.5, first, rng.integers(0, columns, rows))
    soft = rng.integers(1, 4, (rows, columns)).astype(dtype)
    loss = minidl.CrossEntropyLoss()
    for params in ({}, {"batch_size": 7}):
        assert_close(share(loss, p, y, **params), (first == y).mean(), RTOL["float64"], 1)
        assert_close(
            share(loss, p, soft, **params),
            (first == soft.argmax(axis=1)).mean(),
            RTOL["float64"],
            1,
        )


@dtypes
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", ROWS)
def test_binary_accuracy(rows, columns, dtype):
    rng = np.random.default_rng([rows, columns])
    p = rng.integers(-1, 2, (rows, columns)).astype(dtype)  # a logit of 0 says no
    y = rng.integers(0, 2, (rows, columns))
    for params in ({}, {"batch_size": 7}):
        assert_close(
            share(minidl.BCEWithLogitsLoss(), p, y, **params),
            ((p > 0) == (y > 0.5)).mean(),
            RTOL["float64"],
            1,
        )


@pytest.mark.parametrize("label", [0, 1, 2])
def test_first_maximum_wins(label):
    prediction = np.array([[1.0, 1.0, 0.0]], np.float32)
    assert share(minidl.CrossEntropyLoss(), prediction, [label]) == (label == 0)


@losses
@dtypes
def test_evaluate_gives_the_loss(case, dtype):
    prediction, y = example(case, 33, 5, dtype)
    trainer = minidl.Trainer(minidl.Sequential(minidl.Identity(), dtype=dtype), case.make())
    expected = case.make()(prediction, y)
    result = trainer.evaluate(prediction, y)
    assert result["loss"] == expected
    assert set(result) == {"loss"} | ({"accuracy"} if case.targets is not numbers else set())
    assert_close(trainer.evaluate(prediction, y, batch_size=10)["loss"], expected, RTOL["float64"])


def test_all_losses_are_tried():
    classes = {c.__name__ for c in minidl.Loss.__subclasses__() if not c.__name__.startswith("_")}
    assert classes == {case.name for case in LOSSES} | {"FunctionLoss"}
