"""Softmax over the columns of each row, forward and backward.

    y = e^(x - max x) / sum e^(x - max x)      dx = y (dy - sum dy y)

The largest exponent is 0, so nothing overflows. Forward keeps y. Memory traffic: forward reads x
twice (once from cache) and writes y, twice; backward reads dy and y twice and writes dx. Columns
beyond the last are left out of every sum, and 0 in y and dx.
"""

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport (
    fma, largest_lane, splat, splat_at, sum_of_lanes, vec, vmax, within,
)
from minidl.kernels.vmath cimport vexp


cdef inline vec largest(
    const vec* x,       # IN (D,): a row
    Py_ssize_t columns,
) noexcept nogil:
    """The largest element, in every lane; the first one takes the place of padding."""
    cdef Py_ssize_t j, width = vectors(x[0], columns)
    cdef vec s = splat_at(x[0], x), m = s
    for j in range(width - 1):
        m = vmax(x[j], m)
    j = width - 1
    m = vmax(within(x[j], j, columns) + (s - within(s, j, columns)), m)
    return splat(m, largest_lane(m))


cdef void softmax_forward(
    vec* y,             # OUT (N, ld)
    const vec* x,       # IN (N, ld)
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t columns, Py_ssize_t ld,      # ld in vectors
) noexcept nogil:
    cdef Py_ssize_t i, j, width
    cdef vec m, total, e
    if columns == 0:
        return
    width = vectors(x[0], columns)
    for i in range(first, last):
        m = largest(x + i * ld, columns)
        total = splat(m, 0.0)
        for j in range(width):
            e = within(vexp(x[i * ld + j] - m), j, columns)
            total = total + e
            y[i * ld + j] = e
        total = splat(m, 1.0 / sum_of_lanes(total))
        for j in range(width):
            y[i * ld + j] = y[i * ld + j] * total


cdef void softmax_backward(
    vec* dx,            # OUT (N, ld); may be dy
    const vec* dy,      # IN (N, ld)
    const vec* y,       # IN (N, ld): output of forward
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t columns, Py_ssize_t ld,
) noexcept nogil:
    cdef Py_ssize_t i, j, width = vectors(y[0], columns)
    cdef vec total
    for i in range(first, last):
        total = splat(y[0], 0.0)
        for j in range(width):
            total = fma(dy[i * ld + j], y[i * ld + j], total)
        total = splat(total, sum_of_lanes(total))
        for j in range(width):
            dx[i * ld + j] = y[i * ld + j] * (dy[i * ld + j] - total)
