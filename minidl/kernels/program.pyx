"""Runs a lowered model: a list of operations over buffers of one workspace, batch after batch.

`minidl/lowering.py` writes the list. Each thread goes through it and takes its share of each
operation: rows of the batch, columns of a layer, or a part of a weight matrix. Where one operation
reads what another thread wrote there is a BARRIER in the list. Nothing here allocates, and between
the steps of an epoch nothing runs but this file and the kernels. Python is asked only by PYTHON
operations (layers and losses written by the user); a program without them keeps every step in one
parallel region.

A run stops at a whole step: when its epochs are done, when its time is up (so that Ctrl-C and
progress bars are served), or before an update that a NaN or infinite loss would make.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from minidl.kernels.activation cimport activation_backward, activation_forward
from minidl.kernels.batchnorm cimport (
    REPLICA, STATISTICS, batchnorm_backward, block_gradients, block_statistics, merge_gradients,
    merge_statistics, normalize, running_statistics,
)
from minidl.kernels.loss cimport loss_block
from minidl.kernels.matmul cimport (
    linear_backward_bias, linear_backward_input, linear_backward_weight, linear_forward, vectors,
)
from minidl.kernels.optimizer cimport Optimizer, Step, step_of, update
from minidl.kernels.random cimport dropout, shuffle
from minidl.kernels.simd cimport (
    TILE_ROWS, VECTOR_BYTES, f32v, f64v, fma, lanes, require, splat, splat_f32v, splat_f64v, vec,
)
from minidl.kernels.threads cimport (
    MAX_BLOCKS, Pace, Team, block_count, first_row, now, run, share, thread_limit, wait,
)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum Kind:
    # name            pointers p                                   sizes n
    GATHER_X = 0    # x                                            features ld in_place
    GATHER_TARGET   # target                                       columns ld
    GATHER_LABEL    # label
    SCATTER         # y                                            columns ld
    # of LINEAR: the weight w is Wt if `transposed`, else W; with `in_place` x is the batch, which
    # is read where the user has it if its rows are in order there, and then not gathered; with
    # `by_columns` a thread has all rows and a part of the columns, in LINEAR and LINEAR_DW alike
    LINEAR          # y kept x w bias       D K ldx ldy transposed in_place by_columns
    LINEAR_DX       # dx dy w kept                                 D K ldx ldy transposed
    # (LINEAR_DW: and update accumulate)
    LINEAR_DW       # dw w m v x dy db bias mb vb  D K ldx ldy transposed in_place by_columns
    # of BN_MERGE: a momentum below 0 stands for 1 / count, the plain mean of all batches so far
    BN_BLOCKS       # partial x                                    width ld
    BN_MERGE        # replica mean var partial gamma beta count    width ld     a eps, b momentum
    BN_RUNNING      # replica mean var gamma beta                  width ld     a eps
    BN_NORMALIZE    # y x replica                                  width ld
    BN_GRADIENTS    # partial dy y x replica                       width ld
    BN_MERGE_GRAD   # replica dgamma dbeta partial                 width ld training accumulate
    BN_BACKWARD     # dx dy x replica                              width ld
    ACTIVATION      # y x                                          ld
    ACTIVATION_BACKWARD  # dx dy kept                              ld
    DROPOUT         # y x                                          ld key       a p
    LOSS            # dz z target label partial                    columns ld kind
    LOSS_TOTAL      # partial
    UPDATE          # w g m v                                      count
    BARRIER
    PYTHON          # (none)                                       index

# The numbers of the operations, for the lowering.
KINDS = {
    "GATHER_X": GATHER_X, "GATHER_TARGET": GATHER_TARGET, "GATHER_LABEL": GATHER_LABEL,
    "SCATTER": SCATTER, "LINEAR": LINEAR, "LINEAR_DX": LINEAR_DX, "LINEAR_DW": LINEAR_DW,
    "BN_BLOCKS": BN_BLOCKS, "BN_MERGE": BN_MERGE, "BN_RUNNING": BN_RUNNING,
    "BN_NORMALIZE": BN_NORMALIZE, "BN_GRADIENTS": BN_GRADIENTS, "BN_MERGE_GRAD": BN_MERGE_GRAD,
    "BN_BACKWARD": BN_BACKWARD, "ACTIVATION": ACTIVATION,
    "ACTIVATION_BACKWARD": ACTIVATION_BACKWARD, "DROPOUT": DROPOUT, "LOSS": LOSS,
    "LOSS_TOTAL": LOSS_TOTAL, "UPDATE": UPDATE, "BARRIER": BARRIER, "PYTHON": PYTHON,
}
BLOCKS = MAX_BLOCKS
VECTOR = VECTOR_BYTES
BLOCK_ROWS = STATISTICS
REPLICA_ROWS = REPLICA

cdef enum:
    POINTERS = 10
    SIZES = 9

cdef enum Status:
    RUNNING = 0
    TIME_UP
    DONE
    LOSS_NOT_FINITE
    PARAMETERS_NOT_FINITE

cdef struct Op:
    int kind
    int activation
    double a, b
    void* p[POINTERS]
    Py_ssize_t n[SIZES]

cdef struct Segment:        # memory that is copied at the start of an epoch
    char* live
    char* copy
    Py_ssize_t size
    bint real               # elements of the program's type, checked for NaN and infinity

cdef struct State:
    # The program.
    Op* ops
    Py_ssize_t count
    bint wide               # float64
    void* pack
    Py_ssize_t pack_size    # bytes a thread
    # The data: same type as the program, strides in bytes. Without x, buffers are filled outside.
    const char* x
    Py_ssize_t x_row, x_column
    bint in_place           # rows of x can be read where they are
    const char* target
    Py_ssize_t target_row, target_column
    const int64_t* label
    char* out
    Py_ssize_t out_row
    Py_ssize_t* order       # rows in the order of this epoch, or NULL
    Py_ssize_t rows, batch_size
    bint merge_last         # a last batch of one row joins the one before it
    # Training.
    Optimizer optimizer
    uint64_t seed
    Segment* segments
    Py_ssize_t segment_count
    # Where the run is, and until when it runs.
    Py_ssize_t epoch, batch, step, last_epoch
    Py_ssize_t begun        # the epoch at which the run began
    double deadline
    Py_ssize_t last_step    # the run ends when this step is reached
    int status
    bint finite             # what was checked of the parameters so far
    # Sums over the epoch so far, and the results of finished epochs since the run began.
    double loss_sum, correct_sum, seen
    double* epoch_loss
    double* epoch_correct
    double last_loss

cdef struct Frame:
    # A thread's view of the batch that it is working on.
    Py_ssize_t start, rows  # of the batch
    Py_ssize_t first, last  # rows of this thread
    Py_ssize_t step
    Step update


cdef inline bint batch_bounds(const State* s, Py_ssize_t batch, Py_ssize_t* start,
                              Py_ssize_t* stop) noexcept nogil:
    """Rows of a batch, and whether it is the last."""
    start[0] = batch * s.batch_size
    stop[0] = min(start[0] + s.batch_size, s.rows)
    if s.merge_last and s.rows - stop[0] == 1:
        stop[0] = s.rows
    return stop[0] >= s.rows


cdef inline void gather(char* to, Py_ssize_t ld, const char* source, Py_ssize_t row,
                        Py_ssize_t column, Py_ssize_t columns, Py_ssize_t item, const State* s,
                        const Frame* f) noexcept nogil:
    """Copy this thread's rows of the batch out of the user's array."""
    cdef Py_ssize_t i, j, r
    cdef const char* p
    for i in range(f.first, f.last):
        r = s.order[f.start + i] if s.order != NULL else f.start + i
        require(0 <= r and r < s.rows)
        p = source + r * row
        if column == item:
            memcpy(to + i * ld, p, columns * item)
        elif item == 4:
            for j in range(columns):
                (<float*>(to + i * ld))[j] = (<const float*>(p + j * column))[0]
        else:
            for j in range(columns):
                (<double*>(to + i * ld))[j] = (<const double*>(p + j * column))[0]


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
        total += partial[2 * b + which]
    return total


cdef inline const char* input_of(const State* s, const Op* o, const Frame* f, const char* x,
                                 Py_ssize_t pitch, Py_ssize_t* row) noexcept nogil:
    """Where a LINEAR operation's x begins, and the bytes from row to row."""
    if o.n[5] and s.in_place:
        row[0] = s.x_row
        return s.x + f.start * s.x_row
    row[0] = pitch
    return x


