"""The products of a dense layer at the shapes where they go different ways.

Few outputs, panels that are packed, batches larger than every layer, rows read in place, a first
layer shared by columns.
"""

import copy

import numpy as np
import pytest
from helpers import DTYPES, OPENMP, RTOL, assert_close, dtypes, optimizers, same_bits

import minidl
from minidl.lowering import plan
from minidl.lowering.emitters.linear import _by_columns
from minidl.parameters import few_outputs

# features, outputs, rows of the batch
SHAPES = [
    (15, 1, 20), (16, 1, 5), (40, 1, 33), (200, 2, 17), (500, 1, 70), (500, 4, 31), (1000, 3, 16),
    (24, 8, 50), (120, 10, 40),         # held as it is, by the tiles
    (4, 500, 60), (3, 70, 13),          # few features
    (300, 310, 70), (130, 257, 65),     # packed panels
    (60, 256, 700), (256, 10, 700),     # a batch larger than every layer
    (1, 1, 1), (17, 33, 12), (33, 17, 49),
]  # fmt: skip
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def parts(shape, dtype, threads):
    """Output and gradients of a layer, with what it was given."""
    features, outputs, rows = shape
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(rows, features)), rng.normal(size=(rows, outputs))
    with minidl.set_num_threads(threads):
        layer = minidl.Linear(features, outputs, dtype=dtype, seed=0)
        y = layer.forward(x.astype(dtype))
        dx = layer.backward(dy.astype(dtype))
    return layer, x, dy, (y, dx, *(g.copy() for g in layer.gradients()))


@shapes
@dtypes
def test_products(shape, dtype):
    layer, x, dy, (y, dx, dw, db) = parts(shape, dtype, 1)
    w, b = np.float64(layer.weight), np.float64(layer.bias)
    x, dy = np.float64(x.astype(dtype)), np.float64(dy.astype(dtype))
    # Sums of n terms: the bound grows with the square root of n.
    rtol = RTOL[dtype]
    assert_close(y, x @ w.T + b, rtol, np.abs(x).max() * np.abs(w).sum(1).max())
    assert_close(dx, dy @ w, rtol, np.abs(dy).max() * np.abs(w).sum(0).max())
    assert_close(dw, dy.T @ x, rtol, np.abs(dy).max() * np.abs(x).sum(0).max())
    assert_close(db, dy.sum(0), rtol, np.abs(dy).sum(0).max())


@shapes
@dtypes
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(shape, dtype, threads):
    for one, many in zip(parts(shape, dtype, 1)[3], parts(shape, dtype, threads)[3], strict=True):
        assert same_bits(one, many)


@shapes
def test_a_row_does_not_depend_on_its_neighbours(shape):
    layer, x, _, (y, *_) = parts(shape, "float32", 1)
    x = x.astype(np.float32)
    for rows in (1, 3, len(x) - 1):
        if 0 < rows < len(x):
            assert same_bits(layer.forward(x[:rows]), y[:rows])


def test_few_outputs_take_less_memory():
    assert few_outputs((1, 500), 4)
    assert few_outputs((10, 256), 4)
    assert not few_outputs((128, 784), 4)
    assert not few_outputs((500, 4), 4)
    assert minidl.Linear(500, 1).store().values.nbytes < 3000  # transposed: 32 kB


@dtypes
@pytest.mark.parametrize("outputs", [1, 10, 40])
def test_state_dict_has_the_same_shape_in_both_layouts(outputs, dtype):
    layer = minidl.Linear(90, outputs, dtype=dtype, seed=0)
    state = layer.state_dict()
    assert state["weight"].shape == (outputs, 90)
    other = minidl.Linear(90, outputs, dtype=dtype, seed=1)
    other.load_state_dict(state)
    assert same_bits(other.weight, layer.weight)


