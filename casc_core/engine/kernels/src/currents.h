/* Currents: what the spikes of each step send through a convolution, written down for what reads them as numbers. Included once
   for each floating type REAL, which provably holds the sums: they are the same in any order. */

typedef REAL TYPED(Vector) __attribute__((vector_size(VECTOR ? VECTOR / 8 : 16), aligned(sizeof(REAL)), may_alias));
enum { TYPED(LANES) = sizeof(TYPED(Vector)) / sizeof(REAL), TYPED(MOST_VECTORS) = VECTOR == 512 ? 4 : 8, TYPED(OWN) = 16 };

/* The spikes of the input rows that a band of output rows reads: those at a position are event[start[position]] up to
   start[position + 1], channel * 256 + the spike's byte. */
typedef struct {
    int64_t first_row, rows;
    uint32_t *start, *event;
    REAL value[256]; /* of a byte */
} TYPED(Events);

/* Lists what spikes among a group's channels. */
static void TYPED(list_events)(const CurrentsTask *task, const int8_t *image, int64_t group, TYPED(Events) *events) {
    const int64_t inputs = task->channels / task->groups;
    uint32_t count = 0, *start = events->start;
    for (int64_t position = 0; position < events->rows * task->width; position++) {
        const int8_t *x = image + (events->first_row * task->width + position) * task->channels + group * inputs;
        *start++ = count;
        for (int64_t c = 0; c < inputs; c += 8) {
            uint64_t bytes = 0;
            memcpy(&bytes, x + c, inputs - c < 8 ? (size_t)(inputs - c) : 8);
            while (bytes) {
                const int at = lowest_bit(bytes) / 8;
                events->event[count++] = (uint32_t)(c + at) << 8 | (uint8_t)x[c + at];
                bytes &= ~((uint64_t)255 << 8 * at);
            }
        }
    }
    *start = count;
}

/* Writes so many sums, or adds them to what is there. */
INLINE void TYPED(put)(REAL *to, const REAL *sums, int64_t count, int64_t adds) {
    if (adds)
        for (int64_t k = 0; k < count; k++) to[k] += sums[k];
    else
        memcpy(to, sums, (size_t)count * sizeof *to);
}

/* The input row of an output row and a kernel row, or column; -1: there is none. */
INLINE int64_t TYPED(read_at)(int64_t out, int64_t tap, int64_t stride, int64_t pad, int64_t dilation, int64_t size) {
    const int64_t at = out * stride - pad + tap * dilation;
    return at >= 0 && at < size ? at : -1;
}

/* A row of outputs, so many vectors of them, of which the first `count` are there: their sums stay in registers. */
INLINE void TYPED(sum_events)(const int vectors, const CurrentsTask *task, const TYPED(Events) *events, const REAL *weights,
                              int64_t y, int64_t count, REAL *to) {
    const int64_t inputs = task->channels / task->groups;
    for (int64_t x = 0; x < task->out_width; x++, to += task->outputs) {
        TYPED(Vector) sums[TYPED(MOST_VECTORS)] = {{0}};
        for (int64_t ky = 0; ky < task->kernel_y; ky++) {
            const int64_t row = TYPED(read_at)(y, ky, task->stride_y, task->pad_y, task->dilation_y, task->height);
            if (row < 0) continue;
            for (int64_t kx = 0; kx < task->kernel_x; kx++) {
                const int64_t column = TYPED(read_at)(x, kx, task->stride_x, task->pad_x, task->dilation_x, task->width);
                if (column < 0) continue;
                const uint32_t *start = events->start + (row - events->first_row) * task->width + column;
                const REAL *tap = weights + (ky * task->kernel_x + kx) * inputs * task->padded;
                for (uint32_t at = start[0]; at < start[1]; at++) {
                    const uint32_t event = events->event[at];
                    const REAL *sent = tap + (event >> 8) * task->padded, value = events->value[event & 255];
                    for (int i = 0; i < vectors; i++)
                        sums[i] += *(const TYPED(Vector) *)(sent + i * TYPED(LANES)) * value;
                }
            }
        }
        TYPED(put)(to, (const REAL *)sums, count, task->adds);
    }
}