cdef int execute(vec like, State* s, const Op* o, const Frame* f, Team* team) noexcept nogil:
    """This thread's share of one operation; 0, or the status that ends the run."""
    cdef Py_ssize_t first = f.first, last = f.last, b, low, high, blocks, width, ld
    cdef Py_ssize_t item = VECTOR_BYTES // lanes(like)
    cdef vec* pack = <vec*>(<char*>s.pack + team.rank * s.pack_size)
    cdef vec* replica
    cdef double total, momentum
    cdef const char* x
    cdef Py_ssize_t x_row
    require(0 <= team.rank and team.rank < team.size)
    require(0 <= first and first <= last and last <= f.rows)
    if o.kind == BARRIER:
        wait(team)
    elif o.kind == GATHER_X:
        if s.x != NULL and not (s.in_place and o.n[2]):
            gather(<char*>o.p[0], o.n[1] * sizeof(vec), s.x, s.x_row, s.x_column, o.n[0], item, s,
                   f)
    elif o.kind == GATHER_TARGET:
        if s.target != NULL:
            gather(<char*>o.p[0], o.n[1] * sizeof(vec), s.target, s.target_row, s.target_column,
                   o.n[0], item, s, f)
    elif o.kind == GATHER_LABEL:
        for b in range(first, last):
            (<int64_t*>o.p[0])[b] = s.label[
                s.order[f.start + b] if s.order != NULL else f.start + b]
    elif o.kind == SCATTER:
        for b in range(first, last):
            memcpy(s.out + (f.start + b) * s.out_row,
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
                              <const vec*>o.p[3], first, last, o.n[0], o.n[1], o.n[2], o.n[3],
                              o.n[4], o.activation, o.a, o.b, pack)
    elif o.kind == LINEAR_DW:
        weight_gradient(like, s, o, f, team, pack)
    elif o.kind == BN_BLOCKS or o.kind == BN_GRADIENTS or o.kind == LOSS:
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
                block_gradients(<vec*>o.p[0] + b * STATISTICS * ld, <vec*>o.p[1],
                                <const vec*>o.p[2], <const vec*>o.p[3], replica, low, high,
                                width, ld, o.activation, o.a, o.b)
            else:
                loss_block(<int>o.n[2], <double*>o.p[4] + 2 * b, <double*>o.p[4] + 2 * b + 1,
                           <vec*>o.p[0], <const vec*>o.p[1], <const vec*>o.p[2],
                           <const int64_t*>o.p[3], low, high, f.rows, o.n[0], o.n[1], pack)
    elif o.kind == BN_MERGE:
        momentum = o.b
        if team.rank == 0:  # it alone moves the running averages
            (<int64_t*>o.p[6])[0] += 1
            if momentum < 0:
                momentum = 1.0 / <double>(<int64_t*>o.p[6])[0]
        merge_statistics(<vec*>o.p[0] + team.rank * REPLICA * o.n[1],
                         <vec*>o.p[1] if team.rank == 0 else <vec*>NULL, <vec*>o.p[2],
                         <const vec*>o.p[3], <const vec*>o.p[4], <const vec*>o.p[5], f.rows,
                         o.n[0], o.n[1], o.a, momentum)
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
                        <const vec*>o.p[3], f.rows, o.n[0], o.n[1], o.n[2], o.n[3])
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
        dropout(<vec*>o.p[0], <const vec*>o.p[1], first, last, o.n[0], o.a, <uint64_t>o.n[1],
                <uint64_t>f.step)
    elif o.kind == LOSS_TOTAL:
        total = add_partials(<const double*>o.p[0], f.rows, 0)
        if team.rank == 0:
            s.loss_sum += total
            s.correct_sum += add_partials(<const double*>o.p[0], f.rows, 1)
            s.seen += f.rows
            s.last_loss = total / f.rows
        if not isfinite(total):
            return LOSS_NOT_FINITE
    elif o.kind == UPDATE:
        low = share(o.n[0], team.size, team.rank)
        high = share(o.n[0], team.size, team.rank + 1)
        update(<vec*>o.p[0] + low, <const vec*>o.p[1] + low, <vec*>o.p[2] + low,
               <vec*>o.p[3] + low, high - low, &f.update)
    return 0


