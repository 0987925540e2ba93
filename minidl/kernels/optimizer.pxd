"""The update of one vector of parameters: inlined into the weight-gradient product and the plain
optimizer loop, so that both give the same bits.

PyTorch's formulas (torch.optim.SGD, Adam, AdamW). With g the gradient and lr the learning rate:

    SGD     g += wd w;  m = mu m + g (m = g at the first step);  w -= lr (nesterov ? g + mu m : m)
    Adam    g += wd w;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;
            w -= lr / (1 - b1^t)  m / (sqrt(v) / sqrt(1 - b2^t) + eps)
    AdamW   w -= lr wd w, then Adam without wd
"""

from libc.math cimport pow, sqrt

from minidl.kernels.simd cimport fast_divide, fast_sqrt, fma, splat, vec, vmax, vmin

cdef enum OptimizerKind:
    SGD = 0
    ADAM
    ADAMW

cdef enum:
    STATES = 3              # most states of a weight
    NUMBERS = 9             # vectors that `spread` fills

cdef struct Optimizer:
    # What stays the same from step to step.
    int kind
    bint nesterov
    double beta2, eps
    double clip             # bound of each element of the gradient; 0: none

cdef struct Rate:
    # What a schedule or a parameter group may change.
    double lr, weight_decay
    double beta1            # momentum of SGD

cdef struct Step:
    # What the formulas need at step t, computed once a step in double precision.
    int kind
    bint nesterov
    double decay, beta1, beta2, eps
    double scale        # of the gradient: less than 1 where its norm is clipped
    double clip
    double first        # momentum: coefficient of the old m
    double rate         # lr, over the bias correction of m
    double root         # 1 / sqrt(bias correction of v)


cdef inline Step step_of(const Optimizer* o, const Rate* r, Py_ssize_t t, double scale
                         ) noexcept nogil:
    """The numbers of step t (the first is 1)."""
    cdef Step s
    s.kind = o.kind
    s.nesterov = o.nesterov
    s.beta1 = r.beta1
    s.beta2 = o.beta2
    s.eps = o.eps
    s.scale = scale
    s.clip = o.clip
    if o.kind == SGD:
        s.decay = r.weight_decay
        s.first = r.beta1 if t > 1 else 0.0
        s.rate = r.lr
        s.root = 1.0
    else:
        s.decay = r.weight_decay if o.kind == ADAM else 1.0 - r.lr * r.weight_decay
        s.first = 0.0
        s.rate = r.lr / (1.0 - pow(r.beta1, t))
        s.root = 1.0 / sqrt(1.0 - pow(o.beta2, t))
    return s


cdef inline void spread(const Step* s, vec* k) noexcept nogil:
    """The numbers of a step as vectors, in the order in which `updated` reads them."""
    k[0] = splat(k[0], s.decay)
    k[1] = splat(k[0], s.beta1 if s.kind == SGD else 1.0 - s.beta1)
    k[2] = splat(k[0], s.beta2)
    k[3] = splat(k[0], 1.0 - s.beta2)
    k[4] = splat(k[0], s.first if s.kind == SGD else s.root)
    k[5] = splat(k[0], s.eps)
    k[6] = splat(k[0], -s.rate)
    k[7] = splat(k[0], s.scale)
    k[8] = splat(k[0], s.clip)


cdef inline vec updated(const Step* s, const vec* k, vec w, vec g, vec* m, Py_ssize_t stride
                        ) noexcept nogil:
    """The new w; the states at m, m + stride, ... (unused ones are not touched) change in place.

    In float32 root and quotient come from estimates with one Newton step, to 1 and 2 ULP.
    """
    cdef vec d
    cdef vec* v = m + stride
    if s.scale != 1.0:
        g = k[7] * g
    if s.clip > 0.0:
        g = vmax(splat(g, 0.0) - k[8], vmin(k[8], g))  # NaN stays NaN
    if s.kind == SGD:
        g = fma(k[0], w, g)
        if s.beta1 != 0.0:
            m[0] = fma(k[4], m[0], g)
            g = fma(k[1], m[0], g) if s.nesterov else m[0]
        return fma(k[6], g, w)
    if s.kind == ADAM:
        g = fma(k[0], w, g)
    else:
        w = k[0] * w
    m[0] = fma(k[1], g - m[0], m[0])
    v[0] = fma(k[3] * g, g, k[2] * v[0])
    d = fma(fast_sqrt(v[0]), k[4], k[5])
    return fma(k[6], fast_divide(m[0], d), w)


cdef void update(vec* w, const vec* g, vec* m, Py_ssize_t stride, Py_ssize_t n, const Step* step
                 ) noexcept nogil
