"""The networks of minidl in plain NumPy: oracle of the tests, opponent in the benchmarks.

Every function keeps the dtype of its input (float32 or float64), works on whole batches, and
reuses its own temporaries through in-place arithmetic; arguments are never written to unless
the docstring says so.  Shapes: ``N`` rows (samples), ``D`` inputs, ``K`` outputs, ``C`` classes.
Formulas and defaults are those of PyTorch.  Masks enter as factors (``dy * (x > 0)``): NumPy
multiplies by a boolean far faster than it copies through one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Loss: TypeAlias = Callable[[Array, Array], tuple[float, Array]]


# ------------------------------------------------------------------------------ linear


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``y = x W^T + b``: x (N, D), weight (K, D), bias (K,) -> y (N, K)."""
    y: Array = x @ weight.T
    if bias is not None:
        y += bias
    return y


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """``dx = dy W, dW = dy^T x, db = sum_n dy`` -> (dx (N, D), dweight (K, D), dbias (K,))."""
    return dy @ weight, dy.T @ x, dy.sum(axis=0)


# -------------------------------------------------------------------------- batch norm


def batchnorm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> tuple[Array, Array, Array]:
    """``y = gamma (x - mean) inv_std + beta`` -> (y (N, D), mean (D,), inv_std (D,)).

    ``inv_std = 1 / sqrt(var + eps)`` with the biased variance of the batch.  The running
    statistics move in place, ``r = (1 - momentum) r + momentum batch``, the variance unbiased.
    """
    rows = x.shape[0]
    if rows < 2:
        raise ValueError(f"batch norm needs more than one row to train on, got {rows}")
    mean: Array = x.mean(axis=0)
    y = x - mean
    var: Array = np.einsum("nd,nd->d", y, y)
    var /= rows
    inv_std: Array = 1 / np.sqrt(var + eps)
    y *= gamma * inv_std
    y += beta
    running_mean *= 1 - momentum
    running_mean += momentum * mean
    running_var *= 1 - momentum
    running_var += (momentum * rows / (rows - 1)) * var
    return y, mean, inv_std


def batchnorm_backward(
    dy: Array, x: Array, mean: Array, inv_std: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """Gradient through the batch statistics -> (dx (N, D), dgamma (D,), dbeta (D,)).

    With ``h = (x - mean) inv_std``: ``dbeta = sum dy``, ``dgamma = sum dy h`` and
    ``dx = gamma inv_std (dy - dbeta / N - h dgamma / N)``.
    """
    rows = x.shape[0]
    dx = x - mean
    dx *= inv_std
    dgamma: Array = np.einsum("nd,nd->d", dy, dx)
    dbeta: Array = dy.sum(axis=0)
    dx *= dgamma / -rows
    dx += dy
    dx -= dbeta / rows
    dx *= gamma * inv_std
    return dx, dgamma, dbeta


def batchnorm_predict(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    eps: float = 1e-5,
) -> Array:
    """``y = gamma (x - running_mean) / sqrt(running_var + eps) + beta``, (N, D) -> (N, D)."""
    scale = gamma / np.sqrt(running_var + eps)
    y = x * scale
    y += beta - running_mean * scale
    return y


# ------------------------------------------------------------------- layers of single rows


def layernorm_forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
    centered: bool = True,
) -> tuple[Array, Array, Array]:
    """``y = gamma (x - mean) inv_std + beta``, row by row -> (y (N, D), xhat (N, D), inv_std (N,)).

    ``inv_std = 1 / sqrt(mean((x - mean)^2) + eps)``; not centered, as in RMSNorm, the mean is 0.
    """
    xhat = x - x.mean(axis=1, keepdims=True) if centered else x.copy()
    inv_std: Array = 1 / np.sqrt(np.einsum("nd,nd->n", xhat, xhat) / x.shape[1] + eps)
    xhat *= inv_std[:, None]
    y = xhat.copy() if gamma is None else xhat * gamma
    if beta is not None:
        y += beta
    return y, xhat, inv_std


def layernorm_backward(
    dy: Array,
    xhat: Array,
    inv_std: Array,
    gamma: Array | None = None,
    centered: bool = True,
) -> tuple[Array, Array, Array]:
    """Gradient through the rows' statistics -> (dx (N, D), dgamma (D,), dbeta (D,)).

    With ``g = gamma dy``: ``dx = inv_std (g - mean(g) - xhat mean(g xhat))``.
    """
    columns = dy.shape[1]
    dx = dy.copy() if gamma is None else dy * gamma
    shift = np.einsum("nd,nd->n", dx, xhat)[:, None] / columns
    if centered:
        dx -= dx.mean(axis=1, keepdims=True)
    dx -= xhat * shift
    dx *= inv_std[:, None]
    return dx, np.einsum("nd,nd->d", dy, xhat), dy.sum(axis=0)


