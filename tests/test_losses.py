"""Losses against the NumPy baseline in float64 and against PyTorch."""

import copy
import json
import pickle

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
    same_bits,
)

import minidl
from minidl import checks
from minidl import numpy_baseline as baseline
from minidl.lowering import BatchProgram, feed

COLUMNS = [1, 2, 3, 10, 16, 17, 33, 100]
ROWS = [1, 2, 7, 16, 33, 200]
# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")


def example(case, rows, columns, dtype, spread=1.0):
    """Predictions and targets."""
    rng = np.random.default_rng([rows, columns])
    prediction = case.predictions(spread * rng.normal(size=(rows, columns))).astype(dtype)
    targets = case.targets(rng, rows, columns)
    return prediction, targets if targets.dtype.kind == "i" else targets.astype(dtype)


def row_weights(rows):
    """Sample weights, some of them 0, the first not."""
    w = np.random.default_rng(rows).integers(0, 4, rows) / 2
    w[0] = 1.5
    return w


def assert_is(loss, expected, rows, rtol):
    """Value and gradient are the expected ones."""
    value, gradient = expected
    assert_close(loss[0], value, rtol, max(abs(value), 1.0))
    assert_close(loss[1], gradient, rtol, max(np.abs(gradient).max(), 1 / rows))


def run(case, prediction, y, sample_weight=None):
    """Value and gradient."""
    loss = case.make(prediction.shape[1])
    return loss.forward(prediction, y, sample_weight), loss.backward()


@pytest.fixture
def anything_goes(monkeypatch):
    """No prediction is refused for being infinite or NaN."""
    monkeypatch.setattr(checks, "finite", lambda array, name: None)


# ------------------------------------------------------------------------ value and gradient


@losses_of(*COLUMNS)
@dtypes
def test_loss_and_gradient(case, columns, dtype):
    for rows in ROWS:
        prediction, y = example(case, rows, columns, dtype, spread=3)
        value, gradient = run(case, prediction, y)
        assert gradient.dtype == np.dtype(dtype)
        assert_is((value, gradient), case.oracle(prediction, y), rows, RTOL[dtype])


@losses_of(*COLUMNS)
@dtypes
def test_sample_weights(case, columns, dtype):
    for rows in ROWS:
        prediction, y = example(case, rows, columns, dtype, spread=3)
        w = row_weights(rows)
        expected = case.oracle(prediction, y, w)
        assert_is(run(case, prediction, y, w), expected, rows, 2 * RTOL[dtype])


@losses_of(1, 10, 17)
@dtypes
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_as_torch(case, rows, columns, dtype):
    prediction, y = example(case, rows, columns, dtype)
    for w in (None, row_weights(rows)):
        expected = case.in_torch(prediction, y, w)
        assert_is(run(case, prediction, y, w), expected, rows, RTOL_TORCH[dtype])


@losses_of(1, 3, 17)
@dtypes
def test_large_logits(case, columns, dtype):
    prediction, y = example(case, 16, columns, dtype)
    largest = 80 if case.name == "PoissonNLLLoss" else 1e4
    prediction = np.where(prediction > 0, largest, -largest).astype(dtype)
    prediction[0], prediction[1] = largest, -largest
    prediction = case.predictions(prediction)
    value, gradient = case.oracle(prediction, y)
    ours = run(case, prediction, y)
    assert_close(ours[0], value, RTOL[dtype], max(abs(value), 1.0))
    assert_close(ours[1], gradient, RTOL[dtype], max(np.abs(gradient).max(), 1.0))


@dtypes
def test_gradient_of_large_logits(dtype):
    loss = minidl.CrossEntropyLoss()
    assert loss(np.array([[1e4, -1e4]], dtype), [1]) == 2e4
    assert loss.backward().tolist() == [[1, -1]]
    loss = minidl.BCEWithLogitsLoss()
    assert loss(np.array([[1e4], [-1e4]], dtype), [0, 1]) == 1e4
    assert loss.backward().tolist() == [[0.5], [-0.5]]
    assert loss(np.array([[1e4], [-1e4]], dtype), [1, 0]) == 0
    assert not loss.backward().any()


