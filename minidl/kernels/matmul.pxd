from minidl.kernels.optimizer cimport Step
from minidl.kernels.simd cimport lanes, vec

cdef void linear_forward(
    vec* y, vec* kept, const char* x, Py_ssize_t x_row, const vec* w, const vec* bias,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t first_column, Py_ssize_t last_column,
    Py_ssize_t features, Py_ssize_t outputs, Py_ssize_t ldx, Py_ssize_t ldy, bint transposed,
    int activation, double alpha, double beta, vec* pack) noexcept nogil
cdef void linear_backward_input(
    vec* dx, const vec* dy, const vec* w, const vec* kept, const vec* start, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t features, Py_ssize_t outputs, Py_ssize_t ldx, Py_ssize_t ldy,
    bint transposed, int activation, double alpha, double beta, vec* pack) noexcept nogil
cdef void linear_backward_weight(
    vec* dw, vec* w, vec* m, Py_ssize_t stride, const char* x, Py_ssize_t x_row, const vec* dy,
    Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last, Py_ssize_t first_column,
    Py_ssize_t last_column, Py_ssize_t width, Py_ssize_t ldy, const Step* step, bint accumulate,
    vec* pack) noexcept nogil
cdef void linear_backward_bias(
    vec* db, vec* bias, vec* m, Py_ssize_t stride, const vec* dy, Py_ssize_t rows,
    Py_ssize_t first_column, Py_ssize_t last_column, Py_ssize_t ldy, const Step* step,
    bint accumulate) noexcept nogil


cdef inline Py_ssize_t vectors(vec like, Py_ssize_t columns) noexcept nogil:
    """Vectors that hold so many columns."""
    return (columns + lanes(like) - 1) // lanes(like)
