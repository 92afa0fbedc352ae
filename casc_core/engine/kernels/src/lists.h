/* Products of spikes by lists: each row of input positions becomes lists of the channels that spike. At each step a tile joins
   those of the rows that it reads, column by column, so that what an output position reads is one piece; it adds the rows of
   weights behind that. */

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

/* Fills the lists of input row `y` with what spikes among the channels in_lo .. in_lo + in_n - 1; what is rounded needs to know
   how sums of spikes grow, which takes `sums` [width, in_n]. */
static void NAME(read_lists)(const ConvolutionTerm *term, const uint8_t (*ones)[8], int64_t samples, int64_t sample, int64_t y,
                             int64_t in_lo, int64_t in_n, int16_t *sums, InputRow *row) {
    uint32_t count = 0;
    const int64_t width = term->width;
    const int is_rounded = term->left_out.error != 0;
    if (is_rounded) memset(sums, 0, (size_t)(width * in_n) * sizeof *sums);
    const int64_t next = samples * term->height * width * term->channels;
    for (int64_t step = 0; step < term->steps; step++) {
        const int8_t *in = term->train + step * next + (sample * term->height + y) * width * term->channels + in_lo;
        const int is_ahead = step + 2 < term->steps;
        for (int64_t x = 0; x < width; x++, in += term->channels) {
            if (is_ahead) /* steps lie far apart */
                for (int64_t byte = 0; byte < in_n; byte += 64) __builtin_prefetch(in + 2 * next + byte);
            row->start[step * width + x] = count;
            count += NAME(list_spikes)(ones, in, in_n, (int32_t)(x * in_n), row->entry + count, row->spike + count);
            if (is_rounded) row->growth[step * width + x] = NAME(grow)(in_n, in, sums + x * in_n);
        }
    }
    row->start[term->steps * width] = count;
}

/* Joins the lists of the rows that output row `oy` reads at a step, from input column `left` on, `across` of them: entry
   (x, ky, channel) has the number (x * kernel_y + ky) * in_n + channel. Rows of weights are added in pairs, so the list of a column
   is of even length: no spike may be its last. */
static void NAME(join)(const ConvolutionTerm *term, const InputRow *ring, int64_t step, int64_t oy, int64_t left, int64_t across,
                       int64_t in_n, Columns *columns) {
    const int64_t width = term->width, kernel_y = term->kernel_y;
    const int is_rounded = term->left_out.error != 0;
    uint32_t count = 0;
    int64_t rows = 0;
    for (int64_t ky = 0; ky < kernel_y; ky++) {
        const int64_t y = input_row(term, oy, ky);
        if (y < 0) continue;
        columns->row[rows] = ring + y % term->ring, columns->ky[rows++] = ky;
    }
    for (int64_t x = 0; x < across; x++) {
        columns->start[x] = count, columns->growth[x] = 0;
        if (left + x < 0 || left + x >= width) continue;
        const int64_t at = step * width + left + x;
        for (int64_t r = 0; r < rows; r++) {
            const InputRow *row = columns->row[r];
            const uint32_t first = row->start[at], n = row->start[at + 1] - first;
            const int32_t by = (int32_t)((x * kernel_y + columns->ky[r] - left - x) * in_n);
            const int32_t *from = row->entry + first;
            int32_t *to = columns->entry + count;
            for (int64_t i = 0; i < n; i += LIST_ROOM) { /* beyond the end, where any number may be */
#if VECTOR
                for (int64_t k = i; k < i + LIST_ROOM; k += WORD_LANES / 2)
                    STORE(to + k, ADD32(LOAD(from + k), EACH_PAIR(by)));
#else
                for (int64_t k = i; k < i + LIST_ROOM; k++) to[k] = (int32_t)((uint32_t)from[k] + (uint32_t)by);
#endif
                memcpy(columns->spike + count + i, row->spike + first + i, LIST_ROOM * sizeof *row->spike);
            }
            count += n;
            if (is_rounded) columns->growth[x] += row->growth[at];
        }
        columns->entry[count] = (int32_t)(x * kernel_y * in_n), columns->spike[count] = 0;
        count += count & 1;
    }
    columns->start[across] = count;
}

