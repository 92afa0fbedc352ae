/* The levels of a population behind convolutions of levels: integers throughout, summed densely, as pairs of int16.

   An item's inputs are copied once, as int16 between their zeros. A tile, some output positions and a block or two of outputs,
   keeps its sums in registers, and its levels are taken before anything is written: no sum ever is. Where int32 or int16 is
   too narrow for the numbers, they have been rounded, with a margin for each output; a neuron that comes nearer than that to
   a threshold is decided by the weights' next bits, or by the weights themselves. */

#undef DENSE_TILE
#undef DENSE_BLOCKS
#undef DENSE_LANES
#undef DENSE_WORDS
#define DENSE_LANES SUM_LANES
#define DENSE_WORDS (DENSE_BLOCK / DENSE_LANES) /* of one block */
/* As many sums as registers hold beside weights and inputs. */
#define DENSE_TILE (VECTOR == 512 ? 8 : 4)
#define DENSE_BLOCKS (VECTOR == 512 ? 2 : 1)
enum { NAME(DENSE_WIDTH) = DENSE_BLOCK * DENSE_BLOCKS };

/* What one thread works with. `input` of each term [samples, rows, columns, pixel], `sums_of` its [samples, rows, columns]: the
   magnitudes of a pixel's levels together; `offset` [terms, positions]: where in `input` a position begins to read. */
typedef struct {
    const DenseTask *task;
    int16_t **input;
    int32_t **sums_of;
    int64_t **offset, **place; /* of each term: where its parts of the inputs lie, seen from where a position begins */
    int64_t first_position, positions;
    void *memory;
} NAME(DenseItem);

/* Room for an item. Returns whether there was memory. */
static int NAME(dense_open)(NAME(DenseItem) *at, const DenseTask *task) {
    const int64_t positions = task->together * most_rows(task) * task->out_width, slack = 64;
    int64_t bytes = 64;
    for (int64_t t = 0; t < task->terms; t++) {
        const int64_t pixels = task->together * dense_rows(task, task->term + t) * task->term[t].columns;
        bytes += 4 * 8 + 8 * positions + 4 * pixels + 2 * (pixels * task->term[t].pixel + slack) + 8 * parts_of(task->term + t) + 8 * 16;
    }
    char *next = (char *)malloc((size_t)bytes);
    if (!next) return 0;
    *at = (NAME(DenseItem)){.task = task, .memory = next};
#define TAKE(pointer, n)                                                                                              \
    pointer = (void *)next;                                                                                           \
    next += ((int64_t)(n) * (int64_t)sizeof(*(pointer)) + 15) / 16 * 16;
    TAKE(at->input, task->terms)
    TAKE(at->sums_of, task->terms)
    TAKE(at->offset, task->terms)
    TAKE(at->place, task->terms)
    for (int64_t t = 0; t < task->terms; t++) {
        const DenseTerm *term = task->term + t;
        const int64_t pixels = task->together * dense_rows(task, term) * term->columns;
        TAKE(at->offset[t], positions)
        TAKE(at->sums_of[t], pixels)
        TAKE(at->place[t], parts_of(term))
        TAKE(at->input[t], pixels * term->pixel + slack)
        memset(at->input[t] + pixels * term->pixel, 0, (size_t)slack * sizeof(int16_t)); /* read, and multiplied by 0 */
        for (int64_t s = 0; s < parts_of(term); s++)
            at->place[t][s] = (s / term->across * term->dilation_y * term->columns + s % term->across * term->dilation_x) * term->pixel;
    }
#undef TAKE
    return 1;
}

/* One row of input as int16, zeros around it. */
static void NAME(widen_row)(const DenseTerm *term, const int8_t *from, int16_t *to) {
    const int64_t channels = term->channels, pixel = term->pixel, left = term->pad_x;
    const int64_t room = term->columns - left, width = room < 0 ? 0 : term->width < room ? term->width : room;
    if (room <= 0) {
        memset(to, 0, (size_t)(term->columns * pixel) * sizeof *to);
        return;
    }
    memset(to, 0, (size_t)(left * pixel) * sizeof *to);
    to += left * pixel;
    if (pixel == channels)
        for (int64_t k = 0; k < width * channels; k++) to[k] = from[k];
    else
        for (int64_t x = 0; x < width; x++) {
            for (int64_t c = 0; c < channels; c++) to[x * pixel + c] = from[x * channels + c];
            for (int64_t c = channels; c < pixel; c++) to[x * pixel + c] = 0;
        }
    memset(to + width * pixel, 0, (size_t)((room - width) * pixel) * sizeof *to);
}

