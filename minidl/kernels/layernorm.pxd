from minidl.kernels.simd cimport vec

cdef void layernorm_forward(
    vec* y, double* kept, const vec* x, const vec* gamma, const vec* beta, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t columns, Py_ssize_t ld, double eps, bint centered) noexcept nogil
cdef void layernorm_backward(
    vec* dx, vec* partial, const vec* dy, const vec* x, const double* kept, const vec* gamma,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t columns, Py_ssize_t ld, bint centered
    ) noexcept nogil
