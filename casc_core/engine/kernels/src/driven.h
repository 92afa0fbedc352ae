/* A population that real-valued input alone drives: the product that it receives is taken in float32, and its spikes in int32,
   with a margin for what both leave out. A neuron nearer than that to a decision is decided by its product as it is. */

#undef FLOAT_LANES
#undef DRIVEN_WORDS
#undef FUSED
typedef float NAME(Floats) __attribute__((vector_size(VECTOR ? VECTOR / 8 : 16), aligned(4), may_alias));
/* a * x + c: whether that rounds once or twice, the margin covers it. */
#if VECTOR == 512
#define FUSED(a, x, c) _mm512_fmadd_ps(a, _mm512_set1_ps(x), c)
#elif VECTOR == 256
#define FUSED(a, x, c) _mm256_fmadd_ps(a, _mm256_set1_ps(x), c)
#elif VECTOR == 128
#define FUSED(a, x, c) vfmaq_n_f32(c, a, x)
#else
#define FUSED(a, x, c) ((a) * (x) + (c))
#endif
#define FLOAT_LANES (VECTOR ? VECTOR / 32 : 4)
/* Outputs that are summed at a time, for so many positions. */
#define DRIVEN_WORDS (VECTOR == 512 ? 4 : 2)
enum { NAME(TILE) = 4, NAME(TOGETHER) = FLOAT_LANES * DRIVEN_WORDS };

/* to [tile, words of lanes] = products of the inputs that lie `offset` behind `from`, summed in blocks of DRIVEN_TERMS, with weights whose
   rows are `stride` apart. */
INLINE void NAME(products)(const int words, const float *const *from, const int64_t *offset, int64_t terms,
                           const float *weight, int64_t stride, float *to) {
    NAME(Floats) total[NAME(TILE)][DRIVEN_WORDS], sum[NAME(TILE)][DRIVEN_WORDS];
    const NAME(Floats) nothing = {0};
    for (int p = 0; p < NAME(TILE); p++)
        for (int w = 0; w < words; w++) total[p][w] = nothing;
    for (int64_t start = 0; start < terms; start += DRIVEN_TERMS) {
        const int64_t end = start + DRIVEN_TERMS < terms ? start + DRIVEN_TERMS : terms;
        for (int p = 0; p < NAME(TILE); p++)
            for (int w = 0; w < words; w++) sum[p][w] = nothing;
        for (int64_t j = start; j < end; j++) {
            const float *row = weight + j * stride;
            for (int w = 0; w < words; w++) {
                const NAME(Floats) each = *(const NAME(Floats) *)(row + w * FLOAT_LANES);
                for (int p = 0; p < NAME(TILE); p++) sum[p][w] = FUSED(each, from[p][offset[j]], sum[p][w]);
            }
        }
        for (int p = 0; p < NAME(TILE); p++)
            for (int w = 0; w < words; w++) total[p][w] += sum[p][w];
    }
    for (int p = 0; p < NAME(TILE); p++)
        for (int w = 0; w < words; w++) *(NAME(Floats) *)(to + (p * words + w) * FLOAT_LANES) = total[p][w];
}

/* The spikes of a neuron that receives so much at each wake step, all in units of the grid: up to the task's capacity. Returns
   the steps needed. */
static int64_t NAME(driven_alone)(const DrivenTask *task, double drive, double potential, double threshold, int8_t *out,
                               int64_t stride) {
    const Neurons *neurons = &task->neurons;
    int64_t count = 0, step = 0, needed = 0;
    double v = potential;
    if (neurons->levels) {
        v += drive * (double)neurons->total;
        while (count < neurons->total && (double)(count + 1) * threshold <= v) count++;
        out[0] = (int8_t)count;
        return 1;
    }
    for (; step < neurons->most_steps; step++) {
        if (awake_at(neurons, step)) v += drive;
        const int64_t spike = UP(v, count, threshold, cap_at(neurons, step)) - (neurons->cif && DOWN(v, count, 0));
        if (!spike && step >= neurons->wake_steps) break;
        if (step >= task->capacity) return task->capacity + 1;
        v -= (double)spike * threshold, count += spike;
        out[step * stride] = (int8_t)spike;
        if (spike) needed = step + 1;
    }
    for (; step < task->capacity; step++) out[step * stride] = 0;
    return needed;
}

