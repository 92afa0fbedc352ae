/* A population behind convolutions.

   Only spikes are visited. Each input row is read once into lists of the channels that spike, position by position, or into keys
   of tables (tables.h). A tile, which is an output position or some neighbours in a row, adds the weights behind what it reads
   and lets its neurons take the step. Its potentials stay in the nearest cache from
   the first step to silence. */

/* The lists of one row of input positions: entries of (step, x) lie from start[step * width + x] on. An entry is the number
   of a channel, x * in_n + channel, and its spike. With tables there are keys [step, x with the padding, quarters] instead. */
typedef struct {
    int64_t y; /* which row it is; -1: none */
    uint32_t *start;
    int32_t *entry;
    int16_t *spike;
    uint16_t *key;
} NAME(RowLists);

/* The keys of input row `y`, of the channels in_lo .. in_lo + in_n - 1, at every step. */
static void NAME(read_keys)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t in_lo,
                            int64_t in_n, int64_t row_bytes, uint16_t *key) {
    const int64_t width = term->width, quarters = term->quarters, row = width * term->channels;
    const int64_t next = samples * term->height * row;
    const int8_t *in = term->train + (sample * term->height + y) * row + in_lo;
    key += term->pad_x * quarters;
    for (int64_t step = 0; step < term->steps; step++, in += next, key += term->padded_width * quarters) {
        if (step + 2 < term->steps) /* steps lie far apart */
            for (int64_t byte = 0; byte < row; byte += 64) __builtin_prefetch(in + 2 * next + byte);
        if (in_n == term->channels && in_n == 4 * quarters)
            NAME(keys_of)(in, row, (uint32_t)row_bytes, key);
        else
            for (int64_t x = 0; x < width; x++)
                NAME(keys_of)(in + x * term->channels, in_n, (uint32_t)row_bytes, key + x * quarters);
    }
}

/* Fills the lists of input row `y` with what spikes among the channels in_lo .. in_lo + in_n - 1. */
static void NAME(read_row)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t in_lo,
                           int64_t in_n, NAME(RowLists) *lists) {
    uint32_t count = 0, *start = lists->start;
    int32_t *entry = lists->entry;
    int16_t *spike = lists->spike;
    const int64_t width = term->width;
#if VECTOR == 512
    const WORD first_numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
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
                uint64_t bits = _mm512_test_epi8_mask(now, now);
                if (!bits) continue;
                for (int64_t j = c; j < in_n && j < c + 64; j += 16, bits >>= 16) { /* what spikes moves together */
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
        const int64_t y = input_row(term, oy, ky);
        if (y < 0) continue;
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
            case 1: NAME(add_wide)(1, wide, list, to); return;
            case 2: NAME(add_wide)(2, wide, list, to); return;
            case 4: NAME(add_wide)(4, wide, list, to); return;
            case 8: NAME(add_wide)(8, wide, list, to); return;
            default: break;
        }
    }
#endif
    NAME(accumulate)(weight, kind, stride, list, zeros, to);
}

/* A tile, output positions that lie side by side in a row, and all that one thread works with. */
typedef struct {
    const ConvolutionTask *task;
    NAME(RowLists) *ring; /* of each term */
    NAME(Window) *window; /* of each term, of the position `counted` */
    int64_t *windows;     /* [terms]: how many there are */
    int64_t sample, block, oy, ox, positions;
    int64_t drive_at, potential_at; /* where those of the row's first position are, if there are any */
    int32_t *v, *total, *zeros, *thresholds, *drive, *potential, *product, *current; /* [tile, width] */
    int8_t *near, *fired;
    RowList list;
    int64_t counted, known; /* position whose windows these are, and of how many steps its spikes have been counted; -1: none */
    int16_t *counts;        /* of what the windows of each term read, as their rows are numbered */
    int8_t *out_row;        /* [capacity, out_width, width] */
    void *memory;
} NAME(Tile);

/* The windows of every term at a position of the tile. */
static void NAME(all_windows)(NAME(Tile) *at, int64_t p) {
    const ConvolutionTask *task = at->task;
    const NAME(RowLists) *ring = at->ring;
    NAME(Window) *window = at->window;
    at->counted = p, at->known = 0;
    for (int64_t t = 0; t < task->terms; ring += task->term[t].ring, window += taps_of(task->term + t++))
        at->windows[t] = NAME(windows)(task->term + t, ring, at->oy, at->ox + p, task->term[t].in_n[at->block], window);
}