def softmax_forward(x: Array) -> Array:
    """``y = exp(x) / sum(exp(x))``, row by row, (N, D) -> (N, D)."""
    y: Array = x - x.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y


def softmax_backward(dy: Array, y: Array) -> Array:
    """``dx = y (dy - sum(dy y))``, row by row."""
    dx: Array = dy - np.einsum("nd,nd->n", dy, y)[:, None]
    dx *= y
    return dx


def prelu_forward(x: Array, weight: Array) -> Array:
    """``y = x > 0 ? x : weight x``, weight (1,) or (D,)."""
    y: Array = np.maximum(x, 0)
    y += weight * np.minimum(x, 0)
    return y


def prelu_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """``dx = x > 0 ? dy : weight dy, dweight = sum(min(x, 0) dy)`` -> (dx (N, D), dweight)."""
    dweight: Array = np.einsum("nd,nd->d", np.minimum(x, 0), dy)
    return dy * np.where(x > 0, 1, weight), dweight if len(weight) > 1 else dweight.sum(
        keepdims=True
    )


def embedding_forward(x: Array, weight: Array) -> Array:
    """Rows of weight (K, E) that the categories x (N, F) name, side by side -> (N, F E)."""
    return weight[x.astype(np.intp)].reshape(len(x), x.shape[1] * weight.shape[1])


def embedding_backward(dy: Array, x: Array, weight: Array) -> Array:
    """Gradient of the whole table, (K, E)."""
    dweight = np.zeros_like(weight)
    np.add.at(dweight, x.astype(np.intp).ravel(), dy.reshape(-1, weight.shape[1]))
    return dweight


# ------------------------------------------------------------------- special functions


def _sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``; where the exponential overflows, ``1 / inf = 0`` is the answer."""
    s: Array = np.negative(x)
    with np.errstate(over="ignore"):
        np.exp(s, out=s)
    s += 1
    return np.reciprocal(s, out=s)


def _polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    """Horner's rule, highest power first."""
    y: Array = x * coefficients[0]
    y += coefficients[1]
    for c in coefficients[2:]:
        y *= x
        y += c
    return y


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969):
# erf(x) = x P(x^2) / Q(x^2) up to 0.46875, and erfc(x) = exp(-x^2) P(x) / Q(x) above.
_ERF_NUMERATOR = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
    3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
_ERF_DENOMINATOR = (
    1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
    2.84423683343917062e3,
)  # fmt: skip
_ERFC_NUMERATOR = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
    6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
    1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_ERFC_DENOMINATOR = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
    1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
    3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
# M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26:
# erfc(x) = exp(-x^2) t P(t), t = 1 / (1 + 0.3275911 x), to 1.5e-7 - enough for float32.
_ERFC_SINGLE = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def erf(x: Array) -> Array:
    """Error function, elementwise; absolute error below 1e-15 in float64, 1e-6 in float32."""
    a: Array = np.abs(x)
    np.minimum(a, 6, out=a)  # erf(6) rounds to 1
    density = np.square(a)
    np.negative(density, out=density)
    np.exp(density, out=density)
    if x.dtype == np.float32:
        t = a * 0.3275911
        t += 1
        np.reciprocal(t, out=t)
        y = _polynomial(t, _ERFC_SINGLE)
        y *= t
    else:
        y = _polynomial(a, _ERFC_NUMERATOR)
        y /= _polynomial(a, _ERFC_DENOMINATOR)
    y *= density
    np.subtract(1, y, out=y)
    if x.dtype != np.float32:
        near = np.flatnonzero(a <= 0.46875)
        b = a.ravel()[near]
        z = b * b
        b *= _polynomial(z, _ERF_NUMERATOR)
        b /= _polynomial(z, _ERF_DENOMINATOR)
        np.put(y, near, b)
    return np.copysign(y, x, out=y)


# ------------------------------------------------------------------------- activations


class Activation(NamedTuple):
    """``forward(x, **params) -> y`` and ``backward(dy, x, y, **params) -> dx``, one shape."""

    forward: Callable[..., Array]
    backward: Callable[..., Array]


def _relu(x: Array) -> Array:
    """``max(x, 0)``."""
    return np.maximum(x, 0)


def _relu_backward(dy: Array, x: Array, y: Array) -> Array:
    """``dy [x > 0]``."""
    dx: Array = dy * (x > 0)
    return dx


def _leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """``x`` above 0, ``negative_slope x`` elsewhere."""
    y: Array = x * negative_slope
    return (np.maximum if negative_slope <= 1 else np.minimum)(x, y, out=y)


