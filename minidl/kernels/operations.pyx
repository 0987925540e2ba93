"""What each operation of a program does: a thread's share of it, on one batch.

The list of operations stands in `operations.pxd`; `program.pyx` runs it over batches. Nothing here
allocates, and no operation knows a layer: it is numbers, pointers and threads.
"""

from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from minidl.kernels.activation cimport activation_backward, activation_forward
from minidl.kernels.batchnorm cimport (
    REPLICA, STATISTICS, batchnorm_backward, block_gradients, block_statistics, merge_gradients,
    merge_statistics, normalize, running_statistics,
)
from minidl.kernels.embedding cimport embedding_forward, embedding_gradient
from minidl.kernels.flat cimport add, add_blocks, average, squares
from minidl.kernels.layernorm cimport layernorm_backward, layernorm_forward
from minidl.kernels.loss cimport SUMS as LOSS_SUMS, loss_block, row_weight
from minidl.kernels.matmul cimport (
    linear_backward_bias, linear_backward_input, linear_backward_weight, linear_forward, vectors,
)
from minidl.kernels.optimizer cimport Step, update
from minidl.kernels.prelu cimport prelu_backward, prelu_forward
from minidl.kernels.random cimport dropout
from minidl.kernels.simd cimport (
    TILE_ROWS, VECTOR_BYTES, f32v, f64v, lanes, require, splat_f32v, splat_f64v, vec,
)
from minidl.kernels.softmax cimport softmax_backward, softmax_forward
from minidl.kernels.statistics cimport LOOKED, MOVED, block_sums, change_sums, total_sums
from minidl.kernels.threads cimport MAX_BLOCKS, Team, block_count, share, wait

# The numbers of the operations, for the lowering.
KINDS = {
    "GATHER_X": GATHER_X, "GATHER_TARGET": GATHER_TARGET, "GATHER_LABEL": GATHER_LABEL,
    "GATHER_WEIGHT": GATHER_WEIGHT, "SCATTER": SCATTER, "LINEAR": LINEAR, "LINEAR_DX": LINEAR_DX,
    "LINEAR_DW": LINEAR_DW, "BN_BLOCKS": BN_BLOCKS, "BN_MERGE": BN_MERGE,
    "BN_RUNNING": BN_RUNNING, "BN_NORMALIZE": BN_NORMALIZE, "BN_GRADIENTS": BN_GRADIENTS,
    "BN_MERGE_GRAD": BN_MERGE_GRAD, "BN_BACKWARD": BN_BACKWARD, "ACTIVATION": ACTIVATION,
    "ACTIVATION_BACKWARD": ACTIVATION_BACKWARD, "DROPOUT": DROPOUT, "ADD": ADD,
    "COLUMNS": COLUMNS, "ZERO": ZERO, "LOSS": LOSS, "LOSS_TOTAL": LOSS_TOTAL, "NORM": NORM,
    "CLIP": CLIP, "UPDATE": UPDATE, "AVERAGE": AVERAGE, "BARRIER": BARRIER, "PYTHON": PYTHON,
    "LAYERNORM": LAYERNORM, "LAYERNORM_BACKWARD": LAYERNORM_BACKWARD, "SOFTMAX": SOFTMAX,
    "SOFTMAX_BACKWARD": SOFTMAX_BACKWARD, "PRELU": PRELU, "PRELU_BACKWARD": PRELU_BACKWARD,
    "BLOCK_SUMS": BLOCK_SUMS, "EMBEDDING": EMBEDDING, "EMBEDDING_GRADIENT": EMBEDDING_GRADIENT,
    "LOOK": LOOK, "MOVE": MOVE, "LOOK_TOTAL": LOOK_TOTAL,
}
BLOCKS = MAX_BLOCKS
VECTOR = VECTOR_BYTES
BLOCK_ROWS = STATISTICS
REPLICA_ROWS = REPLICA
SUMS = LOSS_SUMS
LOOK_SUMS = LOOKED
MOVE_SUMS = MOVED
MAX_GROUPS = GROUPS
MAX_SOURCES = SOURCES