@dtypes
def test_an_exponential_that_overflows_is_infinite(dtype):
    loss = minidl.PoissonNLLLoss()
    assert loss(np.array([[1e4]], dtype), [3.0]) == np.inf
    assert loss.backward() == np.inf
    assert loss(np.array([[-1e4]], dtype), [3.0]) == 3e4


@dtypes
def test_a_rate_below_0_is_none(dtype):
    loss = minidl.PoissonNLLLoss(log_input=False)
    assert np.isnan(loss(np.array([[-1.0]], dtype), [0.0]))
    assert np.isnan(loss(np.array([[-1.0]], dtype), [2.0]))
    assert loss(np.zeros((1, 1), dtype), [0.0]) == 0
    assert_close(loss(np.zeros((1, 1), dtype), [2.0]), -2 * np.log(1e-8), RTOL[dtype])
    loss = minidl.PoissonNLLLoss(log_input=False, eps=1e-300)  # 0 in float32
    assert loss(np.zeros((1, 1), dtype), [0.0]) == 0
    assert loss.backward() == 1


INF = np.inf


@dtypes
@pytest.mark.parametrize(
    ("loss", "prediction", "y", "expected"),
    [
        (minidl.CrossEntropyLoss(), [[0, -INF, 0]], [0], np.log(2)),
        (minidl.CrossEntropyLoss(), [[0, -INF, 0]], [1], INF),
        (minidl.CrossEntropyLoss(label_smoothing=0.5), [[0, -INF, 0]], [0], INF),
        (minidl.CrossEntropyLoss(), [[0, -INF, 0]], [[0.5, 0, 0.5]], np.log(2)),
        (minidl.CrossEntropyLoss(), [[0, -INF, 0]], [[0.5, 0.5, 0]], INF),
        (minidl.MultiMarginLoss(), [[0, -INF, -2]], [0], 0),
        (minidl.MultiMarginLoss(p=2), [[INF, 3, -2]], [0], 0),
        (minidl.MultiMarginLoss(), [[INF, 3, -2]], [1], INF),
        (minidl.BCEWithLogitsLoss(), [[INF, -INF]], [[1, 0]], 0),
        (minidl.BCEWithLogitsLoss(pos_weight=3), [[INF, -INF]], [[1, 0]], 0),
        (minidl.BCEWithLogitsLoss(pos_weight=0), [[INF, -INF]], [[1, 1]], 0),
        (minidl.BCEWithLogitsLoss(), [[INF]], [[0.5]], INF),
        (minidl.BCEWithLogitsLoss(), [[-INF]], [[1]], INF),
        (minidl.HingeLoss(), [[INF, -INF]], [[1, 0]], 0),
        (minidl.HingeLoss(squared=True), [[-INF]], [[1]], INF),
        (minidl.KLDivLoss("batchmean"), [[0, -INF]], [[1, 0]], 0),
        (minidl.KLDivLoss(), [[0, -INF]], [[0.5, 0.5]], INF),
        (minidl.MSELoss(), [[INF]], [[1]], INF),
        (minidl.L1Loss(), [[-INF]], [[1]], INF),
        (minidl.HuberLoss(), [[-INF]], [[1]], INF),
        (minidl.SmoothL1Loss(), [[INF]], [[1]], INF),
        (minidl.QuantileLoss(0.1), [[INF]], [[1]], INF),
        (minidl.PoissonNLLLoss(), [[-INF]], [[0]], 0),
        (minidl.PoissonNLLLoss(), [[-INF]], [[1]], INF),
    ],
    ids=repr,
)  # fmt: skip
def test_infinities(loss, prediction, y, expected, dtype, anything_goes):
    y = np.array(y) if np.ndim(y) == 1 else np.array(y, dtype)
    value = loss(np.array(prediction, dtype), y)
    if expected == INF:
        assert value == INF
    else:
        assert_close(value, expected, RTOL[dtype], 1)
        assert np.isfinite(loss.backward()).all()


@losses_of(2, 17)
@dtypes
def test_nan_in_any_logit_makes_the_loss_nan(case, columns, dtype, anything_goes):
    prediction, y = example(case, 18, columns, dtype)
    for row in (0, 16):
        for column in range(columns):
            broken = prediction.copy()
            broken[row, column] = np.nan
            assert np.isnan(run(case, broken, y)[0])


