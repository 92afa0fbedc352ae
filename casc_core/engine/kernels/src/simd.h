/* Vectors, for the set of instructions that VECTOR names by their bits: 512 AVX-512, 256 AVX2, 128 NEON; 0: none, plain loops.

   A WORD holds WORD_LANES int16 or half as many int32; MOST_WORDS sums of int16, or sums of LISTED_LANES outputs, stay in registers.
   WIDENED reads int8 as int32. What compilers make well of plain operators on vectors is written with
   those, in Lanes. */

#undef WORD
#undef WORD_LANES
#undef LOAD
#undef STORE
#undef ZERO
#undef EACH_PAIR
#undef EACH
#undef ADD32
#undef ADD16
#undef SUB16
#undef TIMES16
#undef LOW
#undef HIGH
#undef PAIRS
#undef DOT
#undef ADD_PRODUCTS
#undef FIRST
#undef SECOND
#undef WIDER
#undef UNSIGNED16
#undef XOR
#undef LARGER32
#undef SMALLER32
#undef WHOLE
#undef TIMES32
#undef SHIFTED32
#undef ABS32
#undef SPENT
#undef COUNTED
#undef WIDENED
#undef MASK
#undef GREATER
#undef WITHIN
#undef ONE_MORE
#undef ONE_LESS
#undef LEAST
#undef LEAST_WHERE
#undef ANY
#undef MOST_WORDS
#undef LISTED_LANES
#undef FLOATS
#undef REALS
#undef LOAD_REALS
#undef STORE_REALS
#undef EACH_REAL
#undef TO_REALS
#undef ADD_REALS
#undef SUB_REALS
#undef AT_MOST
#undef NO_LESS
#undef NEAREST
#undef BELOW
#undef TIMES_POWER
#undef AT_LEAST
#undef LESS
#undef SELECT
#undef BITS
#undef MASK_OF

