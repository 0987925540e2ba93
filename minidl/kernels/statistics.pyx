"""What the numbers of a matrix are like, and how far a parameter has moved.

Of the elements x of a block of rows:

    sums = sum x, sum x^2, elements that are 0, elements below `low` or above `high`
    largest = max |x|, column by column

and of a parameter w, with its gradient g and what an update has made of it:

    sums = sum w^2, sum (w' - w)^2, sum g^2

Sums are in double precision, each lane by itself and then the lanes in order: the squares of a
gradient that vanishes are less than float32 can hold. They are kept per block. Those of a matrix are
added to what is there, so that one batch may follow another.
Memory traffic: each element is read once.
"""

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport (
    f32v, if_gt, lanes, splat, sum_of_lanes, vabs, vec, vmax, within,
)


cdef inline void add_lanes(double* total, double* square, const vec* x, int count
                           ) noexcept nogil:
    """Each lane of a vector, and its square, to sums of their own."""
    cdef double e
    cdef int lane
    for lane in range(count):
        if vec is f32v:
            e = <double>(<const float*>x)[lane]
        else:
            e = (<const double*>x)[lane]
        total[lane] += e
        square[lane] += e * e


cdef void block_sums(
    double* sums,       # IN, OUT (4,)
    vec* largest,       # IN, OUT (ld,), or NULL
    const vec* x,       # IN (N, ld)
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    Py_ssize_t columns, Py_ssize_t ld,      # ld in vectors
    double low, double high,
) noexcept nogil:
    cdef double total[16]
    cdef double square[16]
    cdef Py_ssize_t i, j, width = vectors(x[0], columns)
    cdef int lane, count = <int>lanes(x[0])
    cdef vec zero = splat(x[0], 0.0), one = splat(x[0], 1.0)
    cdef vec below = splat(x[0], low), above = splat(x[0], high)
    cdef vec v, size, zeros, outside
    for lane in range(16):
        total[lane] = square[lane] = 0.0
    for i in range(first, last):
        zeros = outside = zero
        for j in range(width):
            v = x[i * ld + j]
            size = vabs(v)
            zeros = zeros + within(if_gt(size, zero, zero, one), j, columns)
            outside = outside + within(if_gt(v, above, one, if_gt(below, v, one, zero)), j,
                                       columns)
            if largest != NULL:
                largest[j] = vmax(size, largest[j])
            v = within(v, j, columns)
            add_lanes(total, square, &v, count)
        sums[2] += sum_of_lanes(zeros)
        sums[3] += sum_of_lanes(outside)
    for lane in range(count):
        sums[0] += total[lane]
        sums[1] += square[lane]


cdef void change_sums(
    double* sums,       # OUT (3,)
    const vec* before, const vec* after, const vec* gradient,   # IN (n,) in vectors
    Py_ssize_t n,
) noexcept nogil:
    cdef double unused[16]
    cdef double square[48]
    cdef Py_ssize_t i
    cdef int lane, k, count = <int>lanes(before[0])
    cdef vec moved
    for lane in range(48):
        square[lane] = 0.0
    for lane in range(16):
        unused[lane] = 0.0
    for i in range(n):
        moved = after[i] - before[i]  # exact where they are near each other
        add_lanes(unused, square, before + i, count)
        add_lanes(unused, square + 16, &moved, count)
        add_lanes(unused, square + 32, gradient + i, count)
    for k in range(3):
        sums[k] = 0.0
        for lane in range(count):
            sums[k] += square[16 * k + lane]
