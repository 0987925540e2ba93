from libc.stdint cimport int64_t, uint64_t

from minidl.kernels.optimizer cimport Optimizer, Rate, Step
from minidl.kernels.threads cimport Team

cdef enum Kind:
    # name            pointers p                                   sizes n
    GATHER_X = 0    # x                                            first columns ld in_place
    GATHER_TARGET   # target                                       columns ld
    GATHER_LABEL    # label
    GATHER_WEIGHT   # weight
    SCATTER         # y                                            columns ld
    # of LINEAR: the weight w is Wt if `transposed`, else W; with `in_place` x is columns of the
    # batch from `first` on, which are read where the user has them if the rows are in order there,
    # and then not gathered; with `by_columns` a thread has all rows and a part of the columns, in
    # LINEAR and LINEAR_DW alike
    LINEAR          # y kept x w bias       D K ldx ldy transposed in_place by_columns first
    LINEAR_DX       # dx dy w kept start                           D K ldx ldy transposed
    # (LINEAR_DW: and update, with the groups of weight and bias)
    LINEAR_DW       # dw w m x dy db bias mb  D K ldx ldy transposed in_place by_columns first ...
    BN_BLOCKS       # partial x                                    width ld
    # of BN_MERGE and BN_MERGE_GRAD: `rows` is NULL, or the rows of all ranks that train together,
    # whose sums then stand in the first block of `partial`
    BN_MERGE        # replica mean var partial gamma beta count rows  width ld  a eps, b momentum
    BN_RUNNING      # replica mean var gamma beta                  width ld     a eps
    BN_NORMALIZE    # y x replica                                  width ld
    BN_GRADIENTS    # partial dy y x replica out                   width ld
    BN_MERGE_GRAD   # replica dgamma dbeta partial rows            width ld training
    BN_BACKWARD     # dx dy x replica                              width ld
    ACTIVATION      # y x                                          ld
    ACTIVATION_BACKWARD  # dx dy kept                              ld
    DROPOUT         # y x                                          ld key       a p
    ADD             # y a b                                        ld
    COLUMNS         # to from               columns to_ld to_first from_ld from_first add whole
    ZERO            # x                                            ld
    # of LOSS: dz is the gradient of the mean over the rows of the update, or of their sum if `sum`
    LOSS            # dz z target label partial weight numbers     columns ld kind sum  a, b
    LOSS_TOTAL      # partial sums: NULL, or of the update, which another operation looks at
    NORM            # partial g                                    count first
    CLIP            # partial                                      count        a greatest norm
    UPDATE          # w g m                                        count group
    AVERAGE         # mean w                                       count first  a decay
    BARRIER
    PYTHON          # (none)                                       index
    LAYERNORM       # y kept x gamma beta                          columns ld centered  a eps
    LAYERNORM_BACKWARD   # dx partial dy x kept gamma              columns ld centered
    SOFTMAX         # y x                                          columns ld
    SOFTMAX_BACKWARD     # dx dy y                                 columns ld
    PRELU           # y x w                                        width ld one
    PRELU_BACKWARD  # dx partial dy x w                            width ld one
    BLOCK_SUMS      # y partial                                    length first distance one
    EMBEDDING       # y x table             fields size categories ldx ldy ldt
    EMBEDDING_GRADIENT   # dtable dy x      fields size categories ldx ldy ldt
    LOOK            # sums x largest    columns ld distance largest_ld counts   a low, b high
    MOVE            # sums before after gradient                   count distance blocks
    LOOK_TOTAL      # record sums largest                          count blocks largest_ld

cdef enum:
    POINTERS = 8
    SIZES = 11
    GROUPS = 8      # most groups of parameters
    SOURCES = 8     # most arrays that X consists of

cdef enum Status:
    RUNNING = 0
    TIME_UP
    DONE
    LOSS_NOT_FINITE
    PARAMETERS_NOT_FINITE
    GRADIENT_NOT_FINITE

cdef struct Op:
    int kind
    int activation
    double a, b
    void* p[POINTERS]
    Py_ssize_t n[SIZES]

cdef struct Source:         # an array that gives some columns of X; strides in bytes
    const char* at
    Py_ssize_t row, column
    Py_ssize_t first, columns
    bint in_place           # its rows can be read where they are

