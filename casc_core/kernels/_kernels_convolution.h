/* A population behind convolutions, once for each set of instructions: included by _kernels.c after _kernels_body.h.

   Only spikes are visited. Each input row is read once into lists of the channels that spike, position by position; an
   output position adds the weights behind the lists of the positions it reads and lets its neurons take the step. Its
   potentials stay in the nearest cache from the first step to silence. */

/* The lists of one row of input positions: entries of (step, x) lie from start[step * width + x] on. An entry is the number
   of a channel, x * in_n + channel, and its spike. */
typedef struct {
    int64_t y; /* which row it is; -1: none */
    uint32_t *start;
    int32_t *entry;
    int16_t *spike;
} NAME(RowLists);

/* Weights to add: those of `count` entries, whose numbers count from `weight` on. */
typedef struct {
    const char *weight;
    const int32_t *entry;
    const int16_t *spike;
    int64_t count;
} NAME(Segment);

/* Fills the lists of input row `y` with what spikes among the channels in_lo .. in_lo + in_n - 1. */
static void NAME(read_row)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t in_lo,
                           int64_t in_n, NAME(RowLists) *lists) {
    uint32_t count = 0, *start = lists->start;
    int32_t *entry = lists->entry;
    int16_t *spike = lists->spike;
    const int64_t width = term->width;
    lists->y = y;
    for (int64_t step = 0; step < term->steps; step++) {
        const int8_t *in = term->train + (((step * samples + sample) * term->height + y) * width) * term->channels + in_lo;
        for (int64_t x = 0; x < width; x++, in += term->channels) {
            const int32_t number = (int32_t)(x * in_n);
            start[step * width + x] = count;
            int64_t c = 0;
#if VECTOR == 512
            for (; c < in_n; c += 64) {
                const int64_t rest = in_n - c;
                const __mmask64 some = rest >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << rest) - 1;
                const WORD now = _mm512_maskz_loadu_epi8(some, in + c);
                for (uint64_t bits = _mm512_test_epi8_mask(now, now); bits; bits &= bits - 1) {
                    const int64_t at = c + lowest_bit(bits);
                    entry[count] = number + (int32_t)at;
                    spike[count++] = in[at];
                }
            }
#else
            for (; c + 8 <= in_n; c += 8) {
                uint64_t eight;
                memcpy(&eight, in + c, 8);
                if (!eight) continue;
                for (int64_t at = c; at < c + 8; at++) {
                    entry[count] = number + (int32_t)at;
                    spike[count] = in[at];
                    count += in[at] != 0;
                }
            }
            for (; c < in_n; c++) {
                entry[count] = number + (int32_t)c;
                spike[count] = in[c];
                count += in[c] != 0;
            }
#endif
        }
    }
    start[term->steps * width] = count;
}

/* Part of a row that an output position reads, at every step: neighbours whose weights are neighbours too are one. */
typedef struct {
    const NAME(RowLists) *lists;
    const char *weight;
    int64_t from, to;
} NAME(Window);

/* The windows of output position (oy, ox). Returns how many. */
INLINE int64_t NAME(windows)(const ConvolutionTerm *term, const NAME(RowLists) *ring, const char *weights, int64_t oy,
                             int64_t ox, int64_t in_n, int64_t row_bytes, NAME(Window) *window) {
    const int64_t width = term->width, left = ox * term->stride_x - term->pad_x;
    const int64_t together = term->dilation_x == 1 ? term->kernel_x : 1;
    int64_t found = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = oy * term->stride_y - term->pad_y + ky * term->dilation_y;
        if (y < 0 || y >= term->height) continue;
        for (int64_t kx = 0; kx < term->kernel_x; kx += together) {
            const int64_t x = left + kx * term->dilation_x, end = x + together;
            const int64_t from = x < 0 ? 0 : x, to = end > width ? width : end;
            if (from >= to) continue;
            window[found].lists = ring + y % term->ring;
            window[found].weight = weights + ((ky * term->kernel_x + kx) - x) * in_n * row_bytes;
            window[found].from = from, window[found++].to = to;
        }
    }
    return found;
}

