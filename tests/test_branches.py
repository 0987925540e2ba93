"""Residual, Concat, Parallel and Flatten: values that several layers read, and their gradients."""

import itertools

import numpy as np
import pytest
from helpers import (
    FEATURES,
    LAYOUTS,
    RTOL_TORCH,
    again,
    assert_close,
    dtypes,
    for_all_threads,
    in_dtype,
    read_only,
    same_bits,
)
from test_numerics import check_layer

import minidl
from minidl import (
    BatchNorm1d,
    Concat,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    Linear,
    Parallel,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    SiLU,
    Softmax,
    Tanh,
)

N = FEATURES


def block(columns=N):
    return Sequential(Linear(columns, 7), Tanh(), Linear(7, columns))


MODELS = {
    "residual": lambda: Sequential(Linear(N, 4), Residual(block(4)), Linear(4, 3)),
    "residual first": lambda: Sequential(Residual(block()), Linear(N, 3)),
    "residual alone": lambda: Residual(Linear(N, N)),
    "residual last": lambda: Sequential(Linear(N, 4), Tanh(), Residual(block(4))),
    "residual of an activation": lambda: Sequential(Linear(N, 4), Residual(SiLU()), Linear(4, 3)),
    "residual of nothing": lambda: Sequential(Linear(N, 4), Residual(Identity()), Linear(4, 3)),
    "residual of nothing, twice": lambda: Sequential(
        Linear(N, 4), Residual(Residual(Sequential())), Tanh(), Linear(4, 3)
    ),
    "residual behind BatchNorm and ReLU": lambda: Sequential(
        Linear(N, 6), BatchNorm1d(6), ReLU(), Residual(block(6)), Linear(6, 3)
    ),
    "residual behind Linear and Tanh": lambda: Sequential(
        Linear(N, 6), Tanh(), Residual(block(6)), Linear(6, 3)
    ),
    "residual that begins with an activation": lambda: Sequential(
        Linear(N, 6), Residual(Sequential(Tanh(), Linear(6, 6))), Linear(6, 3)
    ),
    "residual with BatchNorm first": lambda: Sequential(
        Linear(N, 6), Residual(Sequential(BatchNorm1d(6), ReLU(), Linear(6, 6))), Linear(6, 3)
    ),
    "residual with BatchNorm last": lambda: Sequential(
        Linear(N, 6), Residual(Sequential(Linear(6, 6), BatchNorm1d(6))), ReLU(), Linear(6, 3)
    ),
    "residual with BatchNorm alone": lambda: Sequential(
        Residual(BatchNorm1d(N)), Residual(BatchNorm1d(N)), Linear(N, 3)
    ),
    "residual with Dropout": lambda: Sequential(
        Linear(N, 6), Residual(Sequential(Dropout(0.4), Linear(6, 6), Dropout(0.3))), Dropout(0.2),
        Linear(6, 3),
    ),
    "Dropout before residual": lambda: Sequential(
        Linear(N, 6), Dropout(0.4), Residual(Dropout(0.3)), Linear(6, 3)
    ),
    "residuals in a row": lambda: Sequential(
        Linear(N, 4), *(Residual(block(4)) for _ in range(4)), Linear(4, 3)
    ),
    "residuals inside residuals": lambda: Sequential(
        Residual(Sequential(Residual(Sequential(Linear(N, N), Residual(Tanh()))), Linear(N, N)))
    ),
    "residuals of rows": lambda: Sequential(
        Linear(N, 6), Residual(Sequential(LayerNorm(6), Linear(6, 6), PReLU(6))),
        Residual(Softmax()), Residual(PReLU()), Residual(LayerNorm(6)),
    ),
    "concat": lambda: Sequential(Concat(Identity(), Linear(N, 4)), Linear(N + 4, 3)),
    "concat alone": lambda: Concat(Identity(), Identity(), Linear(N, 2)),
    "concat of one": lambda: Sequential(Linear(N, 4), Concat(Tanh()), Linear(4, 3)),
    "concat inside": lambda: Sequential(
        Linear(N, 6), Tanh(), Concat(Linear(6, 3), Identity(), Tanh(), block(6)), Linear(21, 3)
    ),
    "concat behind BatchNorm": lambda: Sequential(
        Linear(N, 6), BatchNorm1d(6), ReLU(), Concat(Linear(6, 3), Identity(), BatchNorm1d(6))
    ),
    "concat inside concat": lambda: Concat(
        Concat(Linear(N, 2), Tanh()), Concat(Identity()), Tanh()
    ),
    "residual of concat": lambda: Residual(
        Concat(Linear(N, 2), Sequential(Linear(N, 3), BatchNorm1d(3)))
    ),
    "concat of residuals": lambda: Concat(Residual(Linear(N, N)), Residual(Tanh()), Identity()),
    "parallel": lambda: Sequential(Parallel(Linear(3, 4), Linear(2, 5)), Tanh(), Linear(9, 2)),
    "parallel inside": lambda: Sequential(
        Linear(N, 17), ReLU(), Parallel(Linear(3, 4), Identity(), Tanh(), columns=[3, 4, 10])
    ),
    "parallel behind a value that others read": lambda: Sequential(
        Linear(N, 6),
        Concat(Parallel(Linear(2, 2), Tanh(), columns=[2, 4]), Linear(6, 2), Tanh()),
        Linear(14, 2),
    ),
    "residual of parallel": lambda: Sequential(
        Linear(N, 6), Tanh(), Residual(Parallel(Linear(2, 2), Identity(), columns=[2, 4]))
    ),
    "parallel inside parallel": lambda: Parallel(
        Linear(1, 2), Parallel(Linear(2, 3), Tanh(), columns=[2, 1]), Residual(Linear(1, 1))
    ),
    "parallel of one": lambda: Parallel(Residual(Linear(N, N))),
    "flatten": lambda: Sequential(Flatten(), Linear(N, 4), Flatten(), Residual(Linear(4, 4))),
}  # fmt: skip
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def network(make, dtype, seed=3):
    """The model in a dtype, initial values from a seed; masks of Dropout too."""
    model = in_dtype(make(), dtype)
    model.reset_parameters(np.random.default_rng(seed))
    for parameter in model.parameters():
        parameter += 0.05
    return model