def _leaky_relu_backward(dy: Array, x: Array, y: Array, negative_slope: float = 0.01) -> Array:
    """``dy`` above 0, ``negative_slope dy`` elsewhere (0 included)."""
    dx: Array = np.multiply(x > 0, 1 - negative_slope, dtype=x.dtype)
    dx += negative_slope
    dx *= dy
    return dx


def _elu(x: Array, alpha: float = 1.0) -> Array:
    """``x`` above 0, ``alpha (exp(x) - 1)`` elsewhere."""
    y: Array = np.minimum(x, 0)
    np.expm1(y, out=y)
    y *= alpha
    y += np.maximum(x, 0)
    return y


def _elu_backward(dy: Array, x: Array, y: Array, alpha: float = 1.0) -> Array:
    """``dy`` above 0, ``alpha exp(x) dy`` elsewhere (0 included)."""
    positive = x > 0
    dx: Array = np.minimum(x, 0)
    np.exp(dx, out=dx)
    dx *= alpha
    dx *= ~positive
    dx += positive
    dx *= dy
    return dx


def _tanh(x: Array) -> Array:
    """``tanh(x)``."""
    return np.tanh(x)


def _tanh_backward(dy: Array, x: Array, y: Array) -> Array:
    """``dy (1 - y^2)``."""
    dx: Array = np.square(y)
    np.subtract(1, dx, out=dx)
    dx *= dy
    return dx


def _sigmoid_backward(dy: Array, x: Array, y: Array) -> Array:
    """``dy y (1 - y)``."""
    dx: Array = 1 - y
    dx *= y
    dx *= dy
    return dx


def _silu(x: Array) -> Array:
    """``x s(x)``, s the sigmoid."""
    y = _sigmoid(x)
    y *= x
    return y


def _silu_backward(dy: Array, x: Array, y: Array) -> Array:
    """``dy (s + y (1 - s))``."""
    s = _sigmoid(x)
    dx: Array = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx


_GELU_SCALE, _GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def _gelu_is_exact(approximate: str) -> bool:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return approximate == "none"


def _gelu_tanh(x: Array) -> Array:
    """``tanh(sqrt(2 / pi) (x + 0.044715 x^3))``."""
    t: Array = np.square(x)
    t *= _GELU_SCALE * _GELU_CUBIC
    t += _GELU_SCALE
    t *= x
    return np.tanh(t, out=t)


def _gelu(x: Array, approximate: str = "none") -> Array:
    """``x (1 + erf(x / sqrt(2))) / 2``, or the same with ``_gelu_tanh(x)`` for the erf."""
    y = erf(x * math.sqrt(0.5)) if _gelu_is_exact(approximate) else _gelu_tanh(x)
    y += 1
    y *= x
    y *= 0.5
    return y


