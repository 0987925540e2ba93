"""Layers against the NumPy baseline in float64 and against PyTorch."""

import numpy as np
import pytest
from helpers import (
    DTYPES,
    FEATURES,
    RTOL,
    RTOL_BATCHNORM,
    RTOL_TORCH,
    SIGMAS,
    THREADS,
    activations,
    again,
    assert_close,
    dtypes,
    for_all_threads,
    in_dtype,
    layers,
    same_bits,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl
from minidl import numpy_baseline as baseline

# ---------------------------------------------------------------------------------- all
# Beside `test_common.py`.


@layers
@dtypes
def test_a_smaller_batch_after_a_larger_one(layer, dtype):
    rng = np.random.default_rng(0)
    used, fresh = in_dtype(layer(), dtype), in_dtype(layer(), dtype)
    used.eval(), fresh.eval()
    x = rng.normal(size=(40, FEATURES)).astype(dtype)
    used.backward(np.ones_like(used(x)))
    assert same_bits(used(x[:7]), fresh(x[:7]))
    dy = np.ones_like(fresh(x[:7]))
    assert same_bits(used.backward(dy), fresh.backward(dy))
    for g, h in zip(used.gradients(), fresh.gradients(), strict=True):
        assert same_bits(g, h)


@layers
@dtypes
def test_returned_arrays_are_the_callers(layer, dtype):
    layer = in_dtype(layer(), dtype)
    layer.eval()
    x = np.random.default_rng(0).normal(size=(4, FEATURES)).astype(dtype)
    y = layer(x)
    kept = y.copy()
    y[...] = np.nan
    assert same_bits(layer(x), kept)
    dx = layer.backward(np.ones_like(kept))
    kept_dx = dx.copy()
    layer(2 * x)
    layer.backward(np.ones_like(kept))
    assert same_bits(dx, kept_dx)


# ------------------------------------------------------------------------------- linear

SMALL = [0, 1, 5, 6, 7, 11, 12, 13]
SIZES = [
    *SMALL, 2, 3, 15, 16, 17, 19, 23, 29, 31, 32, 33, 37, 41, 43, 47, 48, 53, 59, 61, 67, 71, 73,
    79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 300, 1000,
]  # fmt: skip


def sampled_shapes():
    """Shapes (N, D, K) such that every size occurs in every place."""
    rng = np.random.default_rng(0)
    columns = [rng.permutation([s for s in SIZES if s > least]) for least in (-1, -1, 0)]
    shapes = [
        tuple(int(np.resize(c, 4 * len(SIZES))[i]) for c in columns) for i in range(4 * len(SIZES))
    ]
    return [s for s in shapes if np.prod(s) <= 2e7]


def check_linear(shape, dtype, bias):
    """Forward and backward; each sum of products may be off by rtol of the sum of their sizes."""
    n, d, k = shape
    rng = np.random.default_rng(shape)
    layer = minidl.Linear(d, k, bias, dtype=dtype, seed=1)
    x, dy = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(n, k)).astype(dtype)
    weight = layer.weight.astype(np.float64)
    b = layer.bias.astype(np.float64) if bias else np.zeros(k)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    y = layer(x)
    dx = layer.backward(dy)
    assert {y.dtype, dx.dtype} == {np.dtype(dtype)}
    dx64, dweight, dbias = baseline.linear_backward(dy64, x64, weight)
    dx_size, dweight_size, dbias_size = baseline.linear_backward(
        np.abs(dy64), np.abs(x64), np.abs(weight)
    )
    tiny = np.finfo(np.float32).tiny
    assert_close(
        y,
        baseline.linear_forward(x64, weight, b),
        RTOL[dtype],
        baseline.linear_forward(np.abs(x64), np.abs(weight), np.abs(b)) + tiny,
    )
    assert_close(dx, dx64, RTOL[dtype], dx_size + tiny)
    assert_close(layer.gradient("weight"), dweight, RTOL[dtype], dweight_size + tiny)
    if bias:
        assert_close(layer.gradient("bias"), dbias, RTOL[dtype], dbias_size + tiny)


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", SMALL)
def test_linear_small(rows, bias, dtype):
    for d in SMALL:
        for k in SMALL[1:]:
            check_linear((rows, d, k), dtype, bias)