/* Counts what has spiked in the windows of a position up to `step`. */
static void NAME(count_windows)(NAME(Tile) *at, int64_t p, int64_t step) {
    const ConvolutionTask *task = at->task;
    int16_t *counts = at->counts;
    if (at->counted != p) NAME(all_windows)(at, p);
    for (int64_t t = 0, w = 0; t < task->terms; w += taps_of(task->term + t++)) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t in_n = term->in_n[at->block], end = step < term->steps ? step + 1 : term->steps;
        const NAME(Window) *last = at->window + w + at->windows[t];
        if (!at->known) memset(counts, 0, (size_t)term->left_out.reads * sizeof *counts);
        for (int64_t s = at->known; s < end; s++)
            for (const NAME(Window) *window = at->window + w; window < last; window++) {
                const int8_t *row = term->train + (((s * task->samples + at->sample) * term->height + window->lists->y) *
                                                   term->width) * term->channels + term->in_lo[at->block];
                int16_t *to = counts + window->base;
                if (in_n == term->channels)
                    NAME(count)((window->to - window->from) * in_n, row + window->from * in_n, to + window->from * in_n);
                else
                    for (int64_t x = window->from; x < window->to; x++)
                        NAME(count)(in_n, row + x * term->channels, to + x * in_n);
            }
        counts += term->left_out.reads;
    }
    at->known = step + 1;
}

/* Decides the neurons of a position that are marked: corrects potentials, counts and spikes. `received` is the error that
   spikes have brought, in half units. */
static void NAME(decide)(NAME(Tile) *at, int64_t p, int64_t step, int64_t received) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const Exactly *exactly = &task->exactly;
    const int64_t cap = cap_at(neurons, step), width = task->width, flows = neurons->levels ? neurons->total : cap;
    const int64_t x = at->ox + p, first = p * width, low = task->out_lo[at->block];
    const int64_t drive_at = at->drive_at + x * task->drive_x + low * task->drive_channel;
    const int64_t potential_at = at->potential_at + x * task->potential_x + low * task->potential_channel;
    const double *exact_thresholds = task->exact_thresholds + low;
    const int8_t *near = at->near + first;
    int32_t *v = at->v + first, *total = at->total + first;
    int8_t *fired = at->fired + first;
    double finer_error = 0;
    for (int64_t t = 0; t < task->terms; t++)
        finer_error = task->term[t].left_out.finer > finer_error ? task->term[t].left_out.finer : finer_error;
    const double margin = (double)received * exactly->unit * finer_error / 2 + ROUNDED;
    NAME(count_windows)(at, p, step);
    for (int64_t k = NAME(next_near)(near, 0, width); k < width; k = NAME(next_near)(near, k + 1, width)) {
        if (k >= task->out_n[at->block]) break; /* padding */
        const int32_t spike = fired[k], count = neurons->levels ? 0 : total[k] - spike;
        double given = 0, rounded = 0, finer = 0; /* of drive and potential; of the weights' next bits */
        if (task->drive) {
            given += task->exact_drive[drive_at + k * task->drive_channel] * (double)flows;
            rounded += (double)at->drive[first + k] * (double)flows;
        }
        if (task->potential) {
            given += task->exact_potential[potential_at + k * task->potential_channel];
            rounded += at->potential[first + k];
        }
        const int16_t *counts = at->counts;
        for (int64_t t = 0; t < task->terms; counts += task->term[t++].left_out.reads) {
            const LeftOut *left_out = &task->term[t].left_out;
            if (left_out->error) finer += NAME(next_bits)(left_out, at->block * width + k, counts);
        }
        const double sum = (double)v[k] + (double)(count + spike) * at->thresholds[k];
        const double about = (sum - rounded) * exactly->unit + given + finer;
        int32_t truth = NAME(decided)(neurons, exact_thresholds[k], about - margin, count, cap);
        if (truth != NAME(decided)(neurons, exact_thresholds[k], about + margin, count, cap)) {
            counts = at->counts;
            for (int64_t t = 0; t < task->terms; counts += task->term[t++].left_out.reads)
                given += NAME(true_sum)(&task->term[t].left_out, at->block * width + k, counts);
            truth = NAME(decided)(neurons, exact_thresholds[k], given, count, cap);
        }
        fired[k] = (int8_t)truth;
        if (neurons->levels) continue;
        v[k] += (spike - truth) * at->thresholds[k];
        total[k] = count + truth;
    }
}

/* A step of a position's neurons, or their levels. Marks, where there is a margin, those nearer than that to a decision, and
   says whether there are any. */