def data(dtype="float64", rows=37, columns=N):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, columns)).astype(dtype)


def forward(torch, layer, x, values):
    """The layer in PyTorch, written out; `values` are its parameters, in order."""
    nn = torch.nn.functional
    if isinstance(layer, Sequential):
        for inner in layer:
            x = forward(torch, inner, x, values)
        return x
    if isinstance(layer, Residual):
        return x + forward(torch, layer[0], x, values)
    if isinstance(layer, Concat):
        return torch.cat([forward(torch, branch, x, values) for branch in layer], 1)
    if isinstance(layer, Parallel):
        parts = zip(layer, torch.split(x, layer.columns, 1), strict=True)
        return torch.cat([forward(torch, branch, part, values) for branch, part in parts], 1)
    if isinstance(layer, Linear):
        return nn.linear(x, next(values), next(values))
    if isinstance(layer, BatchNorm1d):
        return nn.batch_norm(x, None, None, next(values), next(values), True, eps=layer.eps)
    if isinstance(layer, LayerNorm):
        return nn.layer_norm(x, x.shape[1:], next(values), next(values), layer.eps)
    if isinstance(layer, PReLU):
        return nn.prelu(x, next(values))
    if isinstance(layer, Dropout):
        return x * torch.tensor(again(layer, np.ones(x.shape, layer.dtype)))
    plain = {"ReLU": torch.relu, "Tanh": torch.tanh, "SiLU": nn.silu, "Softmax": nn.softmax}
    name = type(layer).__name__
    if name == "Softmax":
        return torch.softmax(x, 1)
    return plain.get(name, lambda x: x)(x)


