"""Jacobians against finite differences and PyTorch; their singular values against NumPy's."""

import io

import numpy as np
import pytest
from helpers import (
    ATOL_DIFFERENCES,
    FEATURES,
    LAYERS,
    RTOL_DIFFERENCES,
    RTOL_TORCH,
    STEP,
    assert_close,
    dtypes,
    python,
)

import minidl
from minidl.jacobians import ROWS

ROWS_SEEN = 6


def points(rows=ROWS_SEEN, columns=FEATURES, seed=0):
    """Rows away from the kinks of ReLU."""
    return np.random.default_rng(seed).normal(size=(rows, columns))


def differences(model, x):
    """Central differences, row by row, in evaluation mode."""
    outputs = model.predict(x).shape[1]
    result = np.empty((len(x), outputs, x.shape[1]))
    for k in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[k] = STEP
        result[:, :, k] = (model.predict(x + step) - model.predict(x - step)) / (2 * STEP)
    return result


class Mixed(minidl.Layer):
    """Every output depends on every input, in a way of its own: y = x A^2 sum x, say."""

    def __init__(self, features):
        super().__init__()
        self.add_parameter("a", np.arange(features * 3).reshape(features, 3) / 10)

    def forward(self, x):
        self.x = x
        return np.sin(x) @ self.a * x.sum(axis=1, keepdims=True)

    def backward(self, dy):
        total, sines = self.x.sum(axis=1, keepdims=True), np.sin(self.x)
        self.gradient("a")[...] = (sines * total).T @ dy
        by_sum = (sines @ self.a * dy).sum(axis=1, keepdims=True)
        return np.cos(self.x) * (dy @ self.a.T) * total + by_sum

    def output_features(self, in_features):
        return 3


def deep(activation, layers=6, width=7, outputs=4, dtype="float64", **arguments):
    made = []
    for i in range(layers):
        made += [minidl.Linear(FEATURES if i == 0 else width, width, **arguments), activation()]
    return minidl.Sequential(*made, minidl.Linear(width, outputs), dtype=dtype, seed=0)


