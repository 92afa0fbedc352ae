/* Products of spikes by lists: each row of input positions becomes lists of the channels that spike, and an output position
   adds the rows of weights behind what it sees of them. */

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

/* Fills the lists of input row `y` with what spikes among the channels in_lo .. in_lo + in_n - 1. Rows are added in pairs, so
   every list is of even length: no spike may be its last. */
static void NAME(read_lists)(const ConvolutionTerm *term, const uint8_t (*ones)[8], int64_t samples, int64_t sample, int64_t y,
                             int64_t in_lo, int64_t in_n, InputRow *row) {
    uint32_t count = 0;
    const int64_t width = term->width;
    for (int64_t step = 0; step < term->steps; step++) {
        const int8_t *in = term->train + (((step * samples + sample) * term->height + y) * width) * term->channels + in_lo;
        for (int64_t x = 0; x < width; x++, in += term->channels) {
            const int32_t number = (int32_t)(x * in_n);
            row->start[step * width + x] = count;
            count += NAME(list_spikes)(ones, in, in_n, number, row->entry + count, row->spike + count);
            row->entry[count] = number, row->spike[count] = 0;
            count += count & 1;
        }
    }
    row->start[term->steps * width] = count;
}

/* Part of an input row that an output position reads, at every step: neighbours whose weights are neighbours too are one. The
   weights of entry `e` are row e + base. */
typedef struct {
    const InputRow *row;
    int64_t from, to, base;
} NAME(Window);

/* The windows of output position (oy, ox). Returns how many. */
static int64_t NAME(windows)(const ConvolutionTerm *term, const InputRow *ring, int64_t oy, int64_t ox, int64_t in_n,
                             NAME(Window) *window) {
    const int64_t width = term->width, left = ox * term->stride_x - term->pad_x;
    const int64_t together = term->dilation_x == 1 ? term->kernel_x : 1;
    int64_t found = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = input_row(term, oy, ky);
        if (y < 0) continue;
        for (int64_t kx = 0; kx < term->kernel_x; kx += together) {
            const int64_t x = left + kx * term->dilation_x, end = x + together;
            const int64_t from = x < 0 ? 0 : x, to = end > width ? width : end;
            if (from >= to) continue;
            window[found++] = (NAME(Window)){ring + y % term->ring, from, to, (ky * term->kernel_x + kx - x) * in_n};
        }
    }
    return found;
}

#if VECTOR
/* to += the weights behind what is listed in some windows at the step whose lists begin at `at`, shifted: of `lanes` outputs,
   whose sums stay in registers. Weights are of this kind, the rows `row_bytes` apart. */
INLINE void NAME(add_windows)(const int lanes, const int kind, const char *weights, int64_t row_bytes,
                              const NAME(Window) *window, int64_t windows, int64_t at, int shift, int32_t *to) {
    enum { HALF = WORD_LANES / 2, MOST = LISTED_LANES / HALF };
    const int words = lanes / (kind == WIDE ? HALF : WORD_LANES);
    WORD sum[MOST], high[MOST];
    for (int w = 0; w < words; w++) sum[w] = high[w] = ZERO();
    int32_t ones = 0;
    for (; windows > 0; windows--, window++) {
        const uint32_t first = window->row->start[at + window->from], end = window->row->start[at + window->to];
        const int32_t *entry = window->row->entry;
        const int16_t *spike = window->row->spike;
        const char *rows = weights + window->base * row_bytes;
        for (uint32_t i = first; i < end; i += kind == SUMS32 ? 2 : 1) {
            const char *row = rows + entry[i] * row_bytes;
            if (kind == SUMS32) { /* two rows are interleaved: one instruction multiplies both and adds them */
                const char *next = rows + entry[i + 1] * row_bytes;
                int32_t pair;
                memcpy(&pair, spike + i, sizeof pair);
                const WORD factors = EACH_PAIR(pair);
                for (int w = 0; w < words; w++) {
                    const WORD x = LOAD(row + (VECTOR / 8) * w), y = LOAD(next + (VECTOR / 8) * w);
                    ADD_PRODUCTS(sum[w], high[w], x, y, factors);
                }
            } else if (kind == SUMS16) {
                const WORD factor = EACH(spike[i]);
                for (int w = 0; w < words; w++)
                    sum[w] = ADD16(sum[w], TIMES16(LOAD(row + (VECTOR / 8) * w), factor));
            } else if (spike[i] == 1 || spike[i] == -1) { /* -x is ~x + 1 */
                const WORD sign = EACH_PAIR(spike[i] >> 1);
                ones -= spike[i] >> 1;
                for (int w = 0; w < words; w++) sum[w] = ADD32(sum[w], XOR(LOAD(row + (VECTOR / 8) * w), sign));
            } else {
                const WORD factor = EACH_PAIR(spike[i]);
                for (int w = 0; w < words; w++)
                    sum[w] = ADD32(sum[w], TIMES32(LOAD(row + (VECTOR / 8) * w), factor));
            }
        }
    }
    for (int w = 0; w < words; w++) {
        if (kind == WIDE) {
            const WORD all = ADD32(sum[w], EACH_PAIR(ones));
            STORE(to + HALF * w, ADD32(LOAD(to + HALF * w), SHIFTED32(all, shift)));
            continue;
        }
        const WORD even = kind == SUMS16 ? WIDER(sum[w], 0) : FIRST(sum[w], high[w]);
        const WORD odd = kind == SUMS16 ? WIDER(sum[w], 1) : SECOND(sum[w], high[w]);
        int32_t *half = to + WORD_LANES * w;
        STORE(half, ADD32(LOAD(half), SHIFTED32(even, shift)));
        STORE(half + HALF, ADD32(LOAD(half + HALF), SHIFTED32(odd, shift)));
    }
}

