"""Exponential, logarithm, tanh, sigmoid and the normal distribution over a vector.

All are within 4 ULP in float32 (`tests/kernels/test_activation.py` tries the whole range), pass NaN
on and are right at infinity. e^x is 2^n e^r with |r| <= ln(2)/2 and a Taylor polynomial for e^r:
at that radius the term after the last is below half an ULP, so no fitted table is needed.
"""

from minidl.kernels.simd cimport (
    f32v, fma, if_gt, splat, vabs, vcopysign, vec, vmax, vmin, vpower, vscale, vsplit,
)


cdef inline vec magic_of(vec like) noexcept nogil:
    """1.5 * 2**mantissa bits: adding it rounds to an integer that stands in the lowest bits."""
    if vec is f32v:
        return splat(like, 12582912.0)
    else:
        return splat(like, 6755399441055744.0)


cdef inline vec reduce_exp(vec x, vec* n) noexcept nogil:
    """r = x - n ln 2, with n (as magic + n) the integer nearest to x / ln 2."""
    cdef vec magic = magic_of(x), k
    n[0] = fma(x, splat(x, 1.4426950408889634), magic)
    k = n[0] - magic
    if vec is f32v:  # ln 2 in two parts, the first short enough for k * part to be exact
        x = fma(k, splat(x, -0.693359375), x)
        return fma(k, splat(x, 2.12194440e-4), x)
    else:
        x = fma(k, splat(x, -6.93147180369123816490e-01), x)
        return fma(k, splat(x, -1.90821492927058770002e-10), x)


cdef inline vec taylor_expm1(vec r) noexcept nogil:
    """e^r - 1 for |r| <= ln(2)/2: r + r^2 (1/2 + r (1/6 + ...))."""
    cdef vec p
    if vec is f32v:
        p = splat(r, 1.0 / 5040.0)
    else:
        p = splat(r, 1.0 / 6227020800.0)
        p = fma(p, r, splat(r, 1.0 / 479001600.0))
        p = fma(p, r, splat(r, 1.0 / 39916800.0))
        p = fma(p, r, splat(r, 1.0 / 3628800.0))
        p = fma(p, r, splat(r, 1.0 / 362880.0))
        p = fma(p, r, splat(r, 1.0 / 40320.0))
        p = fma(p, r, splat(r, 1.0 / 5040.0))
    p = fma(p, r, splat(r, 1.0 / 720.0))
    p = fma(p, r, splat(r, 1.0 / 120.0))
    p = fma(p, r, splat(r, 1.0 / 24.0))
    p = fma(p, r, splat(r, 1.0 / 6.0))
    p = fma(p, r, splat(r, 0.5))
    return fma(p, r * r, r)


cdef inline vec clamp(vec x, double low, double high) noexcept nogil:
    """x held within [low, high]; NaN stays NaN."""
    return vmin(splat(x, high), vmax(splat(x, low), x))


cdef inline vec vexp(vec x) noexcept nogil:
    """e^x; 0 below and infinity above the type's range."""
    cdef vec n, r
    if vec is f32v:
        x = clamp(x, -104.0, 89.0)
    else:
        x = clamp(x, -746.0, 710.0)
    r = reduce_exp(x, &n)
    return vscale(taylor_expm1(r) + splat(x, 1.0), n, magic_of(x))


cdef inline vec vexpm1(vec x) noexcept nogil:
    """e^x - 1 for x <= 80, without loss near 0; -1 far below."""
    cdef vec n, p, s
    x = clamp(x, -80.0, 80.0)
    p = taylor_expm1(reduce_exp(x, &n))
    s = vpower(n, magic_of(x))
    return fma(p, s, s - splat(x, 1.0))


cdef inline vec vtanh(vec x) noexcept nogil:
    """tanh |x| = (e^2|x| - 1) / (e^2|x| + 1), with the sign of x."""
    cdef vec e = vabs(x)
    e = vexpm1(e + e)
    return vcopysign(e / (e + splat(x, 2.0)), x)


cdef inline vec vsigmoid(vec x) noexcept nogil:
    """1 / (1 + e^-x), from e^-|x| so that neither side overflows."""
    cdef vec e = vexp(splat(x, 0.0) - vabs(x)), s = splat(x, 1.0) / (splat(x, 1.0) + e)
    return if_gt(splat(x, 0.0), x, e * s, s)


cdef inline vec vlog1p_unit(vec u) noexcept nogil:
    """log(1 + u) for u in [0, 1]: 2 artanh(s), s = u / (2 + u) <= 1/3, by its power series."""
    cdef vec s = u / (u + splat(u, 2.0)), t = s * s, p
    cdef int k
    p = splat(u, 0.0)
    for k in range(8 if vec is f32v else 17, -1, -1):
        p = fma(p, t, splat(u, 2.0 / (2 * k + 1)))
    return s * p