INLINE int64_t NAME(step_of)(const int64_t width, const Neurons *neurons, const int32_t *thresholds, const int32_t *sum,
                             const int32_t *driven, const int32_t *potential, int32_t cap, int32_t *v, int32_t *total,
                             int8_t *fired, int32_t margin, int8_t *near, int32_t *undecided) {
    if (neurons->levels)
        return NAME(levels_of)(width, sum, 0, driven, potential, neurons, thresholds, fired, margin, near, v, undecided);
    return NAME(fire_uncounted)(width, sum, driven, thresholds, cap, lower_of(neurons), v, total, fired, margin, near,
                                undecided);
}

/* Room for a tile. Returns whether there was memory. */
static int NAME(tile_open)(NAME(Tile) *at, const ConvolutionTask *task) {
    const int64_t lanes = task->tile * task->width;
    int64_t rings = 0, most = 0, reads = 0, counted = 0, rows = 0;
    for (int64_t t = 0; t < task->terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t taps = taps_of(term);
        rings += term->ring;
        most += taps;
        reads = taps * term->most_in > reads ? taps * term->most_in : reads;
        counted += term->left_out.reads;
        rows += term->ring * (4 * starts_of(term) + 6 * entries_of(term) + 2 * keys_of_term(term) + 64);
    }
    char *next = (char *)malloc((size_t)(rings * (int64_t)sizeof(NAME(RowLists)) + rows + 34 * lanes + 2 * counted +
                                         most * (int64_t)sizeof(NAME(Window)) + 8 * task->terms + 6 * (reads + 17) +
                                         task->capacity * task->out_width * task->width + 512));
    if (!next) return 0;
    *at = (NAME(Tile)){.task = task, .memory = next};
#define TAKE(pointer, n)                                                                                              \
    pointer = (void *)next;                                                                                           \
    next += ((int64_t)(n) * (int64_t)sizeof(*(pointer)) + 15) / 16 * 16;
    TAKE(at->ring, rings)
    TAKE(at->window, most)
    TAKE(at->windows, task->terms)
    TAKE(at->v, lanes)
    TAKE(at->total, lanes)
    TAKE(at->zeros, lanes)
    TAKE(at->thresholds, lanes)
    TAKE(at->drive, lanes)
    TAKE(at->potential, lanes)
    TAKE(at->product, lanes)
    TAKE(at->current, lanes)
    TAKE(at->near, lanes)
    TAKE(at->fired, lanes)
    TAKE(at->counts, counted)
    TAKE(at->out_row, task->capacity * task->out_width * task->width)
    TAKE(at->list.row, reads + 17)
    TAKE(at->list.factor, reads + 17)
    for (int64_t t = 0, r = 0; t < task->terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        for (int64_t k = 0; k < term->ring; k++, r++) {
            NAME(RowLists) *row = at->ring + r;
            TAKE(row->start, starts_of(term))
            TAKE(row->entry, entries_of(term))
            TAKE(row->spike, entries_of(term))
            TAKE(row->key, keys_of_term(term))
            memset(row->key, 0, (size_t)keys_of_term(term) * sizeof *row->key); /* the padding stays so */
        }
    }
#undef TAKE
    memset(at->zeros, 0, (size_t)lanes * sizeof *at->zeros);
    return 1;
}

/* Reads the input rows that a row of outputs needs. */
static void NAME(read_rows)(NAME(Tile) *at) {
    NAME(RowLists) *ring = at->ring;
    for (int64_t t = 0; t < at->task->terms; ring += at->task->term[t++].ring) {
        const ConvolutionTerm *term = at->task->term + t;
        for (int64_t ky = 0; ky < term->kernel_y; ky++) {
            const int64_t y = input_row(term, at->oy, ky);
            NAME(RowLists) *row = ring + (y < 0 ? 0 : y) % term->ring;
            if (y < 0 || row->y == y) continue;
            row->y = y;
            const int64_t low = term->in_lo[at->block], n = term->in_n[at->block];
            if (term->tables)
                NAME(read_keys)(term, at->task->samples, at->sample, y, low, n, 4 * at->task->width, row->key);
            else if (!term->own)
                NAME(read_row)(term, at->task->samples, at->sample, y, low, n, row);
        }
    }
}

/* Copies what neurons are given, strided in `from`: [positions, width], 0 behind the outputs. */
static void NAME(copy_given)(const NAME(Tile) *at, const int32_t *from, int64_t by_x, int64_t by_channel, int32_t *to) {
    const int64_t width = at->task->width, outputs = at->task->out_n[at->block];
    for (int64_t p = 0; p < at->positions; p++, to += width) {
        const int32_t *x = from + (at->ox + p) * by_x + at->task->out_lo[at->block] * by_channel;
        for (int64_t k = 0; k < outputs; k++) to[k] = x[k * by_channel];
        for (int64_t k = outputs; k < width; k++) to[k] = 0;
    }
}

