/* A population behind convolutions.

   Only spikes are visited. Each input row is read once into lists of the channels that spike (lists.h), or into keys of tables
   (tables.h). A tile, which is some output positions side by side in a row, adds the weights behind what it reads, step after
   step, and lets its neurons take the step. Its potentials stay in the nearest cache from the first step to silence. */

/* The keys of input row `y`, of the channels in_lo .. in_lo + in_n - 1, at every step. */
static void NAME(read_keys)(const ConvolutionTerm *term, int64_t samples, int64_t sample, int64_t y, int64_t in_lo,
                            int64_t in_n, int32_t row_bytes, InputRow *to) {
    const int64_t width = term->width, quarters = term->quarters, row = width * term->channels;
    const int64_t keys = keys_of_step(term);
    const int64_t next = samples * term->height * row;
    const int8_t *in = term->train + (sample * term->height + y) * row + in_lo;
    for (int64_t step = 0; step < term->steps; step++, in += next) {
        int16_t *key = to->key + step * keys + term->pad_x * quarters;
        if (step + 4 < term->steps) /* steps lie far apart */
            for (int64_t byte = 0; byte < row; byte += 64) __builtin_prefetch(in + 4 * next + byte);
        if (in_n == term->channels && in_n == 4 * quarters)
            NAME(keys_of)(in, row, row_bytes, key);
        else
            for (int64_t x = 0; x < width; x++) NAME(keys_of)(in + x * term->channels, in_n, row_bytes, key + x * quarters);
        NAME(mark_spikes)(to->key + step * keys, keys / 4, to->some + step * marks_of_step(term));
    }
}

/* A tile, output positions that lie side by side in a row, and all that one thread works with. */
typedef struct {
    const ConvolutionTask *task;
    InputRow *ring; /* of each term */
    int64_t sample, block, oy, ox, positions;
    int64_t drive_at, potential_at; /* where those of the row's first position are, if there are any */
    int32_t *v, *total, *zeros, *thresholds, *drive, *potential; /* [tile, width] */
    int32_t *spare_current, *current; /* [tile, width]; where the currents of this step are */
    /* What spikes by lists send to the tile, [rows, listed_steps, tile, width], and by how much their sums grow there, in half units of
       error; whether any does. */
    int32_t *listed;
    int64_t *brought, listed_steps, row; /* `row`: which of those is taken now */
    int8_t *heard;
    NAME(Piece) *piece; /* [listed_steps, tile] */
    int8_t *near, *spare;
    int64_t *received; /* [tile]: the error that spikes have brought, in half units */
    int8_t *arrived, *quiet; /* [tile]: whether anything has at this step; whether nothing has spiked at the one before */
    int16_t *sums;           /* [width, inputs] of a row that is read */
    int64_t *grown;          /* [width] */
    int16_t *seen, *counts;  /* how often inputs have spiked: those that the tile reads; those of one position, as rows are numbered */
    int64_t known;           /* of how many steps those have been counted */
    int8_t *out_row;         /* [capacity, out_width, width] */
    uint8_t (*ones)[8];
    void *memory;
} NAME(Tile);

/* How many inputs a tile reads of a term, at most. */
static int64_t NAME(seen_of)(const ConvolutionTask *task, const ConvolutionTerm *term) {
    return term->kernel_y * across_of(term, task->tile) * term->most_in;
}

