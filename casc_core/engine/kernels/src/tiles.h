/* A population behind convolutions of few channels, tile by tile: a tile is some neighbours in a row of outputs.

   Four input channels that spike once, not at all or once back have 81 patterns. The sums of their weights are tabled, so that
   an output adds one row of a table for four inputs, whatever they do, and without a branch. Where little spikes in reach of
   a tile, the weights behind each spike are added instead. */

#undef LANES
#if VECTOR
#define LANES (VECTOR / 32)
#else
#define LANES 4
#endif
/* Sums wrap around where they may, so they are unsigned. */
typedef uint32_t NAME(Sums) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int8_t NAME(Spikes) __attribute__((vector_size(LANES), aligned(1)));
typedef NAME(Sums) NAME(Anywhere) __attribute__((may_alias));

/* One row of input positions. Of what spikes at (step, x) start[step * width + x] tells how much came before it; where
   listed[step], `entry` lists it from there on: x * in_n + channel, and `spike`. `key` [step, x with the padding, quarters]
   says for every four channels where the row of their pattern begins in a table. */
typedef struct {
    int64_t y; /* which row it is; -1: none */
    uint32_t *start;
    int32_t *entry;
    int16_t *spike;
    uint16_t *key;
    uint8_t *listed;
} NAME(TiledRow);

/* The row of a table that four channels choose, numbered in base 3: 0, 1, and 2 for a spike back. */
INLINE uint32_t NAME(pattern)(uint32_t four) {
    four &= 0x03030303;
    four -= (four >> 1) & 0x01010101;
    return (four * (1u << 24 | 3 << 16 | 9 << 8 | 27)) >> 24;
}

/* The keys of a position's channels. */
INLINE void NAME(keys)(const int8_t *in, int64_t n, uint32_t row_bytes, uint16_t *key) {
    int64_t g = 0;
    for (; 4 * g + 4 <= n; g++) {
        uint32_t four;
        memcpy(&four, in + 4 * g, 4);
        key[g] = (uint16_t)(NAME(pattern)(four) * row_bytes);
    }
    if (4 * g < n) {
        uint32_t four = 0;
        memcpy(&four, in + 4 * g, (size_t)(n - 4 * g));
        key[g] = (uint16_t)(NAME(pattern)(four) * row_bytes);
    }
}

/* How many of some channels spike, in either direction. */
INLINE uint32_t NAME(spiking)(const int8_t *in, int64_t n) {
    uint32_t count = 0;
    int64_t c = 0;
    for (; c + 8 <= n; c += 8) {
        uint64_t eight;
        memcpy(&eight, in + c, 8);
        count += (uint32_t)__builtin_popcountll(eight & 0x0101010101010101);
    }
    for (; c < n; c++) count += in[c] & 1;
    return count;
}

/* Reads input row `y` of the channels that a block reads. */
static void NAME(read_tiled)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t block,
                             int64_t row_bytes, NAME(TiledRow) *row) {
    const int64_t width = term->width, in_n = term->in_n[block], quarters = term->quarters;
    const int64_t padded = term->padded_width * quarters;
    uint32_t count = 0;
    row->y = y;
    for (int64_t step = 0; step < term->steps; step++) {
        const int8_t *in = term->train + (((step * samples + sample) * term->height + y) * width) * term->channels +
                           term->in_lo[block];
        uint16_t *key = row->key + step * padded + term->pad_x * quarters;
        const uint32_t before = count;
        for (int64_t x = 0; x < width; x++) {
            row->start[step * width + x] = count;
            count += NAME(spiking)(in + x * term->channels, in_n);
        }
        if (count == before) {
            memset(key, 0, (size_t)(width * quarters) * sizeof *key);
            row->listed[step] = 1;
            continue;
        }
        if (in_n == term->channels && in_n == 4 * quarters)
            NAME(keys)(in, width * in_n, (uint32_t)row_bytes, key);
        else
            for (int64_t x = 0; x < width; x++)
                NAME(keys)(in + x * term->channels, in_n, (uint32_t)row_bytes, key + x * quarters);
        row->listed[step] = (count - before) * SPARSE < width * in_n;
        if (!row->listed[step]) continue;
        uint32_t at = before;
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < in_n; c += 8) {
                uint64_t eight = 0;
                memcpy(&eight, in + x * term->channels + c, (size_t)(in_n - c < 8 ? in_n - c : 8));
                for (uint64_t bits = eight & 0x0101010101010101; bits; bits &= bits - 1) {
                    const int64_t channel = c + lowest_bit(bits) / 8;
                    row->entry[at] = (int32_t)(x * in_n + channel);
                    row->spike[at++] = in[x * term->channels + channel];
                }
            }
    }
    row->start[term->steps * width] = count;
}