/* A row of outputs that have an input channel each: all of it is multiplied. */
static void TYPED(multiply_own)(const CurrentsTask *task, const int8_t *image, int64_t y, REAL *to) {
    const REAL *weights = (const REAL *)task->weights;
    for (int64_t x = 0; x < task->out_width; x++, to += task->outputs)
        for (int64_t c = 0; c < task->channels; c += TYPED(OWN)) {
            const int64_t count = task->channels - c < TYPED(OWN) ? task->channels - c : TYPED(OWN);
            REAL sums[TYPED(OWN)] = {0};
            for (int64_t ky = 0; ky < task->kernel_y; ky++) {
                const int64_t row = TYPED(read_at)(y, ky, task->stride_y, task->pad_y, task->dilation_y, task->height);
                if (row < 0) continue;
                for (int64_t kx = 0; kx < task->kernel_x; kx++) {
                    const int64_t column = TYPED(read_at)(x, kx, task->stride_x, task->pad_x, task->dilation_x, task->width);
                    if (column < 0) continue;
                    int8_t spikes[TYPED(OWN)] = {0};
                    const int8_t *from = image + (row * task->width + column) * task->channels + c;
                    const REAL *each = weights + (ky * task->kernel_x + kx) * task->padded + c;
                    if (count == TYPED(OWN))
                        memcpy(spikes, from, TYPED(OWN));
                    else
                        memcpy(spikes, from, (size_t)count);
                    for (int k = 0; k < TYPED(OWN); k++) sums[k] += (REAL)spikes[k] * each[k];
                }
            }
            TYPED(put)(to + c, sums, count, task->adds);
        }
}

/* A band of output rows of an image, the outputs of one group. */
static void TYPED(band)(const CurrentsTask *task, const TYPED(Events) *events, int64_t group, int64_t first, int64_t last,
                        REAL *out) {
    const int64_t outputs = task->outputs / task->groups, taps = task->kernel_y * task->kernel_x;
    const REAL *weights = (const REAL *)task->weights + group * taps * (task->channels / task->groups) * task->padded;
    for (int64_t from = 0; from < outputs; from += TYPED(MOST_VECTORS) * TYPED(LANES)) {
        const int64_t left = outputs - from, most = TYPED(MOST_VECTORS) * TYPED(LANES), count = left < most ? left : most;
        for (int64_t y = first; y < last; y++) {
            REAL *to = out + y * task->out_width * task->outputs + group * outputs + from;
            switch ((count + TYPED(LANES) - 1) / TYPED(LANES)) {
                case 1: TYPED(sum_events)(1, task, events, weights + from, y, count, to); break;
                case 2: TYPED(sum_events)(2, task, events, weights + from, y, count, to); break;
                case 3: TYPED(sum_events)(3, task, events, weights + from, y, count, to); break;
                case 4: TYPED(sum_events)(4, task, events, weights + from, y, count, to); break;
                case 5:
                case 6: TYPED(sum_events)(TYPED(MOST_VECTORS) < 6 ? 1 : 6, task, events, weights + from, y, count, to); break;
                default: TYPED(sum_events)(TYPED(MOST_VECTORS), task, events, weights + from, y, count, to); break;
            }
        }
    }
}

/* The bands first..last-1 of all images. */
static int64_t TYPED(currents)(const CurrentsTask *task, int64_t first, int64_t last) {
    const int64_t rows = (task->out_height + task->bands - 1) / task->bands;
    const int64_t span = (task->kernel_y - 1) * task->dilation_y + 1, most = (rows - 1) * task->stride_y + span;
    const int64_t positions = (most < task->height ? most : task->height) * task->width;
    const int64_t listed = task->own ? 0 : positions + 1 + positions * (task->channels / task->groups);
    TYPED(Events) events;
    events.start = (uint32_t *)malloc((size_t)(listed + 1) * sizeof(uint32_t));
    if (!events.start) return NO_MEMORY;
    events.event = events.start + positions + 1;
    for (int byte = 0; byte < 256; byte++) events.value[byte] = (REAL)(int8_t)byte;
    for (int64_t item = first; item < last; item++) {
        const int64_t number = item / task->bands, y = item % task->bands * rows;
        const int64_t end = y + rows < task->out_height ? y + rows : task->out_height;
        const int8_t *image = task->train + number * task->height * task->width * task->channels;
        REAL *out = (REAL *)task->out + number * task->out_height * task->out_width * task->outputs;
        const int64_t top = y * task->stride_y - task->pad_y, bottom = (end - 1) * task->stride_y - task->pad_y + span;
        events.first_row = top > 0 ? top : 0;
        events.rows = (bottom < task->height ? bottom : task->height) - events.first_row;
        if (events.rows < 0) events.rows = 0;
        for (int64_t row = y; task->own && row < end; row++)
            TYPED(multiply_own)(task, image, row, out + row * task->out_width * task->outputs);
        for (int64_t group = 0; !task->own && group < task->groups; group++) {
            TYPED(list_events)(task, image, group, &events);
            TYPED(band)(task, &events, group, y, end, out);
        }
    }
    free(events.start);
    return 0;
}
