"""LayerNorm, RMSNorm, Softmax, PReLU and Embedding: formulas, precision, threads, training."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    ATOL_TRAINED,
    DTYPES,
    RTOL_TORCH,
    assert_close,
    dtypes,
    for_all_threads,
    in_dtype,
    same_bits,
)

import minidl
from minidl import numpy_baseline as baseline

ROWS = [0, 1, 2, 15, 17, 31, 32, 33, 129, 1009]
COLUMNS = [1, 2, 7, 13, 16, 17, 37, 64, 1000]
RTOL = {"float32": 4e-6, "float64": 2e-14}


class Case(NamedTuple):
    """A layer for some columns: minidl's, PyTorch's, and the baseline's output and gradients."""

    name: str
    params: dict[str, Any]
    sized: bool  # the first argument is the number of columns
    oracle: Callable[..., tuple[np.ndarray, ...]]

    def __str__(self):
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params.items())})"

    def make(self, columns, dtype, module=minidl):
        """The layer, its parameters not the first ones."""
        layer = getattr(module, self.name)(*[columns] * self.sized, **self.params)
        if module is not minidl:
            return layer
        layer = in_dtype(layer, dtype)
        rng = np.random.default_rng(3)
        for parameter in layer.parameters():
            parameter[...] = rng.uniform(-0.5, 2, parameter.shape)
        return layer


def norm_oracle(layer, x, dy):
    """y, dx and the gradients of the parameters there are."""
    gamma, beta = (wide(layer, name) for name in ("weight", "bias"))
    if layer.centered:
        x = x - x[:, :1]  # which changes nothing but the rounding of the oracle's mean
    eps = layer.epsilon(layer.dtype)
    y, xhat, inverse = baseline.layernorm_forward(x, gamma, beta, eps, layer.centered)
    dx, *rest = baseline.layernorm_backward(dy, xhat, inverse, gamma, layer.centered)
    names = [name for name in ("weight", "bias") if name in layer._parameters]
    return y, dx, *rest[: len(names)]


def softmax_oracle(layer, x, dy):
    """Y and dx."""
    y = baseline.softmax_forward(x)
    return y, baseline.softmax_backward(dy, y)


def prelu_oracle(layer, x, dy):
    """y, dx and dweight."""
    weight = wide(layer, "weight")
    return baseline.prelu_forward(x, weight), *baseline.prelu_backward(dy, x, weight)


def wide(layer, name):
    """A parameter in the oracle's precision, or None."""
    return getattr(layer, name).astype(np.longdouble) if name in layer._parameters else None


CASES = [
    Case("LayerNorm", {}, True, norm_oracle),
    Case("LayerNorm", {"bias": False, "eps": 0.1}, True, norm_oracle),
    Case("LayerNorm", {"elementwise_affine": False}, True, norm_oracle),
    Case("RMSNorm", {}, True, norm_oracle),
    Case("RMSNorm", {"elementwise_affine": False, "eps": 1e-3}, True, norm_oracle),
    Case("Softmax", {"dim": 1}, False, softmax_oracle),
    Case("PReLU", {}, False, prelu_oracle),
    Case("PReLU", {"init": -0.5}, True, prelu_oracle),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)
norms = pytest.mark.parametrize("case", CASES[:5], ids=str)
TRAINED = [case for case in CASES if case.name != "Softmax"]


def passes(layer, x, dy):
    """y, dx and copies of the gradients."""
    y = layer(x)
    return y, layer.backward(dy), *(g.copy() for g in layer.gradients())


def check(case, x, dy, rtol=RTOL):
    """A pass of a layer against the oracle; a sum may be off by rtol of its terms."""
    layer = case.make(x.shape[1], x.dtype)
    expected = case.oracle(layer, x.astype(np.longdouble), dy.astype(np.longdouble))
    sums = 8 * np.sqrt(max(x.size, 1))
    scales = (None, size_of_terms(layer, x, dy), sums, sums)
    actual = passes(layer, x, dy)
    for one, other, scale in zip(actual, expected, scales[: len(expected)], strict=True):
        assert one.dtype == x.dtype
        assert_close(one, other, rtol[x.dtype.name], scale)


