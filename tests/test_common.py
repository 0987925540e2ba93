"""What every layer, loss, optimizer, schedule and metric has to do, from the lists in `helpers.py`.

Something new in minidl that is in no list fails here. Beside these tests, `test_numerics.py` holds
the gradients of all layers and losses to finite differences; `test_losses.py` and
`test_optimizers.py` hold all losses and optimizers to the baseline and to PyTorch,
`test_schedulers.py` all schedules to PyTorch, `test_metrics.py` all metrics to scikit-learn.
"""

import numpy as np
import pytest
from helpers import (
    ALL_LAYERS,
    DTYPES,
    LAYOUTS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    RTOL_TORCH,
    SCHEDULES,
    all_layers,
    assert_close,
    dtypes,
    in_dtype,
    inputs,
    layouts,
    losses,
    losses_of,
    make_schedule,
    optimizers,
    read_only,
    same_bits,
)
from twins import Twin, assert_as, roundings, torch_twin, unit_of

import minidl
from minidl import numpy_baseline as baseline
from minidl.metrics import as_metrics
from minidl.metrics.named import NAMES

# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

# -------------------------------------------------------------------------- all is in a list


def below(kind):
    """A class and all that are derived from it."""
    return {kind}.union(*map(below, kind.__subclasses__()))


BASES = {"Activation", "Container", "Layer", "Loss", "Optimizer", "RowNorm", "Scheduler"}


def shipped(kind, package):
    """Names of the classes of a kind that the package has, but for their bases."""
    return {
        c.__name__
        for c in below(kind)
        if c.__module__.startswith(f"minidl.{package}.") and not c.__name__.startswith("_")
    } - BASES


def test_every_layer_is_in_the_list():
    names = {type(make()).__name__ for make in ALL_LAYERS.values()}
    assert shipped(minidl.Layer, "layers") == names
    assert set(minidl.layers.__all__) - {"Layer"} == names


def test_every_loss_is_in_the_list():
    """FunctionLoss is what its function is."""
    names = {case.name for case in LOSSES}
    assert shipped(minidl.Loss, "losses") - {"FunctionLoss"} == names
    assert set(minidl.losses.ALL) == names


def test_every_optimizer_is_in_the_list():
    names = {optimizer.name for optimizer in OPTIMIZERS}
    assert shipped(minidl.Optimizer, "optimizers") == names
    assert set(minidl.optimizers.ALL) == names


def test_every_schedule_is_in_the_list():
    """ReduceLROnPlateau is no function of time; `test_schedulers.py` has a list of its own."""
    names = {name for name, _ in SCHEDULES} | {"ReduceLROnPlateau"}
    assert shipped(minidl.Scheduler, "schedulers") == names
    assert set(minidl.schedulers.NAMES) == names


def test_every_metric_is_in_the_list():
    assert {name for name in METRICS if name not in ("top_1", "top_2")} == set(NAMES)
    assert all(tasks == NAMES.get(name, NAMES["top_k"])[2] for name, tasks in METRICS.items())


def test_everything_public_is_of_a_kind_that_has_a_list():
    """A new kind of thing needs a list, and common tests."""
    kinds = (minidl.Layer, minidl.Loss, minidl.Optimizer, minidl.Scheduler, minidl.Callback)
    others = {
        name
        for name in minidl.__all__
        if isinstance(getattr(minidl, name), type) and not issubclass(getattr(minidl, name), kinds)
    }
    assert others == {
        "Ensemble", "FormatError", "History", "Metric", "NonFiniteError", "NpyFile", "ProgressBar",
        "Trainer", "set_num_threads",
    }  # fmt: skip


# ---------------------------------------------------------------------------------- layers

ROWS, COLUMNS = [1, 2, 13, 37], [1, 2, 13, 37]
# Relative to the largest element; norms of two columns divide by a spread that may be small.
RTOL = {"float32": 2e-5, "float64": 1e-12}


def varied(layer, dtype):
    """In a dtype, with values that are not the first ones; PReLU's are negative too."""
    layer = in_dtype(layer, dtype)
    rng = np.random.default_rng(3)
    for parameter in layer.parameters():
        parameter += rng.uniform(-0.4, 0.6, parameter.shape)
    for _, found in layer.tree():
        if isinstance(found, minidl.BatchNorm1d):
            found.running_mean = rng.normal(size=found.num_features)
            found.running_var = rng.uniform(0.5, 2, found.num_features)
    return layer


