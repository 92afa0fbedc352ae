/* Running maxima: how the largest count of a window changes from step to step. */

/* The rows of windows that an item makes, the input rows that they read, and their counts. */
#define DEFINE_MAXIMA(COUNT, LOWEST)                                                                                  \
    INLINE void NAME(larger_##COUNT)(int64_t n, const COUNT *restrict from, COUNT *restrict to) {                     \
        for (int64_t k = 0; k < n; k++) to[k] = from[k] > to[k] ? from[k] : to[k];                                    \
    }                                                                                                                 \
                                                                                                                      \
    INLINE void NAME(count_##COUNT)(int64_t n, const int8_t *restrict spikes, COUNT *restrict counts) {               \
        for (int64_t k = 0; k < n; k++) counts[k] = (COUNT)(counts[k] + spikes[k]);                                   \
    }                                                                                                                 \
                                                                                                                      \
    INLINE void NAME(change_##COUNT)(int64_t n, const COUNT *restrict now, COUNT *restrict before, int8_t *restrict out) { \
        for (int64_t k = 0; k < n; k++) {                                                                             \
            out[k] = (int8_t)(now[k] - before[k]);                                                                    \
            before[k] = now[k];                                                                                       \
        }                                                                                                             \
    }                                                                                                                 \
                                                                                                                      \
    INLINE void NAME(lowest_##COUNT)(int64_t n, COUNT *to) {                                                          \
        for (int64_t k = 0; k < n; k++) to[k] = LOWEST;                                                               \
    }                                                                                                                 \
                                                                                                                      \
    /* now [out_width, channels]: the largest of each window of columns. */                                           \
    INLINE void NAME(across_of_##COUNT)(const MaximaTask *task, const int64_t channels, const COUNT *column, COUNT *now) { \
        const int64_t stride = task->stride_x;                                                                        \
        NAME(lowest_##COUNT)(task->out_width *channels, now);                                                         \
        for (int64_t kx = 0; kx < task->kernel_x; kx++) {                                                             \
            const int64_t left = kx * task->dilation_x - task->pad_x, rest = task->width - 1 - left;                  \
            if (rest < 0) break;                                                                                      \
            const int64_t first = left < 0 ? (stride - 1 - left) / stride : 0;                                        \
            const int64_t end = rest / stride + 1 < task->out_width ? rest / stride + 1 : task->out_width;            \
            if (stride == 1 && first < end)                                                                           \
                NAME(larger_##COUNT)((end - first) * channels, column + (first + left) * channels, now + first * channels); \
            for (int64_t x = first; stride > 1 && x < end; x++)                                                       \
                NAME(larger_##COUNT)(channels, column + (x * stride + left) * channels, now + x * channels);          \
        }                                                                                                             \
    }                                                                                                                 \
                                                                                                                      \
    static void NAME(across_##COUNT)(const MaximaTask *task, const COUNT *column, COUNT *now) {                       \
        switch (task->channels) { /* numbers that are known are short pieces of straight code */                      \
            case 8: NAME(across_of_##COUNT)(task, 8, column, now); break;                                             \
            case 16: NAME(across_of_##COUNT)(task, 16, column, now); break;                                           \
            case 32: NAME(across_of_##COUNT)(task, 32, column, now); break;                                           \
            case 64: NAME(across_of_##COUNT)(task, 64, column, now); break;                                           \
            default: NAME(across_of_##COUNT)(task, task->channels, column, now); break;                               \
        }                                                                                                             \
    }                                                                                                                 \
                                                                                                                      \
    /* The items first..last-1: an item is a sample, and a band of rows of windows. */                                \
    static int64_t NAME(maxima_##COUNT)(const MaximaTask *task, int64_t first, int64_t last) {                        \
        const int64_t row = task->width * task->channels, out_row = task->out_width * task->channels;                 \
        const int64_t most = (task->out_height + task->bands - 1) / task->bands;                                      \
        const int64_t span = (most - 1) * task->stride_y + (task->kernel_y - 1) * task->dilation_y + 1;               \
        COUNT *counts = (COUNT *)malloc((size_t)((span + 1) * row + (most + 1) * out_row) * sizeof *counts);          \
        if (!counts) return NO_MEMORY;                                                                                \
        COUNT *column = counts + span * row, *now = column + row, *before = now + out_row;                            \
        for (int64_t item = first; item < last; item++) {                                                             \
            const int64_t sample = item / task->bands, band = item % task->bands;                                     \
            const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands; \
            const int64_t begin = from * task->stride_y - task->pad_y;                                                \
            const int64_t end = (to - 1) * task->stride_y - task->pad_y + (task->kernel_y - 1) * task->dilation_y + 1; \
            const int64_t top = begin > 0 ? begin : 0, bottom = end < task->height ? end : task->height;              \
            if (bottom > top) memset(counts, 0, (size_t)((bottom - top) * row) * sizeof *counts);                     \
            memset(before, 0, (size_t)((to - from) * out_row) * sizeof *before);                                      \
            for (int64_t step = 0; step < task->steps; step++) {                                                      \
                const int64_t plane = step * task->samples + sample;                                                  \
                NAME(count_##COUNT)((bottom - top) * row, task->train + (plane * task->height + top) * row, counts);  \
                for (int64_t y = from; y < to; y++) {                                                                 \
                    NAME(lowest_##COUNT)(row, column);                                                                \
                    for (int64_t ky = 0; ky < task->kernel_y; ky++) {                                                 \
                        const int64_t in = y * task->stride_y - task->pad_y + ky * task->dilation_y;                  \
                        if (in >= 0 && in < task->height) NAME(larger_##COUNT)(row, counts + (in - top) * row, column); \
                    }                                                                                                 \
                    NAME(across_##COUNT)(task, column, now);                                                          \
                    NAME(change_##COUNT)(out_row, now, before + (y - from) * out_row,                                 \
                                         task->out + (plane * task->out_height + y) * out_row);                       \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        free(counts);                                                                                                 \
        return 0;                                                                                                     \
    }
DEFINE_MAXIMA(int8_t, INT8_MIN)
DEFINE_MAXIMA(int16_t, INT16_MIN)
#undef DEFINE_MAXIMA

static int64_t NAME(maxima)(const MaximaTask *task, int64_t first, int64_t last) {
    return task->narrow ? NAME(maxima_int8_t)(task, first, last) : NAME(maxima_int16_t)(task, first, last);
}