def _gelu_backward(dy: Array, x: Array, y: Array, approximate: str = "none") -> Array:
    """``dy (y / x + x density(x))``; with ``t = _gelu_tanh(x)``, ``dy ((1 + t) + x t') / 2``."""
    dx: Array = np.square(x)
    if _gelu_is_exact(approximate):
        dx *= -0.5
        np.exp(dx, out=dx)
        dx *= x
        dx *= math.sqrt(0.5 / math.pi)
        dx += np.divide(y, x, out=np.full_like(x, 0.5), where=np.abs(x) > 1e-20)
    else:  # t' = (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
        t = _gelu_tanh(x)
        dx *= 1.5 * _GELU_SCALE * _GELU_CUBIC
        dx += 0.5 * _GELU_SCALE
        dx *= x
        dx *= 1 - t * t
        t += 1
        t *= 0.5
        dx += t
    dx *= dy
    return dx


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself where ``beta x > threshold``."""
    y: Array = x * beta
    linear = y > threshold
    np.minimum(y, threshold, out=y)
    np.exp(y, out=y)
    np.log1p(y, out=y)
    y /= beta
    np.copyto(y, x, where=linear)
    return y


def _softplus_backward(
    dy: Array, x: Array, y: Array, beta: float = 1.0, threshold: float = 20.0
) -> Array:
    """``dy s(beta x)``, s the sigmoid, and ``dy`` itself where ``beta x > threshold``."""
    dx: Array = x * -beta
    curved = dx >= -threshold
    with np.errstate(over="ignore"):
        np.exp(dx, out=dx)
    dx *= curved
    dx += 1
    return np.divide(dy, dx, out=dx)


ACTIVATIONS: dict[str, Activation] = {
    "ReLU": Activation(_relu, _relu_backward),
    "LeakyReLU": Activation(_leaky_relu, _leaky_relu_backward),
    "ELU": Activation(_elu, _elu_backward),
    "Tanh": Activation(_tanh, _tanh_backward),
    "Sigmoid": Activation(_sigmoid, _sigmoid_backward),
    "SiLU": Activation(_silu, _silu_backward),
    "GELU": Activation(_gelu, _gelu_backward),
    "Softplus": Activation(_softplus, _softplus_backward),
}


# ------------------------------------------------------------------------------ losses


def cross_entropy(
    logits: Array,
    labels: Array,
    weight: Array | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """Mean of ``-sum_c p_c log softmax(logits)_c`` -> (loss, dlogits (N, C)).

    logits (N, C); labels are class numbers, integer (N,), or probabilities ``p``, floating (N, C).
    With a weight of each class (C,), label smoothing or sample weights (N,), ``p`` becomes
    ``weight ((1 - label_smoothing) p + label_smoothing / C)``, and the mean is that of rows which
    count their sample weight and, with labels, times the weight of their class.
    """
    rows, classes = logits.shape
    whole = np.issubdtype(labels.dtype, np.integer)
    if whole:
        _check_labels(labels, rows)
    else:
        _check_same_shape(logits, labels)
    shifted: Array = logits - logits.max(axis=1, keepdims=True)
    dlogits: Array = np.exp(shifted)
    total: Array = dlogits.sum(axis=1, keepdims=True)
    dlogits /= total
    shifted -= np.log(total)  # the logarithm of the softmax
    if weight is not None or label_smoothing or sample_weight is not None:
        share = np.ones(classes) if weight is None else np.asarray(weight)
        counts = np.ones(rows) if sample_weight is None else np.asarray(sample_weight)
        p = np.eye(classes)[labels] if whole else labels
        p = share * ((1 - label_smoothing) * p + label_smoothing / classes)
        dlogits *= p.sum(axis=1, keepdims=True)
        dlogits -= p
        size = (counts * share[labels] if whole else counts).sum()
        return _rows_mean(-(p * shifted).sum(axis=1), dlogits, counts, float(size))
    if whole:
        index = (np.arange(rows), labels)
        loss = -float(shifted[index].mean())
        dlogits[index] -= 1
    else:
        loss = -float(np.vdot(labels, shifted)) / rows
        dlogits *= labels.sum(axis=1, keepdims=True)
        dlogits -= labels
    dlogits /= rows
    return loss, dlogits


def multi_margin(
    scores: Array,
    labels: Array,
    p: int = 1,
    margin: float = 1.0,
    weight: Array | None = None,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """Mean of ``weight_y / C sum_{c != y} max(0, margin - x_y + x_c)^p`` -> (loss, dscores).

    scores ``x`` (N, C), labels ``y`` integer (N,).
    """
    rows, classes = scores.shape
    _check_labels(labels, rows)
    index = (np.arange(rows), labels)
    excess = np.maximum(margin - scores[index][:, None] + scores, 0)
    excess[index] = 0
    slope = (excess > 0).astype(scores.dtype) if p == 1 else 2 * excess
    slope[index] = -slope.sum(axis=1)
    share = np.full(rows, 1 / classes) if weight is None else np.asarray(weight)[labels] / classes
    slope *= share[:, None]
    counts = np.ones(rows) if sample_weight is None else np.asarray(sample_weight)
    return _rows_mean((excess**p).sum(axis=1) * share, slope, counts, float(counts.sum()))


def mse_loss(pred: Array, target: Array, sample_weight: Array | None = None) -> tuple[float, Array]:
    """Mean over all elements of ``(pred - target)^2`` -> (loss, dpred); equal shapes."""
    _check_same_shape(pred, target)
    dpred: Array = pred - target
    if sample_weight is not None:
        return _mean(dpred * dpred, 2 * dpred, sample_weight)
    loss = float(np.vdot(dpred, dpred)) / dpred.size
    dpred *= 2 / dpred.size
    return loss, dpred


def bce_with_logits(
    logits: Array,
    target: Array,
    pos_weight: Array | float | None = None,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """Mean over all elements of ``max(x, 0) - x t + log(1 + exp(-|x|))`` -> (loss, dlogits).

    logits ``x`` and target ``t`` (in [0, 1]) of equal shape; ``dlogits = (sigmoid(x) - t) / size``.
    A weight ``w`` of the positives, one or one for each column, makes the value
    ``(1 - t) x + (1 + (w - 1) t) log(1 + exp(-x))``.
    """
    _check_same_shape(logits, target)
    value: Array = np.abs(logits)
    np.negative(value, out=value)
    np.exp(value, out=value)
    np.log1p(value, out=value)
    if pos_weight is not None:
        m = 1 + (np.asarray(pos_weight, logits.dtype) - 1) * target
        value += np.maximum(-logits, 0)
        value = m * value + (1 - target) * logits
        return _mean(value, 1 - target - m * _sigmoid(-logits), sample_weight)
    value += np.maximum(logits, 0)
    value -= logits * target
    dlogits = _sigmoid(logits)
    dlogits -= target
    if sample_weight is not None:
        return _mean(value, dlogits, sample_weight)
    dlogits /= dlogits.size
    return float(value.mean()), dlogits


def l1_loss(pred: Array, target: Array, sample_weight: Array | None = None) -> tuple[float, Array]:
    """Mean over all elements of ``|pred - target|``."""
    _check_same_shape(pred, target)
    d = pred - target
    return _mean(np.abs(d), np.sign(d), sample_weight)


def huber_loss(
    pred: Array, target: Array, delta: float = 1.0, sample_weight: Array | None = None
) -> tuple[float, Array]:
    """With ``d = pred - target``: ``d^2 / 2``, from ``delta`` on ``delta (|d| - delta / 2)``."""
    _check_same_shape(pred, target)
    d = pred - target
    near = np.abs(d) < delta
    value = np.where(near, d * d / 2, delta * (np.abs(d) - delta / 2))
    return _mean(value, np.where(near, d, delta * np.sign(d)), sample_weight)


def smooth_l1_loss(
    pred: Array, target: Array, beta: float = 1.0, sample_weight: Array | None = None
) -> tuple[float, Array]:
    """Huber's loss over ``beta``; for ``beta = 0`` the absolute error."""
    if beta == 0:
        return l1_loss(pred, target, sample_weight)
    loss, dpred = huber_loss(pred, target, beta, sample_weight)
    return loss / beta, dpred / beta


