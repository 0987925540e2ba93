"""Runs a lowered model: a list of operations over buffers of one workspace, batch after batch.

`minidl/lowering/` writes the list, `operations.pyx` does what it says. Each thread goes through it
and takes its share of each operation: rows of the batch, columns of a layer, or a part of a weight
matrix. Where one operation reads what another thread wrote there is a BARRIER in the list. Nothing
here allocates, and between the steps of an epoch nothing runs but this file and the kernels. Python
is asked only by PYTHON operations (layers and losses written by the user); a program without them
keeps every step in one parallel region.

An update is made from one batch, or from several whose gradients are summed (`accumulate`). A batch
of more rows than the buffers hold is gone through in parts, whose gradients are summed too. A run
stops at a whole update: when its epochs or updates are done, when its time is up (so that Ctrl-C
and progress bars are served), or before an update that a NaN or infinite loss would make.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from minidl.kernels.flat cimport finite_sum
from minidl.kernels.operations cimport (
    DONE, DROP, GRADIENT_NOT_FINITE, GROUPS, LOSS_NOT_FINITE, MERGE, PARAMETERS_NOT_FINITE, PYTHON,
    RUNNING, SOURCES, TIME_UP, Frame, Op, Segment, Source, State, Watch, execute_range,
    part_of_update,
)
from minidl.kernels.optimizer cimport NADAM, Optimizer, Rate, next_product, step_of
from minidl.kernels.random cimport shuffle
from minidl.kernels.simd cimport VECTOR_BYTES, f32v, f64v
from minidl.kernels.threads cimport Pace, Team, first_row, now, run, share, thread_limit, wait

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX


cdef inline Py_ssize_t batch_count(const State* s) noexcept nogil:
    """Batches in the data."""
    cdef Py_ssize_t whole = s.rows // s.batch_size, rest = s.rows % s.batch_size
    if rest == 0 or s.last_batch == DROP or (s.last_batch == MERGE and rest == 1 and whole > 0):
        return whole
    return whole + 1


cdef inline Py_ssize_t batch_stop(const State* s, Py_ssize_t batch) noexcept nogil:
    """The row behind a batch's last."""
    if batch == batch_count(s) - 1 and s.last_batch != DROP:
        return s.rows
    return (batch + 1) * s.batch_size


cdef inline Py_ssize_t part_count(const State* s, Py_ssize_t batch) noexcept nogil:
    """Parts that a batch is gone through in: as few as the buffers allow, of even size."""
    cdef Py_ssize_t rows = batch_stop(s, batch) - batch * s.batch_size
    return (rows + s.most_rows - 1) // s.most_rows if rows > s.most_rows else 1


