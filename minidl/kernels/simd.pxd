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

    #define V_PREFETCH(p) __builtin_prefetch(p)            /* soon */
    #define V_PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)  /* later: into the second cache */
    #define V_INLINE static inline __attribute__((always_inline))
    typedef float   f32v __attribute__((vector_size(V_BYTES), aligned(4), may_alias));
    typedef double  f64v __attribute__((vector_size(V_BYTES), aligned(8), may_alias));
    typedef int32_t i32v __attribute__((vector_size(V_BYTES), aligned(4), may_alias));
    typedef int64_t i64v __attribute__((vector_size(V_BYTES), aligned(8), may_alias));
    #define V_LANES(v) ((int)(sizeof(v) / sizeof((v)[0])))

    /* ---- fma, square root, largest and smallest (b where a or b is NaN), and
            "a > b ? x : y" (y where a or b is NaN) ---- */
    #if defined(__AVX512F__)
      V_INLINE f32v fma_f32v(f32v a, f32v b, f32v c) {
        return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
      V_INLINE f64v fma_f64v(f64v a, f64v b, f64v c) {
        return (f64v)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
      V_INLINE f32v sqrt_f32v(f32v a) { return (f32v)_mm512_sqrt_ps((__m512)a); }
      V_INLINE f64v sqrt_f64v(f64v a) { return (f64v)_mm512_sqrt_pd((__m512d)a); }
      V_INLINE f32v max_f32v(f32v a, f32v b) { return (f32v)_mm512_max_ps((__m512)a, (__m512)b); }
      V_INLINE f64v max_f64v(f64v a, f64v b) {
        return (f64v)_mm512_max_pd((__m512d)a, (__m512d)b); }
      V_INLINE f32v min_f32v(f32v a, f32v b) { return (f32v)_mm512_min_ps((__m512)a, (__m512)b); }
      V_INLINE f64v min_f64v(f64v a, f64v b) {
        return (f64v)_mm512_min_pd((__m512d)a, (__m512d)b); }
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
      V_INLINE f32v max_f32v(f32v a, f32v b) { return (f32v)_mm256_max_ps((__m256)a, (__m256)b); }
      V_INLINE f64v max_f64v(f64v a, f64v b) {
        return (f64v)_mm256_max_pd((__m256d)a, (__m256d)b); }
      V_INLINE f32v min_f32v(f32v a, f32v b) { return (f32v)_mm256_min_ps((__m256)a, (__m256)b); }
      V_INLINE f64v min_f64v(f64v a, f64v b) {
        return (f64v)_mm256_min_pd((__m256d)a, (__m256d)b); }
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
      V_INLINE f32v max_f32v(f32v a, f32v b) { return if_gt_f32v(a, b, a, b); }
      V_INLINE f64v max_f64v(f64v a, f64v b) { return if_gt_f64v(a, b, a, b); }
      V_INLINE f32v min_f32v(f32v a, f32v b) { return if_gt_f32v(b, a, a, b); }
      V_INLINE f64v min_f64v(f64v a, f64v b) { return if_gt_f64v(b, a, a, b); }
    #endif

    /* ---- square root and quotient of normal, positive, finite float32 numbers, from the machine's
            estimates and one step of Newton's method; elsewhere exact. Below AVX-512 makers of
            CPUs have estimates of their own, and so results differ in the last place ---- */
    #if defined(__SSE2__)
      #if defined(__AVX512F__)
        #define V_RSQRT(a) (f32v)_mm512_rsqrt14_ps((__m512)(a))
        #define V_RCP(a) (f32v)_mm512_rcp14_ps((__m512)(a))
      #elif defined(__AVX2__)
        #define V_RSQRT(a) (f32v)_mm256_rsqrt_ps((__m256)(a))
        #define V_RCP(a) (f32v)_mm256_rcp_ps((__m256)(a))
      #else
        #define V_RSQRT(a) (f32v)_mm_rsqrt_ps((__m128)(a))
        #define V_RCP(a) (f32v)_mm_rcp_ps((__m128)(a))
      #endif
      V_INLINE f32v fast_sqrt_f32v(f32v a) {
        f32v r = V_RSQRT(a), s = a * r;
        return fma_f32v(fma_f32v(-s, s, a), (0.5f - (f32v){0}) * r, s); }
      V_INLINE f32v fast_divide_f32v(f32v a, f32v b) {
        f32v r = V_RCP(b);
        return a * fma_f32v(fma_f32v(-b, r, 1.0f - (f32v){0}), r, r); }
    #else
      V_INLINE f32v fast_sqrt_f32v(f32v a) { return sqrt_f32v(a); }
      V_INLINE f32v fast_divide_f32v(f32v a, f32v b) { return a / b; }
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
      /* the first n lanes of a, then zeros */                                                   \\
      V_INLINE V first_##V(V a, Py_ssize_t n) {                                                 \\
        I lane;                                                                                 \\
        for (int i = 0; i < V_LANES(a); i++) lane[i] = i;                                       \\
        return (V)((I)a & (lane < (I){0} + (int)n)); }                                          \\
      /* sum of the lanes, and the largest one, in pairs */                                       \\
      V_INLINE double sum_##V(V a) {                                                            \\
        T x[V_LANES(a)];                                                                        \\
        memcpy(x, &a, sizeof a);                                                                \\
        for (int h = V_LANES(a) / 2; h; h /= 2) for (int i = 0; i < h; i++) x[i] += x[i + h];   \\
        return x[0]; }                                                                          \\
      V_INLINE double largest_##V(V a) {                                                        \\
        T x[V_LANES(a)];                                                                        \\
        memcpy(x, &a, sizeof a);                                                                \\
        for (int h = V_LANES(a) / 2; h; h /= 2) for (int i = 0; i < h; i++)                     \\
          x[i] = x[i] > x[i + h] ? x[i] : x[i + h];                                             \\
        return x[0]; }                                                                          \\
      /* 2**n for n given as magic + n, where that is a normal number */                         \\
      V_INLINE V power_##V(V n, V magic) {                                                      \\
        return (V)(((I)n - (I)magic + BIAS) << MANTISSA); }                                     \\
      /* x = m 2^e with m in [sqrt(1/2), sqrt(2)), for normal positive x */                      \\
      V_INLINE V split_##V(V x, V *e) {                                                         \\
        I k = ((I)x - (I)splat_##V(0.70710678118654752)) >> MANTISSA;                           \\
        *e = __builtin_convertvector(k, V);                                                     \\
        return (V)((I)x - (k << MANTISSA)); }
    V_PORTABLE(float, f32v, i32v, 23, 127)
    V_PORTABLE(double, f64v, i64v, 52, 1023)

    /* as many elements of float32 as f64v has lanes */
    V_INLINE f64v widen(const void *p) {
      typedef float half __attribute__((vector_size(V_BYTES / 2)));
      half a;
      memcpy(&a, p, sizeof a);
      return __builtin_convertvector(a, f64v); }

    /* ---- a square block of elements, transposed in registers: V_LANES rows of a vector each ----
       For h = n/2, ..., 1, rows i and i + h swap the lanes where they differ in bit h. */
    #if defined(__clang__) || __GNUC__ >= 12
      #define V_SHUFFLE(I, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    #else
      #define V_SHUFFLE(I, a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
    #endif
    #define V_1(l, h, n, d) (((l) & (h)) ? (l) - (h) + (n) : (l)) + (d)
    #define V_2(l, h, n, d) V_1(l, h, n, d), V_1(l + 1, h, n, d)
    #define V_4(l, h, n, d) V_2(l, h, n, d), V_2(l + 2, h, n, d)
    #define V_8(l, h, n, d) V_4(l, h, n, d), V_4(l + 4, h, n, d)
    #define V_16(l, h, n, d) V_8(l, h, n, d), V_8(l + 8, h, n, d)
    #define V_SWAP(V, I, n, h)                                                                  \
      if (n > h) for (int i = 0; i < n; i++) if (!(i & h)) {                                    \
        V a = x[i], b = x[i + h];                                                               \
        x[i] = V_SHUFFLE(I, a, b, V_##n(0, h, n, 0));                                           \
        x[i + h] = V_SHUFFLE(I, a, b, V_##n(0, h, n, h)); }
    #define V_SWAPS_2(V, I) V_SWAP(V, I, 2, 1)
    #define V_SWAPS_4(V, I) V_SWAP(V, I, 4, 2) V_SWAP(V, I, 4, 1)
    #define V_SWAPS_8(V, I) V_SWAP(V, I, 8, 4) V_SWAP(V, I, 8, 2) V_SWAP(V, I, 8, 1)
    #define V_SWAPS_16(V, I) \
      V_SWAP(V, I, 16, 8) V_SWAP(V, I, 16, 4) V_SWAP(V, I, 16, 2) V_SWAP(V, I, 16, 1)
    #define V_TRANSPOSE(V, I, n)                                                                \
      V_INLINE void transpose_##V(V *to, Py_ssize_t ldto, const V *from, Py_ssize_t ldfrom,     \
                                  Py_ssize_t rows, Py_ssize_t columns) {                        \
        V x[n];                                                                                 \
        if (rows >= n) for (int i = 0; i < n; i++) x[i] = from[i * ldfrom];                     \
        else for (int i = 0; i < n; i++) x[i] = i < rows ? from[i * ldfrom] : (V){0};           \
        V_SWAPS_##n(V, I)                                                                       \
        if (columns >= n) for (int i = 0; i < n; i++) to[i * ldto] = x[i];                      \
        else for (int i = 0; i < n; i++) if (i < columns) to[i * ldto] = x[i]; }
    #if V_BYTES == 64
      V_TRANSPOSE(f32v, i32v, 16)
      V_TRANSPOSE(f64v, i64v, 8)
    #elif V_BYTES == 32
      V_TRANSPOSE(f32v, i32v, 8)
      V_TRANSPOSE(f64v, i64v, 4)
    #else
      V_TRANSPOSE(f32v, i32v, 4)
      V_TRANSPOSE(f64v, i64v, 2)
    #endif
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
    f32v fast_sqrt_f32v(f32v a) noexcept
    f32v fast_divide_f32v(f32v a, f32v b) noexcept
    f32v max_f32v(f32v a, f32v b) noexcept
    f64v max_f64v(f64v a, f64v b) noexcept
    f32v min_f32v(f32v a, f32v b) noexcept
    f64v min_f64v(f64v a, f64v b) noexcept
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
    f32v first_f32v(f32v a, Py_ssize_t n) noexcept
    f64v first_f64v(f64v a, Py_ssize_t n) noexcept
    double sum_f32v(f32v a) noexcept
    double sum_f64v(f64v a) noexcept
    double largest_f32v(f32v a) noexcept
    double largest_f64v(f64v a) noexcept
    f32v power_f32v(f32v n, f32v magic) noexcept
    f64v power_f64v(f64v n, f64v magic) noexcept
    f32v split_f32v(f32v x, f32v* e) noexcept
    f64v split_f64v(f64v x, f64v* e) noexcept
    f64v widen(const void* p) noexcept
    void transpose_f32v(f32v* to, Py_ssize_t ldto, const f32v* source, Py_ssize_t ldfrom,
                        Py_ssize_t rows, Py_ssize_t columns) noexcept
    void transpose_f64v(f64v* to, Py_ssize_t ldto, const f64v* source, Py_ssize_t ldfrom,
                        Py_ssize_t rows, Py_ssize_t columns) noexcept
    void prefetch "V_PREFETCH"(const void* p) noexcept
    void prefetch_far "V_PREFETCH_FAR"(const void* p) noexcept

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


cdef inline vec fast_divide(vec a, vec b) noexcept nogil:
    """a / b for normal, positive, finite b: to 2 ULP in float32, exact in float64."""
    if vec is f32v:
        return fast_divide_f32v(a, b)
    else:
        return a / b


cdef inline vec vmax(vec a, vec b) noexcept nogil:
    """The larger of a and b; b where either is NaN."""
    if vec is f32v:
        return max_f32v(a, b)
    else:
        return max_f64v(a, b)


cdef inline vec vmin(vec a, vec b) noexcept nogil:
    """The smaller of a and b; b where either is NaN."""
    if vec is f32v:
        return min_f32v(a, b)
    else:
        return min_f64v(a, b)


cdef inline vec fast_sqrt(vec a) noexcept nogil:
    """Square root of a, which is held within the normal numbers.

    To 1 ULP in float32, exact in float64.
    """
    if vec is f32v:
        return fast_sqrt_f32v(vmin(splat(a, 3.4e38), vmax(splat(a, 1.2e-38), a)))
    else:
        return sqrt_f64v(vmax(splat(a, 2.3e-308), a))


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


cdef inline vec first_lanes(vec a, Py_ssize_t n) noexcept nogil:
    """The first n (at most lanes) lanes of a, then zeros."""
    if vec is f32v:
        return first_f32v(a, n)
    else:
        return first_f64v(a, n)


cdef inline double sum_of_lanes(vec a) noexcept nogil:
    """In pairs, in the vector's own precision."""
    if vec is f32v:
        return sum_f32v(a)
    else:
        return sum_f64v(a)


cdef inline double largest_lane(vec a) noexcept nogil:
    """The largest element, where none is NaN."""
    if vec is f32v:
        return largest_f32v(a)
    else:
        return largest_f64v(a)


cdef inline vec vpower(vec n, vec magic) noexcept nogil:
    """2**n, for n given as magic + n; for normal results."""
    if vec is f32v:
        return power_f32v(n, magic)
    else:
        return power_f64v(n, magic)


cdef inline vec vsplit(vec x, vec* e) noexcept nogil:
    """m and e of x = m 2**e, m in [sqrt(1/2), sqrt(2)); x normal and positive."""
    if vec is f32v:
        return split_f32v(x, e)
    else:
        return split_f64v(x, e)


cdef inline void transpose(vec* to, Py_ssize_t ldto, const vec* source, Py_ssize_t ldfrom,
                           Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """to[c] = column c of a block one vector wide, `rows` (at most lanes) high; 0 below it.

    The first `columns` (at most lanes) columns are written; ldto and ldfrom count vectors.
    """
    if vec is f32v:
        transpose_f32v(to, ldto, source, ldfrom, rows, columns)
    else:
        transpose_f64v(to, ldto, source, ldfrom, rows, columns)


cdef inline Py_ssize_t lanes(vec like) noexcept nogil:
    """Elements in a vector."""
    if vec is f32v:
        return VECTOR_BYTES // 4
    else:
        return VECTOR_BYTES // 8


cdef inline vec within(vec a, Py_ssize_t j, Py_ssize_t columns) noexcept nogil:
    """Vector j of a row of so many columns, its padding as zeros."""
    return first_lanes(a, min(lanes(a), columns - j * lanes(a)))
