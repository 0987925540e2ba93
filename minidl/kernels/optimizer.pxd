"""The update of one vector of parameters: inlined into the weight-gradient product and the plain
optimizer loop, so that both give the same bits.

PyTorch's formulas (torch.optim), and Lion's of Chen et al. 2023. With g the gradient, lr the
learning rate, wd the weight decay, b1 and b2 the decays of averages, t the step, c1 = 1 - b1^t and
c2 = 1 - b2^t, "<- b" a step of an average (x <- b y: x = b x + (1 - b) y):

    SGD      g += wd w;  m = mu m + (1 - dampening) g (m = g at the first step);
             w -= lr (nesterov ? g + mu m : m)
    Adam     g += wd w;  m <- b1 g;  v <- b2 g^2;  w -= lr / c1  m / (sqrt(v / c2) + eps)
             amsgrad: the greatest v so far in the root
    AdamW    w -= lr wd w, then Adam without wd
    NAdam    as Adam, but  w -= lr (a g + b m) / (sqrt(v / c2) + eps),  a = (1 - mu_t) / (1 - P_t),
             b = mu_{t+1} / (1 - P_t mu_{t+1}),  mu_t = b1 (1 - 0.96^(t momentum_decay) / 2),
             P_t = mu_1 ... mu_t
    RAdam    as Adam, but  w -= lr r sqrt(c2) / c1  m / (sqrt(v) + eps),  r the square root of
             (p - 4) (p - 2) q / ((q - 4) (q - 2) p),  q = 2 / (1 - b2) - 1,  p = q - 2 t b2^t / c2;
             where p <= 5:  w -= lr / c1  m
    RMSprop  g += wd w;  v <- alpha g^2;  centered: a <- alpha g and v - a^2 for v in the root;
             d = g / (sqrt(v) + eps);  b = mu b + d;  w -= lr b (without momentum: lr d)
    Adagrad  g += wd w;  v += g^2;  w -= lr / (1 + (t - 1) lr_decay)  g / (sqrt(v) + eps)
    Lion     w -= lr wd w;  w -= lr sign(b1 m + (1 - b1) g);  m <- b2 g

RAdam is Adam with other numbers, and Adagrad is RMSprop with 1 for both factors. NAdam and RAdam
decay as Adam or, decoupled, as AdamW does. A schedule may change b1; P_t keeps to the optimizer's
own, so that it depends on t alone.
"""

from libc.math cimport pow, sqrt

from minidl.kernels.simd cimport f32v, fast_divide, fast_sqrt, fma, if_gt, splat, vec, vmax, vmin

cdef enum OptimizerKind:
    SGD = 0
    ADAM
    ADAMW
    NADAM
    RADAM
    RMSPROP
    ADAGRAD
    LION

cdef enum:
    STATES = 3              # most states of a weight
    NUMBERS = 10            # vectors that `spread` fills

cdef struct Optimizer:
    # What stays the same from step to step.
    int kind
    bint variant            # nesterov, amsgrad, decoupled (NAdam, RAdam) or centered
    double beta1            # the optimizer's own; momentum of SGD and RMSprop
    double beta2            # alpha of RMSprop
    double eps
    double extra            # dampening, momentum_decay or lr_decay
    double clip             # bound of each element of the gradient; 0: none

cdef struct Rate:
    # What a schedule or a parameter group may change.
    double lr, weight_decay
    double beta1

cdef struct Step:
    # What the formulas need at step t, computed once a step in double precision.
    int kind            # SGD, ADAM, NADAM, RMSPROP or LION
    bint variant        # nesterov, amsgrad or centered
    bint decoupled      # the weight is decayed, and not the gradient
    double decay
    double beta1, beta2
    double fresh        # of g^2 in v, and of g in Lion's m
    double eps
    double scale        # of the gradient: less than 1 where its norm is clipped
    double clip
    double first        # momentum: coefficient of the old m
    double gain         # momentum: of g; NAdam: rate of g
    double rate         # lr, over the bias correction of m
    double root         # 1 / sqrt(bias correction of v)


cdef inline double nadam_momentum(const Optimizer* o, double beta1, Py_ssize_t t) noexcept nogil:
    """mu_t of NAdam."""
    return beta1 * (1.0 - 0.5 * pow(0.96, t * o.extra))


cdef inline double next_product(const Optimizer* o, Py_ssize_t t, double product) noexcept nogil:
    """NAdam's P_t from P_{t-1}; 0 once 1 - P_t is 1 in double precision, as it then remains."""
    product *= nadam_momentum(o, o.beta1, t)
    return product if product > 1e-17 else 0.0


cdef inline void rectify(Step* s, const Optimizer* o, double lr, Py_ssize_t t) noexcept nogil:
    """RAdam's numbers, as those of Adam."""
    cdef double correction = 1.0 - pow(o.beta2, t)
    cdef double q = 2.0 / (1.0 - o.beta2) - 1.0
    cdef double p = q - 2.0 * t * pow(o.beta2, t) / correction
    s.rate = lr / (1.0 - pow(s.beta1, t))
    if p > 5.0:
        s.rate *= sqrt((p - 4.0) * (p - 2.0) * q / ((q - 4.0) * (q - 2.0) * p) * correction)
        s.root = 1.0
    else:
        s.root = 0.0
        s.eps = 1.0