def size_of_terms(layer, x, dy):
    """The size of what dx is a sum of, which may cancel."""
    size = max(1, float(np.abs(dy).max(initial=0))) * 2  # parameters are 2 at most
    if not isinstance(layer, (minidl.LayerNorm, minidl.RMSNorm)):
        return size
    inverse = baseline.layernorm_forward(
        x.astype(np.longdouble), eps=layer.epsilon(x.dtype), centered=layer.centered
    )[2]
    return size * float(inverse.max(initial=0) + 1)


@dtypes
@cases
@pytest.mark.parametrize("columns", COLUMNS)
def test_against_the_oracle(case, columns, dtype):
    rng = np.random.default_rng(columns)
    for rows in ROWS if columns < 100 else [1, 3, 33]:
        # One column: all rows are constant, and the gradient of LayerNorm is a rounding of 0.
        x, dy = rng.normal(0.5, 2, (2, rows, columns)).astype(dtype)
        check(case, x, dy)


@dtypes
@norms
@pytest.mark.parametrize("mean", [1e4, -1e6])
def test_a_mean_far_from_zero_costs_nothing(case, mean, dtype):
    rng = np.random.default_rng(0)
    for columns in (3, 16, 37, 1000):
        x = rng.normal(mean, 1, (9, columns)).astype(dtype)
        check(case, x, rng.normal(size=x.shape).astype(dtype))


@dtypes
@norms
def test_a_first_element_far_from_the_others_costs_nothing(case, dtype):
    rng = np.random.default_rng(0)
    for columns in (16, 37, 1000):
        x = rng.normal(3, 1, (9, columns)).astype(dtype)
        x[:, 0] = 1e4
        check(case, x, rng.normal(size=x.shape).astype(dtype))


@dtypes
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e30])
@pytest.mark.parametrize("columns", [1, 5, 16, 37])
def test_layernorm_of_constant_rows(columns, value, dtype):
    layer = CASES[0].make(columns, dtype)
    dy = np.random.default_rng(0).normal(size=(3, columns)).astype(dtype)
    y = layer(np.full((3, columns), value, dtype))
    assert same_bits(y, np.tile(layer.bias, (3, 1)))
    g = dy.astype(float) * layer.weight
    expected = (g - g.mean(axis=1, keepdims=True)) / np.sqrt(layer.eps)
    assert_close(layer.backward(dy), expected, RTOL[dtype], float(np.abs(g).max()) * 400)
    assert not layer.gradient("weight").any()


@dtypes
def test_rmsnorm_of_zeros(dtype):
    layer = minidl.RMSNorm(5, dtype=dtype)
    assert not layer(np.zeros((2, 5), dtype)).any()
    expected = 1 / np.sqrt(np.finfo(dtype).eps)
    assert_close(layer.backward(np.ones((2, 5), dtype)), np.full((2, 5), expected), RTOL[dtype])


@dtypes
@pytest.mark.parametrize("columns", [1, 2, 7, 16, 37])
def test_softmax_of_large_numbers(columns, dtype):
    layer, top = in_dtype(minidl.Softmax(), dtype), float(np.finfo(dtype).max)
    for value in (1e4, -1e4, top, -top, 0.0):
        assert_close(layer(np.full((2, columns), value, dtype)), np.full((2, columns), 1 / columns),
                     RTOL[dtype])  # fmt: skip
    x = np.full((columns, columns), -top, dtype)
    np.fill_diagonal(x, top)
    assert same_bits(layer(x), np.eye(columns, dtype=dtype))
    assert not layer.backward(np.ones_like(x)).any()


@dtypes
@norms
def test_squares_beyond_the_range_give_no_nan(case, dtype):
    rng = np.random.default_rng(0)
    for big in {"float32": [1e20, 1e30], "float64": [1e160, 1e180, 1e200]}[dtype]:
        x = np.array([[big, -big, 2 * big], [big, big, big], [1, 2, 3]], dtype)
        x = np.concatenate([x, big * rng.normal(size=(30, 3)).astype(dtype)])
        layer = case.make(3, dtype)
        assert np.isfinite(layer(x)).all()
        assert np.isfinite(layer.backward(np.ones_like(x))).all()


def test_prelu_at_zero():
    layer = minidl.PReLU()
    assert layer([[0.0]]).tolist() == [[0.0]]
    assert layer.backward([[2.0]]).tolist() == [[0.5]]  # as PyTorch


# -------------------------------------------------------------------------------- PyTorch


