"""Any network of minidl's in NumPy, on the formulas of the baseline, and in PyTorch."""

import copy

import numpy as np

import minidl
from minidl import numpy_baseline as baseline

# ----------------------------------------------------------------------------------- NumPy


def exactly(array, scale=0.0):
    """What a twin does to each array that it makes: nothing."""
    return array


def shaken(rng, unit):
    """Rounds as a machine might: each element is off by as much as a unit, up or down.

    A unit of the element, or of `scale`, the size of what it is the difference of. What a result
    moves by then is what rounding may do to it (D. Stott Parker's Monte Carlo arithmetic).
    """

    def rounded(array, scale=0.0):
        size = np.maximum(np.abs(array), scale)
        return array + unit * size * rng.uniform(-1, 1, array.shape)

    return rounded


SHAKES = 3
# A result may differ by so many times what it moves by when all numbers are shaken by a unit, and
# by so many units of the largest element.
MOVES, UNITS = 30, 30


def unit_of(dtype):
    """What rounding changes a number by, at most."""
    return float(np.finfo(dtype).eps) / 2


def roundings(dtype, seed=0):
    """Those of the twins that `assert_as` wants: the exact one and the shaken ones."""
    return [exactly, *[shaken(np.random.default_rng(seed), unit_of(dtype))] * SHAKES]


def largest(array):
    """The largest absolute value."""
    return float(np.abs(array).max(initial=0))


def assert_as(name, got, found, unit, scale=0.0, floor=1e-37):
    """An array is the exact one, the first of those found, as far as rounding lets it.

    `scale` is the size of what it is a difference of, `floor` what numbers may be too small by.
    """
    exact, *moved = found
    assert np.shape(got) == exact.shape, name
    off = max(largest(one - exact) for one in moved)
    allowed = MOVES * off + UNITS * unit * max(largest(exact), scale) + floor
    error = largest(np.asarray(got, float) - exact)
    # Numbers that overflowed in float32 alone are left to the search for what is not finite.
    assert not error > allowed or not np.isfinite(got).all(), (
        f"{name}: off by {error:.3g}, allowed {allowed:.3g}"
    )


class Twin:
    """The network of a layer in NumPy, in float64, with the values that it has now.

    Parameters
    ----------
    layer : Layer
    rounded : callable
        Rounds what the layers compute, forward and backward: `exactly` or `shaken`.
    """

    def __init__(self, layer, rounded=exactly):
        self.layer, self.rounded = layer, rounded
        self.inner = [Twin(child, rounded) for _, child in layer.children()]
        parameters = {} if self.inner else layer._parameters
        self.values = {
            name: rounded(p.array.astype(float)) if p.trainable else p.array.astype(float)
            for name, p in parameters.items()
        }

    def forward(self, x, training=True, step=0):
        """The output; `step` is that of the masks of Dropout."""
        function = FORMULAS.get(type(self.layer).__name__, activation)
        y, self._backward = function(self, x, training, step)
        return y

    def backward(self, dy):
        """The gradient of the input, or None for categories; then `gradients` has the others."""
        dx, self._own = self._backward(dy)
        return dx

    def gradients(self):
        """Of all trainable parameters, in minidl's order."""
        return [*self._own, *(g for twin in self.inner for g in twin.gradients())]

    def running(self):
        """Running averages of all BatchNorms, in minidl's order."""
        own = [v for name, v in self.values.items() if name.startswith("running")]
        return [*own, *(v for twin in self.inner for v in twin.running())]


# A formula gives the output, and a function from its gradient to that of the input and those of the
# parameters.


def activation(twin, x, training, step):
    function, params = baseline.ACTIVATIONS[type(twin.layer).__name__], twin.layer.config()
    y = twin.rounded(function.forward(x, **params), np.abs(x))
    return y, lambda dy: (twin.rounded(function.backward(dy, x, y, **params), np.abs(dy)), [])


def identity(twin, x, training, step):
    return x, lambda dy: (dy, [])


def linear(twin, x, training, step):
    weight, bias = twin.values["weight"], twin.values.get("bias")

    def backward(dy):
        dx, *gradients = baseline.linear_backward(dy, x, weight)
        return twin.rounded(dx), gradients[: len(twin.values)]

    return twin.rounded(baseline.linear_forward(x, weight, bias)), backward


def batchnorm(twin, x, training, step):
    layer = twin.layer
    gamma, beta, *running = twin.values.values()
    if training:
        momentum = layer.momentum
        if momentum is None:
            momentum = 1 / (1 + int(layer.num_batches_tracked))
        shift = x[0]  # so that equal rows have no spread, not even a rounding's
        x = x - shift
        y, mean, inverse = baseline.batchnorm_forward(x, gamma, beta, *running, layer.eps, momentum)
        running[0] += momentum * shift
    else:
        mean, inverse = running[0], 1 / np.sqrt(running[1] + layer.eps)
        y = gamma * ((x - mean) * inverse) + beta  # x may lie near the mean, and the variance be 0

    def backward(dy):
        size = np.abs(dy * gamma * inverse)
        if training:
            dx, *gradients = baseline.batchnorm_backward(dy, x, mean, inverse, gamma)
            return twin.rounded(dx, size.max(axis=0)), gradients
        dgamma = (dy * (x - mean) * inverse).sum(axis=0)
        return twin.rounded(dy * gamma * inverse), [dgamma, dy.sum(axis=0)]

    return twin.rounded(y, 1), backward


