"""The three products of a dense layer, all in one inner form.

With N samples, D inputs, K outputs, and the weights held as Wt = W^T, (D, K):

    Y  = X Wt + b        (N, K)   A = X,    B = Wt
    dX = dY W            (N, D)   A = dY,   B = W, a transposed copy of Wt
    dWt = X^T dY         (D, K)   A = X^T,  B = dY

Each is C = A B where B's rows are contiguous. A register tile of C, TILE_ROWS x 2 vectors, gathers
sum_k A[i, k] B[k, j]: for each k two vectors of B are loaded and each A[i, k] is broadcast from
memory, through two strides, so that X and X^T are read in place. What follows the product is done
on the tile while it is in registers or in L1: bias, activation and its derivative, the optimizer.

Every element of C is one chain of multiply-adds in the order of k. The tile, the panel and the
number of threads therefore never change a bit.

Columns are counted in vectors: rows of every matrix are padded to whole vectors. Forward keeps X,
and the activation's output or input; see `activation.pxd`.
"""

from minidl.kernels.activation cimport (
    IDENTITY, RELU, activate, activation_gradient,
)
from minidl.kernels.optimizer cimport Step, updated
from minidl.kernels.simd cimport TILE_ROWS, f32v, fma, if_gt, require, splat, splat_at, vec

cdef enum Finish:
    STORE       # C = tile
    POSITIVE    # C = max(tile, 0)
    MASK        # C = kept > 0 ? tile : 0
    FORWARD     # C = activation(tile); tile itself to `kept` if that is not NULL
    BACKWARD    # C = tile * activation'(kept)
    UPDATE      # weights = optimizer(weights, tile)

cdef struct Epilogue:
    int finish
    bint accumulate     # the tile starts from C
    int activation
    double a, b         # its parameters
    const Step* step

cdef enum:
    PACK_ROWS = 48      # rows of C from which copying a panel of B pays
    PACK_DEPTH = 64     # and rows of B
    PACK_STRIDE = 16    # and vectors between rows of B


cdef inline void tile(
    vec* c, Py_ssize_t ldc,             # IN, OUT: the tile's place in C
    vec* side, Py_ssize_t lds,          # kept matrix of the epilogue, or the weights
    vec* m, vec* v,                     # optimizer states, beside the weights
    const vec* start,                   # row that the accumulators start from, or NULL for zeros
    const char* a, Py_ssize_t a_row, Py_ssize_t a_step,  # bytes from row to row, from k to k
    const vec* b, Py_ssize_t ldb,
    Py_ssize_t depth,
    const Epilogue* e,
    int rows, int cols,                 # constants, so that every loop over them is unrolled
) noexcept nogil:
    cdef vec acc[12][2]
    cdef vec out[24]
    cdef vec bv[2]
    cdef vec x, zero = splat(bv[0], 0.0)
    cdef Py_ssize_t _k
    cdef int i, j
    for i in range(rows):
        for j in range(cols):
            if e.accumulate:
                acc[i][j] = c[i * ldc + j]
            else:
                acc[i][j] = start[j] if start != NULL else zero
    for _k in range(depth):
        for j in range(cols):
            bv[j] = b[j]
        for i in range(rows):
            x = splat_at(bv[0], a + i * a_row)
            for j in range(cols):
                acc[i][j] = fma(x, bv[j], acc[i][j])
        a += a_step
        b += ldb
    if e.finish == STORE:
        for i in range(rows):
            for j in range(cols):
                c[i * ldc + j] = acc[i][j]
    elif e.finish == POSITIVE:
        for i in range(rows):
            for j in range(cols):
                c[i * ldc + j] = if_gt(zero, acc[i][j], zero, acc[i][j])
    elif e.finish == MASK:
        for i in range(rows):
            for j in range(cols):
                c[i * ldc + j] = if_gt(side[i * lds + j], zero, acc[i][j], zero)
    else:
        for i in range(rows):
            for j in range(cols):
                out[i * cols + j] = acc[i][j]
        finish_tile(c, ldc, side, lds, m, v, out, e, rows, cols)