/* The magnitudes of each pixel's levels together. */
static void NAME(sum_pixels)(int64_t pixels, int64_t pixel, const int16_t *from, int32_t *to) {
    for (int64_t x = 0; x < pixels; x++, from += pixel) {
        int32_t sum = 0;
        for (int64_t c = 0; c < pixel; c++) sum += from[c] < 0 ? -from[c] : from[c];
        to[x] = sum;
    }
}

/* Reads what an item needs: the output rows from..to-1 of some samples. */
static void NAME(dense_read)(NAME(DenseItem) *at, int64_t first, int64_t samples, int64_t from, int64_t to) {
    const DenseTask *task = at->task;
    for (int64_t t = 0; t < task->terms; t++) {
        const DenseTerm *term = task->term + t;
        const int64_t row = term->columns * term->pixel, top = from * term->stride_y - term->pad_y;
        const int64_t rows = (to - from - 1) * term->stride_y + (term->kernel_y - 1) * term->dilation_y + 1;
        int16_t *input = at->input[t];
        int64_t *offset = at->offset[t];
        for (int64_t s = 0; s < samples; s++) {
            for (int64_t oy = 0; oy < to - from; oy++)
                for (int64_t ox = 0; ox < task->out_width; ox++)
                    *offset++ = (s * rows + oy * term->stride_y) * row + ox * term->stride_x * term->pixel;
            for (int64_t y = top; y < top + rows; y++, input += row) {
                const int8_t *in = term->levels + ((first + s) * term->height + y) * term->width * term->channels;
                if (y < 0 || y >= term->height)
                    memset(input, 0, (size_t)row * sizeof *input);
                else
                    NAME(widen_row)(term, in, input);
            }
        }
        if (term->summed) NAME(sum_pixels)(samples * rows * term->columns, term->pixel, at->input[t], at->sums_of[t]);
    }
}

#if VECTOR
/* to [tile, width] = products of the inputs of a tile with the weights of `blocks` blocks, shifted, and `base`, whose rows are
   `next` apart; it may be `to`. */
INLINE void NAME(add_dense)(const int blocks, const DenseTerm *term, const int64_t *place, const int16_t *const *from, int64_t block,
                          const int32_t *base, int64_t next, int32_t *to) {
    WORD sum[DENSE_TILE][2 * DENSE_WORDS];
    const int words = blocks * DENSE_WORDS;
    const int64_t parts = parts_of(term);
    const int16_t *weight = term->weights + block * term->block_size;
    UNROLLED for (int p = 0; p < DENSE_TILE; p++)
        UNROLLED for (int w = 0; w < words; w++) sum[p][w] = ZERO();
    for (int64_t s = 0; s < parts; s++) {
        const int64_t start = place[s] + term->first[block];
        const int16_t *in[DENSE_TILE];
        UNROLLED for (int p = 0; p < DENSE_TILE; p++) in[p] = from[p] + start;
        for (int64_t k = 0; k < term->span; k += 2, weight += 2 * DENSE_BLOCK) {
            WORD weights[2 * DENSE_WORDS];
            UNROLLED for (int w = 0; w < words; w++)
                weights[w] = LOAD(weight + w / DENSE_WORDS * term->block_size + w % DENSE_WORDS * 2 * DENSE_LANES);
            UNROLLED for (int p = 0; p < DENSE_TILE; p++) {
                int32_t pair;
                memcpy(&pair, in[p] + k, sizeof pair);
                const WORD inputs = EACH_PAIR(pair);
                UNROLLED for (int w = 0; w < words; w++) sum[p][w] = PAIRS(sum[p][w], weights[w], inputs);
            }
        }
    }
    UNROLLED for (int w = 0; w < words; w++) {
        const NAME(Sums) by = *(const NAME(Sums) *)(term->shift + block * DENSE_BLOCK + w * DENSE_LANES);
        UNROLLED for (int p = 0; p < DENSE_TILE; p++)
            *(NAME(Sums) *)(to + p * NAME(DENSE_WIDTH) + w * DENSE_LANES) =
                *(const NAME(Sums) *)(base + p * next + w * DENSE_LANES) + ((NAME(Sums))sum[p][w] << by);
    }
}