#if VECTOR == 512
#define WORD __m512i
#define WORD_LANES 32
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define ZERO() _mm512_setzero_si512()
#define EACH_PAIR(x) _mm512_set1_epi32(x)
#define EACH(x) _mm512_set1_epi16(x)
#define ADD32(a, b) _mm512_add_epi32(a, b)
#define ADD16(a, b) _mm512_add_epi16(a, b)
#define SUB16(a, b) _mm512_sub_epi16(a, b)
#define TIMES16(a, b) _mm512_mullo_epi16(a, b)
#define LOW(a, b) _mm512_unpacklo_epi16(a, b)
#define HIGH(a, b) _mm512_unpackhi_epi16(a, b)
#define PAIRS(sum, a, b) _mm512_dpwssd_epi32(sum, a, b)
#define FIRST(low, high) _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high)
#define SECOND(low, high) _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high)
#define UNSIGNED16(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p)))
#define WIDER(x, half) _mm512_cvtepi16_epi32(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x))
#define XOR(a, b) _mm512_xor_si512(a, b)
#define LARGER32(a, b) _mm512_max_epi32(a, b)
#define SMALLER32(a, b) _mm512_min_epi32(a, b)
#define TIMES32(a, b) _mm512_mullo_epi32(a, b)
#define SHIFTED32(x, by) _mm512_sll_epi32(x, _mm_cvtsi32_si128(by))
#define ABS32(x) _mm512_abs_epi32(x)
#define WIDENED(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define MOST_WORDS 10
#define LISTED_LANES 128
#define FLOATS 16
#elif VECTOR == 256
#define WORD __m256i
#define WORD_LANES 16
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define ZERO() _mm256_setzero_si256()
#define EACH_PAIR(x) _mm256_set1_epi32(x)
#define EACH(x) _mm256_set1_epi16(x)
#define ADD32(a, b) _mm256_add_epi32(a, b)
#define ADD16(a, b) _mm256_add_epi16(a, b)
#define SUB16(a, b) _mm256_sub_epi16(a, b)
#define TIMES16(a, b) _mm256_mullo_epi16(a, b)
#define LOW(a, b) _mm256_unpacklo_epi16(a, b)
#define HIGH(a, b) _mm256_unpackhi_epi16(a, b)
#define PAIRS(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define FIRST(low, high) _mm256_permute2x128_si256(low, high, 0x20)
#define SECOND(low, high) _mm256_permute2x128_si256(low, high, 0x31)
#define UNSIGNED16(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define WIDER(x, half) _mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x))
#define XOR(a, b) _mm256_xor_si256(a, b)
#define LARGER32(a, b) _mm256_max_epi32(a, b)
#define SMALLER32(a, b) _mm256_min_epi32(a, b)
#define TIMES32(a, b) _mm256_mullo_epi32(a, b)
#define SHIFTED32(x, by) _mm256_sll_epi32(x, _mm_cvtsi32_si128(by))
#define ABS32(x) _mm256_abs_epi32(x)
#define WIDENED(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define MOST_WORDS 6
#define LISTED_LANES 64
#define FLOATS 8
#elif VECTOR == 128
#define WORD int32x4_t
#define WORD_LANES 8
#define LOAD(p) NAME(load)(p)
#define STORE(p, x) NAME(store)(p, x)
#define ZERO() vdupq_n_s32(0)
#define EACH_PAIR(x) vdupq_n_s32(x)
#define EACH(x) ((WORD)vdupq_n_s16(x))
#define ADD32(a, b) vaddq_s32(a, b)
#define ADD16(a, b) ((WORD)vaddq_s16((int16x8_t)(a), (int16x8_t)(b)))
#define SUB16(a, b) ((WORD)vsubq_s16((int16x8_t)(a), (int16x8_t)(b)))
#define TIMES16(a, b) ((WORD)vmulq_s16((int16x8_t)(a), (int16x8_t)(b)))
#define LOW(a, b) ((WORD)vzip1q_s16((int16x8_t)(a), (int16x8_t)(b)))
#define HIGH(a, b) ((WORD)vzip2q_s16((int16x8_t)(a), (int16x8_t)(b)))
#define PAIRS(sum, a, b)                                                                                              \
    vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16((int16x8_t)(a)), vget_low_s16((int16x8_t)(b))),                  \
                              vmull_high_s16((int16x8_t)(a), (int16x8_t)(b))))
#define FIRST(low, high) (low)
#define SECOND(low, high) (high)
#define UNSIGNED16(p) ((WORD)vmovl_u16(vld1_u16((const uint16_t *)(p))))
#define WIDER(x, half) (half ? vmovl_high_s16((int16x8_t)(x)) : vmovl_s16(vget_low_s16((int16x8_t)(x))))
#define XOR(a, b) veorq_s32(a, b)
#define LARGER32(a, b) vmaxq_s32(a, b)
#define SMALLER32(a, b) vminq_s32(a, b)
#define TIMES32(a, b) vmulq_s32(a, b)
#define SHIFTED32(x, by) vshlq_s32(x, vdupq_n_s32(by))
#define ABS32(x) vabsq_s32(x)
#define WIDENED(p) NAME(widened)(p)
#define MOST_WORDS 10
#define LISTED_LANES 64
#define FLOATS 4

INLINE WORD NAME(load)(const void *from) {
    WORD x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void NAME(store)(void *to, WORD x) { memcpy(to, &x, sizeof x); }

INLINE WORD NAME(widened)(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))));
}
#else
#define FLOATS 1
#endif

/* LOW and HIGH interleave int16; PAIRS(sum, a, b) adds the products of neighbours to int32 sums, DOT(sum, a, b) all products to
   any of the sums. ADD_PRODUCTS(low, high, x, y, factors) adds x times the first of a pair of factors, and y times the second.
   UNSIGNED16 loads int16 and widens them, zeros above. FIRST and SECOND put sums in order, as LOW and HIGH, or ADD_PRODUCTS, leave them. */