/* Where the keys lie that the tile reads of a term at a step, for each kernel row; NULL where nothing spikes. Returns whether
   anything does. */
INLINE int NAME(keys_at)(const NAME(Tile) *at, const ConvolutionTerm *term, const NAME(RowLists) *ring, int64_t step,
                         const uint16_t **key) {
    const int64_t across = (at->positions - 1) * term->stride_x + (term->kernel_x - 1) * term->dilation_x + 1;
    int any = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = input_row(term, at->oy, ky);
        key[ky] = NULL;
        if (y < 0) continue;
        const uint16_t *from = ring[y % term->ring].key +
                               (step * term->padded_width + at->ox * term->stride_x) * term->quarters;
        uint64_t some = 0;
        for (int64_t k = 0; k < across * term->quarters; k += 4) {
            uint64_t four;
            memcpy(&four, from + k, 8);
            some |= four;
        }
        if (some) key[ky] = from, any = 1;
    }
    return any;
}

/* current += what spikes of a term at a step send. `begun`: whether there is anything in it. Adds to `received`; returns whether
   anything has come. */
static int NAME(add_term)(NAME(Tile) *at, int64_t t, const NAME(RowLists) *ring, int64_t first_window, int64_t step, int begun,
                          int64_t *received) {
    const ConvolutionTask *task = at->task;
    const ConvolutionTerm *term = task->term + t;
    const int64_t width = task->width, in_n = term->in_n[at->block];
    const char *weights = (const char *)term->weights + at->block * term->block_bytes;
    const uint16_t *key[MOST_KERNEL];
    if (term->tables && !NAME(keys_at)(at, term, ring, step, key)) return begun;
    if ((term->own || term->tables) && !begun)
        memset(at->current, 0, (size_t)(at->positions * width) * sizeof *at->current);
    if (term->tables) {
        NAME(add_tabled)(term, key, (const char *)term->tables + at->block * term->table_bytes, at->positions, width, at->current);
        *received += taps_of(term) * in_n * term->left_out.error;
        return 1;
    }
    if (term->own) {
        if (!NAME(add_own)(term, task->samples, at->sample, step, at->block, at->oy, at->ox, at->positions,
                           task->out_n[at->block], width, at->current))
            return begun;
        *received += taps_of(term) * term->left_out.error;
        return 1;
    }
    NAME(gather)(at->window + first_window, at->windows[t], step * term->width, &at->list); /* the tile is one position */
    if (!at->list.count) return begun;
    *received += at->list.count * term->left_out.error;
    NAME(add)(weights, (int)term->kind, width, &at->list, at->zeros, begun ? at->product : at->current);
    if (begun)
        for (int64_t k = 0; k < width; k++) at->current[k] += (int32_t)((uint32_t)at->product[k] << term->shift);
    else if (term->shift)
        for (int64_t k = 0; k < width; k++) at->current[k] = (int32_t)((uint32_t)at->current[k] << term->shift);
    return 1;
}

/* A tile's neurons from the first step to silence; writes what they do to `out_row`. Returns how many steps they needed, or
   more than there is room for. */
