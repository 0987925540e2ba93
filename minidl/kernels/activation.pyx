"""Activations over whole rows; the formulas stand in `activation.pxd`.

Memory traffic: forward reads and writes each element once, backward reads two and writes one.
"""

from minidl.kernels.simd cimport vec
from minidl.kernels.activation cimport (
    ELU, GELU, GELU_TANH, IDENTITY, LEAKY_RELU, RELU, SIGMOID, SILU, SOFTPLUS, TANH,
    activate, activation_gradient,
)

# The number of each activation, by the name of its layer; GELU has two forms.
KINDS = {
    "Identity": IDENTITY, "ReLU": RELU, "LeakyReLU": LEAKY_RELU, "ELU": ELU, "Tanh": TANH,
    "Sigmoid": SIGMOID, "Softplus": SOFTPLUS, "SiLU": SILU, "GELU": GELU, "GELUTanh": GELU_TANH,
}
KEEPS_INPUT = frozenset({SILU, SOFTPLUS, GELU, GELU_TANH})


cdef inline void forward_loop(vec* y, const vec* x, Py_ssize_t n, int kind, double a, double b
                              ) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = activate(kind, x[i], a, b)


cdef inline void backward_loop(vec* dx, const vec* dy, const vec* kept, Py_ssize_t n, int kind,
                               double a, double b) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        dx[i] = activation_gradient(kind, dy[i], kept[i], a, b)


cdef void activation_forward(
    vec* y,            # OUT (rows, ld); may be x
    const vec* x,      # IN (rows, ld)
    Py_ssize_t rows, Py_ssize_t ld,  # ld in vectors
    int kind, double a, double b,
) noexcept nogil:
    forward_loop(y, x, rows * ld, kind, a, b)


cdef void activation_backward(
    vec* dx,           # OUT (rows, ld); may be dy
    const vec* dy,     # IN (rows, ld)
    const vec* kept,   # IN (rows, ld): output or input of forward
    Py_ssize_t rows, Py_ssize_t ld,
    int kind, double a, double b,
) noexcept nogil:
    backward_loop(dx, dy, kept, rows * ld, kind, a, b)
