"""Embedding: rows of a table, by the categories in the columns of x.

    y[i, f E : (f + 1) E] = table[x[i, f]]      dtable[k] = sum of dy[i, f] where x[i, f] = k

x has N rows of F categories, whole numbers from 0 to K - 1 held as floating numbers; the table is
(K, E). Categories were checked at the door; one that is out of range all the same is held within it
here, so that nothing outside the table is read or written.

Forward keeps x. Memory traffic: forward reads a row of the table for each category and writes y;
backward writes the gradient of the whole table, then reads dy once, and all of x in each thread. A
thread owns a run of the table's vectors, and adds to them in the order of the rows: the sums are
the same for every number of threads.
"""

from libc.string cimport memcpy, memset

from minidl.kernels.simd cimport f32v, lanes, require, vec


cdef inline Py_ssize_t category(const vec* x, Py_ssize_t f, Py_ssize_t categories) noexcept nogil:
    """Element f of a row, held within the table; NaN becomes 0."""
    cdef double given
    if vec is f32v:
        given = (<const float*>x)[f]
    else:
        given = (<const double*>x)[f]
    require(0.0 <= given and given < <double>categories)
    if not given > 0.0:
        return 0
    return <Py_ssize_t>given if given < <double>categories else categories - 1


cdef void embedding_forward(
    vec* y,             # OUT (N, ldy): F vectors of E elements side by side, 0 behind them
    const vec* x,       # IN (N, ldx): F categories
    const vec* table,   # IN (K, ldt): E elements
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t fields, Py_ssize_t size, Py_ssize_t categories,      # F, E, K
    Py_ssize_t ldx, Py_ssize_t ldy, Py_ssize_t ldt,                 # in vectors
) noexcept nogil:
    cdef Py_ssize_t i, f, k, item = sizeof(vec) // lanes(table[0]), used = fields * size * item
    for i in range(first, last):
        for f in range(fields):
            k = category(x + i * ldx, f, categories)
            memcpy(<char*>(y + i * ldy) + f * size * item, table + k * ldt, size * item)
        memset(<char*>(y + i * ldy) + used, 0, ldy * sizeof(vec) - used)


cdef void embedding_gradient(
    vec* dtable,        # OUT (K, ldt)
    const vec* dy,      # IN (N, ldy)
    const vec* x,       # IN (N, ldx)
    Py_ssize_t rows,
    Py_ssize_t low, Py_ssize_t high,        # vectors of dtable that the thread owns
    Py_ssize_t fields, Py_ssize_t size, Py_ssize_t categories,
    Py_ssize_t ldx, Py_ssize_t ldy, Py_ssize_t ldt,
    bint accumulate,    # add to dtable
) noexcept nogil:
    cdef Py_ssize_t i, f, k, e, begin, end, n = lanes(dy[0])
    if not accumulate:
        memset(dtable + low, 0, (high - low) * sizeof(vec))
    for i in range(rows):
        for f in range(fields):
            k = category(x + i * ldx, f, categories)
            begin = max(0, (low - k * ldt) * n)
            end = min(size, (high - k * ldt) * n)
            for e in range(begin, end):
                if vec is f32v:
                    (<float*>(dtable + k * ldt))[e] += (<const float*>(dy + i * ldy))[f * size + e]
                else:
                    (<double*>(dtable + k * ldt))[e] += (
                        <const double*>(dy + i * ldy))[f * size + e]
