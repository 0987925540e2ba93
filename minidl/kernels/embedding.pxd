from minidl.kernels.simd cimport vec

cdef void embedding_forward(
    vec* y, const vec* x, const vec* table, Py_ssize_t first, Py_ssize_t last, Py_ssize_t fields,
    Py_ssize_t size, Py_ssize_t categories, Py_ssize_t ldx, Py_ssize_t ldy, Py_ssize_t ldt
    ) noexcept nogil
cdef void embedding_gradient(
    vec* dtable, const vec* dy, const vec* x, Py_ssize_t rows, Py_ssize_t low, Py_ssize_t high,
    Py_ssize_t fields, Py_ssize_t size, Py_ssize_t categories, Py_ssize_t ldx, Py_ssize_t ldy,
    Py_ssize_t ldt, bint accumulate) noexcept nogil