/* What spikes in some windows at the step whose lists begin at `at`. Returns in how many anything does. */
INLINE int64_t NAME(segments)(const NAME(Window) *window, int64_t windows, int64_t at, NAME(Segment) *segment) {
    int64_t found = 0;
    for (int64_t w = 0; w < windows; w++) {
        const NAME(RowLists) *lists = window[w].lists;
        const uint32_t first = lists->start[at + window[w].from], last = lists->start[at + window[w].to];
        segment[found].weight = window[w].weight;
        segment[found].entry = lists->entry + first;
        segment[found].spike = lists->spike + first;
        segment[found].count = last - first;
        found += last != first;
    }
    return found;
}

/* to = sum over all segments of spike * weights. */
INLINE void NAME(add_plain)(int wide, const NAME(Segment) *segment, int64_t found, int64_t stride, int32_t *to) {
    memset(to, 0, (size_t)stride * sizeof *to);
    for (int64_t s = 0; s < found; s++)
        for (int64_t i = 0; i < segment[s].count; i++) {
            /* Unsigned, because a sum may wrap around on the way to a result that fits. */
            const uint32_t spike = (uint32_t)segment[s].spike[i];
            const int64_t at = segment[s].entry[i] * stride;
            if (wide) {
                const int32_t *row = (const int32_t *)segment[s].weight + at;
                for (int64_t k = 0; k < stride; k++) to[k] = (int32_t)((uint32_t)to[k] + spike * (uint32_t)row[k]);
            } else {
                const int16_t *row = (const int16_t *)segment[s].weight + at;
                for (int64_t k = 0; k < stride; k++)
                    to[k] = (int32_t)((uint32_t)to[k] + spike * (uint32_t)(int32_t)row[k]);
            }
        }
}

#if VECTOR
/* As `sums32`: `words` vectors of sums stay in registers while all segments go by, two rows at a time. */
INLINE void NAME(add32)(const int words, const NAME(Segment) *segment, int64_t found, int64_t stride, int32_t *to) {
    WORD low[MOST_WORDS], high[MOST_WORDS];
    for (int w = 0; w < words; w++) low[w] = high[w] = ZERO();
    for (int64_t s = 0; s < found; s++) {
        const int16_t *weight = (const int16_t *)segment[s].weight;
        const int32_t *entry = segment[s].entry;
        const int16_t *spike = segment[s].spike;
        const int64_t count = segment[s].count;
        for (int64_t i = 0; i < count; i += 2) {
            const int last = i + 1 == count;
            const int16_t *a = weight + entry[i] * stride, *b = weight + entry[last ? i : i + 1] * stride;
            int32_t pair;
            memcpy(&pair, spike + i, sizeof pair); /* there is room for one more behind the last */
            const WORD factors = EACH_PAIR(last ? pair & 0xffff : pair);
            for (int w = 0; w < words; w++) {
                const WORD x = LOAD(a + WORD_LANES * w), y = LOAD(b + WORD_LANES * w);
                low[w] = PAIRS(low[w], LOW(x, y), factors);
                high[w] = PAIRS(high[w], HIGH(x, y), factors);
            }
        }
    }
    for (int w = 0; w < words; w++) {
        const int64_t at = WORD_LANES * w, half = WORD_LANES / 2;
        STORE(to + at, FIRST(low[w], high[w]));
        STORE(to + at + half, SECOND(low[w], high[w]));
    }
}
#endif

