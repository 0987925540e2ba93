"""What the numbers of a matrix are like, and how far a parameter has moved.

Of the elements x of a block of rows:

    sums = sum x, sum x^2, elements that are 0, elements below `low` or above `high`
    largest = max |x|, column by column

and of a parameter w, with its gradient g and what an update has made of it:

    sums = sum w^2, sum (w' - w)^2, sum g^2

Sums are in double precision, each lane by itself and then the lanes in pairs: the squares of a
gradient that vanishes are less than float32 can hold. They are kept per block; those of a matrix
are added to what is there, so that one batch may follow another, until their total is taken.
Memory traffic: each element is read once.
"""

from minidl.kernels.matmul cimport vectors
from minidl.kernels.simd cimport (
    f32v, f64v, fma_f64v, if_gt, lanes, splat, splat_f64v, sum_f64v, sum_of_lanes, vabs, vec,
    vmax, widen, within,
)

cdef enum:
    COUNTED = 64        # rows whose elements are counted in the vector's own precision, exactly


cdef inline void add_squares(f64v* total, f64v* square, const vec* x) noexcept nogil:
    """The elements of a vector, and their squares, to sums in double precision, two of each.

    A sum waits for the one before: the halves of a vector have one each.
    """
    cdef f64v e
    if vec is f32v:
        e = widen(<const char*>x)
        total[0] = total[0] + e
        square[0] = fma_f64v(e, e, square[0])
        e = widen(<const char*>x + sizeof(vec) // 2)
        total[1] = total[1] + e
        square[1] = fma_f64v(e, e, square[1])
    else:
        e = x[0]
        total[0] = total[0] + e
        square[0] = fma_f64v(e, e, square[0])


cdef inline void count(vec* zeros, vec* outside, vec v, vec low, vec high, vec one
                       ) noexcept nogil:
    """Elements that are 0 or beyond the bounds, by lanes; `one` is 0 in lanes that are padding."""
    cdef vec zero = splat(v, 0.0)
    zeros[0] = zeros[0] + if_gt(vabs(v), zero, zero, one)
    outside[0] = outside[0] + if_gt(v, high, one, if_gt(low, v, one, zero))


cdef void block_sums(
    double* sums,       # IN, OUT (4,)
    vec* largest,       # IN, OUT (ld,), or NULL
    const vec* x,       # IN (N, ld)
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    Py_ssize_t columns, Py_ssize_t ld,      # ld in vectors
    double low, double high,
    bint counts,        # False: sums alone
) noexcept nogil:
    cdef Py_ssize_t i, j, whole = columns // lanes(x[0]), width = vectors(x[0], columns)
    cdef f64v total[2]
    cdef f64v square[2]
    cdef vec zero = splat(x[0], 0.0), one = splat(x[0], 1.0)
    cdef vec below = splat(x[0], low), above = splat(x[0], high)
    cdef vec zeros = zero, outside = zero, v
    cdef const vec* row
    for i in range(2):
        total[i] = square[i] = splat_f64v(0.0)
    for i in range(first, last):
        row = x + i * ld
        for j in range(whole):
            add_squares(total, square, row + j)
        if whole < width:
            v = within(row[whole], whole, columns)
            add_squares(total, square, &v)
        if not counts:
            continue
        for j in range(whole):
            count(&zeros, &outside, row[j], below, above, one)
        if whole < width:
            count(&zeros, &outside, row[whole], below, above, within(one, whole, columns))
        if (i - first) % COUNTED == COUNTED - 1 or i == last - 1:
            sums[2] += sum_of_lanes(zeros)
            sums[3] += sum_of_lanes(outside)
            zeros = outside = zero
        if largest != NULL:
            for j in range(width):
                largest[j] = vmax(vabs(row[j]), largest[j])
    sums[0] += sum_f64v(total[0] + total[1])
    sums[1] += sum_f64v(square[0] + square[1])


cdef void change_sums(
    double* sums,       # OUT (3,)
    const vec* before, const vec* after, const vec* gradient,   # IN (n,) in vectors
    Py_ssize_t n,
) noexcept nogil:
    cdef f64v unused[2]
    cdef f64v own[2]
    cdef f64v moved[2]
    cdef f64v by_gradient[2]
    cdef Py_ssize_t i
    cdef vec difference
    for i in range(2):
        unused[i] = own[i] = moved[i] = by_gradient[i] = splat_f64v(0.0)
    for i in range(n):
        difference = after[i] - before[i]  # exact where they are near each other
        add_squares(unused, own, before + i)
        add_squares(unused, moved, &difference)
        add_squares(unused, by_gradient, gradient + i)
    sums[0] = sum_f64v(own[0] + own[1])
    sums[1] = sum_f64v(moved[0] + moved[1])
    sums[2] = sum_f64v(by_gradient[0] + by_gradient[1])


cdef void total_sums(
    double* record,     # OUT (n + ld * lanes,): totals; 1 where an element of `largest` is not 0
    double* sums,       # IN (blocks, n); OUT 0
    vec* largest,       # IN (blocks, ld) in vectors; OUT 0
    Py_ssize_t n, Py_ssize_t blocks, Py_ssize_t ld,
) noexcept nogil:
    cdef Py_ssize_t i, b
    cdef vec zero
    for i in range(n):
        record[i] = 0.0
    for b in range(blocks):
        for i in range(n):
            record[i] += sums[b * n + i]
            sums[b * n + i] = 0.0
    if ld == 0:
        return
    zero = splat(largest[0], 0.0)
    for b in range(1, blocks):
        for i in range(ld):
            largest[i] = vmax(largest[b * ld + i], largest[i])
            largest[b * ld + i] = zero
    for i in range(ld * lanes(zero)):
        if vec is f32v:
            record[n + i] = (<const float*>largest)[i] > 0.0
        else:
            record[n + i] = (<const double*>largest)[i] > 0.0
    for i in range(ld):
        largest[i] = zero