/* Counts how often what the tile reads has spiked up to `step`. */
static void NAME(count_seen)(NAME(Tile) *at, int64_t step) {
    const ConvolutionTask *task = at->task;
    int16_t *seen = at->seen;
    for (int64_t t = 0; t < task->terms; seen += NAME(seen_of)(task, task->term + t++)) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t in_n = term->in_n[at->block], end = step < term->steps ? step + 1 : term->steps;
        const int64_t across = across_of(term, at->positions), left = at->ox * term->stride_x - term->pad_x;
        const int64_t from = left < 0 ? 0 : left, to = left + across < term->width ? left + across : term->width;
        if (!at->known) memset(seen, 0, (size_t)NAME(seen_of)(task, term) * sizeof *seen);
        for (int64_t s = at->known; s < end; s++)
            for (int64_t ky = 0; ky < term->kernel_y; ky++) {
                const int64_t y = input_row(term, at->oy, ky);
                if (y < 0) continue;
                const int8_t *row = term->train + term->in_lo[at->block] +
                                    (((s * task->samples + at->sample) * term->height + y) * term->width) * term->channels;
                int16_t *counts = seen + (ky * across - left) * in_n;
                if (in_n == term->channels && from < to)
                    NAME(count)((to - from) * in_n, row + from * in_n, counts + from * in_n);
                else
                    for (int64_t x = from; x < to; x++) NAME(count)(in_n, row + x * term->channels, counts + x * in_n);
            }
    }
    at->known = step + 1;
}

/* Those of one position, as the rows of weights are numbered. */
static void NAME(count_windows)(NAME(Tile) *at, int64_t p) {
    const ConvolutionTask *task = at->task;
    const int16_t *seen = at->seen;
    int16_t *counts = at->counts;
    for (int64_t t = 0; t < task->terms; seen += NAME(seen_of)(task, task->term + t++)) {
        const ConvolutionTerm *term = task->term + t;
        const int64_t in_n = term->in_n[at->block], across = across_of(term, at->positions);
        for (int64_t ky = 0; ky < term->kernel_y; ky++)
            for (int64_t kx = 0; kx < term->kernel_x; kx++)
                memcpy(counts + (kx * term->kernel_y + ky) * in_n,
                       seen + (ky * across + p * term->stride_x + kx * term->dilation_x) * in_n, (size_t)in_n * sizeof *counts);
        counts += term->left_out.reads;
    }
}

/* Decides the neurons of a position that are marked: corrects potentials, counts and what has `fired`. */
static void NAME(decide)(NAME(Tile) *at, int64_t p, int64_t step, int8_t *fired) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const Exactly *exactly = &task->exactly;
    const int64_t cap = cap_at(neurons, step), width = task->width;
    const int64_t x = at->ox + p, first = p * width, low = task->out_lo[at->block];
    const int64_t drive_at = at->drive_at + x * task->drive_x + low * task->drive_channel;
    const int64_t potential_at = at->potential_at + x * task->potential_x + low * task->potential_channel;
    const double *exact_thresholds = task->exact_thresholds + low;
    const int8_t *near = at->near + first;
    int32_t *v = at->v + first, *total = at->total + first;
    double finer_error = 0;
    for (int64_t t = 0; t < task->terms; t++)
        finer_error = task->term[t].left_out.finer > finer_error ? task->term[t].left_out.finer : finer_error;
    const double margin = (double)at->received[p] * exactly->unit * finer_error / 2 + ROUNDED;
    NAME(count_seen)(at, step);
    NAME(count_windows)(at, p);
    for (int64_t k = NAME(next_near)(near, 0, width); k < width; k = NAME(next_near)(near, k + 1, width)) {
        if (k >= task->out_n[at->block]) break; /* padding */
        const int32_t spike = fired[k], count = total[k] - spike;
        double given = 0, rounded = 0, finer = 0; /* of drive and potential; of the weights' next bits */
        if (task->drive) {
            given += task->exact_drive[drive_at + k * task->drive_channel] * (double)cap;
            rounded += (double)at->drive[first + k] * (double)cap;
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
        v[k] += (spike - truth) * at->thresholds[k];
        total[k] = count + truth;
    }
}