cdef void weight_gradient(vec like, const State* s, const Op* o, const Frame* f, Team* team,
                          vec* pack) noexcept nogil:
    """LINEAR_DW: gradients of weight and bias, or their updates."""
    cdef Py_ssize_t bound[4]
    cdef Py_ssize_t rows = o.n[0], columns = vectors(like, o.n[1]), ldy = o.n[3], x_row
    cdef const char* x = input_of(s, o, f, <const char*>o.p[4], o.n[2] * sizeof(vec), &x_row)
    cdef const vec* dy = <const vec*>o.p[5]
    cdef const Step* step = &f.update if o.n[7] else NULL
    if o.p[7] != NULL:
        linear_backward_bias(<vec*>o.p[6], <vec*>o.p[7], <vec*>o.p[8], <vec*>o.p[9], dy, f.rows,
                             share(columns, team.size, team.rank),
                             share(columns, team.size, team.rank + 1), ldy, step, o.n[8])
    if not o.n[4]:  # dW = dY^T X
        rows = o.n[1]
        columns = vectors(like, o.n[0])
        x = <const char*>dy
        x_row = ldy * sizeof(vec)
        dy = <const vec*>o.p[4]
        ldy = o.n[2]
    part_of_weight(rows, columns, o.n[6], team, bound)
    require(0 <= bound[0] and bound[0] <= bound[1] and bound[1] <= rows)
    require(0 <= bound[2] and bound[2] <= bound[3] and bound[3] <= columns)
    linear_backward_weight(<vec*>o.p[0], <vec*>o.p[1], <vec*>o.p[2], <vec*>o.p[3], x, x_row, dy,
                           f.rows, bound[0], bound[1], bound[2], bound[3],
                           0 if o.n[4] else o.n[0], ldy, step, o.n[8], pack)


