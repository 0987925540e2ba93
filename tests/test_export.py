"""ONNX files: checked, small in what they ask for, and right in onnxruntime."""

import os
import sys

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    FEATURES,
    LAYERS,
    activations,
    assert_close,
    bare,
    dtypes,
    normalized,
    plain,
)

import minidl
from minidl.export import EMITTERS, OLDEST_OPSET

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RTOL = {"float32": 1e-5, "float64": 1e-12}
# In float64: Erf is computed in float32, and eps and the like are kept as one.
RTOL_SINGLE = 1e-6
ROWS = [0, 1, 7, 300]


def exported(model, path, **options):
    """A session of onnxruntime with the model's file."""
    minidl.export_onnx(model, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def check(model, path, rtol, **options):
    """Same predictions for every number of rows, with large and small numbers among them."""
    session = exported(model, path, **options)
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape) == ("x", ["N", FEATURES])
    assert (y.name, y.shape) == ("y", ["N", model.output_features(FEATURES)])
    for rows in ROWS:
        data = np.random.default_rng(rows).normal(size=(rows, FEATURES))
        data = (data * np.resize([0.01, 1, 3, 10], (rows, 1))).astype(model.dtype)
        (found,) = session.run(None, {"x": data})
        assert found.dtype == model.dtype
        assert_close(found, model.predict(data), rtol)


def in_use(model, dtype):
    """The model with running averages and an affine map of no special values."""
    model.set_dtype(np.dtype(dtype))
    rng = np.random.default_rng(1)
    for _, layer in model.tree():
        if isinstance(layer, minidl.BatchNorm1d):
            n = layer.num_features
            layer.weight, layer.bias = rng.uniform(-2, 2, n), rng.normal(size=n)
            layer.running_mean, layer.running_var = rng.normal(size=n), rng.uniform(0.1, 4, n)
            layer.eps = 0.03
    return model


def rtol(model):
    """How near predictions must be."""
    single = any(
        isinstance(layer, (minidl.GELU, minidl.BatchNorm1d)) for _, layer in model.layers()
    )
    return max(RTOL[str(model.dtype)], RTOL_SINGLE if single else 0)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@dtypes
def test_every_layer(layer, dtype, tmp_path):
    model = in_use(minidl.Sequential(layer()), dtype)
    columns = model.in_features_or_none()
    if columns is None:  # any number of columns will do: the file says so too
        x = exported(model, tmp_path / "m").get_inputs()[0]
        assert x.shape == ["N", None]
        model = in_use(minidl.Sequential(minidl.Linear(FEATURES, 4, seed=0), layer()), dtype)
    check(model, tmp_path / "m", rtol(model))


@activations
@pytest.mark.parametrize("network", [plain, normalized, bare])
@dtypes
def test_every_activation(network, activation, dtype, tmp_path):
    model = in_use(network(activation), dtype)
    check(model, tmp_path / "m", rtol(model))
    check(model.fuse(), tmp_path / "fused", rtol(model))


def every_layer(dtype):
    """All layers that leave the number of columns as it is, one after the other."""
    layers = [make() for make in LAYERS.values() if make().output_features(FEATURES) == FEATURES]
    return in_use(minidl.Sequential(*layers), dtype)


@pytest.mark.parametrize("opset", [None, 13, 15, 18, 20, 21])
@dtypes
def test_opsets(opset, dtype, tmp_path):
    model = every_layer(dtype)
    check(model, tmp_path / "m", rtol(model), opset=opset)
    (used,) = onnx.load(tmp_path / "m").opset_import
    assert used.version == (opset or OLDEST_OPSET)


def test_the_newest_opset_is_checked(tmp_path):
    newest = onnx.defs.onnx_opset_version()
    minidl.export_onnx(every_layer("float64"), tmp_path / "m", opset=newest)
    onnx.checker.check_model(str(tmp_path / "m"), full_check=True)


@pytest.mark.parametrize("layers", [(), (minidl.Identity(),), (minidl.Sequential(),)])
def test_a_model_that_does_nothing(layers, tmp_path):
    session = exported(minidl.Sequential(*layers), tmp_path / "m")
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(session.run(["y"], {"x": x})[0], x)


def test_no_features(tmp_path):
    model = minidl.Sequential(minidl.Linear(0, 3, seed=0))
    session = exported(model, tmp_path / "m")
    x = np.zeros((4, 0), np.float32)
    assert_close(session.run(None, {"x": x})[0], model.predict(x), 1e-6)