def block_edges(Py_ssize_t rows):
    """Where the blocks begin that the rows of a batch fall into, and where the last one ends."""
    cdef Py_ssize_t i, blocks = block_count(rows)
    return [share(rows, blocks, i) for i in range(blocks + 1)]


cdef inline void gather(char* to, Py_ssize_t ld, const char* source, Py_ssize_t row,
                        Py_ssize_t column, Py_ssize_t columns, Py_ssize_t item, const State* s,
                        const Frame* f) noexcept nogil:
    """Copy this thread's rows of the batch out of the user's array."""
    cdef Py_ssize_t i, j, r
    cdef const char* p
    for i in range(f.first, f.last):
        r = row_of(s, f.start + i)
        p = source + r * row
        if column == item:
            memcpy(to + i * ld, p, columns * item)
        elif item == 4:
            for j in range(columns):
                (<float*>(to + i * ld))[j] = (<const float*>(p + j * column))[0]
        else:
            for j in range(columns):
                (<double*>(to + i * ld))[j] = (<const double*>(p + j * column))[0]


cdef inline Py_ssize_t place_of(const State* s, Py_ssize_t i) noexcept nogil:
    """The place, among the rows that are gone through, of the one that comes i-th."""
    cdef Py_ssize_t r = s.order[i] if s.order != NULL else i
    require(0 <= r and r < s.rows)
    return r


cdef inline Py_ssize_t row_of(const State* s, Py_ssize_t i) noexcept nogil:
    """The row of the user's data that comes i-th."""
    cdef Py_ssize_t r = place_of(s, i)
    return s.chosen[r] if s.chosen != NULL else r


cdef inline const Source* source_of(State* s, Py_ssize_t first, Py_ssize_t columns
                                    ) noexcept nogil:
    """The array whose rows hold these columns and can be read in place, or NULL."""
    cdef int k
    for k in range(s.sources):
        if s.x[k].first <= first and first + columns <= s.x[k].first + s.x[k].columns:
            return &s.x[k] if s.x[k].in_place else NULL
    return NULL


cdef void gather_x(State* s, const Op* o, const Frame* f, Py_ssize_t item, Py_ssize_t ld
                   ) noexcept nogil:
    """GATHER_X: some columns of the batch, from all arrays that hold any of them."""
    cdef Py_ssize_t low, high, first = o.n[0]
    cdef const Source* x
    cdef int k
    if o.n[3] and source_of(s, first, o.n[1]) != NULL:
        return
    for k in range(s.sources):
        x = &s.x[k]
        low = max(first, x.first)
        high = min(first + o.n[1], x.first + x.columns)
        if low < high:
            gather(<char*>o.p[0] + (low - first) * item, ld, x.at + (low - x.first) * x.column,
                   x.row, x.column, high - low, item, s, f)