#if VECTOR >= 256
#define ADD_PRODUCTS(low, high, x, y, factors)                                                                        \
    (low = PAIRS(low, LOW(x, y), factors), high = PAIRS(high, HIGH(x, y), factors))
#define DOT(sum, a, b) PAIRS(sum, a, b)
#elif VECTOR == 128
#define ADD_PRODUCTS(low, high, x, y, factors)                                                                        \
    (low = vmlal_laneq_s16(low, vget_low_s16((int16x8_t)(x)), (int16x8_t)(factors), 0),                               \
     low = vmlal_laneq_s16(low, vget_low_s16((int16x8_t)(y)), (int16x8_t)(factors), 1),                               \
     high = vmlal_high_laneq_s16(high, (int16x8_t)(x), (int16x8_t)(factors), 0),                                      \
     high = vmlal_high_laneq_s16(high, (int16x8_t)(y), (int16x8_t)(factors), 1))
#define DOT(sum, a, b)                                                                                                \
    vmlal_high_s16(vmlal_s16(sum, vget_low_s16((int16x8_t)(a)), vget_low_s16((int16x8_t)(b))), (int16x8_t)(a), (int16x8_t)(b))
#endif

/* A MASK says of each int32 whether something holds; `&` and `|` join masks. GREATER and, of unsigned numbers, WITHIN (at most)
   compare; ONE_MORE(x, mask) and ONE_LESS change some of x; LEAST(x, y) is the smaller of unsigned numbers, LEAST_WHERE(x, mask, y)
   where the mask holds; ANY says whether a mask holds anywhere. SPENT(x, up, down, y) subtracts y from x where `up` holds and adds
   it where `down` does, COUNTED(x, up, down) adds one and subtracts one; both never hold together. */
#if VECTOR
typedef int32_t NAME(Lanes) __attribute__((vector_size(VECTOR / 8)));
#endif
#if VECTOR == 512
#define MASK __mmask16
#define GREATER(a, b) _mm512_cmpgt_epi32_mask((WORD)(a), (WORD)(b))
#define WITHIN(a, b) _mm512_cmple_epu32_mask((WORD)(a), (WORD)(b))
#define ONE_MORE(x, mask) _mm512_mask_add_epi32((WORD)(x), mask, (WORD)(x), _mm512_set1_epi32(1))
#define ONE_LESS(x, mask) _mm512_mask_sub_epi32((WORD)(x), mask, (WORD)(x), _mm512_set1_epi32(1))
#define LEAST(x, y) _mm512_min_epu32((WORD)(x), (WORD)(y))
#define LEAST_WHERE(x, mask, y) _mm512_mask_min_epu32((WORD)(x), mask, (WORD)(x), (WORD)(y))
#define ANY(mask) ((mask) != 0)
#define SPENT(x, up, down, y) NAME(spent)(x, up, down, y)
#define COUNTED(x, up, down) ONE_LESS(ONE_MORE(x, up), down)
INLINE WORD NAME(spent)(WORD x, MASK up, MASK down, WORD y) {
    x = _mm512_mask_sub_epi32(x, up, x, y);
    return _mm512_mask_add_epi32(x, down, x, y);
}
#elif VECTOR
typedef uint32_t NAME(Unsigned) __attribute__((vector_size(VECTOR / 8)));
#define MASK NAME(Lanes)
#define GREATER(a, b) ((NAME(Lanes))(a) > (NAME(Lanes))(b))
#define WITHIN(a, b) ((NAME(Lanes))((NAME(Unsigned))(a) <= (NAME(Unsigned))(b)))
#define ONE_MORE(x, mask) ((WORD)((NAME(Lanes))(x) - (mask)))
#define ONE_LESS(x, mask) ((WORD)((NAME(Lanes))(x) + (mask)))
#define LEAST_WHERE(x, mask, y) LEAST(x, (NAME(Lanes))(y) | ~(mask))
#define COUNTED(x, up, down) ((WORD)((NAME(Lanes))(x) + ((down) - (up))))
#if VECTOR == 256
#define SPENT(x, up, down, y) ((WORD)((NAME(Lanes))(x) - (NAME(Lanes))_mm256_sign_epi32((WORD)(y), (WORD)((down) - (up)))))
#define LEAST(x, y) _mm256_min_epu32((WORD)(x), (WORD)(y))
#define ANY(mask) (!_mm256_testz_si256((WORD)(mask), (WORD)(mask)))
#else
#define LEAST(x, y) ((WORD)vminq_u32((uint32x4_t)(x), (uint32x4_t)(y)))
#define SPENT(x, up, down, y) vmlsq_s32(x, (WORD)(y), (WORD)((down) - (up)))
#define ANY(mask) (vmaxvq_u32((uint32x4_t)(mask)) != 0)
#endif
#endif