@dtypes
@pytest.mark.parametrize("shape", sampled_shapes(), ids=str)
def test_linear_sampled(shape, dtype):
    with minidl.set_num_threads(THREADS[sum(shape) % len(THREADS)]):
        check_linear(shape, dtype, bias=sum(shape) % 3 > 0)


@dtypes
@pytest.mark.parametrize("shape", [(1, 5, 3), (33, 17, 49), (127, 64, 10), (300, 48, 33)], ids=str)
def test_linear_gives_equal_bits_on_any_threads(shape, dtype):
    n, d, k = shape
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(n, k)).astype(dtype)

    def run():
        layer = minidl.Linear(d, k, dtype=dtype, seed=1)
        return layer(x), layer.backward(dy), *(g.copy() for g in layer.gradients())

    for_all_threads(run)


@st.composite
def matrices(draw, rows, columns, dtype):
    """Matrices with any strides."""
    values = st.floats(-100, 100, width=32, allow_subnormal=False)
    steps = draw(st.tuples(*2 * [st.sampled_from([1, 2, 3, -1, -2])]))
    shape = tuple(n * abs(s) for n, s in zip((rows, columns), steps, strict=True))
    array = draw(hnp.arrays(dtype, shape, elements=values))[:: steps[0], :: steps[1]]
    return array.T.copy().T if draw(st.booleans()) else array


@settings(deadline=None, derandomize=True, database=None)
@given(
    data=st.data(),
    n=st.integers(0, 20),
    d=st.integers(0, 20),
    k=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
)
def test_linear_any_shape_strides_and_values(data, n, d, k, dtype):
    x, dy = data.draw(matrices(n, d, dtype)), data.draw(matrices(n, k, dtype))
    layer = minidl.Linear(d, k, dtype=dtype, seed=1)
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    before = x.copy(), dy.copy()
    y, dx = layer(x), layer.backward(dy)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    largest = 1 + 100 * 100 * max(n, d, k)  # of any sum of products here
    assert_close(y, x64 @ weight.T + bias, RTOL[dtype], largest)
    expected = baseline.linear_backward(dy64, x64, weight)
    for actual, wanted in zip((dx, *layer.gradients()), expected, strict=True):
        assert_close(actual, wanted, RTOL[dtype], largest)
    assert np.array_equal(x, before[0])
    assert np.array_equal(dy, before[1])


# ---------------------------------------------------------------------------- batch norm

ROWS = [2, 3, 15, 16, 17, 31, 32, 33, 127, 128, 129, 1000]


def batchnorm(features, dtype, **params):
    """A layer whose parameters and running averages are not the first ones."""
    rng = np.random.default_rng(3)
    layer = minidl.BatchNorm1d(features, dtype=dtype, **params)
    layer.weight, layer.bias = rng.uniform(0.5, 2, features), rng.normal(size=features)
    layer.running_mean, layer.running_var = rng.normal(size=features), rng.uniform(1, 3, features)
    return layer


def batchnorm_oracle(layer, x, dy):
    """y, dx, dgamma, dbeta and the running averages after it; then the size of a term of dx.

    Relative to the first row, so that a mean far from 0 costs the oracle no digits.
    """
    gamma, beta, mean, var, x, dy = (
        array.astype(np.longdouble)
        for array in (layer.weight, layer.bias, layer.running_mean, layer.running_var, x, dy)
    )
    shift = x[0].copy()
    x, mean = x - shift, mean - shift
    if layer.training:
        y, batch_mean, inv_std = baseline.batchnorm_forward(
            x, gamma, beta, mean, var, layer.eps, layer.momentum
        )
        gradients = baseline.batchnorm_backward(dy, x, batch_mean, inv_std, gamma)
    else:
        inv_std = 1 / np.sqrt(var + layer.eps)
        y = baseline.batchnorm_predict(x, gamma, beta, mean, var, layer.eps)
        gradients = dy * gamma * inv_std, (dy * (x - mean) * inv_std).sum(axis=0), dy.sum(axis=0)
    size = float(np.abs(dy * gamma * inv_std).max())
    return (y, *gradients, mean + shift, var), size