/* Room for a tile. Returns whether there was memory. */
static int NAME(tile_open)(NAME(Tile) *at, const ConvolutionTask *task) {
    const int64_t tile = task->tile, lanes = tile * task->width;
    int64_t rings = 0, counted = 0, seen = 0, rows = 0, sums = 0, listed_steps = 0, columns = 0;
    for (int64_t t = 0; t < task->terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        rings += term->ring;
        counted += term->left_out.reads;
        seen += NAME(seen_of)(task, term);
        rows += term->ring * (4 * starts_of(term) + 8 * growths_of(task, term) + 6 * entries_of(term) + 2 * keys_of_term(term) +
                              8 * marks_of_term(term) + 96);
        if (is_listed(term) && term->steps > listed_steps) listed_steps = term->steps;
        columns = term->width > columns ? term->width : columns;
        sums = term->width * term->most_in > sums ? term->width * term->most_in : sums;
    }
    const int64_t out_row = task->capacity * task->out_width * task->width, listed = task->rows * listed_steps * tile;
    char *next = (char *)malloc((size_t)(rings * (int64_t)sizeof(InputRow) + rows + 30 * lanes + 2 * (counted + seen + sums) +
                                         (4 * task->width + 9) * listed + 8 * columns +
                                         (int64_t)sizeof(NAME(Piece)) * listed_steps * tile + 10 * tile + out_row +
                                         (int64_t)sizeof(uint8_t[256][8]) + 512));
    if (!next) return 0;
    *at = (NAME(Tile)){.task = task, .listed_steps = listed_steps, .memory = next};
#define TAKE(pointer, n)                                                                                              \
    pointer = (void *)next;                                                                                           \
    next += ((int64_t)(n) * (int64_t)sizeof(*(pointer)) + 15) / 16 * 16;
    TAKE(at->ring, rings)
    TAKE(at->v, lanes)
    TAKE(at->total, lanes)
    TAKE(at->zeros, lanes)
    TAKE(at->thresholds, lanes)
    TAKE(at->drive, lanes)
    TAKE(at->potential, lanes)
    TAKE(at->spare_current, lanes)
    TAKE(at->listed, listed * task->width)
    TAKE(at->brought, listed)
    TAKE(at->heard, listed)
    TAKE(at->piece, listed_steps * tile)
    TAKE(at->grown, columns)
    TAKE(at->near, lanes)
    TAKE(at->spare, lanes)
    TAKE(at->received, tile)
    TAKE(at->arrived, tile)
    TAKE(at->quiet, tile)
    TAKE(at->sums, sums)
    TAKE(at->seen, seen)
    TAKE(at->counts, counted)
    TAKE(at->out_row, out_row)
    TAKE(at->ones, 256)
    for (int64_t t = 0, r = 0; t < task->terms; t++) {
        const ConvolutionTerm *term = task->term + t;
        for (int64_t k = 0; k < term->ring; k++, r++) {
            InputRow *row = at->ring + r;
            TAKE(row->start, starts_of(term))
            TAKE(row->growth, growths_of(task, term))
            TAKE(row->entry, entries_of(term))
            TAKE(row->spike, entries_of(term))
            TAKE(row->key, keys_of_term(term))
            TAKE(row->some, marks_of_term(term))
            memset(row->key, 0, (size_t)keys_of_term(term) * sizeof *row->key); /* the padding stays so */
        }
    }
#undef TAKE
    memset(at->zeros, 0, (size_t)lanes * sizeof *at->zeros);
    memset(at->counts, 0, (size_t)counted * sizeof *at->counts); /* the padding stays so */
    list_ones(at->ones);
    return 1;
}