static int64_t NAME(run_tile)(NAME(Tile) *at) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const int64_t width = task->width, lanes = at->positions * width, wake_steps = neurons->wake_steps;
    int64_t arriving = 0, needed = 0, received = 0, step = 0;
    int quiet = 0;
    for (int64_t t = 0; t < task->terms; t++) arriving = task->term[t].steps > arriving ? task->term[t].steps : arriving;
    at->counted = -1;
    if (task->tile == 1) NAME(all_windows)(at, 0);
    if (task->drive) NAME(copy_given)(at, task->drive + at->drive_at, task->drive_x, task->drive_channel, at->drive);
    const int32_t *potential = at->zeros;
    if (task->potential) {
        NAME(copy_given)(at, task->potential + at->potential_at, task->potential_x, task->potential_channel, at->potential);
        potential = at->potential;
    }
    memcpy(at->v, potential, (size_t)lanes * sizeof *at->v);
    memset(at->total, 0, (size_t)lanes * sizeof *at->total);
    int8_t *out = at->out_row + at->ox * width;
    for (; step < neurons->most_steps; step++, out += task->out_width * width) {
        const int32_t *driven = task->drive && awake_at(neurons, step) ? at->drive : at->zeros;
        int begun = 0;
        const NAME(RowLists) *ring = at->ring;
        for (int64_t t = 0, w = 0; t < task->terms; ring += task->term[t].ring, w += taps_of(task->term + t++))
            if (step < task->term[t].steps) begun = NAME(add_term)(at, t, ring, w, step, begun, &received);
        const int32_t *sum = begun ? at->current : at->zeros, cap = (int32_t)cap_at(neurons, step);
        int64_t any = 0;
        if (quiet && !begun && driven == at->zeros && step > wake_steps) {
            memset(at->fired, 0, (size_t)lanes); /* as at the step before, nothing arrives and nothing has changed */
        } else if (task->exactly.margin > 0) {
            const int32_t margin = margin_at(&task->exactly, received, neurons->levels ? neurons->total : cap);
            int32_t undecided = 0;
            any = NAME(step_of)(lanes, neurons, at->thresholds, sum, driven, potential, cap, at->v, at->total, at->fired, margin, at->near,
                                &undecided);
            if (undecided) {
                for (int64_t p = 0; p < at->positions; p++)
                    if (NAME(next_near)(at->near + p * width, 0, width) < width) NAME(decide)(at, p, step, received);
                any = 0;
                for (int64_t k = 0; k < lanes; k++) any |= at->fired[k];
            }
        } else {
            any = NAME(step_of)(lanes, neurons, at->thresholds, sum, driven, potential, cap, at->v, at->total, at->fired, 0, NULL, NULL);
        }
        quiet = !any;
        if (!any && step >= arriving && step >= wake_steps) break;
        if (step >= task->capacity) return task->capacity + 1;
        memcpy(out, at->fired, (size_t)lanes);
        if (any) needed = step + 1;
    }
    for (; step < task->capacity; step++, out += task->out_width * width) memset(out, 0, (size_t)lanes);
    return needed;
}

/* Writes a row of outputs, step after step, because steps lie far apart. */
static void NAME(write_row)(const NAME(Tile) *at) {
    const ConvolutionTask *task = at->task;
    const int64_t row = task->out_width * task->outputs;
    const int8_t *from = at->out_row;
    for (int64_t step = 0; step < task->capacity; step++) {
        int8_t *out = task->out + ((step * task->samples + at->sample) * task->out_height + at->oy) * row +
                      task->out_lo[at->block];
        if (task->width == task->outputs) {
            memcpy(out, from, (size_t)row);
            from += row;
            continue;
        }
        for (int64_t x = 0; x < task->out_width; x++, out += task->outputs, from += task->width)
            memcpy(out, from, (size_t)task->out_n[at->block]);
    }
}

/* The items first..last-1: an item is a block of outputs, a sample, and a band of output rows. */
static int64_t NAME(convolution)(const ConvolutionTask *task, int64_t first, int64_t last) {
    NAME(Tile) tile, *at = &tile;
    if (!NAME(tile_open)(at, task)) return NO_MEMORY;
    int64_t rings = 0, needed = 0;
    for (int64_t t = 0; t < task->terms; t++) rings += task->term[t].ring;
    for (int64_t item = first; item < last && needed <= task->capacity; item++) {
        const int64_t band = item % task->bands;
        const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands;
        at->sample = item / task->bands % task->samples, at->block = item / task->bands / task->samples;
        for (int64_t r = 0; r < rings; r++) at->ring[r].y = -1;
        for (int64_t k = 0; k < task->width; k++)
            at->thresholds[k] = k < task->out_n[at->block] ? task->thresholds[task->out_lo[at->block] + k]
                                                           : (int32_t)task->neurons.threshold;
        for (int64_t k = task->width; k < task->tile * task->width; k++) at->thresholds[k] = at->thresholds[k - task->width];
        for (at->oy = from; at->oy < to && needed <= task->capacity; at->oy++) {
            NAME(read_rows)(at);
            at->drive_at = at->sample * task->drive_sample + at->oy * task->drive_y;
            at->potential_at = at->sample * task->potential_sample + at->oy * task->potential_y;
            for (at->ox = 0; at->ox < task->out_width; at->ox += at->positions) {
                const int64_t rest = task->out_width - at->ox;
                at->positions = rest < task->tile ? rest : task->tile;
                const int64_t steps = NAME(run_tile)(at);
                needed = steps > needed ? steps : needed;
                if (steps > task->capacity) break;
            }
            if (needed <= task->capacity) NAME(write_row)(at);
        }
    }
    free(at->memory);
    return needed;
}