/* The same where each output has an input channel of its own; pairs are of two taps. */
INLINE void NAME(add_dense_own)(const int blocks, const DenseTerm *term, const int64_t *place, const int16_t *const *from, int64_t block,
                          const int32_t *base, int64_t next, int32_t *to) {
    const int64_t parts = parts_of(term);
    for (int w = 0; w < blocks * DENSE_WORDS; w++) {
        const int16_t *weights = term->weights + (block + w / DENSE_WORDS) * term->block_size + w % DENSE_WORDS * 2 * DENSE_LANES;
        const int64_t lane = term->first[block] + w * DENSE_LANES;
        const NAME(Sums) by = *(const NAME(Sums) *)(term->shift + block * DENSE_BLOCK + w * DENSE_LANES);
        WORD sum[DENSE_TILE];
        UNROLLED for (int p = 0; p < DENSE_TILE; p++) sum[p] = ZERO();
        for (int64_t s = 0; s < parts; s += 2) {
            const WORD weight = LOAD(weights + s * DENSE_BLOCK);
            const int64_t one = place[s] + lane, other = place[s + 1] + lane;
            if (s + 1 == parts)
                UNROLLED for (int p = 0; p < DENSE_TILE; p++) sum[p] = PAIRS(sum[p], weight, UNSIGNED16(from[p] + one));
            else
                UNROLLED for (int p = 0; p < DENSE_TILE; p++)
                    sum[p] = PAIRS(sum[p], weight, (WORD)((NAME(Sums))UNSIGNED16(from[p] + one) |
                                                          (NAME(Sums))UNSIGNED16(from[p] + other) << 16));
        }
        UNROLLED for (int p = 0; p < DENSE_TILE; p++)
            *(NAME(Sums) *)(to + p * NAME(DENSE_WIDTH) + w * DENSE_LANES) =
                *(const NAME(Sums) *)(base + p * next + w * DENSE_LANES) + ((NAME(Sums))sum[p] << by);
    }
}

/* Functions of their own, so that sums and pointers have all registers. */
#define OWN_FUNCTION(name, blocks)                                                                                    \
    static __attribute__((noinline)) void NAME(name##_##blocks)(const DenseTerm *term, const int64_t *place,          \
                                                                const int16_t *const *from, int64_t block,            \
                                                                const int32_t *base, int64_t next, int32_t *to) {     \
        NAME(name)(blocks, term, place, from, block, base, next, to);                                                 \
    }
OWN_FUNCTION(add_dense, 1)
OWN_FUNCTION(add_dense, 2)
#undef OWN_FUNCTION
#else
INLINE void NAME(add_dense)(const int blocks, const DenseTerm *term, const int64_t *place, const int16_t *const *from, int64_t block,
                          const int32_t *base, int64_t next, int32_t *to) {
    (void)blocks;
    const int64_t parts = parts_of(term);
    const int32_t *shift = term->shift + block * DENSE_BLOCK;
    for (int p = 0; p < DENSE_TILE; p++) {
        const int16_t *weight = term->weights + block * term->block_size;
        int32_t sum[DENSE_BLOCK] = {0};
        for (int64_t s = 0; s < parts; s++) {
            const int16_t *in = from[p] + place[s] + term->first[block];
            for (int64_t k = 0; k < term->span; k += 2, weight += 2 * DENSE_BLOCK)
                for (int o = 0; o < DENSE_BLOCK; o++) sum[o] += weight[2 * o] * in[k] + weight[2 * o + 1] * in[k + 1];
        }
        for (int o = 0; o < DENSE_BLOCK; o++)
            to[p * DENSE_BLOCK + o] = base[p * next + o] + (int32_t)((uint32_t)sum[o] << shift[o]);
    }
}
#define add_dense_1_plain(...) add_dense_plain(1, __VA_ARGS__)
#define add_dense_2_plain(...) add_dense_plain(1, __VA_ARGS__)