@losses
@dtypes
def test_any_layout_gives_the_same_and_stays_unchanged(case, dtype):
    prediction, y = example(case, 33, 5, dtype)
    w = row_weights(33)
    value, gradient = run(case, prediction, y, w)
    for layout in LAYOUTS.values():
        p_there = layout(prediction)
        y_there = layout(y) if y.ndim == 2 else np.repeat(y, 2)[::2].astype(np.uint8)
        w_there = np.repeat(w.astype(np.float32), 3)[::3]
        other, there = run(case, p_there, y_there, w_there)
        assert other == value
        assert same_bits(there, gradient)
        assert np.array_equal(p_there, prediction)
        assert np.array_equal(y_there, y)
        assert np.array_equal(w_there, w)


@losses
@dtypes
@pytest.mark.parametrize("rows", [1, 15, 33, 200])
def test_equal_bits_on_any_threads(case, rows, dtype):
    prediction, y = example(case, rows, 10, dtype)
    for w in (None, row_weights(rows)):

        def both(w=w):
            value, gradient = run(case, prediction, y, w)
            return np.float64(value), gradient

        for_all_threads(both)


# ------------------------------------------------------------------------------- sample weights


@losses
@dtypes
def test_whole_weights_are_repeated_rows(case, dtype):
    prediction, y = example(case, 40, 5, dtype)
    w = np.random.default_rng(1).integers(0, 4, 40)
    value, gradient = run(case, prediction, y, w)
    again, other = run(case, np.repeat(prediction, w, axis=0), np.repeat(y, w, axis=0))
    assert_close(value, again, 2 * RTOL[dtype], max(abs(again), 1))
    starts = (np.cumsum(w) - w)[w > 0]
    assert_close(gradient[w > 0], np.add.reduceat(other, starts), 2 * RTOL[dtype])
    assert not gradient[w == 0].any()


@losses
@dtypes
def test_a_row_of_weight_0_is_not_there(case, dtype, anything_goes):
    prediction, y = example(case, 20, 5, dtype)
    value, gradient = run(case, prediction[:19], y[:19], np.ones(19))
    prediction[19] = np.nan
    other, there = run(case, prediction, y, np.arange(20) < 19)
    assert_close(other, value, RTOL["float64"])
    assert_close(there[:19], gradient, RTOL[dtype])
    assert not there[19].any()


@losses
@dtypes
def test_no_weight_at_all_is_a_loss_of_0(case, dtype):
    prediction, y = example(case, 20, 5, dtype)
    value, gradient = run(case, prediction, y, np.zeros(20))
    assert value == 0
    assert same_bits(gradient, np.zeros_like(gradient))


@losses
@dtypes
def test_equal_weights_are_none(case, dtype):
    prediction, y = example(case, 20, 5, dtype)
    value, gradient = run(case, prediction, y)
    for w in (1e-30, 1, 1e30):
        other, there = run(case, prediction, y, np.full(20, w))
        assert_close(other, value, RTOL[dtype])
        assert_close(there, gradient, RTOL[dtype])


@losses
@dtypes
@pytest.mark.parametrize("batch_size", [7, 16, 33])
def test_weighted_batches_make_the_weighted_mean(case, batch_size, dtype):
    """The compiled loop over batches in any order, without the trainer."""
    prediction, y = example(case, 33, 5, dtype)
    w = row_weights(33)
    model = minidl.Sequential(minidl.Identity(), dtype=dtype)
    loss = case.make(5).bound(y)
    target = loss.check(y, 33, 5, np.dtype(dtype))
    batch = BatchProgram(model, 5, batch_size, loss=loss)
    for wanted, order in ((w, None), (None, None), (w, np.empty(33, np.intp))):
        feed(batch.program, loss, [prediction], target, batch_size, weight=wanted, order=order)
        batch.program.seek(0, 0, 0, 0)
        status, means, _ = batch.program.run(1, 60.0)
        assert status == "done"
        expected, _ = run(case, prediction, y, wanted)
        assert_close(means[0], expected, RTOL[dtype], max(abs(expected), 1))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1, -2, 3], ValueError, "^sample_weight: .* weights of at least 0, got -2.0 in row 1"),
        ([1, 2], ValueError, r"^sample_weight: expected 3 rows, .* got shape \(2,\)"),
        ([[1], [2], [3]], ValueError, r"^sample_weight: expected shape \(rows,\), got shape"),
        (1.0, ValueError, r"^sample_weight: expected shape \(rows,\), got shape \(\)"),
        ([1, np.nan, 3], ValueError, "^sample_weight: expected finite numbers, got nan in row 1"),
        ([1, np.inf, 3], ValueError, "^sample_weight: expected finite numbers, got inf in row 1"),
        ([1e308, 1e308, 0], ValueError, "^sample_weight: expected weights of a finite sum"),
        ([1, "2", 3], TypeError, "^sample_weight: expected real numbers, got dtype"),
        ([1, [2], 3], ValueError, "^sample_weight: expected an array, got rows of different"),
    ],
)
def test_wrong_sample_weights(weights, error, message):
    loss = minidl.MSELoss()
    with pytest.raises(error, match=message):
        loss(np.zeros((3, 1)), np.zeros(3), weights)