def quantile_loss(
    pred: Array,
    target: Array,
    quantile: Array | float = 0.5,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """With ``d = target - pred``: ``max(q d, (q - 1) d)``, ``q`` one or one for each column."""
    _check_same_shape(pred, target)
    q = np.asarray(quantile)
    d = target - pred
    slope = np.where(d > 0, -q, 1 - q) * (d != 0)
    return _mean(np.maximum(q * d, (q - 1) * d), slope.astype(pred.dtype), sample_weight)


def poisson_nll_loss(
    pred: Array,
    target: Array,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """``exp(x) - t x`` of log-rates ``x``, or ``x - t log(x + eps)`` of rates.

    ``full`` adds Stirling's formula, ``t log t - t + log(2 pi t) / 2``, where ``t > 1``.
    """
    _check_same_shape(pred, target)
    if log_input:
        value, slope = np.exp(pred) - target * pred, np.exp(pred) - target
    else:
        value, slope = pred - target * np.log(pred + eps), 1 - target / (pred + eps)
    if full:
        t = np.maximum(target, 1)
        value += (t * np.log(t) - t + 0.5 * np.log(2 * np.pi * t)) * (target > 1)
    return _mean(value, slope, sample_weight)


def kl_div(
    pred: Array,
    target: Array,
    reduction: str = "mean",
    log_target: bool = False,
    sample_weight: Array | None = None,
) -> tuple[float, Array]:
    """``t (log t - x)`` of log-probabilities ``x``; "batchmean" sums over the columns."""
    _check_same_shape(pred, target)
    t = np.exp(target) if log_target else target
    log_t = target if log_target else np.log(np.where(t > 0, t, 1))
    loss, dpred = _mean(t * (log_t - pred), -t, sample_weight)
    columns = pred.shape[1] if reduction == "batchmean" else 1
    return loss * columns, dpred * columns


def hinge_loss(
    pred: Array, target: Array, squared: bool = False, sample_weight: Array | None = None
) -> tuple[float, Array]:
    """``max(0, 1 - y x)``, or its square; ``y = 1`` where the target is, else ``-1``."""
    _check_same_shape(pred, target)
    y = np.where(target == 1, 1, -1).astype(pred.dtype)
    m = np.maximum(1 - y * pred, 0)
    if squared:
        return _mean(m * m, -2 * y * m, sample_weight)
    return _mean(m, -y * (m > 0), sample_weight)


def _mean(value: Array, slope: Array, sample_weight: Array | None = None) -> tuple[float, Array]:
    """Mean over rows, which count their sample weights, and columns; slopes become gradients."""
    rows, columns = value.shape
    counts = np.ones(rows) if sample_weight is None else np.asarray(sample_weight)
    return _rows_mean(value.sum(axis=1), slope, counts, float(counts.sum()) * columns)


def _rows_mean(value: Array, slope: Array, counts: Array, size: float) -> tuple[float, Array]:
    """``counts . value (N,) / size`` and its gradient from that of each row; both 0 for size 0."""
    share = counts / size if size else np.zeros(len(counts))
    return float(share @ value), slope * share[:, None].astype(slope.dtype)


def _check_labels(labels: Array, rows: int) -> None:
    if labels.shape != (rows,) or labels.min() < 0:  # too large a label is an IndexError
        raise ValueError(f"labels must be {rows} class numbers from 0, got {labels.shape}")


def _check_same_shape(pred: Array, target: Array) -> None:
    if pred.shape != target.shape:
        raise ValueError(f"shapes differ: {pred.shape} and {target.shape}")


# -------------------------------------------------------------------------- optimizers


class Optimizer:
    """Updates ``params`` in place; ``scratch`` holds one work array for each of them."""

    def __init__(self, params: Sequence[Array], lr: float, weight_decay: float) -> None:
        self.params, self.lr, self.weight_decay = list(params), lr, weight_decay
        self.scratch = [np.empty_like(p) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        """Make one update from the gradients, given in the order of ``params``."""
        raise NotImplementedError

    def _decayed(self, grad: Array, param: Array, out: Array) -> Array:
        """``grad + weight_decay param``, in ``out`` unless that is ``grad`` itself."""
        if not self.weight_decay:
            return grad
        np.multiply(param, self.weight_decay, out=out)
        out += grad
        return out


class SGD(Optimizer):
    """``g += wd p; m = momentum m + g; p -= lr m``, or ``p -= lr (g + momentum m)`` (Nesterov).

    ``dampening`` takes its share of each ``g`` that joins ``m`` but the first.
    """

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        if nesterov and (momentum <= 0 or dampening):
            raise ValueError("Nesterov's method needs a momentum, and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.steps = 0
        self.velocity = [np.zeros_like(p) for p in self.params] if momentum else self.scratch

    def step(self, grads: Sequence[Array]) -> None:
        self.steps += 1
        gain = 1 - self.dampening if self.steps > 1 else 1.0
        for p, grad, v, work in zip(self.params, grads, self.velocity, self.scratch, strict=True):
            g = self._decayed(grad, p, work)
            if self.momentum:
                v *= self.momentum
                v += g if gain == 1 else np.multiply(g, gain, out=work)
                g = np.add(g, self.momentum * v, out=work) if self.nesterov else v
            p -= np.multiply(g, self.lr, out=work)


class Adam(Optimizer):
    """``p -= lr (m / a) / (sqrt(v / b) + eps)``; m, v are moving means of ``g`` and ``g^2``.

    The bias corrections of step ``t`` are ``a = 1 - beta1^t`` and ``b = 1 - beta2^t``. With
    ``amsgrad`` the greatest v so far stands in its place.
    """

    decoupled = False  # weight decay joins the gradient

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps, self.steps = betas, eps, 0
        self.mean = [np.zeros_like(p) for p in self.params]
        self.square = [np.zeros_like(p) for p in self.params]
        self.greatest = [np.zeros_like(p) for p in self.params] if amsgrad else self.square

    def step(self, grads: Sequence[Array]) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**self.steps)
        rate = self.lr * root / (1 - beta1**self.steps)
        for p, grad, m, v, top, work in zip(
            self.params, grads, self.mean, self.square, self.greatest, self.scratch, strict=True
        ):
            if self.decoupled:
                p *= 1 - self.lr * self.weight_decay
                g = grad
            else:
                g = self._decayed(grad, p, work)
            np.multiply(g, 1 - beta1, out=work)
            m *= beta1
            m += work
            np.square(work, out=work)
            work *= (1 - beta2) / (1 - beta1) ** 2  # (1 - beta2) g^2
            v *= beta2
            v += work
            np.sqrt(v if top is v else np.maximum(top, v, out=top), out=work)
            work += self.eps * root
            np.divide(m, work, out=work)
            work *= rate
            p -= work


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p *= 1 - lr wd`` goes first."""

    decoupled = True

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class RAdam(Optimizer):
    """Adam, rectified: ``p -= lr r m / a / (sqrt(v / b) + eps / sqrt(b))``; first ``lr m / a``.

    With ``q = 2 / (1 - beta2) - 1`` and ``s = q - 2 t beta2^t / b`` the factor ``r`` is
    ``sqrt((s - 4) (s - 2) q / ((q - 4) (q - 2) s))``, and there is none as long as ``s <= 5``.
    """

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps, self.steps = betas, eps, 0
        self.decoupled = decoupled_weight_decay
        self.mean = [np.zeros_like(p) for p in self.params]
        self.square = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        self.steps += 1
        for p, grad, m, v, work in zip(
            self.params, grads, self.mean, self.square, self.scratch, strict=True
        ):
            if self.decoupled:
                p *= 1 - self.lr * self.weight_decay
            g = grad if self.decoupled else self._decayed(grad, p, work)
            m[...] = self.betas[0] * m + (1 - self.betas[0]) * g
            v[...] = self.betas[1] * v + (1 - self.betas[1]) * g**2
            p -= self.lr * self._direction(g, m, v)

    def _direction(self, g: Array, m: Array, v: Array) -> Array:
        """What the rate is multiplied with."""
        t, (beta1, beta2) = self.steps, self.betas
        a, b = 1 - beta1**t, 1 - beta2**t
        q = 2 / (1 - beta2) - 1
        s = q - 2 * t * beta2**t / b
        if s <= 5:
            return m / a
        r = math.sqrt((s - 4) * (s - 2) * q / ((q - 4) * (q - 2) * s))
        return r * math.sqrt(b) / a * m / (np.sqrt(v) + self.eps)


class NAdam(RAdam):
    """Adam with Nesterov's momentum ``mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)``.

    With the product P of ``mu_1`` to ``mu_t`` and the next ``mu'``:
    ``p -= lr ((1 - mu_t) g / (1 - P) + mu' m / (1 - P mu')) / (sqrt(v / b) + eps)``.
    """

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay)
        self.momentum_decay = momentum_decay

    def _momentum(self, t: int) -> float:
        return float(self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)))

    def _direction(self, g: Array, m: Array, v: Array) -> Array:
        t = self.steps
        mu, after = self._momentum(t), self._momentum(t + 1)
        product = math.prod(self._momentum(i) for i in range(1, t + 1))
        root = np.sqrt(v / (1 - self.betas[1] ** t)) + self.eps
        return ((1 - mu) / (1 - product) * g + after / (1 - product * after) * m) / root


class RMSprop(Optimizer):
    """``v = alpha v + (1 - alpha) g^2; b = momentum b + g / (sqrt(v) + eps); p -= lr b``.

    ``centered``: ``v - a^2`` under the root, ``a`` the moving mean of ``g``.
    """

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered
        self.states = [(np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        for p, grad, (v, a, b), work in zip(
            self.params, grads, self.states, self.scratch, strict=True
        ):
            g = self._decayed(grad, p, work)
            v[...] = self.alpha * v + (1 - self.alpha) * g**2
            a[...] = self.alpha * a + (1 - self.alpha) * g
            root = np.sqrt(np.maximum(v - a**2, 0) if self.centered else v)
            b[...] = self.momentum * b + g / (root + self.eps)
            p -= self.lr * b


class Adagrad(Optimizer):
    """``v += g^2; p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(v) + eps)``."""

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.lr_decay, self.eps, self.steps = lr_decay, eps, 0
        self.sums = [np.full_like(p, initial_accumulator_value) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        rate = self.lr / (1 + self.steps * self.lr_decay)
        self.steps += 1
        for p, grad, v, work in zip(self.params, grads, self.sums, self.scratch, strict=True):
            g = self._decayed(grad, p, work)
            v += g**2
            p -= rate * g / (np.sqrt(v) + self.eps)


class Lion(Optimizer):
    """``p *= 1 - lr wd; p -= lr sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g``."""

    def __init__(
        self,
        params: Sequence[Array],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.betas = betas
        self.mean = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array]) -> None:
        beta1, beta2 = self.betas
        for p, g, m in zip(self.params, grads, self.mean, strict=True):
            p *= 1 - self.lr * self.weight_decay
            p -= self.lr * np.sign(beta1 * m + (1 - beta1) * g)
            m[...] = beta2 * m + (1 - beta2) * g


# ---------------------------------------------------------------------------- networks


class Layer:
    """Maps (N, D) to (N, K); a training forward keeps just what the backward needs."""

    def forward(self, x: Array, training: bool = False) -> Array:
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Set the gradients of the parameters and return that of the input."""
        raise NotImplementedError

    def parameter_backward(self, dy: Array) -> None:
        """As ``backward``, for a first layer: nobody wants the gradient of the data."""
        self.backward(dy)

    def parameters(self) -> list[Array]:
        return []

    def gradients(self) -> list[Array]:
        """Gradients of the last backward, in the order of ``parameters``."""
        return []


class Linear(Layer):
    """``y = x W^T + b`` on the given arrays; the gradients live in arrays allocated once."""

    def __init__(self, weight: Array, bias: Array | None = None) -> None:
        self.weight, self.bias = weight, bias
        self.dweight = np.empty_like(weight)
        self.dbias = None if bias is None else np.empty_like(bias)

    def forward(self, x: Array, training: bool = False) -> Array:
        if training:
            self.x = x
        return linear_forward(x, self.weight, self.bias)

    def backward(self, dy: Array) -> Array:
        self.parameter_backward(dy)
        dx: Array = dy @ self.weight
        return dx

    def parameter_backward(self, dy: Array) -> None:
        np.matmul(dy.T, self.x, out=self.dweight)
        if self.dbias is not None:
            np.sum(dy, axis=0, out=self.dbias)

    def parameters(self) -> list[Array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        return [self.dweight] if self.dbias is None else [self.dweight, self.dbias]


class BatchNorm1d(Layer):
    """Batch statistics in training, running ones otherwise; gamma, beta (D,) as given.

    Without a momentum the running statistics are the plain means of those of all batches.
    """

    def __init__(
        self, gamma: Array, beta: Array, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        self.gamma, self.beta, self.eps, self.momentum = gamma, beta, eps, momentum
        self.running_mean, self.running_var = np.zeros_like(gamma), np.ones_like(gamma)
        self.batches = 0

    def forward(self, x: Array, training: bool = False) -> Array:
        state = (self.gamma, self.beta, self.running_mean, self.running_var, self.eps)
        if not training:
            return batchnorm_predict(x, *state)
        self.batches += 1
        momentum = 1 / self.batches if self.momentum is None else self.momentum
        y, mean, inv_std = batchnorm_forward(x, *state, momentum)
        self.saved = (x, mean, inv_std)
        return y

    def backward(self, dy: Array) -> Array:
        dx, self.dgamma, self.dbeta = batchnorm_backward(dy, *self.saved, self.gamma)
        return dx

    def parameters(self) -> list[Array]:
        return [self.gamma, self.beta]

    def gradients(self) -> list[Array]:
        return [self.dgamma, self.dbeta]


class Act(Layer):
    """The activation of that name in ``ACTIVATIONS``, with its parameters."""

    def __init__(self, name: str, **params: Any) -> None:
        self.function, self.params = ACTIVATIONS[name], params

    def forward(self, x: Array, training: bool = False) -> Array:
        y = self.function.forward(x, **self.params)
        if training:
            self.saved = (x, y)
        return y

    def backward(self, dy: Array) -> Array:
        return self.function.backward(dy, *self.saved, **self.params)


class Sequential(Layer):
    """Layers one after another."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)

    def forward(self, x: Array, training: bool = False) -> Array:
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def parameter_backward(self, dy: Array) -> None:
        for layer in reversed(self.layers[1:]):
            dy = layer.backward(dy)
        self.layers[0].parameter_backward(dy)

    def parameters(self) -> list[Array]:
        return [p for layer in self.layers for p in layer.parameters()]

    def gradients(self) -> list[Array]:
        return [g for layer in self.layers for g in layer.gradients()]

    def load(self, params: Iterable[Array]) -> None:
        """Copy arrays into the parameters, in the order of ``parameters``."""
        for own, given in zip(self.parameters(), params, strict=True):
            _check_same_shape(own, given)
            own[...] = given


class MLP(Sequential):
    """Multilayer perceptron; ``build`` makes one of given sizes."""

    @classmethod
    def build(
        cls,
        sizes: Sequence[int],
        activation: str = "ReLU",
        batch_norm: bool = False,
        seed: int = 0,
        dtype: npt.DTypeLike = np.float32,
        **params: Any,
    ) -> Self:
        """Linear(-BatchNorm)-activation stacks and a last Linear; ``params`` of the activation.

        Weights and biases come from ``U(-1 / sqrt(inputs), 1 / sqrt(inputs))``.
        """
        rng = np.random.default_rng(seed)
        layers: list[Layer] = []
        for inputs, outputs in itertools.pairwise(sizes):
            if layers:
                if batch_norm:
                    layers.append(BatchNorm1d(np.ones(inputs, dtype), np.zeros(inputs, dtype)))
                layers.append(Act(activation, **params))
            bound = 1 / math.sqrt(inputs)
            weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(dtype)
            layers.append(Linear(weight, rng.uniform(-bound, bound, outputs).astype(dtype)))
        return cls(layers)


# ---------------------------------------------------------------------------- training


def train_step(network: Layer, loss: Loss, optimizer: Optimizer, x: Array, y: Array) -> float:
    """Forward, loss, backward and update on one batch -> the loss before the update."""
    value, dy = loss(network.forward(x, training=True), y)
    network.parameter_backward(dy)
    optimizer.step(network.gradients())
    return value


def fit(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    X: Array,
    y: Array,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
) -> list[float]:
    """Train on a fresh permutation of the rows each epoch -> the mean loss of each epoch.

    A last batch of a single row joins the batch before it (batch norm needs two rows).
    """
    rows = len(X)
    starts = list(range(0, rows, batch_size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    stops = [*starts[1:], rows]
    history = []
    for _ in range(epochs):
        order, total = rng.permutation(rows), 0.0
        for start, stop in zip(starts, stops, strict=True):
            batch = order[start:stop]
            value = train_step(network, loss, optimizer, X[batch], y[batch])
            total += value * (stop - start)
        history.append(total / rows)
    return history