INLINE void NAME(add_dense_own)(const int blocks, const DenseTerm *term, const int64_t *place, const int16_t *const *from, int64_t block,
                          const int32_t *base, int64_t next, int32_t *to) {
    (void)blocks;
    const int64_t parts = parts_of(term);
    const int32_t *shift = term->shift + block * DENSE_BLOCK;
    for (int p = 0; p < DENSE_TILE; p++) {
        const int16_t *weight = term->weights + block * term->block_size;
        int32_t sum[DENSE_BLOCK] = {0};
        for (int64_t s = 0; s < parts; s++) {
            const int16_t *in = from[p] + place[s] + term->first[block];
            for (int o = 0; o < DENSE_BLOCK; o++) sum[o] += weight[(s / 2 * DENSE_BLOCK + o) * 2 + s % 2] * in[o];
        }
        for (int o = 0; o < DENSE_BLOCK; o++)
            to[p * DENSE_BLOCK + o] = base[p * next + o] + (int32_t)((uint32_t)sum[o] << shift[o]);
    }
}
#endif

/* The levels that the outputs low..low+DENSE_BLOCK-1 settle at which have received so much, clip(floor(received / threshold), 0, total).
   Returns a bit for each that may be wrong: the rest is not between `lowest` and `highest`, because sums are off, or the quotient
   has been rounded. */
INLINE uint32_t NAME(dense_levels)(const DenseTask *task, int64_t low, const int32_t *received, int8_t *out) {
    uint32_t doubtful = 0;
#if VECTOR
    WORD levels[DENSE_WORDS];
    UNROLLED for (int w = 0; w < DENSE_WORDS; w++) {
        const int64_t at = low + w * DENSE_LANES;
        const WORD lowest = LOAD(task->lowest + at), above = LARGER32(LOAD(received + w * DENSE_LANES), lowest);
        const WORD held = SMALLER32(above, LOAD(task->top + at));
        levels[w] = WHOLE(TO_REALS(held) * LOAD_REALS(task->inverse + at));
        const WORD taken = TIMES32(levels[w], LOAD(task->thresholds + at));
        const NAME(Lanes) rest = (NAME(Lanes))held - (NAME(Lanes))taken;
        doubtful |= BITS(GREATER(lowest, rest) | GREATER(rest, LOAD(task->highest + at))) << w * DENSE_LANES;
    }
    NAME(store_narrow)(out, levels);
#else
    for (int k = 0; k < DENSE_BLOCK; k++) {
        const int32_t lowest = task->lowest[low + k], top = task->top[low + k];
        const int32_t above = received[k] > lowest ? received[k] : lowest, held = above < top ? above : top;
        const int32_t level = (int32_t)((float)held * task->inverse[low + k]), rest = held - level * task->thresholds[low + k];
        out[k] = (int8_t)level;
        doubtful |= (uint32_t)((rest < lowest) | (rest > task->highest[low + k])) << k;
    }
#endif
    return doubtful;
}

/* Copies so many bytes, or as many as a block has. */
INLINE void NAME(copy_block)(int8_t *to, const int8_t *from, int64_t n) {
    if (n >= DENSE_BLOCK) {
        memcpy(to, from, DENSE_BLOCK);
        return;
    }
    for (int64_t size = 8; size; size /= 2)
        if (n & size) {
            if (size == 8) memcpy(to, from, 8);
            else if (size == 4) memcpy(to, from, 4);
            else if (size == 2) memcpy(to, from, 2);
            else *to = *from;
            to += size, from += size;
        }
}

/* The magnitudes, together, of all levels that a position reads of a term. */
static double NAME(levels_read)(const NAME(DenseItem) *at, int64_t t, int64_t position) {
    const DenseTerm *term = at->task->term + t;
    const int32_t *sums = at->sums_of[t] + at->offset[t][position] / term->pixel;
    int64_t sum = 0;
    for (int64_t ky = 0; ky < term->kernel_y; ky++)
        for (int64_t kx = 0; kx < term->kernel_x; kx++)
            sum += sums[ky * term->dilation_y * term->columns + kx * term->dilation_x];
    return (double)sum;
}

/* What the next bits of output `k`'s weights add to it, in the finer unit. */
static double NAME(next_bits_of)(const DenseTerm *term, const int64_t *place, const int16_t *in, int64_t k) {
    const int64_t room = next_bits_room(term), parts = parts_of(term);
    const int16_t *low = term->low + k * parts * room;
    int32_t sum = 0;
    if (term->own) {
        for (int64_t s = 0; s < parts; s++) sum += low[s] * in[place[s] + k];
        return sum * term->low_unit[k];
    }
    in += term->first[k / DENSE_BLOCK];
#if VECTOR
    WORD sums = ZERO();
#endif
    for (int64_t s = 0; s < parts; s++, low += room) {
        const int16_t *part = in + place[s];
#if VECTOR
        for (int64_t j = 0; j < room; j += WORD_LANES) sums = DOT(sums, LOAD(low + j), LOAD(part + j));
#else
        for (int64_t j = 0; j < room; j++) sum += low[j] * part[j];
#endif
    }
#if VECTOR
    int32_t each[WORD_LANES / 2];
    STORE(each, sums);
    for (int j = 0; j < WORD_LANES / 2; j++) sum += each[j];
#endif
    return sum * term->low_unit[k];
}

