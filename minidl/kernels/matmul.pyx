"""The three products of a dense layer, all in one inner form.

With N samples, D inputs, K outputs, and the weights held as Wt = W^T, (D, K), or as W where K is
small:

    Y  = X Wt + b        (N, K)   A = X,    B = Wt, or W transposed panel by panel
    dX = dY W            (N, D)   A = dY,   B = W, or Wt transposed panel by panel
    dWt = X^T dY         (D, K)   A = X^T,  B = dY      or dW = dY^T X
    db = 1^T dY          (K,)     A = 1^T,  B = dY

Each is C = A B. A register tile of C, up to TILE_ROWS x 2 vectors, gathers sum_k A[i, k] B[k, j]:
for each k two vectors of B are loaded and each A[i, k] is broadcast from memory, through two
strides, so that X, X^T and 1^T are read in place. What follows the product is done on the tile
while it is in registers or in L1: bias, activation and its derivative, the optimizer.

Every element of C is one chain of multiply-adds in the order of k (`narrow_forward`: one a lane,
and then the sum of the lanes). The tile, the panel and the number of threads therefore never change
a bit. Padding of weights and their gradients is zero: that of dY is, and where B = X, whose padding
may be anything finite, the last column of dW is cut.

Columns are counted in vectors. Forward keeps X, and the activation's output or input; see
`activation.pxd`.
"""

from minidl.kernels.activation cimport (
    IDENTITY, RELU, activate, activation_gradient,
)
from minidl.kernels.optimizer cimport ADAM, NUMBERS, Step, spread, updated
from minidl.kernels.simd cimport (
    TILE_ROWS, VECTOR_BYTES, first_lanes, fma, if_gt, lanes, prefetch, prefetch_far, require,
    splat, splat_at, transpose, vec, vmax,
)

cdef enum Finish:
    STORE       # C = tile
    POSITIVE    # C = max(tile, 0)
    MASK        # C = kept > 0 ? tile : 0
    FORWARD     # C = activation(tile); tile itself to `kept` if that is not NULL
    BACKWARD    # C = tile * activation'(kept)
    UPDATE      # weights = optimizer(weights, tile)

cdef struct Product:
    # C = A B, finished. C, `side` and m are alike: (rows, columns), ld vectors from row to row.
    void* c
    void* side          # `kept` of the epilogue, or the weights
    void* m             # the first of the optimizer's states, beside the weights
    Py_ssize_t stride   # vectors from a state to the next
    Py_ssize_t ld, rows, columns
    const void* start   # what the tile starts from, `start_ld` vectors from row to row; or NULL: 0
    Py_ssize_t start_ld
    const char* a
    Py_ssize_t a_row, a_step    # bytes from row to row, and from k to k
    const void* b
    Py_ssize_t ldb, depth
    Py_ssize_t b_rows   # B is the transpose of (b_rows, depth) at b; 0: it is (depth, columns)
    # What to ask for while a panel is worked on, beside the next line of A: the next panel of B,
    # two lines for each k.
    const char* ahead
    Py_ssize_t ahead_step, ahead_column     # bytes from k to k, and from column to column
    Py_ssize_t tail     # elements of the last column that are not padding; 0: B's padding is zero
    int finish, activation
    double alpha, beta  # parameters of the activation
    const Step* step

cdef enum:
    # A panel of B in natural layout is copied if it is used by many tiles and its rows lie apart.
    PACK_ROWS = 48      # rows of C
    PACK_DEPTH = 64     # rows of B
    PACK_STRIDE = 16    # vectors between rows of B
    FETCH_DEPTH = 8     # products that a row of weights takes, from which they are fetched apart


cdef inline void fetch(const Product* p, vec* weights, Py_ssize_t at, Py_ssize_t row, int cols
                       ) noexcept nogil:
    """Ask for a row of a tile of weights, and of the states at `at`."""
    cdef int j
    for j in range(cols):
        prefetch(weights + row + j)
        prefetch(<vec*>p.m + at + row + j)
        prefetch(<vec*>p.m + p.stride + at + row + j)


