from minidl.kernels.simd cimport vec

cdef void prelu_forward(vec* y, const vec* x, const vec* w, Py_ssize_t first, Py_ssize_t last,
                        Py_ssize_t width, Py_ssize_t ld, bint one) noexcept nogil
cdef void prelu_backward(vec* dx, vec* partial, const vec* dy, const vec* x, const vec* w,
                         Py_ssize_t first, Py_ssize_t last, Py_ssize_t width, Py_ssize_t ld,
                         bint one) noexcept nogil
