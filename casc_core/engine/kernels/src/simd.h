/* Vectors, for the set of instructions that VECTOR names by their bits; 0: none, plain loops. */

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
#undef FIRST
#undef SECOND
#undef WIDER
#undef XOR
#undef TIMES32
#undef MOST_WORDS
#undef FLOATS

#if VECTOR == 256
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
/* Undoes the order in which LOW and HIGH leave the results. */
#define FIRST(low, high) _mm256_permute2x128_si256(low, high, 0x20)
#define SECOND(low, high) _mm256_permute2x128_si256(low, high, 0x31)
#define WIDER(x, half) _mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x))
#define XOR(a, b) _mm256_xor_si256(a, b)
#define TIMES32(a, b) _mm256_mullo_epi32(a, b)
#define MOST_WORDS 6
#define FLOATS 8
#elif VECTOR == 512
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
#define WIDER(x, half) _mm512_cvtepi16_epi32(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x))
#define XOR(a, b) _mm512_xor_si512(a, b)
#define TIMES32(a, b) _mm512_mullo_epi32(a, b)
#define MOST_WORDS 10
#define FLOATS 16
#else
#define FLOATS 1
#endif
