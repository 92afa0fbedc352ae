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

/* Lists the place of a sum that is not decided. */
static void NAME(list_near)(RoundTask *task, int64_t place) {
    const int64_t listed = __atomic_fetch_add(&task->found, 1, __ATOMIC_RELAXED);
    if (listed < task->room) task->near[listed] = place;
}

/* Rounds the sums of the positions first..last-1. */
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
                NAME(list_near)(task, position * task->outputs + start + k);
            }
        }
    free(memory);
    return 0;
}

/* Positions and outputs that are summed together, in vectors of doubles. */
enum { NAME(PLACES) = 8, NAME(OUTPUTS) = 8, NAME(DOUBLE_LANES) = VECTOR ? VECTOR / 64 : 2, NAME(ROWS) = VECTOR == 512 ? 8 : 4 };
typedef double NAME(Doubles) __attribute__((vector_size(VECTOR ? VECTOR / 8 : 16), aligned(8), may_alias));

/* Gathers what the results of a group at some positions read: to [terms, PLACES]; in two parts, rounded, and in `rest` what that
   leaves. */
static void NAME(read_tile)(const RoundTask *task, int64_t start, int64_t group, double *to, double *rest) {
    const Reads *reads = &task->reads;
    for (int64_t p = 0; p < NAME(PLACES); p++) {
        const int64_t at = start + p < task->positions ? start + p : task->positions - 1;
        const double *from = reads->values + at / reads->width / reads->height * reads->by_sample +
                             at / reads->width % reads->height * reads->by_row + at % reads->width * reads->by_column +
                             group * reads->by_group;
        for (int64_t j = 0; j < reads->terms; j++) to[j * NAME(PLACES) + p] = from[reads->offset[j]];
    }
    for (int64_t k = 0; task->two_parts && k < reads->terms * NAME(PLACES); k++) {
        const double whole = to[k];
        to[k] = (whole + task->splitter) - task->splitter;
        rest[k] = whole - to[k];
    }
}

/* sums [PLACES, OUTPUTS] of products, in blocks of 64. */
static void NAME(sum_whole)(int64_t terms, const double *x, const double *weight, double *sums) {
    const NAME(Doubles) nothing = {0};
    for (int64_t row = 0; row < NAME(PLACES); row += NAME(ROWS))
        for (int64_t lane = 0; lane < NAME(OUTPUTS); lane += NAME(DOUBLE_LANES)) {
            NAME(Doubles) total[NAME(ROWS)], sum[NAME(ROWS)];
            for (int p = 0; p < NAME(ROWS); p++) total[p] = nothing;
            for (int64_t start = 0; start < terms; start += 64) {
                const int64_t end = start + 64 < terms ? start + 64 : terms;
                for (int p = 0; p < NAME(ROWS); p++) sum[p] = nothing;
                for (int64_t j = start; j < end; j++) {
                    const NAME(Doubles) each = *(const NAME(Doubles) *)(weight + j * NAME(OUTPUTS) + lane);
                    for (int p = 0; p < NAME(ROWS); p++) sum[p] += each * x[j * NAME(PLACES) + row + p];
                }
                for (int p = 0; p < NAME(ROWS); p++) total[p] += sum[p];
            }
            for (int p = 0; p < NAME(ROWS); p++)
                *(NAME(Doubles) *)(sums + (row + p) * NAME(OUTPUTS) + lane) = total[p];
        }
}

