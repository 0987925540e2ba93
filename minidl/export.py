"""Models as ONNX files, which many programs and devices can run.

A model is written for prediction: running averages, no dropout. Every layer has a function here
that writes its nodes; `EMITTERS` lists them. Layers that hold others call `Writer.layer` for each,
so the graph may have branches.

Only operators of opset 13 (2020) are used, in forms that later opsets have too: files run on old
runtimes. GELU and the norms are therefore put together from simple operators.

float64. onnxruntime has no LeakyRelu, Elu, Softplus, PRelu and Erf in float64. The first four are
put together from what it has. Erf, which the exact GELU needs, is computed in float32: its
results are right to some 1e-7. ONNX holds the eps of BatchNormalization as a float32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import layers
from minidl.extras import need
from minidl.files import write_atomically
from minidl.kernels import VERSION
from minidl.layers import Layer, Sequential

OLDEST_OPSET = 13


def export_onnx(
    model: Sequential, path: str | os.PathLike[str], *, opset: int | None = None
) -> None:
    """Write a model to an ONNX file, for prediction.

    The input is "x", of shape (N, in_features), the output "y", of shape (N, out_features); N is
    free, the dtype is the model's. The file is checked, then written as `save` does it: whatever
    happens, `path` is the old file or the new one. ``export_onnx(model.fuse(), path)`` writes a
    smaller one, with BatchNorm1d inside the layers before.

    Parameters
    ----------
    model : Sequential
        Of layers that minidl ships.
    path : str or path-like
    opset : int, optional
        Version of ONNX's operators that the file asks for; default and least: 13, which any
        runtime since 2020 has. A later one changes nothing else.

    Raises
    ------
    TypeError
        A layer is none that minidl ships; the message names its class and its place.
    ValueError
        The installed onnx does not know this opset.
    ImportError
        onnx is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(3, 2), minidl.Sigmoid())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     minidl.export_onnx(model, os.path.join(folder, "model.onnx"))
    ...     os.listdir(folder)
    ['model.onnx']
    """
    onnx = need("onnx", "onnx", "export_onnx")
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    newest = onnx.defs.onnx_opset_version()
    opset = OLDEST_OPSET if opset is None else opset
    if not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"opset: expected an integer from {OLDEST_OPSET} to {newest}, the newest of onnx "
            f"{onnx.__version__}, got {opset!r}"
        )
    proto = _model(onnx, _graph(onnx, model), opset)
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString())


def _model(onnx: Any, graph: Any, opset: int) -> Any:
    """The graph with its versions; that of the format is the oldest that has the opset."""
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="minidl",
        producer_version=VERSION,
    )


def _graph(onnx: Any, model: Sequential) -> Any:
    """The model's nodes, constants, input and output."""
    writer = Writer(onnx, model.dtype)
    writer.finish(writer.layer(model, "x"))
    inputs = model.in_features_or_none()
    outputs = None if inputs is None else model.output_features(inputs)
    kind = onnx.helper.np_dtype_to_tensor_dtype(model.dtype)
    x, y = (
        onnx.helper.make_tensor_value_info(name, kind, ["N", columns])
        for name, columns in (("x", inputs), ("y", outputs))
    )
    return onnx.helper.make_graph(writer.nodes, "minidl", [x], [y], writer.constants)