cdef void check_parameters(State* s, Team* team) noexcept nogil:
    """This thread's share of the parameters and running averages: note NaN and infinity."""
    cdef Py_ssize_t i, low, high
    cdef double total = 0.0
    for i in range(s.segment_count):
        if s.segments[i].real:
            low = share(s.segments[i].size // VECTOR_BYTES, team.size, team.rank) * VECTOR_BYTES
            high = share(s.segments[i].size // VECTOR_BYTES, team.size, team.rank + 1
                         ) * VECTOR_BYTES
            if s.wide:
                total += finite_sum[f64v](<const f64v*>(s.segments[i].live + low),
                                          (high - low) // VECTOR_BYTES)
            else:
                total += finite_sum[f32v](<const f32v*>(s.segments[i].live + low),
                                          (high - low) // VECTOR_BYTES)
    if total != 0.0:
        s.finite = False  # whichever thread writes it


cdef void save(State* s, Team* team) noexcept nogil:
    """This thread's share of the copies that a loss which is not finite brings back."""
    cdef Py_ssize_t i, low, high
    if team.rank == 0:
        s.saved_epoch = s.epoch
        s.saved_step = s.step
        s.saved_tick = s.tick
    for i in range(s.segment_count):
        low = share(s.segments[i].size, team.size, team.rank)
        high = share(s.segments[i].size, team.size, team.rank + 1)
        memcpy(s.segments[i].copy + low, s.segments[i].live + low, high - low)


cdef void begin_epoch(State* s, Team* team) noexcept nogil:
    """This thread's share of what an epoch begins with: saved copies, the order of the rows."""
    save(s, team)
    if team.rank == 0:
        if s.order != NULL:
            shuffle(s.order, s.rows, s.seed, s.epoch)
        s.loss_sum = s.correct_sum = s.weight_sum = s.rows_sum = 0.0
        s.finite = True


cdef void end_epoch(State* s) noexcept nogil:
    """Note the epoch's results."""
    if s.epoch_loss != NULL:
        s.epoch_loss[s.epoch - s.begun] = s.loss_sum / s.weight_sum if s.weight_sum > 0 else 0.0
        s.epoch_correct[s.epoch - s.begun] = s.correct_sum / s.rows_sum if s.rows_sum > 0 else 0.0
    s.epoch += 1
    if not s.finite:
        s.status = PARAMETERS_NOT_FINITE
    elif s.epoch >= s.last_epoch:
        s.status = DONE


cdef void set_product(const State* s, Frame* f) noexcept nogil:
    """NAdam's product at the update that is next: always made in the order 1, 2, 3, ..."""
    if s.optimizer.kind != NADAM:
        return
    if not 0 < f.product_step <= f.step + 1:
        f.product = 1.0
        f.product_step = 0
    while f.product_step <= f.step and f.product != 0.0:
        f.product_step += 1
        f.product = next_product(&s.optimizer, f.product_step, f.product)
    f.product_step = f.step + 1


cdef void set_rates(const State* s, Frame* f) noexcept nogil:
    """The optimizer's numbers for the update that is next, for each group of parameters."""
    cdef double lr = s.lr, beta1 = s.beta1
    cdef const double* scheduled
    cdef Rate rate
    cdef int i
    if s.rates != NULL:
        scheduled = s.rates + 2 * (f.step - s.rates_first)
        lr = scheduled[0]
        beta1 = beta1 if isnan(scheduled[1]) else scheduled[1]
    set_product(s, f)
    for i in range(s.groups):
        rate = s.rate[i]
        rate.lr *= lr
        rate.beta1 = beta1
        f.update[i] = step_of(&s.optimizer, &rate, f.step + 1, 1.0, f.product)


cdef void set_rows(Frame* f, Py_ssize_t start, Py_ssize_t rows, Team* team) noexcept nogil:
    f.start = start
    f.rows = rows
    f.first = first_row(rows, team, team.rank)
    f.last = first_row(rows, team, team.rank + 1)


cdef void set_frame(const State* s, Frame* f, Py_ssize_t batch, Py_ssize_t step, Py_ssize_t tick,
                    Team* team) noexcept nogil:
    """The first part of a batch."""
    cdef Py_ssize_t group = batch - batch % s.accumulate
    cdef Py_ssize_t last = min(group + s.accumulate, batch_count(s)) - 1
    f.batch = batch
    f.parts = part_count(s, batch)
    f.update_start = group * s.batch_size
    f.update_stop = batch_stop(s, last)
    f.closes = batch == last
    f.step = step
    f.tick = tick
    set_rates(s, f)
    set_part(s, f, 0, team)


cdef void set_part(const State* s, Frame* f, Py_ssize_t part, Team* team) noexcept nogil:
    """A part of the frame's batch."""
    cdef Py_ssize_t start = f.batch * s.batch_size
    cdef Py_ssize_t rows = batch_stop(s, f.batch) - start
    cdef Py_ssize_t first = share(rows, f.parts, part)
    set_rows(f, start + first, share(rows, f.parts, part + 1) - first, team)
    f.part = part
    f.row = first
    f.fresh = f.batch % s.accumulate == 0 and part == 0


cdef inline bint limits_reached(const State* s, Py_ssize_t step) noexcept nogil:
    """True if no update may follow: those asked for are made, or the known rates are used up."""
    return step >= s.last_step or logs_full(s) or (
        s.rates != NULL and step >= s.rates_first + s.rates_count)


# Programs that look at a step: a pass over its batch with the weights before it, which are copied,
# then what the step has made of these.

cdef inline bint is_due(const Watch* w, const Frame* f) noexcept nogil:
    """True if the step that the batch closes is one of those that are looked at."""
    return f.closes and (f.step + 1) % w.every == 0


cdef inline bint logs_full(const State* s) noexcept nogil:
    """True if a log has no room for a look more than the one that waits."""
    cdef Py_ssize_t k
    for k in range(s.watch_count):
        if s.watches[k].entered[0] + s.watches[k].waits >= s.watches[k].room:
            return True
    return False


cdef void copy_watched(const Watch* w, Team* team) noexcept nogil:
    """This thread's share of what is copied before a look."""
    cdef Py_ssize_t i, low, high
    cdef const Segment* part
    for i in range(w.copy_count):
        part = w.copies + i
        low = share(part.size, team.size, team.rank)
        high = share(part.size, team.size, team.rank + 1)
        memcpy(part.copy + low, part.live + low, high - low)


cdef void enter_look(Watch* w, const Frame* f, bint made) noexcept nogil:
    """A row of the log; of an update that was not `made` there is nothing to say."""
    cdef double* row = w.log + w.entered[0] * (3 + w.width)
    cdef Py_ssize_t i
    row[0] = f.step + 1
    row[1] = batch_stop(w.state, f.batch) - f.batch * w.state.batch_size
    row[2] = w.state.last_loss
    memcpy(row + 3, w.record, w.width * sizeof(double))
    if not made:
        for i in range(w.moved, w.stop):
            row[3 + i] = NAN
    w.entered[0] += 1


cdef void look(Watch* w, const Frame* of_step, Team* team) noexcept nogil:
    """Go through the batch of a step before it is made."""
    cdef State* s = w.state
    cdef Frame f
    cdef int status
    copy_watched(w, team)
    wait(team)
    set_frame(s, &f, of_step.batch, of_step.step, of_step.tick, team)
    status = execute_range(s, 0, s.update_from, &f, team)
    while not status and f.part + 1 < f.parts:
        wait(team)
        set_part(s, &f, f.part + 1, team)
        status = execute_range(s, 0, s.update_from, &f, team)
    if team.rank == 0:
        w.waits = not status
    if status:
        look_at_update(w, of_step, False, team)


cdef void look_at_update(Watch* w, const Frame* of_step, bint made, Team* team) noexcept nogil:
    """What remains to be done for a look when the step is made, or cannot be."""
    cdef Frame f = of_step[0]
    execute_range(w.state, w.state.update_from, w.state.count, &f, team)
    if team.rank == 0:
        enter_look(w, of_step, made)
        w.waits = False


cdef void train(void* context, Team* team) noexcept nogil:
    """Batches, until something ends the run. Every thread counts along; thread 0 keeps the books.

    Outside the operations there is one barrier a batch, and three more an epoch. Thread 0 looks at
    the clock before the first, and names the batch after which all stop: a thread that has yet to
    look at `last_tick` may find a later one there, which is as good. Where to begin stands in
    places that nobody writes: a thread may come to life when thread 0 has done its first share.
    """
    cdef State* s = <State*>context
    cdef Frame f
    cdef Py_ssize_t batch = s.from_batch, step = s.from_step, tick = s.from_tick
    cdef Py_ssize_t batches = batch_count(s)
    cdef Py_ssize_t interval = 1, until_look = 1
    cdef Py_ssize_t k
    cdef double glance, looked = now()
    cdef int status
    f.product = s.product
    f.product_step = s.product_step
    while True:
        if batch == 0 and s.opens:
            begin_epoch(s, team)
            wait(team)
        set_frame(s, &f, batch, step, tick, team)
        for k in range(s.watch_count):
            if is_due(s.watches + k, &f):
                look(s.watches + k, &f, team)
        status = execute_range(s, 0, s.update_from, &f, team)
        while not status and f.part + 1 < f.parts:
            wait(team)
            set_part(s, &f, f.part + 1, team)
            status = execute_range(s, 0, s.update_from, &f, team)
        if not status and f.closes:
            status = execute_range(s, s.update_from, s.count, &f, team)
        if status:
            if team.rank == 0:
                s.status = status
            break  # every thread sees the same status
        tick += 1
        batch = 0 if batch + 1 == batches else batch + 1
        if f.closes:
            step += 1
        if team.rank == 0:
            s.step = step
            s.tick = tick
            s.batch = batch
            until_look -= 1
            if f.closes and limits_reached(s, step):
                s.status = TIME_UP
                s.last_tick = tick
            elif f.closes and until_look <= 0:
                glance = now()
                if glance > s.deadline:
                    s.status = TIME_UP
                    s.last_tick = tick
                interval = min(2 * interval, 1024) if glance - looked < 1e-3 else max(
                    interval // 2, 1)
                until_look = interval
                looked = glance
        wait(team)
        for k in range(s.watch_count):
            if s.watches[k].waits:
                look_at_update(s.watches + k, &f, True, team)
        if batch == 0:
            if s.ends:
                check_parameters(s, team)
                wait(team)
            if team.rank == 0:
                if s.ends:
                    end_epoch(s)
                else:
                    s.status = DONE
                if s.status != RUNNING:
                    s.last_tick = tick
            wait(team)
        if f.closes and tick >= s.last_tick:
            break
    if team.rank == 0:  # every thread has read them: there was a barrier
        s.product = f.product
        s.product_step = f.product_step


cdef struct Call:
    State* state
    Frame* frame            # its batch; rows of the thread are filled in
    Py_ssize_t low, high
    int status


cdef void once(void* context, Team* team) noexcept nogil:
    """A range of operations on one batch."""
    cdef Call* c = <Call*>context
    cdef Frame f = c.frame[0]
    cdef int status
    set_rows(&f, f.start, f.rows, team)
    status = execute_range(c.state, c.low, c.high, &f, team)
    if team.rank == 0:
        c.status = status


cdef bint all_finite(const Py_buffer* x, bint wide) noexcept nogil:
    """True if the rows of a matrix hold no NaN and no infinity."""
    cdef Py_ssize_t i, j
    cdef double total = 0.0
    cdef const char* row
    for i in range(x.shape[0]):
        row = <const char*>x.buf + i * x.strides[0]
        for j in range(x.shape[1]):
            total += 0.0 * (<double>(<const double*>row)[j] if wide else
                            <double>(<const float*>row)[j])
    return total == 0.0


cdef class Program:
    """A list of operations with what they work on.

    Parameters
    ----------
    ops : sequence of (kind, activation, a, b, pointers, sizes)
        Operations in the order of execution; see the comments of `Kind` in `operations.pxd`.
    calls : sequence of callables
        What PYTHON operations call, with the number of rows of the batch; their first size is the
        index. One that returns False has met a loss that is not finite, which ends the run.
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
    stride : int
        Bytes from a state of the optimizer to the next.
    update_from : int, optional
        The first operation that runs once an update, and not once a batch; default: none.
    paced : bool
        Use the number of threads, up to that, which is found to be fastest; else all.
    rows : int, optional
        The most rows that the buffers have room for; default: any.
    moving : sequence of (live, copy, size)
        Memory that moves before the update: saved before each, brought back if Python code fails.
    """

    cdef State state
    cdef Frame frame        # of the batch that `execute` works on
    cdef Py_ssize_t threads
    cdef Pace pace
    cdef list calls
    cdef object keep, rates, array, dtype
    cdef tuple watchers     # the programs that look at this one, and what they need kept alive
    cdef Py_ssize_t features, outputs, quick_rows
    cdef bint busy
    cdef list moving        # (live, copy, size)
    cdef State mark         # where the update that is under way began

    def __cinit__(self, ops, calls, Py_ssize_t itemsize, Py_ssize_t threads, uintptr_t pack,
                  Py_ssize_t pack_size, segments=(), keep=None, Py_ssize_t stride=0,
                  update_from=None, bint paced=False, rows=None, moving=()):
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
        self.state.update_from = self.state.count if update_from is None else update_from
        self.state.segment_count = len(segments)
        self.state.wide = itemsize == 8
        self.state.pack = <void*>pack
        self.state.pack_size = pack_size
        self.state.stride = stride // VECTOR_BYTES
        self.state.accumulate = self.state.groups = self.state.batch_size = 1
        self.state.most_rows = PY_SSIZE_T_MAX if rows is None else rows
        self.state.opens = self.state.ends = True
        self.threads = threads
        self.pace = Pace() if paced else None
        self.calls = list(calls)
        self.moving = list(moving)
        self.keep = keep
        self.watchers = ()

    def __dealloc__(self):
        PyMem_Free(self.state.ops)
        PyMem_Free(self.state.segments)
        self.free_watches()

    cdef free_watches(self):
        cdef Py_ssize_t k
        for k in range(self.state.watch_count):
            PyMem_Free(<void*>self.state.watches[k].copies)
        PyMem_Free(self.state.watches)
        self.state.watches = NULL
        self.state.watch_count = 0

    cdef int team_size(self) noexcept:
        return min(self.threads, thread_limit())

    def set_optimizer(self, *, int kind, double lr, double weight_decay, double beta1=0.0,
                      double beta2=0.0, double eps=0.0, double extra=0.0, bint variant=False,
                      scheduled=None, double clip=0.0, Py_ssize_t accumulate=1, groups=None):
        """Numbers of the optimizer from the next update on.

        What `beta1`, `beta2`, `extra` and `variant` mean depends on the kind: see `optimizer.pxd`.
        `scheduled` is what a schedule has in place of `beta1`, None: nothing. `clip` bounds each
        element of the gradient, 0: none. `groups` are (factor of lr, weight_decay) of each group of
        parameters; default: one.
        """
        cdef State* s = &self.state
        groups = [(1.0, weight_decay)] if groups is None else groups
        if not 0 < len(groups) <= GROUPS:
            raise ValueError(f"groups: expected at most {GROUPS}, got {len(groups)}")
        if beta1 != s.optimizer.beta1 or extra != s.optimizer.extra:
            s.product_step = self.frame.product_step = 0
        s.optimizer = Optimizer(kind, variant, beta1, beta2, eps, extra, clip)
        s.lr = lr
        s.beta1 = beta1 if scheduled is None else scheduled
        s.accumulate = accumulate
        s.groups = len(groups)
        for i, (factor, decay) in enumerate(groups):
            s.rate[i] = Rate(factor, decay, s.beta1)
        self.set_rates(None, 0)

    def set_rates(self, rates, Py_ssize_t first):
        """Rates of the updates from `first` on: a C-contiguous float64 array (updates, 2).

        Its columns are lr and beta1 (NaN: that of `set_optimizer`). A run ends where they end.
        None: those of `set_optimizer`, from here on.
        """
        cdef uintptr_t where = 0 if rates is None else rates.ctypes.data
        self.rates = rates
        self.state.rates = <const double*>where
        self.state.rates_first = first
        self.state.rates_count = 0 if rates is None else len(rates)

    def set_data(self, x, target, label, weight, out, uintptr_t order, Py_ssize_t rows,
                 Py_ssize_t batch_size, int last_batch, uint64_t seed, bint opens=True,
                 bint ends=True, uintptr_t chosen=0):
        """Where batches come from and go to.

        `x` is a sequence of (address, row stride, column stride, columns) in bytes, side by side;
        `target` and `out` are (address, row stride, column stride) or None, `label`, `weight` and
        `order` addresses (0 for none). `opens` and `ends`: the data begin an epoch, and end it.
        `chosen`: address of the numbers of `rows` rows of x, target, label and weight, the only
        ones that are gone through; `order` and `out` have one element for each of them.
        The caller keeps the memory alive.
        """
        cdef State* s = &self.state
        cdef Source* part
        cdef Py_ssize_t first = 0, item = 8 if s.wide else 4
        if len(x) > SOURCES:
            raise ValueError(f"X: expected at most {SOURCES} arrays, got {len(x)}")
        s.target = s.out = NULL
        for i, (at, row, column, columns) in enumerate(x):
            part = &s.x[i]
            part.at = <const char*><uintptr_t>at
            part.row = row
            part.column = column
            part.first = first
            part.columns = columns
            # Rows a multiple of 4 KiB apart would share a few sets of the first cache.
            part.in_place = (order == chosen == 0 and part.column == item
                             and <uintptr_t>part.at % item == 0
                             and part.row > 0 and part.row % 4096 != 0)
            first += part.columns
        s.sources = len(x)
        if target is not None:
            s.target = <const char*><uintptr_t>target[0]
            s.target_row = target[1]
            s.target_column = target[2]
        if out is not None:
            s.out = <char*><uintptr_t>out[0]
            s.out_row = out[1]
        s.label = <const int64_t*><uintptr_t>label
        s.weight = <const double*><uintptr_t>weight
        s.chosen = <const Py_ssize_t*>chosen
        s.order = <Py_ssize_t*>order
        s.rows = rows
        s.batch_size = batch_size
        s.last_batch = last_batch
        s.seed = seed
        s.opens = opens
        s.ends = ends
        self.quick_rows = 0  # `quick` has data of its own

    def watch(self, watchers):
        """Let other programs look at some of the steps of this one, from the next run on.

        Each is given as (program, every, copies, record, moved, log, entered): before each step
        whose number is a multiple of `every` it copies (from, to, size) and goes through the batch
        of that step, all operations before its `update_from`; the others when the step is made.
        These leave a record, of which elements moved[0] to moved[1] - 1 are of the update. A row of
        the log gets the step, the rows of its batch, their loss, and the record: `entered` counts
        them, and a run ends where the log is full. Arrays are C-contiguous, float64 and intp.
        Programs are made for as many threads as this one, and know the same data.
        """
        cdef Watch* w
        cdef Segment* copies
        cdef Py_ssize_t k, i
        cdef Program program
        if self.busy:
            raise RuntimeError("this model is already running, in another thread or a callback")
        self.free_watches()
        self.watchers = tuple(watchers)
        if not self.watchers:
            return
        self.state.watches = <Watch*>PyMem_Calloc(len(self.watchers), sizeof(Watch))
        if self.state.watches == NULL:
            raise MemoryError
        for k, (program, every, parts, record, moved, log, entered) in enumerate(self.watchers):
            w = self.state.watches + k
            copies = <Segment*>PyMem_Calloc(max(len(parts), 1), sizeof(Segment))
            if copies == NULL:
                raise MemoryError
            for i, (live, copy, size) in enumerate(parts):
                copies[i].live = <char*><uintptr_t>live
                copies[i].copy = <char*><uintptr_t>copy
                copies[i].size = size
            w.state = &program.state
            w.every = every
            w.copies = copies
            w.copy_count = len(parts)
            w.record = <const double*><uintptr_t>record.ctypes.data
            w.width = len(record)
            w.moved = moved[0]
            w.stop = moved[1]
            w.log = <double*><uintptr_t>log.ctypes.data
            w.room = len(log)
            w.entered = <Py_ssize_t*><uintptr_t>entered.ctypes.data
            self.state.watch_count = k + 1

    @property
    def logs_full(self):
        """True if a log must be taken before the next run."""
        return logs_full(&self.state)

    def seek(self, Py_ssize_t epoch, Py_ssize_t batch, Py_ssize_t step, Py_ssize_t tick):
        """Go to a batch; `step` counts the updates made so far, `tick` the batches."""
        self.state.epoch = epoch
        self.state.batch = batch
        self.state.step = step
        self.state.tick = tick

    def position(self):
        """(epoch, batch, step, tick) of the next batch."""
        return self.state.epoch, self.state.batch, self.state.step, self.state.tick

    @property
    def saved_position(self):
        """(epoch, step, tick) to which the saved copies belong."""
        cdef State* s = &self.state
        return s.saved_epoch, s.saved_step, s.saved_tick

    @property
    def sums(self):
        """Four sums of the epoch so far, or that has ended: see `loss.pxd`."""
        cdef State* s = &self.state
        return s.loss_sum, s.correct_sum, s.weight_sum, s.rows_sum

    def rows_of(self, Py_ssize_t batch, Py_ssize_t part=-1):
        """Rows of a batch, or of a part of it; batch -1 is the last."""
        cdef Py_ssize_t rows, parts
        if batch < 0:
            batch += batch_count(&self.state)
        rows = batch_stop(&self.state, batch) - batch * self.state.batch_size
        if part < 0:
            return rows
        parts = part_count(&self.state, batch)
        return share(rows, parts, part + 1) - share(rows, parts, part)

    def parts_of(self, Py_ssize_t batch):
        """Parts that a batch is gone through in; -1 is the last."""
        return part_count(&self.state, batch_count(&self.state) - 1 if batch < 0 else batch)

    # For a training of several ranks: what they have summed up, and what they agree on.

    def set_rank_row(self, Py_ssize_t row):
        """Tell which row of the batch of all ranks the first row of a batch here is."""
        self.state.rank_row = row

    @property
    def ends_epoch(self):
        """True if the batch that PYTHON operations work on is the last of the epoch."""
        return self.state.ends and self.state.batch + 1 == batch_count(&self.state)

    def take_sums(self, double loss, double right, double weight, double rows):
        """Take the sums of all ranks over the rows of an update; its gradient is a sum, too."""
        cdef State* s = &self.state
        cdef int i
        s.loss_sum += loss
        s.correct_sum += right
        s.weight_sum += weight
        s.rows_sum += rows
        s.last_loss = loss / weight if weight > 0.0 else 0.0
        for i in range(s.groups):
            self.frame.update[i].scale = 1.0 / weight if weight > 0.0 else 0.0

    def end_with_update(self):
        """End the run when the update that is under way is made."""
        self.state.last_step = self.state.step + 1

    def enter_epoch(self, sums):
        """Go on within an epoch that was begun elsewhere.

        `sums` are those of the epoch so far.
        """
        cdef State* s = &self.state
        cdef Team alone
        alone.rank = 0
        alone.size = 1
        save(s, &alone)
        if s.order != NULL:
            shuffle(s.order, s.rows, s.seed, s.epoch)
        s.loss_sum, s.correct_sum, s.weight_sum, s.rows_sum = sums
        s.finite = True

    def run(self, Py_ssize_t epochs, double seconds, state=None, progress=None,
            Py_ssize_t updates=0):
        """Run batches for up to `epochs` (at most 65536) more epochs or about `seconds`.

        The updates and batches made so far are noted in ``state.step`` and ``state.tick``, the
        place in the epoch in ``progress.epoch``, ``batch`` and ``sums``, results of epochs that
        ended well in ``progress.ended``: here, where no interrupt can come between the steps and
        the note.

        Parameters
        ----------
        updates : int
            The most updates to make; 0: no limit.

        Returns
        -------
        status : {"time", "done", "loss", "parameters", "gradient"}
            What ended the run; the last three name what was not finite.
        losses, shares : list of float
            Mean loss and share of right rows of each epoch that ended.
        """
        cdef State* s = &self.state
        cdef Py_ssize_t i
        if self.busy:
            raise RuntimeError("this model is already running, in another thread or a callback")
        for i in range(s.watch_count):
            s.watches[i].waits = False  # of a step that was never made
        if logs_full(s):
            raise RuntimeError("a log of looks is full")
        epochs = min(epochs, 65536)
        s.epoch_loss = <double*>PyMem_Calloc(2 * max(epochs, 1), sizeof(double))
        if s.epoch_loss == NULL:
            raise MemoryError
        s.epoch_correct = s.epoch_loss + max(epochs, 1)
        s.begun = s.epoch
        s.last_epoch = s.epoch + epochs
        s.last_step = s.step + updates if updates else PY_SSIZE_T_MAX
        s.deadline = now() + seconds
        s.status = RUNNING
        self.busy = True
        try:
            if self.calls:
                self.mark_update()
                try:
                    self.run_with_python()
                except BaseException:  # an interrupt, too
                    self.take_back()
                    raise
            while s.status == RUNNING:  # as long as the pace is being tried
                self.run_compiled()
            status = {TIME_UP: "time", DONE: "done", LOSS_NOT_FINITE: "loss",
                      PARAMETERS_NOT_FINITE: "parameters", GRADIENT_NOT_FINITE: "gradient",
                      }[s.status]
            ended = s.epoch - s.begun
            return (status, [s.epoch_loss[i] for i in range(ended)],
                    [s.epoch_correct[i] for i in range(ended)])
        finally:
            self.busy = False
            if state is not None:
                state.step = s.step
                state.tick = s.tick
            if progress is not None:
                self.note(progress)
            PyMem_Free(s.epoch_loss)
            s.epoch_loss = s.epoch_correct = NULL

    cdef note(self, progress):
        """Tell where the run is."""
        cdef State* s = &self.state
        cdef Py_ssize_t batch = s.batch, i
        if batch == 0 and not s.ends and s.status == DONE:
            batch = batch_count(s)
        progress.batch = 0 if batch == 0 and s.epoch > s.begun else progress.first_batch + batch
        progress.epoch = s.epoch
        progress.sums = s.loss_sum, s.correct_sum, s.weight_sum, s.rows_sum
        for i in range(s.epoch - s.begun - (s.status == PARAMETERS_NOT_FINITE)):
            progress.ended.append((s.epoch_loss[i], s.epoch_correct[i]))

    cdef run_compiled(self):
        """Batches in compiled code, with as many threads as are fastest."""
        cdef State* s = &self.state
        cdef Py_ssize_t tick = s.tick, trial = 0
        cdef int size = self.team_size()
        cdef double start = now()
        if self.pace is not None:
            size = self.pace.size(size)
            trial = self.pace.steps()
        s.last_tick = s.tick + trial if trial else PY_SSIZE_T_MAX
        s.from_batch = s.batch
        s.from_step = s.step
        s.from_tick = s.tick
        with nogil:
            run(train, s, size)
        if self.pace is not None:
            self.pace.note(s.tick - tick, now() - start)

    cdef run_with_python(self):
        """As `train`, with the loop over batches in Python."""
        cdef State* s = &self.state
        cdef Team alone
        alone.rank = 0
        alone.size = 1
        while s.status == RUNNING:
            if s.batch == 0 and s.opens:
                begin_epoch(s, &alone)
            set_frame(s, &self.frame, s.batch, s.step, s.tick, &alone)
            if self.frame.fresh:
                self.mark_update()
            self.let_look()
            status = self.execute_frame(0, s.update_from)
            while not status and self.frame.part + 1 < self.frame.parts:
                set_part(s, &self.frame, self.frame.part + 1, &alone)
                status = self.execute_frame(0, s.update_from)
            if not status and self.frame.closes:
                status = self.execute_frame(s.update_from, s.count)
            if status:
                s.status = status
                return
            self.let_look_at_update()
            s.tick += 1
            s.step += self.frame.closes
            s.batch = 0 if s.batch + 1 == batch_count(s) else s.batch + 1
            if s.batch == 0 and s.ends:
                check_parameters(s, &alone)
                end_epoch(s)
            elif s.batch == 0:
                s.status = DONE
            if s.status == RUNNING and self.frame.closes and (
                    limits_reached(s, s.step) or now() > s.deadline):
                s.status = TIME_UP

    cdef mark_update(self):
        """Note where an update begins."""
        self.mark = self.state
        for live, copy, size in self.moving:
            memcpy(<void*><uintptr_t>copy, <void*><uintptr_t>live, size)

    cdef take_back(self):
        """Go back to where the update began that is under way; nothing else has changed so far."""
        cdef State* s = &self.state
        s.batch = self.mark.batch
        s.tick = self.mark.tick
        s.loss_sum = self.mark.loss_sum
        s.correct_sum = self.mark.correct_sum
        s.weight_sum = self.mark.weight_sum
        s.rows_sum = self.mark.rows_sum
        for live, copy, size in self.moving:
            memcpy(<void*><uintptr_t>live, <void*><uintptr_t>copy, size)

    cdef let_look(self):
        """As `look`, of all that watch."""
        cdef Watch* w
        cdef Program program
        cdef Team alone
        cdef Py_ssize_t k
        alone.rank = 0
        alone.size = 1
        for k in range(self.state.watch_count):
            w, program = self.state.watches + k, self.watchers[k][0]
            if is_due(w, &self.frame):
                copy_watched(w, &alone)
                w.waits = not program.visit(self.frame.batch, self.frame.step, self.frame.tick)
                if not w.waits:
                    program.execute_frame(w.state.update_from, w.state.count)
                    enter_look(w, &self.frame, False)

    cdef let_look_at_update(self):
        """As `look_at_update`, of all that watch."""
        cdef Watch* w
        cdef Program program
        cdef Py_ssize_t k
        for k in range(self.state.watch_count):
            w, program = self.state.watches + k, self.watchers[k][0]
            if w.waits:
                program.execute_frame(w.state.update_from, w.state.count)
                enter_look(w, &self.frame, True)
                w.waits = False

    def execute(self, Py_ssize_t low, Py_ssize_t high, Py_ssize_t rows, Py_ssize_t step=0):
        """Execute operations low to high - 1 once, on a batch of `rows` rows."""
        cdef Team alone
        alone.rank = 0
        alone.size = 1
        set_rows(&self.frame, 0, rows, &alone)
        self.frame.update_start = 0
        self.frame.update_stop = rows
        self.frame.fresh = self.frame.closes = True
        self.frame.part = self.frame.row = 0
        self.frame.step = self.frame.tick = step
        set_rates(&self.state, &self.frame)
        return self.execute_frame(low, high)

    def visit(self, Py_ssize_t batch, Py_ssize_t step, Py_ssize_t tick, Py_ssize_t part=-1,
              Py_ssize_t low=0, Py_ssize_t high=-1):
        """Execute operations low to high - 1 once, on a batch of the data; -1: the last.

        By default all those before `update_from`, on all parts of the batch one after the other.
        Rows are in the order that stands there; nothing is saved, shuffled or counted. Returns 0,
        or the status with which an operation ended it.
        """
        cdef Team alone
        alone.rank = 0
        alone.size = 1
        if batch < 0:
            batch += batch_count(&self.state)
        set_frame(&self.state, &self.frame, batch, step, tick, &alone)
        parts = range(self.frame.parts) if part < 0 else (part,)
        for part in parts:
            set_part(&self.state, &self.frame, part, &alone)
            status = self.execute_frame(low, self.state.update_from if high < 0 else high)
            if status:
                return status
        return 0

    cdef int execute_frame(self, Py_ssize_t low, Py_ssize_t high) except -1:
        """Execute operations low to high - 1 on the batch of the frame."""
        cdef Call call
        cdef Py_ssize_t i = low
        cdef int size = self.team_size()
        call.state = &self.state
        call.frame = &self.frame
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
                if self.calls[self.state.ops[i].n[0]](self.frame.rows) is False:
                    call.status = LOSS_NOT_FINITE
                i += 1
        return call.status

    def prepare_quick(self, array, dtype, Py_ssize_t features, Py_ssize_t outputs,
                      Py_ssize_t rows):
        """Get ready for `quick`, with up to `rows` rows, until the next `set_data`.

        `array` is ``numpy.ndarray``: what derives from it may hold more than numbers, a mask say.
        """
        self.array = array
        self.dtype = dtype
        self.features = features
        self.outputs = outputs
        self.quick_rows = rows

    def quick(self, x):
        """The output for a few rows; None if x is no finite matrix of the right type and shape.

        The GIL is held all the while: this takes less time than to give it back.
        """
        cdef State* s = &self.state
        cdef Py_buffer given, made
        cdef Frame f
        cdef Team alone
        cdef bint suits
        if self.busy or type(x) is not self.array:
            return None
        try:
            PyObject_GetBuffer(x, &given, PyBUF_STRIDES | PyBUF_FORMAT)
        except (BufferError, ValueError):  # dates, for one, are in no buffer
            return None
        try:
            suits = (given.ndim == 2 and given.format[0] == (c"d" if s.wide else c"f")
                     and given.format[1] == 0 and given.shape[1] == self.features
                     and 0 < given.shape[0] and given.shape[0] <= self.quick_rows
                     and given.strides[1] == given.itemsize
                     and all_finite(&given, s.wide))
            if not suits:
                return None
            y = self.array((given.shape[0], self.outputs), self.dtype)
            PyObject_GetBuffer(y, &made, PyBUF_STRIDES | PyBUF_WRITABLE)
            s.x[0] = Source(<const char*>given.buf, given.strides[0], given.strides[1], 0,
                            self.features, False)
            s.sources = 1
            s.chosen = s.order = NULL
            s.rows = given.shape[0]
            s.out = <char*>made.buf
            s.out_row = made.strides[0]
            alone.rank = 0
            alone.size = 1
            set_rows(&f, 0, given.shape[0], &alone)
            f.tick = f.row = 0
            execute_range(s, 0, s.count, &f, &alone)
            s.x[0].at = NULL
            s.out = NULL
            PyBuffer_Release(&made)
            return y
        finally:
            PyBuffer_Release(&given)

    @property
    def fresh(self):
        """True if the batch that PYTHON operations work on is the first of its update."""
        return self.frame.fresh

    @property
    def part(self):
        """The batch's share of the weight of the rows that make its update."""
        return part_of_update(&self.state, &self.frame)

    @property
    def last_loss(self):
        """Loss of the last batch."""
        return self.state.last_loss

    @property
    def last_norm(self):
        """Norm of the last update's gradient before it was clipped; 0 if it is not asked for."""
        return self.state.last_norm