/* What output `k` receives of a term, in the finer unit. */
static double NAME(true_sum_of)(const DenseTerm *term, const int16_t *in, int64_t k) {
    const double *exact = term->exact + k * term->inputs * term->kernel_y * term->kernel_x;
    in += k / term->each_out * term->inputs;
    double sum = 0;
    for (int64_t c = 0; c < term->inputs; c++)
        for (int64_t ky = 0; ky < term->kernel_y; ky++)
            for (int64_t kx = 0; kx < term->kernel_x; kx++)
                sum += *exact++ * in[(ky * term->dilation_y * term->columns + kx * term->dilation_x) * term->pixel + c];
    return sum * term->exact_unit;
}

/* A level, and whether it is sure: no threshold lies within `off` of what has been received. */
typedef struct {
    int32_t level;
    int sure;
} NAME(Level);

INLINE NAME(Level) NAME(level_within)(double received, double off, double threshold, int64_t total) {
    const double quotient = received / threshold, most = (double)total;
    double level = (double)(int64_t)(quotient < 0 ? 0 : quotient > most ? most : quotient);
    /* The quotient has been rounded; products are exact. */
    if (level * threshold > received && level > 0) level--;
    if ((level + 1) * threshold <= received && level < most) level++;
    const double rest = received - level * threshold;
    return (NAME(Level)){(int32_t)level, (level == 0 || rest >= off) && (level == most || threshold - rest > off)};
}

/* The level of output `k` at a position of an item, which has received so much, but for what rounding has left out: `guess`, if it is
   sure. `read`: of each term, the magnitudes of the levels that it reads. */
static int32_t NAME(dense_decided)(const NAME(DenseItem) *at, const double *read, int64_t position, int64_t k, int32_t received,
                                  int32_t guess) {
    const DenseTask *task = at->task;
    const int64_t total = task->neurons.total;
    const int64_t begin = task->begin_by_position ? (at->first_position + position) * task->outputs + k : k;
    double off = task->base[k], finer = ROUNDED;
    for (int64_t t = 0; t < task->terms; t++) {
        const DenseTerm *term = task->term + t;
        if (!term->low) continue;
        if (term->summed) off += read[t] * term->error[k];
        finer += read[t] * term->low_unit[k] / 2;
    }
    const double threshold = task->thresholds[k], rest = received - guess * threshold;
    if (guess >= 0 && guess <= total && (guess == 0 || rest >= off) && (guess == total || threshold - rest > off)) return guess;
    NAME(Level) found = NAME(level_within)(received, off, threshold, total);
    if (found.sure) return found.level;
    double given = task->exact_begin[begin], about = given + ((double)received - task->begin[begin]) * task->unit[k];
    for (int64_t t = 0; t < task->terms; t++)
        if (task->term[t].low)
            about += NAME(next_bits_of)(task->term + t, at->place[t], at->input[t] + at->offset[t][position], k);
    found = NAME(level_within)(about, finer, task->exact_thresholds[k], total);
    if (found.sure) return found.level;
    for (int64_t t = 0; t < task->terms; t++)
        given += NAME(true_sum_of)(task->term + t, at->input[t] + at->offset[t][position], k);
    return NAME(level_within)(given, 0, task->exact_thresholds[k], total).level;
}

/* Decides the outputs from `low` on whose bits are set, at a position. */
static void NAME(dense_decide)(const NAME(DenseItem) *at, int64_t position, int64_t low, const int32_t *received,
                               uint32_t doubtful, int8_t *out) {
    const DenseTask *task = at->task;
    double read[MOST_TERMS];
    for (int64_t t = 0; t < task->terms; t++)
        read[t] = task->term[t].summed ? NAME(levels_read)(at, t, position) : task->term[t].most_read;
    for (; doubtful; doubtful &= doubtful - 1) {
        const int k = __builtin_ctz(doubtful);
        out[k] = (int8_t)NAME(dense_decided)(at, read, position, low + k, received[k], out[k]);
    }
}

