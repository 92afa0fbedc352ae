/* A population behind convolutions.

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

/* Part of a row that an output position reads, at every step: neighbours whose weights are neighbours too are one. The
   weights of entry `e` are row e + base. */
typedef struct {
    const NAME(RowLists) *lists;
    int64_t from, to;
    int32_t base;
} NAME(Window);

/* The windows of output position (oy, ox). Returns how many. */
INLINE int64_t NAME(windows)(const ConvolutionTerm *term, const NAME(RowLists) *ring, int64_t oy, int64_t ox, int64_t in_n,
                             NAME(Window) *window) {
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
            window[found].base = (int32_t)(((ky * term->kernel_x + kx) - x) * in_n);
            window[found].from = from, window[found++].to = to;
        }
    }
    return found;
}

/* Puts what spikes in some windows, at the step whose lists begin at `at`, into one list of rows to add. Lists are read and
   written sixteen entries at a time, beyond their ends. */
INLINE void NAME(gather)(const NAME(Window) *window, int64_t windows, int64_t at, RowList *list) {
    int64_t count = 0;
    for (int64_t w = 0; w < windows; w++) {
        const NAME(RowLists) *lists = window[w].lists;
        const uint32_t first = lists->start[at + window[w].from];
        const int64_t n = lists->start[at + window[w].to] - first;
        const int32_t *entry = lists->entry + first, base = window[w].base;
        const int16_t *spike = lists->spike + first;
        int32_t *row = list->row + count;
        int16_t *factor = list->factor + count;
        for (int64_t k = 0; k < n; k += 16) {
#if VECTOR == 512
            _mm512_storeu_si512(row + k, _mm512_add_epi32(_mm512_loadu_si512(entry + k), _mm512_set1_epi32(base)));
#else
            /* Unsigned, because what lies beyond the end may be any number. */
            for (int64_t i = k; i < k + 16; i++) row[i] = (int32_t)((uint32_t)entry[i] + (uint32_t)base);
#endif
            memcpy(factor + k, spike + k, 32);
        }
        count += n;
    }
    list->row[count] = 0, list->factor[count] = 0; /* rows are taken in pairs */
    list->count = count;
}

#if VECTOR
#define LANES32 (WORD_LANES / 2)
/* to = the weights of a list of int32, `words` vectors wide. */
INLINE void NAME(add_wide)(const int words, const int32_t *weight, const RowList *list, int32_t *to) {
    WORD sum[8];
    const int64_t stride = LANES32 * words;
    for (int w = 0; w < words; w++) sum[w] = ZERO();
    int32_t ones = 0;
    for (int64_t i = 0; i < list->count; i++) {
        const int32_t *row = weight + list->row[i] * stride;
        const int32_t factor = list->factor[i];
        if (factor == 1 || factor == -1) { /* -x is ~x + 1 */
            const WORD sign = EACH_PAIR(factor >> 1);
            ones -= factor >> 1;
            for (int w = 0; w < words; w++) sum[w] = ADD32(sum[w], XOR(LOAD(row + LANES32 * w), sign));
        } else {
            const WORD by = EACH_PAIR(factor);
            for (int w = 0; w < words; w++) sum[w] = ADD32(sum[w], TIMES32(LOAD(row + LANES32 * w), by));
        }
    }
    for (int w = 0; w < words; w++) STORE(to + LANES32 * w, ADD32(sum[w], EACH_PAIR(ones)));
}
#undef LANES32