#if VECTOR
/* to += the weights behind entries from `first` to before `end`, shifted: of `lanes` outputs, whose sums stay in registers. Weights
   are of this kind, the rows `row_bytes` apart. */
INLINE void NAME(add_entries)(const int lanes, const int kind, const char *weights, int64_t row_bytes, const Columns *columns,
                              uint32_t first, uint32_t end, int shift, int32_t *to) {
    enum { HALF = WORD_LANES / 2, MOST = LISTED_LANES / HALF, BYTES = VECTOR / 8 };
    const int words = lanes / (kind == WIDE ? HALF : WORD_LANES);
    const int32_t *entry = columns->entry;
    const int16_t *spike = columns->spike;
    WORD sum[MOST], high[MOST];
    for (int w = 0; w < words; w++) sum[w] = high[w] = ZERO();
    int32_t ones = 0;
    for (uint32_t i = first; i < end; i += kind == SUMS32 ? 2 : 1) {
        const char *row = weights + entry[i] * row_bytes;
        if (kind == SUMS32) { /* two rows are interleaved: one instruction multiplies both and adds them */
            const char *next = weights + entry[i + 1] * row_bytes;
            int32_t pair;
            memcpy(&pair, spike + i, sizeof pair);
            const WORD factors = EACH_PAIR(pair);
            for (int w = 0; w < words; w++) {
                const WORD x = LOAD(row + BYTES * w), y = LOAD(next + BYTES * w);
                ADD_PRODUCTS(sum[w], high[w], x, y, factors);
            }
        } else if (kind == SUMS16) {
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

/* The same of as many outputs as registers hold. Returns how many those were. */
#define OF_KIND(lanes)                                                                                                \
    switch (kind) {                                                                                                   \
        case SUMS16: NAME(add_entries)(lanes, SUMS16, weights, row_bytes, columns, first, end, shift, to); break;     \
        case SUMS32: NAME(add_entries)(lanes, SUMS32, weights, row_bytes, columns, first, end, shift, to); break;     \
        default: NAME(add_entries)(lanes, WIDE, weights, row_bytes, columns, first, end, shift, to); break;           \
    }                                                                                                                 \
    return lanes;
static int64_t NAME(add_some)(int64_t kind, int64_t lanes, const char *weights, int64_t row_bytes, const Columns *columns,
                              uint32_t first, uint32_t end, int shift, int32_t *to) {
#if LISTED_LANES == 128
    if (lanes >= 128) { OF_KIND(128) }
#endif
    if (lanes >= 64) { OF_KIND(64) }
    OF_KIND(32)
}
#undef OF_KIND
#endif

/* to [width] += the weights behind entries from `first` to before `end`, shifted; row 0 of the weights is behind entry `base`. */
static void NAME(add_listed)(const ConvolutionTerm *term, int64_t block, const Columns *columns, uint32_t first, uint32_t end,
                             int64_t base, int64_t width, int32_t *to) {
    const int64_t size = term->kind == WIDE ? 4 : 2;
    const char *weights = (const char *)term->weights + block * term->block_bytes - base * width * size;
#if VECTOR
    for (int64_t lane = 0, now; lane < width; lane += now)
        now = NAME(add_some)(term->kind, width - lane, weights + lane * size, width * size, columns, first, end, (int)term->shift,
                             to + lane);
#else
    for (uint32_t i = first; i < end; i++) {
        /* Unsigned, because a sum may wrap around on the way to a result that fits. */
        const uint32_t factor = (uint32_t)(int32_t)columns->spike[i];
        const char *row = weights + columns->entry[i] * width * size;
        for (int64_t k = 0; k < width; k++) {
            const int32_t weight = size == 4 ? ((const int32_t *)row)[k] : ((const int16_t *)row)[k];
            to[k] = (int32_t)((uint32_t)to[k] + (factor * (uint32_t)weight << term->shift));
        }
    }
#endif
}