cdef int execute_range(State* s, Py_ssize_t low, Py_ssize_t high, const Frame* f, Team* team
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


cdef inline double finite_sum(vec like, const vec* x, Py_ssize_t n) noexcept nogil:
    """0 if the n vectors at x are finite, else NaN."""
    cdef vec zero = splat(like, 0.0), total = zero
    cdef Py_ssize_t i
    cdef double result = 0.0
    for i in range(n):
        total = fma(zero, x[i], total)
    for i in range(lanes(like)):
        if vec is f32v:
            result += (<float*>&total)[i]
        else:
            result += (<double*>&total)[i]
    return result


cdef void check_parameters(State* s, Team* team) noexcept nogil:
    """This thread's share of the parameters and running averages: note NaN and infinity."""
    cdef Py_ssize_t i, low, high
    cdef double total = 0.0
    cdef f32v narrow = splat_f32v(0.0)
    cdef f64v wide = splat_f64v(0.0)
    for i in range(s.segment_count):
        if s.segments[i].real:
            low = share(s.segments[i].size // VECTOR_BYTES, team.size, team.rank) * VECTOR_BYTES
            high = share(s.segments[i].size // VECTOR_BYTES, team.size, team.rank + 1
                         ) * VECTOR_BYTES
            if s.wide:
                total += finite_sum[f64v](wide, <const f64v*>(s.segments[i].live + low),
                                          (high - low) // VECTOR_BYTES)
            else:
                total += finite_sum[f32v](narrow, <const f32v*>(s.segments[i].live + low),
                                          (high - low) // VECTOR_BYTES)
    if total != 0.0:
        s.finite = False  # whichever thread writes it


cdef void begin_epoch(State* s, Team* team) noexcept nogil:
    """This thread's share of what an epoch begins with: saved copies, the order of the rows."""
    cdef Py_ssize_t i, low, high
    for i in range(s.segment_count):
        low = share(s.segments[i].size, team.size, team.rank)
        high = share(s.segments[i].size, team.size, team.rank + 1)
        memcpy(s.segments[i].copy + low, s.segments[i].live + low, high - low)
    if team.rank == 0:
        if s.order != NULL:
            shuffle(s.order, s.rows, s.seed, s.epoch)
        s.loss_sum = s.correct_sum = s.seen = 0.0
        s.finite = True


cdef void end_epoch(State* s) noexcept nogil:
    """Note the epoch's results."""
    if s.epoch_loss != NULL:
        s.epoch_loss[s.epoch - s.begun] = s.loss_sum / s.seen if s.seen > 0 else 0.0
        s.epoch_correct[s.epoch - s.begun] = s.correct_sum / s.seen if s.seen > 0 else 0.0
    s.epoch += 1
    if not s.finite:
        s.status = PARAMETERS_NOT_FINITE
    elif s.epoch >= s.last_epoch:
        s.status = DONE


cdef void set_frame(const State* s, Frame* f, Py_ssize_t batch, Py_ssize_t step, Team* team
                    ) noexcept nogil:
    cdef Py_ssize_t stop
    batch_bounds(s, batch, &f.start, &stop)
    f.rows = stop - f.start
    f.first = first_row(f.rows, team, team.rank)
    f.last = first_row(f.rows, team, team.rank + 1)
    f.step = step
    f.update = step_of(&s.optimizer, step + 1)


cdef void train(void* context, Team* team) noexcept nogil:
    """Steps, until something ends the run. Every thread counts along; thread 0 keeps the books.

    Outside the operations there is one barrier a step, three more an epoch, and one at the start: a
    thread may come to life when thread 0 has done its share of a step, and must not find the place
    of the next one here. Thread 0 looks at the clock before the barrier of a step, and names the
    step after which all stop: a thread that has yet to look at `last_step` may find a later one
    there, which is as good.
    """
    cdef State* s = <State*>context
    cdef Frame f
    cdef Py_ssize_t batch = s.batch, step = s.step, start, stop
    cdef Py_ssize_t interval = 1, until_look = 1
    cdef double look, looked = now()
    cdef int status
    wait(team)
    while True:
        if batch == 0:
            begin_epoch(s, team)
            wait(team)
        set_frame(s, &f, batch, step, team)
        status = execute_range(s, 0, s.count, &f, team)
        if status:
            if team.rank == 0:
                s.status = status
            break  # every thread sees the same status
        step += 1
        batch = 0 if batch_bounds(s, batch, &start, &stop) else batch + 1
        if team.rank == 0:
            s.step = step
            s.batch = batch
            until_look -= 1
            if until_look == 0:
                look = now()
                if look > s.deadline:
                    s.status = TIME_UP
                    s.last_step = step
                interval = min(2 * interval, 1024) if look - looked < 1e-3 else max(
                    interval // 2, 1)
                until_look = interval
                looked = look
        wait(team)
        if batch == 0:
            check_parameters(s, team)
            wait(team)
            if team.rank == 0:
                end_epoch(s)
                if s.status != RUNNING:
                    s.last_step = step
            wait(team)
        if step >= s.last_step:
            break


cdef struct Call:
    State* state
    Py_ssize_t low, high
    Py_ssize_t rows, step
    int status


cdef void once(void* context, Team* team) noexcept nogil:
    """A range of operations on one batch."""
    cdef Call* c = <Call*>context
    cdef Frame f
    cdef int status
    f.start = c.state.batch * c.state.batch_size
    f.rows = c.rows
    f.first = first_row(f.rows, team, team.rank)
    f.last = first_row(f.rows, team, team.rank + 1)
    f.step = c.step
    f.update = step_of(&c.state.optimizer, c.step + 1)
    status = execute_range(c.state, c.low, c.high, &f, team)
    if team.rank == 0:
        c.status = status


cdef class Program:
    """A list of operations with what they work on.

    Parameters
    ----------
    ops : sequence of (kind, activation, a, b, pointers, sizes)
        Operations in the order of execution; see the comments of `Kind`.
    calls : sequence of callables
        What PYTHON operations call, with the number of rows of the batch; their first size is the
        index.
    itemsize : {4, 8}
        float32 or float64.
    threads : int
        The most threads that the buffers have room for.
    pack : int
        Address of scratch memory, `pack_size` bytes a thread.
    segments : sequence of (live, copy, size, real)
        Memory that is saved at the start of each epoch.
    keep : object
        Kept alive as long as the program.
    paced : bool
        Use the number of threads, up to that, which is found to be fastest; else all.
    """

    cdef State state
    cdef Py_ssize_t threads
    cdef Pace pace
    cdef list calls
    cdef object keep
    cdef bint busy

    def __cinit__(self, ops, calls, Py_ssize_t itemsize, Py_ssize_t threads, uintptr_t pack,
                  Py_ssize_t pack_size, segments=(), keep=None, bint paced=False):
        cdef Py_ssize_t i, j
        cdef Op* o
        self.state.ops = <Op*>PyMem_Calloc(max(len(ops), 1), sizeof(Op))
        self.state.segments = <Segment*>PyMem_Calloc(max(len(segments), 1), sizeof(Segment))
        if self.state.ops == NULL or self.state.segments == NULL:
            raise MemoryError
        for i, (kind, activation, a, b, pointers, sizes) in enumerate(ops):
            o = self.state.ops + i
            o.kind = kind
            o.activation = activation
            o.a = a
            o.b = b
            for j, pointer in enumerate(pointers):
                o.p[j] = <void*><uintptr_t>pointer
            for j, size in enumerate(sizes):
                o.n[j] = size
        for i, (live, copy, size, real) in enumerate(segments):
            self.state.segments[i].live = <char*><uintptr_t>live
            self.state.segments[i].copy = <char*><uintptr_t>copy
            self.state.segments[i].size = size
            self.state.segments[i].real = real
        self.state.count = len(ops)
        self.state.segment_count = len(segments)
        self.state.wide = itemsize == 8
        self.state.pack = <void*>pack
        self.state.pack_size = pack_size
        self.threads = threads
        self.pace = Pace() if paced else None
        self.calls = list(calls)
        self.keep = keep

    def __dealloc__(self):
        PyMem_Free(self.state.ops)
        PyMem_Free(self.state.segments)

    cdef int team_size(self) noexcept:
        return min(self.threads, thread_limit())

    def set_optimizer(self, int kind, bint nesterov, double lr, double weight_decay, double beta1,
                      double beta2, double eps):
        """Numbers of the optimizer from the next step on."""
        self.state.optimizer = Optimizer(kind, nesterov, lr, weight_decay, beta1, beta2, eps)

    def set_data(self, x, target, label, out, uintptr_t order, Py_ssize_t rows,
                 Py_ssize_t batch_size, bint merge_last, uint64_t seed):
        """Where batches come from and go to.

        `x`, `target` and `out` are (address, row stride, column stride) in bytes or None, `label`
        and `order` addresses (0 for none). The caller keeps the memory alive.
        """
        cdef State* s = &self.state
        s.x = s.target = s.out = NULL
        if x is not None:
            s.x = <const char*><uintptr_t>x[0]
            s.x_row = x[1]
            s.x_column = x[2]
        if target is not None:
            s.target = <const char*><uintptr_t>target[0]
            s.target_row = target[1]
            s.target_column = target[2]
        if out is not None:
            s.out = <char*><uintptr_t>out[0]
            s.out_row = out[1]
        s.label = <const int64_t*><uintptr_t>label
        s.order = <Py_ssize_t*>order
        s.rows = rows
        s.batch_size = batch_size
        s.merge_last = merge_last
        s.seed = seed
        # Rows a multiple of 4 KiB apart would share a few sets of the first cache.
        s.in_place = (s.x != NULL and order == 0 and s.x_column == (8 if s.wide else 4)
                      and <uintptr_t>s.x % s.x_column == 0
                      and s.x_row > 0 and s.x_row % 4096 != 0)

    def seek(self, Py_ssize_t epoch, Py_ssize_t batch, Py_ssize_t step):
        """Go to a batch of an epoch; `step` counts the updates made so far."""
        self.state.epoch = epoch
        self.state.batch = batch
        self.state.step = step

    def position(self):
        """(epoch, batch, step) of the next batch."""
        return self.state.epoch, self.state.batch, self.state.step

    def run(self, Py_ssize_t epochs, double seconds, state=None):
        """Run whole steps for up to `epochs` (at most 65536) more epochs or about `seconds`.

        The steps made so far are noted in ``state.step``: here, where no interrupt can come
        between the steps and the note.

        Returns
        -------
        status : {"time", "done", "loss", "parameters"}
            What ended the run; the last two name what was not finite.
        losses, shares : list of float
            Mean loss and share of right rows of each epoch that ended.
        """
        cdef State* s = &self.state
        cdef Py_ssize_t i
        if self.busy:
            raise RuntimeError("this model is already running, in another thread or a callback")
        epochs = min(epochs, 65536)
        s.epoch_loss = <double*>PyMem_Calloc(2 * max(epochs, 1), sizeof(double))
        if s.epoch_loss == NULL:
            raise MemoryError
        s.epoch_correct = s.epoch_loss + max(epochs, 1)
        s.begun = s.epoch
        s.last_epoch = s.epoch + epochs
        s.deadline = now() + seconds
        s.status = RUNNING
        self.busy = True
        try:
            if self.calls:
                self.run_with_python()
            while s.status == RUNNING:  # as long as the pace is being tried
                self.run_compiled()
            status = {TIME_UP: "time", DONE: "done", LOSS_NOT_FINITE: "loss",
                      PARAMETERS_NOT_FINITE: "parameters"}[s.status]
            ended = s.epoch - s.begun
            return (status, [s.epoch_loss[i] for i in range(ended)],
                    [s.epoch_correct[i] for i in range(ended)])
        finally:
            self.busy = False
            if state is not None:
                state.step = s.step
            PyMem_Free(s.epoch_loss)
            s.epoch_loss = s.epoch_correct = NULL

    cdef run_compiled(self):
        """Steps in compiled code, with as many threads as are fastest."""
        cdef State* s = &self.state
        cdef Py_ssize_t step = s.step, trial = 0
        cdef int size = self.team_size()
        cdef double start = now()
        if self.pace is not None:
            size = self.pace.size(size)
            trial = self.pace.steps()
        s.last_step = s.step + trial if trial else PY_SSIZE_T_MAX
        with nogil:
            run(train, s, size)
        if self.pace is not None:
            self.pace.note(s.step - step, now() - start)

    cdef run_with_python(self):
        """As `train`, with the loop over steps in Python."""
        cdef State* s = &self.state
        cdef Py_ssize_t start, stop
        cdef bint last
        cdef Team alone
        alone.rank = 0
        alone.size = 1
        while s.status == RUNNING:
            if s.batch == 0:
                begin_epoch(s, &alone)
            last = batch_bounds(s, s.batch, &start, &stop)
            status = self.execute(0, s.count, stop - start, s.step)
            if status:
                s.status = status
                return
            s.step += 1
            s.batch = 0 if last else s.batch + 1
            if last:
                check_parameters(s, &alone)
                end_epoch(s)
            if s.status == RUNNING and now() > s.deadline:
                s.status = TIME_UP

    def execute(self, Py_ssize_t low, Py_ssize_t high, Py_ssize_t rows, Py_ssize_t step=0):
        """Execute operations low to high - 1 once, on a batch of `rows` rows."""
        cdef Call call
        cdef Py_ssize_t i = low
        cdef int size = self.team_size()
        call.state = &self.state
        call.rows = rows
        call.step = step
        call.status = 0
        while i < high and not call.status:
            call.low = i
            while i < high and self.state.ops[i].kind != PYTHON:
                i += 1
            call.high = i
            if call.high > call.low:
                with nogil:
                    run(once, &call, size)
            if i < high and not call.status:
                self.calls[self.state.ops[i].n[0]](rows)
                i += 1
        return call.status

    @property
    def last_loss(self):
        """Loss of the last batch."""
        return self.state.last_loss
