from libc.stdint cimport int64_t

from minidl.kernels.simd cimport vec

cdef enum LossKind:
    CROSS_ENTROPY = 0       # integer labels
    CROSS_ENTROPY_SOFT      # class probabilities
    MSE
    BCE_WITH_LOGITS

cdef void loss_block(int kind, double* loss, double* correct, vec* dz, const vec* z,
                     const vec* target, const int64_t* label, Py_ssize_t first, Py_ssize_t last,
                     Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t ld, vec* pack) noexcept nogil