cdef struct Segment:        # memory that is copied at the start of an epoch
    char* live
    char* copy
    Py_ssize_t size
    bint real               # elements of the program's type, checked for NaN and infinity

cdef struct State

cdef struct Watch:          # a program that looks at the steps of another, every so many of them
    State* state            # its operations from `update_from` on come when the step is made
    Py_ssize_t every
    const Segment* copies   # what it copies before it looks
    Py_ssize_t copy_count
    const double* record    # what its last operation leaves
    Py_ssize_t width        # of the record; its elements from `moved` to `stop` are of the update
    Py_ssize_t moved, stop
    double* log             # (room, 3 + width): step, rows, loss, record
    Py_ssize_t room
    Py_ssize_t* entered     # rows of the log, which Python takes away
    bint waits              # it has looked, and waits for the step to be made

cdef struct State:
    # The program.
    Op* ops
    Py_ssize_t count
    Py_ssize_t update_from  # operations from here on run once an update, not once a batch
    bint wide               # float64
    void* pack
    Py_ssize_t pack_size    # bytes a thread
    # The data: same type as the program, strides in bytes. Without x, buffers are filled outside.
    Source x[SOURCES]
    int sources
    const char* target
    Py_ssize_t target_row, target_column
    const int64_t* label
    const double* weight    # of the rows, or NULL
    char* out
    Py_ssize_t out_row
    const Py_ssize_t* chosen    # numbers, in the data, of the rows that are gone through, or NULL
    Py_ssize_t* order       # these rows, from 0, in the order of this epoch, or NULL
    Py_ssize_t rows, batch_size
    Py_ssize_t most_rows    # that the buffers hold: a larger batch is gone through in parts
    Py_ssize_t rank_row     # what the first row of a batch is in the batch of all ranks
    int last_batch          # what becomes of a last batch that is smaller: see `LastBatch`
    bint opens, ends        # the data begin an epoch, and end it: a part of them may be given
    # Training.
    Optimizer optimizer
    Rate rate[GROUPS]       # lr: relative to that of the step
    int groups
    double lr               # of all steps; or, from step `rates_first` on, in `rates`
    double beta1
    const double* rates     # (steps, 2): lr and beta1, or NULL
    Py_ssize_t rates_first, rates_count
    Py_ssize_t stride       # vectors from one state of the optimizer to the next
    Py_ssize_t accumulate   # batches that make an update
    uint64_t seed
    Segment* segments
    Py_ssize_t segment_count
    Watch* watches
    Py_ssize_t watch_count
    # Where the run is, and until when it runs: a step is an update, a tick a batch.
    Py_ssize_t epoch, batch, step, tick, last_epoch
    Py_ssize_t from_batch, from_step, from_tick     # the place at which the threads began
    Py_ssize_t begun        # the epoch at which the run began
    Py_ssize_t saved_epoch, saved_step, saved_tick     # when the copies were made
    double deadline
    Py_ssize_t last_step    # the run ends when this many updates have been made
    Py_ssize_t last_tick    # or when this tick is reached
    int status
    bint finite             # what was checked of the parameters so far
    # Sums over the epoch so far, and the results of finished epochs since the run began.
    double loss_sum, correct_sum, weight_sum, rows_sum
    double* epoch_loss
    double* epoch_correct
    double batch_loss, batch_weight     # of the parts of the batch so far
    double last_loss, last_norm
    double product          # of NAdam at step `product_step`; 0: not begun (see `next_product`)
    Py_ssize_t product_step

cdef enum LastBatch:
    KEEP = 0
    MERGE           # one row alone joins the batch before it
    DROP            # a smaller batch is left out

cdef struct Frame:
    # A thread's view of the batch that it is working on, or of a part of it.
    Py_ssize_t batch, parts, part
    Py_ssize_t start, rows  # in the data
    Py_ssize_t row          # the first row in the batch
    Py_ssize_t first, last  # rows of this thread
    Py_ssize_t update_start, update_stop    # rows of all batches that make the update
    bint fresh              # the first part of the first batch of an update
    bint closes             # the last batch of an update
    Py_ssize_t step, tick
    Step update[GROUPS]
    double product          # see `State`
    Py_ssize_t product_step


cdef double part_of_update(const State* s, const Frame* f) noexcept nogil
cdef int execute_range(State* s, Py_ssize_t low, Py_ssize_t high, Frame* f, Team* team
                       ) noexcept nogil