cdef inline void tile(const Product* p, Py_ssize_t first, Py_ssize_t column, const vec* b,
                      Py_ssize_t ldb, int rows, int cols) noexcept nogil:
    """A tile of C at (first, column); rows and cols are constants, so that loops are unrolled.

    Weights and states that the epilogue will update are fetched row by row while the products run,
    if these take long enough.
    """
    cdef vec acc[24]
    cdef vec out[24]
    cdef vec bv[8]
    cdef vec x, zero = splat(bv[0], 0.0)
    cdef Py_ssize_t _k, part, parts = 1, done = 0, end
    cdef Py_ssize_t ld = p.ld, at = first * ld + column, a_row = p.a_row
    cdef const char* a = p.a + first * a_row
    cdef const char* ahead = p.ahead + column * p.ahead_column
    cdef vec* c = <vec*>p.c + at
    cdef vec* side = <vec*>p.side + at
    cdef const vec* start = <const vec*>p.start + first * p.start_ld + column
    cdef int i, j
    for i in range(rows):
        for j in range(cols):
            acc[i * cols + j] = zero
    if p.start != NULL:
        for i in range(rows):
            for j in range(cols):
                acc[i * cols + j] = start[i * p.start_ld + j]
    if p.finish == UPDATE and p.depth >= FETCH_DEPTH * rows:
        parts = rows
    for part in range(parts):
        if parts > 1:
            fetch(p, side, at, part * ld, cols)
        end = p.depth * (part + 1) // parts
        for _k in range(end - done):
            for j in range(cols):
                bv[j] = b[j]
            for i in range(rows):
                x = splat_at(bv[0], a + i * a_row)
                for j in range(cols):
                    acc[i * cols + j] = fma(x, bv[j], acc[i * cols + j])
            prefetch_far(a + 64)
            prefetch_far(ahead)
            prefetch_far(ahead + 64)
            ahead += p.ahead_step
            a += p.a_step
            b += ldb
        done = end
    if p.tail > 0 and column + cols == p.columns:
        for i in range(rows):
            acc[i * cols + cols - 1] = first_lanes(acc[i * cols + cols - 1], p.tail)
    if p.finish == STORE:
        for i in range(rows):
            for j in range(cols):
                c[i * ld + j] = acc[i * cols + j]
    elif p.finish == POSITIVE:
        for i in range(rows):
            for j in range(cols):
                c[i * ld + j] = vmax(zero, acc[i * cols + j])
    elif p.finish == MASK:
        for i in range(rows):
            for j in range(cols):
                c[i * ld + j] = if_gt(side[i * ld + j], zero, acc[i * cols + j], zero)
    else:
        for i in range(rows):
            for j in range(cols):
                out[i * cols + j] = acc[i * cols + j]
        finish_tile(p, at, out, rows, cols)


cdef inline void update_tile(const Product* p, const Step* step, Py_ssize_t at, const vec* out,
                             int rows, int cols) noexcept nogil:
    """weights = optimizer(weights, tile)."""
    cdef Py_ssize_t i, j, place
    cdef vec* weights = <vec*>p.side
    cdef vec k[NUMBERS]
    spread(step, k)
    for i in range(rows):
        for j in range(cols):
            place = at + i * p.ld + j
            weights[place] = updated(step, k, weights[place], out[i * cols + j],
                                     <vec*>p.m + place, p.stride)


cdef void finish_tile(const Product* p, Py_ssize_t at, const vec* out, int rows, int cols
                      ) noexcept nogil:
    """The longer epilogues, on a tile that has been stored to `out`."""
    cdef Py_ssize_t i, j, place
    cdef vec* c = <vec*>p.c
    cdef vec* side = <vec*>p.side
    cdef vec x
    cdef Step step
    if p.finish == UPDATE:
        step = p.step[0]  # a copy, which no store into a weight can change
        if step.kind == ADAM and not step.variant and step.scale == 1.0 and step.clip == 0.0:
            step.kind = ADAM  # known to the compiler, which leaves out all other cases
            step.variant = False
            step.scale = 1.0
            step.clip = 0.0
            update_tile(p, &step, at, out, rows, cols)
        else:
            update_tile(p, &step, at, out, rows, cols)
        return
    for i in range(rows):
        for j in range(cols):
            x = out[i * cols + j]
            place = at + i * p.ld + j
            if p.finish == BACKWARD:
                c[place] = activation_gradient(p.activation, x, side[place], p.alpha, p.beta)
            else:
                if p.side != NULL:
                    side[place] = x
                c[place] = activate(p.activation, x, p.alpha, p.beta)


