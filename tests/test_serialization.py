"""Models go to files and come back with the same bits; bad files are errors."""

import copy
import json
import os
import pickle
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minidl

LAYERS = {
    "Linear": lambda: minidl.Linear(4, 4),
    "Linear without bias": lambda: minidl.Linear(4, 4, bias=False),
    "BatchNorm1d": lambda: minidl.BatchNorm1d(4, eps=1e-3, momentum=0.25),
    "BatchNorm1d without momentum": lambda: minidl.BatchNorm1d(4, momentum=None),
    "Dropout": lambda: minidl.Dropout(0.25),
    "Identity": minidl.Identity,
    "ReLU": minidl.ReLU,
    "LeakyReLU": lambda: minidl.LeakyReLU(0.123456789),
    "ELU": lambda: minidl.ELU(0.7),
    "Tanh": minidl.Tanh,
    "Sigmoid": minidl.Sigmoid,
    "SiLU": minidl.SiLU,
    "GELU": minidl.GELU,
    "GELU tanh": lambda: minidl.GELU("tanh"),
    "Softplus": lambda: minidl.Softplus(2.5, 7.0),
    "Sequential": lambda: minidl.Sequential(minidl.Linear(4, 4), minidl.Tanh()),
    "empty Sequential": minidl.Sequential,
    "Residual": lambda: minidl.Residual(minidl.Sequential(minidl.Linear(4, 4), minidl.Tanh())),
    "Concat": lambda: minidl.Concat(minidl.Linear(4, 1), minidl.Linear(4, 3)),
    "Parallel": lambda: minidl.Parallel(minidl.Linear(1, 1), minidl.Identity(), columns=[1, 3]),
    "Flatten": minidl.Flatten,
    "LayerNorm": lambda: minidl.LayerNorm(4, eps=1e-3),
    "LayerNorm without bias": lambda: minidl.LayerNorm(4, bias=False),
    "LayerNorm without parameters": lambda: minidl.LayerNorm(4, elementwise_affine=False),
    "RMSNorm": lambda: minidl.RMSNorm(4, eps=1e-3),
    "RMSNorm without eps": lambda: minidl.RMSNorm(4),
    "PReLU": minidl.PReLU,
    "PReLU of columns": lambda: minidl.PReLU(4, init=0.1),
    "Softmax": minidl.Softmax,
}
X = np.random.default_rng(0).normal(size=(50, 6))
Y = np.random.default_rng(1).integers(0, 3, 50)


def make(kind="BatchNorm1d", dtype="float32"):
    return minidl.Sequential(
        minidl.Linear(6, 4), LAYERS[kind](), minidl.Linear(4, 3), dtype=dtype, seed=0
    )


def trained(kind="BatchNorm1d", dtype="float32"):
    model = make(kind, dtype)
    minidl.Trainer(model).fit(X, Y, epochs=3, seed=0)
    return model


def bits(model):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in model.state_dict().items()}


def test_arguments_in_files_are_those_of_constructors():
    """And the other way: what a layer says of itself makes it again, in files of its version."""
    from minidl.serialization import NOT_STORED, _signature

    for make_layer in [*LAYERS.values(), lambda: minidl.Embedding(3, 2)]:
        layer = make_layer()
        name, children = type(layer).__name__, {"layers", "block"}
        assert layer.config().keys() - children == _signature(name) - NOT_STORED - children, name


def test_every_layer_is_saved_somewhere_here():
    shipped = {n for n in minidl.layers.__all__ if n != "Layer"}
    assert shipped == {type(make()).__name__ for make in LAYERS.values()} | {"Embedding"}


def test_an_embedding_comes_back_with_the_same_bits(tmp_path):
    """It reads the input, so it stands first."""
    model = minidl.Sequential(
        minidl.Parallel(minidl.Linear(2, 3), minidl.Embedding(7, 5), columns=[2, 1]),
        minidl.Linear(8, 3), seed=0,
    )  # fmt: skip
    x = np.column_stack([X[:, :2], np.arange(50) % 7])
    minidl.Trainer(model).fit(x, Y, epochs=2, seed=0)
    minidl.save(model, tmp_path / "m")
    found = minidl.load(tmp_path / "m")
    assert bits(found) == bits(model)
    assert found.predict(x).tobytes() == model.predict(x).tobytes()


