"""Models go to PyTorch and come from it with the same predictions and the same state."""

import sys
from collections import OrderedDict

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
from minidl import convert

torch = pytest.importorskip("torch")
nn = torch.nn

RTOL = {"float32": 1e-5, "float64": 1e-12}
networks = pytest.mark.parametrize("network", [plain, normalized, bare])


def rows(dtype, n=33):
    return np.random.default_rng(0).normal(size=(n, FEATURES)).astype(dtype)


def in_torch(module, x):
    """Predictions in evaluation mode; the mode is left as it was."""
    modes = [m.training for m in module.modules()]
    with torch.no_grad():
        y = module.eval()(torch.as_tensor(x)).numpy()
    for m, training in zip(module.modules(), modes, strict=True):
        m.training = training
    return y


def used(model):
    """The model after some training: running averages that are not the first ones."""
    X = np.random.default_rng(1).normal(1, 2, (60, FEATURES))
    trainer = minidl.Trainer(model, loss=minidl.MSELoss())
    trainer.fit(X, np.zeros((60, model.output_features(FEATURES))), epochs=2, seed=0)
    return model


def trained_in_torch(*modules):
    """A Sequential of PyTorch's, with running averages and an affine map of no special values."""
    module = nn.Sequential(*modules)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
        x = torch.randn(64, FEATURES, dtype=next(module.parameters()).dtype)
        module(3 + 2 * x), module(x)
    return module


@activations
@networks
@dtypes
def test_to_pytorch_and_back(network, activation, dtype):
    model = network(activation)
    model.set_dtype(np.dtype(dtype))
    used(model)
    there = convert.to_torch(model)
    back = convert.from_torch(there)
    x = rows(dtype)
    assert_close(in_torch(there, x), model.predict(x), RTOL[dtype])
    assert back.predict(x).tobytes() == model.predict(x).tobytes()
    assert repr(back) == repr(model)
    assert back.dtype == model.dtype == dtype
    state = there.state_dict()
    assert list(state) == list(model.state_dict()) == list(back.state_dict())
    for name, value in model.state_dict().items():
        assert same_bits(state[name], value)
        assert same_bits(back.state_dict()[name], value)


BOTH = {
    name: make
    for name, make in LAYERS.items()
    if type(make()).__name__ not in ("Residual", "Concat", "Parallel")
}


@pytest.mark.parametrize("layer", BOTH.values(), ids=BOTH)
@dtypes
def test_every_layer_to_pytorch_and_back(layer, dtype):
    model = minidl.Sequential(minidl.Linear(FEATURES, FEATURES), layer(), dtype=dtype, seed=0)
    rng = np.random.default_rng(2)
    for name, value in model.state().items():
        if "tracked" not in name:
            value[...] = rng.uniform(0.5, 1.5, value.shape)
    there = convert.to_torch(model)
    back = convert.from_torch(there)
    x = rows(dtype)
    assert_close(in_torch(there, x), model.predict(x), RTOL[dtype])
    assert back.predict(x).tobytes() == model.predict(x).tobytes()
    ours = [model[1].config() | {"init": None}, back[1].config() | {"init": None}]
    assert ours[0] == ours[1]  # what PReLU began with is not known to PyTorch


@dtypes
def test_embedding(dtype):
    """PyTorch's vectors of a row stand below each other, until Flatten puts them side by side."""
    codes = np.random.default_rng(0).integers(0, 7, (9, 2))
    model = minidl.Sequential(
        minidl.Embedding(7, 3), minidl.Flatten(), minidl.Linear(6, 2), dtype=dtype, seed=0
    )
    there = convert.to_torch(model)
    assert_close(in_torch(there, codes), model.predict(codes), RTOL[dtype])
    back = convert.from_torch(there)
    assert back.predict(codes).tobytes() == model.predict(codes).tobytes()
    one = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)).to(getattr(torch, dtype))
    found = convert.from_torch(one).predict(codes[:, :1])
    assert_close(found, in_torch(one, codes[:, 0]), RTOL[dtype])


def test_as_many_categories_as_a_dtype_can_count(monkeypatch):
    from minidl.layers import embedding

    monkeypatch.setattr(embedding, "EXACT", 8)
    model = convert.from_torch(nn.Sequential(nn.Embedding(9, 2).double()))
    assert model.predict([[8.0]]).dtype == np.float64


