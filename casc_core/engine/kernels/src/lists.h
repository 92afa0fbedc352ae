/* Products of spikes by lists: each row of input positions becomes lists of the channels that spike, one for each step and column,
   chunk by chunk of the channels. What an output position reads of a row is one piece of them; the rows of weights behind that are
   added. Those of a chunk and a kernel row stay in the nearest cache while all positions and steps of a tile add them. */

/* Lists what spikes among `n` channels, which are numbered from `number` on. Returns how many there are; writes up to LIST_ROOM
   entries beyond them. `ones`: as `list_ones` lists them. */
INLINE uint32_t NAME(list_spikes)(const uint8_t (*ones)[8], const int8_t *in, int64_t n, int32_t number, int32_t *entry,
                                  int16_t *spike) {
    uint32_t count = 0;
    int64_t c = 0;
#if VECTOR == 512
    (void)ones;
    const WORD first_numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; c < n; c += 64) {
        const int64_t rest = n - c;
        const __mmask64 some = rest >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << rest) - 1;
        const WORD now = _mm512_maskz_loadu_epi8(some, in + c);
        uint64_t bits = _mm512_test_epi8_mask(now, now);
        if (!bits) continue;
        for (int64_t j = c; j < n && j < c + 64; j += 16, bits >>= 16) { /* what spikes moves together */
            const __mmask16 sixteen = (__mmask16)bits;
            const __m128i read = _mm_maskz_loadu_epi8((__mmask16)(some >> (j - c)), in + j);
            const WORD spikes = _mm512_cvtepi8_epi32(read);
            const WORD numbers = _mm512_add_epi32(_mm512_set1_epi32(number + (int32_t)j), first_numbers);
            _mm512_storeu_si512(entry + count, _mm512_maskz_compress_epi32(sixteen, numbers));
            const WORD moved = _mm512_maskz_compress_epi32(sixteen, spikes);
            _mm256_storeu_si256((__m256i *)(spike + count), _mm512_cvtepi32_epi16(moved));
            count += (uint32_t)__builtin_popcount(sixteen);
        }
    }
#else
#if VECTOR == 256
    for (; c + 32 <= n; c += 32) {
        uint32_t bits = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(LOAD(in + c), ZERO()));
        for (int64_t j = c; j < c + 32; j += 8, bits >>= 8) {
            const __m128i places = _mm_loadl_epi64((const __m128i *)ones[bits & 255]);
            const __m128i spikes = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)(in + j)), places);
            STORE(entry + count, _mm256_add_epi32(_mm256_cvtepu8_epi32(places), EACH_PAIR(number + (int32_t)j)));
            _mm_storeu_si128((__m128i *)(spike + count), _mm_cvtepi8_epi16(spikes));
            count += (uint32_t)__builtin_popcount(bits & 255);
        }
    }
#endif
    static const int8_t nothing[8];
    for (; c + 8 <= n; c += 8) {
        uint64_t eight;
        memcpy(&eight, in + c, 8);
        if (!eight) continue;
        const uint64_t low = 0x7f7f7f7f7f7f7f7f, some = (((eight & low) + low) | eight) >> 7 & 0x0101010101010101;
        const uint64_t bits = some * 0x0102040810204080 >> 56; /* one for each byte */
        NAME(differences_at)(ones[bits], in + c, nothing, number + (int32_t)c, entry + count, spike + count);
        count += (uint32_t)__builtin_popcountll(some);
    }
    for (; c < n; c++) {
        entry[count] = number + (int32_t)c;
        spike[count] = in[c];
        count += in[c] != 0;
    }
#endif
    return count;
}

/* sums += a step of `n` spikes. Returns by how much the sum of their magnitudes grows. */
INLINE int32_t NAME(grow)(int64_t n, const int8_t *restrict in, int16_t *restrict sums) {
    int32_t growth = 0;
    for (int64_t c = 0; c < n; c++) {
        const int16_t before = sums[c], after = (int16_t)(before + in[c]);
        growth += (after < 0 ? -after : after) - (before < 0 ? -before : before);
        sums[c] = after;
    }
    return growth;
}

/* Fills the lists of input row `y` with what spikes among the channels in_lo .. in_lo + in_n - 1. An entry is where the row of
   weights lies that is behind it, in bytes from those of column 0. */