cdef inline void panel(const Product* p, Py_ssize_t column, const vec* b, Py_ssize_t ldb, int cols
                       ) noexcept nogil:
    """All rows of `cols` vectors of columns, in tiles of the greatest height that fits."""
    cdef Py_ssize_t i = 0
    while p.rows - i >= TILE_ROWS:
        tile(p, i, column, b, ldb, TILE_ROWS, cols)
        i += TILE_ROWS
    if TILE_ROWS > 8 and p.rows - i >= 8:
        tile(p, i, column, b, ldb, 8, cols)
        i += 8
    if TILE_ROWS > 6 and p.rows - i >= 6:
        tile(p, i, column, b, ldb, 6, cols)
        i += 6
    if p.rows - i >= 4:
        tile(p, i, column, b, ldb, 4, cols)
        i += 4
    if p.rows - i >= 2:
        tile(p, i, column, b, ldb, 2, cols)
        i += 2
    if p.rows - i >= 1:
        tile(p, i, column, b, ldb, 1, cols)


cdef inline const vec* pack_panel(const Product* p, Py_ssize_t column, vec* pack, int cols
                                  ) noexcept nogil:
    """Copy `cols` vectors of columns of B to `pack`, row after row; transpose them if need be."""
    cdef const vec* b = <const vec*>p.b
    cdef Py_ssize_t k, n = lanes(b[0]), row
    cdef int j
    if p.b_rows == 0:
        for k in range(p.depth):
            for j in range(cols):
                pack[cols * k + j] = b[k * p.ldb + column + j]
        return pack
    for j in range(cols):
        row = (column + j) * n
        for k in range(vectors(b[0], p.depth)):
            transpose(pack + cols * n * k + j, cols, b + row * p.ldb + k, p.ldb,
                      min(n, p.b_rows - row), min(n, p.depth - n * k))
    return pack


cdef void product(const Product* p, vec* pack) noexcept nogil:
    """C = A B with epilogue, in panels two vectors wide; the last may be one wide.

    `pack`, 2 depth vectors, holds a panel of B whose rows then follow each other: fewer pages, no
    clash of cache sets.
    """
    cdef Py_ssize_t j = 0 if p.rows > 0 else p.columns
    cdef const vec* b = <const vec*>p.b
    cdef bint packing = p.b_rows > 0 or (
        p.rows >= PACK_ROWS and p.depth >= PACK_DEPTH and p.ldb >= PACK_STRIDE)
    require(p.rows >= 0 and p.depth >= 0 and p.columns <= p.ld)
    while p.rows == 1 and not packing and p.columns - j >= 8:
        tile(p, 0, j, b + j, p.ldb, 1, 8)  # two sums would wait for each other
        j += 8
    while j < p.columns:
        if p.columns - j == 1:
            if packing:
                panel(p, j, pack_panel(p, j, pack, 1), 1, 1)
            else:
                panel(p, j, b + j, p.ldb, 1)
        elif packing:
            panel(p, j, pack_panel(p, j, pack, 2), 2, 2)
        else:
            panel(p, j, b + j, p.ldb, 2)
        j += 2


cdef inline void dots(vec* acc, const vec* x, Py_ssize_t ldx, const vec* w, Py_ssize_t depth,
                      int rows) noexcept nogil:
    """acc[r] = lane by lane, row r of X times w."""
    cdef vec sums[16]
    cdef Py_ssize_t d
    cdef int r
    for r in range(rows):
        sums[r] = splat(w[0], 0.0)
    for d in range(depth):
        for r in range(rows):
            sums[r] = fma(x[r * ldx + d], w[d], sums[r])
    for r in range(rows):
        acc[r] = sums[r]