def test_weights_of_other_dtypes():
    loss = minidl.MSELoss()
    prediction, y = np.array([[1.0], [2.0], [4.0]]), np.zeros(3)
    for w in ([True, False, True], (2, 0, 2), np.array([3, 0, 3], np.uint8)):
        assert loss(prediction, y, w) == 8.5
        assert loss(prediction, y, sample_weight=w) == 8.5


# ----------------------------------------------------------------------------- the single losses


@dtypes
def test_vectors_stand_for_one_column(dtype):
    for case in LOSSES:
        if case.targets.__name__ != "labels" and case.name != "CrossEntropyLoss":
            p, y = example(case, 9, 1, dtype)
            assert_is(run(case, p, y[:, 0]), run(case, p, y), 9, 0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 9)
    logits = rng.normal(size=(9, 3)).astype(dtype)
    for loss in (minidl.CrossEntropyLoss(), minidl.MultiMarginLoss()):
        assert loss(logits, labels) == loss(logits, labels[:, None])


@dtypes
@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.1}, {"weight": [1.0] * 7}])
def test_one_hot_probabilities_are_labels(params, dtype):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(20, 7)).astype(dtype), rng.integers(0, 7, 20)
    hard, soft = minidl.CrossEntropyLoss(**params), minidl.CrossEntropyLoss(**params)
    expected = hard(logits, y)
    assert_close(soft(logits, np.eye(7, dtype=dtype)[y]), expected, RTOL[dtype])
    assert_close(soft.backward(), hard.backward(), RTOL[dtype])


@dtypes
def test_classes_of_weight_0_are_left_out(dtype):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(20, 3)).astype(dtype), rng.integers(0, 3, 20)
    loss, plain = minidl.CrossEntropyLoss([0, 1, 1]), minidl.CrossEntropyLoss()
    assert_close(loss(logits, y), plain(logits[y > 0], y[y > 0]), RTOL[dtype])
    assert_close(loss.backward()[y > 0], plain.backward(), RTOL[dtype])
    assert not loss.backward()[y == 0].any()
    for smoothing in (0.0, 0.1):
        loss = minidl.CrossEntropyLoss([0, 1, 1], label_smoothing=smoothing)
        assert loss(logits, np.zeros(20, int)) == 0
        assert not loss.backward().any()


@dtypes
def test_one_target_serves_all_quantiles(dtype):
    rng = np.random.default_rng(0)
    p, y = rng.normal(size=(50, 3)).astype(dtype), rng.normal(size=50).astype(dtype)
    loss = minidl.QuantileLoss([0.1, 0.5, 0.9])
    expected = loss(p, np.column_stack([y, y, y]))
    gradient = loss.backward()
    for targets in (y, y[:, None]):
        assert loss(p, targets) == expected
        assert same_bits(loss.backward(), gradient)
    model = minidl.Sequential(minidl.Identity(), dtype=dtype)
    assert minidl.Trainer(model, loss).evaluate(p, y)["loss"] == expected
    with pytest.raises(ValueError, match=r"^y: expected shape \(rows, 3\), got shape \(50, 2\)"):
        loss(p, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"^y: expected shape \(rows, 3\), got shape \(50,\)"):
        minidl.QuantileLoss(0.1)(p, y)