static void NAME(read_lists)(const ConvolutionTerm *term, const uint8_t (*ones)[8], int64_t samples, int64_t sample, int64_t y,
                             int64_t in_lo, int64_t in_n, int64_t row_bytes, InputRow *row) {
    const int64_t width = term->width, steps = term->steps, next = samples * term->height * width * term->channels;
    const int8_t *first = term->train + (sample * term->height + y) * width * term->channels + in_lo;
    uint32_t *start = row->start, count = 0;
    for (int64_t low = 0; low < in_n; low += term->chunk, start++) {
        const int64_t n = in_n - low < term->chunk ? in_n - low : term->chunk;
        const uint32_t from = count;
        for (int64_t step = 0; step < steps; step++) {
            const int8_t *in = first + step * next + low;
            const int is_ahead = step + 2 < steps;
            for (int64_t x = 0; x < width; x++, in += term->channels) {
                if (is_ahead) /* steps lie far apart */
                    for (int64_t byte = 0; byte < n; byte += 64) __builtin_prefetch(in + 2 * next + byte);
                *start++ = count;
                count += NAME(list_spikes)(ones, in, n, (int32_t)(x * n), row->entry + count, row->spike + count);
            }
        }
        *start = count;
        for (uint32_t i = from; i < count; i++) row->entry[i] *= (int32_t)row_bytes;
    }
}

/* How the sums of spikes of an input row grow, as what is rounded needs to know. It takes `sums` [width, in_n], `grown` [width]. */
static void NAME(read_growth)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t in_lo, int64_t in_n,
                              int64_t out_width, int16_t *sums, int64_t *grown, InputRow *row) {
    const int64_t width = term->width, next = samples * term->height * width * term->channels;
    const int8_t *in = term->train + (sample * term->height + y) * width * term->channels + in_lo;
    int64_t *growth = row->growth;
    memset(sums, 0, (size_t)(width * in_n) * sizeof *sums);
    memset(growth, 0, (size_t)(term->steps * out_width) * sizeof *growth);
    for (int64_t step = 0; step < term->steps; step++, in += next, growth += out_width) {
        for (int64_t x = 0; x < width; x++)
            grown[x] = NAME(grow)(in_n, in + x * term->channels, sums + x * in_n) * term->left_out.error;
        for (int64_t kx = 0; kx < term->kernel_x; kx++)
            for (int64_t ox = 0, x = kx * term->dilation_x - term->pad_x; ox < out_width; ox++, x += term->stride_x)
                if (x >= 0 && x < width) growth[ox] += grown[x];
    }
}

#if VECTOR
/* sum, high += two rows of int16 weights times a pair of factors. The rows are interleaved: one instruction multiplies both and
   adds them. */
INLINE void NAME(add_pair)(const int words, const char *one, const char *other, int32_t factors, WORD *sum, WORD *high) {
    const WORD pair = EACH_PAIR(factors);
    for (int w = 0; w < words; w++) {
        const WORD x = LOAD(one + VECTOR / 8 * w), y = LOAD(other + VECTOR / 8 * w);
        ADD_PRODUCTS(sum[w], high[w], x, y, pair);
    }
}