@pytest.mark.parametrize("module", [
    lambda: nn.LayerNorm(5, eps=0.1), lambda: nn.LayerNorm(5, bias=False),
    lambda: nn.LayerNorm([5], elementwise_affine=False), lambda: nn.RMSNorm(5, eps=0.1),
    lambda: nn.RMSNorm(5), lambda: nn.RMSNorm(5, elementwise_affine=False),
])  # fmt: skip
def test_norms_of_rows_from_pytorch(module):
    module = nn.Sequential(module())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    model = convert.from_torch(module)
    assert list(model.state_dict()) == list(module.state_dict())
    assert_close(model.predict(rows("float32")), in_torch(module, rows("float32")), 1e-5)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("bias", [True, False])
@dtypes
def test_from_pytorch(bias, momentum, dtype):
    dtype_there = getattr(torch, dtype)
    module = trained_in_torch(
        nn.Linear(FEATURES, 6, bias=bias, dtype=dtype_there),
        nn.BatchNorm1d(6, eps=0.01, momentum=momentum, dtype=dtype_there),
        nn.Sequential(nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.25), nn.Sequential()),
        nn.Linear(6, 3, dtype=dtype_there),
        nn.Identity(),
    )
    model = minidl.from_torch(module)
    x = rows(dtype)
    assert_close(model.predict(x), in_torch(module, x), RTOL[dtype])
    assert (model[1].eps, model[1].momentum, model[1].num_batches_tracked) == (0.01, momentum, 2)
    assert (model[2][0].negative_slope, model[2][1].p) == (0.2, 0.25)
    assert model[0].has_bias == bias
    again = convert.to_torch(model)
    assert repr(again) == repr(module).replace(", inplace=True", "")
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for _ in range(3):  # training goes on alike
        batch = torch.randn(9, FEATURES, dtype=dtype_there)
        module[:2](batch), model[0].train(), model[1].train()
        model[1](model[0](batch.numpy()))
    assert_close(model[1].running_var, module[1].running_var, RTOL[dtype])


@activations
def test_every_setting_comes_from_pytorch(activation):
    module = nn.Sequential(activation.torch())
    model = convert.from_torch(module)
    assert type(model[0]) is type(activation.make())
    assert model[0].config() == activation.make().config()
    assert_close(model.predict(rows("float32")), in_torch(module, rows("float32")), 1e-5)


def test_modes_are_kept():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Tanh()), nn.Dropout())
    module[1].eval()
    model = convert.from_torch(module)
    modes = [layer.training for _, layer in model.tree()]
    assert (
        modes == [m.training for m in module.modules()] == [True, True, False, False, False, True]
    )
    assert [m.training for m in convert.to_torch(model).modules()] == modes
    assert not convert.from_torch(nn.Linear(2, 2).eval()).training


def test_values_are_copies():
    module = nn.Sequential(nn.Linear(2, 2))
    model = convert.from_torch(module)
    there = convert.to_torch(model)
    before = model[0].weight.copy()
    with torch.no_grad():
        module[0].weight.zero_()
        there[0].weight.zero_()
    assert same_bits(model[0].weight, before)
    assert all(p.requires_grad for p in there.parameters())


def test_a_module_made_here_trains():
    there = convert.to_torch(minidl.Sequential(minidl.Linear(3, 2), minidl.BatchNorm1d(2)))
    there(torch.randn(4, 3)).sum().backward()
    assert there[0].weight.grad is not None
    assert there[1].num_batches_tracked == 1


def test_random_numbers_of_pytorchs_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    convert.to_torch(minidl.Sequential(minidl.Linear(3, 2), minidl.BatchNorm1d(2)))
    assert torch.equal(torch.rand(1), expected)


def test_one_layer_alone():
    module = nn.Linear(FEATURES, 2)
    model = convert.from_torch(module)
    assert_close(model.predict(rows("float32")), in_torch(module, rows("float32")), 1e-5)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def test_an_empty_model():
    assert len(convert.from_torch(nn.Sequential())) == 0
    assert len(convert.to_torch(minidl.Sequential())) == 0


def test_named_and_repeated_and_derived():
    class Network(nn.Sequential):
        pass

    act = nn.Tanh()
    module = Network(
        OrderedDict(first=nn.Linear(FEATURES, 4), act=act, second=nn.Linear(4, 4), again=act)
    )
    model = convert.from_torch(module)
    assert_close(model.predict(rows("float32")), in_torch(module, rows("float32")), 1e-5)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


