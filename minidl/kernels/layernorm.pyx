"""LayerNorm and RMSNorm, forward and backward: each row by itself.

Ba, Kiros and Hinton, "Layer normalization", 2016; Zhang and Sennrich, "Root mean square layer
normalization", NeurIPS 2019. Over the D columns of a row:

    mu = mean(x), or 0 in RMSNorm     sigma^2 = mean((x - mu)^2) + eps     xhat = (x - mu) / sigma
    y = gamma xhat + beta

With g = gamma dy, the chain rule gives

    dx = (g - mean(g) - xhat mean(g xhat)) / sigma      without mean(g) in RMSNorm
    dgamma = sum dy xhat      dbeta = sum dy            over the rows of the batch

Precision. A first pass finds m, about the mean, from what exceeds the first element; a second one
finds d = mean(x - m) and sigma^2 = mean((x - m)^2) - d^2 + eps, with xhat = (x - m - d) / sigma.
Both work on differences, which are exact or nearly so however large the mean is, and d is no more
than the rounding of m: nothing is lost in the subtraction. Equal elements give xhat = 0. As in
PyTorch, squares beyond the range of the dtype make xhat 0.

Forward keeps x, and of each row m, d and 1 / sigma, in double precision; xhat is computed again.
Memory traffic: forward reads x three times (twice from cache) and writes y; backward reads dy and x
twice (once from cache) and writes dx. Columns beyond the last are left out of every sum, and 0 in y
and dx; sums over rows are kept per block, and merged by `add_blocks` in `flat.pyx`.
"""

from libc.math cimport isfinite, sqrt

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport (
    fma, largest_lane, splat, splat_at, sum_of_lanes, vec, within,
)


cdef inline void statistics(
    double* kept,       # OUT (3,): m, d and 1 / sigma
    const vec* x,       # IN (D,): a row
    Py_ssize_t columns, double eps, bint centered,
) noexcept nogil:
    cdef Py_ssize_t j, width = vectors(x[0], columns)
    cdef vec zero = splat(x[0], 0.0), m = zero, total = zero, squares = zero, e
    cdef double d = 0.0, variance
    if centered:
        m = splat_at(zero, x)
        for j in range(width):
            total = total + within(x[j] - m, j, columns)
        m = m + splat(zero, sum_of_lanes(total) / <double>columns)
        total = zero
    for j in range(width):
        e = within(x[j] - m, j, columns)
        total = total + e
        squares = fma(e, e, squares)
    variance = sum_of_lanes(squares) / <double>columns
    if centered:
        d = sum_of_lanes(total) / <double>columns
        if isfinite(variance):  # else d^2 may be infinite too
            variance = max(variance - d * d, 0.0)
    kept[0] = largest_lane(m)  # all are the same
    kept[1] = d
    kept[2] = 1.0 / sqrt(variance + eps)


cdef void layernorm_forward(
    vec* y,             # OUT (N, ld)
    double* kept,       # OUT (N, 3)
    const vec* x,       # IN (N, ld)
    const vec* gamma, const vec* beta,      # IN (ld,), or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t columns, Py_ssize_t ld,      # ld in vectors
    double eps,
    bint centered,      # False: RMSNorm
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef vec m, inverse, offset, h
    for i in range(first, last):
        statistics(kept + 3 * i, x + i * ld, columns, eps, centered)
        m = splat(x[0], kept[3 * i])
        inverse = splat(m, kept[3 * i + 2])
        offset = splat(m, -kept[3 * i + 1] * kept[3 * i + 2])
        for j in range(vectors(m, columns)):
            h = within(fma(x[i * ld + j] - m, inverse, offset), j, columns)
            if gamma != NULL:
                h = h * gamma[j] if beta == NULL else fma(h, gamma[j], beta[j])
            y[i * ld + j] = h


cdef void layernorm_backward(
    vec* dx,            # OUT (N, ld), or NULL; may be dy
    vec* partial,       # OUT (2, ld): dgamma and dbeta of the block, or NULL
    const vec* dy,      # IN (N, ld)
    const vec* x,       # IN (N, ld): input of forward
    const double* kept,     # IN (N, 3)
    const vec* gamma,       # IN (ld,), or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    Py_ssize_t columns, Py_ssize_t ld, bint centered,
) noexcept nogil:
    cdef Py_ssize_t i, j, width = vectors(dy[0], columns)
    cdef vec m, inverse, offset, h, g, sum_g, sum_gh, zero = splat(dy[0], 0.0)
    if partial != NULL:
        for j in range(2 * ld):
            partial[j] = zero
    for i in range(first, last):
        m = splat(zero, kept[3 * i])
        inverse = splat(zero, kept[3 * i + 2])
        offset = splat(zero, -kept[3 * i + 1] * kept[3 * i + 2])
        sum_g = zero
        sum_gh = zero
        for j in range(width):
            h = within(fma(x[i * ld + j] - m, inverse, offset), j, columns)
            g = within(dy[i * ld + j], j, columns)
            if partial != NULL:
                partial[j] = fma(g, h, partial[j])
                partial[ld + j] = partial[ld + j] + g
            if gamma != NULL:
                g = g * gamma[j]
            sum_g = sum_g + g
            sum_gh = fma(g, h, sum_gh)
        if dx == NULL:
            continue
        sum_g = splat(zero, sum_of_lanes(sum_g) / <double>columns if centered else 0.0)
        sum_gh = splat(zero, sum_of_lanes(sum_gh) / <double>columns)
        for j in range(width):
            h = fma(x[i * ld + j] - m, inverse, offset)
            g = dy[i * ld + j] if gamma == NULL else dy[i * ld + j] * gamma[j]
            dx[i * ld + j] = within(inverse * fma(zero - h, sum_gh, g - sum_g), j, columns)
