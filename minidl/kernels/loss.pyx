"""Losses with their gradients, one row at a time. Mean over the rows of the batch (and, for the
squared error and the binary cross-entropy, over the columns), as PyTorch has it.

    cross-entropy     lse(z) - z[label]             softmax(z) - onehot
      probabilities   sum_c t_c (lse(z) - z_c)      softmax(z) sum(t) - t
    squared error     mean_c (z - t)^2              2 (z - t) / C
    binary, logits    mean_c softplus(z) - t z      (sigmoid(z) - t) / C

with lse(z) = max z + log sum e^(z - max z): logits of 1e4 neither overflow nor lose the gradient.
A block's loss is a sum over its rows in double precision; padding columns of dz are 0.
"""

from libc.math cimport log
from libc.stdint cimport int64_t

from minidl.kernels.simd cimport (
    f32v, fma, head, if_gt, lane_max, lane_sum, lanes, require, splat, vec,
)
from minidl.kernels.vmath cimport vexp, vsigmoid, vsoftplus

KINDS = {
    "CrossEntropyLoss": CROSS_ENTROPY, "CrossEntropyLossSoft": CROSS_ENTROPY_SOFT, "MSELoss": MSE,
    "BCEWithLogitsLoss": BCE_WITH_LOGITS,
}


cdef inline double at(const vec* row, Py_ssize_t i) noexcept nogil:
    """Element i of a row."""
    if vec is f32v:
        return (<const float*>row)[i]
    else:
        return (<const double*>row)[i]


cdef inline void subtract_at(vec* row, Py_ssize_t i, double x) noexcept nogil:
    if vec is f32v:
        (<float*>row)[i] = <float>((<float*>row)[i] - <float>x)
    else:
        (<double*>row)[i] = (<double*>row)[i] - x


cdef inline bint first_is_largest(const vec* z, Py_ssize_t label, double largest) noexcept nogil:
    """True if `label` is the first index at which z is largest."""
    cdef Py_ssize_t j
    if at(z, label) != largest:
        return False
    for j in range(label):
        if at(z, j) == largest:
            return False
    return True


cdef inline double row_maximum(const vec* z, Py_ssize_t columns, Py_ssize_t ld) noexcept nogil:
    cdef vec low = splat(z[0], -1e308 * 10), m = low, x
    cdef Py_ssize_t j
    for j in range(ld):
        x = head(z[j], columns - j * lanes(z[0]), low)
        m = if_gt(m, x, m, x)
    return lane_max(m)


cdef double cross_entropy_row(
    double* correct,            # IN, OUT: rows whose largest logit is the label's
    vec* dz,                    # OUT (ld,), or NULL
    const vec* z,               # IN (ld,)
    const vec* target,          # IN (ld,): probabilities, or NULL
    Py_ssize_t label,
    double scale,               # 1 / rows
    Py_ssize_t columns, Py_ssize_t ld,
) noexcept nogil:
    cdef vec zero = splat(z[0], 0.0), total = zero, mass = zero, dot = zero, e, t, shift
    cdef double largest = row_maximum(z, columns, ld), log_sum, sum_t, factor
    cdef Py_ssize_t j, n = lanes(z[0])
    shift = splat(z[0], largest)
    for j in range(ld):
        e = head(vexp(z[j] - shift), columns - j * n, zero)
        total = total + e
        if dz != NULL:
            dz[j] = e
        if target != NULL:
            t = head(target[j], columns - j * n, zero)
            mass = mass + t
            dot = fma(t, head(z[j] - shift, columns - j * n, zero), dot)
    factor = lane_sum(total)
    log_sum = log(factor)
    if target == NULL:
        require(0 <= label and label < columns)
        if dz != NULL:
            for j in range(ld):
                dz[j] = dz[j] * splat(zero, scale / factor)
            subtract_at(dz, label, scale)
        correct[0] += first_is_largest(z, label, largest)
        return log_sum - (at(z, label) - largest)
    sum_t = lane_sum(mass)
    if dz != NULL:
        for j in range(ld):
            t = head(target[j], columns - j * n, zero)
            dz[j] = (dz[j] * splat(zero, sum_t / factor) - t) * splat(zero, scale)
    label = 0
    for j in range(1, columns):
        if at(target, j) > at(target, label):
            label = j
    correct[0] += first_is_largest(z, label, largest)
    return log_sum * sum_t - lane_sum(dot)


cdef double squared_error_row(vec* dz, const vec* z, const vec* target, double scale,
                              Py_ssize_t columns, Py_ssize_t ld) noexcept nogil:
    cdef vec zero = splat(z[0], 0.0), total = zero, d
    cdef Py_ssize_t j
    for j in range(ld):
        d = head(z[j] - target[j], columns - j * lanes(z[0]), zero)
        total = fma(d, d, total)
        if dz != NULL:
            dz[j] = d * splat(zero, 2.0 * scale / <double>columns)
    return lane_sum(total) / <double>columns


cdef double binary_row(double* correct, vec* dz, const vec* z, const vec* target, double scale,
                       Py_ssize_t columns, Py_ssize_t ld) noexcept nogil:
    cdef vec zero = splat(z[0], 0.0), total = zero, right = zero, d
    cdef vec half = splat(z[0], 0.5), one = splat(z[0], 1.0)
    cdef Py_ssize_t j, rest
    for j in range(ld):
        rest = columns - j * lanes(z[0])
        total = total + head(fma(zero - target[j], z[j], vsoftplus(z[j])), rest, zero)
        d = if_gt(z[j], zero, one, zero) - if_gt(target[j], half, one, zero)
        right = right + head(fma(zero - d, d, one), rest, zero)
        if dz != NULL:
            d = head(vsigmoid(z[j]) - target[j], rest, zero)
            dz[j] = d * splat(zero, scale / <double>columns)
    correct[0] += lane_sum(right) / <double>columns
    return lane_sum(total) / <double>columns


cdef void loss_block(
    int kind,
    double* loss,           # OUT: sum over the rows of the block
    double* correct,        # OUT: rows that are right
    vec* dz,                # OUT (N, ld): gradient of the mean, or NULL
    const vec* z,           # IN (N, ld): output of the network
    const vec* target,      # IN (N, ld), or NULL
    const int64_t* label,   # IN (N,), or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    Py_ssize_t rows, Py_ssize_t columns,    # N, C
    Py_ssize_t ld,
) noexcept nogil:
    cdef double total = 0.0, right = 0.0, scale = 1.0 / <double>rows
    cdef Py_ssize_t i
    cdef vec* d
    for i in range(first, last):
        d = dz + i * ld if dz != NULL else dz
        if kind == CROSS_ENTROPY:
            total += cross_entropy_row(&right, d, z + i * ld, <const vec*>NULL, label[i], scale,
                                       columns, ld)
        elif kind == CROSS_ENTROPY_SOFT:
            total += cross_entropy_row(&right, d, z + i * ld, target + i * ld, 0, scale, columns,
                                       ld)
        elif kind == MSE:
            total += squared_error_row(d, z + i * ld, target + i * ld, scale, columns, ld)
        else:
            total += binary_row(&right, d, z + i * ld, target + i * ld, scale, columns, ld)
    loss[0] = total
    correct[0] = right
