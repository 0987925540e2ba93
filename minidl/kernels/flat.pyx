"""Runs of vectors without rows or columns: sums, the moving average of the weights, the norm of the
gradient, and the search for numbers that are not finite.

The moving average is that of PyTorch's `torch.optim.swa_utils.get_ema_multi_avg_fn`:
mean += (1 - decay)(w - mean).
"""

from minidl.kernels.simd cimport f32v, first_lanes, fma, lanes, splat, sum_of_lanes, vec


cdef void add(
    vec* y,             # OUT (n,) in vectors; may be a or b
    const vec* a, const vec* b,     # IN (n,)
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = a[i] + b[i]


cdef void add_blocks(
    vec* y,             # OUT (n,) in vectors: sum of the blocks, in their order
    const vec* partial,     # IN (blocks, n)
    Py_ssize_t blocks,
    Py_ssize_t distance,    # from block to block, in vectors
    Py_ssize_t n,
    bint one,           # the lanes of a vector too make one sum, which stands in the first
    bint accumulate,    # add to y
) noexcept nogil:
    cdef Py_ssize_t b, i
    cdef vec total
    for i in range(n):
        total = partial[i]
        for b in range(1, blocks):
            total = total + partial[b * distance + i]
        if one:
            total = first_lanes(splat(total, sum_of_lanes(total)), 1)
        y[i] = y[i] + total if accumulate else total


cdef void average(
    vec* mean,          # IN, OUT (n,) in vectors
    const vec* w,       # IN (n,)
    Py_ssize_t n,
    double decay,       # 0: the mean becomes w
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec rest = splat(w[0], 1.0 - decay)
    for i in range(n):
        mean[i] = fma(rest, w[i] - mean[i], mean[i]) if decay > 0.0 else w[i]


cdef double squares(
    const vec* x,       # IN (n,) in vectors
    Py_ssize_t n,
) noexcept nogil:
    """The sum of the squares, in double precision: each lane by itself, then the lanes in order."""
    cdef double sums[16]
    cdef double total = 0.0
    cdef Py_ssize_t i
    cdef int lane, count = <int>lanes(x[0])
    for lane in range(16):
        sums[lane] = 0.0
    for i in range(n):
        for lane in range(count):
            if vec is f32v:
                sums[lane] += <double>(<const float*>x)[i * count + lane] * <double>(
                    <const float*>x)[i * count + lane]
            else:
                sums[lane] += (<const double*>x)[i * count + lane] * (
                    <const double*>x)[i * count + lane]
    for lane in range(count):
        total += sums[lane]
    return total


cdef double finite_sum(
    const vec* x,       # IN (n,) in vectors
    Py_ssize_t n,
) noexcept nogil:
    """0 if all is finite, else NaN."""
    cdef vec zero = splat(x[0], 0.0), total = zero
    cdef Py_ssize_t i
    cdef double result = 0.0
    for i in range(n):
        total = fma(zero, x[i], total)
    for i in range(lanes(total)):
        if vec is f32v:
            result += (<float*>&total)[i]
        else:
            result += (<double*>&total)[i]
    return result