/* FLOATS float32 in REALS, for which there are the plain operators too; AT_MOST and NO_LESS clip, and leave what is no number; NEAREST rounds,
   halves to even, and BELOW down; WHOLE gives the int32 towards 0. TIMES_POWER
   (x, power) multiplies by 2^n, n being the lowest bits of `power`. AT_LEAST and LESS compare; SELECT(mask, x, y) is x where the mask holds, and y elsewhere. BITS of a mask,
   the lowest of the first, and MASK_OF bits. `entries` reads some of a table, which is `small` if it has 32 or fewer: vectors
   then hold all of it, which is faster than to gather them. */
#if VECTOR == 512
#define REALS __m512
#define LOAD_REALS(p) _mm512_loadu_ps(p)
#define STORE_REALS(p, x) _mm512_storeu_ps(p, x)
#define EACH_REAL(x) _mm512_set1_ps(x)
#define TO_REALS(x) _mm512_cvtepi32_ps(x)
#define WHOLE(x) _mm512_cvttps_epi32(x)
#define ADD_REALS(a, b) _mm512_add_ps(a, b)
#define SUB_REALS(a, b) _mm512_sub_ps(a, b)
#define AT_MOST(x, most) _mm512_min_ps(most, x)
#define NO_LESS(x, least) _mm512_max_ps(least, x)
#define NEAREST(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define BELOW(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define TIMES_POWER(x, power) ((REALS)((NAME(Lanes))(x) + ((NAME(Lanes))(power) << 23)))
#define AT_LEAST(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
#define LESS(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define SELECT(mask, x, y) _mm512_mask_mov_ps(y, mask, x)
#define BITS(mask) ((uint32_t)(mask))
#define MASK_OF(bits) ((MASK)(bits))
INLINE REALS NAME(entries)(const float *table, const int small, WORD index) {
    if (!small) return _mm512_i32gather_ps(index, table, 4);
    return _mm512_permutex2var_ps(LOAD_REALS(table), index, LOAD_REALS(table + 16));
}
INLINE REALS NAME(load_some)(const float *from, int64_t n) { return _mm512_maskz_loadu_ps((MASK)((1u << n) - 1), from); }
INLINE void NAME(store_some)(float *to, REALS x, int64_t n) { _mm512_mask_storeu_ps(to, (MASK)((1u << n) - 1), x); }
#elif VECTOR == 256
#define REALS __m256
#define LOAD_REALS(p) _mm256_loadu_ps(p)
#define STORE_REALS(p, x) _mm256_storeu_ps(p, x)
#define EACH_REAL(x) _mm256_set1_ps(x)
#define TO_REALS(x) _mm256_cvtepi32_ps(x)
#define WHOLE(x) _mm256_cvttps_epi32(x)
#define ADD_REALS(a, b) _mm256_add_ps(a, b)
#define SUB_REALS(a, b) _mm256_sub_ps(a, b)
#define AT_MOST(x, most) _mm256_min_ps(most, x)
#define NO_LESS(x, least) _mm256_max_ps(least, x)
#define NEAREST(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define BELOW(x) _mm256_round_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define TIMES_POWER(x, power) ((REALS)((NAME(Lanes))(x) + ((NAME(Lanes))(power) << 23)))
#define AT_LEAST(a, b) ((MASK)_mm256_cmp_ps(a, b, _CMP_GE_OQ))
#define LESS(a, b) ((MASK)_mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define SELECT(mask, x, y) _mm256_blendv_ps(y, x, (REALS)(mask))
#define BITS(mask) ((uint32_t)_mm256_movemask_ps((REALS)(mask)))
#define MASK_OF(bits) NAME(mask_of)(bits)
INLINE MASK NAME(mask_of)(uint32_t bits) {
    const MASK own = {1, 2, 4, 8, 16, 32, 64, 128};
    return ((MASK)EACH_PAIR((int32_t)bits) & own) == own;
}
INLINE REALS NAME(entries)(const float *table, const int small, WORD index) {
    if (!small) return _mm256_i32gather_ps(table, index, 4);
    REALS eight[4];
    for (int i = 0; i < 4; i++) eight[i] = _mm256_permutevar8x32_ps(LOAD_REALS(table + 8 * i), index);
    const REALS second = (REALS)_mm256_slli_epi32(index, 28), half = (REALS)_mm256_slli_epi32(index, 27); /* in the sign */
    return _mm256_blendv_ps(_mm256_blendv_ps(eight[0], eight[1], second), _mm256_blendv_ps(eight[2], eight[3], second), half);
}
INLINE REALS NAME(load_some)(const float *from, int64_t n) {
    return _mm256_maskload_ps(from, (WORD)MASK_OF((1 << n) - 1));
}
INLINE void NAME(store_some)(float *to, REALS x, int64_t n) { _mm256_maskstore_ps(to, (WORD)MASK_OF((1 << n) - 1), x); }
#elif VECTOR == 128
#define REALS float32x4_t
#define LOAD_REALS(p) vld1q_f32(p)
#define STORE_REALS(p, x) vst1q_f32(p, x)
#define EACH_REAL(x) vdupq_n_f32(x)
#define TO_REALS(x) vcvtq_f32_s32(x)
#define WHOLE(x) vcvtq_s32_f32(x)
#define ADD_REALS(a, b) vaddq_f32(a, b)
#define SUB_REALS(a, b) vsubq_f32(a, b)
#define AT_MOST(x, most) vminq_f32(x, most)
#define NO_LESS(x, least) vmaxq_f32(x, least)
#define NEAREST(x) vrndnq_f32(x)
#define BELOW(x) vrndmq_f32(x)
#define TIMES_POWER(x, power) ((REALS)((NAME(Lanes))(x) + ((NAME(Lanes))(power) << 23)))
#define AT_LEAST(a, b) ((MASK)vcgeq_f32(a, b))
#define LESS(a, b) ((MASK)vcltq_f32(a, b))
#define SELECT(mask, x, y) vbslq_f32((uint32x4_t)(mask), x, y)
#define BITS(mask) vaddvq_u32((uint32x4_t)((mask) & (MASK){1, 2, 4, 8}))
#define MASK_OF(bits) NAME(mask_of)(bits)
INLINE MASK NAME(mask_of)(uint32_t bits) {
    const MASK own = {1, 2, 4, 8};
    return ((MASK)EACH_PAIR((int32_t)bits) & own) == own;
}
INLINE REALS NAME(entries)(const float *table, const int small, WORD index) {
    (void)small;
    int32_t at[4];
    STORE(at, index);
    return (REALS){table[at[0]], table[at[1]], table[at[2]], table[at[3]]};
}
INLINE REALS NAME(load_some)(const float *from, int64_t n) {
    REALS x = vdupq_n_f32(0);
    memcpy(&x, from, (size_t)n * sizeof *from);
    return x;
}
INLINE void NAME(store_some)(float *to, REALS x, int64_t n) { memcpy(to, &x, (size_t)n * sizeof *to); }
#else
#define REALS float
#define LOAD_REALS(p) (*(p))
#define STORE_REALS(p, x) (*(p) = (x))
#define EACH_REAL(x) ((float)(x))
#define AT_MOST(x, most) ((most) < (x) ? (most) : (x))
#define NO_LESS(x, least) ((x) < (least) ? (least) : (x))
#define NEAREST(x) __builtin_rintf(x)
#define BELOW(x) __builtin_floorf(x)
#define TIMES_POWER(x, power) NAME(times_power)(x, power)
#define AT_LEAST(a, b) ((a) >= (b))
#define LESS(a, b) ((a) < (b))
#define SELECT(mask, x, y) ((mask) ? (x) : (y))
INLINE float NAME(times_power)(float x, float power) {
    uint32_t bits[2];
    memcpy(bits, &x, sizeof x), memcpy(bits + 1, &power, sizeof power);
    bits[0] += bits[1] << 23;
    memcpy(&x, bits, sizeof x);
    return x;
}
#endif