def trains_on(layer, rows):
    """False for BatchNorm in training, which needs two rows."""
    norms = [one for _, one in layer.tree() if isinstance(one, minidl.BatchNorm1d)]
    return rows > 1 or not any(one.training for one in norms)


def passes(layer, x, dy):
    """y, dx and copies of the gradients."""
    return layer(x), layer.backward(dy), *(g.copy() for g in layer.gradients())


def data(layer, rows, columns, dtype):
    """Rows and gradients; BatchNorm's rows are apart from each other."""
    rng = np.random.default_rng([rows, columns])
    x = inputs(layer, rng, rows, columns, dtype)
    x[: rows // 2] += 3 * (x[: rows // 2] != np.round(x[: rows // 2]))  # not to categories
    return x, rng.normal(size=(rows, layer.output_features(columns))).astype(dtype)


@all_layers
@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layers_as_in_numpy(layer, training, dtype):
    """One row, one column, prime numbers of both."""
    for columns in COLUMNS:
        for rows in ROWS:
            one = varied(layer(columns), dtype).train(training)
            if not trains_on(one, rows):
                continue
            x, dy = data(one, rows, columns, dtype)
            twin = Twin(one)
            y = twin.forward(x.astype(float), training)
            dx = twin.backward(dy.astype(float))
            expected = [y, np.zeros_like(x) if dx is None else dx, *twin.gradients()]
            for got, wanted in zip(passes(one, x, dy), expected, strict=True):
                assert got.dtype == np.dtype(dtype)
                assert_close(got, wanted, RTOL[dtype], max(1.0, float(np.abs(wanted).max())))


@all_layers
@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layers_as_in_torch(layer, training, dtype):
    torch = pytest.importorskip("torch")
    for rows, columns in ((1, 13), (2, 13), (37, 13), (13, 1)):
        one = varied(layer(columns), dtype).train(training)
        if not trains_on(one, rows):
            continue
        # LayerNorm of one column: what rounding leaves, over the root of eps.
        alone = 400.0 if columns == 1 and isinstance(one, minidl.LayerNorm) else 1.0
        x, dy = data(one, rows, columns, dtype)
        other = torch_twin(torch, one)
        given = torch.tensor(x, requires_grad=True)
        y = other(given)
        y.backward(torch.tensor(dy))
        dx = torch.zeros_like(given) if given.grad is None else given.grad
        expected = [y.detach(), dx, *(p.grad for p in other.parameters())]
        for got, wanted in zip(passes(one, x, dy), expected, strict=True):
            assert_close(got, wanted, RTOL_TORCH[dtype], max(alone, float(wanted.abs().max())))


@all_layers
@dtypes
def test_layers_without_rows(layer, dtype):
    for columns in COLUMNS:
        one = in_dtype(layer(columns), dtype).eval()
        y = one(np.zeros((0, columns), dtype))
        assert y.shape == (0, one.output_features(columns))
        assert one.backward(y).shape == (0, columns)
        assert all(not g.any() for g in one.gradients())
        assert one.predict(np.zeros((0, columns), dtype)).shape == y.shape


@all_layers
def test_layers_of_one_row(layer):
    """BatchNorm says that it can not be trained on one; all others can."""
    one = layer()
    x, dy = data(one, 1, 5, "float32")
    if trains_on(one, 1):
        assert all(np.isfinite(got).all() for got in passes(one, x, dy))
    else:
        with pytest.raises(ValueError, match=r"at least 2 rows.*one row has no spread"):
            one(x)


@all_layers
@layouts
@dtypes
def test_any_layout_of_the_input_gives_the_same_and_stays_unchanged(layer, layout, dtype):
    one, other = in_dtype(layer(), dtype), in_dtype(layer(), dtype)
    x, dy = data(one, 9, 5, dtype)
    x_there, dy_there = layout(x), layout(dy)
    for got, there in zip(passes(one, x, dy), passes(other, x_there, dy_there), strict=True):
        assert same_bits(got, there)
    assert same_bits(one.predict(x), other.predict(x_there))
    assert np.array_equal(x_there, x)
    assert np.array_equal(dy_there, dy)


# The magnitudes of a row; the last is of subnormal numbers.
MAGNITUDES = {
    "float32": [1e-30, 1e-20, 1.0, 1e20, 1e30, 1e-41],
    "float64": [1e-30, 1e-20, 1.0, 1e20, 1e30, 1e-311],
}


def overflows(layer, magnitude, dtype):
    """True where squares are beyond the type: then, as in PyTorch, norms take xhat for 0."""
    norms = (minidl.LayerNorm, minidl.RMSNorm)
    if layer.training:
        norms += (minidl.BatchNorm1d,)
    return isinstance(layer, norms) and magnitude > 1e19 and dtype == "float32"


@all_layers
@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layers_at_all_magnitudes(layer, training, dtype):
    """Values from 1e-30 to 1e30, and subnormal ones: to rounding what NumPy has in float64."""
    floor = 1000 * float(np.finfo(dtype).smallest_subnormal)  # a rounding over the root of eps
    for magnitude in MAGNITUDES[dtype]:
        one = varied(layer(), dtype).train(training)
        x, dy = data(one, 13, 5, dtype)
        if not any(one.categories(0, 5)):
            x *= np.asarray(magnitude, dtype)
        got = passes(one, x, dy)
        assert all(np.isfinite(g).all() for g in got)
        if overflows(one, magnitude, dtype):
            bias = one.state_dict().get("bias", np.zeros(5, dtype))
            assert np.array_equal(got[0], np.tile(bias, (13, 1)))
            assert not got[1].any()
            continue
        found = []
        for rounded in roundings(dtype):
            twin = Twin(one, rounded)
            y, dx = twin.forward(x.astype(float), training), twin.backward(dy.astype(float))
            found.append([y, np.zeros(x.shape) if dx is None else dx, *twin.gradients()])
        for i, array in enumerate(got):
            assert_as(f"array {i}", array, [f[i] for f in found], unit_of(dtype), 0.0, floor)


# ---------------------------------------------------------------------------------- losses


def loss_data(case, rows, columns, dtype, magnitude=1.0):
    """Predictions and targets; those of a regression are of the same magnitude."""
    rng = np.random.default_rng([rows, columns])
    prediction = case.predictions(rng.normal(size=(rows, columns)))
    y = case.targets(rng, rows, columns)
    if case.targets.__name__ == "numbers":
        y = y * magnitude
    prediction = (prediction * magnitude).astype(dtype)
    return prediction, y if y.dtype.kind == "i" else y.astype(dtype)


@losses
@dtypes
def test_losses_without_rows_are_refused(case, dtype):
    loss = case.make(3)
    prediction, y = loss_data(case, 4, 3, dtype)
    with pytest.raises(ValueError, match=r"^prediction: expected at least one row, got shape"):
        loss(prediction[:0], y[:0])


@losses_of(1, 5)
@dtypes
def test_losses_at_all_magnitudes(case, columns, dtype):
    """As in PyTorch, in the same type; what overflows there does so here."""
    smallest = float(np.finfo(dtype).smallest_subnormal)
    for magnitude in MAGNITUDES[dtype]:
        prediction, y = loss_data(case, 13, columns, dtype, magnitude)
        loss = case.make(columns)
        value, gradient = loss(prediction, y), loss.backward()
        with np.errstate(over="ignore"):
            wanted, wanted_gradient = case.in_torch(prediction, y)
        if not np.isfinite(wanted):
            assert value == wanted
            continue
        least = 100 * smallest / RTOL_TORCH[dtype]
        if case.targets.__name__ != "numbers":  # targets and margins are not small
            least = 1 / 13
        assert_close(value, wanted, RTOL_TORCH[dtype], max(abs(wanted), least))
        scale = max(float(np.abs(wanted_gradient).max()), least)
        assert_close(gradient, wanted_gradient, RTOL_TORCH[dtype], scale)


@losses
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_losses_refuse_what_is_not_finite(case, value):
    """Predictions, targets and weights; the message says where. Labels are whole numbers."""
    prediction, y = loss_data(case, 4, 3, "float64")
    w, loss = np.ones(4), case.make(3)
    for name, array in (("prediction", prediction), ("y", y), ("sample_weight", w)):
        if array.dtype.kind == "i":
            continue
        broken = array.copy()
        broken[2, ...] = value
        given = {"prediction": prediction, "y": y, "sample_weight": w} | {name: broken}
        with pytest.raises(ValueError, match=rf"^{name}: expected finite numbers, got .*row 2"):
            loss(**given)


# ------------------------------------------------------------------------------ optimizers


@optimizers
@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (13, 1), (37, 13)], ids=str)
def test_optimizers_as_in_numpy(optimizer, shape, dtype):
    """One weight, one feature, prime numbers; the gradients stay as they are."""
    rng = np.random.default_rng(shape)
    layer = minidl.Linear(*shape, dtype=dtype, seed=0)
    values = [p.astype(float) for p in layer.parameters()]
    expected = getattr(baseline, optimizer.name)(values, **optimizer.params)
    own = optimizer.make()
    for _ in range(7):
        gradients = [rng.normal(size=p.shape).astype(dtype) for p in layer.parameters()]
        for there, gradient in zip(layer.gradients(), gradients, strict=True):
            there[...] = gradient
        own.step(layer)
        expected.step([g.astype(float) for g in gradients])
        for there, gradient in zip(layer.gradients(), gradients, strict=True):
            assert np.array_equal(there, gradient)
    for value, wanted in zip(layer.parameters(), values, strict=True):
        assert_close(value, wanted, {"float32": 2e-6, "float64": 1e-14}[dtype], 1.0)