def test_as_many_categories_as_a_dtype_can_count(tmp_path, monkeypatch):
    """More than float32 has whole numbers, in a model of float64."""
    from minidl.layers import embedding

    monkeypatch.setattr(embedding, "EXACT", 8)
    model = minidl.Sequential(minidl.Embedding(9, 2, dtype="float64"))
    minidl.save(model, tmp_path / "m")
    assert bits(minidl.load(tmp_path / "m")) == bits(model)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_model_comes_back_with_the_same_bits(kind, dtype, tmp_path):
    model = trained(kind, dtype)
    path = tmp_path / "model.safetensors"
    minidl.save(model, path)
    found = minidl.load(path)
    assert bits(found) == bits(model)
    assert repr(found) == repr(model)
    assert [layer.config() for _, layer in found.layers()] == [
        layer.config() for _, layer in model.layers()
    ]
    assert found.dtype == dtype
    assert not found.training
    assert not any(layer.training for _, layer in found.layers())
    assert found.predict(X).tobytes() == model.predict(X).tobytes()
    assert found(X).tobytes() == model.predict(X).tobytes()


def test_a_loaded_model_can_be_trained(tmp_path):
    model = make("BatchNorm1d")
    minidl.save(model, tmp_path / "m")
    found = minidl.load(str(tmp_path / "m"))
    for m in (model, found):
        minidl.Trainer(m).fit(X, Y, epochs=2, seed=3)
    assert bits(found) == bits(model)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"classes": ["é", "b"], "mean": [0.5, 1e-300], "n": {"deep": None}}]
)
def test_metadata_come_back(metadata, tmp_path):
    minidl.save(make(), tmp_path / "m", metadata=metadata)
    assert minidl.load(tmp_path / "m").metadata == (metadata or {})


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "m"
    minidl.save(make(), path)
    old = path.read_bytes()
    with pytest.raises(TypeError):
        minidl.save(make(), path, metadata={"no": object()})
    assert path.read_bytes() == old
    model = trained()
    minidl.save(model, path)
    assert path.read_bytes() != old
    assert bits(minidl.load(path)) == bits(model)
    assert os.listdir(tmp_path) == ["m"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("metadata", [[1, 2], "text", 3, [], ""])
def test_metadata_are_a_dict(metadata, tmp_path):
    with pytest.raises(
        TypeError, match=rf"^metadata: expected a dict, got {type(metadata).__name__}"
    ):
        minidl.save(make(), tmp_path / "m", metadata)
    assert os.listdir(tmp_path) == []


def nested(depth):
    """A layer inside so many others."""
    layer = minidl.Identity()
    for _ in range(depth):
        layer = minidl.Residual(layer)
    return minidl.Sequential(layer)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
@pytest.mark.parametrize("write", [minidl.save, lambda m, p: minidl.Trainer(m).save_checkpoint(p)])
def test_what_could_not_be_loaded_is_not_written(write, name, value, tmp_path):
    """The last good file is not lost to a model that came to nothing."""
    model = make()
    write(model, tmp_path / "m")
    old = (tmp_path / "m").read_bytes()
    model.state()[name][..., 1] = value
    with pytest.raises(ValueError, match=rf"^{name}: expected finite numbers, got {value} in"):
        write(model, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == old


def test_a_model_too_large_to_be_loaded_is_not_written(tmp_path, monkeypatch):
    from minidl import serialization

    minidl.save(nested(serialization.DEEPEST - 1), tmp_path / "m")
    assert repr(minidl.load(tmp_path / "m")) == repr(nested(serialization.DEEPEST - 1))
    with pytest.raises(ValueError, match="expected at most 50 layers inside each other"):
        minidl.save(nested(serialization.DEEPEST), tmp_path / "no")
    monkeypatch.setattr(serialization, "MOST_LAYERS", 20)
    wide = [minidl.Identity() for _ in range(18)]
    minidl.save(minidl.Sequential(*wide, make()[0], minidl.PReLU()), tmp_path / "m")
    assert len(minidl.load(tmp_path / "m")) == 20
    model = minidl.Sequential(*wide, make()[0], minidl.Sequential(minidl.PReLU()))
    with pytest.raises(ValueError, match="expected at most 20 layers"):
        minidl.save(model, tmp_path / "no")
    monkeypatch.setattr(serialization, "MOST_LAYERS", 19)
    with pytest.raises(minidl.FormatError, match="expected at most 19 layers"):
        minidl.load(tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]


class Custom(minidl.Layer):
    """A layer of the user's."""

    def forward(self, x):
        return x

    def backward(self, dy):
        return dy


class ReLU(Custom):
    """A layer of the user's with the name of one of minidl's."""


@pytest.mark.parametrize("layer", [Custom, ReLU])
@pytest.mark.parametrize("nested", [False, True])
def test_layers_of_the_users_are_refused(layer, nested, tmp_path):
    model = minidl.Sequential(minidl.Sequential(layer()) if nested else layer())
    with pytest.raises(TypeError, match=rf"{layer.__name__} is not one of minidl's layers"):
        minidl.save(model, tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("model", [minidl.Linear(2, 3), "model", None])
def test_only_models_are_saved(model, tmp_path):
    with pytest.raises(TypeError, match=r"^model: expected a Sequential, got"):
        minidl.save(model, tmp_path / "m")


# PyTorch.


def torch_model(torch, model):
    """The same layers in PyTorch, by what `repr` shows."""
    if isinstance(model, minidl.Sequential):
        return torch.nn.Sequential(*(torch_model(torch, layer) for layer in model))
    return getattr(torch.nn, type(model).__name__)(**model.config())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", sorted(LAYERS.keys() - {"Residual", "Concat", "Parallel"}))
def test_pytorch_loads_the_file(kind, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    model = trained(kind, dtype)
    minidl.save(model, tmp_path / "m")
    twin = torch_model(torch, model).to(getattr(torch, dtype)).eval()
    twin.load_state_dict(load_torch(tmp_path / "m"), strict=True)
    with torch.no_grad():
        found = twin(torch.tensor(X, dtype=getattr(torch, dtype))).numpy()
    np.testing.assert_allclose(model.predict(X), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_loads_an_embedding(dtype, tmp_path):
    """It gives (N, columns, size), and what ours gives with Flatten behind it."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    model = minidl.Sequential(
        minidl.Embedding(7, 3), minidl.Flatten(), minidl.Linear(6, 3), dtype=dtype, seed=0
    )
    codes = np.random.default_rng(0).integers(0, 7, (50, 2))
    minidl.Trainer(model).fit(codes, Y, epochs=2, seed=0)
    minidl.save(model, tmp_path / "m")
    twin = torch.nn.Sequential(
        torch.nn.Embedding(7, 3), torch.nn.Flatten(), torch.nn.Linear(6, 3)
    ).to(getattr(torch, dtype))
    twin.load_state_dict(load_torch(tmp_path / "m"), strict=True)
    with torch.no_grad():
        found = twin(torch.tensor(codes)).numpy()
    np.testing.assert_allclose(model.predict(codes), found, rtol=1e-5, atol=1e-5)


def test_a_state_of_pytorchs_is_loaded():
    torch = pytest.importorskip("torch")
    model = make()
    twin = torch_model(torch, model)
    model.load_state_dict({name: t.numpy() for name, t in twin.state_dict().items()})
    with torch.no_grad():
        found = twin.eval()(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(model.predict(X), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reader", ["numpy", "torch"])
def test_a_file_of_pytorchs_is_loaded(reader, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    twin = torch_model(torch, make()).to(getattr(torch, dtype))
    twin(3 + torch.randn(20, 6, dtype=getattr(torch, dtype)))
    safetensors.torch.save_file(twin.state_dict(), tmp_path / "m")
    load_there = {"numpy": load_file, "torch": safetensors.torch.load_file}[reader]
    model = make(dtype=dtype)
    model.load_state_dict(load_there(tmp_path / "m"))
    with torch.no_grad():
        found = twin.eval()(torch.tensor(X, dtype=getattr(torch, dtype))).numpy()
    np.testing.assert_allclose(model.predict(X), found, rtol=1e-5, atol=1e-5)
    assert bits(model) == {
        n: (np.dtype(t.numpy().dtype), tuple(t.shape), t.numpy().tobytes())
        for n, t in twin.state_dict().items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("there", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_are_loaded(there, dtype):
    """Those on a graph too; smaller types gain and lose nothing."""
    torch = pytest.importorskip("torch")
    twin = torch_model(torch, make()).to(getattr(torch, there))
    state = twin.state_dict(keep_vars=True)
    assert state["0.weight"].requires_grad
    model = make(dtype=dtype)
    model.load_state_dict(state)
    for name, tensor in state.items():
        wanted = torch.int64 if "batches" in name else getattr(torch, dtype)
        assert torch.equal(torch.from_numpy(model.state_dict()[name]), tensor.detach().to(wanted))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t[:2], ValueError, r"^0.weight: expected shape \(4, 6\), got \(2, 6\)"),
        (lambda t: t * np.nan, ValueError, "^0.weight: expected finite numbers, got nan"),
        (lambda t: (t * np.inf).bfloat16(), ValueError, "^0.weight: expected finite numbers"),
        (lambda t: t.double() + 1e300, ValueError, "^0.weight as float32: expected finite"),
        (lambda t: t + 1j, TypeError, "^0.weight: expected real numbers, got dtype complex64"),
    ],
)
def test_wrong_tensors_change_nothing(change, error, message):
    torch = pytest.importorskip("torch")
    model = make()
    state = torch_model(torch, model).state_dict()
    state["0.weight"] = change(state["0.weight"])
    before = bits(model)
    with pytest.raises(error, match=message):
        model.load_state_dict(state)
    assert bits(model) == before


# Bad files.


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m"
    minidl.save(trained(), path, metadata={"a": 1})
    return path


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        minidl.load(tmp_path / "none")
    with pytest.raises(OSError, match="directory"):
        minidl.load(tmp_path)


@pytest.mark.parametrize(
    "data", [b"hello", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" + b"\x00" * 50, b"{}" * 40]
)
def test_a_foreign_file(data, saved):
    saved.write_bytes(data)
    with pytest.raises(minidl.FormatError, match=f"^{saved}: not a safetensors file, or damaged"):
        minidl.load(saved)
    assert issubclass(minidl.FormatError, ValueError)


def test_a_pickle_is_not_run(saved):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("ran",)

    saved.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(minidl.FormatError):
        minidl.load(saved)


def test_a_safetensors_file_of_somebody_elses(tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "m")
    with pytest.raises(minidl.FormatError, match=r"not a minidl model: .* load_state_dict"):
        minidl.load(tmp_path / "m")


def rewrite(path, change):
    """Let `change` alter tensors and architecture, and write the file again."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        header = file.metadata()
    tensors, architecture = load_file(path), json.loads(header["architecture"])
    changed = change(tensors, architecture)
    if changed is not None:
        architecture = changed
    header["architecture"] = (
        architecture if isinstance(architecture, str) else json.dumps(architecture)
    )
    save_file(tensors, path, header)


def layer_of(architecture, i):
    return architecture["layers"][i]


CHANGES = {
    "a tensor is missing": lambda t, a: t.__delitem__("0.weight"),
    "a tensor too many": lambda t, a: t.update(more=np.zeros(2)),
    "a tensor of another shape": lambda t, a: t.update({"0.bias": np.zeros(5, np.float32)}),
    "a tensor of another dtype": lambda t, a: t.update({"0.bias": np.zeros(4)}),
    "integers": lambda t, a: t.update({"0.bias": np.zeros(4, np.int32)}),
    "half precision": lambda t, a: t.update({"0.bias": np.zeros(4, np.float16)}),
    "a count that is none": lambda t, a: t.update(
        {"1.num_batches_tracked": np.array(3, np.float32)}
    ),
    "a NaN": lambda t, a: t.update({"0.bias": np.full(4, np.nan, np.float32)}),
    "an infinity": lambda t, a: t.update({"1.running_var": np.full(4, np.inf, np.float32)}),
    "no JSON": lambda t, a: "{",
    "not an object": lambda t, a: [1, 2],
    "no layers": lambda t, a: {"dtype": "float32"},
    "layers that are none": lambda t, a: {**a, "layers": 3},
    "an unknown layer": lambda t, a: layer_of(a, 1).update(type="Conv2d"),
    "a layer that is a function": lambda t, a: layer_of(a, 1).update(type="save"),
    "a layer without a type": lambda t, a: layer_of(a, 1).pop("type") and None,
    "a base class": lambda t, a: layer_of(a, 1).update(type="Layer"),
    "a type that is no string": lambda t, a: layer_of(a, 1).update(type=[1]),
    "an unknown argument": lambda t, a: layer_of(a, 0).update(color="red"),
    "a missing argument": lambda t, a: layer_of(a, 0).pop("in_features") and None,
    "a negative size": lambda t, a: layer_of(a, 0).update(in_features=-1),
    "a huge size": lambda t, a: layer_of(a, 0).update(in_features=10**12),
    "two huge sizes": lambda t, a: layer_of(a, 0).update(in_features=50, out_features=50),
    "a size that is no number": lambda t, a: layer_of(a, 0).update(in_features="6"),
    "another dtype": lambda t, a: {**a, "dtype": "float16"},
    "no dtype": lambda t, a: {"layers": a["layers"]},
    "a wrong number": lambda t, a: layer_of(a, 1).update(eps=-1.0),
    "deep nesting": lambda t, a: "[" * 100000,
    "an argument that is not for files": lambda t, a: layer_of(a, 0).update(seed=1),
    "an initial value": lambda t, a: layer_of(a, 0).update(weight_init="zeros"),
    "a dtype of one layer": lambda t, a: layer_of(a, 0).update(dtype="float64"),
    "layers inside a layer that has none": lambda t, a: layer_of(a, 1).update(layers=[]),
    "a block where there is none": lambda t, a: layer_of(a, 1).update(block={"type": "ReLU"}),
    "a container without layers": lambda t, a: a["layers"].append({"type": "Sequential"}),
    "no block": lambda t, a: a["layers"].append({"type": "Residual"}),
    "layers in place of a block": lambda t, a: a["layers"].append(
        {"type": "Residual", "layers": [{"type": "ReLU"}]}
    ),
    "more than layers and dtype": lambda t, a: {**a, "color": "red"},
    "another class than Sequential": lambda t, a: {**a, "type": "Concat"},
    "more layers than there may be": lambda t, a: a["layers"].extend([{"type": "ReLU"}] * 10_001),
    "layers that cannot be nested so deeply": lambda t, a: deepened(a, 60),
    "layers nested more deeply than JSON is read": lambda t, a: deepened(a, 100_000),
    "columns that are none": lambda t, a: a["layers"].append(
        {"type": "Parallel", "layers": [{"type": "ReLU"}], "columns": {"0": 1}}
    ),
}


def deepened(architecture, depth):
    """As text: to write it by recursion would be too deep."""
    layer = '{"type": "Residual", "block": ' * depth + '{"type": "ReLU"}' + "}" * depth
    return f'{{"dtype": "float32", "layers": [{layer}]}}'


# What is wrong with numbers alone is found by the layer that gets them.
BY_THE_LAYER = {"a NaN", "an infinity", "a wrong number", "columns that are none"}


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - BY_THE_LAYER))
def test_nothing_is_built_of_a_file_that_does_not_fit_together(change, saved, monkeypatch):
    rewrite(saved, CHANGES[change])

    def fail(*_):
        pytest.fail("a layer is built")

    monkeypatch.setattr(minidl.Layer, "__init__", fail)
    with pytest.raises(minidl.FormatError, match=f"^{saved}: "):
        minidl.load(saved)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata", "{"), ("metadata", "[1]"), ("metadata", '"text"'), ("metadata", "null"),
        ("training", "{"), ("training", "3"), ("training", "{}"), ("training", '{"results": []}'),
        ("training", '{"results": {"loss": "low"}}'), ("training", '{"results": {"loss": true}}'),
        ("training", '{"results": {"loss": 1' + "0" * 400 + "}}"),
    ],
)  # fmt: skip
def test_other_parts_that_are_something_else(name, text, saved):
    from safetensors import safe_open

    with safe_open(saved, framework="np") as file:
        header = file.metadata()
    save_file(load_file(saved), saved, header | {name: text})
    with pytest.raises(minidl.FormatError, match=f"^{saved}: "):
        minidl.load(saved)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_does_not_fit_together(change, saved):
    rewrite(saved, CHANGES[change])
    with pytest.raises(minidl.FormatError, match=f"^{saved}: "):
        minidl.load(saved)


def test_every_damaged_byte_of_the_header_is_an_error_or_harmless(saved):
    """Never another exception, never a crash."""
    data = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    length = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for place in rng.integers(0, length, 300):
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        saved.write_bytes(damaged)
        try:
            minidl.load(saved)
        except minidl.FormatError:
            refused += 1
    assert refused > 100


# load_state_dict.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("0.weight"), KeyError, r"missing names \['0.weight'\], unknown"),
        (lambda s: s.update(x=1), KeyError, r"missing names \[\], unknown names \['x'\]"),
        (lambda s: s.clear(), KeyError, "missing names"),
        (lambda s: s.update({"2.bias": np.zeros(4)}), ValueError, r"^2.bias: .* shape \(3,\)"),
        (lambda s: s.update({"0.weight": np.zeros((6, 4))}), ValueError, r"^0.weight: expected "
         r"shape \(4, 6\), got \(6, 4\)"),
        (lambda s: s.update({"2.bias": [0, np.nan, 0]}), ValueError, "^2.bias: .* nan in row 1"),
        (lambda s: s.update({"1.running_var": [1, 1, 1, np.inf]}), ValueError, "^1.running_var: "),
        (lambda s: s.update({"2.bias": [0, 1e40, 0]}), ValueError, "^2.bias as float32: "),
        (lambda s: s.update({"2.bias": ["a", "b", "c"]}), TypeError, "^2.bias: expected real numb"),
        (lambda s: s.update({"2.bias": np.zeros(3, complex)}), TypeError, "^2.bias: expected real"),
        (lambda s: s.update({"1.num_batches_tracked": [1]}), ValueError, "^1.num_batches_tracked:"),
        (lambda s: s.update({"1.num_batches_tracked": 1e300}), TypeError,
         "^1.num_batches_tracked: expected an integer, got dtype float64"),
        (lambda s: s.update({"1.num_batches_tracked": 1.5}), TypeError,
         "^1.num_batches_tracked: expected an integer, got dtype float64"),
    ],
)  # fmt: skip
def test_a_wrong_state_changes_nothing(change, error, message):
    model = trained()
    state = {name: np.ones_like(a) for name, a in model.state_dict().items()}
    change(state)
    before = bits(model)
    with pytest.raises(error, match=message):
        model.load_state_dict(state)
    assert bits(model) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_is_a_copy_and_comes_back(dtype):
    model, other = trained(dtype=dtype), make(dtype=dtype)
    state = model.state_dict()
    assert all(a.flags.c_contiguous and a.flags.owndata for a in state.values())
    other.load_state_dict(state)
    assert bits(other) == bits(model)
    state["0.weight"][...] = 0
    assert model[0].weight.any()
    assert other[0].weight.any()
    assert state["1.num_batches_tracked"].dtype == np.int64
    assert state["1.num_batches_tracked"] == 6  # three epochs of two batches