def test_the_best_constants_are_quantiles():
    y = np.random.default_rng(0).normal(size=(2000, 1))
    wanted = [0.1, 0.5, 0.8]
    loss = minidl.QuantileLoss(wanted)
    best = np.quantile(y, wanted)
    least = loss(np.tile(best, (2000, 1)), y)
    for column in range(3):
        for away in (-0.1, 0.1):
            other = best.copy()
            other[column] += away
            assert loss(np.tile(other, (2000, 1)), y) > least


@dtypes
def test_losses_that_are_others(dtype):
    rng = np.random.default_rng(0)
    p, y = rng.normal(size=(2, 50, 3)).astype(dtype)
    y[:5] = p[:5]

    def both(loss, y=y):
        return loss(p, y), loss.backward().tolist()

    absolute = both(minidl.L1Loss())
    assert absolute[1][0] == [0, 0, 0]
    assert both(minidl.SmoothL1Loss(beta=0.0)) == absolute
    assert both(minidl.SmoothL1Loss(beta=1e-300)) == absolute
    assert both(minidl.SmoothL1Loss()) == both(minidl.HuberLoss())
    assert_close(both(minidl.HuberLoss(delta=1e30))[0], both(minidl.MSELoss())[0] / 2, RTOL[dtype])
    assert_close(2 * both(minidl.QuantileLoss())[0], absolute[0], RTOL[dtype])
    some = (y > 0).astype(dtype)
    assert both(minidl.BCEWithLogitsLoss(), some) == both(
        minidl.BCEWithLogitsLoss(pos_weight=[1, 1, 1]), some
    )
    assert both(minidl.BCEWithLogitsLoss(pos_weight=3), some) == both(
        minidl.BCEWithLogitsLoss(pos_weight=[3.0] * 3), some
    )
    for squared in (False, True):
        loss = minidl.HingeLoss(squared=squared)
        assert both(loss, some) == both(loss, 2 * some - 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: minidl.HuberLoss(0), ValueError, r"^delta: expected a number in \(0, inf\), got"),
        (lambda: minidl.HuberLoss("sum"), ValueError, "^delta: expected a number .* got 'sum'"),
        (lambda: minidl.SmoothL1Loss(-1), ValueError, r"^beta: expected a number in \[0, inf\)"),
        *((lambda q=q: minidl.QuantileLoss(q), ValueError, r"^quantile: .* in \(0, 1\), got")
          for q in (0, 1, -0.5, 1.5, np.nan, None, "0.5", True)),
        (lambda: minidl.QuantileLoss([0.5, 1]), ValueError, r"^quantile\[1\]: .* \(0, 1\), got 1"),
        (lambda: minidl.QuantileLoss([]), ValueError, r"^quantile: .* sequence of numbers, got sh"),
        (lambda: minidl.QuantileLoss([[0.5]]), ValueError, r"^quantile: .* got shape \(1, 1\)"),
        (lambda: minidl.QuantileLoss([0.5, [1]]), ValueError, "^quantile: expected a number in"),
        (lambda: minidl.QuantileLoss([0.1, 0.9])(np.zeros((2, 3)), [0, 0]), ValueError,
         "^quantile: expected 3 numbers, one for each output, got 2"),
        (lambda: minidl.PoissonNLLLoss(eps=0), ValueError, r"^eps: expected a number in \(0, inf"),
        (lambda: minidl.PoissonNLLLoss()([[0], [0]], [1, -2]), ValueError,
         "^y: expected counts of at least 0, got -2.0 in row 1"),
        *((lambda loss=loss, name=name: loss(**{name: "mean"}), ValueError,
           f"^{name}: expected True or False, got 'mean'")
          for loss, name in [(minidl.PoissonNLLLoss, "log_input"), (minidl.PoissonNLLLoss, "full"),
                             (minidl.KLDivLoss, "log_target"), (minidl.HingeLoss, "squared")]),
        (lambda: minidl.KLDivLoss("sum"), ValueError, "^reduction: .* 'mean' or 'batchmean', got"),
        (lambda: minidl.KLDivLoss()([[0], [0]], [1, -2]), ValueError,
         "^y: expected probabilities, got -2.0 in row 1"),
        *((lambda y=y: minidl.HingeLoss()([[0], [0]], y), ValueError,
           f"^y: expected targets {low} and 1, got {wrong}")
          for y, low, wrong in [([1, 2], 0, 2.0), ([0, 0.5], 0, 0.5), ([0, -1], -1, 0.0),
                                ([1, -2], -1, -2.0)]),
        (lambda: minidl.MultiMarginLoss(p=3), ValueError, "^p: expected 1 or 2, got 3"),
        (lambda: minidl.MultiMarginLoss(margin=np.nan), ValueError, "^margin: expected a number"),
        (lambda: minidl.MultiMarginLoss()(np.zeros((1, 2)), [2]), ValueError, "^y: expected la"),
        (lambda: minidl.MultiMarginLoss()(np.zeros((1, 2)), [[0.5, 0.5]]), ValueError,
         r"^y: expected labels of shape \(rows,\), got shape \(1, 2\)"),
        (lambda: minidl.CrossEntropyLoss(label_smoothing=1.1), ValueError,
         r"^label_smoothing: expected a number in \[0, 1\], got 1.1"),
        *((lambda loss=loss: loss(weight=[1, -1]), ValueError,
           r"^weight\[1\]: expected a number in \[0, inf\), got -1")
          for loss in (minidl.CrossEntropyLoss, minidl.MultiMarginLoss)),
        *((lambda loss=loss: loss(weight=2.0), ValueError, "^weight: expected a sequence of numb")
          for loss in (minidl.CrossEntropyLoss, minidl.MultiMarginLoss)),
        *((lambda loss=loss: loss(weight=[1, 2])(np.zeros((1, 3)), [0]), ValueError,
           "^weight: expected 3 numbers, one for each class, got 2")
          for loss in (minidl.CrossEntropyLoss, minidl.MultiMarginLoss)),
        (lambda: minidl.CrossEntropyLoss([1, 2])(np.zeros((1, 3)), np.ones((1, 3))), ValueError,
         "^weight: expected 3 numbers, one for each class, got 2"),
        (lambda: minidl.CrossEntropyLoss([1, "2"]), TypeError, "^weight: expected real numbers"),
        (lambda: minidl.BCEWithLogitsLoss(pos_weight=-1), ValueError, "^pos_weight: expected a nu"),
        (lambda: minidl.BCEWithLogitsLoss(pos_weight=[1, np.inf]), ValueError, r"^pos_weight\[1\]"),
        (lambda: minidl.BCEWithLogitsLoss(pos_weight=[1, 2])([[0]], [0]), ValueError,
         "^pos_weight: expected 1 numbers, one for each output, got 2"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --------------------------------------------------------------------------------- as an object


@losses
def test_a_loss_is_made_again_from_its_config(case):
    prediction, y = example(case, 9, 5, "float64")
    loss = case.make(5)
    expected = loss(prediction, y)
    config = json.loads(json.dumps(loss.config()))
    assert set(config) >= set(case.params)
    for twin in (type(loss)(**config), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(prediction, y) == expected
        assert repr(twin) == repr(loss)
        assert twin.config() == config


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (minidl.MSELoss(), "MSELoss()"),
        (minidl.CrossEntropyLoss(), "CrossEntropyLoss()"),
        (minidl.CrossEntropyLoss(np.array([1, 2]), label_smoothing=0.1),
         "CrossEntropyLoss(weight=[1.0, 2.0], label_smoothing=0.1)"),
        (minidl.HuberLoss(1), "HuberLoss()"),
        (minidl.HuberLoss(2), "HuberLoss(delta=2.0)"),
        (minidl.QuantileLoss((0.1, 0.9)), "QuantileLoss(quantile=[0.1, 0.9])"),
        (minidl.PoissonNLLLoss(False), "PoissonNLLLoss(log_input=False)"),
        (minidl.KLDivLoss("batchmean"), "KLDivLoss(reduction='batchmean')"),
    ],
)  # fmt: skip
def test_repr(loss, shown):
    assert repr(loss) == shown
    assert eval(shown, vars(minidl)).config() == loss.config()


