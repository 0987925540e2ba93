"""Losses with their gradients. The loss of a batch is sum_r w_r l_r / sum_r w_r over its rows, with
w the sample weights, or 1. A batch of total weight 0 has loss 0 and gradient 0; a row of weight 0
is as if it were not there.

By rows, z the logits of a row and y its label:

    cross-entropy     lse(z) - z_y                             softmax(z) - onehot
      probabilities   sum_c t_c (lse(z) - z_c)                 softmax(z) sum(t) - t
    multi-class hinge mean_c [c != y] max(0, m_c)^b            mean of b m_c^(b - 1) where m_c > 0,
                      with m_c = a - z_y + z_c                 less their sum at c = y

with lse(z) = max z + log sum e^(z - max z): logits of 1e4 neither overflow nor lose the gradient.
Label smoothing turns labels and probabilities into (1 - a) t + a / C; class weights v into v_c t_c.
With labels, a row then counts w_r v_y in the mean; the multi-class hinge of a row is multiplied by
v_y, and counts w_r. This is how PyTorch has it.

By elements, then the mean over the columns, d = z - t:

    squared error     d^2                                      2 d
    binary, logits    m log(1 + e^-|z|) + k |z|                +-(k - m s), s = 1 / (1 + e^|z|)
                      with m = 1 + (p - 1) t, p the weight of t = 1; k = 1 - t, + where z > 0,
                      k = p t, - elsewhere; for p = 1 the value is log(1 + e^z) - t z
    quantile q        b max((1 - q) d, -q d)                   b (1 - q) or -b q; 0 at d = 0
      absolute error  with q = 1/2, b = 2
    Huber             b k (d - k / 2), k = d held in [-a, a]   b k
      smooth L1       with b = 1 / a
    Poisson           e^z - t z                                e^z - t
      of rates        z - t log(z + b)                         1 - t / (z + b)
      Stirling's term t log t - t + log(2 pi t) / 2 where t > 1, if a
    KL divergence     t (log t - z), or e^t (t - z) if a       -t, or -e^t
                      b: the sum over the columns, not their mean
    hinge             max(0, m) or, if a, its square           -y or -2 y m where m > 0
                      with m = 1 - y z, y = 1 where t > 1/2, -1 elsewhere

0 times infinity counts as 0, so that an infinite logit on the right side costs nothing. NaN in z
makes the loss NaN.

Rows are taken in groups of as many as a vector has lanes. A group is transposed, so that a vector
holds one column and a lane one row: sums over columns are then sums of vectors, however few columns
there are. A block's loss is a sum over its rows, in their order, in double precision; padding
columns of dz are 0.
"""

from libc.math cimport NAN
from libc.stdint cimport int64_t

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport (
    f32v, fma, if_gt, lanes, require, splat, splat_at, transpose, vabs, vec, vmax, vmin,
)
from minidl.kernels.vmath cimport clamp, vexp, vlog, vlog1p_unit