/* The same of as many outputs as registers hold. Returns how many those were. */
#define OF_KIND(lanes)                                                                                                \
    switch (kind) {                                                                                                   \
        case SUMS16: NAME(add_windows)(lanes, SUMS16, weights, row_bytes, window, windows, at, shift, to); break;     \
        case SUMS32: NAME(add_windows)(lanes, SUMS32, weights, row_bytes, window, windows, at, shift, to); break;     \
        default: NAME(add_windows)(lanes, WIDE, weights, row_bytes, window, windows, at, shift, to); break;           \
    }                                                                                                                 \
    return lanes;
static int64_t NAME(add_some)(int64_t kind, int64_t lanes, const char *weights, int64_t row_bytes, const NAME(Window) *window,
                              int64_t windows, int64_t at, int shift, int32_t *to) {
#if LISTED_LANES == 128
    if (lanes >= 128) { OF_KIND(128) }
#endif
    if (lanes >= 64) { OF_KIND(64) }
    OF_KIND(32)
}
#undef OF_KIND
#endif

/* to [width] += what the windows of a position send at `step`, shifted. Returns how many entries they list. */
static int64_t NAME(add_listed)(const ConvolutionTerm *term, int64_t block, const NAME(Window) *window, int64_t windows,
                                int64_t step, int64_t width, int32_t *to) {
    const int64_t at = step * term->width, size = term->kind == WIDE ? 4 : 2;
    const char *weights = (const char *)term->weights + block * term->block_bytes;
    int64_t count = 0;
    for (int64_t w = 0; w < windows; w++)
        count += window[w].row->start[at + window[w].to] - window[w].row->start[at + window[w].from];
    if (!count) return 0;
#if VECTOR
    for (int64_t lane = 0, now; lane < width; lane += now)
        now = NAME(add_some)(term->kind, width - lane, weights + lane * size, width * size, window, windows, at, (int)term->shift,
                             to + lane);
#else
    for (int64_t w = 0; w < windows; w++)
        for (uint32_t i = window[w].row->start[at + window[w].from]; i < window[w].row->start[at + window[w].to]; i++) {
            /* Unsigned, because a sum may wrap around on the way to a result that fits. */
            const uint32_t factor = (uint32_t)(int32_t)window[w].row->spike[i];
            const char *row = weights + (window[w].row->entry[i] + window[w].base) * width * size;
            for (int64_t k = 0; k < width; k++) {
                const int32_t weight = size == 4 ? ((const int32_t *)row)[k] : ((const int16_t *)row)[k];
                to[k] = (int32_t)((uint32_t)to[k] + (factor * (uint32_t)weight << term->shift));
            }
        }
#endif
    return count;
}