/* to [positions, width] += the rows that some positions' keys choose, shifted: of so many vectors from `table` on. */
INLINE void NAME(add_chosen)(const int words, const int positions, const ConvolutionTerm *term, const uint16_t *const *key,
                             const char *table, int64_t row_bytes, int64_t width, uint32_t *to) {
    NAME(Sums) sums[positions][words];
    const int64_t quarters = term->quarters, next = term->stride_x * quarters, tap = quarters * PATTERNS * row_bytes;
    for (int p = 0; p < positions; p++)
        for (int w = 0; w < words; w++) sums[p][w] = (NAME(Sums)){0};
    for (int64_t ky = 0; ky < term->kernel_y; ky++, table += term->kernel_x * tap) {
        if (!key[ky]) continue;
        const char *of_tap = table;
        for (int64_t kx = 0; kx < term->kernel_x; kx++)
            for (int64_t q = 0; q < quarters; q += 4, of_tap += 4 * PATTERNS * row_bytes) {
                const uint16_t *keys = key[ky] + kx * term->dilation_x * quarters + q;
                const char *second = of_tap + PATTERNS * row_bytes, *third = second + PATTERNS * row_bytes;
                const char *fourth = third + PATTERNS * row_bytes;
                for (int p = 0; p < positions; p++, keys += next) {
                    uint64_t four;
                    memcpy(&four, keys, 8);
                    const NAME(Anywhere) *a = (const NAME(Anywhere) *)(of_tap + (uint16_t)four);
                    const NAME(Anywhere) *b = (const NAME(Anywhere) *)(second + (uint16_t)(four >> 16));
                    const NAME(Anywhere) *c = (const NAME(Anywhere) *)(third + (uint16_t)(four >> 32));
                    const NAME(Anywhere) *d = (const NAME(Anywhere) *)(fourth + (four >> 48));
                    for (int w = 0; w < words; w++) sums[p][w] += a[w] + b[w] + (c[w] + d[w]);
                }
            }
    }
    for (int p = 0; p < positions; p++)
        for (int w = 0; w < words; w++) {
            NAME(Anywhere) *sum = (NAME(Anywhere) *)(to + p * width) + w;
            *sum += sums[p][w] << (uint32_t)term->shift;
        }
}

/* The same for all of a tile. */
static void NAME(add_tabled)(const ConvolutionTerm *term, const uint16_t *const *key, int64_t block, int64_t positions,
                             int64_t width, uint32_t *to) {
    const char *table = (const char *)term->tables + block * term->table_bytes;
    const int64_t row_bytes = 4 * width;
    for (int64_t lane = 0; lane < width;) {
#if VECTOR == 512
        const int words = width - lane >= 2 * LANES ? 2 : 1;
        if (words == 2 && positions > 4) NAME(add_chosen)(2, 8, term, key, table, row_bytes, width, to + lane);
        else if (words == 2) NAME(add_chosen)(2, 4, term, key, table, row_bytes, width, to + lane);
        else if (positions > 4) NAME(add_chosen)(1, 8, term, key, table, row_bytes, width, to + lane);
        else NAME(add_chosen)(1, 4, term, key, table, row_bytes, width, to + lane);
#else
        const int words = 2;
        for (int64_t p = 0; p < positions; p += 4) {
            const uint16_t *from[MOST_ROWS];
            for (int64_t ky = 0; ky < term->kernel_y; ky++)
                from[ky] = key[ky] ? key[ky] + p * term->stride_x * term->quarters : NULL;
            NAME(add_chosen)(2, 4, term, from, table, row_bytes, width, to + p * width + lane);
        }
#endif
        lane += words * LANES, table += words * LANES * 4;
    }
}

/* to [positions, width] += the weights behind each spike that the tile from output `ox` on reads of a row, at kernel row `ky`. */
static void NAME(add_listed)(const ConvolutionTerm *term, const NAME(TiledRow) *row, const int32_t *weights, int64_t step,
                             int64_t from, int64_t end, int64_t ky, int64_t in_n, int64_t ox, int64_t positions,
                             int64_t width, uint32_t *to) {
    const uint32_t *start = row->start + step * term->width;
    for (uint32_t i = start[from]; i < start[end]; i++) {
        const int64_t x = row->entry[i] / in_n, channel = row->entry[i] - x * in_n;
        const uint32_t times = (uint32_t)row->spike[i] << term->shift;
        for (int64_t kx = 0; kx < term->kernel_x; kx++) {
            const int64_t reached = x + term->pad_x - kx * term->dilation_x - ox * term->stride_x;
            if (reached < 0 || (term->stride_x > 1 && reached % term->stride_x)) continue;
            const int64_t p = term->stride_x > 1 ? reached / term->stride_x : reached;
            if (p >= positions) continue;
            const uint32_t *weight = (const uint32_t *)weights + ((ky * term->kernel_x + kx) * in_n + channel) * width;
            uint32_t *sum = to + p * width;
            for (int64_t k = 0; k < width; k++) sum[k] += times * weight[k];
        }
    }
}

/* to [positions, width] += each channel's spikes by its own weights. Returns whether there are any. */
static int64_t NAME(add_own)(const ConvolutionTerm *term, int64_t row, int64_t block, int64_t step, int64_t samples, int64_t sample,
                             int64_t oy, int64_t ox, int64_t positions, int64_t width, int64_t out_n, uint32_t *to) {
    const uint32_t *weights = (const uint32_t *)term->weights + block * term->block_bytes / 4;
    int64_t any = 0;
    (void)row;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = oy * term->stride_y - term->pad_y + ky * term->dilation_y;
        if (y < 0 || y >= term->height) continue;
        const int8_t *in_row = term->train + (((step * samples + sample) * term->height + y) * term->width) * term->channels +
                               term->in_lo[block];
        for (int64_t p = 0; p < positions; p++)
            for (int64_t kx = 0; kx < term->kernel_x; kx++) {
                const int64_t x = (ox + p) * term->stride_x - term->pad_x + kx * term->dilation_x;
                if (x < 0 || x >= term->width) continue;
                const int8_t *in = in_row + x * term->channels;
                const uint32_t *weight = weights + (ky * term->kernel_x + kx) * width;
                uint32_t *sum = to + p * width;
                int8_t some = 0;
                for (int64_t k = 0; k < out_n; k++) {
                    sum[k] += ((uint32_t)(int32_t)in[k] * weight[k]) << term->shift;
                    some |= in[k];
                }
                any |= some;
            }
    }
    return any;
}