@optimizers
@dtypes
def test_optimizers_of_extreme_gradients_in_a_vector(optimizer, dtype):
    """From subnormal to large in one vector, so that no element has another's result."""
    small = {"float32": 1e-41, "float64": 1e-311}[dtype]
    gradients = np.array([[small, 1e-30, 1e-15, 0.0, 1.0, 1e15, -1e-30, -small, -1.0]], dtype)
    layer = minidl.Linear(9, 1, bias=False, dtype=dtype, seed=0)
    values = [layer.weight.astype(float)]
    expected = getattr(baseline, optimizer.name)(values, **optimizer.params)
    own = optimizer.make()
    for factor in (1.0, 0.5, -1.0):
        layer.gradients()[0][...] = gradients * np.asarray(factor, dtype)
        own.step(layer)
        with np.errstate(under="ignore"):
            expected.step([layer.gradients()[0].astype(float)])
    error = np.abs(layer.weight - values[0]) / np.maximum(1.0, np.abs(values[0]))
    assert error.max() <= {"float32": 2e-6, "float64": 1e-12}[dtype]
    assert np.isfinite(own.state_for(layer).moments).all()


@optimizers
def test_optimizers_of_layers_without_parameters(optimizer):
    layer = minidl.Sequential(minidl.ReLU())
    own = optimizer.make()
    layer.backward(layer([[1.0, -1.0]]))
    own.step(layer)
    assert own.state_for(layer).step == 1