def check_batchnorm(layer, x, dy):
    """All that a pass gives and changes, against the oracle."""
    expected, size = batchnorm_oracle(layer, x, dy)
    y = layer(x)
    actual = (
        y,
        layer.backward(dy),
        layer.gradient("weight"),
        layer.gradient("bias"),
        layer.running_mean,
        layer.running_var,
    )
    sums = 4 * np.sqrt(len(x))  # of random terms, each of size 1 or so
    scales = (None, size, sums, sums, None, None)
    for one, other, scale in zip(actual, expected, scales, strict=True):
        assert_close(one, other, RTOL_BATCHNORM[layer.dtype.name], scale)


@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("features", [1, 5, 16, 33])
def test_batchnorm(rows, features, training, dtype):
    rng = np.random.default_rng(rows)
    x = rng.normal(3, 2, (rows, features)).astype(dtype)
    x[-1] += 1  # two rows are never nearly the same
    layer = batchnorm(features, dtype)
    layer.train(training)
    check_batchnorm(layer, x, rng.normal(size=x.shape).astype(dtype))
    assert layer.num_batches_tracked == training


@dtypes
@pytest.mark.parametrize("mean", [1e4, 1e6, -1e6])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("rows", ROWS)
def test_batchnorm_of_a_mean_far_from_zero(rows, training, mean, dtype):
    """Of numbers as they are, which float32 has rounded to sixteenths at 1e6: nothing is lost."""
    rng = np.random.default_rng(rows)
    x = rng.normal(mean, 1, (rows, 7)).astype(dtype)
    x[0] -= 2
    layer = batchnorm(7, dtype)
    layer.train(training)
    if not training:
        layer.running_mean = rng.normal(mean, 0.1, 7)
    check_batchnorm(layer, x, rng.normal(size=x.shape).astype(dtype))


@dtypes
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_training_on_columns_whose_means_are_far_from_zero(mean, dtype):
    """`fit` with BatchNorm first, as with the same columns about 0; and so do its predictions.

    The numbers are sixteenths, which float32 holds exactly at 1e6.
    """
    rng = np.random.default_rng(0)
    X, y = np.round(16 * rng.normal(size=(96, 5))) / 16, rng.normal(size=(96, 2))
    results = []
    for shift in (0.0, mean):
        model = minidl.Sequential(
            minidl.BatchNorm1d(5, momentum=1.0), minidl.Linear(5, 8), minidl.BatchNorm1d(8),
            minidl.SiLU(), minidl.Linear(8, 2), dtype=dtype, seed=0,
        )  # fmt: skip
        history = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(0.1, 0.9)).fit(
            X + shift, y, epochs=10, batch_size=32, seed=0
        )
        state = model.state_dict()
        state["0.running_mean"] = state["0.running_mean"] - shift
        results.append([history.history["loss"], model.predict(X + shift), *state.values()])
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    rounding = mean * np.finfo(dtype).eps  # of the running mean, which stands at `mean`
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, tolerance, tolerance + rounding)


@dtypes
@pytest.mark.parametrize("params", [{"momentum": 0.0}, {"momentum": 1.0}, {"eps": 0.1}], ids=str)
def test_batchnorm_parameters(params, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 40, 6)).astype(dtype)
    check_batchnorm(batchnorm(6, dtype, **params), x, dy)