/* to = the weights of a list, as `sums32` adds them, `words` vectors wide. */
INLINE void NAME(add32)(const int words, const int16_t *weight, const RowList *list, int32_t *to) {
    WORD low[MOST_WORDS], high[MOST_WORDS];
    for (int w = 0; w < words; w++) low[w] = high[w] = ZERO();
    for (int64_t i = 0; i < list->count; i += 2) {
        const int64_t stride = WORD_LANES * words;
        const int16_t *a = weight + list->row[i] * stride, *b = weight + list->row[i + 1] * stride;
        int32_t pair;
        memcpy(&pair, list->factor + i, sizeof pair);
        const WORD factors = EACH_PAIR(pair);
        for (int w = 0; w < words; w++) {
            const WORD x = LOAD(a + WORD_LANES * w), y = LOAD(b + WORD_LANES * w);
            low[w] = PAIRS(low[w], LOW(x, y), factors);
            high[w] = PAIRS(high[w], HIGH(x, y), factors);
        }
    }
    for (int w = 0; w < words; w++) {
        const int64_t at = WORD_LANES * w, half = WORD_LANES / 2;
        STORE(to + at, FIRST(low[w], high[w]));
        STORE(to + at + half, SECOND(low[w], high[w]));
    }
}
#endif

/* to = the weights of a list times their spikes. */
INLINE void NAME(add)(const void *weight, int kind, int64_t stride, const RowList *list, const int32_t *zeros,
                      int32_t *to) {
#if VECTOR
    const int16_t *rows = (const int16_t *)weight;
    if (kind != WIDE) {
        switch (stride / WORD_LANES) {
            case 1: NAME(add32)(1, rows, list, to); return;
            case 2: NAME(add32)(2, rows, list, to); return;
            case 4: NAME(add32)(4, rows, list, to); return;
            default: break;
        }
    } else {
        const int32_t *wide = (const int32_t *)weight;
        switch (2 * stride / WORD_LANES) {
            case 2: NAME(add_wide)(2, wide, list, to); return;
            case 4: NAME(add_wide)(4, wide, list, to); return;
            case 8: NAME(add_wide)(8, wide, list, to); return;
            default: break;
        }
    }
#endif
    NAME(accumulate)(weight, kind, stride, list, zeros, to);
}

/* One output position, whose neurons may have to be decided by what int32 leaves out. */
typedef struct {
    const ConvolutionTask *task;
    const NAME(Window) *window;
    const int64_t *windows;
    int64_t sample, block, drive_at, potential_at; /* where those of output 0 of the block are, if there are any */
    const int32_t *thresholds, *drive, *potential;
    int64_t known;   /* steps whose spikes have been counted */
    int16_t *counts; /* of what the windows of each term read, as their rows are numbered */
} NAME(Position);

/* Counts what has spiked in the windows up to `step`. */
static void NAME(count_windows)(NAME(Position) *at, int64_t step) {
    const ConvolutionTask *task = at->task;
    int16_t *counts = at->counts;
    for (int64_t t = 0, w = 0; t < task->terms; w += at->windows[t], counts += task->term[t++].left_out.reads) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t in_n = term->in_n[at->block], end = step < term->steps ? step + 1 : term->steps;
        if (!at->known) memset(counts, 0, (size_t)term->left_out.reads * sizeof *counts);
        for (int64_t s = at->known; s < end; s++)
            for (const NAME(Window) *window = at->window + w; window < at->window + w + at->windows[t]; window++) {
                const int8_t *row = term->train + (((s * task->samples + at->sample) * term->height + window->lists->y) *
                                                   term->width) * term->channels + term->in_lo[at->block];
                int16_t *to = counts + window->base;
                if (in_n == term->channels)
                    NAME(count)((window->to - window->from) * in_n, row + window->from * in_n, to + window->from * in_n);
                else
                    for (int64_t x = window->from; x < window->to; x++)
                        NAME(count)(in_n, row + x * term->channels, to + x * in_n);
            }
    }
    at->known = step + 1;
}

/* Decides the neurons that are marked: corrects potentials, counts and spikes. `received` is the error that spikes have
   brought, in half units. Returns whether any neuron of the position spikes. */