# ------------------------------------------------------------------------------- schedules

schedules = pytest.mark.parametrize(
    "case", SCHEDULES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(SCHEDULES)]
)


@schedules
@pytest.mark.parametrize("base", [0.0, 5e-324, 1e-310, 1e-30, 1e30])
def test_schedules_of_extreme_rates(case, base):
    """Finite, at least 0, and of no time at all; where they multiply, the base's own multiple."""
    schedule = make_schedule(case)
    rates = schedule.rates(base, 0, 250)
    assert rates.shape == (250,)
    assert rates.dtype == np.float64
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert schedule.rates(base, 7, 0).shape == (0,)
    assert same_bits(schedule.rates(base, 7, 1), rates[7:8])
    if schedule.multiplies:
        factors = schedule.rates(1.0, 0, 250)
        np.testing.assert_allclose(rates, base * factors, rtol=1e-13, atol=1e-322)


def test_schedules_leave_their_arguments_alone():
    """Given read-only and strided, too."""
    milestones = read_only(np.repeat([3, 5, 9], 2)[::2])
    schedule = minidl.MultiStepLR(milestones, 0.5)
    assert schedule.rates(1.0, 0, 10).tolist() == [1.0] * 3 + [0.5] * 2 + [0.25] * 4 + [0.125]
    assert milestones.tolist() == [3, 5, 9]
    inner = [minidl.ConstantLR(0.5, 2), minidl.StepLR(1)]
    for make in (
        lambda: minidl.SequentialLR(inner, [2]), lambda: minidl.ChainedScheduler(inner)
    ):  # fmt: skip
        make().rates(1.0, 0, 9)
        assert list(map(repr, inner)) == ["ConstantLR(factor=0.5, total_iters=2)",
                                          "StepLR(step_size=1)"]  # fmt: skip