cdef inline void part_of_weight(Py_ssize_t rows, Py_ssize_t columns, bint by_columns, Team* team,
                                Py_ssize_t* bound) noexcept nogil:
    """A thread's part of a (rows, columns) weight: rows if there are many, else columns."""
    if rows >= team.size * TILE_ROWS and not by_columns:
        bound[0] = share(rows // 4, team.size, team.rank) * 4
        bound[1] = rows if team.rank == team.size - 1 else share(
            rows // 4, team.size, team.rank + 1) * 4
        bound[2] = 0
        bound[3] = columns
    else:
        bound[0] = 0
        bound[1] = rows
        bound[2] = share(columns, team.size, team.rank)
        bound[3] = share(columns, team.size, team.rank + 1)


cdef inline double add_partials(const double* partial, Py_ssize_t rows, int which) noexcept nogil:
    cdef double total = 0.0
    cdef Py_ssize_t b
    for b in range(block_count(rows)):
        total += partial[LOSS_SUMS * b + which]
    return total


cdef inline Py_ssize_t rows_of_all(const void* rows, const Frame* f) noexcept nogil:
    """Rows of the batches of all ranks, if they are told, else of this one."""
    return f.rows if rows == NULL else <Py_ssize_t>(<const int64_t*>rows)[0]


cdef double weight_of_rows(vec like, const State* s, int loss, const vec* numbers,
                           Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """What the rows start to stop - 1 count for in the mean of a loss."""
    cdef double total = 0.0
    cdef Py_ssize_t i
    if s.weight == NULL and numbers == NULL:
        return stop - start
    for i in range(start, stop):
        total += row_weight(like, loss, s.weight, s.label, numbers, row_of(s, i))
    return total


cdef double part_of_update(const State* s, const Frame* f) noexcept nogil:
    """The batch's share of the weight of the rows that make an update."""
    cdef f64v like = splat_f64v(0.0)
    cdef double total = weight_of_rows(like, s, 0, NULL, f.update_start, f.update_stop)
    return weight_of_rows(like, s, 0, NULL, f.start, f.start + f.rows) / total if total else 0.0


cdef inline const char* input_of(State* s, const Op* o, const Frame* f, const char* x,
                                 Py_ssize_t pitch, Py_ssize_t* row) noexcept nogil:
    """Where a LINEAR operation's x begins, and the bytes from row to row."""
    cdef const Source* source = source_of(s, o.n[7], o.n[0]) if o.n[5] else NULL
    if source == NULL:
        row[0] = pitch
        return x
    row[0] = source.row
    return source.at + f.start * source.row + (o.n[7] - source.first) * source.column


cdef void copy_columns(char* to, const char* source, const Op* o, const Frame* f, Py_ssize_t item,
                       Py_ssize_t vector, vec like) noexcept nogil:
    """COLUMNS: some columns of this thread's rows; those besides them become 0 if `whole`."""
    cdef Py_ssize_t i, j, columns = o.n[0], first = o.n[2]
    cdef char* row
    cdef const char* given
    for i in range(f.first, f.last):
        row = to + i * o.n[1] * vector
        given = source + i * o.n[3] * vector + o.n[4] * item
        if o.n[6]:
            memset(row, 0, o.n[1] * vector)
        row += first * item
        if not o.n[5]:
            memcpy(row, given, columns * item)
        elif vec is f32v:
            for j in range(columns):
                (<float*>row)[j] += (<const float*>given)[j]
        else:
            for j in range(columns):
                (<double*>row)[j] += (<const double*>given)[j]


cdef int execute(vec like, State* s, const Op* o, Frame* f, Team* team) noexcept nogil:
    """This thread's share of one operation; 0, or the status that ends the run."""
    cdef Py_ssize_t first = f.first, last = f.last, b, low, high, blocks, width, ld
    cdef Py_ssize_t item = VECTOR_BYTES // lanes(like)
    cdef vec* pack = <vec*>(<char*>s.pack + team.rank * s.pack_size)
    cdef vec* replica
    cdef double total, weight
    cdef const char* x
    cdef Py_ssize_t x_row
    require(0 <= team.rank and team.rank < team.size)
    require(0 <= first and first <= last and last <= f.rows)
    if o.kind == BARRIER:
        wait(team)
    elif o.kind == GATHER_X:
        gather_x(s, o, f, item, o.n[2] * sizeof(vec))
    elif o.kind == GATHER_TARGET:
        if s.target != NULL:
            gather(<char*>o.p[0], o.n[1] * sizeof(vec), s.target, s.target_row, s.target_column,
                   o.n[0], item, s, f)
    elif o.kind == GATHER_LABEL:
        if s.label != NULL:
            for b in range(first, last):
                (<int64_t*>o.p[0])[b] = s.label[row_of(s, f.start + b)]
    elif o.kind == GATHER_WEIGHT:
        if s.weight != NULL:
            for b in range(first, last):
                (<double*>o.p[0])[b] = s.weight[row_of(s, f.start + b)]
    elif o.kind == SCATTER:
        if s.out != NULL:
            for b in range(first, last):
                memcpy(s.out + place_of(s, f.start + b) * s.out_row,
                       <char*>o.p[0] + b * o.n[1] * sizeof(vec), o.n[0] * item)
    elif o.kind == LINEAR:
        x = input_of(s, o, f, <const char*>o.p[2], o.n[2] * sizeof(vec), &x_row)
        low = 0
        high = vectors(like, o.n[1])
        if o.n[6]:
            first = 0
            last = f.rows
            low = share(vectors(like, o.n[1]), team.size, team.rank)
            high = share(vectors(like, o.n[1]), team.size, team.rank + 1)
        linear_forward(<vec*>o.p[0], <vec*>o.p[1], x, x_row, <const vec*>o.p[3],
                       <const vec*>o.p[4], first, last, low, high, o.n[0], o.n[1], o.n[2],
                       o.n[3], o.n[4], o.activation, o.a, o.b, pack)
    elif o.kind == LINEAR_DX:
        linear_backward_input(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2],
                              <const vec*>o.p[3], <const vec*>o.p[4], first, last, o.n[0], o.n[1],
                              o.n[2], o.n[3], o.n[4], o.activation, o.a, o.b, pack)
    elif o.kind == LINEAR_DW:
        weight_gradient(like, s, o, f, team, pack)
    elif o.kind == BN_BLOCKS or o.kind == BN_GRADIENTS or o.kind == LOSS:
        if o.kind == LOSS:
            total = weight_of_rows(like, s, <int>o.n[2], <const vec*>o.p[6], f.update_start,
                                   f.update_stop)
        blocks = block_count(f.rows)
        for b in range(share(blocks, team.size, team.rank),
                       share(blocks, team.size, team.rank + 1)):
            low = share(f.rows, blocks, b)
            high = share(f.rows, blocks, b + 1)
            width = o.n[0]
            ld = o.n[1]
            if o.kind == BN_BLOCKS:
                block_statistics(<vec*>o.p[0] + b * STATISTICS * ld, <const vec*>o.p[1], low,
                                 high, width, ld)
            elif o.kind == BN_GRADIENTS:
                replica = <vec*>o.p[4] + team.rank * REPLICA * ld
                block_gradients(<vec*>o.p[0] + b * STATISTICS * ld, <vec*>o.p[5],
                                <const vec*>o.p[1], <const vec*>o.p[2], <const vec*>o.p[3],
                                replica, low, high, width, ld, o.activation, o.a, o.b)
            else:
                loss_block(<int>o.n[2], <double*>o.p[4] + LOSS_SUMS * b, <vec*>o.p[0],
                           <const vec*>o.p[1], <const vec*>o.p[2], <const int64_t*>o.p[3],
                           <const double*>(o.p[5] if s.weight != NULL else NULL),
                           <const vec*>o.p[6], low, high,
                           1.0 if o.n[3] else 1.0 / total if total > 0.0 else 0.0,
                           o.n[0], o.n[1], o.a, o.b, pack)
    elif o.kind == BN_MERGE:
        merge_statistics(<vec*>o.p[0] + team.rank * REPLICA * o.n[1],
                         <vec*>o.p[1] if team.rank == 0 else <vec*>NULL, <vec*>o.p[2],
                         <const vec*>o.p[3], <const vec*>o.p[4], <const vec*>o.p[5],
                         rows_of_all(o.p[7], f), block_count(f.rows) if o.p[7] == NULL else 1,
                         o.n[0], o.n[1], o.a,
                         o.b if o.b >= 0 or team.rank > 0 else
                         1.0 / <double>((<int64_t*>o.p[6])[0] + 1))
        if team.rank == 0:
            (<int64_t*>o.p[6])[0] += 1
    elif o.kind == BN_RUNNING:
        running_statistics(<vec*>o.p[0] + team.rank * REPLICA * o.n[1], <const vec*>o.p[1],
                           <const vec*>o.p[2], <const vec*>o.p[3], <const vec*>o.p[4], o.n[0],
                           o.n[1], o.a)
    elif o.kind == BN_NORMALIZE:
        normalize(<vec*>o.p[0], <const vec*>o.p[1],
                  <const vec*>o.p[2] + team.rank * REPLICA * o.n[1], first, last, o.n[0], o.n[1],
                  o.activation, o.a, o.b)
    elif o.kind == BN_MERGE_GRAD:
        merge_gradients(<vec*>o.p[0] + team.rank * REPLICA * o.n[1],
                        <vec*>o.p[1] if team.rank == 0 else <vec*>NULL, <vec*>o.p[2],
                        <const vec*>o.p[3], rows_of_all(o.p[4], f),
                        block_count(f.rows) if o.p[4] == NULL else 1, o.n[0], o.n[1], o.n[2],
                        not f.fresh)
    elif o.kind == BN_BACKWARD:
        batchnorm_backward(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2],
                           <const vec*>o.p[3] + team.rank * REPLICA * o.n[1], first, last, o.n[0],
                           o.n[1])
    elif o.kind == ACTIVATION:
        ld = o.n[0]
        activation_forward(<vec*>o.p[0] + first * ld, <const vec*>o.p[1] + first * ld,
                           last - first, ld, o.activation, o.a, o.b)
    elif o.kind == ACTIVATION_BACKWARD:
        ld = o.n[0]
        activation_backward(<vec*>o.p[0] + first * ld, <const vec*>o.p[1] + first * ld,
                            <const vec*>o.p[2] + first * ld, last - first, ld, o.activation, o.a,
                            o.b)
    elif o.kind == DROPOUT:
        dropout(<vec*>o.p[0], <const vec*>o.p[1], first, last, o.n[0], s.rank_row + f.row, o.a,
                <uint64_t>o.n[1], <uint64_t>f.tick)
    elif o.kind == ADD:
        ld = o.n[0]
        add(<vec*>o.p[0] + first * ld, <const vec*>o.p[1] + first * ld,
            <const vec*>o.p[2] + first * ld, (last - first) * ld)
    elif o.kind == COLUMNS:
        copy_columns(<char*>o.p[0], <const char*>o.p[1], o, f, item, sizeof(vec), like)
    elif o.kind == ZERO:
        memset(<vec*>o.p[0] + first * o.n[0], 0, (last - first) * o.n[0] * sizeof(vec))
    elif o.kind == LOSS_TOTAL:
        if o.p[1] != NULL:
            if team.rank == 0:
                for b in range(LOSS_SUMS):
                    total = add_partials(<const double*>o.p[0], f.rows, <int>b)
                    (<double*>o.p[1])[b] = total if f.fresh else (<double*>o.p[1])[b] + total
            return 0
        total = add_partials(<const double*>o.p[0], f.rows, 0)
        if team.rank == 0:
            s.loss_sum += total
            s.correct_sum += add_partials(<const double*>o.p[0], f.rows, 1)
            weight = add_partials(<const double*>o.p[0], f.rows, 2)
            s.weight_sum += weight
            s.rows_sum += add_partials(<const double*>o.p[0], f.rows, 3)
            if f.part == 0:
                s.batch_loss = s.batch_weight = 0.0
            s.batch_loss += total
            s.batch_weight += weight
            s.last_loss = s.batch_loss / s.batch_weight if s.batch_weight > 0.0 else 0.0
        if not isfinite(total):
            return LOSS_NOT_FINITE
    elif o.kind == UPDATE:
        low = share(o.n[0], team.size, team.rank)
        high = share(o.n[0], team.size, team.rank + 1)
        update(<vec*>o.p[0] + low, <const vec*>o.p[1] + low, <vec*>o.p[2] + low, s.stride,
               high - low, &f.update[o.n[1]])
    elif o.kind == NORM:
        for b in range(share(MAX_BLOCKS, team.size, team.rank),
                       share(MAX_BLOCKS, team.size, team.rank + 1)):
            low = share(o.n[0], MAX_BLOCKS, b)
            (<double*>o.p[0])[o.n[1] + b] = squares(
                <const vec*>o.p[1] + low, share(o.n[0], MAX_BLOCKS, b + 1) - low)
    elif o.kind == CLIP:
        return clip_norm(s, <const double*>o.p[0], o.n[0], o.a, f, team)
    elif o.kind == AVERAGE:
        low = share(o.n[0], team.size, team.rank)
        high = share(o.n[0], team.size, team.rank + 1)
        average(<vec*>o.p[0] + low, <const vec*>o.p[1] + low, high - low,
                0.0 if f.step == o.n[1] else o.a)
    elif o.kind == LAYERNORM:
        layernorm_forward(<vec*>o.p[0], <double*>o.p[1], <const vec*>o.p[2], <const vec*>o.p[3],
                          <const vec*>o.p[4], first, last, o.n[0], o.n[1], o.a, o.n[2])
    elif o.kind == SOFTMAX:
        softmax_forward(<vec*>o.p[0], <const vec*>o.p[1], first, last, o.n[0], o.n[1])
    elif o.kind == SOFTMAX_BACKWARD:
        softmax_backward(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2], first, last,
                         o.n[0], o.n[1])
    elif o.kind == PRELU:
        prelu_forward(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2], first, last, o.n[0],
                      o.n[1], o.n[2])
    elif o.kind == LAYERNORM_BACKWARD or o.kind == PRELU_BACKWARD:
        row_gradients(like, o, f, team)
    elif o.kind == BLOCK_SUMS:
        low = share(o.n[0], team.size, team.rank)
        high = share(o.n[0], team.size, team.rank + 1)
        add_blocks(<vec*>o.p[0] + low, <const vec*>o.p[1] + o.n[1] + low, block_count(f.rows),
                   o.n[2], high - low, o.n[3], not f.fresh)
    elif o.kind == EMBEDDING:
        embedding_forward(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2], first, last,
                          o.n[0], o.n[1], o.n[2], o.n[3], o.n[4], o.n[5])
    elif o.kind == EMBEDDING_GRADIENT:
        low = share(o.n[2] * o.n[5], team.size, team.rank)
        high = share(o.n[2] * o.n[5], team.size, team.rank + 1)
        embedding_gradient(<vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2], f.rows, low, high,
                           o.n[0], o.n[1], o.n[2], o.n[3], o.n[4], o.n[5], not f.fresh)
    elif o.kind == LOOK:
        blocks = block_count(f.rows)
        for b in range(share(blocks, team.size, team.rank),
                       share(blocks, team.size, team.rank + 1)):
            block_sums(<double*>o.p[0] + o.n[2] * b,
                       <vec*>o.p[2] + b * o.n[3] if o.p[2] != NULL else <vec*>NULL,
                       <const vec*>o.p[1], share(f.rows, blocks, b), share(f.rows, blocks, b + 1),
                       o.n[0], o.n[1], o.a, o.b, o.n[4])
    elif o.kind == MOVE:
        for b in range(share(o.n[2], team.size, team.rank),
                       share(o.n[2], team.size, team.rank + 1)):
            low = share(o.n[0], o.n[2], b)
            change_sums(<double*>o.p[0] + o.n[1] * b, <const vec*>o.p[1] + low,
                        <const vec*>o.p[2] + low, <const vec*>o.p[3] + low,
                        share(o.n[0], o.n[2], b + 1) - low)
    elif o.kind == LOOK_TOTAL and team.rank == 0:
        total_sums(<double*>o.p[0], <double*>o.p[1], <vec*>o.p[2], o.n[0], o.n[1], o.n[2])
    return 0