cdef void finish_tile(vec* c, Py_ssize_t ldc, vec* side, Py_ssize_t lds, vec* m, vec* v,
                      const vec* out, const Epilogue* e, int rows, int cols) noexcept nogil:
    """The longer epilogues, on a tile that has been stored to `out`."""
    cdef int i, j
    cdef vec x
    for i in range(rows):
        for j in range(cols):
            x = out[i * cols + j]
            if e.finish == UPDATE:
                side[i * lds + j] = updated(e.step, side[i * lds + j], x, m + i * lds + j,
                                            v + i * lds + j)
            elif e.finish == BACKWARD:
                c[i * ldc + j] = activation_gradient(e.activation, x, side[i * lds + j], e.a, e.b)
            else:
                if side != NULL:
                    side[i * lds + j] = x
                c[i * ldc + j] = activate(e.activation, x, e.a, e.b)


cdef inline void panel(
    vec* c, Py_ssize_t ldc, vec* side, Py_ssize_t lds, vec* m, vec* v, const vec* start,
    const char* a, Py_ssize_t a_row, Py_ssize_t a_step, const vec* b, Py_ssize_t ldb,
    Py_ssize_t rows, Py_ssize_t depth, const Epilogue* e, int cols,
) noexcept nogil:
    """All rows of `cols` vectors of columns, in tiles of the greatest height that fits."""
    cdef Py_ssize_t i = 0, left, h, s
    while i < rows:
        left = rows - i
        s = i * lds if side != NULL else 0
        if TILE_ROWS == 12 and left >= 12:
            h = 12
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 12, cols)
        elif TILE_ROWS == 12 and left >= 8:
            h = 8
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 8, cols)
        elif TILE_ROWS == 6 and left >= 6:
            h = 6
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 6, cols)
        elif left >= 4:
            h = 4
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 4, cols)
        elif left >= 2:
            h = 2
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 2, cols)
        else:
            h = 1
            tile(c + i * ldc, ldc, side + s, lds, m + s, v + s, start, a + i * a_row, a_row,
                 a_step, b, ldb, depth, e, 1, cols)
        i += h


cdef void product(
    vec* c, Py_ssize_t ldc, vec* side, Py_ssize_t lds, vec* m, vec* v, const vec* start,
    const char* a, Py_ssize_t a_row, Py_ssize_t a_step, const vec* b, Py_ssize_t ldb,
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth, const Epilogue* e, vec* pack,
) noexcept nogil:
    """C = A B with epilogue, in panels two vectors wide; the last may be one wide.

    A panel of B that is used by many tiles and whose rows lie far apart is first copied to `pack`
    (2 depth vectors), where its rows follow each other: fewer pages, no clash of cache sets.
    """
    cdef Py_ssize_t j = 0, k, s
    cdef bint packing = (pack != NULL and rows >= PACK_ROWS and depth >= PACK_DEPTH
                         and ldb >= PACK_STRIDE)
    require(rows >= 0 and depth >= 0 and columns <= ldc or c == NULL)
    while j < columns:
        s = j if side != NULL else 0
        if columns - j == 1:
            panel(c + j, ldc, side + s, lds, m + s, v + s, start + j if start != NULL else start,
                  a, a_row, a_step, b + j, ldb, rows, depth, e, 1)
        elif packing:
            for k in range(depth):
                pack[2 * k] = b[k * ldb + j]
                pack[2 * k + 1] = b[k * ldb + j + 1]
            panel(c + j, ldc, side + s, lds, m + s, v + s, start + j if start != NULL else start,
                  a, a_row, a_step, pack, 2, rows, depth, e, 2)
        else:
            panel(c + j, ldc, side + s, lds, m + s, v + s, start + j if start != NULL else start,
                  a, a_row, a_step, b + j, ldb, rows, depth, e, 2)
        j += 2


cdef inline Py_ssize_t element(vec like) noexcept nogil:
    """Bytes of one element."""
    if vec is f32v:
        return 4
    else:
        return 8


cdef void linear_forward(
    vec* y,             # OUT (N, K): activation(X Wt + b)
    vec* kept,          # OUT (N, K): X Wt + b; NULL unless the activation keeps its input
    const vec* x,       # IN (N, D)
    const vec* wt,      # IN (D, K)
    const vec* bias,    # IN (K,), or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t features,                    # D
    Py_ssize_t ldx, Py_ssize_t ldy,         # in vectors
    int activation, double a, double b,
    vec* pack,          # scratch of this thread: 2 max(D, K) vectors
) noexcept nogil:
    cdef Epilogue e
    e.accumulate = False
    e.activation = activation
    e.a = a
    e.b = b
    e.finish = STORE if activation == IDENTITY else POSITIVE if activation == RELU else FORWARD
    product(y + first * ldy, ldy, kept + first * ldy if kept != NULL else kept, ldy,
            <vec*>NULL, <vec*>NULL, bias, <const char*>(x + first * ldx), ldx * sizeof(vec),
            element(splat(wt[0], 0.0)), wt, ldy, last - first, ldy, features, &e, pack)


