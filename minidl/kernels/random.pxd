"""Random numbers from counters: the same (seed, stream, step, position) gives the same number
on every thread, at every CPU level.

Philox-4x32 with 7 rounds: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011 (7 rounds pass BigCrush).
"""

from libc.stdint cimport uint32_t, uint64_t

from minidl.kernels.simd cimport vec


cdef inline void philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key,
                        uint32_t* out) noexcept nogil:
    """Four words from a 128-bit counter and a 64-bit key."""
    cdef uint32_t k0 = <uint32_t>key, k1 = <uint32_t>(key >> 32)
    cdef uint64_t a, b
    cdef int _round
    for _round in range(7):
        a = <uint64_t>c0 * 0xD2511F53U
        b = <uint64_t>c2 * 0xCD9E8D57U
        c0 = <uint32_t>(b >> 32) ^ c1 ^ k0
        c2 = <uint32_t>(a >> 32) ^ c3 ^ k1
        c1 = <uint32_t>b
        c3 = <uint32_t>a
        k0 += 0x9E3779B9U
        k1 += 0xBB67AE85U
    out[0] = c0
    out[1] = c1
    out[2] = c2
    out[3] = c3


cdef void shuffle(Py_ssize_t* order, Py_ssize_t n, uint64_t seed, uint64_t epoch) noexcept nogil
cdef void dropout(vec* y, const vec* x, Py_ssize_t first, Py_ssize_t last, Py_ssize_t ld,
                  Py_ssize_t before, double p, uint64_t key, uint64_t step) noexcept nogil