INLINE void NAME(add)(int wide, const NAME(Segment) *segment, int64_t found, int64_t stride, int32_t *to) {
#if VECTOR
    if (!wide && stride / WORD_LANES <= MOST_WORDS) {
        switch (stride / WORD_LANES) {
            case 1: NAME(add32)(1, segment, found, stride, to); return;
            case 2: NAME(add32)(2, segment, found, stride, to); return;
            case 3: NAME(add32)(3, segment, found, stride, to); return;
            case 4: NAME(add32)(4, segment, found, stride, to); return;
            case 6: NAME(add32)(6, segment, found, stride, to); return;
            default: break;
        }
    }
#endif
    NAME(add_plain)(wide, segment, found, stride, to);
}

/* One step of the neurons of one position, as `fire`. Returns whether any spiked. */
INLINE int32_t NAME(fire_position)(const int64_t width, const int32_t *restrict sum, const int32_t *restrict driven,
                                   int32_t threshold, int32_t cap, int32_t is_signed, int32_t *restrict v,
                                   int32_t *restrict total, int8_t *restrict out) {
    int32_t any = 0;
    for (int64_t k = 0; k < width; k++) {
        const int32_t charged = v[k] + sum[k] + driven[k];
        const int32_t up = (charged >= threshold) & (total[k] < cap);
        const int32_t down = (charged < 0) & (total[k] > 0) & is_signed;
        v[k] = charged - (up ? threshold : 0) + (down ? threshold : 0);
        total[k] += up - down;
        out[k] = (int8_t)(up - down);
        any |= up | down;
    }
    return any;
}

