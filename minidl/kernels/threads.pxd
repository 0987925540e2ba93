cdef extern from * nogil:
    """
    #ifndef MINIDL_THREADS
    #define MINIDL_THREADS
    typedef struct {
      int waiting __attribute__((aligned(64)));   /* threads that have arrived */
      int round __attribute__((aligned(64)));     /* changes when all have */
      int sleeping;                               /* threads that wait for `round` asleep */
    } minidl_barrier;
    #endif
    """
    ctypedef struct Barrier "minidl_barrier":
        int waiting
        int round
        int sleeping

cdef struct Team:
    int rank          # this thread, from 0
    int size          # threads that run
    Barrier* barrier

ctypedef void (*Work)(void* context, Team* team) noexcept nogil

cdef extern from * nogil:
    """
    #ifndef MINIDL_NOW
    #define MINIDL_NOW
    #include <time.h>
    static inline double minidl_now(void) {
      struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
      return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }
    #endif
    """
    double now "minidl_now"()  # seconds


cdef class Pace:
    cdef int count, candidate, round, settled
    cdef int sizes[16]
    cdef double best[16]
    cdef double since
    cdef bint warm
    cdef Py_ssize_t trial

    cdef int size(self, int limit)
    cdef Py_ssize_t steps(self)
    cdef void note(self, Py_ssize_t steps, double seconds)


cdef int thread_limit() noexcept nogil
cdef void run(Work work, void* context, int size) noexcept nogil
cdef void wait(Team* team) noexcept nogil


# How work is shared. Edges depend on the data alone: rows fall into blocks, a power of two of
# them, and each thread takes a run of whole blocks. Sums over rows are kept per block and merged
# in the order of the blocks, so that results are the same for every number of threads.

cdef inline Py_ssize_t share(Py_ssize_t n, Py_ssize_t parts, Py_ssize_t i) noexcept nogil:
    """Where part i of n things begins; part `parts` begins at n."""
    return n * i // parts


cdef enum:
    MAX_BLOCKS = 64
    MIN_BLOCK_ROWS = 16


cdef inline Py_ssize_t block_count(Py_ssize_t rows) noexcept nogil:
    """Blocks that `rows` rows fall into: at least 16 rows each, at most 64 blocks."""
    cdef Py_ssize_t n = 1
    while n < MAX_BLOCKS and rows >= 2 * n * MIN_BLOCK_ROWS:
        n *= 2
    return n


cdef inline Py_ssize_t first_row(Py_ssize_t rows, Team* team, int rank) noexcept nogil:
    """The first row of thread `rank`."""
    cdef Py_ssize_t blocks = block_count(rows)
    return share(rows, blocks, share(blocks, team.size, rank))