class OtherForward(nn.Sequential):
    """Not what a Sequential computes."""

    def forward(self, x):
        return x


class Linear(nn.Linear):
    """The name of a layer, but another class."""


def tied():
    """Two layers with one weight."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    return module


def twice():
    """One layer in two places."""
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


def mixed():
    """Two dtypes."""
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())


def with_nan():
    """A weight that is no number."""
    module = nn.Sequential(nn.Linear(2, 1))
    nn.init.constant_(module[0].weight, float("nan"))
    return module


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1))),
         TypeError, r"^module\.1\.1 \(Conv1d\): no layer that both .* Linear, BatchNorm1d, .*"),
        (lambda: nn.Sequential(OrderedDict(fc=nn.Linear(2, 3), act=nn.Hardtanh())), TypeError,
         r"^module\.act \(Hardtanh\): "),
        (lambda: nn.GRU(2, 2), TypeError, r"^module \(GRU\): "),
        (lambda: nn.Sequential(OtherForward(nn.Tanh())), TypeError,
         r"^module\.0 \(OtherForward\): "),
        (lambda: nn.Sequential(Linear(2, 3)), TypeError, r"^module\.0 \(Linear\): "),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), TypeError,
         r"^module \(ParametrizedLinear\): "),
        (lambda: nn.utils.spectral_norm(nn.Linear(2, 3)), ValueError,
         r"^module \(Linear\): expected the values weight, bias, got bias, weight_orig, weight_u"),
        (lambda: nn.BatchNorm1d(3, affine=False), ValueError,
         r"^module \(BatchNorm1d\): affine: expected True, got False"),
        (lambda: nn.Sequential(nn.Tanh(), nn.BatchNorm1d(3, track_running_stats=False)),
         ValueError, r"^module\.1 \(BatchNorm1d\): track_running_stats: expected True"),
        (lambda: nn.Sequential(nn.LeakyReLU(-0.1)), ValueError,
         r"^module\.0 \(LeakyReLU\): negative_slope: expected a number .* got -0.1"),
        (lambda: nn.Linear(2, 3).half(), TypeError, r"^module: expected .* got float16; module.fl"),
        (lambda: nn.Linear(2, 3).bfloat16(), TypeError, "^module: expected .* got bfloat16"),
        (mixed, TypeError, "^module: expected .* got float32, float64"),
        (tied, ValueError, "^module: a parameter is there twice"),
        (twice, ValueError, "^module: a parameter is there twice"),
        (with_nan, ValueError, r"^0\.weight: expected finite numbers, got nan"),
        (lambda: {"0.weight": 1}, TypeError, "^module: expected a torch.nn.Module, got dict"),
    ],
)  # fmt: skip
def test_modules_that_minidl_does_not_have(make, error, message):
    with pytest.raises(error, match=message):
        convert.from_torch(make())


class Custom(minidl.Layer):
    """A layer of the user's."""

    def forward(self, x):
        return x


class ReLU(minidl.ReLU):
    """The name of a layer, but another class."""


@pytest.mark.parametrize("layer", [Custom, ReLU])
def test_layers_that_pytorch_does_not_have(layer):
    model = minidl.Sequential(minidl.Tanh(), minidl.Sequential(minidl.Tanh(), layer()))
    with pytest.raises(TypeError, match=rf"^model\.1\.1 \({layer.__name__}\): no layer that both"):
        convert.to_torch(model)


@pytest.mark.parametrize("model", [minidl.Linear(2, 3), None])
def test_only_models_go_to_pytorch(model):
    with pytest.raises(TypeError, match=r"^model: expected a Sequential, got"):
        convert.to_torch(model)


def test_the_table_has_every_layer():
    """Apart from those that hold others; and each is converted by a test."""
    shipped = {n for n in minidl.layers.__all__ if hasattr(nn, n)} - {"Sequential"}
    assert shipped == set(convert.PAIRS)
    assert shipped == {type(make()).__name__ for make in BOTH.values()} - {"Sequential"} | {
        "Embedding"
    }


@pytest.mark.parametrize("name", ["from_torch", "to_torch"])
def test_without_pytorch(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=f"^{name} needs torch: pip install torch$"):
        getattr(minidl, name)(minidl.Sequential())