KINDS = {
    "CrossEntropyLoss": CROSS_ENTROPY, "CrossEntropyLossSoft": CROSS_ENTROPY_SOFT,
    "MultiMarginLoss": MULTI_MARGIN, "MSELoss": MSE, "BCEWithLogitsLoss": BCE_WITH_LOGITS,
    "L1Loss": PINBALL, "QuantileLoss": PINBALL, "HuberLoss": HUBER, "SmoothL1Loss": HUBER,
    "PoissonNLLLoss": POISSON, "PoissonNLLLossRate": POISSON_RATE, "KLDivLoss": KL_DIV,
    "HingeLoss": HINGE,
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


cdef inline vec spread(const vec* row, Py_ssize_t i) noexcept nogil:
    """Element i of a row in every lane."""
    if vec is f32v:
        return splat_at(row[0], <const float*>row + i)
    else:
        return splat_at(row[0], <const double*>row + i)


cdef inline vec same(vec a, vec b, vec x, vec y) noexcept nogil:
    """x where the whole numbers a and b are equal, else y."""
    return if_gt(splat(a, 0.5), vabs(a - b), x, y)


cdef inline vec smallest(vec like) noexcept nogil:
    """About the smallest normal number."""
    if vec is f32v:
        return splat(like, 1.2e-38)
    else:
        return splat(like, 2.3e-308)


# Losses by elements.

cdef inline vec add_element(int kind, vec total, vec z, vec t, vec number, double a, double b,
                            vec* slope) noexcept nogil:
    """total + the loss of one element of each row; its derivative in `slope`.

    `number` is that of the column, else a.
    """
    cdef vec zero = splat(z, 0.0), half = splat(z, 0.5), one = splat(z, 1.0), d = z - t, e, k, m
    if kind == MSE:
        slope[0] = d + d
        return fma(d, d, total)
    if kind == BCE_WITH_LOGITS:
        e = vexp(zero - vabs(z))
        m = fma(number - one, t, one)
        k = if_gt(z, zero, one - t, number * t)
        d = k - m * (e / (one + e))
        slope[0] = if_gt(z, zero, d, zero - d)
        return fma(m, vlog1p_unit(e), if_gt(k, zero, fma(k, vabs(z), total), total))
    if kind == PINBALL:
        slope[0] = splat(z, b) * if_gt(d, zero, one - number,
                                       if_gt(zero, d, zero - number, zero))
        return fma(slope[0], d, total)
    if kind == HUBER:
        k = vmin(number, vmax(zero - number, d))
        slope[0] = splat(z, b) * k
        return fma(slope[0], fma(zero - half, k, d), total)
    if kind == POISSON or kind == POISSON_RATE:
        if a > 0.0:
            m = vmax(one, t)
            k = vlog(m)
            k = fma(m, k, half * (k + splat(z, 1.8378770664093453)) - m)  # log 2 pi
            total = total + if_gt(t, one, k, zero)
        if kind == POISSON:
            e = vexp(z)
            slope[0] = e - t
            return total + if_gt(t, zero, fma(zero - t, z, e), e)
        m = z + splat(z, b)
        e = vmax(smallest(z), m)
        slope[0] = one - t / e
        return fma(zero - t, vlog(e), total + if_gt(zero, m, splat(z, NAN), z))
    if kind == KL_DIV:
        k = t
        if a > 0.0:
            t = vexp(t)
        else:
            k = vlog(t)
        slope[0] = zero - t
        # Where t is 0, nothing but NaN counts.
        return total + if_gt(t, zero, t * (k - z), zero * clamp(z, -1e38, 1e38))
    # HINGE
    k = if_gt(t, half, one, zero - one)
    m = vmax(zero, fma(zero - k, z, one))
    if a > 0.0:
        slope[0] = splat(z, -2.0) * (k * m)
        return fma(m, m, total)
    slope[0] = if_gt(m, zero, zero - k, zero)
    return total + m


cdef inline vec elementwise(int kind, vec* right, vec* z, const vec* t, const vec* numbers,
                            vec each, double a, double b, Py_ssize_t columns) noexcept nogil:
    cdef vec zero = splat(z[0], 0.0), half = splat(z[0], 0.5), one = splat(z[0], 1.0)
    cdef vec total = zero, hits = zero, number = splat(z[0], a), slope, d
    cdef bint by_column = (kind == BCE_WITH_LOGITS or kind == PINBALL) and numbers != NULL
    cdef Py_ssize_t c
    for c in range(columns):
        if by_column:
            number = spread(numbers, c)
        total = add_element(kind, total, z[c], t[c], number, a, b, &slope)
        if kind == BCE_WITH_LOGITS or kind == HINGE:
            d = if_gt(z[c], zero, one, zero) - if_gt(t[c], half, one, zero)
            hits = hits + fma(zero - d, d, one)
        z[c] = slope * each
    right[0] = hits
    return total


# Losses by rows.

cdef inline vec largest_of(const vec* z, Py_ssize_t columns, vec* index) noexcept nogil:
    """The largest column of each row, and the first index at which it stands."""
    cdef vec m = z[0]
    cdef Py_ssize_t c
    index[0] = splat(m, 0.0)
    for c in range(1, columns):
        index[0] = if_gt(z[c], m, splat(m, <double>c), index[0])
        m = vmax(z[c], m)
    return m


cdef inline vec cross_entropy(vec* right, vec* z, vec label, vec each, Py_ssize_t columns
                              ) noexcept nogil:
    cdef vec index, zero = splat(z[0], 0.0), one = splat(z[0], 1.0), given = zero, total = zero
    cdef vec largest = largest_of(z, columns, &index), factor
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


cdef inline vec cross_entropy_soft(vec* right, vec* z, const vec* t, vec aim, vec each,
                                   Py_ssize_t columns) noexcept nogil:
    cdef vec index, zero = splat(z[0], 0.0), one = splat(z[0], 1.0)
    cdef vec largest = largest_of(z, columns, &index), total = zero, mass = zero, dot = zero, factor
    cdef Py_ssize_t c
    for c in range(columns):
        z[c] = z[c] - largest
        mass = mass + t[c]
        dot = if_gt(t[c], zero, fma(t[c], z[c], dot), dot)
        z[c] = vexp(z[c])
        total = total + z[c]
    factor = mass / total
    for c in range(columns):
        z[c] = fma(z[c], factor, zero - t[c]) * each
    right[0] = same(index, aim, one, zero)
    return fma(vlog(total), mass, zero - dot)


cdef inline void one_hot(vec* t, vec label, Py_ssize_t columns) noexcept nogil:
    """1 in the column of the label, 0 elsewhere."""
    cdef vec zero = splat(label, 0.0), one = splat(label, 1.0)
    cdef Py_ssize_t c
    for c in range(columns):
        t[c] = same(label, splat(label, <double>c), one, zero)


cdef inline void smooth(vec* t, const vec* numbers, double a, Py_ssize_t columns) noexcept nogil:
    """Label smoothing, then class weights."""
    cdef vec rest = splat(t[0], 1.0 - a), share = splat(t[0], a / <double>columns)
    cdef Py_ssize_t c
    for c in range(columns):
        t[c] = fma(rest, t[c], share)
        if numbers != NULL:
            t[c] = t[c] * spread(numbers, c)


cdef inline vec multi_margin(vec* right, vec* z, vec label, vec each, double margin, double power,
                             Py_ssize_t columns) noexcept nogil:
    cdef vec index, zero = splat(z[0], 0.0), one = splat(z[0], 1.0), own = zero
    cdef vec total = zero, others = zero, m
    cdef Py_ssize_t c
    largest_of(z, columns, &index)
    for c in range(columns):
        own = same(label, splat(label, <double>c), z[c], own)
    own = splat(own, margin) - own
    for c in range(columns):
        m = same(label, splat(label, <double>c), zero, vmax(zero, z[c] + own))
        if power == 1.0:
            total = total + m
            z[c] = if_gt(m, zero, each, zero)
        else:
            total = fma(m, m, total)
            z[c] = (m + m) * each
        others = others + z[c]
    for c in range(columns):
        z[c] = same(label, splat(label, <double>c), zero - others, z[c])
    right[0] = same(index, label, one, zero)
    return total


cdef inline vec group_loss(
    int kind,
    vec* right,         # OUT: what counts for the accuracy of each row
    vec* z,             # IN (C,); becomes the gradient
    vec* t,             # IN (C,), or scratch
    vec label,
    const vec* numbers,
    vec each,           # what the gradient of each row is multiplied by
    double a, double b,
    Py_ssize_t columns,
) noexcept nogil:
    """The loss of each row of a group; by elements, the sum over its columns."""
    if kind == CROSS_ENTROPY and a == 0.0:
        return cross_entropy(right, z, label, each, columns)
    if kind == CROSS_ENTROPY or kind == CROSS_ENTROPY_SOFT:
        if kind == CROSS_ENTROPY:
            one_hot(t, label, columns)
        else:
            largest_of(t, columns, &label)
        if a > 0.0 or numbers != NULL:
            smooth(t, numbers, a, columns)
        return cross_entropy_soft(right, z, t, label, each, columns)
    if kind == MULTI_MARGIN:
        return multi_margin(right, z, label, each, a, b, columns)
    if kind == MSE:
        return elementwise(MSE, right, z, t, numbers, each, a, b, columns)
    if kind == BCE_WITH_LOGITS:
        return elementwise(BCE_WITH_LOGITS, right, z, t, numbers, each, a, b, columns)
    if kind == PINBALL:
        return elementwise(PINBALL, right, z, t, numbers, each, a, b, columns)
    if kind == HUBER:
        return elementwise(HUBER, right, z, t, numbers, each, a, b, columns)
    if kind == POISSON:
        return elementwise(POISSON, right, z, t, numbers, each, a, b, columns)
    if kind == POISSON_RATE:
        return elementwise(POISSON_RATE, right, z, t, numbers, each, a, b, columns)
    if kind == KL_DIV:
        return elementwise(KL_DIV, right, z, t, numbers, each, a, b, columns)
    return elementwise(HINGE, right, z, t, numbers, each, a, b, columns)


# Rows of a batch.

cdef inline double counted(const double* weight, const int64_t* label, const vec* numbers,
                           Py_ssize_t row) noexcept nogil:
    """The weight of a row times that of its class; NULL stands for 1."""
    cdef double w = weight[row] if weight != NULL else 1.0
    return w * at(numbers, label[row]) if numbers != NULL else w


cdef double row_weight(
    vec like, int kind,
    const double* weight,   # IN (N,), or NULL: 1
    const int64_t* label,   # IN (N,), or NULL
    const vec* numbers,     # IN (C,), or NULL
    Py_ssize_t row,
) noexcept nogil:
    """What a row counts for in the mean."""
    return counted(weight, label, numbers if kind == CROSS_ENTROPY else <const vec*>NULL, row)


cdef inline void load(vec* block, const vec* rows, Py_ssize_t count, Py_ssize_t columns,
                      Py_ssize_t ld) noexcept nogil:
    """Transpose `count` rows to a group."""
    cdef Py_ssize_t j, n = lanes(rows[0])
    for j in range(vectors(rows[0], columns)):
        transpose(block + j * n, 1, rows + j, ld, count, n)


cdef inline void store(vec* rows, const vec* block, Py_ssize_t count, Py_ssize_t columns,
                       Py_ssize_t ld) noexcept nogil:
    """Transpose a group to `count` rows."""
    cdef Py_ssize_t j, n = lanes(rows[0])
    for j in range(vectors(rows[0], columns)):
        transpose(rows + j, ld, block + j * n, 1, min(n, columns - j * n), count)


cdef inline void clear(vec* row, Py_ssize_t columns) noexcept nogil:
    """Set a row to 0."""
    cdef Py_ssize_t j
    for j in range(vectors(row[0], columns)):
        row[j] = splat(row[0], 0.0)


cdef void loss_block(
    int kind,
    double* sums,           # OUT (SUMS,): over the rows of the block, as `loss.pxd` has them
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
    cdef bint by_rows = kind == CROSS_ENTROPY or kind == CROSS_ENTROPY_SOFT
    cdef double share = 1.0 if by_rows or (kind == KL_DIV and b > 0.0) else 1.0 / <double>columns
    # Class weights that multiply a row; the others are in its targets, or are no weights.
    cdef const vec* classes = numbers if kind == MULTI_MARGIN or (
        kind == CROSS_ENTROPY and a == 0.0) else <const vec*>NULL
    cdef bint even = weight == NULL and classes == NULL
    cdef double total = 0.0, right = 0.0, w
    cdef Py_ssize_t group, i, j, count, n = lanes(z[0])
    cdef vec* t = pack + n * vectors(z[0], columns)
    cdef vec value, hits = splat(z[0], 0.0), given = hits, each = splat(z[0], scale * share)
    for group in range(vectors(z[0], last - first)):
        i = first + group * n
        count = min(n, last - i)
        load(pack, z + i * ld, count, columns, ld)
        if target != NULL:
            load(t, target + i * ld, count, columns, ld)
        else:
            for j in range(count):
                require(0 <= label[i + j] and label[i + j] < columns)
                put(&given, j, <double>label[i + j])
        if not even:
            for j in range(count):
                put(&each, j, scale * share * counted(weight, label, classes, i + j))
        value = group_loss(kind, &hits, pack, t, given, numbers, each, a, b, columns)
        if dz != NULL:
            store(dz + i * ld, pack, count, columns, ld)
        for j in range(count):
            if even:
                right += at(&hits, j)
                total += at(&value, j)
                continue
            right += at(&hits, j) if weight == NULL else weight[i + j] * at(&hits, j)
            w = counted(weight, label, classes, i + j)
            if w > 0.0:
                total += w * at(&value, j)
            elif dz != NULL:
                clear(dz + (i + j) * ld, columns)
    sums[0] = total * share
    sums[1] = right if kind <= MULTI_MARGIN else right / <double>columns
    sums[2] = sums[3] = <double>(last - first)
    if weight != NULL or numbers != NULL:
        sums[2] = 0.0
        for i in range(first, last):
            sums[2] += row_weight(z[0], kind, weight, label, numbers, i)
    if weight != NULL:
        sums[3] = 0.0
        for i in range(first, last):
            sums[3] += weight[i]
