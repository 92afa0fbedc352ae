/* Sums of real numbers on their way to a grid. */

/* The rows first..last-1. */
static int64_t NAME(round_rows)(RoundTask *task, int64_t first, int64_t last) {
    enum { BLOCK = 64 };
    const double scale = task->scale, unit = 1 / scale, half = 0.5 - task->error;
    for (int64_t row = first; row < last; row++)
        for (int64_t start = 0; start < task->inner; start += BLOCK) {
            const int64_t n = task->inner - start < BLOCK ? task->inner - start : BLOCK;
            double *x = task->values + row * task->inner + start, off[BLOCK];
            if (task->bias)
                for (int64_t k = 0; k < n; k++) x[k] += task->bias[start + k];
            int64_t any = 0;
            for (int64_t k = 0; k < n; k++) {
                const double scaled = x[k] * scale, rounded = __builtin_rint(scaled);
                off[k] = __builtin_fabs(scaled - rounded);
                any |= !(off[k] < half);
                x[k] = rounded * unit;
            }
            for (int64_t k = 0; any && k < n; k++) {
                if (off[k] < half) continue;
                const int64_t place = __atomic_fetch_add(&task->found, 1, __ATOMIC_RELAXED);
                if (place < task->room) task->near[place] = row * task->inner + start + k;
            }
        }
    return 0;
}