cdef void linear_backward_input(
    vec* dx,            # OUT (N, D): (dY W) * activation'
    const vec* dy,      # IN (N, K)
    const vec* w,       # IN (K, D)
    const vec* kept,    # IN (N, D): what the activation before this layer kept
    Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t outputs,                     # K
    Py_ssize_t ldx, Py_ssize_t ldy,
    int activation, double a, double b,     # the activation before this layer
    vec* pack,
) noexcept nogil:
    cdef Epilogue e
    e.accumulate = False
    e.activation = activation
    e.a = a
    e.b = b
    e.finish = STORE if activation == IDENTITY else MASK if activation == RELU else BACKWARD
    product(dx + first * ldx, ldx, <vec*>(kept + first * ldx) if kept != NULL else <vec*>NULL,
            ldx, <vec*>NULL, <vec*>NULL, <const vec*>NULL, <const char*>(dy + first * ldy),
            ldy * sizeof(vec), element(splat(w[0], 0.0)), w, ldx, last - first, ldx, outputs, &e,
            pack)


cdef void linear_backward_weight(
    vec* dwt,           # OUT (D, K): X^T dY; not touched if `step` is given
    vec* wt,            # IN, OUT (D, K): updated if `step` is given
    vec* m, vec* v,     # IN, OUT (D, K): optimizer states
    const vec* x,       # IN (N, D)
    const vec* dy,      # IN (N, K)
    Py_ssize_t rows,                                        # N
    Py_ssize_t first, Py_ssize_t last,                      # rows of Wt, of D
    Py_ssize_t first_column, Py_ssize_t last_column,        # columns of Wt, in vectors
    Py_ssize_t ldx, Py_ssize_t ldy,
    const Step* step,   # optimizer to apply to each tile, or NULL
    bint accumulate,    # add to dwt
) noexcept nogil:
    cdef Epilogue e
    cdef Py_ssize_t at = first * ldy + first_column
    e.accumulate = accumulate
    e.finish = STORE if step == NULL else UPDATE
    e.step = step
    product(dwt + at if step == NULL else <vec*>NULL, ldy, wt + at, ldy, m + at, v + at,
            <const vec*>NULL, <const char*>x + first * element(splat(dy[0], 0.0)),
            element(splat(dy[0], 0.0)), ldx * sizeof(vec), dy + first_column, ldy, last - first,
            last_column - first_column, rows, &e, <vec*>NULL)


cdef void column_sums(
    vec* db,            # OUT (K,)
    const vec* dy,      # IN (N, K)
    Py_ssize_t rows, Py_ssize_t first_column, Py_ssize_t last_column, Py_ssize_t ldy,
    bint accumulate,
) noexcept nogil:
    """db = sum over rows of dY, in the order of the rows."""
    cdef Py_ssize_t i, j
    cdef vec s
    for j in range(first_column, last_column):
        s = db[j] if accumulate else splat(dy[j], 0.0)
        for i in range(rows):
            s = s + dy[i * ldy + j]
        db[j] = s


cdef void transpose(
    vec* w,             # OUT (K, D)
    const vec* wt,      # IN (D, K)
    Py_ssize_t first, Py_ssize_t last,                  # rows of Wt
    Py_ssize_t first_column, Py_ssize_t last_column,    # columns of Wt, in vectors
    Py_ssize_t ldw, Py_ssize_t ldwt,
) noexcept nogil:
    """The copy of the weights that dX = dY W reads, one block of a few cache lines at a time."""
    cdef Py_ssize_t i, j, block, width = sizeof(vec) // element(splat(wt[0], 0.0))
    cdef const float* x32 = <const float*>wt
    cdef float* y32 = <float*>w
    cdef const double* x64 = <const double*>wt
    cdef double* y64 = <double*>w
    ldw *= width
    ldwt *= width
    for block in range(first, last, 16):
        for j in range(first_column * width, last_column * width):
            for i in range(block, min(block + 16, last)):
                if vec is f32v:
                    y32[j * ldw + i] = x32[i * ldwt + j]
                else:
                    y64[j * ldw + i] = x64[i * ldwt + j]