def torch_passes(torch, layer, x, dy):
    """y, dx and the gradients of PyTorch's layer."""
    x = torch.tensor(x, requires_grad=True)
    y = layer(x)
    y.backward(torch.tensor(dy))
    gradients = (x.grad, *(p.grad for p in layer.parameters()))
    return y.detach().numpy(), *(g.numpy() for g in gradients)


@dtypes
@cases
@pytest.mark.parametrize("columns", [2, 13, 64])
def test_as_torch(case, columns, dtype):
    torch = pytest.importorskip("torch")
    layer = case.make(columns, dtype)
    other = case.make(columns, dtype, torch.nn).to(getattr(torch, dtype))
    assert repr(layer) == repr(other)
    other.load_state_dict({name: torch.tensor(v) for name, v in layer.state_dict().items()})
    x, dy = np.random.default_rng(0).normal(size=(2, 29, columns)).astype(dtype)
    for one, expected in zip(passes(layer, x, dy), torch_passes(torch, other, x, dy), strict=True):
        assert_close(one, expected, RTOL_TORCH[dtype], max(1, float(np.abs(expected).max())))


def twin(torch, layer):
    """PyTorch's network of the same layers and parameters."""
    if isinstance(layer, minidl.Sequential):
        return torch.nn.Sequential(*(twin(torch, inner) for inner in layer))
    other = getattr(torch.nn, type(layer).__name__)(**layer.config())
    other = other.to(getattr(torch, layer.dtype.name))
    other.load_state_dict({name: torch.tensor(v) for name, v in layer.state_dict().items()})
    return other


@dtypes
@cases
def test_twenty_steps_as_torch(case, dtype):
    torch = pytest.importorskip("torch")
    model = network(case, dtype)
    other = twin(torch, model)
    x, y = data(dtype)
    trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.Adam(lr=0.01))
    trainer.fit(x, y, epochs=20, batch_size=len(x), shuffle=False, verbose=0)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(other(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    expected = other.state_dict()
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(
            value, expected[name], 0, {"float32": 2e-4, "float64": 1e-10}[dtype]
        )


# ------------------------------------------------------------------------------- training


def network(case, dtype, columns=13):
    """A network with the layer inside, first of all behind a Linear."""
    return minidl.Sequential(
        minidl.Linear(5, columns), case.make(columns, dtype), minidl.Tanh(),
        minidl.Linear(columns, 3), case.make(3, dtype), dtype=dtype, seed=1,
    )  # fmt: skip


def first(case, dtype):
    """A network that begins with the layer: no gradient of its input is needed."""
    return minidl.Sequential(case.make(5, dtype), minidl.Linear(5, 3), dtype=dtype, seed=1)


def data(dtype, rows=67):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 5)).astype(dtype), rng.normal(size=(rows, 3)).astype(dtype)


def embedded(dtype):
    """Two tables beside a Linear."""
    return minidl.Sequential(
        minidl.Parallel(
            minidl.Linear(5, 4), minidl.Embedding(11, 3), minidl.Embedding(5, 17),
            columns=[5, 1, 2],
        ),
        minidl.Tanh(), minidl.Linear(41, 3), dtype=dtype, seed=1,
    )  # fmt: skip


def categories(dtype, rows=67):
    """Measurements and three columns of categories."""
    x, y = data(dtype, rows)
    rng = np.random.default_rng(1)
    return np.hstack([x, rng.integers(0, 11, (rows, 1)), rng.integers(0, 5, (rows, 2))]).astype(
        dtype
    ), y


MODELS: dict[str, tuple[Callable[[str], minidl.Layer], Callable[..., Any]]] = {
    **{str(c): (lambda dtype, c=c: network(c, dtype), data) for c in CASES},
    **{f"{c} first": (lambda dtype, c=c: first(c, dtype), data) for c in CASES},
    "Embedding": (embedded, categories),
    "Embedding first": (
        lambda dtype: minidl.Sequential(
            minidl.Embedding(11, 2), minidl.Linear(6, 3), dtype=dtype, seed=1
        ),
        lambda dtype, rows=67: (categories(dtype, rows)[0][:, [6, 6, 5]], data(dtype, rows)[1]),
    ),
}
models = pytest.mark.parametrize(("make", "given"), MODELS.values(), ids=MODELS)


def state(model):
    """All values, in order."""
    return list(model.state_dict().values())