class Writer:
    """Nodes and constants of a graph, in the order in which they are written."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.place = ""  # of the layer that is being written, as in names of parameters
        self.emitters = {
            getattr(layers, name): emitter
            for name, emitter in EMITTERS.items()
            if hasattr(layers, name)
        }

    @property
    def single(self) -> bool:
        """True for float32."""
        return self.dtype == np.float32

    def layer(self, layer: Layer, x: str, name: str = "") -> str:
        """Write a layer that reads the value x; `name` is its own in the layer around it."""
        around = self.place
        self.place = f"{around}.{name}" if around else name
        kind = Sequential if isinstance(layer, Sequential) else type(layer)
        if kind not in self.emitters:
            place = f"model.{self.place}" if self.place else "model"
            raise TypeError(
                f"{place} ({kind.__name__}): not one of the layers that can be written to ONNX, "
                f"which are {', '.join(known.__name__ for known in self.emitters)}"
            )
        y = self.emitters[kind](self, layer, x)
        self.place = around
        return y

    def node(
        self, operator: str, *inputs: str | float | np.ndarray[Any, Any], **attributes: Any
    ) -> str:
        """Write a node and return the name of its output; numbers and arrays become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        y = f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, names, [y], y, **attributes))
        return y

    def constant(self, value: Any, name: str = "") -> str:
        """Add numbers in the model's dtype, or an array of integers as it is."""
        array = np.asarray(value)
        if array.dtype.kind != "i" or not array.ndim:
            array = np.ascontiguousarray(value, self.dtype).reshape(array.shape)
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def parameters(self, layer: Layer) -> list[str]:
        """Add all parameters of a layer, by their names in the state dict."""
        return [
            self.constant(parameter.array, f"{self.place}.{name}")
            for name, parameter in layer._parameters.items()
        ]

    def cast(self, x: str, to: np.dtype[Any] | type) -> str:
        """Write a conversion."""
        return self.node("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def finish(self, y: str) -> None:
        """Give the output its name; a graph must not hand its input on as its output."""
        if y == "x":
            y = self.node("Identity", y)
        for node in self.nodes:
            if node.output[0] == y:
                node.output[0] = "y"


# Layers, one function each: it writes nodes that read the value x and returns their output's name.


def _nothing(w: Writer, layer: Layer, x: str) -> str:
    return x


def _operator(name: str) -> Emitter:
    """A layer that is one operator without attributes."""
    return lambda w, layer, x: w.node(name, x)


def _linear(w: Writer, layer: Any, x: str) -> str:
    return w.node("Gemm", x, *w.parameters(layer), transB=1)


def _batchnorm(w: Writer, layer: Any, x: str) -> str:
    return w.node("BatchNormalization", x, *w.parameters(layer), epsilon=layer.eps)


def _slope(w: Writer, x: str, slope: Any) -> str:
    """Slope times what is negative."""
    return w.node("Where", w.node("Greater", x, 0.0), x, w.node("Mul", x, slope))


def _leaky_relu(w: Writer, layer: Any, x: str) -> str:
    if w.single:
        return w.node("LeakyRelu", x, alpha=layer.negative_slope)
    return _slope(w, x, layer.negative_slope)


def _prelu(w: Writer, layer: Any, x: str) -> str:
    (slope,) = w.parameters(layer)
    return w.node("PRelu", x, slope) if w.single else _slope(w, x, slope)


def _elu(w: Writer, layer: Any, x: str) -> str:
    if w.single:
        return w.node("Elu", x, alpha=layer.alpha)
    negative = w.node("Sub", w.node("Exp", w.node("Min", x, 0.0)), 1.0)
    return w.node("Add", w.node("Relu", x), w.node("Mul", negative, layer.alpha))


def _silu(w: Writer, layer: Any, x: str) -> str:
    return w.node("Mul", x, w.node("Sigmoid", x))


def _gelu(w: Writer, layer: Any, x: str) -> str:
    """x/2 (1 + erf(x / sqrt(2))), or with tanh(sqrt(2/pi) (x + 0.044715 x^3)) in place of erf."""
    if layer.approximate == "tanh":
        cube = w.node("Mul", w.node("Mul", x, x), w.node("Mul", x, 0.044715))
        inner = w.node("Tanh", w.node("Mul", w.node("Add", x, cube), math.sqrt(2 / math.pi)))
    else:
        inner = w.node("Mul", x, math.sqrt(0.5))
        if w.single:
            inner = w.node("Erf", inner)
        else:
            inner = w.cast(w.node("Erf", w.cast(inner, np.float32)), w.dtype)
    return w.node("Mul", w.node("Mul", x, 0.5), w.node("Add", inner, 1.0))


def _softplus(w: Writer, layer: Any, x: str) -> str:
    z = w.node("Mul", x, layer.beta)
    if w.single:
        y = w.node("Softplus", z)
    else:  # max(z, 0) + log(1 + e^-|z|)
        small = w.node("Exp", w.node("Neg", w.node("Abs", z)))
        y = w.node("Add", w.node("Relu", z), w.node("Log", w.node("Add", small, 1.0)))
    linear = w.node("Greater", z, layer.threshold)
    return w.node("Where", linear, x, w.node("Div", y, layer.beta))


def _softmax(w: Writer, layer: Any, x: str) -> str:
    return w.node("Softmax", x, axis=1)


def _row_mean(w: Writer, x: str, columns: int) -> str:
    return w.node("Div", w.node("ReduceSum", x, np.array([1]), keepdims=1), float(columns))


def _over_root_mean_square(w: Writer, layer: Any, x: str) -> str:
    """Divide by sqrt(mean(x^2) + eps), row by row; then the affine map, as far as there is one."""
    mean = _row_mean(w, w.node("Mul", x, x), layer.normalized_shape[0])
    y = w.node("Div", x, w.node("Sqrt", w.node("Add", mean, layer.epsilon(w.dtype))))
    for operator, parameter in zip(("Mul", "Add"), w.parameters(layer), strict=False):
        y = w.node(operator, y, parameter)
    return y


def _layernorm(w: Writer, layer: Any, x: str) -> str:
    centred = w.node("Sub", x, _row_mean(w, x, layer.normalized_shape[0]))
    return _over_root_mean_square(w, layer, centred)


def _embedding(w: Writer, layer: Any, x: str) -> str:
    """Columns hold codes; the vectors of a row stand side by side."""
    (weight,) = w.parameters(layer)
    return w.node("Flatten", w.node("Gather", weight, w.cast(x, np.int64)), axis=1)


def _sequential(w: Writer, layer: Layer, x: str) -> str:
    for name, child in layer.children():
        x = w.layer(child, x, name)
    return x


def _residual(w: Writer, layer: Layer, x: str) -> str:
    return w.node("Add", x, _sequential(w, layer, x))


def _concat(w: Writer, layer: Layer, x: str) -> str:
    """Branches that all read x, their outputs side by side."""
    return w.node("Concat", *[w.layer(b, x, name) for name, b in layer.children()], axis=1)


def _parallel(w: Writer, layer: Any, x: str) -> str:
    """Branches that read columns of their own, their outputs side by side."""
    outputs, end = [], 0
    for (name, branch), width in zip(layer.children(), layer.columns, strict=True):
        start, end = end, end + width
        columns = w.node("Slice", x, np.array([start]), np.array([end]), np.array([1]))
        outputs.append(w.layer(branch, columns, name))
    return w.node("Concat", *outputs, axis=1)


Emitter = Callable[[Writer, Any, str], str]

# By class; a row counts where minidl has the class.
EMITTERS: dict[str, Emitter] = {
    "Linear": _linear,
    "BatchNorm1d": _batchnorm,
    "LayerNorm": _layernorm,
    "RMSNorm": _over_root_mean_square,
    "Embedding": _embedding,
    "Dropout": _nothing,
    "Flatten": _nothing,
    "Identity": _nothing,
    "ReLU": _operator("Relu"),
    "LeakyReLU": _leaky_relu,
    "PReLU": _prelu,
    "ELU": _elu,
    "Tanh": _operator("Tanh"),
    "Sigmoid": _operator("Sigmoid"),
    "SiLU": _silu,
    "GELU": _gelu,
    "Softplus": _softplus,
    "Softmax": _softmax,
    "Sequential": _sequential,
    "Residual": _residual,
    "Concat": _concat,
    "Parallel": _parallel,
}
