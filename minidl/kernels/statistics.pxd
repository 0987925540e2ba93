from minidl.kernels.simd cimport vec

cdef enum:
    LOOKED = 4      # sums of a matrix
    MOVED = 3       # sums of a parameter

cdef void block_sums(double* sums, vec* largest, const vec* x, Py_ssize_t first, Py_ssize_t last,
                     Py_ssize_t columns, Py_ssize_t ld, double low, double high, bint counts
                     ) noexcept nogil
cdef void change_sums(double* sums, const vec* before, const vec* after, const vec* gradient,
                      Py_ssize_t n) noexcept nogil
cdef void total_sums(double* record, double* sums, vec* largest, Py_ssize_t n, Py_ssize_t blocks,
                     Py_ssize_t ld) noexcept nogil