def padding(model, flat):
    """All of a flat vector that no parameter shows."""
    flat = flat.copy()
    for _, parameter in model.named_parameters():
        if parameter.trainable:
            parameter.view(flat)[...] = 0
    return flat[: model.store().trainable]


@models
@dtypes
def test_fit_is_what_its_steps_are_by_hand(make, given, dtype):
    x, y = given(dtype)
    one, other, loss = make(dtype), make(dtype), minidl.MSELoss()
    minidl.Trainer(one, loss, minidl.SGD(0.125)).fit(
        x, y, epochs=3, batch_size=len(x), shuffle=False, verbose=0
    )
    for _ in range(3):
        loss(other(x), y)
        other.backward(loss.backward())
        for parameter, gradient in zip(other.parameters(), other.gradients(), strict=True):
            parameter -= np.asarray(0.125, dtype) * gradient
    for a, b in zip(state(one), state(other), strict=True):  # an update may round once or twice
        assert_close(a, b, {"float32": 1e-6, "float64": 1e-15}[dtype])
    rates = minidl.SGD(0.125, momentum=0.5)
    steps, epochs = make(dtype), make(dtype)
    minidl.Trainer(epochs, loss, rates).fit(
        x, y, epochs=3, batch_size=len(x), shuffle=False, verbose=0
    )
    trainer = minidl.Trainer(steps, loss, rates)
    for _ in range(3):
        trainer.train_step(x, y)
    assert all(same_bits(a, b) for a, b in zip(state(steps), state(epochs), strict=True))


@models
@dtypes
def test_gradients_of_the_program_are_those_of_the_layers(make, given, dtype):
    """Bit by bit."""
    x, y = given(dtype)
    model, loss = make(dtype), minidl.MSELoss()
    loss(model(x), y)
    model.backward(loss.backward())
    expected = [g.copy() for g in model.gradients()]
    # With clipping, gradients lie whole in the store; so great a norm clips nothing.
    minidl.Trainer(model, loss, minidl.SGD(1e-30), clip_grad_norm=1e30).train_step(x, y)
    for gradient, other in zip(model.gradients(), expected, strict=True):
        assert same_bits(gradient, other)


@models
@dtypes
@pytest.mark.parametrize("rows", [1, 33, 259])
def test_threads_give_equal_bits(make, given, rows, dtype):
    x, y = given(dtype, rows)

    def run():
        model = make(dtype)
        passed = passes(model, x, np.ones((rows, 3), dtype))
        minidl.Trainer(model, minidl.MSELoss(), minidl.Adam()).fit(
            x, y, epochs=2, batch_size=100, seed=1, verbose=0
        )
        return [*passed, model.predict(x), *state(model)]

    for_all_threads(run)


@models
@dtypes
def test_padding_stays_zero(make, given, dtype):
    x, y = given(dtype)
    for options in ({}, {"clip_grad_norm": 0.5}):
        model = make(dtype)
        trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.Adam(), **options)
        trainer.fit(x, y, epochs=3, batch_size=16, verbose=0)
        assert not padding(model, model.store().values).any()
        model.backward(np.ones_like(model(x)))
        assert not padding(model, model.store().gradients).any()


@dtypes
@cases
def test_what_lies_in_the_padding_enters_nothing(case, dtype):
    """Padding of x may hold anything finite, as sigmoid(0) leaves it there; that of dx is 0."""
    x, dy = np.random.default_rng(0).normal(size=(2, 20, 21)).astype(dtype)
    layer = case.make(21, dtype)
    expected = passes(layer, x, dy)
    plan, output = layer._program.plan, layer._program.output
    given = whole(plan, plan.data[plan.graph.input])
    for value in (1e30, -7.0):
        given[:, 21:] = value
        for one, other in zip(passes(layer, x, dy), expected, strict=True):
            assert same_bits(one, other)
        assert (given[:, 21:] == value).all()
        assert np.isfinite(whole(plan, output)).all()
        assert not whole(plan, plan.gradients[plan.graph.input])[:, 21:].any()


def whole(plan, buffer):
    """A buffer of a program with its padding."""
    part = plan.workspace[buffer.offset : buffer.offset + buffer.rows * buffer.pitch]
    return part.view(plan.dtype).reshape(buffer.rows, -1)


