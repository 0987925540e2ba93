"""BatchNorm, forward and backward, with the activation that follows it.

Ioffe and Szegedy, "Batch normalization", ICML 2015. For each feature, over the N rows of a batch:

    mu = mean(x)      sigma^2 = mean((x - mu)^2) + eps        xhat = (x - mu) / sigma
    y = gamma xhat + beta

With the batch's statistics, mu and sigma depend on every x, and the chain rule gives

    dbeta = sum dy      dgamma = sum dy xhat
    dx = gamma / sigma (dy - dbeta / N - xhat dgamma / N)

Prediction uses the running averages in place of mu and sigma^2 - eps; they are constants, so then
dx = gamma / sigma dy. Running averages follow PyTorch: running = (1 - momentum) running + momentum
batch, with the unbiased variance (N - 1 in place of N).

Precision. Rows come in blocks (`threads.pxd`); each block keeps its first row s, the mean d of
x - s, and M2 = sum (x - s - d)^2, in two passes while its rows are in cache. Blocks are merged by
the formula of Chan, Golub and LeVeque (1979), relative to the first row of the first block. Since
x - s is exact or nearly so however large the mean is, a mean 1e4 times the spread costs nothing.
Never E[x^2] - E[x]^2. Equal rows give M2 = 0, sigma = sqrt(eps), xhat = 0.

Forward keeps x, and y if an activation follows; the statistics are 5 rows a thread. Memory
traffic: forward reads x twice (once from cache) and writes y; backward reads dy and x twice and
writes dy and dx.

Columns are gone through in the outer loop, rows in the inner one: what belongs to a column stays in
registers. A thread's replica, rows of ld vectors: s, d relative to s as -d / sigma, 1 / sigma,
gamma / sigma, beta - d gamma / sigma, and in backward dbeta / N and dgamma / N. Every thread
computes all of it in the same order: no second barrier.
"""

from minidl.kernels.activation cimport IDENTITY, activate, activation_gradient
from minidl.kernels.activation cimport SILU
from minidl.kernels.simd cimport fma, require, splat, vec, vsqrt
from minidl.kernels.threads cimport share

cdef enum:
    NEAR_ROWS = 16      # rows that stay in the first cache while their columns are gone through


