/* Products of spikes by tables: four inputs that spike once, not at all or once back have 81 patterns, and the sums of their
   weights are tabled. So one row is added for four inputs, whatever they do, without a branch. */

#undef UNROLLED
#define UNROLLED _Pragma("GCC unroll 16") /* so that sums stay in registers */

#undef SUM_LANES
#if VECTOR
#define SUM_LANES (VECTOR / 32)
#else
#define SUM_LANES 4
#endif
/* Unsigned, because a sum may wrap around on the way to a result that fits. */
typedef uint32_t NAME(Sums) __attribute__((vector_size(4 * SUM_LANES), aligned(4), may_alias));

/* For every four of `n` channels, which spike at most once, where the row of their pattern begins in a table, seen from that of
   silence: their pattern is a number in base 3 with the digits -1, 0 and 1. */
INLINE void NAME(keys_of)(const int8_t *in, int64_t n, int32_t row_bytes, int16_t *key) {
    int64_t g = 0;
#if VECTOR >= 256
    for (; 4 * g + VECTOR / 8 <= n; g += VECTOR / 32) NAME(weigh_fours)(in + 4 * g, row_bytes, key + g);
#endif
    for (; g < n / 4; g++) {
        const int8_t *four = in + 4 * g;
        key[g] = (int16_t)((four[0] + 3 * four[1] + 9 * four[2] + 27 * four[3]) * row_bytes);
    }
    if (n % 4) {
        int8_t four[4] = {0};
        memcpy(four, in + 4 * g, (size_t)(n % 4));
        key[g] = (int16_t)((four[0] + 3 * four[1] + 9 * four[2]) * row_bytes);
    }
}

/* A bit for each of `n` times four keys: whether anything spikes there. Reads up to 64 bytes in one go. */
INLINE void NAME(mark_spikes)(const int16_t *key, int64_t n, uint64_t *some) {
    for (int64_t k = 0; k < n; k += 64, some++) {
        *some = 0;
        for (int64_t j = k; j < n && j < k + 64; j += 8) {
            const uint64_t eight = NAME(nonzero)(key + 4 * j);
            *some |= (n - j < 8 ? eight & ((1u << (n - j)) - 1) : eight) << (j - k);
        }
    }
}

/* The first bit from `k` on that is set, of those before `end`; end: none. */
INLINE int64_t NAME(next_bit)(const uint64_t *bits, int64_t k, int64_t end) {
    while (k < end) {
        const uint64_t rest = bits[k / 64] >> (k % 64);
        if (rest) return k + lowest_bit(rest) < end ? k + lowest_bit(rest) : end;
        k = (k / 64 + 1) * 64;
    }
    return end;
}

/* How many bits from `k` on are set, of those before `end`. */
INLINE int64_t NAME(count_bits)(const uint64_t *bits, int64_t k, int64_t end) {
    int64_t count = 0;
    while (k < end) {
        const int64_t next = (k / 64 + 1) * 64;
        uint64_t rest = bits[k / 64] >> (k % 64);
        if (end < next) rest &= ((uint64_t)1 << (end - k)) - 1;
        count += __builtin_popcountll(rest);
        k = next;
    }
    return count;
}

/* to [positions, width] += the rows that the keys of some neighbours choose, shifted: `words` vectors of each. `key`: of each
   kernel row, from the first position that is read; NULL: nothing spikes there. */
