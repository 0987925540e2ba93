"""Threads: how many, how they start, how they wait. The only owner of OpenMP decisions.

The limit is the least of what the user set, what OpenMP allows this thread (`OMP_NUM_THREADS`,
threadpoolctl), the CPUs this process may run on, and the container's CPU quota rounded down. A
child of `fork` runs on one thread: the pool of its parent is not in the child, and waiting for it
would hang. Other libraries may have started it (PyTorch may use the same OpenMP), so that we cannot
know whether there was one; a child whose parent used none of ours gets more if it asks for them.

Inside a parallel region threads meet at `wait`, a barrier of our own: it spins for a short while,
since the other threads are mostly a microsecond away, then sleeps until the last one comes. On a
busy machine a sleeper costs nobody anything, and is soon given a core when it is woken; a thread
that yielded would be last in the queue.
"""

from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY

cdef extern from * nogil:
    """
    #include <sched.h>
    #include <unistd.h>
    #ifdef _OPENMP
      #include <omp.h>
    #else
      static inline int omp_get_max_threads(void) { return 1; }
      static inline int omp_get_num_threads(void) { return 1; }
      static inline void omp_set_num_threads(int n) { (void)n; }
    #endif
    #if defined(__x86_64__)
      #define MINIDL_PAUSE() __builtin_ia32_pause()
    #elif defined(__aarch64__)
      #define MINIDL_PAUSE() __asm__ volatile("yield")
    #else
      #define MINIDL_PAUSE() ((void)0)
    #endif
    /* Sleep while *word is `value`; wake all who do. */
    #ifdef __linux__
      #include <linux/futex.h>
      #include <sys/syscall.h>
      static inline void minidl_sleep(int *word, int value) {
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
      static inline void minidl_wake(int *word) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0); }
    #else
      static inline void minidl_sleep(int *word, int value) { (void)word; (void)value;
        sched_yield(); }
      static inline void minidl_wake(int *word) { (void)word; }
    #endif
    /* ThreadSanitizer does not see how OpenMP starts and ends a region: it is told. */
    #if defined(__SANITIZE_THREAD__)
      #define MINIDL_TSAN 1
    #elif defined(__has_feature)
      #if __has_feature(thread_sanitizer)
        #define MINIDL_TSAN 1
      #endif
    #endif
    #ifdef MINIDL_TSAN
      extern void __tsan_acquire(void *);
      extern void __tsan_release(void *);
    #else
      #define __tsan_acquire(address) ((void)(address))
      #define __tsan_release(address) ((void)(address))
    #endif
    static _Thread_local int minidl_room = 0;  /* see `limit_own` */
    static inline int minidl_get(int *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    static inline void minidl_set(int *word, int value) {
      __atomic_store_n(word, value, __ATOMIC_RELAXED); }
    #define MINIDL_SPINS 1000  /* looks before sleeping: some 20 microseconds */
    static void minidl_wait(minidl_barrier *b, int size) {
      int round = __atomic_load_n(&b->round, __ATOMIC_RELAXED);
      if (__atomic_add_fetch(&b->waiting, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&b->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->round, round + 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&b->sleeping, __ATOMIC_SEQ_CST)) minidl_wake(&b->round);
        return;
      }
      for (int spins = 0; spins < MINIDL_SPINS; spins++) {
        if (__atomic_load_n(&b->round, __ATOMIC_ACQUIRE) != round) return;
        MINIDL_PAUSE();
      }
      __atomic_add_fetch(&b->sleeping, 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&b->round, __ATOMIC_SEQ_CST) == round) minidl_sleep(&b->round, round);
      __atomic_sub_fetch(&b->sleeping, 1, __ATOMIC_SEQ_CST);
    }
    """
    int omp_get_max_threads()
    int omp_get_num_threads()
    void omp_set_num_threads(int n)
    int get "minidl_get"(int* word)
    void set "minidl_set"(int* word, int value)
    void minidl_wait(Barrier* barrier, int size)
    void see "__tsan_acquire"(void* what)  # what was done before `pass_on` of the same
    void pass_on "__tsan_release"(void* what)
    int getpid()
    int own_room "minidl_room"

cdef enum:
    ROUNDS = 5
    HOLDS = 2

# Threads of Python read and write these at the same time, without the GIL too.
cdef int requested = 0     # by set_num_threads; 0: not set
cdef int available = 1     # CPUs by affinity and quota; set by limit_available at import
cdef int initial = omp_get_max_threads()  # OpenMP's limit before anybody asked
cdef int pool_owner = 0    # process that has started threads, 0 for none
cdef int home = getpid()   # process that has imported this; others are children of forks
cdef int asked = 0         # process that has asked for a number, 0 for none