@pytest.mark.parametrize("shape", [(9, 7), (8, 18), (7, 11)], ids=str)
def test_the_layout_is_that_of_the_dtype_however_the_model_came_to_it(shape, tmp_path):
    """Converted, copied, loaded: else the norm of a gradient is summed in another order."""
    inputs, outputs = shape
    assert few_outputs((outputs, inputs), 4) != few_outputs((outputs, inputs), 8)
    converted = minidl.Sequential(minidl.Linear(inputs, outputs), dtype="float64", seed=0)
    made = minidl.Sequential(minidl.Linear(inputs, outputs, dtype="float64"), seed=0)
    minidl.save(converted, tmp_path / "m")
    back = copy.deepcopy(converted)
    for dtype in ("float32", "float64"):
        back.set_dtype(np.dtype(dtype))
    back.load_state_dict(converted.state_dict())
    models = [made, converted, copy.deepcopy(converted), minidl.load(tmp_path / "m"), back]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, inputs)), rng.normal(size=(24, outputs))
    for model in models:
        trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(0.1), clip_grad_norm=1e-2)
        trainer.fit(X, y, epochs=3, batch_size=8, seed=0)
        assert len(model.store().values) == len(made.store().values)
        for name, value in made.state_dict().items():
            assert same_bits(model.state_dict()[name], value)


def plan_of(trainer):
    """The plan of the program that trains."""
    return trainer._programs["train"][2].plan


def in_place(trainer):
    """True if the rows of the batch can be read where the user has them."""
    return plan_of(trainer).in_place(plan_of(trainer).graph.input)