@models
@dtypes
def test_as_torch(make, dtype):
    torch = pytest.importorskip("torch")
    model, x = network(make, dtype), data(dtype)
    given = torch.tensor(x, requires_grad=True)
    values = [torch.tensor(p, requires_grad=True) for p in model.parameters()]
    expected = forward(torch, model, given, iter(values))
    y = again(model, x)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(dtype)
    expected.backward(torch.tensor(dy))
    rtol = {"float32": 10 * RTOL_TORCH["float32"], "float64": 1e-12}[dtype]
    assert_close(y, expected.detach(), rtol)
    size = 10 + max(float(v.grad.abs().max()) for v in [given, *values])
    assert_close(model.backward(dy), given.grad, rtol, size)
    for gradient, value in zip(model.gradients(), values, strict=True):
        assert_close(gradient, value.grad, rtol, size)


@models
def test_finite_differences(make):
    with minidl.set_num_threads(1):
        check_layer(network(make, "float64"), True)


@models
@dtypes
def test_backward_again_gives_the_same(make, dtype):
    """Nothing that forward keeps is overwritten."""
    model, x = network(make, dtype), data(dtype)
    dy = np.ones_like(model(x))
    first = [model.backward(dy), *(g.copy() for g in model.gradients())]
    second = [model.backward(dy), *model.gradients()]
    assert all(same_bits(a, b) for a, b in zip(first, second, strict=True))


def trainer(model, optimizer=None, **options):
    return minidl.Trainer(model, minidl.MSELoss(), optimizer or minidl.SGD(0.05), **options)


def target(model, x):
    columns = model.output_features(x.shape[1])
    return np.random.default_rng(2).normal(size=(len(x), columns)).astype(x.dtype)


@models
@dtypes
def test_program_and_layers_give_the_same_gradients(make, dtype):
    x = data(dtype)
    one, other, loss = network(make, dtype), network(make, dtype), minidl.MSELoss()
    y = target(one, x)
    loss(one(x), y)
    one.backward(loss.backward())
    # With clipping, gradients lie whole in the store; so great a norm clips nothing.
    trainer(other, clip_grad_norm=1e30).train_step(x, y)
    for a, b in zip(one.gradients(), other.gradients(), strict=True):
        assert same_bits(a, b)


@models
@dtypes
def test_fit_is_train_step_again_and_again(make, dtype):
    x = data(dtype)
    one, other = network(make, dtype), network(make, dtype)
    y = target(one, x)
    trainer(one).fit(x, y, epochs=4, batch_size=len(x), shuffle=False, verbose=0)
    steps = trainer(other)
    for _ in range(4):
        steps.train_step(x, y)
    for a, b in zip(one.state().values(), other.state().values(), strict=True):
        assert same_bits(a, b)
    one.eval()
    assert same_bits(one.predict(x), one(x))
    assert same_bits(one.predict(x), other.predict(x))


@models
@dtypes
def test_updates_at_once_and_after_clipping_are_the_same(make, dtype):
    """Fused updates change no weight before its last reader has been there."""
    x = data(dtype)
    one, other = network(make, dtype), network(make, dtype)
    y = target(one, x)
    for model, options in ((one, {}), (other, {"clip_grad_norm": 1e30})):
        trainer(model, minidl.SGD(0.05, momentum=0.9), **options).fit(
            x, y, epochs=3, batch_size=16, seed=0, verbose=0
        )
    for a, b in zip(one.state().values(), other.state().values(), strict=True):
        assert_close(a, b, {"float32": 1e-5, "float64": 1e-13}[dtype], 1 + np.abs(b).max())


@models
@dtypes
def test_threads_give_equal_bits(make, dtype):
    x = data(dtype, 131)

    def run():
        model = network(make, dtype)
        y = model(x)
        passed = [y, model.backward(np.ones_like(y)), *(g.copy() for g in model.gradients())]
        trainer(model, minidl.Adam()).fit(
            x, target(model, x), epochs=2, batch_size=65, seed=0, verbose=0
        )
        return [*passed, model.predict(x), *model.state().values()]

    for_all_threads(run)