/* The next of so many float32 that are left: FLOATS or, with zeros behind them, all there are. */
INLINE REALS NAME(load_reals)(const float *from, int64_t left) {
#if FLOATS > 1
    if (left < FLOATS) return NAME(load_some)(from, left);
#endif
    (void)left;
    return LOAD_REALS(from);
}
INLINE void NAME(store_reals)(float *to, REALS x, int64_t left) {
#if FLOATS > 1
    if (left < FLOATS) {
        NAME(store_some)(to, x, left);
        return;
    }
#endif
    (void)left;
    STORE_REALS(to, x);
}

/* Of 64 entries of int8, a bit for each: that differs from another, is positive, is negative. */
#if VECTOR == 512
INLINE uint64_t NAME(unequal)(const int8_t *a, const int8_t *b) { return _mm512_cmpneq_epi8_mask(LOAD(a), LOAD(b)); }
INLINE uint64_t NAME(positive)(const int8_t *x) { return _mm512_cmpgt_epi8_mask(LOAD(x), ZERO()); }
INLINE uint64_t NAME(negative)(const int8_t *x) { return _mm512_movepi8_mask(LOAD(x)); }
#elif VECTOR == 256
INLINE uint64_t NAME(marks)(WORD first, WORD second) {
    return (uint64_t)(uint32_t)_mm256_movemask_epi8(second) << 32 | (uint32_t)_mm256_movemask_epi8(first);
}
INLINE uint64_t NAME(unequal)(const int8_t *a, const int8_t *b) {
    return ~NAME(marks)(_mm256_cmpeq_epi8(LOAD(a), LOAD(b)), _mm256_cmpeq_epi8(LOAD(a + 32), LOAD(b + 32)));
}
INLINE uint64_t NAME(positive)(const int8_t *x) {
    return NAME(marks)(_mm256_cmpgt_epi8(LOAD(x), ZERO()), _mm256_cmpgt_epi8(LOAD(x + 32), ZERO()));
}
INLINE uint64_t NAME(negative)(const int8_t *x) { return NAME(marks)(LOAD(x), LOAD(x + 32)); }
#elif VECTOR == 128
/* Bytes that are all ones or zero, four vectors of them: each keeps its own bit, and neighbours are added. */
INLINE uint64_t NAME(marks)(const uint8x16_t *x) {
    const uint8x16_t bits = (uint8x16_t)vdupq_n_u64(0x8040201008040201);
    const uint8x16_t first = vpaddq_u8(vandq_u8(x[0], bits), vandq_u8(x[1], bits));
    const uint8x16_t second = vpaddq_u8(vandq_u8(x[2], bits), vandq_u8(x[3], bits));
    const uint8x16_t all = vpaddq_u8(first, second);
    return vgetq_lane_u64((uint64x2_t)vpaddq_u8(all, all), 0);
}
INLINE uint64_t NAME(unequal)(const int8_t *a, const int8_t *b) {
    uint8x16_t x[4];
    for (int i = 0; i < 4; i++) x[i] = vceqq_s8(vld1q_s8(a + 16 * i), vld1q_s8(b + 16 * i));
    return ~NAME(marks)(x);
}
INLINE uint64_t NAME(positive)(const int8_t *a) {
    uint8x16_t x[4];
    for (int i = 0; i < 4; i++) x[i] = vcgtzq_s8(vld1q_s8(a + 16 * i));
    return NAME(marks)(x);
}
INLINE uint64_t NAME(negative)(const int8_t *a) {
    uint8x16_t x[4];
    for (int i = 0; i < 4; i++) x[i] = vcltzq_s8(vld1q_s8(a + 16 * i));
    return NAME(marks)(x);
}
#else
#define MARKS(holds)                                                                                                  \
    uint64_t bits = 0;                                                                                                \
    for (int k = 0; k < 64; k++) bits |= (uint64_t)(holds) << k;                                                      \
    return bits;