cdef void row_gradients(vec like, const Op* o, const Frame* f, Team* team) noexcept nogil:
    """LAYERNORM_BACKWARD and PRELU_BACKWARD: rows in their blocks, which each have sums."""
    cdef Py_ssize_t b, low, high, blocks = block_count(f.rows), ld = o.n[1]
    cdef vec* partial
    for b in range(share(blocks, team.size, team.rank),
                   share(blocks, team.size, team.rank + 1)):
        low = share(f.rows, blocks, b)
        high = share(f.rows, blocks, b + 1)
        partial = <vec*>o.p[1]
        if o.kind == PRELU_BACKWARD:
            prelu_backward(<vec*>o.p[0], partial + b * ld, <const vec*>o.p[2],
                           <const vec*>o.p[3], <const vec*>o.p[4], low, high, o.n[0], ld, o.n[2])
        else:
            layernorm_backward(<vec*>o.p[0], partial + 2 * b * ld if partial else <vec*>NULL,
                               <const vec*>o.p[2], <const vec*>o.p[3], <const double*>o.p[4],
                               <const vec*>o.p[5], low, high, o.n[0], ld, o.n[2])


cdef int clip_norm(State* s, const double* partial, Py_ssize_t count, double greatest, Frame* f,
                   Team* team) noexcept nogil:
    """CLIP: scale the update's gradient so that its norm is at most `greatest`."""
    cdef double norm, total = 0.0
    cdef Py_ssize_t i
    for i in range(count):
        total += partial[i]
    norm = sqrt(total) * f.update[0].scale
    if team.rank == 0:
        s.last_norm = norm
    if not isfinite(norm):
        return GRADIENT_NOT_FINITE
    for i in range(s.groups):  # PyTorch's clip_grad_norm_
        f.update[i].scale *= min(1.0, greatest / (norm + 1e-6))
    return 0


