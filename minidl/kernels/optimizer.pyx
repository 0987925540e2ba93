"""Optimizers over a run of the flat parameter vector; the formulas stand in `optimizer.pxd`.

Memory traffic a weight: read w, g and the states, write w and the states (Adam: 4 reads, 3 writes).
Padding is 0 in w, g and the states, and stays 0.
"""

from minidl.kernels.optimizer cimport (
    ADAGRAD, ADAM, ADAMW, LION, NADAM, NUMBERS, RADAM, RMSPROP, SGD, Step, spread, updated,
)
from minidl.kernels.simd cimport vec

KINDS = {
    "SGD": SGD, "Adam": ADAM, "AdamW": ADAMW, "NAdam": NADAM, "RAdam": RADAM, "RMSprop": RMSPROP,
    "Adagrad": ADAGRAD, "Lion": LION,
}


cdef void update(
    vec* w,             # IN, OUT (n,) in vectors
    const vec* g,       # IN (n,)
    vec* m,             # IN, OUT (n,): the first state; those that it lacks stay untouched
    Py_ssize_t stride,  # vectors from a state to the next
    Py_ssize_t n,
    const Step* step,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vec k[NUMBERS]
    cdef Step own = step[0]     # a copy, which no store into w or m can change
    spread(&own, k)
    for i in range(n):
        w[i] = updated(&own, k, w[i], g[i], m + i, stride)