@dtypes
@cases
def test_a_row_does_not_depend_on_the_others(case, dtype):
    x, dy = np.random.default_rng(0).normal(size=(2, 40, 21)).astype(dtype)
    layer = case.make(21, dtype)
    y, dx, *_ = passes(layer, x, dy)
    for rows in (slice(3, 4), slice(5, 22), slice(39, 40)):
        assert same_bits(layer(x[rows]), y[rows])
        assert same_bits(layer.backward(dy[rows]), dx[rows])


@models
@dtypes
def test_two_batches_of_one_update_are_one_batch_twice_as_large(make, given, dtype):
    x, y = given(dtype, 64)
    one, other = make(dtype), make(dtype)
    rate = minidl.SGD(0.1)
    minidl.Trainer(one, minidl.MSELoss(), rate, accumulate=2).fit(
        x, y, epochs=5, batch_size=32, shuffle=False, verbose=0
    )
    minidl.Trainer(other, minidl.MSELoss(), rate).fit(
        x, y, epochs=5, batch_size=64, shuffle=False, verbose=0
    )
    for a, b in zip(state(one), state(other), strict=True):
        assert_close(a, b, {"float32": 1e-5, "float64": 1e-13}[dtype], 1.0)


@models
@dtypes
def test_clipping_scales_the_gradient(make, given, dtype):
    x, y = given(dtype)
    model, loss = make(dtype), minidl.MSELoss()
    before = state(model)
    loss(model(x), y)
    model.backward(loss.backward())
    gradients = [g.astype(float) for g in model.gradients()]
    norm = float(np.sqrt(sum((g**2).sum() for g in gradients)))
    assert norm > 1e-3
    minidl.Trainer(model, loss, minidl.SGD(1.0), clip_grad_norm=1e-3).train_step(x, y)
    for old, new, gradient in zip(before, state(model), gradients, strict=True):
        assert_close(
            new - old,
            -gradient * 1e-3 / (norm + 1e-6),
            {"float32": 1e-3, "float64": 1e-9}[dtype],
            1e-3,
        )


@models
def test_saved_and_loaded(make, given, tmp_path):
    model = make("float32")
    x, y = given("float32")
    minidl.Trainer(model, minidl.MSELoss()).fit(x, y, epochs=2, verbose=0)
    minidl.save(model, tmp_path / "m")
    for found in (minidl.load(tmp_path / "m"), copy.deepcopy(model)):
        assert repr(found) == repr(model)
        assert all(same_bits(a, b) for a, b in zip(state(found), state(model), strict=True))
        assert same_bits(found.predict(x), model.predict(x))


# ------------------------------------------------------------------------------ Embedding


@dtypes
@pytest.mark.parametrize(("number", "size"), [(1, 1), (2, 64), (7, 5), (97, 16), (1000, 17)])
@pytest.mark.parametrize("rows", [0, 1, 33, 129])
@pytest.mark.parametrize("fields", [1, 3, 17])
def test_embedding(rows, fields, number, size, dtype):
    rng = np.random.default_rng(rows)
    layer = minidl.Embedding(number, size, dtype=dtype, seed=0)
    x = rng.integers(0, number, (rows, fields))
    dy = rng.normal(size=(rows, fields * size)).astype(dtype)

    def run():
        y = layer(x)
        return y, layer.backward(dy), layer.gradient("weight").copy()

    y, dx, gradient = for_all_threads(run)
    assert same_bits(y, baseline.embedding_forward(x, layer.weight))
    assert same_bits(gradient, baseline.embedding_backward(dy, x, layer.weight))
    assert dx.shape == x.shape
    assert not dx.any()


