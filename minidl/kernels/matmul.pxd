from minidl.kernels.optimizer cimport Step
from minidl.kernels.simd cimport vec

cdef void linear_forward(
    vec* y, vec* kept, const vec* x, const vec* wt, const vec* bias, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t features, Py_ssize_t ldx, Py_ssize_t ldy, int activation,
    double a, double b, vec* pack) noexcept nogil
cdef void linear_backward_input(
    vec* dx, const vec* dy, const vec* w, const vec* kept, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t outputs, Py_ssize_t ldx, Py_ssize_t ldy, int activation, double a, double b,
    vec* pack) noexcept nogil
cdef void linear_backward_weight(
    vec* dwt, vec* wt, vec* m, vec* v, const vec* x, const vec* dy, Py_ssize_t rows,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t first_column, Py_ssize_t last_column,
    Py_ssize_t ldx, Py_ssize_t ldy, const Step* step, bint accumulate) noexcept nogil
cdef void column_sums(vec* db, const vec* dy, Py_ssize_t rows, Py_ssize_t first_column,
                      Py_ssize_t last_column, Py_ssize_t ldy, bint accumulate) noexcept nogil
cdef void transpose(vec* w, const vec* wt, Py_ssize_t first, Py_ssize_t last,
                    Py_ssize_t first_column, Py_ssize_t last_column, Py_ssize_t ldw,
                    Py_ssize_t ldwt) noexcept nogil