MODELS = {
    **LAYERS,
    "Python": lambda: Mixed(FEATURES),
    "network": lambda: minidl.Sequential(
        minidl.Linear(FEATURES, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(),
        minidl.Residual(minidl.Sequential(minidl.Linear(8, 8), minidl.GELU(), minidl.LayerNorm(8))),
        minidl.Linear(8, FEATURES), Mixed(FEATURES), seed=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_against_finite_differences(name):
    """Exact in float64, and to rounding in float32."""
    wide, narrow = MODELS[name](), MODELS[name]()
    wide.set_dtype(np.dtype("float64"))
    narrow.set_dtype(np.dtype("float32"))
    if name == "network":
        wide[1].running_mean, wide[1].running_var = np.linspace(-1, 1, 8), np.linspace(1, 2, 8)
    narrow.load_state_dict(wide.state_dict())
    x = points()
    x[0], x[1] = 0.3, -0.2  # equal elements, but no zeros
    found = minidl.jacobian(wide, x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, differences(wide, x), rtol=20 * RTOL_DIFFERENCES, atol=10 * ATOL_DIFFERENCES
    )
    x = x[2:].astype(np.float32)
    rounded = minidl.jacobian(narrow, x)
    assert rounded.dtype == np.float32
    assert_close(rounded, minidl.jacobian(wide, x), 50 * RTOL_TORCH["float32"])


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    model = minidl.Sequential(
        minidl.Linear(FEATURES, 9), minidl.BatchNorm1d(9), minidl.Tanh(), minidl.Linear(9, 9),
        minidl.ReLU(), minidl.Dropout(), minidl.LayerNorm(9), minidl.Linear(9, 3),
        minidl.Softmax(), dtype="float64", seed=0,
    )  # fmt: skip
    model[1].running_mean, model[1].running_var = np.linspace(-1, 1, 9), np.linspace(1, 2, 9)
    module = minidl.to_torch(model).eval()
    x = points(20)

    def one(row):
        return module(row[None])[0]

    expected = torch.func.vmap(torch.func.jacrev(one))(torch.tensor(x)).detach().numpy()
    found = minidl.jacobian(model, x)
    assert found.shape == (20, 3, FEATURES)
    assert_close(found, expected, RTOL_TORCH["float64"])
    assert_close(minidl.jacobian(model, x[0]), expected[0], RTOL_TORCH["float64"])


@dtypes
def test_layers_and_products(dtype):
    """M(l) is that of the layer at its input; M(L) ... M(1) that of the model."""
    inner = minidl.Sequential(minidl.Linear(FEATURES, 6), minidl.BatchNorm1d(6), minidl.Tanh())
    model = minidl.Sequential(
        inner, minidl.Residual(minidl.Linear(6, 6)), minidl.Linear(6, 2), dtype=dtype, seed=0
    )
    x = points()
    found = minidl.jacobian(model, x, layers=True)
    names = [("0.0", "Linear"), ("0.1", "BatchNorm1d"), ("0.2", "Tanh"), ("1", "Residual")]
    assert [(f.name, f.type) for f in found] == [*names, ("2", "Linear")]
    h, tolerance = x, 20 * RTOL_TORCH[dtype]
    for i, layer in enumerate((*inner, *list(model)[1:])):
        assert found[i].own.dtype == found[i].product.dtype == model.dtype
        assert np.array_equal(found[i].own, minidl.jacobian(layer, h))
        behind = minidl.Sequential(*(*inner, *list(model)[1:])[i:])
        assert_close(found[i].product, minidl.jacobian(behind, h), tolerance)
        h = layer.predict(h)
    assert_close(found[0].product, minidl.jacobian(model, x), tolerance)
    one = minidl.jacobian(model, x[1], layers=True)
    assert one[3].own.shape == (6, 6)
    assert_close(one[0].product, found[0].product[1], tolerance)
    size = (
        len(x)
        * model.dtype.itemsize
        * sum(d * (k + 2) for d, k in ((FEATURES, 6), (6, 6), (6, 6), (6, 6), (6, 2)))
    )
    assert len(minidl.jacobian(model, x, layers=True, memory_limit=size)) == 5
    with pytest.raises(MemoryError, match=f"x: the Jacobians of 6 rows take {size:,} bytes"):
        minidl.jacobian(model, x, layers=True, memory_limit=size - 1)
    with pytest.raises(ValueError, match="layers: expected True or False"):
        minidl.jacobian(model, x, layers=1)


def test_layers_against_pytorch():
    torch = pytest.importorskip("torch")
    model = deep(minidl.Tanh, layers=3)
    module = minidl.to_torch(model)
    h = torch.tensor(points())
    for found, part in zip(minidl.jacobian(model, points(), layers=True), module, strict=True):
        by_torch = torch.func.vmap(torch.func.jacrev(part))(h).detach().numpy()
        assert_close(found.own, by_torch, RTOL_TORCH["float64"])
        h = part(h).detach()


def test_one_row_and_no_row():
    model = minidl.Linear(3, 2, seed=0)
    assert np.array_equal(minidl.jacobian(model, [1.0, 2.0, 3.0]), model.weight)
    assert np.array_equal(minidl.jacobian(model, [[1.0, 2.0, 3.0]])[0], model.weight)
    assert minidl.jacobian(model, np.empty((0, 3))).shape == (0, 2, 3)


def test_several_inputs_and_categories():
    """Side by side; nothing can be differentiated by a category."""
    model = minidl.Sequential(
        minidl.Parallel(minidl.Linear(3, 4), minidl.Embedding(6, 2), columns=[3, 1]),
        minidl.Tanh(), minidl.Linear(6, 2), dtype="float64", seed=0,
    )  # fmt: skip
    X = points(columns=3), np.arange(6)[:, None]
    found = minidl.jacobian(model, X)
    assert found.shape == (6, 2, 4)
    assert not found[:, :, 3].any()
    for k in range(3):
        step = np.eye(3)[k] * STEP
        by_k = (model.predict((X[0] + step, X[1])) - model.predict((X[0] - step, X[1]))) / STEP / 2
        np.testing.assert_allclose(found[:, :, k], by_k, rtol=RTOL_DIFFERENCES, atol=1e-9)
    exact, power = (minidl.jacobian_spectrum(model, X, method=m) for m in ("exact", "power"))
    assert power.growth_rate == pytest.approx(exact.growth_rate, rel=1e-3)


def test_the_modes():
    """Dropout has its masks in training mode; BatchNorm couples the rows, and is refused."""
    model = minidl.Sequential(minidl.Dropout(0.5, seed=3), dtype="float64")
    x = points(columns=40)
    assert np.array_equal(minidl.jacobian(model, x), np.broadcast_to(np.eye(40), (6, 40, 40)))
    found = minidl.jacobian(model, x, training=True)
    model._steps = 0
    np.testing.assert_allclose(np.einsum("nij,nj->ni", found, x), model.train()(x))
    assert 0 < (found.diagonal(axis1=1, axis2=2) == 0).mean() < 1
    model = minidl.Sequential(minidl.Linear(5, 3), minidl.BatchNorm1d(3))
    for function in (minidl.jacobian, minidl.jacobian_spectrum):
        with pytest.raises(ValueError, match=r"training: expected False, since layer 1 \(BatchN"):
            function(model, points(), training=True)


# Singular values.


@dtypes
@pytest.mark.parametrize("activation", [minidl.Tanh, minidl.ReLU, minidl.Sigmoid])
def test_the_spectrum(activation, dtype):
    """Of each layer and of the product of those behind it, for each row."""
    model = deep(activation, dtype=dtype)
    X = points(ROWS + 7)
    spectrum = minidl.jacobian_spectrum(model, X)
    assert len(spectrum.layers) == len(model) == 13
    product = np.eye(4)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    outputs = [X]
    for layer in model:
        outputs.append(layer.predict(outputs[-1]))
    for i in range(12, -1, -1):
        own = minidl.jacobian(model[i], outputs[i]).astype(np.float64)
        product = product @ own
        found = spectrum.layers[i]
        values = np.linalg.svd(own, compute_uv=False)
        assert found.shape == own.shape[1:]
        assert_close(found.singular_values, values, tolerance)
        values = np.linalg.svd(product, compute_uv=False)
        assert_close(found.product, values, tolerance)
        assert found.depth == i // 2 + 1
        behind = max(7 - (i + 1) // 2, 1)
        rate = np.median(values[:, 0] ** (1 / behind))
        assert found.growth_rate == pytest.approx(rate, rel=10 * tolerance)
    assert spectrum.growth_rate == spectrum.layers[0].growth_rate
    whole = np.linalg.svd(minidl.jacobian(model, X), compute_uv=False)
    assert_close(spectrum.layers[0].product, whole, 10 * tolerance)


def test_conditions():
    model = minidl.Sequential(
        minidl.Linear(2, 2, bias=False), minidl.ReLU(), minidl.Linear(2, 2, bias=False),
        dtype="float64",
    )  # fmt: skip
    model[0].weight, model[2].weight = [[4.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 8.0]]
    alive, half = (minidl.jacobian_spectrum(model, [x]) for x in ([1.0, 1.0], [1.0, -1.0]))
    assert [x.condition for x in alive.layers] == [2.0, 1.0, 8.0]
    assert [x.product_condition for x in alive.layers] == pytest.approx([4.0, 8.0, 8.0])
    assert alive.growth_rate == pytest.approx(4.0)
    assert [x.condition for x in half.layers] == [2.0, np.inf, 8.0]
    assert half.layers[0].product_condition == np.inf
    assert half.layers[0].largest == 4.0
    assert half.layers[0].product_largest == pytest.approx(4.0)
    one = minidl.jacobian_spectrum(minidl.Linear(3, 1, seed=0), points(columns=3))
    assert np.isnan(one.layers[0].condition)


def test_layers_are_those_of_nested_sequentials():
    block = minidl.Sequential(minidl.Linear(4, 4), minidl.ReLU(), minidl.Linear(4, 4))
    inner = minidl.Sequential(minidl.Linear(FEATURES, 4), minidl.Tanh())
    model = minidl.Sequential(inner, minidl.Residual(block), minidl.Linear(4, 2), seed=0)
    spectrum = minidl.jacobian_spectrum(model, points())
    assert [(x.title, x.shape, x.depth) for x in spectrum.layers] == [
        ("0.0 (Linear)", (4, FEATURES), 1),
        ("0.1 (Tanh)", (4, 4), 1),
        ("1 (Residual)", (4, 4), 3),
        ("2 (Linear)", (2, 4), 4),
    ]
    whole = np.linalg.svd(minidl.jacobian(model, points()), compute_uv=False)
    assert_close(spectrum.layers[0].product, whole, 1e-5)
    assert spectrum.growth_rate == pytest.approx(np.median(whole[:, 0] ** (1 / 4)), rel=1e-5)
    alone = minidl.jacobian_spectrum(minidl.Residual(minidl.Linear(5, 5, seed=0)), points())
    assert [x.title for x in alone.layers] == ["Residual"]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_products_neither_underflow_nor_overflow(scale):
    """Of orthogonal layers, times a number: it is that number a layer."""
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(60):
        layers.append(minidl.Linear(6, 6, bias=False))
        layers[-1].weight = scale * np.linalg.qr(rng.normal(size=(6, 6)))[0]
    model = minidl.Sequential(*layers, dtype="float64")
    for method in ("exact", "power"):
        spectrum = minidl.jacobian_spectrum(model, np.zeros((2, 6)), method=method)
        assert spectrum.growth_rate == pytest.approx(scale, rel=1e-6)
        assert spectrum.layers[0].log_product[0, 0] == pytest.approx(60 * np.log(scale), rel=1e-6)
    spectrum = minidl.jacobian_spectrum(model, np.zeros((2, 6)))
    assert spectrum.layers[0].product_condition == pytest.approx(1, rel=1e-6)


def test_what_is_dead_gives_nothing():
    model = deep(minidl.ReLU, layers=2)
    model[0].bias = np.full(7, -1e3)
    for method in ("exact", "power"):
        spectrum = minidl.jacobian_spectrum(model, points(), method=method)
        assert spectrum.growth_rate == 0.0
        assert spectrum.layers[0].product_largest == 0.0
        assert spectrum.layers[-1].growth_rate > 0


def test_a_model_of_nothing():
    spectrum = minidl.jacobian_spectrum(minidl.Sequential(), points())
    assert (spectrum.layers, spectrum.growth_rate) == ([], 1.0)


# What is too large.


def test_sizes_that_do_not_fit_are_refused_with_the_bytes():
    model = deep(minidl.Tanh, dtype="float32")
    bytes_needed = 3 * 4 * FEATURES * 4
    assert minidl.jacobian(model, points(3), memory_limit=bytes_needed).shape == (3, 4, FEATURES)
    message = f"x: the Jacobians of 3 rows take {bytes_needed:,} bytes, more than memory_limit=239;"
    with pytest.raises(MemoryError, match=f'^{message} .* or estimate .* method="power"'):
        minidl.jacobian(model, points(3), memory_limit=bytes_needed - 1)
    largest = 8 * (7 * 7 + 4 * (7 + 7))  # of a row: Jacobian, product, and product before
    for limit in (largest, 3 * largest, 2**30):  # so many rows at a time
        spectrum = minidl.jacobian_spectrum(model, points(), memory_limit=limit)
        assert spectrum.growth_rate == minidl.jacobian_spectrum(model, points()).growth_rate
    with pytest.raises(MemoryError, match=f"^X: the Jacobians of 1 row take {largest:,} bytes"):
        minidl.jacobian_spectrum(model, points(), memory_limit=largest - 1)


def test_large_layers_are_estimated_in_little_memory():
    """A Jacobian of 20000 x 20000 would take 3.2 GB."""
    layer = minidl.LeakyReLU(0.25)
    model = minidl.Sequential(layer, minidl.Linear(20_000, 2, seed=0), dtype="float64")
    x = np.random.default_rng(0).normal(size=(2, 20_000))
    with pytest.raises(MemoryError, match=r"X: the Jacobians of 1 row take 3,200,640,000 bytes"):
        minidl.jacobian_spectrum(model, x)
    spectrum = minidl.jacobian_spectrum(model, x, method="power")
    assert spectrum.layers[0].largest == pytest.approx(1, rel=1e-2)
    derivative = np.where(x > 0, 1, 0.25)
    for row, slope in enumerate(derivative):
        exact = np.linalg.svd(model[1].weight * slope, compute_uv=False)[0]
        assert spectrum.layers[0].product[row, 0] == pytest.approx(exact, rel=1e-3)


@dtypes
@pytest.mark.parametrize("name", MODELS)
def test_power_iteration_agrees(name, dtype):
    model = MODELS[name]()
    model.set_dtype(np.dtype(dtype))
    x = points(4)
    exact = minidl.jacobian_spectrum(model, x)
    power = minidl.jacobian_spectrum(model, x, method="power", tol=1e-7, iterations=2000)
    assert len(exact.layers) == len(power.layers)
    for a, b in zip(exact.layers, power.layers, strict=True):
        assert b.singular_values.shape == b.product.shape == (4, 1)
        np.testing.assert_allclose(b.singular_values[:, 0], a.singular_values[:, 0], rtol=1e-3)
        np.testing.assert_allclose(b.product[:, 0], a.product[:, 0], rtol=1e-3)


def test_the_estimate_is_the_same_for_the_same_seed():
    model = deep(minidl.Tanh)
    one, same, other = (
        minidl.jacobian_spectrum(model, points(), method="power", iterations=2, seed=seed)
        for seed in (0, 0, 1)
    )
    values, again, others = (x.layers[0].singular_values.tolist() for x in (one, same, other))
    assert values == again != others
    exact = minidl.jacobian_spectrum(model, points())
    assert (one.layers[3].product[:, 0] <= exact.layers[3].product[:, 0] * (1 + 1e-6)).all()


# How it is shown.


def shown():
    model = minidl.Sequential(
        minidl.Linear(2, 2, bias=False), minidl.Identity(), minidl.Linear(2, 2, bias=False),
        dtype="float64",
    )  # fmt: skip
    model[0].weight = model[2].weight = [[0.5, 0.0], [0.0, 0.25]]
    return minidl.jacobian_spectrum(model, np.ones((1437, 2)))


def test_as_text():
    header, _, *lines = str(shown()).split("\n")
    assert header == (
        "layer         Jacobian  largest  condition  largest to the output  condition to the output"
        "  growth a layer"
    )
    assert lines == [
        "0 (Linear)    2 x 2         0.5          2                   0.25                        4"
        "             0.5",
        "1 (Identity)  2 x 2           1          1                    0.5                        2"
        "             0.5",
        "2 (Linear)    2 x 2         0.5          2                    0.5                        2"
        "             0.5",
        "-" * len(header),
        "1,437 rows, exact; the largest singular value grows 0.5x per layer",
    ]


def test_in_a_notebook_and_on_a_terminal():
    assert shown()._repr_html_().count("<tr>") == 5
    console = pytest.importorskip("rich.console")
    file = io.StringIO()
    console.Console(file=file, width=200).print(shown())
    assert "grows 0.5x per layer" in file.getvalue()


def test_to_pandas():
    pytest.importorskip("pandas")
    table = shown().to_pandas()
    assert list(table.index) == ["0", "1", "2"]
    assert table.loc["0", "product_condition"] == 4
    assert table.loc["1", "type"] == "Identity"


def test_plot():
    pytest.importorskip("matplotlib")
    own, product = shown().plot().axes
    assert own.get_title() == "Jacobian of the layer"
    drawn = {line.get_label(): list(line.get_ydata()) for line in product.lines}
    assert drawn["largest"] == [0.25, 0.5, 0.5]
    assert drawn["smallest"] == [0.0625, 0.25, 0.25]
    assert own.get_yscale() == product.get_yscale() == "log"
    power = minidl.jacobian_spectrum(deep(minidl.Tanh), points(), method="power").plot((4, 2))
    assert [line.get_label() for line in power.axes[0].lines] == ["largest"]
    with pytest.raises(ValueError, match="plot: expected at least one layer"):
        minidl.jacobian_spectrum(minidl.Sequential(), points()).plot()


def test_without_the_library():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import minidl, numpy as np\n"
        "minidl.jacobian_spectrum(minidl.Linear(2, 2), np.ones((4, 2))).plot()"
    )
    message = "ImportError: JacobianSpectrum.plot needs matplotlib: pip install 'minidl[plot]'"
    assert message in python("-c", code, check=False).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model: expected a Layer"),
        ({"X": [["a"]]}, "X: expected real numbers"),
        ({"X": [[1.0], [1.0, 2.0]]}, "X: expected an array, got rows of different lengths"),
        ({"X": [[1.0]]}, "X: expected 5 features"),
        ({"X": np.empty((0, FEATURES))}, "X: expected at least one row"),
        ({"X": [[np.nan] * FEATURES]}, "X: expected finite numbers"),
        ({"method": "fast"}, "method: expected 'exact' or 'power'"),
        ({"training": "no"}, "training: expected True or False"),
        ({"memory_limit": 0}, "memory_limit: expected"),
        ({"iterations": 0}, "iterations: expected"),
        ({"tol": 0}, "tol: expected"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_bad_input(arguments, message):
    given = {"model": deep(minidl.Tanh), "X": points(), **arguments}
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        minidl.jacobian_spectrum(given.pop("model"), given.pop("X"), **given)
    if arguments.keys() & {"model", "training", "memory_limit"}:
        given = {"model": deep(minidl.Tanh), **arguments}
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            minidl.jacobian(given.pop("model"), points(), **given)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([["a"]], "expected real numbers"),
        ([[1.0], [1.0, 2.0]], "expected an array, got rows of different lengths"),
        ([1.0], "expected 5 features"),
        (1.0, "expected 2 dimensions"),
        ([np.nan] * FEATURES, "expected finite numbers"),
    ],
)
def test_bad_points(x, message):
    with pytest.raises((TypeError, ValueError), match=f"^x: {message}"):
        minidl.jacobian(deep(minidl.Tanh), x)