# Pickle and copy.


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("kind", LAYERS)
def test_copies_are_equal_and_apart(clone, kind):
    model = trained(kind)
    model.eval()
    twin = clone(model)
    assert bits(twin) == bits(model)
    assert [p.trainable for _, p in twin.named_parameters()] == [
        p.trainable for _, p in model.named_parameters()
    ]
    assert not twin.training
    assert repr(twin) == repr(model)
    assert twin.predict(X).tobytes() == model.predict(X).tobytes()
    before = bits(model)
    minidl.Trainer(twin).fit(X, Y, epochs=2, seed=5)
    assert bits(model) == before
    minidl.Trainer(model).fit(X, Y, epochs=2, seed=5)
    assert bits(twin) == bits(model)


def test_a_copy_keeps_metadata_and_a_layers_own_copy_its_values(tmp_path):
    minidl.save(make(), tmp_path / "m", metadata={"a": [1]})
    model = minidl.load(tmp_path / "m")
    assert copy.deepcopy(model).metadata == {"a": [1]}
    layer = copy.deepcopy(model[0])
    assert layer.weight.tobytes() == model[0].weight.tobytes()
    assert not np.shares_memory(layer.weight, model[0].weight)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_an_embedding_and_of_a_layer_of_the_users(clone):
    model = minidl.Sequential(
        minidl.Parallel(minidl.Linear(2, 3), minidl.Embedding(7, 5), columns=[2, 1]),
        Custom(), minidl.Linear(8, 3), dtype="float64", seed=0,
    )  # fmt: skip
    x = np.column_stack([X[:, :2], np.arange(50) % 7])
    minidl.Trainer(model).fit(x, Y, epochs=2, seed=0)
    twin = clone(model)
    assert bits(twin) == bits(model)
    assert twin.predict(x).tobytes() == model.predict(x).tobytes()
    assert str(twin) == str(model)
    for m in (model, twin):
        minidl.Trainer(m).fit(x, Y, epochs=2, seed=1)
    assert bits(twin) == bits(model)
