"""Losses with their gradients. Mean over the rows of the batch (and, for the squared error and the
binary cross-entropy, over the columns), as PyTorch has it.

    cross-entropy     lse(z) - z[label]             softmax(z) - onehot
      probabilities   sum_c t_c (lse(z) - z_c)      softmax(z) sum(t) - t
    squared error     mean_c (z - t)^2              2 (z - t) / C
    binary, logits    mean_c softplus(z) - t z      (sigmoid(z) - t) / C

with lse(z) = max z + log sum e^(z - max z): logits of 1e4 neither overflow nor lose the gradient.

Rows are taken in groups of as many as a vector has lanes. A group is transposed, so that a vector
holds one column and a lane one row: sums over columns are then sums of vectors, however few columns
there are. A block's loss is a sum over its rows, in their order, in double precision; padding
columns of dz are 0.
"""

from libc.stdint cimport int64_t

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport f32v, fma, if_gt, lanes, require, splat, transpose, vabs, vec, vmax
from minidl.kernels.vmath cimport vexp, vlog, vsigmoid, vsoftplus

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


cdef inline void put(vec* row, Py_ssize_t i, double x) noexcept nogil:
    """Set element i of a row."""
    if vec is f32v:
        (<float*>row)[i] = <float>x
    else:
        (<double*>row)[i] = x


# Each of the following takes a group: z and t are (C,) vectors, z becomes the gradient. It returns
# the loss of each row, and sets `right` to what counts for its accuracy.

cdef inline vec largest_of(const vec* z, Py_ssize_t columns, vec* index) noexcept nogil:
    """The largest column of each row, and the first index at which it stands."""
    cdef vec m = z[0]
    cdef Py_ssize_t c
    index[0] = splat(m, 0.0)
    for c in range(1, columns):
        index[0] = if_gt(z[c], m, splat(m, <double>c), index[0])
        m = vmax(z[c], m)
    return m


cdef inline vec same(vec a, vec b, vec x, vec y) noexcept nogil:
    """x where the whole numbers a and b are equal, else y."""
    return if_gt(splat(a, 0.5), vabs(a - b), x, y)


cdef inline vec cross_entropy(vec* right, vec* z, vec label, double scale, Py_ssize_t columns
                              ) noexcept nogil:
    cdef vec index, zero = splat(z[0], 0.0), one = splat(z[0], 1.0), given = zero, total = zero
    cdef vec largest = largest_of(z, columns, &index), each = splat(z[0], scale), factor
    cdef Py_ssize_t c
    for c in range(columns):
        z[c] = z[c] - largest
        given = same(label, splat(label, <double>c), z[c], given)
        z[c] = vexp(z[c])
        total = total + z[c]
    factor = each / total
    for c in range(columns):
        z[c] = fma(z[c], factor, zero - same(label, splat(label, <double>c), each, zero))
    right[0] = same(index, label, one, zero)
    return vlog(total) - given


cdef inline vec cross_entropy_soft(vec* right, vec* z, const vec* t, double scale,
                                   Py_ssize_t columns) noexcept nogil:
    cdef vec index, aim, zero = splat(z[0], 0.0), one = splat(z[0], 1.0), each = splat(one, scale)
    cdef vec largest = largest_of(z, columns, &index), total = zero, mass = zero, dot = zero, factor
    cdef Py_ssize_t c
    for c in range(columns):
        z[c] = z[c] - largest
        mass = mass + t[c]
        dot = fma(t[c], z[c], dot)
        z[c] = vexp(z[c])
        total = total + z[c]
    factor = mass / total
    for c in range(columns):
        z[c] = fma(z[c], factor, zero - t[c]) * each
    largest_of(t, columns, &aim)
    right[0] = same(index, aim, one, zero)
    return fma(vlog(total), mass, zero - dot)


cdef inline vec squared_error(vec* z, const vec* t, double scale, Py_ssize_t columns
                              ) noexcept nogil:
    cdef vec total = splat(z[0], 0.0), d, slope = splat(z[0], 2.0 * scale / <double>columns)
    cdef Py_ssize_t c
    for c in range(columns):
        d = z[c] - t[c]
        total = fma(d, d, total)
        z[c] = d * slope
    return total / splat(total, <double>columns)


