"""Activations of one vector, forward and backward: inlined wherever an activation is fused.

Forward keeps for backward what the derivative can be written with: the output y for the first
group, the input x for the second.

    ReLU        max(x, 0)                        y > 0
    LeakyReLU   x > 0 ? x : a x                  y > 0 ? 1 : a            (a >= 0)
    ELU         x > 0 ? x : a (e^x - 1)          y > 0 ? 1 : y + a        (a >= 0)
    Tanh        tanh x                           1 - y^2
    Sigmoid     s(x) = 1 / (1 + e^-x)            y (1 - y)

    SiLU        x s(x)                           s (1 + x (1 - s))
    Softplus    log(1 + e^(a x)) / a             s(a x)                   (linear from a x > b)
    GELU        x Phi(x)                         Phi + x phi
    GELU tanh   x/2 (1 + tanh u)                 (1 + t)/2 + x/2 (1 - t^2) u'
                u = sqrt(2/pi) (x + 0.044715 x^3)
"""

from minidl.kernels.simd cimport fma, if_gt, splat, vec, vmax
from minidl.kernels.vmath cimport clamp, vexpm1, vnormal_cdf, vsigmoid, vsoftplus, vtanh

cdef enum Activation:
    IDENTITY = 0
    RELU
    LEAKY_RELU
    ELU
    TANH
    SIGMOID
    SILU            # from here on the input is kept
    SOFTPLUS
    GELU
    GELU_TANH


cdef inline vec gelu_argument(vec x, vec* slope) noexcept nogil:
    """u of GELU tanh, and du/dx."""
    cdef vec c = splat(x, 0.7978845608028654), square = x * x
    slope[0] = c * fma(splat(x, 3 * 0.044715), square, splat(x, 1.0))
    return c * x * fma(splat(x, 0.044715), square, splat(x, 1.0))


cdef inline vec activate(int kind, vec x, double a, double b) noexcept nogil:
    """y = activation(x); a and b are its parameters."""
    cdef vec zero = splat(x, 0.0), t
    if kind == RELU:
        return vmax(zero, x)
    if kind == LEAKY_RELU:
        return if_gt(zero, x, splat(x, a) * x, x)
    if kind == ELU:
        return if_gt(zero, x, splat(x, a) * vexpm1(x), x)
    if kind == TANH:
        return vtanh(x)
    if kind == SIGMOID:
        return vsigmoid(x)
    if kind == SOFTPLUS:
        t = splat(x, a) * x
        return if_gt(t, splat(x, b), x, vsoftplus(t) / splat(x, a))
    if kind == SILU:
        return x * vsigmoid(x)
    if kind == GELU:
        return x * vnormal_cdf(x, &t)
    if kind == GELU_TANH:
        return splat(x, 0.5) * x * (splat(x, 1.0) + vtanh(gelu_argument(x, &t)))
    return x


cdef inline vec activation_gradient(int kind, vec dy, vec kept, double a, double b) noexcept nogil:
    """dx = dy * activation'; `kept` is y or x, as the table above says."""
    cdef vec zero = splat(dy, 0.0), one = splat(dy, 1.0), s, t, x
    if kind == RELU:
        return if_gt(kept, zero, dy, zero)
    if kind == LEAKY_RELU:
        return if_gt(kept, zero, dy, splat(dy, a) * dy)
    if kind == ELU:
        return if_gt(kept, zero, dy, dy * (kept + splat(dy, a)))
    if kind == TANH:
        return dy * fma(zero - kept, kept, one)
    if kind == SIGMOID:
        return dy * (kept * (one - kept))
    if kind == SOFTPLUS:
        t = splat(dy, a) * kept
        return if_gt(t, splat(dy, b), dy, dy * vsigmoid(t))
    if kind == SILU:
        s = vsigmoid(kept)
        return dy * (s * fma(clamp(kept, -1e4, 1e4), one - s, one))
    if kind == GELU:
        s = vnormal_cdf(kept, &t)
        x = clamp(kept, -1e4, 1e4)
        return dy * fma(x * splat(dy, 0.3989422804014327), t, s)
    if kind == GELU_TANH:
        x = clamp(kept, -1e4, 1e4)
        t = vtanh(gelu_argument(x, &s))
        return dy * (splat(dy, 0.5) * fma(x * fma(zero - t, t, one), s, one + t))
    return dy


cdef void activation_forward(vec* y, const vec* x, Py_ssize_t rows, Py_ssize_t ld, int kind,
                             double a, double b) noexcept nogil
cdef void activation_backward(vec* dx, const vec* dy, const vec* kept, Py_ssize_t rows,
                              Py_ssize_t ld, int kind, double a, double b) noexcept nogil