cdef inline Step step_of(const Optimizer* o, const Rate* r, Py_ssize_t t, double scale,
                         double product) noexcept nogil:
    """The numbers of step t (the first is 1); `product` is NAdam's P_t."""
    cdef Step s
    cdef double mu
    s.kind = o.kind
    s.variant = o.variant
    s.decoupled = o.kind == ADAMW or o.kind == LION
    s.beta1 = r.beta1
    s.beta2 = o.beta2
    s.fresh = 1.0 - o.beta2
    s.eps = o.eps
    s.scale = scale
    s.clip = o.clip
    s.first = 0.0
    s.gain = 1.0
    s.rate = r.lr
    s.root = 1.0
    if o.kind == SGD:
        s.first = r.beta1 if t > 1 else 0.0
        s.gain = 1.0 - o.extra if t > 1 else 1.0
    elif o.kind == ADAM or o.kind == ADAMW:
        s.kind = ADAM
        s.rate = r.lr / (1.0 - pow(r.beta1, t))
        s.root = 1.0 / sqrt(1.0 - pow(o.beta2, t))
    elif o.kind == NADAM:
        mu = nadam_momentum(o, r.beta1, t + 1)
        s.decoupled = o.variant
        s.gain = r.lr * (1.0 - nadam_momentum(o, r.beta1, t)) / (1.0 - product)
        s.rate = r.lr * mu / (1.0 - product * mu)
        s.root = 1.0 / sqrt(1.0 - pow(o.beta2, t))
    elif o.kind == RADAM:
        s.kind = ADAM
        s.variant = False
        s.decoupled = o.variant
        rectify(&s, o, r.lr, t)
    elif o.kind == RMSPROP:
        s.beta1 = r.beta1 if o.beta1 != 0.0 else 0.0  # there is a state for it only then
    elif o.kind == ADAGRAD:
        s.kind = RMSPROP
        s.beta1 = 0.0
        s.beta2 = s.fresh = 1.0
        s.rate = r.lr / (1.0 + (t - 1) * o.extra)
    s.decay = 1.0 - r.lr * r.weight_decay if s.decoupled else r.weight_decay
    return s


cdef inline void spread(const Step* s, vec* k) noexcept nogil:
    """The numbers of a step as vectors, in the order in which `updated` reads them."""
    k[0] = splat(k[0], s.decay)
    k[1] = splat(k[0], s.beta1 if s.kind == SGD or s.kind == RMSPROP else 1.0 - s.beta1)
    k[2] = splat(k[0], s.beta2)
    k[3] = splat(k[0], s.fresh)
    k[4] = splat(k[0], s.first if s.kind == SGD else s.beta1 if s.kind == LION else s.root)
    k[5] = splat(k[0], s.eps)
    k[6] = splat(k[0], -s.rate)
    k[7] = splat(k[0], s.scale)
    k[8] = splat(k[0], s.clip)
    k[9] = splat(k[0], -s.gain if s.kind == NADAM else s.gain)


cdef inline vec updated(const Step* s, const vec* k, vec w, vec g, vec* m, Py_ssize_t stride
                        ) noexcept nogil:
    """The new w; the states at m, m + stride, ... (unused ones are not touched) change in place.

    In float32 root and quotient come from estimates with one Newton step, to 1 and 2 ULP.
    """
    cdef vec e, d
    cdef vec* v = m + stride
    if s.scale != 1.0:
        g = k[7] * g
    if s.clip > 0.0:
        g = vmax(splat(g, 0.0) - k[8], vmin(k[8], g))  # NaN stays NaN
    if s.decoupled:
        w = k[0] * w
    else:
        g = fma(k[0], w, g)
    if s.kind == SGD:
        if s.beta1 != 0.0:
            d = k[9] * g if s.gain != 1.0 else g
            m[0] = fma(k[4], m[0], d)
            g = fma(k[1], m[0], g) if s.variant else m[0]
        return fma(k[6], g, w)
    if s.kind == ADAM or s.kind == NADAM:
        m[0] = fma(k[1], g - m[0], m[0])
        v[0] = d = fma(k[3] * g, g, k[2] * v[0])
        if s.kind == NADAM:
            d = fma(fast_sqrt(d), k[4], k[5])
            return w + fast_divide(fma(k[9], g, k[6] * m[0]), d)
        if s.variant:
            v += stride
            v[0] = d = vmax(v[0], d)
        d = fma(fast_sqrt(d), k[4], k[5])
        return fma(k[6], fast_divide(m[0], d), w)
    if s.kind == LION:
        d = fma(k[4], m[0], k[1] * g)
        m[0] = fma(k[3], g, k[2] * m[0])
        d = if_gt(d, splat(g, 0.0), splat(g, 1.0), if_gt(splat(g, 0.0), d, splat(g, -1.0), d))
        return fma(k[6], d, w)
    m[0] = d = fma(k[3] * g, g, k[2] * m[0])
    if s.variant:
        v[0] = fma(k[3], g - v[0], v[0])
        e = splat(g, 1.8e19 if vec is f32v else 1.3e154)  # from here on its square is infinite
        e = vmax(splat(g, 0.0) - e, vmin(e, v[0]))
        d = fma(splat(g, 0.0) - e, e, d)
        v += stride
    d = fast_divide(g, fast_sqrt(d) + k[5])
    if s.beta1 != 0.0:
        v[0] = d = fma(k[1], v[0], d)
    return fma(k[6], d, w)


cdef void update(vec* w, const vec* g, vec* m, Py_ssize_t stride, Py_ssize_t n, const Step* step
                 ) noexcept nogil
