"""Jacobians of a network and of its layers: exact, by backward passes; and their singular values.

With h(0) = x and h(l) = f_l(h(l-1)), layer l has the Jacobian M(l) = dh(l) / dh(l-1), and what the
layers behind it do to a small change of h(l) is the product M(L) ... M(l+1). The gradient of a loss
with respect to h(l) is that product, transposed, times the gradient with respect to the output: it
vanishes where the greatest singular value of the product falls with L - l, and explodes where it
grows. Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML
2013; Pennington, Schoenholz and Ganguli, "Resurrecting the sigmoid in deep learning through
dynamical isometry", NeurIPS 2017.

Row k of a Jacobian is a backward pass that begins with the k-th unit vector; all rows of the data
go through it side by side, since outside BatchNorm's training mode no row knows of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from minidl import checks
from minidl.inputs import one_matrix
from minidl.layers import BatchNorm1d, Sequential
from minidl.layers.base import Layer
from minidl.lowering import Graph, LayerProgram
from minidl.memory import Array
from minidl.tables import Line, Table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 2**30  # bytes
ROWS = 64  # that go through the network side by side
ROUNDING = 1e-9  # of central differences, about


class LayerJacobian(NamedTuple):
    """The Jacobian of a layer, and what comes of it.

    Attributes
    ----------
    name, type : str
        As in ``"3"`` and ``"Tanh"``.
    own : ndarray of shape (N, outputs, inputs)
        M(l): of its outputs with respect to its inputs, for each row.
    product : ndarray of shape (N, out_features, inputs)
        M(L) ... M(l): of the model's outputs with respect to the layer's inputs.
    """

    name: str
    type: str
    own: Array
    product: Array


@overload
def jacobian(
    model: Layer,
    x: Any,
    *,
    layers: Literal[False] = ...,
    training: bool = ...,
    memory_limit: int = ...,
) -> Array: ...
@overload
def jacobian(
    model: Layer, x: Any, *, layers: Literal[True], training: bool = ..., memory_limit: int = ...
) -> list[LayerJacobian]: ...
def jacobian(
    model: Layer,
    x: Any,
    *,
    layers: bool = False,
    training: bool = False,
    memory_limit: int = LIMIT,
) -> Array | list[LayerJacobian]:
    """The derivatives of a model's outputs with respect to its inputs, row by row.

    Parameters
    ----------
    model : Layer
        Any layer or network; it is left as it is.
    x : array_like of shape (N, in_features) or (in_features,), or a tuple of several inputs
        The points at which it is differentiated. Several inputs are put side by side.
    layers : bool, default False
        True: the Jacobians of all layers, M(l), and the products M(L) ... M(l) of each with those
        behind it. Layers are those of a `Sequential`, nested ones laid flat; `Residual`, `Concat`
        and `Parallel` are one each.
    training : bool, default False
        Evaluation mode; True: training mode, with the Dropout masks of the first step. BatchNorm in
        training mode is refused, since it makes each row depend on all others.
    memory_limit : int, default 2**30
        Bytes that the result may take.

    Returns
    -------
    ndarray of shape (N, out_features, in_features), in the model's dtype
        Without N if x is one row. ``jacobian(model, x)[i, j, k]`` is the derivative of output j of
        row i with respect to input k of that row; it is 0 where the input is a category.
        With ``layers=True`` a list of `LayerJacobian`, each with ``name``, ``type``, ``own`` and
        ``product``.

    Raises
    ------
    MemoryError
        The result would be larger than `memory_limit`; the message has its bytes.
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(2, 2), minidl.ReLU())
    >>> model[0].weight, model[0].bias = [[1.0, 2.0], [3.0, 4.0]], [0.0, -9.0]
    >>> minidl.jacobian(model, [1.0, 1.0]).tolist()
    [[1.0, 2.0], [0.0, 0.0]]
    """
    training, memory_limit = _checked(model, training, memory_limit)
    links = list(_links(model)) if checks.flag(layers, "layers") else [("", model)]
    single = len(checks.shape_and_kind(x)[0]) == 1
    points = one_matrix(model, checks.real(x, "x")[None] if single else x, "x")
    rows, widths = len(points), _widths(links, points.shape[1])
    numbers = widths[-1] * widths[0]
    if layers:
        numbers = sum(d * (k + widths[-1]) for d, k in pairwise(widths))
    _must_fit(rows * numbers * model.dtype.itemsize, memory_limit, "x", rows)
    passes = _passes(links, widths, rows, training)
    for each in passes:
        points = each.forward(points)
    found: list[LayerJacobian] = []
    for (name, layer), each, outputs in reversed(list(zip(links, passes, widths[1:], strict=True))):
        own = each.jacobian(outputs)
        own = own[0] if single else own
        product = found[-1].product @ own if found else own
        found.append(LayerJacobian(name, type(layer).__name__, own, product))
    return found[::-1] if layers else found[0].own


def jacobian_spectrum(
    model: Layer,
    X: Any,
    *,
    method: str = "exact",
    training: bool = False,
    memory_limit: int = LIMIT,
    iterations: int = 200,
    tol: float = 1e-4,
    seed: int = 0,
) -> JacobianSpectrum:
    """Singular values of the Jacobian of each layer, and of the product of those behind it.

    Layers are those of a `Sequential`, nested ones laid flat; `Residual`, `Concat` and `Parallel`
    are one each.

    Parameters
    ----------
    model : Layer
        It is left as it is.
    X
        Rows, as `predict` takes them; some ten to a hundred tell enough. All is measured for each
        row by itself.
    method : {"exact", "power"}
        "exact": all singular values of the exact Jacobians. "power": the greatest alone, estimated
        by power iteration with central differences in float64, for layers whose Jacobians are too
        large; to about `tol` where the greatest two lie apart, and never above the true value but
        for rounding.
    training, memory_limit
        As for `jacobian`; the limit is that of the largest matrices at one time.
    iterations : int, default 200
        The most steps of the power iteration.
    tol : float, default 1e-4
        It stops when each row's estimate is expected to gain no more than this share.
    seed : int, default 0
        Of its first vectors.

    Returns
    -------
    JacobianSpectrum
        ``print(spectrum)`` shows a table; it has ``.layers``, ``.growth_rate``, ``.plot()`` and
        ``.to_pandas()``.

    Raises
    ------
    MemoryError
        The matrices of a single row would be larger than `memory_limit`; the message has their
        bytes.
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(2, 2, bias=False), minidl.Linear(2, 2, bias=False))
    >>> model[0].weight = model[1].weight = [[0.5, 0.0], [0.0, 0.25]]
    >>> spectrum = minidl.jacobian_spectrum(model, np.ones((3, 2)))
    >>> spectrum.growth_rate
    0.5
    >>> spectrum.layers[0].product[0].tolist()
    [0.25, 0.0625]
    """
    training, memory_limit = _checked(model, training, memory_limit)
    checks.one_of(method, ("exact", "power"), "method")
    iterations = checks.count(iterations, "iterations", 1)
    tol = checks.number(tol, "tol", 0, open_low=True)
    rng = checks.seeded(seed)
    points = one_matrix(model, X, "X")
    checks.not_empty(points, "X")
    links = list(_links(model))
    if method == "exact":
        parts = _exact(links, points, training, memory_limit)
    else:
        parts = [_power(links, points, training, iterations, tol, rng)]
    return JacobianSpectrum(_layers(links, points.shape[1], parts), len(points), method)


def _checked(model: Any, training: Any, memory_limit: Any) -> tuple[bool, int]:
    """What both functions are given."""
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    training = checks.flag(training, "training")
    if training:
        for name, layer in model.layers():
            if isinstance(layer, BatchNorm1d):
                raise ValueError(
                    f"training: expected False, since layer {name} (BatchNorm1d) makes each row "
                    "depend on the whole batch in training mode. Set its statistics to those of "
                    "the data with Trainer.recalibrate_batchnorm, and use evaluation mode"
                )
    return training, checks.count(memory_limit, "memory_limit", 1)


def _must_fit(size: int, limit: int, name: str, rows: int) -> None:
    """Refuse what is too large."""
    if size > limit:
        raise MemoryError(
            f"{name}: the Jacobians of {rows:,} row{'s' if rows > 1 else ''} take {size:,} bytes, "
            f"more than memory_limit={limit:,}; "
            "pass fewer rows or a higher limit, or estimate the greatest singular values with "
            'jacobian_spectrum(..., method="power")'
        )


class _Pass:
    """A copy of a layer: its output for some rows, and products with its Jacobian."""

    def __init__(
        self, layer: Layer, columns: int, rows: int, training: bool, wide: bool = False
    ) -> None:
        self.layer = deepcopy(layer)
        self.layer.train(training)
        if wide:
            self.layer.set_dtype(np.dtype(np.float64))
        self.program = LayerProgram(self.layer, columns, rows)
        self.columns = columns

    def forward(self, x: Array) -> Array:
        """The output, as in the first step."""
        self.rows = len(x)
        return self.program.forward(x, 0)

    def transposed(self, dy: Array) -> Array:
        """Each row of dy times the Jacobian of its row."""
        return self.program.backward(dy)

    def jacobian(self, outputs: int) -> Array:
        """The Jacobians of all rows: (rows, outputs, columns)."""
        dtype = self.layer.dtype
        result = np.empty((self.rows, outputs, self.columns), dtype)
        unit = np.zeros((self.rows, outputs), dtype)
        for k in range(outputs):
            unit[:, k] = 1
            result[:, k] = self.transposed(unit)
            unit[:, k] = 0
        return result


# The layers of a network, one behind the other.


def _links(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of nested Sequentials, with their names."""
    if not isinstance(layer, Sequential) or type(layer).lower is not Sequential.lower:
        yield name, layer
        return
    for child, inner in layer.children():
        yield from _links(inner, f"{name}.{child}" if name else child)