/* to += the weights behind `n` entries, shifted: of `lanes` outputs, whose sums stay in registers. Weights are of this kind. */
INLINE void NAME(add_entries)(const int lanes, const int kind, const char *weights, const int32_t *entry, const int16_t *spike,
                              int64_t n, int shift, int32_t *to) {
    enum { HALF = WORD_LANES / 2, MOST = LISTED_LANES / HALF, BYTES = VECTOR / 8, AT_ONCE = 4 };
    const int words = lanes / (kind == WIDE ? HALF : WORD_LANES);
    WORD sum[MOST], high[MOST];
    for (int w = 0; w < words; w++) sum[w] = high[w] = ZERO();
    int32_t ones = 0;
    int64_t i = 0;
    if (kind == SUMS32) {
        /* Where there are few sums, they would wait for each other: they are taken by two. */
        const int other = VECTOR == 512 && lanes <= 64 ? words : 0;
        for (int w = 0; w < other; w++) sum[other + w] = high[other + w] = ZERO();
        int32_t pair[2];
        for (; i + AT_ONCE <= n; i += AT_ONCE) {
            memcpy(pair, spike + i, sizeof pair);
            NAME(add_pair)(words, weights + entry[i], weights + entry[i + 1], pair[0], sum, high);
            NAME(add_pair)(words, weights + entry[i + 2], weights + entry[i + 3], pair[1], sum + other, high + other);
        }
        const int64_t rest = n - i;
        if (rest) { /* behind the last there is nothing */
            uint64_t some;
            memcpy(&some, spike + i, sizeof some);
            some &= ((uint64_t)1 << 16 * rest) - 1;
            const char *one = weights + entry[i], *two = rest > 1 ? weights + entry[i + 1] : one;
            NAME(add_pair)(words, one, two, (int32_t)some, sum, high);
            const char *three = rest > 2 ? weights + entry[i + 2] : one;
            if (rest > 2) NAME(add_pair)(words, three, three, (int32_t)(some >> 32), sum + other, high + other);
        }
        for (int w = 0; w < other; w++)
            sum[w] = ADD32(sum[w], sum[other + w]), high[w] = ADD32(high[w], high[other + w]);
    }
    for (; i < n && kind != SUMS32; i++) {
        const char *row = weights + entry[i];
        if (kind == SUMS16) {
            const WORD factor = EACH(spike[i]);
            for (int w = 0; w < words; w++) sum[w] = ADD16(sum[w], TIMES16(LOAD(row + BYTES * w), factor));
        } else if (spike[i] == 1 || spike[i] == -1) { /* -x is ~x + 1 */
            const WORD sign = EACH_PAIR(spike[i] >> 1);
            ones -= spike[i] >> 1;
            for (int w = 0; w < words; w++) sum[w] = ADD32(sum[w], XOR(LOAD(row + BYTES * w), sign));
        } else {
            const WORD factor = EACH_PAIR(spike[i]);
            for (int w = 0; w < words; w++) sum[w] = ADD32(sum[w], TIMES32(LOAD(row + BYTES * w), factor));
        }
    }
    for (int w = 0; w < words; w++) {
        if (kind == WIDE) {
            const WORD all = ADD32(sum[w], EACH_PAIR(ones));
            STORE(to + HALF * w, ADD32(LOAD(to + HALF * w), SHIFTED32(all, shift)));
            continue;
        }
        const WORD one = kind == SUMS16 ? WIDER(sum[w], 0) : FIRST(sum[w], high[w]);
        const WORD other = kind == SUMS16 ? WIDER(sum[w], 1) : SECOND(sum[w], high[w]);
        int32_t *half = to + WORD_LANES * w;
        STORE(half, ADD32(LOAD(half), SHIFTED32(one, shift)));
        STORE(half + HALF, ADD32(LOAD(half + HALF), SHIFTED32(other, shift)));
    }
}

#endif

/* What an output position reads of a chunk of an input row at a step: `n` entries from `first` on; and where the sums go, in outputs. */
typedef struct {
    uint32_t first, n;
    const char *weights;
    int32_t *to;
} NAME(Piece);

/* Adds the weights behind `n` pieces, of `lanes` outputs from `lane` on. */
INLINE void NAME(add_pieces)(const int lanes, const int kind, int64_t lane, const InputRow *row, const NAME(Piece) *piece, int64_t n,
                             int shift) {
    const int64_t size = kind == WIDE ? 4 : 2;
    for (int64_t i = 0; i < n; i++) {
        const char *weights = piece[i].weights + lane * size;
        const int32_t *entry = row->entry + piece[i].first;
        const int16_t *spike = row->spike + piece[i].first;
        int32_t *to = piece[i].to + lane;
#if VECTOR
        NAME(add_entries)(lanes, kind, weights, entry, spike, piece[i].n, shift, to);
#else
        for (uint32_t e = 0; e < piece[i].n; e++) {
            /* Unsigned, because a sum may wrap around on the way to a result that fits. */
            const uint32_t factor = (uint32_t)(int32_t)spike[e];
            const char *from = weights + entry[e];
            for (int k = 0; k < lanes; k++) {
                const int32_t weight = size == 4 ? ((const int32_t *)from)[k] : ((const int16_t *)from)[k];
                to[k] = (int32_t)((uint32_t)to[k] + (factor * (uint32_t)weight << shift));
            }
        }
#endif
    }
}

/* The same of all outputs, as many at a time as registers hold. */
#define OF_KIND(lanes)                                                                                                \
    switch (kind) {                                                                                                   \
        case SUMS16: NAME(add_pieces)(lanes, SUMS16, lane, row, piece, n, shift); break;                              \
        case SUMS32: NAME(add_pieces)(lanes, SUMS32, lane, row, piece, n, shift); break;                              \
        default: NAME(add_pieces)(lanes, WIDE, lane, row, piece, n, shift); break;                                    \
    }                                                                                                                 \
    lane += lanes;
static void NAME(add_listed)(int64_t kind, int64_t width, const InputRow *row, const NAME(Piece) *piece, int64_t n, int shift) {
    int64_t lane = 0;
#if LISTED_LANES == 128
    while (width - lane >= 128) { OF_KIND(128) }
#endif
    while (width - lane >= 64) { OF_KIND(64) }
    while (lane < width) { OF_KIND(32) }
}
#undef OF_KIND