def test_training_mode_makes_no_difference(tmp_path):
    model = in_use(normalized(ACTIVATIONS[1]), "float32")
    minidl.export_onnx(model.train(), tmp_path / "train")
    assert model.training
    minidl.export_onnx(model.eval(), tmp_path / "eval")
    assert (tmp_path / "train").read_bytes() == (tmp_path / "eval").read_bytes()


def test_what_the_file_holds(tmp_path):
    """Names as in the state dict, nothing idle, the oldest format that will do."""
    model = minidl.Sequential(
        minidl.Linear(3, 4), minidl.Identity(), minidl.Dropout(),
        minidl.Sequential(minidl.BatchNorm1d(4), minidl.ReLU(), minidl.Linear(4, 2, bias=False)),
    )  # fmt: skip
    minidl.export_onnx(model, str(tmp_path / "m"))
    proto = onnx.load(tmp_path / "m")
    assert [n.op_type for n in proto.graph.node] == ["Gemm", "BatchNormalization", "Relu", "Gemm"]
    names = [name for name in model.state_dict() if "tracked" not in name]
    assert [c.name for c in proto.graph.initializer] == names
    for constant in proto.graph.initializer:
        value = onnx.numpy_helper.to_array(constant)
        assert np.array_equal(value, model.state_dict()[constant.name])
    assert (proto.producer_name, proto.producer_version) == ("minidl", minidl.__version__)
    assert (proto.ir_version, proto.opset_import[0].version) == (7, 13)


class Square(minidl.Layer):
    """A layer of the user's."""

    def forward(self, x):
        return x**2


class ReLU(minidl.ReLU):
    """The name of a layer, but another class."""


@pytest.mark.parametrize("layer", [Square, ReLU])
def test_layers_of_the_users_are_refused(layer, tmp_path):
    model = minidl.Sequential(minidl.Tanh(), minidl.Sequential(minidl.Linear(3, 2), layer()))
    with pytest.raises(TypeError, match=rf"^model\.1\.1 \({layer.__name__}\): not one of .* Linea"):
        minidl.export_onnx(model, tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("model", [minidl.Linear(2, 3), "model", None])
def test_only_models_are_exported(model, tmp_path):
    with pytest.raises(TypeError, match=r"^model: expected a Sequential, got"):
        minidl.export_onnx(model, tmp_path / "m")


@pytest.mark.parametrize("opset", [12, 1000, 13.0, "13", True])
def test_a_wrong_opset(opset, tmp_path):
    with pytest.raises(
        ValueError, match=rf"^opset: expected an integer from 13 to .* got {opset!r}"
    ):
        minidl.export_onnx(minidl.Sequential(minidl.Tanh()), tmp_path / "m", opset=opset)
    assert os.listdir(tmp_path) == []


@dtypes
def test_embedding(dtype, tmp_path):
    """Categories come in the model's dtype; beside other columns, in two tables, alone."""
    model = minidl.Sequential(
        minidl.Parallel(
            minidl.Linear(2, 3), minidl.Embedding(7, 4), minidl.Embedding(300, 2),
            columns=[2, 1, 2]
        ),
        minidl.Linear(11, 3), dtype=dtype, seed=0,
    )  # fmt: skip
    session = exported(model, tmp_path / "m")
    alone = minidl.Sequential(minidl.Flatten(), minidl.Embedding(300, 2, dtype=dtype, seed=0))
    alone_session = exported(alone, tmp_path / "alone")
    for rows in ROWS:
        rng = np.random.default_rng(rows)
        codes = rng.integers(0, 300, (rows, 2))
        codes[:2] = [[299, 0]]
        x = np.column_stack([rng.normal(size=(rows, 2)), rng.integers(0, 7, rows), codes])
        (found,) = session.run(None, {"x": x.astype(dtype)})
        assert found.dtype == dtype
        assert_close(found, model.predict(x.astype(dtype)), RTOL[dtype])
        (found,) = alone_session.run(None, {"x": codes.astype(dtype)})
        assert np.array_equal(found, alone.predict(codes))


def test_the_table_has_every_layer():
    """And each is run: those of `LAYERS`, and Embedding above."""
    shipped = set(minidl.layers.__all__) - {"Layer"}
    assert shipped == set(EMITTERS)
    assert shipped == {type(make()).__name__ for make in LAYERS.values()} | {"Embedding"}


def test_without_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = r"^export_onnx needs onnx: pip install 'minidl\[onnx\]'$"
    with pytest.raises(ImportError, match=message):
        minidl.export_onnx(minidl.Sequential(), tmp_path / "m")