@models
def test_accumulated_batches_without_statistics(make):
    x = data(rows=32)
    one, other = network(make, "float64"), network(make, "float64")
    if any(isinstance(layer, (BatchNorm1d, Dropout)) for _, layer in one.tree()):
        pytest.skip("a batch is not two halves")
    y = target(one, x)
    fit = {"epochs": 4, "shuffle": False, "verbose": 0}
    trainer(one).fit(x, y, batch_size=32, **fit)
    trainer(other, accumulate=2).fit(x, y, batch_size=16, **fit)
    for a, b in zip(one.state().values(), other.state().values(), strict=True):
        assert_close(a, b, 1e-13, 1 + np.abs(a).max())


@models
def test_summary_has_the_columns_of_the_output(make):
    model = make()
    summary = model.summary(N)
    assert summary.parameters == sum(p.size for p in model.parameters())
    for row, (_, layer) in zip(
        summary.rows, [t for t in model.tree() if t[1] is not model], strict=True
    ):
        assert row.name.endswith(f"({type(layer).__name__})")
    assert model.output_features(N) == model.predict(data()).shape[1]


def test_summary_of_branches():
    model = Parallel(Linear(3, 4), Concat(Tanh(), Residual(Linear(2, 2))))
    assert [(r.name, r.columns) for r in model.summary().rows] == [
        ("0 (Linear)", 4), ("1 (Concat)", 4), ("1.0 (Tanh)", 2), ("1.1 (Residual)", 2),
        ("1.1.block (Linear)", 2),
    ]  # fmt: skip


# ------------------------------------------------------------------------ several inputs


def two_inputs(dtype="float64"):
    return Sequential(
        Parallel(Linear(3, 8), Sequential(Linear(4, 8), Tanh())), ReLU(), Linear(16, 1),
        dtype=dtype, seed=0,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize(
    "layout", [v for k, v in LAYOUTS.items() if k != "other byte order"],
    ids=[k for k in LAYOUTS if k != "other byte order"],
)  # fmt: skip
@pytest.mark.parametrize("edges", [(0, 3, 7), (0, 1, 5, 7), (0, 7), (0, 3, 3, 7)], ids=str)
def test_a_tuple_of_arrays_is_one_matrix(edges, layout, dtype):
    x = data(dtype, 50, 7)
    parts = tuple(read_only(layout(x[:, a:b].copy())) for a, b in itertools.pairwise(edges))
    y = target(two_inputs(dtype), x)

    def results(given):
        model = two_inputs(dtype)
        history = trainer(model).fit(given, y, epochs=3, batch_size=16, seed=1, verbose=0)
        values = [np.array(history.history["loss"]), model.predict(given), model.eval()(given)]
        return [*values, *model.state().values(), trainer(model).evaluate(given, y)["loss"]]

    for a, b in zip(results(parts), results(x), strict=True):
        assert same_bits(a, b)


def test_a_network_with_two_inputs_learns():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 3)), rng.normal(size=(400, 4))
    y = a.sum(axis=1) * 0.5 + np.tanh(b[:, 0])
    model = two_inputs("float32")
    history = trainer(model, minidl.Adam(lr=0.01)).fit((a, b), y, epochs=60, seed=0, verbose=0)
    assert history.history["loss"][-1] < 0.01 * history.history["loss"][0]
    assert np.mean((model.predict((a, b))[:, 0] - y) ** 2) < 0.02


def test_a_deep_residual_network_learns():
    x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    blocks = [
        Residual(Sequential(LayerNorm(16), Linear(16, 16), ReLU(), Linear(16, 16)))
        for _ in range(8)
    ]
    model = Sequential(Linear(2, 16), *blocks, Linear(16, 2), seed=0)
    result = minidl.Trainer(model, optimizer=minidl.Adam(lr=3e-3))
    result.fit(x, y, epochs=40, seed=0, verbose=0)
    assert (model.predict(x).argmax(axis=1) == y).mean() > 0.95


# ------------------------------------------------------------------------------- Flatten