def test_arguments_stay_as_they_are():
    weight = np.array([1.0, 2.0])
    loss = minidl.CrossEntropyLoss(weight)
    weight[0] = 5
    assert loss.weight == (1, 2)
    with pytest.raises(AttributeError, match=r"^weight: cannot be changed; make a new CrossEnt"):
        loss.weight = weight
    with pytest.raises(AttributeError, match=r"^delta: cannot be changed"):
        minidl.HuberLoss().delta = 2.0
    with pytest.raises(AttributeError, match=r"^function: cannot be changed"):
        minidl.FunctionLoss(len).function = max


# --------------------------------------------------------------------------------- functions


def squares(prediction, y, sample_weight=None):
    """MSELoss, with weights."""
    loss = minidl.MSELoss()
    return loss(prediction, y, sample_weight), loss.backward()


class Squares:
    """An object that is called."""

    def __call__(self, prediction, y, *, sample_weight=None):
        return squares(prediction, y, sample_weight)


def any_arguments(prediction, y, **others):
    """Takes whatever comes."""
    return squares(prediction, y, **others)


def test_function_loss_is_called_with_what_was_given():
    p, y = np.random.default_rng(0).normal(size=(2, 6, 3))
    loss, other = minidl.FunctionLoss(baseline.mse_loss), minidl.MSELoss()
    assert_close(loss(p, y), other(p, y), RTOL["float64"])
    assert_close(loss.backward(), other.backward(), RTOL["float64"])