cdef bint must_be_serial() noexcept nogil:
    """True in a child of a fork, unless it has asked for threads and the parent used none."""
    cdef int pid = getpid(), owner = get(&pool_owner)
    return pid != home and (get(&asked) != pid or (owner != 0 and owner != pid))


cdef int thread_limit() noexcept nogil:
    """Threads that a program started now may use."""
    cdef int n = omp_get_max_threads(), wanted = get(&requested)
    if must_be_serial():
        return 1
    return min(n, wanted if wanted > 0 else get(&available))


cdef void wait(Team* team) noexcept nogil:
    """Wait for the other threads of the team."""
    if team.size > 1:
        minidl_wait(team.barrier, team.size)


cdef void run(Work work, void* context, int size) noexcept nogil:
    """Run work(context, team) on `size` threads and wait for them."""
    cdef Barrier barrier
    cdef Team alone
    barrier.waiting = barrier.sleeping = 0
    barrier.round = 0
    if size == 1:
        alone.rank = 0
        alone.size = 1
        alone.barrier = &barrier
        work(context, &alone)
        return
    set(&pool_owner, getpid())
    pass_on(&barrier)
    with parallel(num_threads=size):
        member(work, context, threadid(), &barrier)
    see(&barrier)


cdef void member(Work work, void* context, int rank, Barrier* barrier) noexcept nogil:
    cdef Team team
    team.rank = rank
    team.size = omp_get_num_threads()  # may be fewer than asked for
    team.barrier = barrier
    see(barrier)
    work(context, &team)
    pass_on(barrier)


cdef class Pace:
    """The number of threads with which a program's steps take least time, found by timing them.

    What a thread more costs (barriers, and cache lines that two cores write in turns) depends on
    the machine and on who else uses it; and results are the same for every number. So 1, 2, 4, ...
    threads up to the limit take turns on the program's own first steps, each for some 50
    microseconds, `ROUNDS` times, and the best time of each is compared. More threads must be 3%
    faster to be chosen. After `HOLDS` seconds the question is asked again.
    """

    cdef int size(self, int limit):
        """Threads for the next steps."""
        if self.count == 0 or self.sizes[self.count - 1] != limit or (
                self.settled and now() - self.since > HOLDS):
            self.count = 0
            while limit > 1 << self.count and self.count < 15:
                self.sizes[self.count] = 1 << self.count
                self.best[self.count] = INFINITY
                self.count += 1
            self.sizes[self.count] = limit
            self.best[self.count] = INFINITY
            self.count += 1
            self.candidate = self.round = self.settled = 0
            self.warm = False
            self.trial = 1
        return self.settled if self.settled else self.sizes[self.candidate]

    cdef Py_ssize_t steps(self):
        """Steps to time; 0 when the choice is made."""
        return 0 if self.settled or self.count == 1 else self.trial

    cdef void note(self, Py_ssize_t steps, double seconds):
        """Take the time of so many steps."""
        cdef int i, winner = 0
        if self.steps() == 0 or steps == 0:
            return
        if not self.warm:  # the first steps of a turn find the data with other cores
            self.warm = True
            self.trial = min(max(<Py_ssize_t>(50e-6 * steps / seconds), 1), 64)
            return
        self.best[self.candidate] = min(self.best[self.candidate], seconds / steps)
        self.warm = False
        self.candidate += 1
        if self.candidate == self.count:
            self.candidate = 0
            self.round += 1
        if self.round == ROUNDS:
            for i in range(1, self.count):
                if self.best[i] < 0.97 * self.best[winner]:
                    winner = i
            self.settled = self.sizes[winner]
            self.since = now()


def limit_available(int n):
    """Tell how many CPUs affinity and quota leave."""
    set(&available, n)


def set_requested(int n):
    """Ask for n threads (0: as many as there are); the calling thread's OpenMP limit follows."""
    set(&requested, n)
    set(&asked, getpid() if n > 0 else 0)
    omp_set_num_threads(n if n > 0 else initial)


def limit_own(int n, int room=0):
    """Set OpenMP's limit of the calling thread alone; returns what it had.

    Programs that the thread makes have room for `room` threads, if that is more: for the time when
    the limit is a higher one.
    """
    global own_room
    before = omp_get_max_threads(), own_room
    omp_set_num_threads(n)
    own_room = room
    return before


def get_requested():
    """What `set_requested` was last given."""
    return get(&requested)


def limit():
    """Threads that a program started now may use."""
    return thread_limit()


def room():
    """Threads that a program made now has room for."""
    return max(thread_limit(), own_room)


def is_forked():
    """True in a child that must not start threads."""
    return must_be_serial()