@dtypes
def test_flatten_takes_rows_of_any_shape(dtype):
    x = np.random.default_rng(0).normal(size=(20, 2, 3, 4)).astype(dtype)
    model = Sequential(Flatten(), Linear(24, 3), dtype=dtype, seed=0)
    flat = x.reshape(20, 24)
    y = target(model, flat)
    assert same_bits(model(x), model(flat))
    assert same_bits(model.predict(x), model(flat))
    one, other = (
        trainer(Sequential(Flatten(), Linear(24, 3), dtype=dtype, seed=0)) for _ in range(2)
    )
    one.fit(x, y, epochs=2, seed=0, verbose=0)
    other.fit(flat, y, epochs=2, seed=0, verbose=0)
    assert same_bits(one.model[1].weight, other.model[1].weight)
    assert repr(model[0]) == "Flatten(start_dim=1, end_dim=-1)"


def test_rows_of_any_shape_need_flatten():
    with pytest.raises(ValueError, match=r"x: expected 2 dimensions"):
        Sequential(Linear(6, 1))(np.zeros((3, 2, 3)))
    with pytest.raises(ValueError, match=r"x: expected 6 features"):
        Sequential(Flatten(), Linear(6, 1))(np.zeros((3, 2, 4)))


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual(Linear(3, 4)), r"^block: expected one that gives as many .* got 3 .* 4"),
        (lambda: Concat(), r"^branches: expected at least one layer"),
        (lambda: Parallel(), r"^branches: expected at least one layer"),
        (lambda: Concat(Linear(3, 2), Linear(4, 2)), r"^branches: expected .* got \[3, 4\]"),
        (lambda: Parallel(Tanh()), r"^columns: expected a number for each branch.*0 \(Tanh\)"),
        (lambda: Parallel(Tanh(), columns=[1, 2]), r"^columns: expected 1 numbers"),
        (lambda: Parallel(Linear(3, 1), columns=3), r"^columns: expected 1 numbers.* got 3"),
        (lambda: Parallel(Linear(3, 1), columns="3"), r"^columns: expected 1 numbers.* got '3'"),
        (lambda: Flatten(0), r"^start_dim: expected 1, got 0"),
        (lambda: Flatten(1, 2), r"^end_dim: expected -1, got 2"),
        (lambda: Parallel(Linear(3, 1), columns=[2]), r"^columns\[0\]: expected 3.*got 2"),
        (lambda: Parallel(Tanh(), columns=[0]), r"^columns\[0\]: expected an integer"),
        (lambda: Sequential(Linear(2, 3), Residual(Linear(4, 4))), "expects 4 .* gives 3"),
        (lambda: Sequential(Residual(Linear(4, 4)), Linear(3, 1)), "expects 3 .* gives 4"),
        (lambda: Sequential(Concat(Linear(4, 4), Tanh()), Linear(4, 1)), "expects 4 .* gives 8"),
        (lambda: Sequential(Parallel(Linear(4, 4)), Linear(5, 1)), "expects 5 .* gives 4"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [Residual, Concat, lambda b: Parallel(b, columns=[1])])
def test_what_is_no_layer(make):
    with pytest.raises(TypeError, match=r"layers: expected Layer objects, got str"):
        make("Linear")


def test_one_layer_in_two_branches():
    layer = Linear(3, 3)
    for make in (Concat, Parallel):
        with pytest.raises(ValueError, match="there twice"):
            make(layer, layer)
    with pytest.raises(ValueError, match="there twice"):
        Sequential(layer, Residual(layer))


def test_a_residual_block_of_other_columns_is_found_when_used():
    with pytest.raises(ValueError, match=r"Residual: the block gives 10 columns for 5"):
        Residual(Concat(Tanh(), Identity()))(data())


def test_inputs_that_do_not_add_up():
    model = two_inputs()
    with pytest.raises(ValueError, match=r"expected 7 features .* got .*3 \+ 3"):
        model.predict((data(columns=3), data(columns=3)))
    with pytest.raises(ValueError, match="rows"):
        model.predict((data(columns=3), data(rows=3, columns=4)))
    with pytest.raises(ValueError, match="7 features"):
        model((data(columns=3), data(columns=3)))
    with pytest.raises(ValueError, match="rows"):
        model((data(columns=3), data(rows=3, columns=4)))