def _widths(links: Sequence[tuple[str, Layer]], columns: int) -> list[int]:
    """Columns of the input, and of what each layer gives."""
    widths = [columns]
    for _, layer in links:
        widths.append(layer.output_features(widths[-1]))
    return widths


def _passes(
    links: Sequence[tuple[str, Layer]], widths: Sequence[int], rows: int, training: bool
) -> list[_Pass]:
    """A pass for each layer."""
    return [
        _Pass(layer, columns, rows, training)
        for (_, layer), columns in zip(links, widths, strict=False)
    ]


def _weights_in(layer: Layer, columns: int) -> int:
    """Layers with weights on the longest way through a layer."""
    graph = Graph(layer, columns, training=False)
    return graph.depths().get(graph.output, 0)


class _Part(NamedTuple):
    """Singular values of some rows, from the first layer on: of layers, and of products.

    Those of the products are logarithms, and begin with the whole network.
    """

    layers: list[Array]
    products: list[Array]


def _exact(
    links: Sequence[tuple[str, Layer]], points: Array, training: bool, limit: int
) -> list[_Part]:
    """As many rows at a time as fit."""
    widths = _widths(links, points.shape[1])
    most = max(
        (8 * (k * d + widths[-1] * (k + d)) for d, k in pairwise(widths)),
        default=0,
    )
    _must_fit(most, limit, "X", 1)
    size = min(max(limit // max(most, 1), 1), ROWS, len(points))
    passes = _passes(links, widths, size, training)
    return [
        _exact_part(passes, points[first : first + size], widths)
        for first in range(0, len(points), size)
    ]


def _exact_part(passes: Sequence[_Pass], x: Array, widths: Sequence[int]) -> _Part:
    """From the last layer to the first: product times Jacobian, held near 1."""
    for each in passes:
        x = each.forward(x)
    identity = np.broadcast_to(np.eye(widths[-1]), (len(x), widths[-1], widths[-1]))
    product, logarithm = identity, np.zeros((len(x), 1, 1))
    layers, products = [], [np.zeros((len(x), widths[-1]))]
    for each, outputs in zip(reversed(passes), reversed(widths), strict=False):
        own = each.jacobian(outputs).astype(np.float64)
        layers.append(_singular(own))
        product = product @ own
        scale = np.abs(product).max(axis=(1, 2), keepdims=True)
        scale[scale == 0] = 1
        product = product / scale
        logarithm = logarithm + np.log(scale)
        with np.errstate(divide="ignore"):
            products.append(np.log(_singular(product)) + logarithm[:, :, 0])
    return _Part(layers[::-1], products[::-1])


def _singular(matrices: Array) -> Array:
    """Singular values of each row's matrix, the greatest first; once if all are the same."""
    if (matrices == matrices[0]).all():
        values = np.linalg.svd(matrices[0], compute_uv=False)
        return np.broadcast_to(values, (len(matrices), len(values)))
    return np.asarray(np.linalg.svd(matrices, compute_uv=False))


# Power iteration.


class _Link:
    """A layer at its input: products with its Jacobian, and with its transpose."""

    def __init__(self, layer: Layer, x: Array, training: bool) -> None:
        self.x = x
        self.at, self.near = (
            _Pass(layer, x.shape[1], len(x), training, wide=True) for _ in range(2)
        )
        self.y = self.at.forward(x)

    def transposed(self, u: Array) -> Array:
        """A backward pass."""
        return self.at.transposed(u)

    def times(self, v: Array) -> Array:
        """A central difference, with the step that rounds least."""
        largest = np.abs(v).max(axis=1, keepdims=True)
        step = (
            np.cbrt(np.finfo(np.float64).eps) * np.maximum(1, np.abs(self.x).max(axis=1))[:, None]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(largest > 0, step / largest, 0.0)
        above, below = (self.near.forward(self.x + sign * step * v) for sign in (1, -1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(step > 0, (above - below) / (2 * step), 0.0)


def _power(
    links: Sequence[tuple[str, Layer]],
    points: Array,
    training: bool,
    iterations: int,
    tol: float,
    rng: np.random.Generator,
) -> _Part:
    """The greatest singular value of each layer and of each product."""
    x = points.astype(np.float64)
    chain = []
    for _, layer in links:
        chain.append(_Link(layer, x, training))
        x = chain[-1].y
    start: Array = np.asarray(rng.standard_normal(x.shape))
    layers, products = [], [np.zeros((len(x), 1))]
    for first in range(len(chain) - 1, -1, -1):
        link = chain[first]
        own, _ = _greatest([link], np.asarray(rng.standard_normal(link.y.shape)), iterations, tol)
        layers.append(np.exp(own))
        # The product of one layer more has nearly the same first vector.
        value, start = _greatest(chain[first:], start, iterations, tol)
        products.append(value)
    return _Part(layers[::-1], products[::-1])


def _greatest(chain: Sequence[_Link], u: Array, iterations: int, tol: float) -> tuple[Array, Array]:
    """Logarithm of the greatest singular value of each row's product, and the vector on its left.

    u -> J J^T u; each factor is scaled to length 1, so that nothing over- or underflows. Estimates
    rise to the value, each step's gain a share q of the one before: what is yet to come is
    q / (1 - q) times the last.
    """
    u, _ = _unit(u)
    value = gain = np.full((len(u), 1), -np.inf)
    for _ in range(iterations):
        before, gained, v, value = value, gain, u, np.zeros((len(u), 1))
        for link in reversed(chain):
            v, size = _unit(link.transposed(v))
            value = value + size
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.abs(value - before)
            q = np.clip(np.nan_to_num(gain / gained, nan=0.0), 0, 1 - 1e-6)
            settled = (gain < ROUNDING) | (gain * q / (1 - q) <= tol) & np.isfinite(gained)
        if (settled | np.isneginf(value)).all():
            break
        w = v
        for link in chain:
            w, _ = _unit(link.times(w))
        u = np.where(np.isfinite(value), w, u)
    return value, u


def _unit(v: Array) -> tuple[Array, Array]:
    """Rows scaled to length 1, and the logarithms of their lengths; rows of zeros stay."""
    largest = np.abs(v).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    v = v / largest
    length = np.linalg.norm(v, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return v / np.where(length > 0, length, 1), np.log(length) + np.log(largest)


# What comes of it.


class LayerSpectrum(NamedTuple):
    """What was measured of one layer.

    Attributes
    ----------
    name, type : str
        As in ``"3"`` and ``"Tanh"``.
    shape : (int, int)
        Of its Jacobian: outputs, inputs.
    depth : int
        Layers with weights up to this one, itself included.
    singular_values : ndarray of shape (rows, min(shape))
        Of its own Jacobian M(l), for each row, the greatest first. With ``method="power"`` the
        greatest alone.
    product : ndarray of shape (rows, ...)
        Singular values of M(L) ... M(l): of this layer and all behind it.
    log_product : ndarray
        Their logarithms, which neither underflow nor overflow.
    growth_rate : float
        By how much the greatest singular value of that product grows a layer with weights: the
        median over the rows of its 1 / n-th power, n being the layers with weights in the product.
        Its logarithm is the largest Lyapunov exponent of a chain of n steps.
    """

    name: str
    type: str
    shape: tuple[int, int]
    depth: int
    singular_values: Array
    product: Array
    log_product: Array
    growth_rate: float

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.name} ({self.type})" if self.name else self.type

    @property
    def largest(self) -> float:
        """The greatest singular value of the layer's own Jacobian, the median of the rows."""
        return float(np.median(self.singular_values[:, 0]))

    @property
    def condition(self) -> float:
        """The median condition number of its own Jacobian; infinite where one is singular."""
        return _condition(self.singular_values)

    @property
    def product_largest(self) -> float:
        """The greatest singular value of the product, the median of the rows."""
        return float(np.median(self.product[:, 0]))

    @property
    def product_condition(self) -> float:
        """The median condition number of the product."""
        with np.errstate(invalid="ignore"):
            return _condition(np.exp(self.log_product - self.log_product[:, :1]))


def _condition(values: Array) -> float:
    """Greatest over least; infinite where the least is rounding alone. NaN of one value alone."""
    if values.shape[1] < 2:
        return float("nan")
    least = np.finfo(np.float64).eps * values.shape[1] * values[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values[:, 0] / values[:, -1]
    return float(np.median(np.where(values[:, -1] > least, ratio, np.inf)))


class JacobianSpectrum(Table):
    """What `jacobian_spectrum` returns: a table of layers.

    ``print(spectrum)`` shows it as text, notebooks as a table: of each layer the greatest singular
    value and the condition number of its own Jacobian, and of the product with all layers behind
    it, M(L) ... M(l), and that product's growth rate. Numbers are medians over the rows.

    Attributes
    ----------
    layers : list of LayerSpectrum
        In the order of execution.
    rows : int
        Rows of data that were looked at.
    method : {"exact", "power"}
    growth_rate : float
        That of the whole network: 1 where gradients neither vanish nor explode, on average.
    """

    _header = ("layer", "Jacobian", "largest", "condition", "largest to the output",
               "condition to the output", "growth a layer")  # fmt: skip
    _left = 2

    def __init__(self, layers: Sequence[LayerSpectrum], rows: int, method: str) -> None:
        self.layers, self.rows, self.method = list(layers), rows, method
        self.growth_rate = self.layers[0].growth_rate if self.layers else 1.0

    def _lines(self) -> Iterator[Line]:
        for layer in self.layers:
            numbers = (
                layer.largest, layer.condition, layer.product_largest, layer.product_condition,
                layer.growth_rate,
            )  # fmt: skip
            shape = "{} x {}".format(*layer.shape)
            yield Line((layer.title, shape, *map(number, numbers)))

    def _foot(self) -> list[str]:
        how = "exact" if self.method == "exact" else "estimated by power iteration"
        return [
            f"{self.rows:,} rows, {how}; the largest singular value grows {self.growth_rate:.3g}x "
            "per layer"
        ]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each layer, named by it: what the table has."""
        from minidl.extras import need

        pandas = need("pandas", "pandas", "JacobianSpectrum.to_pandas")
        names = ("type", "depth", "largest", "condition", "product_largest", "product_condition",
                 "growth_rate")  # fmt: skip
        index = pandas.Index([layer.name for layer in self.layers], name="name")
        return pandas.DataFrame(
            {name: [getattr(layer, name) for layer in self.layers] for name in names}, index=index
        )

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the singular values of each layer, and those of the products to the output.

        Needs matplotlib, and neither a display nor pyplot.

        Parameters
        ----------
        figsize : (float, float), optional
            Width and height in inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from minidl.plotting_health import draw_spectrum

        return draw_spectrum(self, figsize)


def _layers(
    links: Sequence[tuple[str, Layer]], columns: int, parts: Sequence[_Part]
) -> list[LayerSpectrum]:
    """The parts put together, layer by layer."""
    widths, depths = _widths(links, columns), [0]
    for (_, layer), inputs in zip(links, widths, strict=False):
        depths.append(depths[-1] + _weights_in(layer, inputs))
    found = []
    for i, (name, layer) in enumerate(links):
        own = np.concatenate([part.layers[i] for part in parts])
        logarithms = np.concatenate([part.products[i] for part in parts])
        behind = max(depths[-1] - depths[i], 1)
        with np.errstate(over="ignore"):
            product = np.exp(logarithms)
            rate = float(np.median(np.exp(logarithms[:, 0] / behind)))
        found.append(
            LayerSpectrum(
                name, type(layer).__name__, (widths[i + 1], widths[i]), depths[i + 1], own,
                product, logarithms, rate,
            )
        )  # fmt: skip
    return found
