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

/* Which pattern four int8 are: a number in base 3, in which 2 is a spike back. */
INLINE uint32_t NAME(pattern)(uint32_t four) {
    four &= 0x03030303;
    four -= (four >> 1) & 0x01010101;
    return four * (1u << 24 | 3 << 16 | 9 << 8 | 27) >> 24;
}

/* For every four of `n` channels, where the row of their pattern begins in a table. */
INLINE void NAME(keys_of)(const int8_t *in, int64_t n, uint32_t row_bytes, uint16_t *key) {
    for (int64_t g = 0; g < n / 4; g++) {
        uint32_t four;
        memcpy(&four, in + 4 * g, 4);
        key[g] = (uint16_t)(NAME(pattern)(four) * row_bytes);
    }
    if (n % 4) {
        uint32_t four = 0;
        memcpy(&four, in + n / 4 * 4, (size_t)(n % 4));
        key[n / 4] = (uint16_t)(NAME(pattern)(four) * row_bytes);
    }
}

/* to [positions, width] += the rows that the keys of some neighbours choose, shifted: `words` vectors of each. `key`: of each
   kernel row, from the first position that is read; NULL: nothing spikes there. */
INLINE void NAME(add_chosen)(const int words, const int positions, const ConvolutionTerm *term, const uint16_t *const *key,
                             const char *table, int64_t row_bytes, int64_t width, int32_t *to) {
    NAME(Sums) sums[TILE][2];
    const int64_t quarters = term->quarters, next = term->stride_x * quarters, pattern = PATTERNS * row_bytes;
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int w = 0; w < words; w++) sums[p][w] = (NAME(Sums)){0};
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        if (!key[ky]) continue;
        for (int64_t kx = 0; kx < term->kernel_x; kx++) {
            const char *first = table + (kx * term->kernel_y + ky) * quarters * pattern;
            for (int64_t q = 0; q < quarters; q += 4, first += 4 * pattern) {
                const uint16_t *at = key[ky] + kx * term->dilation_x * quarters + q;
                const char *second = first + pattern, *third = second + pattern, *fourth = third + pattern;
                UNROLLED for (int p = 0; p < positions; p++) {
                    uint64_t four; /* one load for four keys */
                    memcpy(&four, at + p * next, 8);
                    const NAME(Sums) *a = (const NAME(Sums) *)(first + (uint16_t)four);
                    const NAME(Sums) *b = (const NAME(Sums) *)(second + (uint16_t)(four >> 16));
                    const NAME(Sums) *c = (const NAME(Sums) *)(third + (uint16_t)(four >> 32));
                    const NAME(Sums) *d = (const NAME(Sums) *)(fourth + (four >> 48));
                    UNROLLED for (int w = 0; w < words; w++) sums[p][w] = sums[p][w] + a[w] + b[w] + c[w] + d[w];
                }
            }
        }
    }
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int w = 0; w < words; w++) ((NAME(Sums) *)(to + p * width))[w] += sums[p][w] << (uint32_t)term->shift;
}

/* The same for all of a row, and a tile of `positions`, of which there is room for TILE. */
static void NAME(add_tabled)(const ConvolutionTerm *term, const uint16_t *const *key, const char *table, int64_t positions,
                             int64_t width, int32_t *to) {
    const int64_t row_bytes = 4 * width;
#if VECTOR == 512
    for (int64_t lane = 0; lane < width; lane += 2 * SUM_LANES) {
        const int two = width - lane >= 2 * SUM_LANES, many = positions > 4;
        const char *part = table + 4 * lane;
        if (two && many) NAME(add_chosen)(2, 8, term, key, part, row_bytes, width, to + lane);
        else if (two) NAME(add_chosen)(2, 4, term, key, part, row_bytes, width, to + lane);
        else if (positions > 8) NAME(add_chosen)(1, 16, term, key, part, row_bytes, width, to + lane);
        else if (many) NAME(add_chosen)(1, 8, term, key, part, row_bytes, width, to + lane);
        else NAME(add_chosen)(1, 4, term, key, part, row_bytes, width, to + lane);
    }
#else
    for (int64_t p = 0; p < positions; p += 4) {
        const uint16_t *from[MOST_KERNEL];
        for (int64_t ky = 0; ky < term->kernel_y; ky++)
            from[ky] = key[ky] ? key[ky] + p * term->stride_x * term->quarters : NULL;
        for (int64_t lane = 0; lane < width; lane += 2 * SUM_LANES)
            NAME(add_chosen)(2, 4, term, from, table + 4 * lane, row_bytes, width, to + p * width + lane);
    }
#endif
}

/* sum += in * weight, shifted, of `n` channels. Returns what is not zero where anything spikes. */
INLINE int32_t NAME(add_products)(int64_t n, const int8_t *in, const int32_t *weight, int shift, int32_t *sum) {
    int64_t k = 0;
    int32_t any = 0;
#if VECTOR
    enum { LANES = WORD_LANES / 2 };
    NAME(Lanes) some = {0};
    for (; k + LANES <= n; k += LANES) {
        const WORD spikes = WIDENED(in + k);
        some |= (NAME(Lanes))spikes;
        STORE(sum + k, ADD32(LOAD(sum + k), SHIFTED32(TIMES32(spikes, LOAD(weight + k)), shift)));
    }
    any = ANY(GREATER(some, ZERO()) | GREATER(ZERO(), some));
#endif
    for (; k < n; k++) {
        any |= in[k];
        sum[k] = (int32_t)((uint32_t)sum[k] + ((uint32_t)(int32_t)in[k] * (uint32_t)weight[k] << shift));
    }
    return any;
}

/* to [positions, width] += what each output's own input channel sends at `step`, shifted. Returns whether anything spikes there. */
static int NAME(add_own)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t step, int64_t block, int64_t oy,
                         int64_t ox, int64_t positions, int64_t outputs, int64_t width, int32_t *to) {
    const int64_t row = term->width * term->channels, next = samples * term->height * row;
    const int8_t *plane = term->train + step * next + sample * term->height * row + term->in_lo[block];
    const int32_t *weights = (const int32_t *)((const char *)term->weights + block * term->block_bytes);
    const int is_ahead = step + 2 < term->steps, shift = (int)term->shift;
    int32_t any = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = input_row(term, oy, ky);
        if (y < 0) continue;
        for (int64_t kx = 0; kx < term->kernel_x; kx++) {
            const int32_t *weight = weights + (ky * term->kernel_x + kx) * width;
            int64_t x = ox * term->stride_x - term->pad_x + kx * term->dilation_x;
            for (int64_t p = 0; p < positions; p++, x += term->stride_x) {
                if (x < 0 || x >= term->width) continue;
                const int8_t *in = plane + y * row + x * term->channels;
                if (is_ahead) __builtin_prefetch(in + 2 * next); /* steps lie far apart */
                any |= NAME(add_products)(outputs, in, weight, shift, to + p * width);
            }
        }
    }
    return any != 0;
}