cdef inline vec vlog(vec x) noexcept nogil:
    """log x for normal positive x, NaN for NaN: e ln 2 + log m, with log m = 2 artanh(s),
    s = (m - 1)/(m + 1)."""
    cdef vec e, m = vsplit(x, &e), one = splat(x, 1.0), s = (m - one) / (m + one), t = s * s, p
    cdef int k
    p = splat(x, 0.0)
    for k in range(5 if vec is f32v else 11, 0, -1):
        p = fma(p, t, splat(x, 2.0 / (2 * k + 1)))
    p = fma(p * t, s, s + s)
    return fma(splat(x, 0.0), x, fma(e, splat(x, 0.6931471805599453), p))


cdef inline vec vsoftplus(vec x) noexcept nogil:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    cdef vec zero = splat(x, 0.0)
    return vmax(zero, x) + vlog1p_unit(vexp(zero - vabs(x)))


cdef inline vec vnormal_cdf(vec x, vec* density) noexcept nogil:
    """Phi(x), and e^(-x^2/2) in `density`.

    With z = |x|/sqrt(2), Phi(-|x|) = erfc(z)/2 = e^(-z^2) G(z) / (2 + 4 z), where
    G(z) = (1 + 2z) e^(z^2) erfc(z) varies little over z >= 0 and is a polynomial in
    (z - c)/(z + c) (the form of Shepherd and Laframboise, Math. Comp. 36 (1981) 249; the
    coefficients were interpolated at Chebyshev nodes for this file: relative error 2e-8 in
    float32, 2e-17 in float64).
    """
    cdef vec z = clamp(vabs(x), 0.0, 60.0) * splat(x, 0.7071067811865476), s, p, tail
    cdef vec one = splat(x, 1.0)
    if vec is f32v:
        s = (z - splat(x, 3.0)) / (z + splat(x, 3.0))
        p = splat(x, -1.79611286346115113e-4)
        p = fma(p, s, splat(x, -5.97117856529933071e-4))
        p = fma(p, s, splat(x, 0.00202264621752608341))
        p = fma(p, s, splat(x, 0.00242046040005286142))
        p = fma(p, s, splat(x, -0.0238514350594530483))
        p = fma(p, s, splat(x, 0.0683377569091242267))
        p = fma(p, s, splat(x, -0.119253874346801201))
        p = fma(p, s, splat(x, 0.129641695341085622))
        p = fma(p, s, splat(x, -0.047563981247486139))
        p = fma(p, s, splat(x, -0.135620985842870798))
        p = fma(p, s, splat(x, 1.25300808114278078))
    else:
        s = (z - splat(x, 3.75)) / (z + splat(x, 3.75))
        p = splat(x, -2.41082153654223304e-9)
        p = fma(p, s, splat(x, -8.78212573480352024e-10))
        p = fma(p, s, splat(x, 3.28508355623331591e-8))
        p = fma(p, s, splat(x, 1.59963352155737078e-8))
        p = fma(p, s, splat(x, -2.52614652677155047e-7))
        p = fma(p, s, splat(x, -4.81583962167284902e-8))
        p = fma(p, s, splat(x, 1.74811904683919643e-6))
        p = fma(p, s, splat(x, -9.80166675585857751e-7))
        p = fma(p, s, splat(x, -1.14429909268054383e-5))
        p = fma(p, s, splat(x, 2.23872596382301343e-5))
        p = fma(p, s, splat(x, 5.16489134695998619e-5))
        p = fma(p, s, splat(x, -2.90154965295709261e-4))
        p = fma(p, s, splat(x, 2.9371366631088616e-4))
        p = fma(p, s, splat(x, 0.00175562601715200385))
        p = fma(p, s, splat(x, -0.00974657955343187366))
        p = fma(p, s, splat(x, 0.0283622774004577225))
        p = fma(p, s, splat(x, -0.0586933985903094125))
        p = fma(p, s, splat(x, 0.0923043211615311556))
        p = fma(p, s, splat(x, -0.108803930141712359))
        p = fma(p, s, splat(x, 0.0822767384901120369))
        p = fma(p, s, splat(x, 0.00358541548546377914))
        p = fma(p, s, splat(x, -0.140240598585546681))
        p = fma(p, s, splat(x, 1.23751263083782758))
    density[0] = vexp(splat(x, -0.5) * x * x)
    tail = density[0] * p / fma(splat(x, 4.0), z, splat(x, 2.0))
    return if_gt(x, splat(x, 0.0), one - tail, tail)
