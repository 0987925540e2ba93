"""A fused model predicts as the model does, with less in it."""

import numpy as np
import pytest
from helpers import (
    FEATURES,
    LAYERS,
    activations,
    assert_close,
    bare,
    dtypes,
    normalized,
    plain,
    same_bits,
)

import minidl
from minidl import (
    BatchNorm1d,
    Concat,
    Dropout,
    Identity,
    Linear,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

RTOL = {"float32": 1e-5, "float64": 1e-12}
X = np.random.default_rng(0).normal(1, 2, (50, FEATURES))


def in_use(model):
    """The model with values as after some training: nothing is 0 or 1."""
    rng = np.random.default_rng(1)
    for _, layer in model.layers():
        if isinstance(layer, BatchNorm1d):
            n = layer.num_features
            layer.weight, layer.bias = rng.uniform(-2, 2, n), rng.normal(size=n)
            layer.running_mean = rng.normal(0, 3, n)
            layer.running_var = rng.uniform(0.01, 4, n)
    return model


def kinds(model):
    return [type(layer).__name__ for _, layer in model.tree()][1:]


def check(model, dtype):
    """Same predictions; the model as it was; nothing that is trained alone in the fused one."""
    model.set_dtype(np.dtype(dtype))
    in_use(model)
    before = {name: value.tobytes() for name, value in model.state_dict().items()}
    modes = [layer.training for _, layer in model.tree()]
    fused = model.fuse()
    assert_close(fused.predict(X), model.predict(X), RTOL[dtype])
    assert fused.predict(X).dtype == fused.dtype == dtype
    assert not any(layer.training for _, layer in fused.tree())
    assert before == {name: value.tobytes() for name, value in model.state_dict().items()}
    assert modes == [layer.training for _, layer in model.tree()]
    return fused


@activations
@pytest.mark.parametrize("network", [plain, normalized, bare])
@dtypes
def test_every_activation(network, activation, dtype):
    model = network(activation)
    fused = check(model, dtype)
    assert not {"Dropout", "Identity"} & set(kinds(fused))
    assert ("BatchNorm1d" in kinds(fused)) == (network is bare and activation.name != "Identity")


CASES = {
    "with a bias": (
        lambda: [Linear(5, 4), BatchNorm1d(4), ReLU(), Linear(4, 2)],
        ["Linear", "ReLU", "Linear"],
    ),
    "without a bias": (
        lambda: [Linear(5, 4, bias=False), BatchNorm1d(4, eps=0.1), Linear(4, 2, bias=False)],
        ["Linear", "Linear"],
    ),
    "BatchNorm first": (
        lambda: [BatchNorm1d(5), Linear(5, 4), Tanh()],
        ["BatchNorm1d", "Linear", "Tanh"],
    ),
    "behind an activation": (
        lambda: [Linear(5, 4), Tanh(), BatchNorm1d(4), Linear(4, 3)],
        ["Linear", "Tanh", "BatchNorm1d", "Linear"],
    ),
    "two in a row": (lambda: [Linear(5, 4), BatchNorm1d(4), BatchNorm1d(4)], ["Linear"]),
    "something idle in between": (
        lambda: [Linear(5, 4), Dropout(0.5), Identity(), BatchNorm1d(4), Dropout(), Tanh()],
        ["Linear", "Tanh"],
    ),
    "nested": (
        lambda: [
            Sequential(BatchNorm1d(5), Sequential(Linear(5, 4))),
            Sequential(BatchNorm1d(4), Tanh(), Sequential()),
            Sequential(Sequential(Linear(4, 3), Dropout()), BatchNorm1d(3)),
        ],
        ["BatchNorm1d", "Linear", "Tanh", "Linear"],
    ),
    "in a residual block": (
        lambda: [
            Linear(5, 4), Residual(Sequential(Linear(4, 4), BatchNorm1d(4), ReLU(), Dropout())),
            BatchNorm1d(4),
        ],
        ["Linear", "Residual", "Sequential", "Linear", "ReLU", "BatchNorm1d"],
    ),
    "in branches": (
        lambda: [
            Concat(Sequential(Linear(5, 4), BatchNorm1d(4)), Identity(), Sequential()),
            Concat(Parallel(Sequential(Linear(3, 2), Sequential(BatchNorm1d(2))),
                            BatchNorm1d(11), columns=[3, 11]), Dropout()),
            Linear(27, 2), BatchNorm1d(2),
        ],
        ["Concat", "Sequential", "Linear", "Identity", "Sequential",
         "Concat", "Parallel", "Sequential", "Linear", "BatchNorm1d", "Dropout", "Linear"],
    ),
    "behind branches": (
        lambda: [Concat(Linear(5, 2), Linear(5, 2)), BatchNorm1d(4)],
        ["Concat", "Linear", "Linear", "BatchNorm1d"],
    ),
    "few outputs": (lambda: [Linear(5, 1), BatchNorm1d(1)], ["Linear"]),
    "nothing left": (lambda: [Identity(), Dropout(), Sequential()], []),
    "empty": (list, []),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
@dtypes
def test_where_batchnorm_stands(make, expected, dtype):
    assert kinds(check(Sequential(*make()), dtype)) == expected


@dtypes
def test_a_trained_model(dtype):
    model = Sequential(
        Linear(5, 8), BatchNorm1d(8), ReLU(), Dropout(0.2), Linear(8, 1), dtype=dtype
    )
    minidl.Trainer(model, minidl.MSELoss()).fit(X, X[:, 0] ** 2, epochs=30, seed=0)
    fused = model.fuse()
    assert_close(fused.predict(X), model.predict(X), RTOL[dtype])
    assert model.training


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@dtypes
def test_every_layer(layer, dtype):
    """Before BatchNorm and behind it."""
    out = layer().output_features(FEATURES)
    layers = [BatchNorm1d(FEATURES), layer(), BatchNorm1d(out), Linear(out, 2), BatchNorm1d(2)]
    fused = check(Sequential(Linear(FEATURES, FEATURES), *layers, seed=0), dtype)
    assert kinds(fused)[:1] == ["Linear"]
    assert kinds(fused)[-1:] == ["Linear"]


@dtypes
def test_categories(dtype):
    model = Sequential(
        Parallel(minidl.Embedding(5, 3), Sequential(Linear(2, 3), BatchNorm1d(3)), columns=[1, 2]),
        Linear(6, 2), BatchNorm1d(2), dtype=dtype, seed=0,
    )  # fmt: skip
    in_use(model)
    x = np.column_stack([np.arange(50) % 5, X[:, :2]])
    assert_close(model.fuse().predict(x), model.predict(x), RTOL[dtype])
    assert "BatchNorm1d" not in kinds(model.fuse())


def test_a_fused_model_knows_how_it_was_trained(tmp_path):
    model = Sequential(Linear(5, 4), BatchNorm1d(4), Linear(4, 1), seed=0)
    minidl.Trainer(model, minidl.MSELoss()).fit(X, X[:, 0], epochs=2, seed=0)
    fused = model.fuse()
    assert "epochs: 2" in str(fused)
    minidl.save(fused, tmp_path / "m")
    assert str(minidl.load(tmp_path / "m")) == str(fused)


def test_values_are_copies():
    model = Sequential(Linear(5, 4), ReLU(), BatchNorm1d(4))
    fused = model.fuse()
    before = model.state_dict()
    for value in fused.state().values():
        value[...] = 7
    assert all(same_bits(before[name], value) for name, value in model.state_dict().items())


class Scale(minidl.Layer):
    """A layer of the user's."""

    def __init__(self):
        super().__init__()
        self.add_parameter("scale", np.full(4, 3.0))

    def forward(self, x):
        return x * self.scale


class Shifted(BatchNorm1d):
    """Another class that computes something else."""

    def lower(self, graph, x):
        return graph.python(self, x, x.columns)

    def forward(self, x):
        return x + 1


class Twice(Sequential):
    """A class derived from Sequential that computes something else."""

    def lower(self, graph, x):
        for _ in range(2):
            x = super().lower(graph, x)
        return x


@pytest.mark.parametrize("layer", [Scale, lambda: Shifted(4), lambda: Twice(Tanh())])
def test_other_classes_stay(layer):
    fused = check(Sequential(Linear(5, 4), layer(), BatchNorm1d(4)), "float32")
    assert len(fused) == 3


def test_metadata_stay(tmp_path):
    minidl.save(Sequential(Linear(5, 4), BatchNorm1d(4)), tmp_path / "m", {"classes": [1, 2]})
    fused = minidl.load(tmp_path / "m").fuse()
    assert fused.metadata == {"classes": [1, 2]}
    minidl.save(fused, tmp_path / "fused", fused.metadata)
    assert same_bits(minidl.load(tmp_path / "fused").predict(X), fused.predict(X))


def test_a_fused_model_can_be_fused_and_trained():
    fused = Sequential(Linear(5, 4), BatchNorm1d(4), ReLU(), Linear(4, 1), seed=0).fuse().fuse()
    history = minidl.Trainer(fused, minidl.MSELoss()).fit(X, X[:, 0], epochs=20, seed=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
