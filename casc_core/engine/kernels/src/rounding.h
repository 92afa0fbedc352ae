/* Products of real numbers on their way to a grid. */

/* What the results at one position read: the inputs of one group, rounded, what that leaves, and as they are. */
typedef struct {
    double *rounded, *rest, *whole;
    int64_t position, group; /* position -1: nothing has been read */
} NAME(Inputs);

static void NAME(read_inputs)(const Reads *reads, double splitter, int64_t position, int64_t group, NAME(Inputs) *inputs) {
    if (inputs->position == position && inputs->group == group) return;
    const int64_t x = position % reads->width, y = position / reads->width % reads->height;
    const double *from = reads->values + position / reads->width / reads->height * reads->by_sample + y * reads->by_row +
                         x * reads->by_column + group * reads->by_group;
    inputs->position = position, inputs->group = group;
    for (int64_t j = 0; j < reads->terms; j++) inputs->whole[j] = from[reads->offset[j]];
    for (int64_t j = 0; j < reads->terms; j++) {
        inputs->rounded[j] = (inputs->whole[j] + splitter) - splitter;
        inputs->rest[j] = inputs->whole[j] - inputs->rounded[j];
    }
}

/* The sum of an output in two parts, of which the first is exact. */
static double NAME(sum_again)(int64_t terms, const double *high, const double *low, const NAME(Inputs) *inputs, int64_t output,
                              double *rest) {
    enum { LANES = 8 };
    const int64_t whole = terms / LANES * LANES;
    high += output * terms, low += output * terms;
    double sums[LANES] = {0}, rests[LANES] = {0}, sum = 0, small = 0;
    for (int64_t j = 0; j < whole; j += LANES)
        for (int64_t i = 0; i < LANES; i++) {
            sums[i] += inputs->rounded[j + i] * high[j + i];
            rests[i] += inputs->rest[j + i] * high[j + i] + inputs->whole[j + i] * low[j + i];
        }
    for (int64_t j = whole; j < terms; j++) {
        sum += inputs->rounded[j] * high[j];
        small += inputs->rest[j] * high[j] + inputs->whole[j] * low[j];
    }
    for (int i = 0; i < LANES; i++) sum += sums[i], small += rests[i];
    *rest = small;
    return sum;
}

/* whole + rest + more in units of 1 / scale, rounded to float64 first; NAN where `rest` may be off by so much that it is open. */
INLINE double NAME(rounded_sum)(double whole, double rest, double error, double more, double scale) {
    const double least = __builtin_rint((whole + (rest - error) + more) * scale);
    return least == __builtin_rint((whole + (rest + error) + more) * scale) ? least : NAN;
}

/* The positions first..last-1. */
static int64_t NAME(round_sums)(RoundTask *task, int64_t first, int64_t last) {
    enum { BLOCK = 64 };
    const double scale = task->scale, unit = 1 / scale, half = 0.5 - task->error;
    const int64_t terms = task->reads.terms;
    double *memory = (double *)malloc((size_t)(3 * terms + 1) * sizeof *memory);
    if (!memory) return NO_MEMORY;
    NAME(Inputs) inputs = {memory, memory + terms, memory + 2 * terms, -1, 0};
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
                NAME(read_inputs)(&task->reads, task->splitter, position, (start + k) * task->reads.groups / task->outputs, &inputs);
                const double sum = NAME(sum_again)(terms, task->high, task->low, &inputs, start + k, &rest);
                const double more = bias ? bias[k] : 0;
                const double rounded = NAME(rounded_sum)(sum, rest, task->rest_error, more, scale);
                x[k] = rounded * unit;
                if (!isnan(rounded)) continue;
                const int64_t place = __atomic_fetch_add(&task->found, 1, __ATOMIC_RELAXED);
                if (place < task->room) task->near[place] = position * task->outputs + start + k;
            }
        }
    free(memory);
    return 0;
}
