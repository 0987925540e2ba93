"""Gradients against finite differences, and the last places of the elementary functions."""

import numpy as np
import pytest
from helpers import (
    ATOL_DIFFERENCES,
    FEATURES,
    RTOL_DIFFERENCES,
    STEP,
    ULP,
    activations,
    again,
    all_layers,
    dtypes,
    in_dtype,
    inputs,
    losses,
    networks,
    positive,
    same_bits,
)

import minidl
from minidl.lowering import LayerProgram


@pytest.fixture(autouse=True)
def one_thread():
    """Small programs run often; that threads change nothing is tried elsewhere."""
    with minidl.set_num_threads(1):
        yield


# ---------------------------------------------------------------------- finite differences


def differences(function, array):
    """Central differences of a scalar function with respect to an array, changed in place."""
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        before = array[index]
        values = []
        for step in (STEP, -STEP):
            array[index] = before + step
            values.append(function())
        array[index] = before
        gradient[index] = (values[0] - values[1]) / (2 * STEP)
    return gradient


def check_gradient(gradient, function, array):
    """The gradient with respect to an array is that of the function."""
    expected = differences(function, array)
    np.testing.assert_allclose(gradient, expected, RTOL_DIFFERENCES, ATOL_DIFFERENCES)


def check_layer(layer, training):
    """All gradients of a layer or network in float64."""
    rng = np.random.default_rng(4)
    layer = in_dtype(layer, "float64")
    taken = {first + i for first, n, _ in layer.categories(0, FEATURES) for i in range(n)}
    measured = [i for i in range(FEATURES) if i not in taken]
    for parameter in layer.parameters():  # BatchNorm's beta 0 and gamma 1 would hide mistakes
        parameter += rng.uniform(0.05, 0.3, parameter.shape)
    layer.train(training)
    x = inputs(layer, rng, 6)
    z = 1.5 * x[:, measured]
    z += np.sign(z) * 0.01  # away from the bend at 0
    dy = rng.normal(size=again(layer, x).shape)

    def function():
        x[:, measured] = z
        return float(np.vdot(again(layer, x), dy))

    function()
    dx = layer.backward(dy)
    gradients = [g.copy() for g in layer.gradients()]
    check_gradient(dx[:, measured], function, z)
    assert not dx[:, sorted(taken)].any()  # categories have none
    for gradient, parameter in zip(gradients, layer.parameters(), strict=True):
        check_gradient(gradient, function, parameter)


@all_layers
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layer_gradients(layer, training):
    check_layer(layer(), training)


@networks
@activations
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_network_gradients(network, activation, training):
    check_layer(network(activation), training)


@losses
@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (5, 2), (3, 9)])
def test_loss_gradients(case, rows, columns):
    rng = np.random.default_rng(0)
    p = case.predictions(2 * rng.normal(size=(rows, columns)))
    y, loss = case.targets(rng, rows, columns), case.make(columns)
    for w in (None, rng.integers(1, 4, rows)):
        loss.forward(p, y, w)
        gradient = loss.backward()
        assert gradient.any()
        check_gradient(gradient, lambda w=w: loss.forward(p, y, w), p)


@losses
def test_gradients_from_loss_to_first_layer(case):
    """What a training step by hand computes: network, loss and back."""
    rng = np.random.default_rng(5)
    model = in_dtype(
        minidl.Sequential(
            minidl.Linear(FEATURES, 6, bias=False), minidl.BatchNorm1d(6), minidl.SiLU(),
            minidl.Dropout(0.3), minidl.Linear(6, 3),
            minidl.Softplus() if case.predictions is positive else minidl.Identity(), seed=1,
        ),
        "float64",
    )  # fmt: skip
    x, y, loss = rng.normal(size=(7, FEATURES)), case.targets(rng, 7, 3), case.make(3)

    def function():
        return loss(again(model, x), y)

    function()
    model.backward(loss.backward())
    for gradient, parameter in zip(model.gradients(), model.parameters(), strict=True):
        check_gradient(gradient.copy(), function, parameter)


# ------------------------------------------------------------------------------------- ULPs

WIDER = {"float32": np.float64, "float64": np.longdouble}
FUNCTIONS = {
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
}


def all_exponents(dtype, mantissas):
    """Finite numbers of every exponent and both signs, subnormals and zeros among them."""
    bits = {"float32": np.uint32, "float64": np.uint64}[dtype]
    info = np.finfo(dtype)
    exponents = np.arange(2**info.nexp - 1, dtype=bits) << bits(info.nmant)
    rng = np.random.default_rng(0)
    fraction = rng.integers(0, 2**info.nmant, (len(exponents), mantissas), dtype=bits)
    fraction[:, 0], fraction[:, 1] = 0, 2**info.nmant - 1
    positive = (exponents[:, None] | fraction).view(dtype).ravel()
    return np.concatenate([positive, -positive])