cdef void narrow_forward(
    vec* y, vec* kept, const vec* x, const vec* w, const vec* bias, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t features, Py_ssize_t outputs, Py_ssize_t ldx, Py_ssize_t ldy,
    int activation, double alpha, double beta,
) noexcept nogil:
    """As `linear_forward`, for few outputs of many features: dot products along the features.

    A group of as many rows as a vector has lanes: their sums over lanes come from one transposition
    of the group's accumulators, and another one turns the columns so found to rows.
    """
    cdef vec acc[16]
    cdef vec turned[16]
    cdef vec columns[16]
    cdef vec sums
    cdef Py_ssize_t i = first, k, r, count, n = lanes(w[0]), depth = vectors(w[0], features)
    while i < last:
        count = min(n, last - i)
        for k in range(outputs):
            if count == n:
                dots(acc, x + i * ldx, ldx, w + k * ldx, depth, <int>n)
            else:
                for r in range(count):
                    dots(acc + r, x + (i + r) * ldx, ldx, w + k * ldx, depth, 1)
            transpose(turned, 1, acc, 1, count, n)
            sums = turned[0]
            for r in range(1, n):
                sums = sums + turned[r]
            columns[k] = sums
        transpose(turned, 1, columns, 1, outputs, n)
        for r in range(count):
            sums = turned[r] + bias[0] if bias != NULL else turned[r]
            if kept != NULL:
                kept[(i + r) * ldy] = sums
            y[(i + r) * ldy] = activate(activation, sums, alpha, beta)
        i += count


cdef inline void set_b(Product* p, const vec* w, Py_ssize_t ld, Py_ssize_t rows, bint turn
                       ) noexcept nogil:
    """B = w, with `ld` vectors from row to row; or, if it is to be turned, its transpose."""
    p.b = w
    p.ldb = ld
    p.b_rows = rows if turn else 0
    p.ahead = <const char*>(w + (2 * lanes(w[0]) * ld if turn else 2))
    p.ahead_column = sizeof(vec) * (lanes(w[0]) * ld if turn else 1)
    p.ahead_step = 2 * sizeof(vec) if turn else ld * sizeof(vec)
    p.tail = 0


cdef void linear_forward(
    vec* y,             # OUT (N, K): activation(X Wt + b)
    vec* kept,          # OUT (N, K): X Wt + b; NULL unless the activation keeps its input
    const char* x, Py_ssize_t x_row,    # IN (N, D), bytes from row to row
    const vec* w,       # IN (D, K) if transposed, else (K, D)
    const vec* bias,    # IN (K,), or NULL
    Py_ssize_t first, Py_ssize_t last,      # rows
    Py_ssize_t first_column, Py_ssize_t last_column,    # columns of y, in vectors
    Py_ssize_t features, Py_ssize_t outputs,    # D, K
    Py_ssize_t ldx, Py_ssize_t ldy,         # in vectors
    bint transposed,
    int activation, double alpha, double beta,
    vec* pack,          # scratch of this thread: 2 max(N, D, K) vectors
) noexcept nogil:
    cdef Product p
    if not transposed and 2 * outputs * (vectors(w[0], features) + 6) < features:
        narrow_forward(y, kept, <const vec*>x, w, bias, first, last, features, outputs, ldx, ldy,
                       activation, alpha, beta)
        return
    if transposed:
        set_b(&p, w + first_column, ldy, 0, False)
    else:
        require(first_column == 0)
        set_b(&p, w, ldx, outputs, True)
    p.c = y + first * ldy + first_column
    p.side = kept + first * ldy + first_column if kept != NULL else kept
    p.ld = ldy
    p.rows = last - first
    p.columns = last_column - first_column
    p.start = bias + first_column if bias != NULL else bias
    p.start_ld = 0
    p.a = x + first * x_row
    p.a_row = x_row
    p.a_step = VECTOR_BYTES // lanes(w[0])
    p.depth = features
    p.finish = STORE if activation == IDENTITY else POSITIVE if activation == RELU else FORWARD
    p.activation = activation
    p.alpha = alpha
    p.beta = beta
    product(&p, pack)