/* The levels of a tile: the positions from `p` on of an item, and `blocks` blocks of outputs. */
INLINE void NAME(dense_tile)(const int blocks, const NAME(DenseItem) *at, int64_t p, int64_t block) {
    enum { WIDTH = NAME(DENSE_WIDTH) };
    const DenseTask *task = at->task;
    const int64_t here = at->positions - p < DENSE_TILE ? at->positions - p : DENSE_TILE, low = block * DENSE_BLOCK;
    const int64_t lanes = blocks * DENSE_BLOCK, n = task->outputs - low < lanes ? task->outputs - low : lanes;
    int32_t sums[DENSE_TILE * WIDTH];
    const int32_t *base = task->begin + low;
    int64_t next = 0;
    if (task->begin_by_position) {
        base = sums, next = WIDTH;
        memset(sums, 0, sizeof sums);
        for (int64_t i = 0; i < here; i++)
            memcpy(sums + i * WIDTH, task->begin + (at->first_position + p + i) * task->outputs + low, (size_t)n * sizeof *sums);
    }
    for (int64_t t = 0; t < task->terms; t++, base = sums, next = WIDTH) {
        const int16_t *from[DENSE_TILE];
        for (int64_t i = 0; i < DENSE_TILE; i++) from[i] = at->input[t] + at->offset[t][p + (i < here ? i : 0)];
        if (task->term[t].own)
            NAME(add_dense_own)(blocks, task->term + t, at->place[t], from, block, base, next, sums);
        else if (blocks == 2)
            NAME(add_dense_2)(task->term + t, at->place[t], from, block, base, next, sums);
        else
            NAME(add_dense_1)(task->term + t, at->place[t], from, block, base, next, sums);
    }
    int8_t *out = task->out + (at->first_position + p) * task->outputs + low;
    for (int64_t i = 0; i < here; i++, out += task->outputs) {
        int8_t narrow[WIDTH], *levels = n == lanes ? out : narrow;
        uint32_t doubtful = 0;
        UNROLLED for (int b = 0; b < blocks; b++) {
            const int64_t first = b * DENSE_BLOCK;
            doubtful |= NAME(dense_levels)(task, low + first, sums + i * WIDTH + first, levels + first) << first;
        }
        if (doubtful) NAME(dense_decide)(at, p + i, low, sums + i * WIDTH, doubtful, levels);
        if (n == lanes) continue;
        for (int64_t first = 0; first < n; first += DENSE_BLOCK)
            NAME(copy_block)(out + first, narrow + first, n - first);
    }
}

/* The items first..last-1: an item is a part of the outputs, and some samples or a band of one's rows. */
static int64_t NAME(dense)(const DenseTask *task, int64_t first, int64_t last) {
    NAME(DenseItem) item, *at = &item;
    if (!NAME(dense_open)(at, task)) return NO_MEMORY;
    const int64_t blocks = (task->outputs + DENSE_BLOCK - 1) / DENSE_BLOCK;
    int64_t read = -1;
    for (int64_t number = first; number < last; number++) {
        const int64_t part = number % task->parts, place = number / task->parts, band = place % task->bands;
        const int64_t sample = place / task->bands * task->together, rest = task->samples - sample;
        const int64_t samples = rest < task->together ? rest : task->together;
        const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands;
        if (place != read) {
            NAME(dense_read)(at, sample, samples, from, to);
            at->first_position = (sample * task->out_height + from) * task->out_width;
            at->positions = samples * (to - from) * task->out_width;
            read = place;
        }
        const int64_t end = blocks * (part + 1) / task->parts;
        for (int64_t block = blocks * part / task->parts; block < end;) {
            if (DENSE_BLOCKS > 1 && end - block >= DENSE_BLOCKS && task->alike) {
                for (int64_t p = 0; p < at->positions; p += DENSE_TILE) NAME(dense_tile)(DENSE_BLOCKS, at, p, block);
                block += DENSE_BLOCKS;
            } else {
                for (int64_t p = 0; p < at->positions; p += DENSE_TILE) NAME(dense_tile)(1, at, p, block);
                block++;
            }
        }
    }
    free(at->memory);
    return 0;
}