/* Reads the input rows that output row `oy` needs. */
static void NAME(read_rows)(NAME(Tile) *at, int64_t oy) {
    InputRow *ring = at->ring;
    for (int64_t t = 0; t < at->task->terms; ring += at->task->term[t++].ring) {
        const ConvolutionTerm *term = at->task->term + t;
        for (int64_t ky = 0; ky < term->kernel_y; ky++) {
            const int64_t y = input_row(term, oy, ky);
            InputRow *row = ring + (y < 0 ? 0 : y) % term->ring;
            if (y < 0 || row->y == y) continue;
            row->y = y;
            const int64_t low = term->in_lo[at->block], n = term->in_n[at->block];
            if (term->tables)
                NAME(read_keys)(term, at->task->samples, at->sample, y, low, n, 4 * (int32_t)at->task->width, row);
            else if (is_listed(term))
                NAME(read_lists)(term, (const uint8_t(*)[8])at->ones, at->task->samples, at->sample, y, low, n,
                                 at->task->width * (term->kind == WIDE ? 4 : 2), row);
            if (growths_of(at->task, term))
                NAME(read_growth)(term, at->task->samples, at->sample, y, low, n, at->task->out_width, at->sums, at->grown, row);
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

/* Notes that something has arrived at all positions, in this many half units of error. */
INLINE void NAME(arrived_everywhere)(NAME(Tile) *at, int64_t error) {
    for (int64_t p = 0; p < at->positions; p++) at->arrived[p] = 1, at->received[p] += error;
}

/* current += what spikes of a term at a step send, by tables. */
static void NAME(receive_tabled)(NAME(Tile) *at, const ConvolutionTerm *term, const InputRow *ring, int64_t step) {
    const int16_t *key[MOST_KERNEL]; /* of each kernel row, those that the tile reads; NULL: nothing spikes there */
    const uint64_t *some[MOST_KERNEL];
    const int64_t x = at->ox * term->stride_x, fours = term->quarters / 4, all = across_of(term, at->positions) * fours;
    int64_t spiking = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++) {
        const int64_t y = input_row(term, at->oy, ky);
        key[ky] = NULL;
        if (y < 0) continue;
        const InputRow *row = ring + y % term->ring;
        some[ky] = row->some + step * marks_of_step(term);
        const int64_t here = NAME(count_bits)(some[ky], x * fours, x * fours + all);
        if (here) key[ky] = row->key + step * keys_of_step(term) + x * term->quarters;
        spiking += here;
    }
    if (!spiking) return;
    const char *table = (const char *)term->tables + at->block * term->table_bytes;
    const int64_t reads = taps_of(term) * term->in_n[at->block], most = 16 * spiking < reads ? 16 * spiking : reads;
    if (2 * spiking < 3 * at->positions * fours) /* measured, with kernels of 3 x 3 */
        NAME(add_few)(term, key, some, x * fours, table, at->positions, at->task->width, at->current);
    else
        NAME(add_tabled)(term, key, table, at->positions, at->task->width, at->current);
    NAME(arrived_everywhere)(at, most * term->left_out.error);
}

/* The same where each output has an input channel of its own. */
static void NAME(receive_own)(NAME(Tile) *at, const ConvolutionTerm *term, int64_t step) {
    const ConvolutionTask *task = at->task;
    if (NAME(add_own)(term, task->samples, at->sample, step, at->block, at->oy, at->ox, at->positions, task->out_n[at->block],
                      task->width, at->current))
        NAME(arrived_everywhere)(at, taps_of(term) * term->left_out.error);
}

/* What a chunk of an input row sends to a row of outputs at all steps, by the weights of a kernel row, from column `kx` of the
   kernel on, `together` of them. */
static void NAME(receive_chunk)(NAME(Tile) *at, const ConvolutionTerm *term, const InputRow *row, const uint32_t *start, int64_t n,
                                const char *weights, int64_t kx, int64_t together, int64_t slot) {
    const int64_t width = at->task->width, column = n * width * (term->kind == WIDE ? 4 : 2);
    const int64_t left = at->ox * term->stride_x - term->pad_x + kx * term->dilation_x;
    int64_t pieces = 0;
    for (int64_t step = 0; step < term->steps; step++, start += term->width)
        for (int64_t p = 0; p < at->positions; p++, slot++) {
            const int64_t x = left + p * term->stride_x, from = x < 0 ? 0 : x;
            const int64_t to = x + together < term->width ? x + together : term->width;
            if (from >= to) continue;
            const uint32_t first = start[from], some = start[to] - first;
            at->piece[pieces] = (NAME(Piece)){first, some, weights + (kx - x) * column, at->listed + slot * width};
            pieces += some != 0;
            at->heard[slot] |= some != 0;
        }
    NAME(add_listed)(term->kind, width, row, at->piece, pieces, (int)term->shift);
}

/* By how much the sums of an input row's spikes grow, as a row of outputs sees them. */
static void NAME(receive_growth)(NAME(Tile) *at, const ConvolutionTerm *term, const InputRow *row, int64_t slot) {
    const int64_t *growth = row->growth + at->ox;
    for (int64_t step = 0; step < term->steps; step++, growth += at->task->out_width, slot += at->positions)
        for (int64_t p = 0; p < at->positions; p++) at->brought[slot + p] += growth[p];
}

/* What spikes send to the tile by lists, `rows` rows of it from `oy` on, at all steps. */
static void NAME(receive_listed)(NAME(Tile) *at, int64_t rows) {
    const ConvolutionTask *task = at->task;
    const int64_t each = at->listed_steps * at->positions;
    if (!each) return;
    memset(at->listed, 0, (size_t)(rows * each * task->width) * sizeof *at->listed);
    memset(at->brought, 0, (size_t)(rows * each) * sizeof *at->brought);
    memset(at->heard, 0, (size_t)(rows * each));
    const InputRow *ring = at->ring;
    for (int64_t t = 0; t < task->terms; ring += task->term[t++].ring) {
        const ConvolutionTerm *term = task->term + t;
        if (!is_listed(term)) continue;
        const int64_t in_n = term->in_n[at->block], row_bytes = task->width * (term->kind == WIDE ? 4 : 2);
        const int64_t together = term->dilation_x == 1 ? term->kernel_x : 1;
        const char *weights = (const char *)term->weights + at->block * term->block_bytes;
        for (int64_t ky = 0; ky < term->kernel_y; ky++)
            for (int64_t low = 0, first = 0; low < in_n; low += term->chunk, first += term->steps * term->width + 1) {
                const int64_t n = in_n - low < term->chunk ? in_n - low : term->chunk;
                for (int64_t r = 0; r < rows; r++) {
                    const int64_t y = input_row(term, at->oy + r, ky);
                    if (y < 0) continue;
                    const InputRow *row = ring + y % term->ring;
                    for (int64_t kx = 0; kx < term->kernel_x; kx += together)
                        NAME(receive_chunk)(at, term, row, row->start + first, n, weights, kx, together, r * each);
                    if (!low && term->left_out.error) NAME(receive_growth)(at, term, row, r * each);
                }
                weights += term->kernel_x * n * row_bytes;
            }
    }
}

/* Where the currents of a step are that come by lists, if any do; else zeros. */
static int32_t *NAME(begin_step)(NAME(Tile) *at, int64_t step) {
    const int64_t positions = at->positions, width = at->task->width;
    if (step >= at->listed_steps) {
        memset(at->arrived, 0, (size_t)positions);
        memset(at->spare_current, 0, (size_t)(positions * width) * sizeof *at->spare_current);
        return at->spare_current;
    }
    const int64_t slot = (at->row * at->listed_steps + step) * positions;
    memcpy(at->arrived, at->heard + slot, (size_t)positions);
    for (int64_t p = 0; p < positions; p++) at->received[p] += at->brought[slot + p];
    return at->listed + slot * width;
}

/* What arrives at a step. */
static void NAME(receive_step)(NAME(Tile) *at, int64_t step) {
    const ConvolutionTask *task = at->task;
    const InputRow *ring = at->ring;
    at->current = NAME(begin_step)(at, step);
    for (int64_t t = 0; t < task->terms; ring += task->term[t++].ring) {
        const ConvolutionTerm *term = task->term + t;
        if (step >= term->steps) continue;
        if (term->tables) NAME(receive_tabled)(at, term, ring, step);
        else if (term->own) NAME(receive_own)(at, term, step); /* what is listed is there */
    }
}

/* A step of neighbouring positions from `p` on, `lanes` neurons, to which the same has arrived. Returns whether any spiked. */
INLINE int64_t NAME(fire_some)(NAME(Tile) *at, int64_t p, int64_t lanes, int64_t step, const int32_t *driven, int8_t *fired) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const int64_t first = p * task->width;
    const int32_t cap = (int32_t)cap_at(neurons, step), *sum = at->current + first, *thresholds = at->thresholds + first;
    int32_t *v = at->v + first, *total = at->total + first, undecided = 0;
    driven += first;
    if (!task->exactly.margin)
        return NAME(fire)(lanes, sum, driven, thresholds, cap, lower_of(neurons), v, total, fired, 0, NULL, NULL);
    const int32_t margin = margin_at(&task->exactly, at->received[p], cap);
    int64_t any = NAME(fire)(lanes, sum, driven, thresholds, cap, lower_of(neurons), v, total, fired, margin,
                             at->near + first, &undecided);
    if (!undecided) return any;
    for (int64_t k = 0; k < lanes; k += task->width)
        if (NAME(next_near)(at->near + first + k, 0, task->width) < task->width)
            NAME(decide)(at, p + k / task->width, step, fired + k);
    any = 0;
    for (int64_t k = 0; k < lanes; k++) any |= fired[k];
    return any;
}

/* A tile's neurons from the first step to silence; writes what they do to `out_row`. Returns how many steps they needed, or
   more than there is room for. */
static int64_t NAME(run_tile)(NAME(Tile) *at) {
    const ConvolutionTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const int64_t width = task->width, lanes = at->positions * width, wake_steps = neurons->wake_steps;
    int64_t arriving = 0, needed = 0, step = 0, together = at->positions;
    for (int64_t t = 0; t < task->terms; t++) {
        arriving = task->term[t].steps > arriving ? task->term[t].steps : arriving;
        if (is_listed(task->term + t)) together = 1;
    }
    at->known = 0;
    memset(at->received, 0, (size_t)at->positions * sizeof *at->received);
    memset(at->quiet, 0, (size_t)at->positions);
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
        int8_t *fired = step < task->capacity ? out : at->spare;
        int64_t any = 0;
        if (step <= arriving) NAME(receive_step)(at, step); /* later there is nothing, as at the step behind the last */
        for (int64_t p = 0; p < at->positions; p += together) {
            int8_t *own = fired + p * width;
            /* Neurons that have not changed at the step before, and to which nothing arrives, do not. */
            const int still = at->quiet[p] && !at->arrived[p] && driven == at->zeros && step > wake_steps;
            if (still) memset(own, 0, (size_t)(together * width));
            else at->quiet[p] = !NAME(fire_some)(at, p, together * width, step, driven, own);
            any |= !at->quiet[p];
        }
        if (!any && step >= arriving && step >= wake_steps) break;
        if (step >= task->capacity) return task->capacity + 1;
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
            at->row = (at->oy - from) % task->rows;
            const int64_t rows = to - at->oy < task->rows ? to - at->oy : task->rows;
            for (int64_t r = 0; r < rows && !at->row; r++) NAME(read_rows)(at, at->oy + r);
            at->drive_at = at->sample * task->drive_sample + at->oy * task->drive_y;
            at->potential_at = at->sample * task->potential_sample + at->oy * task->potential_y;
            for (at->ox = 0; at->ox < task->out_width; at->ox += at->positions) {
                const int64_t rest = task->out_width - at->ox;
                at->positions = rest < task->tile ? rest : task->tile;
                if (!at->row) NAME(receive_listed)(at, rows);
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
