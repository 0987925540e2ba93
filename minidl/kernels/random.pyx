"""Shuffling and dropout. Nothing is kept for backward: the mask is computed again.

Memory traffic of dropout: each element is read and written once, forward and backward.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from minidl.kernels.random cimport philox
from minidl.kernels.simd cimport f32v, vec

cdef enum:
    SHUFFLE_STREAM = 0x73687566  # keeps the shuffle's counters apart from dropout's

cdef extern from * nogil:
    """
    /* The high word of a 64 x 64 bit product: a random word scaled to [0, n). */
    static inline uint64_t minidl_mulhi(uint64_t a, uint64_t b) {
      return (uint64_t)(((unsigned __int128)a * b) >> 64); }
    """
    uint64_t mulhi "minidl_mulhi"(uint64_t a, uint64_t b)


cdef void shuffle(
    Py_ssize_t* order,  # OUT (n,): a permutation of 0..n-1
    Py_ssize_t n, uint64_t seed, uint64_t epoch,
) noexcept nogil:
    """Fisher and Yates' shuffle, the same for every level and number of threads."""
    cdef uint32_t word[4]
    cdef Py_ssize_t i, j
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        if (n - 1 - i) % 2 == 0:
            philox(<uint32_t>i, <uint32_t>(<uint64_t>i >> 32), <uint32_t>epoch, SHUFFLE_STREAM,
                   seed, word)
        else:
            word[0] = word[2]
            word[1] = word[3]
        j = mulhi((<uint64_t>word[0] << 32) | word[1], i + 1)
        order[i], order[j] = order[j], order[i]


cdef void dropout(
    vec* y,             # OUT (rows, ld); may be x
    const vec* x,       # IN (rows, ld): activations, or gradients in backward
    Py_ssize_t first, Py_ssize_t last,  # rows
    Py_ssize_t ld,      # in vectors
    Py_ssize_t before,  # rows of the batch that come before these
    double p,           # probability that an element is dropped
    uint64_t key,       # seed of the layer
    uint64_t step,      # training step
) noexcept nogil:
    """y = x / (1 - p) where the random word of (row, column) is at least p 2^32, else 0."""
    cdef Py_ssize_t row, i, width
    cdef uint64_t limit = <uint64_t>(p * 4294967296.0)
    cdef uint32_t word[4]
    cdef double scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    cdef float* y32
    cdef const float* x32
    cdef double* y64
    cdef const double* x64
    for row in range(first, last):
        if vec is f32v:
            width = ld * (sizeof(vec) // 4)
            y32 = <float*>y + row * width
            x32 = <const float*>x + row * width
            for i in range(width):
                if i % 4 == 0:
                    philox(<uint32_t>(i // 4), <uint32_t>(before + row), <uint32_t>step,
                           <uint32_t>(step >> 32), key, word)
                y32[i] = x32[i] * <float>scale if word[i % 4] >= limit else 0
        else:
            width = ld * (sizeof(vec) // 8)
            y64 = <double*>y + row * width
            x64 = <const double*>x + row * width
            for i in range(width):
                if i % 4 == 0:
                    philox(<uint32_t>(i // 4), <uint32_t>(before + row), <uint32_t>step,
                           <uint32_t>(step >> 32), key, word)
                y64[i] = x64[i] * scale if word[i % 4] >= limit else 0


def shuffle_into(uintptr_t order, Py_ssize_t n, uint64_t seed, uint64_t epoch):
    """The order in which `fit` visits n rows in an epoch, into the intp array at `order`."""
    with nogil:
        shuffle(<Py_ssize_t*>order, n, seed, epoch)


def permutation(n, seed, epoch):
    """The same order as a list (for tests)."""
    from array import array
    out = array("q", bytes(8 * n))
    shuffle_into(out.buffer_info()[0], n, seed, epoch)
    return out.tolist()