/* The positions NAME(TILE) * first .. NAME(TILE) * last - 1. */
static int64_t NAME(driven)(DrivenTask *task, int64_t first, int64_t last) {
    const Reads *reads = &task->reads;
    const Neurons *neurons = &task->neurons;
    const int64_t outputs = task->outputs, each = outputs / reads->groups, terms = reads->terms;
    const int64_t plane = task->positions * outputs;
    double *memory = (double *)malloc((size_t)(3 * terms + 1) * sizeof *memory);
    if (!memory) return NO_MEMORY;
    NAME(Inputs) inputs = {memory, memory + terms, memory + 2 * terms, -1, 0};
    enum { ALL = NAME(TILE) * NAME(TOGETHER) };
    float sums[ALL];
    int32_t drive[ALL], zeros[ALL] = {0}, potential[ALL], v[ALL], total[ALL], thresholds[ALL];
    int8_t fired[ALL], near[ALL], undecided[ALL];
    int64_t needed = 0;
    for (int64_t group = 0; group < reads->groups; group++)
        for (int64_t lo = 0; lo < each; lo += NAME(TOGETHER)) {
            const int64_t n = each - lo < NAME(TOGETHER) ? each - lo : NAME(TOGETHER), output = group * each + lo;
            const float *weight = task->weights + group * terms * task->width + lo;
            const int needs = (int)((n + FLOAT_LANES - 1) / FLOAT_LANES), words = needs > 2 ? DRIVEN_WORDS : needs;
            const int64_t lanes = words * FLOAT_LANES, all = NAME(TILE) * lanes;
            float bias[NAME(TOGETHER)] = {0};
            memcpy(bias, task->bias + output, (size_t)n * sizeof *bias);
            for (int64_t k = 0; k < all; k++) {
                const int64_t own = k % lanes;
                thresholds[k] = own < n ? task->thresholds[output + own] : 1 << 22; /* padding never spikes */
                potential[k] = own < n ? task->potential[output + own] : 0;
            }
            for (int64_t tile = first; tile < last; tile++) {
                const float *from[NAME(TILE)];
                const int64_t start = tile * NAME(TILE);
                const int64_t here = task->positions - start < NAME(TILE) ? task->positions - start : NAME(TILE);
                for (int p = 0; p < NAME(TILE); p++) {
                    const int64_t at = start + (p < here ? p : 0);
                    from[p] = task->values + at / reads->width / reads->height * reads->by_sample +
                              at / reads->width % reads->height * reads->by_row + at % reads->width * reads->by_column +
                              group * reads->by_group;
                }
                switch (words) {
                    case 1: NAME(products)(1, from, reads->offset, terms, weight, task->width, sums); break;
                    case 2: NAME(products)(2, from, reads->offset, terms, weight, task->width, sums); break;
                    default: NAME(products)(DRIVEN_WORDS, from, reads->offset, terms, weight, task->width, sums);
                }
                for (int64_t p = 0; p < NAME(TILE); p++)
                    for (int64_t k = 0; k < lanes; k++) {
                        const float x = sums[p * lanes + k] + bias[k], most = task->limit;
                        drive[p * lanes + k] =
                            (int32_t)__builtin_rintf((x > most ? most : x < -most ? -most : x) * task->scale);
                    }
                memcpy(v, potential, (size_t)all * sizeof *v);
                memset(total, 0, (size_t)all * sizeof *total);
                memset(undecided, 0, (size_t)all);
                int64_t step = 0, flows = 0, any = 0;
                int32_t nears = 0;
                for (; step < neurons->most_steps; step++) {
                    const int is_awake = awake_at(neurons, step);
                    int32_t found = 0;
                    if (neurons->levels) {
                        const int32_t margin = (int32_t)(2.0 + (double)neurons->total * task->flow);
                        any = NAME(levels_of)(all, zeros, 0, drive, potential, neurons, thresholds, fired, margin, near, v,
                                              &found);
                    } else {
                        flows += is_awake;
                        any = NAME(fire)(all, zeros, is_awake ? drive : zeros, thresholds, (int32_t)cap_at(neurons, step),
                                         lower_of(neurons), v, total, fired, (int32_t)(2.0 + (double)flows * task->flow),
                                         near, &found);
                    }
                    if (found)
                        for (int64_t k = 0; k < all; k++) undecided[k] |= near[k];
                    nears |= found;
                    if (!any && step >= neurons->wake_steps) break;
                    if (step >= task->capacity) {
                        free(memory);
                        return task->capacity + 1;
                    }
                    int8_t *out = task->out + step * plane + start * outputs + output;
                    for (int64_t p = 0; p < here; p++) memcpy(out + p * outputs, fired + p * lanes, (size_t)n);
                    if (any && step + 1 > needed) needed = step + 1;
                }
                for (; step < task->capacity; step++)
                    for (int64_t p = 0; p < here; p++)
                        memset(task->out + step * plane + (start + p) * outputs + output, 0, (size_t)n);
                for (int64_t p = 0; nears && p < here; p++) {
                    const int64_t place = (start + p) * outputs + output;
                    for (int64_t k = 0; k < n; k++) {
                        if (!undecided[p * lanes + k]) continue;
                        double rest;
                        NAME(read_inputs)(reads, task->splitter, start + p, group, &inputs);
                        const int64_t own = output + k;
                        double whole = NAME(sum_again)(terms, task->high, task->low, &inputs, own, &rest);
                        if (task->product_scale) whole = __builtin_rint(whole * task->product_scale) / task->product_scale;
                        const double most = task->exact_limit;
                        double exact = NAME(rounded_sum)(whole, rest, task->rest_error, task->exact_bias[own],
                                                         task->exact_scale);
                        if (isnan(exact)) {
                            const int64_t listed = __atomic_fetch_add(&task->found, 1, __ATOMIC_RELAXED);
                            if (listed < task->room) task->near[listed] = place + k;
                            continue;
                        }
                        exact = exact > most ? most : exact < -most ? -most : exact;
                        const int64_t took = NAME(driven_alone)(task, exact, task->exact_potential[own],
                                                             task->exact_thresholds[own], task->out + place + k, plane);
                        if (took > task->capacity) {
                            free(memory);
                            return took;
                        }
                        if (took > needed) needed = took;
                    }
                }
            }
        }
    free(memory);
    return needed;
}
