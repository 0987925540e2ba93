"""PReLU, forward and backward. He et al., "Delving deep into rectifiers", ICCV 2015.

    y = x > 0 ? x : w x      dx = x > 0 ? dy : w dy      dw = sum min(x, 0) dy

w is one number, or one for each column; dw is a sum over the rows, and in the first case over the
columns too. Forward keeps x. Memory traffic: each element is read and written once, forward and
backward. Sums over rows are kept per block, and merged by `add_blocks` in `flat.pyx`; for one w
lane by lane until then.
"""

from minidl.kernels.simd cimport fma, if_gt, splat, splat_at, vec, vmin


cdef inline vec weight(const vec* w, Py_ssize_t j, bint one) noexcept nogil:
    return splat_at(w[0], w) if one else w[j]


cdef void prelu_forward(
    vec* y,             # OUT (N, ld)
    const vec* x,       # IN (N, ld)
    const vec* w,       # IN (ld,)
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t width, Py_ssize_t ld,        # columns and distance of rows, in vectors
    bint one,           # the first element of w holds for all columns
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(first, last):
        for j in range(width):
            y[i * ld + j] = if_gt(x[i * ld + j], splat(w[0], 0.0), x[i * ld + j],
                                  weight(w, j, one) * x[i * ld + j])


cdef void prelu_backward(
    vec* dx,            # OUT (N, ld), or NULL; may be dy
    vec* partial,       # OUT (ld,): dw of the block; for one w, in the first vector
    const vec* dy,      # IN (N, ld)
    const vec* x,       # IN (N, ld): input of forward
    const vec* w,       # IN (ld,)
    Py_ssize_t first, Py_ssize_t last,      # rows of the block
    Py_ssize_t width, Py_ssize_t ld, bint one,
) noexcept nogil:
    cdef Py_ssize_t i, j, at
    cdef vec g, zero = splat(w[0], 0.0)
    for j in range(ld):  # the sums are merged with their padding
        partial[j] = zero
    for i in range(first, last):
        for j in range(width):
            g = dy[i * ld + j]
            at = 0 if one else j
            partial[at] = fma(vmin(zero, x[i * ld + j]), g, partial[at])
            if dx != NULL:
                dx[i * ld + j] = if_gt(x[i * ld + j], zero, g, weight(w, j, one) * g)