def trained(X, dtype, shuffle, threads=1):
    """Parameters after training on X, which lies in memory as the caller likes."""
    model = minidl.Sequential(
        minidl.Linear(X.shape[1], 64), minidl.Tanh(), minidl.Linear(64, 3), seed=0, dtype=dtype
    )
    y = np.arange(len(X)) % 3
    with minidl.set_num_threads(threads):
        trainer = minidl.Trainer(model)
        trainer.fit(X, y, epochs=2, batch_size=24, shuffle=shuffle, seed=0)
        assert in_place(trainer)
        return [*model.parameters(), model.predict(X)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_in_place_give_the_bits_of_gathered_rows(dtype, threads):
    X = np.random.default_rng(0).normal(size=(100, 40)).astype(dtype)
    expected = trained(np.asfortranarray(X), dtype, False)  # gathered: columns lie apart
    wide = np.full((100, 64), np.nan, dtype)
    wide[:, 3:43] = X
    page = np.full((100, 4096), np.nan, dtype)  # gathered: rows 4 KiB apart
    page[:, :40] = X
    for layout in (X, wide[:, 3:43], page[:, :40], np.repeat(X, 2, 0)[::2]):
        for a, b in zip(trained(layout, dtype, False, threads), expected, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize(
    "first",
    [minidl.Identity(), minidl.BatchNorm1d(30), minidl.Tanh(), minidl.Dropout(0.5, seed=0)],
    ids=repr,
)
def test_the_first_layer_may_be_any(first):
    """Rows are read in place by products alone; everything else gathers them."""
    X = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
    results = []
    for x in (X, np.asfortranarray(X)):
        model = minidl.Sequential(
            copy.deepcopy(first), minidl.Linear(30, 64), minidl.Tanh(), minidl.Linear(64, 1), seed=0
        )
        trainer = minidl.Trainer(model, loss=minidl.MSELoss())
        trainer.fit(x, X[:, 0], epochs=2, batch_size=16, shuffle=False)
        assert in_place(trainer) == isinstance(first, minidl.Identity)
        results.append([*model.state_dict().values(), model.predict(x)])
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


@dtypes
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_first_layer_that_is_shared_by_columns(dtype, batch_norm):
    """Training, evaluation and prediction, gathered and in place, at every number of threads."""
    X = np.random.default_rng(0).normal(size=(90, 70)).astype(dtype)
    y = np.arange(90) % 3
    results = []
    for threads in (1, 2, 3, 8):
        for layout in (X, np.asfortranarray(X)):
            hidden = [minidl.BatchNorm1d(600)] if batch_norm else []
            model = minidl.Sequential(
                minidl.Linear(70, 600), *hidden, minidl.Sigmoid(), minidl.Linear(600, 3),
                seed=0, dtype=dtype,
            )  # fmt: skip
            with minidl.set_num_threads(threads):
                trainer = minidl.Trainer(model)
                trainer.fit(layout, y, epochs=2, batch_size=20, shuffle=False)
                if OPENMP:
                    first = plan_of(trainer).graph.nodes[0]
                    assert _by_columns(plan_of(trainer), first) == (threads > 1)
                scores = np.array([*trainer.evaluate(layout, y, batch_size=40).values()])
                predictions = model.predict(layout, batch_size=33)
                single = model.predict(layout[:1])
            results.append([*model.state_dict().values(), scores, predictions, single])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert same_bits(a, b)


@dtypes
@pytest.mark.parametrize("activation", [minidl.Sigmoid, minidl.Softplus, minidl.Tanh])
@pytest.mark.parametrize("widths", [(3, 50, 1), (7, 61, 3), (7, 201, 3), (5, 90, 10)], ids=str)
def test_padding_stays_zero(widths, activation, dtype):
    """sigmoid(0) is not 0: what it leaves in the padding must not be trained."""
    assert_padding_stays_zero(widths, activation, dtype, minidl.Adam(lr=0.1))


@dtypes
@optimizers
@pytest.mark.parametrize("widths", [(3, 50, 1), (7, 61, 3)], ids=str)
def test_padding_stays_zero_for_every_optimizer(widths, dtype, optimizer):
    assert_padding_stays_zero(widths, minidl.Sigmoid, dtype, optimizer.make())


def assert_padding_stays_zero(widths, activation, dtype, optimizer):
    a, b, c = widths
    X = np.random.default_rng(0).normal(size=(40, a)).astype(dtype)
    model = minidl.Sequential(
        minidl.Linear(a, b), activation(), minidl.Linear(b, c), seed=0, dtype=dtype
    )
    trainer = minidl.Trainer(model, loss=minidl.MSELoss(), optimizer=optimizer)
    trainer.fit(X, np.tile(X[:, :1], c), epochs=3, batch_size=10)
    store = model.store()
    moments = optimizer.state_for(model).moments
    keeps = not isinstance(optimizer, minidl.SGD) or optimizer.momentum > 0
    for vector in (store.values, *moments[: None if keeps else 0]):
        rest = vector.copy()
        for _, parameter in model.named_parameters():
            assert parameter.view(vector).any()
            parameter.view(rest)[...] = 0
        assert np.isfinite(vector).all()
        assert not rest.any()
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(model.state_dict())
    assert same_bits(fresh.predict(X), model.predict(X))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_program_that_tries_numbers_of_threads(dtype, monkeypatch):
    """The steps that are timed are steps of the training like all others."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 20)).astype(dtype), rng.integers(0, 3, 300)

    def run(threads):
        model = minidl.Sequential(
            minidl.Linear(20, 30), minidl.BatchNorm1d(30), minidl.ReLU(), minidl.Linear(30, 3),
            seed=0, dtype=dtype,
        )  # fmt: skip
        trainer = minidl.Trainer(model)
        with minidl.set_num_threads(threads):
            history = [trainer.fit(X, y, epochs=n, batch_size=20, seed=0) for n in (40, 1, 7)]
        losses = [loss for h in history for loss in h.history["loss"]]
        assert len(losses) == 48
        return [*model.state_dict().values(), np.array(losses)]

    expected = run(1)
    monkeypatch.setattr(plan, "WORK_PER_THREAD", 1)  # try
    for threads in (2, 4):
        for a, b in zip(run(threads), expected, strict=True):
            assert same_bits(a, b)