cdef inline vec binary_cross_entropy(vec* right, vec* z, const vec* t, double scale,
                                     Py_ssize_t columns) noexcept nogil:
    cdef vec zero = splat(z[0], 0.0), half = splat(z[0], 0.5), one = splat(z[0], 1.0)
    cdef vec total = zero, hits = zero, d, slope = splat(z[0], scale / <double>columns)
    cdef Py_ssize_t c
    for c in range(columns):
        total = total + fma(zero - t[c], z[c], vsoftplus(z[c]))
        d = if_gt(z[c], zero, one, zero) - if_gt(t[c], half, one, zero)
        hits = hits + fma(zero - d, d, one)
        z[c] = (vsigmoid(z[c]) - t[c]) * slope
    right[0] = hits
    return total / splat(z[0], <double>columns)


cdef inline void load(vec* block, const vec* rows, Py_ssize_t count, Py_ssize_t columns,
                      Py_ssize_t ld) noexcept nogil:
    """Transpose `count` rows to a group."""
    cdef Py_ssize_t j, n = lanes(rows[0])
    for j in range(vectors(rows[0], columns)):
        transpose(block + j * n, 1, rows + j, ld, count, n)


cdef void loss_block(
    int kind,
    double* sums,           # OUT (3,): over the rows of the block, loss, right rows, weight
    vec* dz,                # OUT (N, ld): gradient of the mean, or NULL
    const vec* z,           # IN (N, ld): output of the network
    const vec* target,      # IN (N, ld), or NULL
    const int64_t* label,   # IN (N,), or NULL
    const double* weight,   # IN (N,): of the rows; or NULL: 1
    const vec* numbers,     # IN (C,): of the columns, as the loss has them; or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    double scale,           # 1 / the weight of all rows that make one update
    Py_ssize_t columns,     # C
    Py_ssize_t ld,
    double a, double b,     # parameters of the loss
    vec* pack,              # scratch of this thread: C vectors, twice, each rounded up to lanes
) noexcept nogil:
    cdef double total = 0.0, right = 0.0
    cdef Py_ssize_t group, i, j, count, n = lanes(z[0])
    cdef vec* t = pack + n * vectors(z[0], columns)
    cdef vec value, hits = splat(z[0], 0.0), given = hits
    for group in range(vectors(z[0], last - first)):
        i = first + group * n
        count = min(n, last - i)
        load(pack, z + i * ld, count, columns, ld)
        if kind == CROSS_ENTROPY:
            for j in range(count):
                require(0 <= label[i + j] and label[i + j] < columns)
                put(&given, j, <double>label[i + j])
            value = cross_entropy(&hits, pack, given, scale, columns)
        else:
            load(t, target + i * ld, count, columns, ld)
            if kind == CROSS_ENTROPY_SOFT:
                value = cross_entropy_soft(&hits, pack, t, scale, columns)
            elif kind == MSE:
                value = squared_error(pack, t, scale, columns)
            else:
                value = binary_cross_entropy(&hits, pack, t, scale, columns)
        for j in range(count):
            total += at(&value, j)
            right += at(&hits, j)
        if dz != NULL:
            for j in range(vectors(z[0], columns)):
                transpose(dz + i * ld + j, ld, pack + j * n, 1, min(n, columns - j * n), count)
    sums[0] = total
    sums[1] = right / <double>columns if kind == BCE_WITH_LOGITS else right
    sums[2] = 0.0
    for i in range(first, last):
        sums[2] += row_weight(z[0], kind, weight, label, numbers, i)


cdef double row_weight(
    vec like, int kind,
    const double* weight,   # IN (N,), or NULL: 1
    const int64_t* label,   # IN (N,), or NULL
    const vec* numbers,     # IN (C,), or NULL
    Py_ssize_t row,
) noexcept nogil:
    """What a row counts for in the mean."""
    return weight[row] if weight != NULL else 1.0