INLINE void NAME(add_chosen)(const int words, const int positions, const ConvolutionTerm *term, const int16_t *const *key,
                             const char *table, const int64_t width, int32_t *to) {
    NAME(Sums) sums[TILE][2];
    const int64_t quarters = term->quarters, next = term->stride_x * quarters, row_bytes = 4 * width;
    const int64_t pattern = PATTERNS * row_bytes, kernel_y = term->kernel_y, kernel_x = term->kernel_x;
    const int64_t along = term->dilation_x * quarters, tap = kernel_y * quarters * pattern;
    table += SILENCE * row_bytes;
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int w = 0; w < words; w++) sums[p][w] = (NAME(Sums)){0};
    for (int64_t ky = 0; ky < kernel_y; ky++, table += quarters * pattern) {
        if (!key[ky]) continue;
        const char *column = table;
        const int16_t *keys = key[ky];
        for (int64_t kx = 0; kx < kernel_x; kx++, column += tap, keys += along) {
            const char *first = column;
            for (int64_t q = 0; q < quarters; q += 4, first += 4 * pattern) {
                const int16_t *at = keys + q;
                UNROLLED for (int p = 0; p < positions; p++, at += next) {
                    uint64_t four; /* one load for four keys */
                    memcpy(&four, at, 8);
                    const NAME(Sums) *a = (const NAME(Sums) *)(first + (int16_t)four);
                    const NAME(Sums) *b = (const NAME(Sums) *)(first + (int16_t)(four >> 16) + pattern);
                    const NAME(Sums) *c = (const NAME(Sums) *)(first + (int16_t)(four >> 32) + 2 * pattern);
                    const NAME(Sums) *d = (const NAME(Sums) *)(first + ((int64_t)four >> 48) + 3 * pattern);
                    UNROLLED for (int w = 0; w < words; w++) sums[p][w] = sums[p][w] + a[w] + b[w] + c[w] + d[w];
                }
            }
        }
    }
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int w = 0; w < words; w++) ((NAME(Sums) *)(to + p * width))[w] += sums[p][w] << (uint32_t)term->shift;
}

/* The same for all of a row. */
INLINE void NAME(add_rows)(const ConvolutionTerm *term, const int16_t *const *key, const char *table, int64_t positions,
                           const int64_t width, int32_t *to) {
#if VECTOR == 512
    for (int64_t lane = 0; lane < width; lane += 2 * SUM_LANES) {
        const int two = width - lane >= 2 * SUM_LANES, many = positions > 4;
        const char *part = table + 4 * lane;
        if (two && many) NAME(add_chosen)(2, 8, term, key, part, width, to + lane);
        else if (two) NAME(add_chosen)(2, 4, term, key, part, width, to + lane);
        else if (positions > 8) NAME(add_chosen)(1, 16, term, key, part, width, to + lane);
        else if (many) NAME(add_chosen)(1, 8, term, key, part, width, to + lane);
        else NAME(add_chosen)(1, 4, term, key, part, width, to + lane);
    }
#else
    for (int64_t p = 0; p < positions; p += 4) {
        const int16_t *from[MOST_KERNEL];
        for (int64_t ky = 0; ky < term->kernel_y; ky++)
            from[ky] = key[ky] ? key[ky] + p * term->stride_x * term->quarters : NULL;
        for (int64_t lane = 0; lane < width; lane += 2 * SUM_LANES)
            NAME(add_chosen)(2, 4, term, from, table + 4 * lane, width, to + p * width + lane);
    }
#endif
}

/* The same for a tile of `positions`, of which there is room for TILE. */
static void NAME(add_tabled)(const ConvolutionTerm *term, const int16_t *const *key, const char *table, int64_t positions,
                             int64_t width, int32_t *to) {
    if (width == 16) NAME(add_rows)(term, key, table, positions, 16, to);
    else if (width == 32) NAME(add_rows)(term, key, table, positions, 32, to);
    else NAME(add_rows)(term, key, table, positions, width, to);
}

/* The same where few of the inputs spike: each sends its rows to the positions that read it. `some` of the four keys from `first`
   on, of each kernel row, are not of silence. */
