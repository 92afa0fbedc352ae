/* Products of real numbers on their way to a grid. */

/* The sum at one place in two parts, of which the first is exact. */
INLINE double NAME(sum_again)(const RoundTask *task, int64_t position, int64_t output, double *rest) {
    enum { LANES = 8 };
    const Reads *reads = &task->reads;
    const int64_t terms = reads->terms, x = position % reads->width, y = position / reads->width % reads->height;
    const int64_t sample = position / reads->width / reads->height, group = output * reads->groups / task->outputs;
    const double *from = reads->values + sample * reads->by_sample + y * reads->by_row + x * reads->by_column +
                         group * reads->by_group;
    const double *high = task->high + output * terms, *low = task->low + output * terms, splitter = task->splitter;
    double sums[LANES] = {0}, rests[LANES] = {0}, sum = 0;
    for (int64_t start = 0; start < terms; start += LANES) {
        const int64_t n = terms - start < LANES ? terms - start : LANES;
        double inputs[LANES] = {0}, upper[LANES] = {0}, lower[LANES] = {0};
        for (int64_t i = 0; i < n; i++) {
            inputs[i] = from[reads->offset[start + i]];
            upper[i] = high[start + i], lower[i] = low[start + i];
        }
        for (int i = 0; i < LANES; i++) {
            const double rounded = (inputs[i] + splitter) - splitter;
            sums[i] += rounded * upper[i];
            rests[i] += (inputs[i] - rounded) * upper[i] + inputs[i] * lower[i];
        }
    }
    *rest = 0;
    for (int i = 0; i < LANES; i++) sum += sums[i], *rest += rests[i];
    return sum;
}

/* The positions first..last-1. */
static int64_t NAME(round_sums)(RoundTask *task, int64_t first, int64_t last) {
    enum { BLOCK = 64 };
    const double scale = task->scale, unit = 1 / scale, half = 0.5 - task->error;
    for (int64_t position = first; position < last; position++)
        for (int64_t start = 0; start < task->outputs; start += BLOCK) {
            const int64_t n = task->outputs - start < BLOCK ? task->outputs - start : BLOCK;
            const double *bias = task->bias ? task->bias + start : NULL;
            double *x = task->values + position * task->outputs + start, off[BLOCK];
            int64_t any = 0;
            for (int64_t k = 0; k < n; k++) {
                const double scaled = (x[k] + (bias ? bias[k] : 0)) * scale, rounded = __builtin_rint(scaled);
                off[k] = __builtin_fabs(scaled - rounded);
                any |= !(off[k] < half);
                x[k] = rounded * unit;
            }
            for (int64_t k = 0; any && k < n; k++) {
                if (off[k] < half) continue;
                double rest;
                const double sum = NAME(sum_again)(task, position, start + k, &rest), more = bias ? bias[k] : 0;
                const double least = __builtin_rint((sum + (rest - task->rest_error) + more) * scale);
                const double most = __builtin_rint((sum + (rest + task->rest_error) + more) * scale);
                x[k] = least * unit;
                if (least == most) continue;
                const int64_t place = __atomic_fetch_add(&task->found, 1, __ATOMIC_RELAXED);
                if (place < task->room) task->near[place] = position * task->outputs + start + k;
            }
        }
    return 0;
}
