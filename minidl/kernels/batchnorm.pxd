from minidl.kernels.simd cimport vec

cdef enum:
    STATISTICS = 3      # rows of a block's partial results
    REPLICA = 7         # rows of a thread's replica

cdef void block_statistics(
    vec* partial, const vec* x, Py_ssize_t first, Py_ssize_t last, Py_ssize_t width,
    Py_ssize_t ld) noexcept nogil
cdef void merge_statistics(
    vec* replica, vec* running_mean, vec* running_var, const vec* partial, const vec* gamma,
    const vec* beta, Py_ssize_t rows, Py_ssize_t blocks, Py_ssize_t width, Py_ssize_t ld,
    double eps, double momentum) noexcept nogil
cdef void running_statistics(
    vec* replica, const vec* running_mean, const vec* running_var, const vec* gamma,
    const vec* beta, Py_ssize_t width, Py_ssize_t ld, double eps) noexcept nogil
cdef void normalize(
    vec* y, const vec* x, const vec* replica, Py_ssize_t first, Py_ssize_t last, Py_ssize_t width,
    Py_ssize_t ld, int activation, double a, double b) noexcept nogil
cdef void block_gradients(
    vec* partial, vec* before, const vec* dy, const vec* y, const vec* x, const vec* replica,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t width, Py_ssize_t ld, int activation, double a,
    double b) noexcept nogil
cdef void merge_gradients(
    vec* replica, vec* dgamma, vec* dbeta, const vec* partial, Py_ssize_t rows, Py_ssize_t blocks,
    Py_ssize_t width, Py_ssize_t ld, bint training, bint accumulate) noexcept nogil
cdef void batchnorm_backward(
    vec* dx, const vec* dy, const vec* x, const vec* replica, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t width, Py_ssize_t ld) noexcept nogil