@dtypes
def test_embedding_as_torch(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layer = minidl.Embedding(11, 6, dtype=dtype, seed=0)
    other = twin(torch, layer)
    assert repr(layer) == repr(other)
    x, dy = rng.integers(0, 11, (40, 3)), rng.normal(size=(40, 18)).astype(dtype)
    y = other(torch.tensor(x)).reshape(40, 18)
    y.backward(torch.tensor(dy))
    assert same_bits(layer(x), y.detach().numpy())
    layer.backward(dy)
    assert_close(layer.gradient("weight"), other.weight.grad.numpy(), RTOL_TORCH[dtype])


@dtypes
def test_embedding_beside_measurements_as_torch(dtype):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = embedded(dtype)
    x, y = categories(dtype)
    values = [torch.tensor(v, requires_grad=True) for v in state(model)]
    given, optimizer = torch.tensor(x), torch.optim.Adam(values, lr=0.01)
    minidl.Trainer(model, minidl.MSELoss(), minidl.Adam(lr=0.01)).fit(
        x, y, epochs=20, batch_size=len(x), shuffle=False, verbose=0
    )
    for _ in range(20):
        optimizer.zero_grad()
        w, b, one, two, v, c = values
        parts = [
            nn.functional.linear(given[:, :5], w, b),
            one[given[:, 5].long()],
            two[given[:, 6:].long()].flatten(1),
        ]
        output = nn.functional.linear(torch.tanh(torch.cat(parts, 1)), v, c)
        nn.functional.mse_loss(output, torch.tensor(y)).backward()
        optimizer.step()
    for value, expected in zip(state(model), values, strict=True):
        np.testing.assert_allclose(value, expected.detach(), 0, ATOL_TRAINED[dtype])


def test_embedding_draws_from_the_normal_distribution():
    weight = minidl.Embedding(1000, 40, seed=0).weight
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02


@pytest.mark.parametrize(("value", "shown"), [(7, "7.0"), (-1, "-1.0"), (2.5, "2.5")])
def test_what_is_no_category_is_refused(value, shown):
    model = minidl.Sequential(
        minidl.Parallel(minidl.Identity(), minidl.Embedding(7, 2), columns=[2, 2]),
        minidl.Linear(6, 1), seed=0,
    )  # fmt: skip
    x = np.zeros((5, 4))
    x[3, 2] = value
    before = state(model)
    trainer = minidl.Trainer(model, minidl.MSELoss())
    uses = [
        lambda: model(x), lambda: model.predict(x), lambda: trainer.fit(x, np.zeros(5), verbose=0),
        lambda: trainer.evaluate(x, np.zeros(5)), lambda: trainer.train_step(x, np.zeros(5)),
        lambda: model.predict((x[:, :2], x[:, 2:])),
    ]  # fmt: skip
    message = rf"whole numbers from 0 to 6, got {shown} in row 3, column 2"
    for use in uses:
        with pytest.raises(ValueError, match=message):
            use()
    assert all(same_bits(a, b) for a, b in zip(state(model), before, strict=True))


def test_embedding_must_come_first():
    inside, behind = minidl.Embedding(3, 2), r"layer 1 \(\w+\) takes category numbers"
    twice = minidl.Concat(minidl.Identity(), minidl.Identity())
    for first in (minidl.Linear(2, 2), minidl.ReLU(), twice, minidl.Dropout(), minidl.Dropout(0)):
        for second in (
            inside,
            minidl.Sequential(minidl.Flatten(), inside),
            minidl.Parallel(minidl.Identity(), inside, columns=[1, 1]),
        ):
            with pytest.raises(ValueError, match=behind):
                minidl.Sequential(first, second)


def test_embedding_behind_a_layer_that_says_nothing_of_it():
    """A container of the user's that does not pass `categories` on: nothing would be checked."""

    class Silent(minidl.Residual):
        def categories(self, first, columns):
            return iter(())

    model = Silent(minidl.Embedding(3, 1))
    for use in (model, model.predict):
        with pytest.raises(ValueError, match=r"Embedding: expected to be the first layer"):
            use(np.zeros((2, 2)))


@pytest.mark.skipif(minidl.get_config()["debug"], reason="an assertion ends the process")
@dtypes
def test_nothing_outside_the_table_is_read_or_written(dtype):
    """Past the checks, numbers are held within the table."""
    layer = minidl.Embedding(5, 3, dtype=dtype, seed=0)
    layer(np.ones((6, 1)))
    plan = layer._program.plan
    plan.view(plan.data[plan.graph.input], 6)[:, 0] = [-1, 5, 1e30, np.nan, -np.inf, 4.9]
    layer._program.program.execute(0, layer._program.forward_end, 6)
    got = plan.view(layer._program.output, 6)
    assert np.array_equal(got, layer.weight[[0, 4, 4, 0, 0, 4]])
    layer.backward(np.ones((6, 3)))
    expected = np.zeros((5, 3))
    expected[[0, 4]] = 3
    assert np.array_equal(layer.gradient("weight"), expected)


@pytest.mark.parametrize(
    "model",
    [
        lambda e: minidl.Sequential(minidl.Flatten(), e),
        lambda e: minidl.Sequential(minidl.Identity(), minidl.Sequential(e)),
        lambda e: minidl.Parallel(minidl.Parallel(e, columns=[2]), columns=[2]),
        lambda e: minidl.Concat(e),
    ],
)
def test_layers_without_effect_may_stand_before_embedding(model):
    layer = minidl.Embedding(3, 2, seed=0)
    x = np.array([[0, 2], [1, 1]])
    expected = layer(x)
    model = model(layer)
    assert same_bits(model(x), expected)
    assert same_bits(model.predict(x), expected)
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 2, got 3\.0 in row 1, column 0"):
        model.predict([[0, 1], [3, 0]])


def test_two_branches_may_read_the_same_categories():
    one, other = minidl.Embedding(3, 2, seed=0), minidl.Embedding(5, 1, seed=1)
    model = minidl.Concat(one, other)
    x = np.array([[0, 2], [1, 1]])
    assert same_bits(model(x), np.hstack([one(x), other(x)]))
    with pytest.raises(ValueError, match="from 0 to 2"):
        model([[4, 4]])


@dtypes
@pytest.mark.parametrize("first", [True, False])
def test_categories_have_no_gradient_beside_what_has(first, dtype):
    """Again and again: what was added to it before is not there any more."""
    branches = [minidl.Embedding(5, 2, dtype=dtype), minidl.Tanh()]
    model = minidl.Sequential(minidl.Concat(*branches[:: 1 if first else -1]), dtype=dtype)
    x = np.random.default_rng(0).integers(0, 5, (9, 3)).astype(dtype)
    for seed in range(3):
        dy = np.random.default_rng(seed).normal(size=model(x).shape).astype(dtype)
        expected = (dy[:, -3:] if first else dy[:, :3]) * (1 - np.tanh(x) ** 2)
        np.testing.assert_allclose(model.backward(dy), expected, atol=1e-6)


def test_categories_that_float32_does_not_hold():
    with pytest.raises(ValueError, match=r"num_embeddings: expected at most 2\*\*24 .* float32"):
        minidl.Embedding(2**24 + 1, 1)
    layer = minidl.Embedding(2**24 + 1, 1, dtype="float64")
    with pytest.raises(ValueError, match="num_embeddings: expected at most"):
        minidl.Sequential(layer, dtype="float32")
    assert layer.dtype == "float64"


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: minidl.LayerNorm(0), "normalized_shape"),
        (lambda: minidl.LayerNorm((3, 4)), "normalized_shape"),
        (lambda: minidl.LayerNorm("3"), "normalized_shape"),
        (lambda: minidl.LayerNorm(3, eps=0), "eps"),
        (lambda: minidl.LayerNorm(3, eps=None), "eps"),
        (lambda: minidl.RMSNorm(()), "normalized_shape"),
        (lambda: minidl.RMSNorm(3, eps=-1), "eps"),
        (lambda: minidl.Softmax(0), "dim"),
        (lambda: minidl.Softmax(True), "dim"),
        (lambda: minidl.PReLU(0), "num_parameters"),
        (lambda: minidl.PReLU(init=np.nan), "init"),
        (lambda: minidl.Embedding(0, 2), "num_embeddings"),
        (lambda: minidl.Embedding(2, 1.5), "embedding_dim"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make()


@pytest.mark.parametrize(
    "layer", [minidl.LayerNorm(3), minidl.RMSNorm(3), minidl.PReLU(3)], ids=repr
)
def test_wrong_columns(layer):
    with pytest.raises(ValueError, match=r"x: expected 3 features \(columns\), got shape \(2, 4\)"):
        layer(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="expects 3 features, the one before it gives 5"):
        minidl.Sequential(minidl.Linear(2, 5), layer)


def test_values_come_back_with_reset():
    for layer in (minidl.LayerNorm((3,)), minidl.RMSNorm(3), minidl.PReLU(3, 0.5)):
        before = state(layer)
        for parameter in layer.parameters():
            parameter += 1
        layer.reset_parameters(np.random.default_rng(0))
        assert all(same_bits(a, b) for a, b in zip(state(layer), before, strict=True))


def test_rmsnorm_takes_the_epsilon_of_its_dtype():
    layer = minidl.RMSNorm(2)
    assert [in_dtype(layer, d).epsilon(np.dtype(d)) for d in DTYPES] == [
        np.finfo(d).eps for d in DTYPES
    ]
    assert layer.config()["eps"] is None