cdef void weight_gradient(vec like, State* s, const Op* o, Frame* f, Team* team,
                          vec* pack) noexcept nogil:
    """LINEAR_DW: gradients of weight and bias, or their updates."""
    cdef Py_ssize_t bound[4]
    cdef Py_ssize_t rows = o.n[0], columns = vectors(like, o.n[1]), ldy = o.n[3], x_row
    cdef const char* x = input_of(s, o, f, <const char*>o.p[3], o.n[2] * sizeof(vec), &x_row)
    cdef const vec* dy = <const vec*>o.p[4]
    cdef const Step* step = &f.update[o.n[9]] if o.n[8] else NULL
    cdef const Step* bias_step = &f.update[o.n[10]] if o.n[8] else NULL
    if o.p[6] != NULL:
        linear_backward_bias(<vec*>o.p[5], <vec*>o.p[6], <vec*>o.p[7], s.stride, dy, f.rows,
                             share(columns, team.size, team.rank),
                             share(columns, team.size, team.rank + 1), ldy, bias_step,
                             not f.fresh)
    if not o.n[4]:  # dW = dY^T X
        rows = o.n[1]
        columns = vectors(like, o.n[0])
        x = <const char*>dy
        x_row = ldy * sizeof(vec)
        dy = <const vec*>o.p[3]
        ldy = o.n[2]
    part_of_weight(rows, columns, o.n[6], team, bound)
    require(0 <= bound[0] and bound[0] <= bound[1] and bound[1] <= rows)
    require(0 <= bound[2] and bound[2] <= bound[3] and bound[3] <= columns)
    linear_backward_weight(<vec*>o.p[0], <vec*>o.p[1], <vec*>o.p[2], s.stride, x, x_row, dy, f.rows,
                           bound[0], bound[1], bound[2], bound[3],
                           0 if o.n[4] else o.n[0], ldy, step, not f.fresh, pack)


cdef int execute_range(State* s, Py_ssize_t low, Py_ssize_t high, Frame* f, Team* team
                       ) noexcept nogil:
    cdef Py_ssize_t i
    cdef int status = 0
    cdef f32v narrow = splat_f32v(0.0)
    cdef f64v wide = splat_f64v(0.0)
    for i in range(low, high):
        if s.wide:
            status = execute[f64v](wide, s, s.ops + i, f, team)
        else:
            status = execute[f32v](narrow, s, s.ops + i, f, team)
        if status:
            break
    return status