@dtypes
@pytest.mark.parametrize("function", [squares, Squares(), Squares().__call__, any_arguments])
def test_a_function_with_weights(function, dtype):
    p, y = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(dtype)
    w = row_weights(6)
    loss, other = minidl.FunctionLoss(function), minidl.MSELoss()
    for weights in (w, None, w.astype(np.float32)):
        assert loss(p, y, weights) == pytest.approx(other(p, y, weights), rel=1e-15)
        assert same_bits(loss.backward(), other.backward())


def test_a_function_sees_the_weights_as_float64():
    seen = []

    def watched(prediction, y, sample_weight=None):
        seen.append(sample_weight.copy())
        return squares(prediction, y, sample_weight)

    minidl.FunctionLoss(watched)(np.zeros((3, 1)), np.zeros(3), [1, 0, 3])
    assert same_bits(seen[0], np.array([1.0, 0.0, 3.0]))


def test_a_function_is_not_asked_for_a_batch_without_weight():
    def refuse(prediction, y, sample_weight=None):
        raise AssertionError

    loss = minidl.FunctionLoss(refuse)
    assert loss(np.ones((3, 1)), np.zeros(3), np.zeros(3)) == 0
    assert loss.backward().tolist() == [[0], [0], [0]]


def test_a_function_without_weights_is_refused_with_them():
    calls = []
    for function in (lambda p, y: calls.append(p), lambda p, y, w=None: calls.append(p)):
        loss = minidl.FunctionLoss(function)
        with pytest.raises(
            TypeError, match=r"^loss: with sample_weight, expected a function \(pre"
        ):
            loss(np.zeros((3, 1)), np.zeros(3), np.ones(3))
    assert calls == []


def test_a_function_is_no_part_of_a_file():
    with pytest.raises(TypeError, match=r"^FunctionLoss\(squares\): .* cannot be written to a"):
        minidl.FunctionLoss(squares).config()
    with pytest.raises(TypeError, match=r"^function: expected a function, got str"):
        minidl.FunctionLoss("mse")


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
    uneven = np.arange(1, columns + 1)
    hits, soft_hits = first == y, first == soft.argmax(axis=1)
    for params in ({}, {"batch_size": 7}, {"sample_weight": row_weights(rows)}):
        w = params.get("sample_weight")
        right, soft_right = np.average(hits, weights=w), np.average(soft_hits, weights=w)
        for loss in (
            minidl.CrossEntropyLoss(),
            minidl.CrossEntropyLoss(uneven, label_smoothing=1.0),
        ):
            assert_close(share(loss, p, y, **params), right, RTOL["float64"], 1)
            assert_close(share(loss, p, soft, **params), soft_right, RTOL["float64"], 1)
        loss = minidl.MultiMarginLoss(weight=uneven)
        assert_close(share(loss, p, y, **params), right, RTOL["float64"], 1)


@dtypes
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", ROWS)
def test_binary_accuracy(rows, columns, dtype):
    rng = np.random.default_rng([rows, columns])
    p = rng.integers(-1, 2, (rows, columns)).astype(dtype)  # a logit of 0 says no
    y = rng.integers(0, 2, (rows, columns))
    hits = ((p > 0) == (y > 0.5)).mean(axis=1)
    for params in ({}, {"batch_size": 7}, {"sample_weight": row_weights(rows)}):
        right = np.average(hits, weights=params.get("sample_weight"))
        for loss, targets in (
            (minidl.BCEWithLogitsLoss(), y),
            (minidl.BCEWithLogitsLoss(pos_weight=np.full(columns, 9.0)), y),
            (minidl.HingeLoss(), y),
            (minidl.HingeLoss(squared=True), 2 * y - 1),
        ):
            assert_close(share(loss, p, targets, **params), right, RTOL["float64"], 1)