INLINE uint64_t NAME(unequal)(const int8_t *a, const int8_t *b) { MARKS(a[k] != b[k]) }
INLINE uint64_t NAME(positive)(const int8_t *x) { MARKS(x[k] > 0) }
INLINE uint64_t NAME(negative)(const int8_t *x) { MARKS(x[k] < 0) }
#undef MARKS
#endif

/* Of eight numbers of 64 bits, a bit for each that is not 0. */
INLINE uint32_t NAME(nonzero)(const void *from) {
#if VECTOR == 512
    return _mm512_test_epi64_mask(LOAD(from), LOAD(from));
#elif VECTOR == 256
    const __m256i first = _mm256_cmpeq_epi64(LOAD(from), ZERO()), second = _mm256_cmpeq_epi64(LOAD((const char *)from + 32), ZERO());
    return ~(uint32_t)(_mm256_movemask_pd((__m256d)first) | _mm256_movemask_pd((__m256d)second) << 4) & 0xff;
#else
    uint64_t each[8];
    uint32_t bits = 0;
    memcpy(each, from, sizeof each);
    for (int k = 0; k < 8; k++) bits |= (uint32_t)(each[k] != 0) << k;
    return bits;
#endif
}

/* Of a vector of int8 x, (x[0] + 3 x[1] + 9 x[2] + 27 x[3]) * factor of every four. */
#if VECTOR == 512
INLINE void NAME(weigh_fours)(const int8_t *x, int32_t factor, int16_t *to) {
    const WORD pairs = _mm512_maddubs_epi16(EACH_PAIR(27 << 24 | 9 << 16 | 3 << 8 | 1), LOAD(x));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(_mm512_madd_epi16(pairs, EACH(factor))));
}
#elif VECTOR == 256
INLINE void NAME(weigh_fours)(const int8_t *x, int32_t factor, int16_t *to) {
    const WORD pairs = _mm256_maddubs_epi16(EACH_PAIR(27 << 24 | 9 << 16 | 3 << 8 | 1), LOAD(x));
    const WORD all = _mm256_madd_epi16(pairs, EACH((int16_t)factor));
    _mm_storeu_si128((__m128i *)to, _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
#endif

/* Of eight entries those whose places, up to the first 0 behind them, are given: by how much x and y differ there, and
   first + place. */
#if VECTOR >= 256
INLINE void NAME(differences_at)(const uint8_t *places, const int8_t *x, const int8_t *y, int32_t first, int32_t *row,
                                 int16_t *factor) {
    const __m128i at = _mm_loadl_epi64((const __m128i *)places), twice = _mm_add_epi8(at, at);
    const __m128i bytes = _mm_unpacklo_epi8(twice, _mm_add_epi8(twice, _mm_set1_epi8(1)));
    const __m128i one = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)x));
    const __m128i other = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)y));
    _mm256_storeu_si256((__m256i *)row, _mm256_add_epi32(_mm256_cvtepu8_epi32(at), _mm256_set1_epi32(first)));
    _mm_storeu_si128((__m128i *)factor, _mm_shuffle_epi8(_mm_sub_epi16(one, other), bytes));
}
#elif VECTOR == 128
INLINE void NAME(differences_at)(const uint8_t *places, const int8_t *x, const int8_t *y, int32_t first, int32_t *row,
                                 int16_t *factor) {
    const uint8x8_t at = vld1_u8(places), twice = vadd_u8(at, at);
    const uint8x16_t bytes = vzip1q_u8(vcombine_u8(twice, twice), vcombine_u8(vadd_u8(twice, vdup_n_u8(1)), twice));
    const uint16x8_t wide = vmovl_u8(at);
    const int16x8_t difference = vsubl_s8(vld1_s8(x), vld1_s8(y));
    vst1q_s32(row, vaddq_s32(vdupq_n_s32(first), (int32x4_t)vmovl_u16(vget_low_u16(wide))));
    vst1q_s32(row + 4, vaddq_s32(vdupq_n_s32(first), (int32x4_t)vmovl_high_u16(wide)));
    vst1q_s16(factor, (int16x8_t)vqtbl1q_u8((uint8x16_t)difference, bytes));
}
#else
INLINE void NAME(differences_at)(const uint8_t *places, const int8_t *x, const int8_t *y, int32_t first, int32_t *row,
                                 int16_t *factor) {
    for (int i = 0; i < 8; i++) row[i] = first + places[i], factor[i] = (int16_t)(x[places[i]] - y[places[i]]);
}
#endif