static int64_t NAME(decide)(NAME(Position) *at, int64_t step, int64_t received, const int8_t *near, int32_t *v,
                            int32_t *total, int8_t *fired) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const Exactly *exactly = &task->exactly;
    const double *thresholds = task->exact_thresholds + task->out_lo[at->block];
    const int64_t cap = cap_at(neurons, step), width = task->width, flows = neurons->levels ? neurons->total : cap;
    double finer_error = 0;
    for (int64_t t = 0; t < task->terms; t++)
        finer_error = task->term[t].left_out.finer > finer_error ? task->term[t].left_out.finer : finer_error;
    const double margin = (double)received * exactly->unit * finer_error / 2 + ROUNDED;
    NAME(count_windows)(at, step);
    for (int64_t k = NAME(next_near)(near, 0, width); k < width; k = NAME(next_near)(near, k + 1, width)) {
        if (k >= task->out_n[at->block]) break; /* padding */
        const int32_t spike = fired[k], count = neurons->levels ? 0 : total[k] - spike;
        double given = 0, rounded = 0, finer = 0; /* of drive and potential; of the weights' next bits */
        if (task->drive) {
            given += task->exact_drive[at->drive_at + k * task->drive_channel] * (double)flows;
            rounded += (double)at->drive[k] * (double)flows;
        }
        if (task->potential) {
            given += task->exact_potential[at->potential_at + k * task->potential_channel];
            rounded += at->potential[k];
        }
        const int16_t *counts = at->counts;
        for (int64_t t = 0; t < task->terms; counts += task->term[t++].left_out.reads) {
            const LeftOut *left_out = &task->term[t].left_out;
            if (left_out->error) finer += NAME(next_bits)(left_out, at->block * width + k, counts);
        }
        const double sum = (double)v[k] + (double)(count + spike) * at->thresholds[k];
        const double about = (sum - rounded) * exactly->unit + given + finer;
        int32_t truth = NAME(decided)(neurons, thresholds[k], about - margin, count, cap);
        if (truth != NAME(decided)(neurons, thresholds[k], about + margin, count, cap)) {
            counts = at->counts;
            for (int64_t t = 0; t < task->terms; counts += task->term[t++].left_out.reads)
                given += NAME(true_sum)(&task->term[t].left_out, at->block * width + k, counts);
            truth = NAME(decided)(neurons, thresholds[k], given, count, cap);
        }
        fired[k] = (int8_t)truth;
        if (neurons->levels) continue;
        v[k] += (spike - truth) * at->thresholds[k];
        total[k] = count + truth;
    }
    int64_t any = 0;
    for (int64_t k = 0; k < width; k++) any |= fired[k];
    return any;
}

/* A step of a position's neurons, or their levels. Marks, where there is a margin, those nearer than that to a decision, and
   says whether there are any. */
INLINE int64_t NAME(step_of)(const int64_t width, const Neurons *neurons, const int32_t *thresholds, const int32_t *sum,
                             const int32_t *driven, const int32_t *potential, int32_t cap, int32_t *v, int32_t *total,
                             int8_t *fired, int32_t margin, int8_t *near, int32_t *undecided) {
    if (neurons->levels)
        return NAME(levels_of)(width, sum, 0, driven, potential, neurons, thresholds, fired, margin, near, v, undecided);
    return NAME(fire_uncounted)(width, sum, driven, thresholds, cap, lower_of(neurons), v, total, fired,
                                margin, near, undecided);
}