/* The items first..last-1: an item is a block of outputs, a sample, and a band of output rows. */
static int64_t NAME(convolution)(const ConvolutionTask *task, int64_t first, int64_t last) {
    const int64_t width = task->width, terms = task->terms, ints = width * (int64_t)sizeof(int32_t);
    int64_t rings = 0, most = 0, bytes = 0, arriving = 0;
    for (int64_t t = 0; t < terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t entries = term->steps * term->width * term->most_in, taps = term->kernel_y * term->kernel_x;
        rings += term->ring;
        most += taps;
        arriving = term->steps > arriving ? term->steps : arriving;
        bytes += term->ring * (6 * (entries + 1) + (term->steps * term->width + 1) * 4 + 64);
    }
    char *memory = (char *)malloc((size_t)(rings * (int64_t)sizeof(NAME(RowLists)) + bytes + 7 * ints + 256 +
                                           most * (int64_t)(sizeof(NAME(Segment)) + sizeof(NAME(Window))) +
                                           terms * 16));
    if (!memory) return NO_MEMORY;
    char *at = memory;
#define TAKE(type, name, n)                                                                                           \
    type *name = (type *)at;                                                                                          \
    at += ((int64_t)(n) * (int64_t)sizeof(type) + 15) / 16 * 16;
    TAKE(NAME(RowLists), ring, rings)
    TAKE(NAME(Segment), segment, most)
    TAKE(NAME(Window), window, most)
    TAKE(int64_t, windows, terms)
    TAKE(int32_t, v, width)
    TAKE(int32_t, total, width)
    TAKE(int32_t, zeros, width)
    TAKE(int32_t, drive, width)
    TAKE(int32_t, product, width)
    TAKE(int32_t, current, width)
    TAKE(int8_t, fired, width)
    for (int64_t t = 0, r = 0; t < terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        for (int64_t k = 0; k < term->ring; k++, r++) {
            TAKE(uint32_t, start, term->steps * term->width + 1)
            TAKE(int32_t, entry, term->steps * term->width * term->most_in)
            TAKE(int16_t, spike, term->steps * term->width * term->most_in + 1)
            ring[r].start = start, ring[r].entry = entry, ring[r].spike = spike;
        }
    }
#undef TAKE
    memset(zeros, 0, (size_t)ints);
    memset(drive, 0, (size_t)ints);
    const int64_t positions = task->out_height * task->out_width, plane = positions * task->outputs;
    int64_t needed = 0;

    for (int64_t item = first; item < last; item++) {
        const int64_t band = item % task->bands, sample = item / task->bands % task->samples;
        const int64_t block = item / task->bands / task->samples;
        const int64_t out_lo = task->out_lo[block], out_n = task->out_n[block];
        const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands;
        for (int64_t r = 0; r < rings; r++) ring[r].y = -1;
        for (int64_t oy = from; oy < to; oy++) {
            NAME(RowLists) *lists = ring;
            for (int64_t t = 0; t < terms; lists += task->term[t++].ring) {
                const ConvolutionTerm *term = task->term + t;
                for (int64_t ky = 0; ky < term->kernel_y; ky++) {
                    const int64_t y = oy * term->stride_y - term->pad_y + ky * term->dilation_y;
                    if (y >= 0 && y < term->height && lists[y % term->ring].y != y)
                        NAME(read_row)(term, task->samples, sample, y, term->in_lo[block], term->in_n[block],
                                       lists + y % term->ring);
                }
            }
            for (int64_t ox = 0; ox < task->out_width; ox++) {
                int8_t *out = task->out + sample * plane + (oy * task->out_width + ox) * task->outputs + out_lo;
                if (task->drive) {
                    const int32_t *x = task->drive + sample * task->drive_sample + oy * task->drive_y + ox * task->drive_x;
                    for (int64_t k = 0; k < out_n; k++) drive[k] = x[(out_lo + k) * task->drive_channel];
                    for (int64_t k = out_n; k < width; k++) drive[k] = 0;
                }
                lists = ring;
                for (int64_t t = 0, w = 0; t < terms; w += windows[t], lists += task->term[t++].ring) {
                    const ConvolutionTerm *term = task->term + t;
                    windows[t] = NAME(windows)(term, lists, (const char *)term->weights + block * term->block_bytes, oy, ox,
                                               term->in_n[block], width * (term->kind == WIDE ? 4 : 2), window + w);
                }
                memset(v, 0, (size_t)ints);
                memset(total, 0, (size_t)ints);
                int64_t step = 0;
                for (; step < task->most_steps; step++) {
                    const int wake = step < task->wake_steps;
                    const int32_t *sum = zeros, *driven = task->drive && wake && task->awake[step] ? drive : zeros;
                    for (int64_t t = 0, w = 0; t < terms; w += windows[t++]) {
                        const ConvolutionTerm *term = task->term + t;
                        if (step >= term->steps) continue;
                        const int64_t found = NAME(segments)(window + w, windows[t], step * term->width, segment);
                        if (!found) continue;
                        NAME(add)(term->kind == WIDE, segment, found, width, product);
                        if (sum == zeros && !term->shift) {
                            int32_t *swapped = product;
                            product = current, current = swapped;
                        } else {
                            for (int64_t k = 0; k < width; k++)
                                current[k] = sum[k] + (int32_t)((uint32_t)product[k] << term->shift);
                        }
                        sum = current;
                    }
                    const int32_t threshold = (int32_t)task->threshold, all = (int32_t)task->total;
                    const int32_t cap = wake ? task->caps[step] : all, is_signed = (int32_t)task->is_signed;
                    int64_t any;
                    if (task->levels)
                        any = NAME(level)(width, sum, 0, driven, zeros, threshold, all, fired);
                    else if (width == 64)
                        any = NAME(fire_position)(64, sum, driven, threshold, cap, is_signed, v, total, fired);
                    else if (width == 128)
                        any = NAME(fire_position)(128, sum, driven, threshold, cap, is_signed, v, total, fired);
                    else
                        any = NAME(fire_position)(width, sum, driven, threshold, cap, is_signed, v, total, fired);
                    if (!any && step >= arriving && step >= task->wake_steps) break;
                    if (step >= task->capacity) {
                        free(memory);
                        return task->capacity + 1;
                    }
                    memcpy(out + step * task->samples * plane, fired, (size_t)out_n);
                    if (any && step + 1 > needed) needed = step + 1;
                }
                for (; step < task->capacity; step++) memset(out + step * task->samples * plane, 0, (size_t)out_n);
            }
        }
    }
    free(memory);
    return needed;
}