# --------------------------------------------------------------------------------- metrics

metrics = pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name, tasks in METRICS.items() for task in tasks]
)


def metric(name):
    return as_metrics([name])[0]


def metric_data(task, rows, columns, dtype="float64"):
    """Targets and outputs."""
    rng = np.random.default_rng([rows, columns])
    z = rng.normal(size=(rows, columns)).astype(dtype)
    if task == "multiclass":
        return np.arange(rows) % columns, z
    y = z + rng.normal(size=z.shape)
    return ((y > 0) if task == "binary" else y).astype(dtype), z


def columns_for(name, task):
    """Numbers of columns; a single class has no AUC."""
    return [2, 3, 13] if task == "multiclass" else [1, 2, 13]


@metrics
@pytest.mark.parametrize("dtype", DTYPES)
def test_metrics_of_any_layout(name, task, dtype):
    """The value is the same, and nothing is written to; of prime numbers of rows."""
    pytest.importorskip("sklearn")
    for columns in columns_for(name, task):
        y, z = metric_data(task, 37, columns, dtype)
        w = np.random.default_rng(1).integers(1, 4, 37).astype(float)
        value = metric(name)(y, z, task, w)
        assert np.isfinite(value)
        for layout in LAYOUTS.values():
            z_there = layout(z)
            y_there = layout(y) if y.ndim == 2 else read_only(np.repeat(y, 2)[::2])
            w_there = read_only(np.repeat(w, 3)[::3])
            assert metric(name)(y_there, z_there, task, w_there) == value
            assert np.array_equal(z_there, z)
            assert np.array_equal(y_there, y)
            assert np.array_equal(w_there, w)


@metrics
def test_metrics_of_no_rows_are_nan(name, task):
    pytest.importorskip("sklearn")
    y, z = metric_data(task, 7, 3)
    assert np.isnan(metric(name)(y[:0], z[:0], task))
    assert np.isnan(metric(name)(y, z, task, np.zeros(7)))


@metrics
def test_metrics_of_one_row(name, task):
    """Right, or NaN where one row says nothing."""
    pytest.importorskip("sklearn")
    y = np.array([1]) if task == "multiclass" else np.ones((1, 1))
    z = np.array([[-1.0, 2.0, 0.0]]) if task == "multiclass" else np.ones((1, 1))
    value = metric(name)(y, z, task)
    if name in ("auc", "r2"):
        assert np.isnan(value)
    elif name in ("mae", "rmse"):
        assert value == 0
    else:
        assert value == 1


@metrics
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_metrics_of_outputs_that_are_not_finite_are_nan(name, task, value):
    pytest.importorskip("sklearn")
    y, z = metric_data(task, 7, 3)
    z[4, 1] = value
    assert np.isnan(metric(name)(y, z, task))


@metrics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-140, -100, 100])
def test_metrics_at_all_magnitudes(name, task, exponent, dtype):
    """Of whole numbers times 2^100, some 1e30, or 2^-140, which is subnormal in float32."""
    pytest.importorskip("sklearn")
    factor = 2.0**exponent
    for columns in columns_for(name, task):
        y, z = metric_data(task, 37, columns, dtype)
        z = np.round(4 * z)
        y = np.round(4 * y) if task in ("regression", None) else y
        large = (z * factor).astype(dtype)
        if task in ("multiclass", "binary"):
            if name == "auc" and task == "multiclass" and columns > 2:
                continue  # of probabilities, which do depend on the magnitude
            assert metric(name)(y, large, task) == metric(name)(y, z, task)
        else:
            value = metric(name)(y, z, task)
            found = metric(name)((y * factor).astype(dtype), large, task)
            assert found == (value if name == "r2" else value * factor)