cdef void linear_backward_input(
    vec* dx,            # OUT (N, D): (start + dY W) * activation'; may be start
    const vec* dy,      # IN (N, K)
    const vec* w,       # IN (D, K) if transposed, else (K, D)
    const vec* kept,    # IN (N, D): what the activation before this layer kept
    const vec* start,   # IN (N, D): what is added to dY W, the gradient from other layers; or NULL
    Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t features, Py_ssize_t outputs,
    Py_ssize_t ldx, Py_ssize_t ldy,
    bint transposed,
    int activation, double alpha, double beta,  # the activation before this layer
    vec* pack,
) noexcept nogil:
    cdef Product p
    set_b(&p, w, ldy if transposed else ldx, features, transposed)
    p.c = dx + first * ldx
    p.side = <void*>(kept + first * ldx) if kept != NULL else NULL
    p.ld = ldx
    p.rows = last - first
    p.columns = vectors(w[0], features)
    p.start = <const void*>(start + first * ldx) if start != NULL else NULL
    p.start_ld = ldx
    p.a = <const char*>(dy + first * ldy)
    p.a_row = ldy * sizeof(vec)
    p.a_step = VECTOR_BYTES // lanes(w[0])
    p.depth = outputs
    p.finish = STORE if activation == IDENTITY else MASK if activation == RELU else BACKWARD
    p.activation = activation
    p.alpha = alpha
    p.beta = beta
    product(&p, pack)


cdef void linear_backward_weight(
    vec* dw,            # OUT (D, K): X^T dY; not touched if `step` is given
    vec* w,             # IN, OUT (D, K): updated if `step` is given
    vec* m, Py_ssize_t stride,  # IN, OUT (D, K): optimizer states, `stride` vectors apart
    const char* x, Py_ssize_t x_row,    # IN (N, D); for dY^T X of a weight (K, D), X and dY
                                        # change places
    const vec* dy,      # IN (N, K)
    Py_ssize_t rows,                                        # N
    Py_ssize_t first, Py_ssize_t last,                      # rows of w
    Py_ssize_t first_column, Py_ssize_t last_column,        # columns of w, in vectors
    Py_ssize_t width,   # elements in a row of w, where dY's padding may be other than zero; or 0
    Py_ssize_t ldy,
    const Step* step,   # optimizer to apply to each tile, or NULL
    bint accumulate,    # add to dw
    vec* pack,
) noexcept nogil:
    cdef Product p
    cdef Py_ssize_t item = VECTOR_BYTES // lanes(dy[0]), at = first * ldy + first_column
    set_b(&p, dy + first_column, ldy, 0, False)
    if last_column == vectors(dy[0], width):
        p.tail = width - (last_column - 1) * lanes(dy[0])
    p.c = dw + at if step == NULL else <vec*>NULL
    p.side = w + at
    p.m = m + at
    p.stride = stride
    p.ld = ldy
    p.rows = last - first
    p.columns = last_column - first_column
    p.start = p.c if accumulate else NULL
    p.start_ld = ldy
    p.a = x + first * item
    p.a_row = item
    p.a_step = x_row
    p.depth = rows
    p.finish = STORE if step == NULL else UPDATE
    p.step = step
    product(&p, pack)


cdef void linear_backward_bias(
    vec* db,            # OUT (K,): column sums of dY; not touched if `step` is given
    vec* bias,          # IN, OUT (K,): updated if `step` is given
    vec* m, Py_ssize_t stride,  # IN, OUT (K,): optimizer states
    const vec* dy,      # IN (N, K)
    Py_ssize_t rows,
    Py_ssize_t first_column, Py_ssize_t last_column,
    Py_ssize_t ldy, const Step* step, bint accumulate,
) noexcept nogil:
    cdef vec one = splat(dy[0], 1.0)
    linear_backward_weight(db, bias, m, stride, <const char*>&one, 0, dy, rows, 0, 1, first_column,
                           last_column, 0, ldy, step, accumulate, <vec*>NULL)