def rows_norm(twin, x, training, step):
    """LayerNorm and RMSNorm."""
    layer, gamma, beta = twin.layer, twin.values.get("weight"), twin.values.get("bias")
    eps = layer.epsilon(layer.dtype)
    if layer.centered:  # equal columns have no spread
        x = x - x[:, :1]
    y, xhat, inverse = baseline.layernorm_forward(x, gamma, beta, eps, layer.centered)

    def backward(dy):
        dx, *gradients = baseline.layernorm_backward(dy, xhat, inverse, gamma, layer.centered)
        size = np.abs(dy if gamma is None else dy * gamma) * inverse[:, None]
        return twin.rounded(dx, size.max(axis=1, keepdims=True)), gradients[: len(twin.values)]

    return twin.rounded(y, 1), backward


def softmax(twin, x, training, step):
    y = twin.rounded(baseline.softmax_forward(x))

    def backward(dy):
        size = y * np.abs(dy).max(axis=1, keepdims=True)
        return twin.rounded(baseline.softmax_backward(dy, y), size), []

    return y, backward


def prelu(twin, x, training, step):
    weight = twin.values["weight"]

    def backward(dy):
        dx, gradient = baseline.prelu_backward(dy, x, weight)
        return twin.rounded(dx), [gradient]

    return twin.rounded(baseline.prelu_forward(x, weight)), backward


def embedding(twin, x, training, step):
    weight = twin.values["weight"]
    return baseline.embedding_forward(x, weight), lambda dy: (
        None,
        [baseline.embedding_backward(dy, x, weight)],
    )


def dropout(twin, x, training, step):
    mask = mask_of(twin.layer, x.shape, step) if training else 1.0
    return twin.rounded(x * mask), lambda dy: (twin.rounded(dy * mask), [])


def mask_of(layer, shape, step):
    """The factors of a Dropout in a step; `test_layers.py` has the random words behind them."""
    twin = minidl.Dropout(layer.p)
    twin.key, twin._steps = layer.key, step
    twin.set_dtype(layer.dtype)
    return twin(np.ones(shape, layer.dtype)).astype(float)


def sequential(twin, x, training, step):
    for inner in twin.inner:
        x = inner.forward(x, training, step)

    def backward(dy):
        for inner in reversed(twin.inner):
            dy = inner.backward(dy)
        return dy, []

    return x, backward


def residual(twin, x, training, step):
    (block,) = twin.inner
    y = block.forward(x, training, step)

    def backward(dy):
        dx = block.backward(dy)
        return twin.rounded(dy + dx, np.abs(dx)), []

    return twin.rounded(x + y, np.abs(x)), backward


def branches(twin, x, training, step):
    """Concat, whose branches read all, and Parallel, whose branches read columns of their own."""
    shared = isinstance(twin.layer, minidl.Concat)
    parts = [x] * len(twin.inner)
    if not shared:
        parts = np.split(x, np.cumsum(twin.layer.columns)[:-1], axis=1)
    outputs = [
        inner.forward(part, training, step) for inner, part in zip(twin.inner, parts, strict=True)
    ]

    def backward(dy):
        edges = np.cumsum([y.shape[1] for y in outputs])[:-1]
        pairs = zip(twin.inner, np.split(dy, edges, axis=1), parts, strict=True)
        found = [(inner.backward(part), given) for inner, part, given in pairs]
        gradients = [np.zeros_like(given) if dx is None else dx for dx, given in found]
        if not shared:
            return np.concatenate(gradients, axis=1), []
        return twin.rounded(sum(gradients), sum(map(np.abs, gradients))), []

    return np.concatenate(outputs, axis=1), backward


# Beside the activations, which have no parameters.
FORMULAS = {
    "BatchNorm1d": batchnorm, "Concat": branches, "Dropout": dropout, "Embedding": embedding,
    "Flatten": identity, "Identity": identity, "LayerNorm": rows_norm, "Linear": linear,
    "PReLU": prelu, "Parallel": branches, "RMSNorm": rows_norm, "Residual": residual,
    "Sequential": sequential, "Softmax": softmax,
}  # fmt: skip


# --------------------------------------------------------------------------------- PyTorch


def torch_twin(torch, layer):
    """The same network in PyTorch, with copies of the values; containers are written out."""

    class Module(torch.nn.Module):
        """A container, or a layer that PyTorch has in another form."""

        def __init__(self, forward, inner=()):
            super().__init__()
            self.inner = torch.nn.ModuleList(inner)
            self.function = forward

        def forward(self, x):
            return self.function(self.inner, x)

    inner = [torch_twin(torch, child) for _, child in layer.children()]
    if isinstance(layer, minidl.Sequential):
        return torch.nn.Sequential(*inner)
    if isinstance(layer, minidl.Residual):
        return Module(lambda inner, x: x + inner[0](x), inner)
    if isinstance(layer, minidl.Concat):
        return Module(lambda inner, x: torch.cat([branch(x) for branch in inner], 1), inner)
    if isinstance(layer, minidl.Parallel):
        columns = layer.columns

        def parallel(inner, x):
            pairs = zip(inner, torch.split(x, columns, 1), strict=True)
            return torch.cat([branch(part) for branch, part in pairs], 1)

        return Module(parallel, inner)
    if isinstance(layer, minidl.Dropout) and layer.training:
        return Module(lambda _, x: x * torch.tensor(mask_of(layer, x.shape, 0)).to(x))
    (module,) = minidl.to_torch(minidl.Sequential(copy.deepcopy(layer), dtype=layer.dtype))
    if isinstance(layer, minidl.Embedding):
        return Module(lambda inner, x: inner[0](x.long()).flatten(1), [module])
    return module