/* The same in two parts: of the upper parts of inputs and weights, which is exact, and of all else. */
static void NAME(sum_parts)(int64_t terms, const double *x, const double *rest, const double *whole, const double *upper,
                            const double *lower, double *sums, double *rests) {
    const NAME(Doubles) nothing = {0};
    for (int64_t row = 0; row < NAME(PLACES); row += NAME(ROWS))
        for (int64_t lane = 0; lane < NAME(OUTPUTS); lane += NAME(DOUBLE_LANES)) {
            NAME(Doubles) exact[NAME(ROWS)], small[NAME(ROWS)];
            for (int p = 0; p < NAME(ROWS); p++) exact[p] = small[p] = nothing;
            for (int64_t j = 0; j < terms; j++) {
                const int64_t at = j * NAME(OUTPUTS) + lane;
                const NAME(Doubles) all = *(const NAME(Doubles) *)(whole + at), high = *(const NAME(Doubles) *)(upper + at);
                const NAME(Doubles) low = *(const NAME(Doubles) *)(lower + at);
                for (int p = 0; p < NAME(ROWS); p++) {
                    const double rounded = x[j * NAME(PLACES) + row + p];
                    exact[p] += high * rounded;
                    small[p] += low * rounded + all * rest[j * NAME(PLACES) + row + p];
                }
            }
            for (int p = 0; p < NAME(ROWS); p++) {
                *(NAME(Doubles) *)(sums + (row + p) * NAME(OUTPUTS) + lane) = exact[p];
                *(NAME(Doubles) *)(rests + (row + p) * NAME(OUTPUTS) + lane) = small[p];
            }
        }
}

/* Rounds sums in two parts. What the exact one is rounded by counts as error: it is rounded to float64 first. */
static void NAME(round_parts)(RoundTask *task, int64_t place, int64_t count, const double *sums, const double *rests) {
    const double scale = task->scale, unit = 1 / scale, once = 0x1p-52, error = task->rest_error * scale;
    for (int64_t k = 0; k < count; k++) {
        const double whole = __builtin_rint(sums[k] * scale), rest = rests[k] * scale + (sums[k] * scale - whole);
        const double more = __builtin_rint(rest), size = __builtin_fabs(whole);
        task->values[place + k] = (whole + more) * unit;
        if (!(__builtin_fabs(rest - more) < 0.5 - ((size + 1) * once + error)) && size <= task->limit + 1)
            NAME(list_near)(task, place + k);
    }
}

/* The tiles of PLACES positions first..last-1: sums of products, rounded where they are to be. */
static int64_t NAME(round_products)(RoundTask *task, int64_t first, int64_t last) {
    const Reads *reads = &task->reads;
    const int64_t terms = reads->terms, each = task->outputs / reads->groups;
    const int64_t end = last * NAME(PLACES) < task->positions ? last * NAME(PLACES) : task->positions;
    if (!task->whole) return NAME(round_sums)(task, first * NAME(PLACES), end);
    const int64_t blocks = (each + NAME(OUTPUTS) - 1) / NAME(OUTPUTS);
    double *x = (double *)malloc((size_t)(2 * terms * NAME(PLACES) + 1) * sizeof *x), *rest = x + terms * NAME(PLACES);
    if (!x) return NO_MEMORY;
    double sums[NAME(PLACES) * NAME(OUTPUTS)], rests[NAME(PLACES) * NAME(OUTPUTS)];
    for (int64_t tile = first; tile < last; tile++) {
        const int64_t start = tile * NAME(PLACES), left = task->positions - start;
        for (int64_t group = 0; group < reads->groups; group++) {
            NAME(read_tile)(task, start, group, x, rest);
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t at = (group * blocks + block) * terms * NAME(OUTPUTS), from = block * NAME(OUTPUTS);
                const int64_t count = each - from < NAME(OUTPUTS) ? each - from : NAME(OUTPUTS);
                if (task->two_parts)
                    NAME(sum_parts)(terms, x, rest, task->whole + at, task->upper + at, task->lower + at, sums, rests);
                else
                    NAME(sum_whole)(terms, x, task->whole + at, sums);
                for (int64_t p = 0; p < NAME(PLACES) && p < left; p++) {
                    const int64_t place = (start + p) * task->outputs + group * each + from;
                    if (task->two_parts)
                        NAME(round_parts)(task, place, count, sums + p * NAME(OUTPUTS), rests + p * NAME(OUTPUTS));
                    else
                        memcpy(task->values + place, sums + p * NAME(OUTPUTS), (size_t)count * sizeof *sums);
                }
            }
        }
    }
    free(x);
    if (!task->rounded || task->two_parts) return 0;
    return NAME(round_sums)(task, first * NAME(PLACES), end);
}