def in_ulps(actual, exact):
    """Errors in units in the last place of the exact value, rounded to the type of `actual`."""
    with np.errstate(over="ignore", under="ignore"):
        unit = np.spacing(np.abs(exact.astype(actual.dtype)))
    return np.abs(actual - exact) / unit.astype(exact.dtype)


def check_ulps(name, x):
    """The activation is within its ULPs of the wider type's at every x."""
    if name == "SiLU":  # x times a sigmoid that is no subnormal
        x = x[x > np.log(np.finfo(x.dtype).tiny)]
        x = x[: len(x) // 2 * 2]
    layer = in_dtype(getattr(minidl, name)(), x.dtype)
    layer.eval()
    with np.errstate(over="ignore", under="ignore"):
        exact = FUNCTIONS[name](x.astype(WIDER[x.dtype.name]))
    # The documented definition: linear above the threshold of 20.
    exact = np.where(x > 20, x, exact) if name == "Softplus" else exact
    actual = layer(x.reshape(-1, 2))
    errors = in_ulps(actual.ravel(), exact)
    worst = int(errors.argmax())
    assert errors[worst] <= ULP[name], f"{float(errors[worst]):.2f} ULP at {x[worst]!r}"


@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulps_at_all_exponents(name, dtype):
    check_ulps(name, all_exponents(dtype, {"float32": 4096, "float64": 128}[dtype]))


@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulps_where_the_functions_bend(name, dtype):
    check_ulps(name, np.random.default_rng(0).uniform(-20, 20, 200_000).astype(dtype))


@dtypes
def test_tanh_is_odd_and_bounded(dtype):
    layer = in_dtype(minidl.Tanh(), dtype)
    x = all_exponents(dtype, 64)
    y = layer(x[:, None])[:, 0]
    assert same_bits(layer(-x[:, None])[:, 0], -y)
    assert np.abs(y).max() == 1


# ----------------------------------------------------- infinities and NaN, past the checks

INFINITIES = {
    "Identity": (-np.inf, np.inf),
    "ReLU": (0.0, np.inf),
    "LeakyReLU": (-np.inf, np.inf),
    "ELU": (-1.0, np.inf),
    "Tanh": (-1.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Softplus": (0.0, np.inf),
    "SiLU": (np.nan, np.inf),  # as PyTorch: -inf * 0
    "GELU": (np.nan, np.inf),
}


def unchecked(layer, values, dtype):
    """Output for one row, whatever it holds."""
    layer = in_dtype(layer, dtype)
    x = np.array([values], dtype)
    return LayerProgram(layer, x.shape[1], 1).forward(x, 0)[0]


@dtypes
@pytest.mark.parametrize("name", INFINITIES)
def test_infinities(name, dtype):
    y = unchecked(getattr(minidl, name)(), [-np.inf, np.inf], dtype)
    np.testing.assert_array_equal(y, np.array(INFINITIES[name], dtype))


@activations
@dtypes
def test_nan_is_passed_on(activation, dtype):
    y = unchecked(activation.make(), [0.0] * 7 + [np.nan] + [0.0] * 11, dtype)
    assert np.isnan(y).tolist() == [False] * 7 + [True] + [False] * 11


@all_layers
@dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_input_is_refused(layer, value, dtype):
    layer = in_dtype(layer(), dtype)
    x = np.zeros((4, FEATURES), dtype)
    x[2, 3] = value
    with pytest.raises(ValueError, match=r"x: expected finite numbers, got .*row 2, column 3"):
        layer(x)
    dy = np.zeros_like(layer(np.zeros_like(x)))
    dy[1, 0] = value
    with pytest.raises(ValueError, match=r"dy: expected finite numbers, got .*row 1, column 0"):
        layer.backward(dy)


@activations
@dtypes
def test_gradients_are_finite_everywhere(activation, dtype):
    x = all_exponents(dtype, 16)[:, None]
    x = x[np.abs(x[:, 0]) < np.finfo(dtype).max / 4]  # a slope or a beta must not overflow
    layer = in_dtype(activation.make(), dtype)
    y = layer(x)
    assert np.isfinite(y).all()
    assert np.isfinite(layer.backward(np.ones_like(y))).all()