@dtypes
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e30])
def test_batchnorm_of_equal_rows(value, rows, dtype):
    rng = np.random.default_rng(0)
    x = np.full((rows, 5), value, dtype)
    x[:, 1] = rng.normal(size=rows)  # the other features are constant
    dy = rng.normal(size=x.shape).astype(dtype)
    constant = [0, 2, 3, 4]
    layer = batchnorm(5, dtype)
    before = layer.running_mean.copy(), layer.running_var.copy()
    y, dx = layer(x), layer.backward(dy)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
    assert np.array_equal(y[:, constant], np.tile(layer.bias[constant], (rows, 1)))
    assert not layer.gradient("weight")[constant].any()
    kept = np.asarray(1 - layer.momentum, dtype)
    assert np.array_equal(layer.running_var[constant], (kept * before[1])[constant])
    mean = layer.momentum * float(np.asarray(value, dtype)) + kept * before[0].astype(float)
    assert_close(layer.running_mean[constant], mean[constant], RTOL[dtype])
    expected = layer.weight / np.sqrt(layer.eps) * (dy - dy.mean(axis=0, dtype=np.float64))
    assert_close(dx[:, constant], expected[:, constant], RTOL[dtype])
    # Equal gradients too, as a loss gives them for equal samples: nothing is left.
    dx = layer.backward(np.ones_like(dy))
    assert_close(dx[:, constant], np.zeros((rows, 4)), RTOL[dtype], 1 / np.sqrt(layer.eps))


@dtypes
def test_training_on_constant_columns(dtype):
    """Gamma stays, beta moves by its gradient; the running variance fades, the mean comes near."""
    rng = np.random.default_rng(0)
    X, y = np.full((60, 3), 0.1), rng.normal(size=(60, 3))
    model = minidl.Sequential(minidl.BatchNorm1d(3), dtype=dtype)
    trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(0.3))
    trainer.fit(X, y, epochs=50, batch_size=60)
    layer = model[0]
    assert np.array_equal(layer.weight, np.ones(3))
    # y = beta: the mean of the targets is its best value, which it nears by 1 - 2 lr / 3 a step.
    rest = (1 - 0.2) ** 50
    assert_close(layer.bias, (1 - rest) * y.mean(axis=0), RTOL[dtype] * 5, 1.0)
    assert_close(layer.running_var, np.full(3, 0.9**50), RTOL[dtype] * 20)
    assert_close(layer.running_mean, np.full(3, 0.1 * (1 - 0.9**50)), RTOL[dtype] * 20)


@dtypes
def test_training_on_two_equal_rows(dtype):
    """As on constant columns, though the targets differ: what is predicted is their mean."""
    X, y = np.tile([[0.5, -3.0]], (2, 1)), np.array([[1.0, 0.0], [2.0, -5.0]])
    model = minidl.Sequential(minidl.BatchNorm1d(2, momentum=1.0), dtype=dtype)
    minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(0.5)).fit(X, y, epochs=200, batch_size=2)
    assert np.array_equal(model[0].weight, np.ones(2))
    assert np.array_equal(model[0].running_mean, np.asarray([0.5, -3.0], dtype))
    assert np.array_equal(model[0].running_var, np.zeros(2))
    assert_close(model.predict(X), np.tile(y.mean(axis=0), (2, 1)), RTOL[dtype] * 5)


@dtypes
def test_batchnorm_of_one_row(dtype):
    layer = batchnorm(3, dtype)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"at least 2 rows.*one row has no spread"):
        layer(np.zeros((1, 3), dtype))
    with pytest.raises(ValueError, match="at least 2 rows"):
        minidl.Sequential(minidl.Linear(3, 3, dtype=dtype), layer)(np.zeros((1, 3), dtype))
    assert all(same_bits(before[name], value) for name, value in layer.state_dict().items())
    layer.eval()
    assert layer(np.zeros((1, 3), dtype)).shape == (1, 3)