@dtypes
@pytest.mark.parametrize(
    "loss",
    [
        minidl.CrossEntropyLoss(),
        minidl.CrossEntropyLoss(weight=[1.0, 9.0, 0.0]),  # of classes: no matter of the accuracy
        minidl.MultiMarginLoss(weight=[1.0, 9.0, 0.5]),
        minidl.BCEWithLogitsLoss(),
    ],
    ids=repr,
)
def test_weighted_accuracy_is_that_of_repeated_rows(loss, dtype):
    rng = np.random.default_rng(8)
    X, w = rng.normal(size=(65, 3)).astype(dtype), rng.integers(0, 4, 65)
    y = rng.integers(0, 2, (65, 3)) if loss.task == "binary" else rng.integers(0, 3, 65)
    again = np.repeat(X, w, axis=0), np.repeat(y, w, axis=0)
    for batch_size in (7, 100):
        got = share(loss, X, y, sample_weight=w, batch_size=batch_size)
        assert got == pytest.approx(share(loss, *again), rel=1e-14)
    named = minidl.metrics.as_metrics(["accuracy"])[0]
    assert got == pytest.approx(named(y, X, loss.task, w), rel=1e-14)
    assert share(loss, X, y, sample_weight=np.full(65, 1e-3)) == pytest.approx(share(loss, X, y))
    history = minidl.Trainer(minidl.Sequential(minidl.Identity(), dtype=dtype), loss).fit(
        X, y, sample_weight=w, batch_size=10, validation_data=(X, y, w)
    )
    assert history.history["accuracy"][0] == pytest.approx(got, rel=1e-14)
    assert history.history["val_accuracy"][0] == pytest.approx(got, rel=1e-14)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_first_maximum_wins(label):
    prediction = np.array([[1.0, 1.0, 0.0]], np.float32)
    assert share(minidl.CrossEntropyLoss(), prediction, [label]) == (label == 0)


TASKS = {
    "CrossEntropyLoss": "multiclass",
    "MultiMarginLoss": "multiclass",
    "BCEWithLogitsLoss": "binary",
    "HingeLoss": "binary",
    "KLDivLoss": None,
    "FunctionLoss": None,
}


@losses
@dtypes
def test_evaluate_gives_the_loss(case, dtype):
    prediction, y = example(case, 33, 5, dtype)
    trainer = minidl.Trainer(minidl.Sequential(minidl.Identity(), dtype=dtype), case.make(5))
    expected, _ = run(case, prediction, y)
    result = trainer.evaluate(prediction, y)
    assert result["loss"] == expected
    task = TASKS.get(case.name, "regression")
    assert trainer.loss.task == trainer.loss.bound(y).task == task
    assert set(result) == {"loss"} | ({"accuracy"} if task in ("multiclass", "binary") else set())
    by_batches = trainer.evaluate(prediction, y, batch_size=10)["loss"]
    assert_close(by_batches, expected, RTOL["float64"], max(abs(expected), 1))


@losses
@dtypes
def test_training_uses_value_and_gradient(case, dtype):
    """A step of `fit` is one by hand, to the bit."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(33, 4)).astype(dtype), case.targets(rng, 33, 5)
    fitted, walked = (
        minidl.Sequential(minidl.Linear(4, 5), minidl.Softplus(), dtype=dtype, seed=1)
        for _ in range(2)
    )
    trainer = minidl.Trainer(fitted, case.make(5), minidl.SGD(lr=0.1))
    history = trainer.fit(X, y, batch_size=33, shuffle=False)
    loss, prediction = case.make(5), walked.forward(X)
    assert history.history["loss"] == [loss(prediction, y)]
    walked.backward(loss.backward())
    minidl.SGD(lr=0.1).step(walked)
    for one, other in zip(fitted.parameters(), walked.parameters(), strict=True):
        assert same_bits(one, other)