static void NAME(add_few)(const ConvolutionTerm *term, const int16_t *const *key, const uint64_t *const *some, int64_t first,
                          const char *table, int64_t positions, int64_t width, int32_t *to) {
    const int64_t row_bytes = 4 * width, pattern = PATTERNS * row_bytes, fours = term->quarters / 4;
    const int64_t end = first + across_of(term, positions) * fours;
    const uint32_t shift = (uint32_t)term->shift;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        if (!key[ky]) continue;
        for (int64_t unit = NAME(next_bit)(some[ky], first, end); unit < end; unit = NAME(next_bit)(some[ky], unit + 1, end)) {
            const int64_t x = (unit - first) / fours, quarter = (unit - first) % fours * 4;
            uint64_t four;
            memcpy(&four, key[ky] + 4 * (unit - first), 8);
            while (four) {
                const int64_t q = lowest_bit(four) / 16;
                const char *row = table + (ky * term->quarters + quarter + q) * pattern + SILENCE * row_bytes +
                                  (int16_t)(four >> 16 * q);
                four &= ~((uint64_t)0xffff << 16 * q);
                for (int64_t kx = 0; kx < term->kernel_x; kx++, row += term->kernel_y * term->quarters * pattern) {
                    const int64_t at = x - kx * term->dilation_x, p = term->stride_x == 1 ? at : at / term->stride_x;
                    if (at < 0) break;
                    if (p >= positions || p * term->stride_x != at) continue;
                    for (int64_t lane = 0; lane < width; lane += SUM_LANES)
                        *(NAME(Sums) *)(to + p * width + lane) += *(const NAME(Sums) *)(row + 4 * lane) << shift;
                }
            }
        }
    }
}

/* to [positions, width] += in * weight, shifted, of `n` channels at positions that lie `next` apart in `in`. Returns whether
   anything spikes there. */
INLINE int NAME(add_products)(int64_t positions, int64_t n, const int8_t *in, int64_t next, const int32_t *weight, int shift,
                              int64_t width, int32_t *to) {
    int64_t k = 0;
    int32_t any = 0;
#if VECTOR
    enum { LANES = WORD_LANES / 2 };
    NAME(Lanes) some = {0};
    for (; k + LANES <= n; k += LANES) {
        const WORD factor = SHIFTED32(LOAD(weight + k), shift);
        int32_t *sum = to + k;
        for (int64_t p = 0; p < positions; p++, sum += width) {
            const WORD spikes = WIDENED(in + p * next + k);
            some |= (NAME(Lanes))spikes;
            STORE(sum, ADD32(LOAD(sum), TIMES32(spikes, factor)));
        }
    }
    any = ANY(GREATER(some, ZERO()) | GREATER(ZERO(), some));
#endif
    for (; k < n; k++)
        for (int64_t p = 0; p < positions; p++) {
            const int32_t spike = in[p * next + k];
            any |= spike;
            to[p * width + k] = (int32_t)((uint32_t)to[p * width + k] + ((uint32_t)spike * (uint32_t)weight[k] << shift));
        }
    return any != 0;
}

/* to [positions, width] += what each output's own input channel sends at `step`, shifted. Returns whether anything spikes there. */
static int NAME(add_own)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t step, int64_t block, int64_t oy,
                         int64_t ox, int64_t positions, int64_t outputs, int64_t width, int32_t *to) {
    const int64_t row = term->width * term->channels, later = samples * term->height * row, stride = term->stride_x;
    const int8_t *plane = term->train + step * later + sample * term->height * row + term->in_lo[block];
    const int32_t *weight = (const int32_t *)((const char *)term->weights + block * term->block_bytes);
    const int is_ahead = step + 2 < term->steps;
    int any = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = input_row(term, oy, ky);
        for (int64_t kx = 0; y >= 0 && kx < term->kernel_x; kx++) {
            const int64_t left = ox * stride - term->pad_x + kx * term->dilation_x; /* of the first position, and of the last: */
            const int64_t right = left + (positions - 1) * stride;
            const int64_t first = left < 0 ? (stride - 1 - left) / stride : 0;
            const int64_t end = right < term->width ? positions : positions - (right - term->width) / stride - 1;
            if (first >= end) continue;
            const int8_t *in = plane + y * row + (left + first * stride) * term->channels;
            const int64_t bytes = (end - first - 1) * stride * term->channels + outputs;
            for (int64_t byte = 0; is_ahead && byte < bytes; byte += 64) /* steps lie far apart */
                __builtin_prefetch(in + 2 * later + byte);
            any |= NAME(add_products)(end - first, outputs, in, stride * term->channels,
                                      weight + (ky * term->kernel_x + kx) * width, (int)term->shift, width, to + first * width);
        }
    }
    return any;
}