cdef void block_statistics(
    vec* partial,       # OUT (3, ld): first row, mean and M2 of what exceeds it
    const vec* x,       # IN (N, ld)
    Py_ssize_t first, Py_ssize_t last,  # rows of the block
    Py_ssize_t width, Py_ssize_t ld,    # columns and distance of rows, in vectors
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef vec s, d, m2, e, count = splat(x[0], <double>(last - first))
    require(first < last)
    for j in range(width):
        s = x[first * ld + j]
        d = splat(s, 0.0)
        for i in range(first + 1, last):
            d = d + (x[i * ld + j] - s)
        d = d / count
        m2 = splat(s, 0.0)
        for i in range(first, last):
            e = x[i * ld + j] - s - d
            m2 = fma(e, e, m2)
        partial[j] = s
        partial[ld + j] = d
        partial[2 * ld + j] = m2


cdef inline void fill(vec* replica, vec s, vec d, vec variance, vec gamma, vec beta, Py_ssize_t ld,
                      double eps) noexcept nogil:
    """A column of the replica from its mean s + d and its biased variance."""
    cdef vec inverse = splat(s, 1.0) / vsqrt(variance + splat(s, eps))
    cdef vec scale = gamma * inverse, zero = splat(s, 0.0)
    replica[0] = s
    replica[ld] = (zero - d) * inverse
    replica[2 * ld] = inverse
    replica[3 * ld] = scale
    replica[4 * ld] = fma(zero - d, scale, beta)


cdef void merge_statistics(
    vec* replica,       # OUT (7, ld): rows 0 to 4
    vec* running_mean, vec* running_var,    # IN, OUT (ld,), or NULL
    const vec* partial,                     # IN (blocks, 3, ld)
    const vec* gamma, const vec* beta,      # IN (ld,)
    Py_ssize_t rows, Py_ssize_t blocks,     # of all ranks, whose statistics are one block, or here
    Py_ssize_t width, Py_ssize_t ld, double eps, double momentum,
) noexcept nogil:
    cdef Py_ssize_t b, j, n
    cdef const vec* p
    cdef vec s, d, m2, e
    for j in range(width):
        s = partial[j]
        d = splat(s, 0.0)
        for b in range(blocks):
            p = partial + b * STATISTICS * ld + j
            n = share(rows, blocks, b + 1) - share(rows, blocks, b)
            d = fma(splat(s, <double>n), p[0] - s + p[ld], d)
        d = d / splat(s, <double>rows)
        m2 = splat(s, 0.0)
        for b in range(blocks):
            p = partial + b * STATISTICS * ld + j
            n = share(rows, blocks, b + 1) - share(rows, blocks, b)
            e = p[0] - s + p[ld] - d
            m2 = m2 + fma(splat(s, <double>n) * e, e, p[2 * ld])
        fill(replica + j, s, d, m2 / splat(s, <double>rows), gamma[j], beta[j], ld, eps)
        if running_mean != NULL:
            e = splat(s, 1.0 - momentum)
            running_mean[j] = fma(splat(s, momentum), s + d, e * running_mean[j])
            running_var[j] = fma(splat(s, momentum), m2 / splat(s, <double>(rows - 1)),
                                 e * running_var[j])


cdef void running_statistics(
    vec* replica,       # OUT (7, ld): rows 0 to 4
    const vec* running_mean, const vec* running_var,    # IN (ld,)
    const vec* gamma, const vec* beta,
    Py_ssize_t width, Py_ssize_t ld, double eps,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(width):
        fill(replica + j, running_mean[j], splat(gamma[j], 0.0), running_var[j], gamma[j], beta[j],
             ld, eps)


cdef void normalize(
    vec* y,             # OUT (N, ld): activation(gamma xhat + beta)
    const vec* x,       # IN (N, ld)
    const vec* replica,  # IN (7, ld)
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t width, Py_ssize_t ld,
    int activation, double a, double b,
) noexcept nogil:
    cdef Py_ssize_t i, j, low = first, high
    cdef vec s, scale, offset
    while low < last:
        high = min(low + NEAR_ROWS, last)
        for j in range(width):
            s = replica[j]
            scale = replica[3 * ld + j]
            offset = replica[4 * ld + j]
            for i in range(low, high):
                y[i * ld + j] = activate(activation, fma(x[i * ld + j] - s, scale, offset), a, b)
        low = high


cdef void block_gradients(
    vec* partial,       # OUT (3, ld): dbeta and dgamma of the block
    vec* before,        # OUT (N, ld): gradient before the activation, if there is one; may be dy
    const vec* dy,      # IN (N, ld): gradient after it
    const vec* y,       # IN (N, ld): output of forward
    const vec* x,       # IN (N, ld): input of forward
    const vec* replica,  # IN (7, ld)
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t width, Py_ssize_t ld,
    int activation, double a, double b,
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef vec g, kept, e, sum_dy, sum_dy_xhat
    for j in range(width):
        sum_dy = splat(x[j], 0.0)
        sum_dy_xhat = sum_dy
        for i in range(first, last):
            g = dy[i * ld + j]
            e = x[i * ld + j] - replica[j]
            if activation != IDENTITY:
                if activation >= SILU:  # these keep their input: computed again, not stored
                    kept = fma(e, replica[3 * ld + j], replica[4 * ld + j])
                else:
                    kept = y[i * ld + j]
                g = activation_gradient(activation, g, kept, a, b)
                before[i * ld + j] = g
            sum_dy = sum_dy + g
            sum_dy_xhat = fma(g, fma(e, replica[2 * ld + j], replica[ld + j]), sum_dy_xhat)
        partial[j] = sum_dy
        partial[ld + j] = sum_dy_xhat


cdef void merge_gradients(
    vec* replica,       # OUT (7, ld): rows 5 and 6
    vec* dgamma, vec* dbeta,    # OUT (ld,), or NULL
    const vec* partial,         # IN (blocks, 3, ld)
    Py_ssize_t rows, Py_ssize_t blocks, Py_ssize_t width, Py_ssize_t ld,
    bint training,      # False: the statistics are constants
    bint accumulate,    # add to dgamma and dbeta
) noexcept nogil:
    cdef Py_ssize_t b, j
    cdef vec sum_dy, sum_dy_xhat, share_of_row
    for j in range(width):
        sum_dy = splat(partial[j], 0.0)
        share_of_row = splat(sum_dy, 1.0 / <double>rows if training else 0.0)
        sum_dy_xhat = sum_dy
        for b in range(blocks):
            sum_dy = sum_dy + partial[b * STATISTICS * ld + j]
            sum_dy_xhat = sum_dy_xhat + partial[(b * STATISTICS + 1) * ld + j]
        replica[5 * ld + j] = sum_dy * share_of_row
        replica[6 * ld + j] = sum_dy_xhat * share_of_row
        if dgamma != NULL:
            dgamma[j] = dgamma[j] + sum_dy_xhat if accumulate else sum_dy_xhat
            dbeta[j] = dbeta[j] + sum_dy if accumulate else sum_dy


cdef void batchnorm_backward(
    vec* dx,            # OUT (N, ld); may be dy
    const vec* dy,      # IN (N, ld)
    const vec* x,       # IN (N, ld)
    const vec* replica,  # IN (7, ld)
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t width, Py_ssize_t ld,
) noexcept nogil:
    cdef Py_ssize_t i, j, low = first, high
    cdef vec s, inverse, mean, scale, mean_dy, mean_dy_xhat, xhat, zero = splat(dy[0], 0.0)
    while low < last:
        high = min(low + NEAR_ROWS, last)
        for j in range(width):
            s = replica[j]
            mean = replica[ld + j]
            inverse = replica[2 * ld + j]
            scale = replica[3 * ld + j]
            mean_dy = replica[5 * ld + j]
            mean_dy_xhat = replica[6 * ld + j]
            for i in range(low, high):
                xhat = fma(x[i * ld + j] - s, inverse, mean)
                dx[i * ld + j] = scale * fma(zero - xhat, mean_dy_xhat, dy[i * ld + j] - mean_dy)
        low = high