/* 16 int32 that int8 holds, as int8. */
#if VECTOR == 512
INLINE void NAME(store_narrow)(int8_t *to, const WORD *x) { _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(*x)); }
#elif VECTOR == 256
INLINE void NAME(store_narrow)(int8_t *to, const WORD *x) {
    const WORD all = _mm256_permute4x64_epi64(_mm256_packs_epi32(x[0], x[1]), 0xd8);
    _mm_storeu_si128((__m128i *)to, _mm_packs_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
#elif VECTOR == 128
INLINE void NAME(store_narrow)(int8_t *to, const WORD *x) {
    const int16x8_t first = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]));
    const int16x8_t second = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
    vst1q_s8(to, vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}
#endif

/* The spikes of 16 neurons in int8, of which masks say where they are +1, and where -1. */
#if VECTOR == 512
INLINE void NAME(store_spikes)(int8_t *to, const MASK *up, const MASK *down) {
    _mm_storeu_si128((__m128i *)to, _mm_sub_epi8(_mm_movm_epi8(down[0]), _mm_movm_epi8(up[0])));
}
#elif VECTOR == 256
INLINE void NAME(store_spikes)(int8_t *to, const MASK *up, const MASK *down) {
    const WORD spikes[2] = {(WORD)(down[0] - up[0]), (WORD)(down[1] - up[1])};
    NAME(store_narrow)(to, spikes);
}
#elif VECTOR == 128
INLINE void NAME(store_spikes)(int8_t *to, const MASK *up, const MASK *down) {
    int16x8_t half[2];
    for (int i = 0; i < 2; i++)
        half[i] = vuzp1q_s16((int16x8_t)(down[2 * i] - up[2 * i]), (int16x8_t)(down[2 * i + 1] - up[2 * i + 1]));
    vst1q_s8(to, vuzp1q_s8((int8x16_t)half[0], (int8x16_t)half[1]));
}
#endif
