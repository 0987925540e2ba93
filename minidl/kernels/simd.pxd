"""The vector type of the CPU level being compiled, and what it can do.

Every kernel is written once, over the fused type ``vec``: a register full of float32 or float64.
``f32v`` and ``f64v`` are GNU C vectors, so ``a + b``, ``a * b`` and ``a / b`` work lane by lane and
compile to single instructions; Cython is told that they are a float and a double, which is what
their lanes are. A ``vec*`` may point at any element, aligned to the element only.

Multiply-adds are always written ``fma(a, b, c)``: the compiler contracts nothing by itself, so one
formula gives the same bits wherever it is inlined. Where the level has no such instruction
(x86-64-v2) a product and a sum take its place.

Everything that depends on the CPU level is in this file: the width, the tile and these functions.
"""

cdef extern from * nogil:
    """
    #ifndef MINIDL_SIMD
    #define MINIDL_SIMD
    #include <stdint.h>
    #include <string.h>
    #include <math.h>
    #if defined(__x86_64__)
      #include <immintrin.h>
    #elif defined(__aarch64__)
      #include <arm_neon.h>
    #endif

    /* ---- the level: bytes in a vector; rows of a register tile, which is two vectors wide ---- */
    #if defined(__AVX512F__)
      #define V_BYTES 64
      #define V_ROWS 12
    #elif defined(__AVX2__)
      #define V_BYTES 32
      #define V_ROWS 6
    #else
      #define V_BYTES 16
      #define V_ROWS 6
    #endif

    #define V_INLINE static inline __attribute__((always_inline))
    typedef float   f32v __attribute__((vector_size(V_BYTES), aligned(4), may_alias));
    typedef double  f64v __attribute__((vector_size(V_BYTES), aligned(8), may_alias));
    typedef int32_t i32v __attribute__((vector_size(V_BYTES), aligned(4), may_alias));
    typedef int64_t i64v __attribute__((vector_size(V_BYTES), aligned(8), may_alias));
    #define V_LANES(v) ((int)(sizeof(v) / sizeof((v)[0])))

    /* ---- fma, square root, "a > b ? x : y" (false where a or b is NaN) ---- */
    #if defined(__AVX512F__)
      V_INLINE f32v fma_f32v(f32v a, f32v b, f32v c) {
        return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
      V_INLINE f64v fma_f64v(f64v a, f64v b, f64v c) {
        return (f64v)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
      V_INLINE f32v sqrt_f32v(f32v a) { return (f32v)_mm512_sqrt_ps((__m512)a); }
      V_INLINE f64v sqrt_f64v(f64v a) { return (f64v)_mm512_sqrt_pd((__m512d)a); }
      V_INLINE f32v if_gt_f32v(f32v a, f32v b, f32v x, f32v y) {
        return (f32v)_mm512_mask_blend_ps(
          _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ), (__m512)y, (__m512)x); }
      V_INLINE f64v if_gt_f64v(f64v a, f64v b, f64v x, f64v y) {
        return (f64v)_mm512_mask_blend_pd(
          _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ), (__m512d)y, (__m512d)x); }
    #elif defined(__AVX2__)
      V_INLINE f32v fma_f32v(f32v a, f32v b, f32v c) {
        return (f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
      V_INLINE f64v fma_f64v(f64v a, f64v b, f64v c) {
        return (f64v)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
      V_INLINE f32v sqrt_f32v(f32v a) { return (f32v)_mm256_sqrt_ps((__m256)a); }
      V_INLINE f64v sqrt_f64v(f64v a) { return (f64v)_mm256_sqrt_pd((__m256d)a); }
      V_INLINE f32v if_gt_f32v(f32v a, f32v b, f32v x, f32v y) {
        return (f32v)_mm256_blendv_ps((__m256)y, (__m256)x, (__m256)(a > b)); }
      V_INLINE f64v if_gt_f64v(f64v a, f64v b, f64v x, f64v y) {
        return (f64v)_mm256_blendv_pd((__m256d)y, (__m256d)x, (__m256d)(a > b)); }
    #else
      #if defined(__aarch64__)
        V_INLINE f32v fma_f32v(f32v a, f32v b, f32v c) {
          return (f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
        V_INLINE f64v fma_f64v(f64v a, f64v b, f64v c) {
          return (f64v)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
      #else
        V_INLINE f32v fma_f32v(f32v a, f32v b, f32v c) { return a * b + c; }
        V_INLINE f64v fma_f64v(f64v a, f64v b, f64v c) { return a * b + c; }
      #endif
      #if defined(__SSE4_1__)
        V_INLINE f32v sqrt_f32v(f32v a) { return (f32v)_mm_sqrt_ps((__m128)a); }
        V_INLINE f64v sqrt_f64v(f64v a) { return (f64v)_mm_sqrt_pd((__m128d)a); }
      #else
        V_INLINE f32v sqrt_f32v(f32v a) {
          for (int i = 0; i < V_LANES(a); i++) a[i] = sqrtf(a[i]);
          return a; }
        V_INLINE f64v sqrt_f64v(f64v a) {
          for (int i = 0; i < V_LANES(a); i++) a[i] = sqrt(a[i]);
          return a; }
      #endif
      V_INLINE f32v if_gt_f32v(f32v a, f32v b, f32v x, f32v y) {
        i32v m = (i32v)(a > b); return (f32v)(((i32v)x & m) | ((i32v)y & ~m)); }
      V_INLINE f64v if_gt_f64v(f64v a, f64v b, f64v x, f64v y) {
        i64v m = (i64v)(a > b); return (f64v)(((i64v)x & m) | ((i64v)y & ~m)); }
    #endif

    /* ---- the rest is plain GNU C: T element, V vector, I vector of integers ---- */
    #define V_PORTABLE(T, V, I, MANTISSA, BIAS)                                                 \\
      V_INLINE V splat_##V(double x) { return (T)x - (V){0}; }                                  \\
      V_INLINE V splat_at_##V(const void *p) { return *(const T *)p - (V){0}; }                 \\
      V_INLINE V abs_##V(V a) { return (V)((I)a & ~(I)splat_##V(-0.0)); }                       \\
      V_INLINE V copysign_##V(V a, V s) {                                                       \\
        I sign = (I)splat_##V(-0.0);                                                            \\
        return (V)(((I)a & ~sign) | ((I)s & sign)); }                                           \\
      /* p * 2**n for n given as magic + n; in two steps, so that the result may be subnormal */ \\
      V_INLINE V scale_##V(V p, V n, V magic) {                                                 \\
        I k = (I)n - (I)magic, h = k >> 1;                                                      \\
        return p * (V)((h + BIAS) << MANTISSA) * (V)((k - h + BIAS) << MANTISSA); }             \\
      V_INLINE double sum_##V(V a) {                                                            \\
        for (int w = V_LANES(a) / 2; w; w /= 2)                                                 \\
          for (int i = 0; i < w; i++) a[i] += a[i + w];                                         \\
        return a[0]; }                                                                          \\
      V_INLINE double max_##V(V a) {                                                            \\
        for (int w = V_LANES(a) / 2; w; w /= 2)                                                 \\
          for (int i = 0; i < w; i++) a[i] = a[i + w] > a[i] ? a[i + w] : a[i];                 \\
        return a[0]; }                                                                          \\
      /* the first n lanes of a, the other lanes of b */                                        \\
      V_INLINE V head_##V(V a, Py_ssize_t n, V b) {                                             \\
        I lane = {0};                                                                           \\
        for (int i = 0; i < V_LANES(a); i++) lane[i] = i;                                       \\
        I m = lane < (I){0} + (n < V_LANES(a) ? (int)n : V_LANES(a));                           \\
        return (V)(((I)a & m) | ((I)b & ~m)); }
    V_PORTABLE(float, f32v, i32v, 23, 127)
    V_PORTABLE(double, f64v, i64v, 52, 1023)
    #endif
    """
    ctypedef float f32v
    ctypedef double f64v

    enum:
        VECTOR_BYTES "V_BYTES"  # bytes in one vector
        TILE_ROWS "V_ROWS"      # rows of a register tile

    f32v fma_f32v(f32v a, f32v b, f32v c) noexcept
    f64v fma_f64v(f64v a, f64v b, f64v c) noexcept
    f32v sqrt_f32v(f32v a) noexcept
    f64v sqrt_f64v(f64v a) noexcept
    f32v if_gt_f32v(f32v a, f32v b, f32v x, f32v y) noexcept
    f64v if_gt_f64v(f64v a, f64v b, f64v x, f64v y) noexcept
    f32v splat_f32v(double x) noexcept
    f64v splat_f64v(double x) noexcept
    f32v splat_at_f32v(const void* p) noexcept
    f64v splat_at_f64v(const void* p) noexcept
    f32v abs_f32v(f32v a) noexcept
    f64v abs_f64v(f64v a) noexcept
    f32v copysign_f32v(f32v a, f32v s) noexcept
    f64v copysign_f64v(f64v a, f64v s) noexcept
    f32v scale_f32v(f32v p, f32v n, f32v magic) noexcept
    f64v scale_f64v(f64v p, f64v n, f64v magic) noexcept
    double sum_f32v(f32v a) noexcept
    double sum_f64v(f64v a) noexcept
    double max_f32v(f32v a) noexcept
    double max_f64v(f64v a) noexcept
    f32v head_f32v(f32v a, Py_ssize_t n, f32v b) noexcept
    f64v head_f64v(f64v a, Py_ssize_t n, f64v b) noexcept

