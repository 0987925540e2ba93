from minidl.kernels.simd cimport vec

cdef void softmax_forward(vec* y, const vec* x, Py_ssize_t first, Py_ssize_t last,
                          Py_ssize_t columns, Py_ssize_t ld) noexcept nogil
cdef void softmax_backward(vec* dx, const vec* dy, const vec* y, Py_ssize_t first, Py_ssize_t last,
                           Py_ssize_t columns, Py_ssize_t ld) noexcept nogil
