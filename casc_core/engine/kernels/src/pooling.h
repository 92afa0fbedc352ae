/* Maxima of windows over running totals, as differences from step to step. */

/* to[k] = the larger of a[k] and b[k]. */
INLINE void NAME(larger)(int64_t n, const int8_t *a, const int8_t *b, int8_t *to) {
    for (int64_t k = 0; k < n; k++) to[k] = a[k] > b[k] ? a[k] : b[k];
}

/* to [channels] = the largest of those entries of a row of positions, `next` apart, that a window reads which begins at `first`. */
INLINE void NAME(largest_of)(int64_t first, int64_t taps, int64_t dilation, int64_t size, const int8_t *from, int64_t next,
                             int64_t channels, int8_t *to) {
    int any = 0;
    for (int64_t tap = 0, at = first; tap < taps; tap++, at += dilation) {
        if (at < 0 || at >= size) continue;
        if (any)
            NAME(larger)(channels, to, from + at * next, to);
        else
            memcpy(to, from + at * next, (size_t)channels);
        any = 1;
    }
}

/* The items first..last-1, each a band of a sample's output rows. */
static int64_t NAME(maxima)(const MaximaTask *task, int64_t first, int64_t last) {
    const int64_t channels = task->channels, row = task->width * channels, out_row = task->out_width * channels;
    const int64_t plane = task->height * row, out_plane = task->out_height * out_row;
    const int64_t most = (task->out_height + task->bands - 1) / task->bands;
    const int64_t reads = (most - 1) * task->stride_y + (task->kernel_y - 1) * task->dilation_y + 1;
    const int64_t rows = reads < task->height ? reads : task->height;
    int8_t *memory = (int8_t *)malloc((size_t)(rows * (row + out_row) + 2 * most * out_row + 1));
    if (!memory) return NO_MEMORY;
    int8_t *total = memory, *across = total + rows * row, *now = across + rows * out_row, *before = now + most * out_row;
    for (int64_t item = first; item < last; item++) {
        const int64_t sample = item / task->bands, band = item % task->bands;
        const int64_t from = task->out_height * band / task->bands, to = task->out_height * (band + 1) / task->bands;
        const int64_t begin = from * task->stride_y - task->pad_y, low = begin < 0 ? 0 : begin;
        const int64_t end = (to - 1) * task->stride_y - task->pad_y + (task->kernel_y - 1) * task->dilation_y + 1;
        const int64_t here = (end < task->height ? end : task->height) - low, size = here * row, own = (to - from) * out_row;
        memset(total, 0, (size_t)size);
        memset(before, 0, (size_t)own);
        for (int64_t step = 0; step < task->steps; step++) {
            const int8_t *spikes = task->train + (step * task->samples + sample) * plane + low * row;
            for (int64_t k = 0; k < size; k++) total[k] = (int8_t)(total[k] + spikes[k]);
            for (int64_t y = 0; y < here; y++)
                for (int64_t x = 0; x < task->out_width; x++)
                    NAME(largest_of)(x * task->stride_x - task->pad_x, task->kernel_x, task->dilation_x, task->width,
                                     total + y * row, channels, channels, across + y * out_row + x * channels);
            for (int64_t y = 0; y < to - from; y++)
                NAME(largest_of)(begin - low + y * task->stride_y, task->kernel_y, task->dilation_y, here, across, out_row, out_row,
                                 now + y * out_row);
            int8_t *out = task->out + (step * task->samples + sample) * out_plane + from * out_row, *other = before;
            for (int64_t k = 0; k < own; k++) out[k] = (int8_t)(now[k] - before[k]);
            before = now, now = other;
        }
    }
    free(memory);
    return 0;
}
