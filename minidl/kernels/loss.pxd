from libc.stdint cimport int64_t

from minidl.kernels.simd cimport vec

cdef enum LossKind:
    # By rows.              # a                 b
    CROSS_ENTROPY = 0       # smoothing                             integer labels
    CROSS_ENTROPY_SOFT      # smoothing                             class probabilities
    MULTI_MARGIN            # margin            power               integer labels
    # By elements.
    MSE
    BCE_WITH_LOGITS         # weight of t = 1
    PINBALL                 # quantile          factor
    HUBER                   # delta             factor
    POISSON                 # Stirling's term                       z is the logarithm of the rate
    POISSON_RATE            # Stirling's term   epsilon             z is the rate
    KL_DIV                  # logarithmic t     sum over columns
    HINGE                   # squared

cdef enum:
    # Numbers that a block of rows gives: loss, right rows, what the rows count for in the mean loss
    # (class weights too), and in the share of right ones (sample weights alone).
    SUMS = 4

cdef void loss_block(int kind, double* sums, vec* dz, const vec* z, const vec* target,
                     const int64_t* label, const double* weight, const vec* numbers,
                     Py_ssize_t first, Py_ssize_t last, double scale, Py_ssize_t columns,
                     Py_ssize_t ld, double a, double b, vec* pack) noexcept nogil
cdef double row_weight(vec like, int kind, const double* weight, const int64_t* label,
                       const vec* numbers, Py_ssize_t row) noexcept nogil