cdef extern from "<assert.h>" nogil:
    # Checked in the debug build, where a failure ends the process; nothing elsewhere.
    void require "assert"(bint condition) noexcept

ctypedef fused vec:
    f32v
    f64v


# A literal has no type of its own here: `like` names the vector type that is wanted.
cdef inline vec splat(vec like, double x) noexcept nogil:
    """x in every lane."""
    if vec is f32v:
        return splat_f32v(x)
    else:
        return splat_f64v(x)


cdef inline vec splat_at(vec like, const void* p) noexcept nogil:
    """The element that p points at in every lane."""
    if vec is f32v:
        return splat_at_f32v(p)
    else:
        return splat_at_f64v(p)


cdef inline vec fma(vec a, vec b, vec c) noexcept nogil:
    """a * b + c, rounded once."""
    if vec is f32v:
        return fma_f32v(a, b, c)
    else:
        return fma_f64v(a, b, c)


cdef inline vec vsqrt(vec a) noexcept nogil:
    if vec is f32v:
        return sqrt_f32v(a)
    else:
        return sqrt_f64v(a)


cdef inline vec if_gt(vec a, vec b, vec x, vec y) noexcept nogil:
    """x where a > b, else y (y where a or b is NaN)."""
    if vec is f32v:
        return if_gt_f32v(a, b, x, y)
    else:
        return if_gt_f64v(a, b, x, y)