@dtypes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("momentum", [0.2, None])
def test_batchnorm_as_torch(momentum, training, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layer = batchnorm(6, dtype, eps=1e-3, momentum=momentum)
    other = torch.nn.BatchNorm1d(6, eps=1e-3, momentum=momentum, dtype=getattr(torch, dtype))
    other.load_state_dict({name: torch.as_tensor(v) for name, v in layer.state_dict().items()})
    layer.train(training)
    other.train(training)
    for _ in range(3):
        x, dy = rng.normal(2, 3, (2, 33, 6)).astype(dtype)
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = other(x_torch)
        other.zero_grad()
        y_torch.backward(torch.as_tensor(dy))
        assert_close(layer(x), y_torch.detach(), RTOL_TORCH[dtype])
        assert_close(layer.backward(dy), x_torch.grad, RTOL_TORCH[dtype])
        for g, p in zip(layer.gradients(), other.parameters(), strict=True):
            assert_close(g, p.grad, RTOL_TORCH[dtype])
    for name, value in other.state_dict().items():
        assert_close(layer.state_dict()[name], value, RTOL_TORCH[dtype])


@dtypes
@pytest.mark.parametrize("rows", ROWS)
def test_batchnorm_gives_equal_bits_on_any_threads(rows, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(5, 1, (2, rows, 19)).astype(dtype)

    def run():
        layer = batchnorm(19, dtype)
        return layer(x), layer.backward(dy), *layer.gradients(), *layer.state_dict().values()

    for_all_threads(run)


# --------------------------------------------------------------------------- activations


def points(dtype):
    """Places where activations bend, and tails, in rows of 13."""
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 25.0, -25.0, 60.0, -60.0, 1e4, -1e4]
    values = np.concatenate([special, np.linspace(-9, 9, 700), rng.normal(0, 3, 705)])
    # Softplus jumps here: see test_softplus_gradient_just_below_the_threshold.
    values = values[(values < 2.99) | (values > 3.001)]
    return values[: len(values) // 13 * 13].reshape(-1, 13).astype(dtype)


@activations
@dtypes
def test_activation(activation, dtype):
    layer = in_dtype(activation.make(), dtype)
    x = points(dtype)
    dy = np.random.default_rng(1).normal(size=x.shape).astype(dtype)
    x64 = x.astype(np.float64)
    y, dx = layer(x), layer.backward(dy)
    assert {y.dtype, dx.dtype} == {np.dtype(dtype)}
    assert_close(y, activation.forward(x64), RTOL[dtype], np.maximum(np.abs(x64), 1))
    assert_close(
        dx, activation.backward(dy.astype(np.float64), x64), RTOL[dtype], np.maximum(np.abs(dy), 1)
    )


@activations
@dtypes
def test_activation_as_torch(activation, dtype):
    torch = pytest.importorskip("torch")
    layer = in_dtype(activation.make(), dtype)
    x = points(dtype)
    dy = np.random.default_rng(1).normal(size=x.shape).astype(dtype)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = activation.torch()(x_torch)
    y_torch.backward(torch.as_tensor(dy))
    assert_close(layer(x), y_torch.detach(), RTOL_TORCH[dtype], np.maximum(np.abs(x), 1))
    assert_close(layer.backward(dy), x_torch.grad, RTOL_TORCH[dtype], np.maximum(np.abs(dy), 1))


@dtypes
def test_softplus_gradient_just_below_the_threshold(dtype):
    layer = in_dtype(minidl.Softplus(beta=2.0, threshold=3.0), dtype)
    x = np.linspace(1.476, 1.499, 16, dtype=dtype)[None]
    layer(x)
    assert_close(layer.backward(np.ones_like(x)), 1 / (1 + np.exp(-2.0 * x)), RTOL[dtype])


@activations
@dtypes
@pytest.mark.parametrize("rows", [1, 17, 129])
def test_activation_gives_equal_bits_on_any_threads(activation, rows, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(0, 2, (2, rows, 19)).astype(dtype)

    def run():
        layer = in_dtype(activation.make(), dtype)
        return layer(x), layer.backward(dy)

    for_all_threads(run)


# -------------------------------------------------------------------------------- dropout


def philox(row, group, key, step):
    """Four random words; the counter and the key as `kernels/random.pyx` has them."""
    c, k, word = [group, row, step % 2**32, step >> 32], [key % 2**32, key >> 32], 2**32
    for _ in range(7):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % word, (a >> 32) ^ c[3] ^ k[1], a % word]
        k = [(k[0] + 0x9E3779B9) % word, (k[1] + 0xBB67AE85) % word]
    return c


@dtypes
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_mask_is_that_of_the_random_words(p, dtype):
    layer = in_dtype(minidl.Dropout(p, seed=5), dtype)
    for step in range(3):
        kept = np.array(
            [
                [philox(row, j // 4, layer.key, step)[j % 4] >= p * 2**32 for j in range(11)]
                for row in range(6)
            ]
        )
        scale = 1 / (1 - p) if p < 1 else 0
        assert_close(layer(np.full((6, 11), 3, dtype)), 3 * kept * scale, RTOL[dtype])


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.8])
def test_dropout_share_and_scale(p):
    x = np.ones((1000, 96), np.float32)
    y = minidl.Dropout(p, seed=1)(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
    for axis in (None, 0, 1):  # the whole, each column, each row
        share = (y == 0).mean(axis=axis)
        sigma = np.sqrt(p * (1 - p) * np.size(share) / y.size)
        assert np.abs(share - p).max() < SIGMAS * sigma
    kept = (y > 0) - (1 - p)
    for one, other in [(kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1])]:  # neighbours
        assert abs((one * other).mean()) < SIGMAS * p * (1 - p) / np.sqrt(one.size)


@dtypes
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_dropout_backward_has_the_mask_of_forward(p, dtype):
    layer = in_dtype(minidl.Dropout(p, seed=1), dtype)
    x = np.ones((33, 20), dtype)
    masks = []
    for _ in range(3):
        masks.append(layer(x))
        assert same_bits(layer.backward(x), masks[-1])
        assert same_bits(layer.backward(2 * x), 2 * masks[-1])
    if p < 1:
        assert not np.array_equal(masks[0], masks[1])
        assert not np.array_equal(masks[1], masks[2])


def test_dropout_same_step_same_mask():
    x = np.ones((50, 30), np.float32)
    one, same, other = (minidl.Dropout(0.5, seed=seed) for seed in (1, 1, 2))
    first = one(x)
    assert same_bits(same(x), first)
    assert not same_bits(other(x), first)
    assert same_bits(one(x), same(x))
    assert same_bits(again(one, x), first)


@dtypes
def test_dropout_mask_does_not_depend_on_threads_or_other_rows(dtype):
    x = np.ones((129, 21), dtype)

    def run():
        layer = in_dtype(minidl.Dropout(0.4, seed=1), dtype)
        return layer(x), layer.backward(x)

    y, _ = for_all_threads(run)
    for rows in (1, 7, 64):
        layer = in_dtype(minidl.Dropout(0.4, seed=1), dtype)
        assert same_bits(layer(x[:rows]), y[:rows])
    narrow = in_dtype(minidl.Dropout(0.4, seed=1), dtype)
    assert same_bits(narrow(x[:, :5]), y[:, :5])


@dtypes
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout_in_evaluation_is_the_identity(p, dtype):
    layer = in_dtype(minidl.Dropout(p, seed=1), dtype)
    x = np.random.default_rng(0).normal(size=(9, 6)).astype(dtype)
    assert same_bits(layer.predict(x), x)
    layer.eval()
    assert same_bits(layer(x), x)
    assert same_bits(layer.backward(x), x)
    layer.train()
    assert same_bits(layer(x), x) == (p == 0)
    assert layer(x).any() == (p < 1)


def test_dropout_with_new_parameters_draws_other_masks():
    """A program that was lowered for the old key must not be used again."""
    model = minidl.Sequential(minidl.Linear(30, 30, seed=0), minidl.Dropout(0.5, seed=1))
    x = np.ones((20, 30))
    before = model(x)
    model[1].reset_parameters(np.random.default_rng(2))
    model._steps = 0  # the same step: the mask differs by its key alone
    assert not np.array_equal(model(x), before)
