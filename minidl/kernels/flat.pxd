from minidl.kernels.simd cimport vec

cdef void add(vec* y, const vec* a, const vec* b, Py_ssize_t n) noexcept nogil
cdef void add_blocks(vec* y, const vec* partial, Py_ssize_t blocks, Py_ssize_t distance,
                     Py_ssize_t n, bint one, bint accumulate) noexcept nogil
cdef void average(vec* mean, const vec* w, Py_ssize_t n, double decay) noexcept nogil
cdef double squares(const vec* x, Py_ssize_t n) noexcept nogil
cdef double finite_sum(const vec* x, Py_ssize_t n) noexcept nogil