cdef inline vec vabs(vec a) noexcept nogil:
    if vec is f32v:
        return abs_f32v(a)
    else:
        return abs_f64v(a)


cdef inline vec vcopysign(vec a, vec sign) noexcept nogil:
    if vec is f32v:
        return copysign_f32v(a, sign)
    else:
        return copysign_f64v(a, sign)


cdef inline vec vscale(vec p, vec n, vec magic) noexcept nogil:
    """p * 2**n, for n given as magic + n (see `magic_of`)."""
    if vec is f32v:
        return scale_f32v(p, n, magic)
    else:
        return scale_f64v(p, n, magic)


cdef inline double lane_sum(vec a) noexcept nogil:
    if vec is f32v:
        return sum_f32v(a)
    else:
        return sum_f64v(a)


cdef inline double lane_max(vec a) noexcept nogil:
    if vec is f32v:
        return max_f32v(a)
    else:
        return max_f64v(a)


cdef inline vec head(vec a, Py_ssize_t n, vec b) noexcept nogil:
    """The first n lanes of a, the others of b."""
    if vec is f32v:
        return head_f32v(a, n, b)
    else:
        return head_f64v(a, n, b)


cdef inline Py_ssize_t lanes(vec like) noexcept nogil:
    """Elements in a vector."""
    if vec is f32v:
        return VECTOR_BYTES // 4
    else:
        return VECTOR_BYTES // 8