/* The items first..last-1: an item is a block of outputs, a sample, and a band of output rows. */
static int64_t NAME(convolution)(const ConvolutionTask *task, int64_t first, int64_t last) {
    const int64_t width = task->width, terms = task->terms, ints = width * (int64_t)sizeof(int32_t);
    int64_t rings = 0, most = 0, reads = 0, bytes = 0, arriving = 0, counted = 0;
    for (int64_t t = 0; t < terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t entries = term->steps * term->width * term->most_in, taps = term->kernel_y * term->kernel_x;
        rings += term->ring;
        most += taps;
        arriving = term->steps > arriving ? term->steps : arriving;
        reads = taps * term->most_in > reads ? taps * term->most_in : reads;
        counted += term->left_out.reads;
        bytes += term->ring * (6 * (entries + 16) + (term->steps * term->width + 1) * 4 + 64);
    }
    char *memory = (char *)malloc((size_t)(rings * (int64_t)sizeof(NAME(RowLists)) + bytes + 9 * ints + 368 + 2 * counted +
                                           most * (int64_t)sizeof(NAME(Window)) + 6 * (reads + 17) + terms * 16 +
                                           task->capacity * task->out_width * width));
    if (!memory) return NO_MEMORY;
    char *at = memory;
#define TAKE(type, name, n)                                                                                           \
    type *name = (type *)at;                                                                                          \
    at += ((int64_t)(n) * (int64_t)sizeof(type) + 15) / 16 * 16;
    TAKE(NAME(RowLists), ring, rings)
    TAKE(NAME(Window), window, most)
    TAKE(int64_t, windows, terms)
    TAKE(int32_t, v, width)
    TAKE(int32_t, total, width)
    TAKE(int32_t, zeros, width)
    TAKE(int32_t, thresholds, width)
    TAKE(int32_t, drive, width)
    TAKE(int32_t, product, width)
    TAKE(int32_t, current, width)
    TAKE(int32_t, potential, width)
    TAKE(int16_t, counts, counted)
    TAKE(int8_t, near, width)
    TAKE(int8_t, fired, width)
    TAKE(int8_t, out_row, task->capacity * task->out_width * width)
    TAKE(int32_t, row, reads + 17)
    TAKE(int16_t, factor, reads + 17)
    for (int64_t t = 0, r = 0; t < terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        for (int64_t k = 0; k < term->ring; k++, r++) {
            TAKE(uint32_t, start, term->steps * term->width + 1)
            TAKE(int32_t, entry, term->steps * term->width * term->most_in + 16)
            TAKE(int16_t, spike, term->steps * term->width * term->most_in + 16)
            ring[r].start = start, ring[r].entry = entry, ring[r].spike = spike;
        }
    }
#undef TAKE
    RowList list = {0, row, factor};
    memset(zeros, 0, (size_t)ints);
    memset(drive, 0, (size_t)ints);
    memset(potential, 0, (size_t)ints);
    const int64_t out_width = task->out_width, plane = task->out_height * out_width * task->outputs;
    int64_t needed = 0;
    const Neurons *neurons = &task->neurons;
    const int64_t wake_steps = neurons->wake_steps;
    const int is_rounded = task->exactly.margin > 0;
    NAME(Position) position = {task, window, windows, 0, 0, 0, 0, thresholds, drive, potential, 0, counts};

    for (int64_t item = first; item < last; item++) {
        const int64_t band = item % task->bands, sample = item / task->bands % task->samples;
        const int64_t block = item / task->bands / task->samples;
        const int64_t out_lo = task->out_lo[block], out_n = task->out_n[block];
        const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands;
        for (int64_t r = 0; r < rings; r++) ring[r].y = -1;
        for (int64_t k = 0; k < width; k++)
            thresholds[k] = k < out_n ? task->thresholds[out_lo + k] : (int32_t)neurons->threshold;
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
            for (int64_t ox = 0; ox < out_width; ox++) {
                if (task->drive) {
                    const int32_t *x = task->drive + sample * task->drive_sample + oy * task->drive_y + ox * task->drive_x;
                    for (int64_t k = 0; k < out_n; k++) drive[k] = x[(out_lo + k) * task->drive_channel];
                    for (int64_t k = out_n; k < width; k++) drive[k] = 0;
                }
                if (task->potential) {
                    const int32_t *x = task->potential + sample * task->potential_sample + oy * task->potential_y +
                                       ox * task->potential_x;
                    for (int64_t k = 0; k < out_n; k++) potential[k] = x[(out_lo + k) * task->potential_channel];
                    for (int64_t k = out_n; k < width; k++) potential[k] = 0;
                }
                position.sample = sample, position.block = block, position.known = 0;
                position.drive_at = sample * task->drive_sample + oy * task->drive_y + ox * task->drive_x +
                                    out_lo * task->drive_channel;
                position.potential_at = sample * task->potential_sample + oy * task->potential_y +
                                        ox * task->potential_x + out_lo * task->potential_channel;
                lists = ring;
                for (int64_t t = 0, w = 0; t < terms; w += windows[t], lists += task->term[t++].ring) {
                    const ConvolutionTerm *term = task->term + t;
                    windows[t] = NAME(windows)(term, lists, oy, ox, term->in_n[block], window + w);
                }
                if (task->potential)
                    memcpy(v, potential, (size_t)ints);
                else
                    memset(v, 0, (size_t)ints);
                memset(total, 0, (size_t)ints);
                int64_t step = 0, received = 0;
                int quiet = 0;
                for (; step < neurons->most_steps; step++) {
                    const int32_t *sum = zeros, *driven = task->drive && awake_at(neurons, step) ? drive : zeros;
                    for (int64_t t = 0, w = 0; t < terms; w += windows[t++]) {
                        const ConvolutionTerm *term = task->term + t;
                        if (step >= term->steps) continue;
                        NAME(gather)(window + w, windows[t], step * term->width, &list);
                        if (!list.count) continue;
                        received += list.count * term->left_out.error;
                        NAME(add)((const char *)term->weights + block * term->block_bytes, (int)term->kind, width, &list,
                                  zeros, product);
                        if (sum == zeros && !term->shift) {
                            int32_t *swapped = product;
                            product = current, current = swapped;
                        } else {
                            for (int64_t k = 0; k < width; k++)
                                current[k] = sum[k] + (int32_t)((uint32_t)product[k] << term->shift);
                        }
                        sum = current;
                    }
                    const int32_t cap = (int32_t)cap_at(neurons, step);
                    int64_t any;
                    int32_t undecided = 0;
                    if (quiet && sum == zeros && driven == zeros && step > wake_steps) {
                        any = 0; /* as at the step before, nothing arrives and nothing has changed */
                        memset(fired, 0, (size_t)width);
                    } else if (is_rounded) {
                        const int32_t margin = margin_at(&task->exactly, received, neurons->levels ? neurons->total : cap);
#define STEP(width, margin, near)                                                                                     \
    NAME(step_of)(width, neurons, thresholds, sum, driven, potential, cap, v, total, fired, margin, near, &undecided)
#define STEP_OF(margin, near) (width == 64 ? STEP(64, margin, near) : width == 128 ? STEP(128, margin, near) : STEP(width, margin, near))
                        any = STEP_OF(margin, near);
                        if (undecided) any = NAME(decide)(&position, step, received, near, v, total, fired);
                    } else {
                        any = STEP_OF(0, NULL);
                    }
#undef STEP_OF
#undef STEP
                    quiet = !any;
                    if (!any && step >= arriving && step >= wake_steps) break;
                    if (step >= task->capacity) {
                        free(memory);
                        return task->capacity + 1;
                    }
                    memcpy(out_row + (step * out_width + ox) * width, fired, (size_t)width);
                    if (any && step + 1 > needed) needed = step + 1;
                }
                for (; step < task->capacity; step++) memset(out_row + (step * out_width + ox) * width, 0, (size_t)width);
            }
            /* A whole row at a time: steps lie far apart. */
            for (int64_t step = 0; step < task->capacity; step++) {
                int8_t *out = task->out + (step * task->samples + sample) * plane + oy * out_width * task->outputs + out_lo;
                const int8_t *from_row = out_row + step * out_width * width;
                for (int64_t ox = 0; ox < out_width; ox++)
                    memcpy(out + ox * task->outputs, from_row + ox * width, (size_t)out_n);
            }
        }
    }
    free(memory);
    return needed;
}
