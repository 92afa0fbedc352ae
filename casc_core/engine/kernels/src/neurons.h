/* The spiking neurons IF and CIF, over their steps, and the levels that they settle at. */

/* The rule of IF and CIF, as casc_core/neuron.py has it, for a potential `v` that has received its current: +1 if v >= threshold
   and N < cap; -1 if v < lower and N > 0; else 0. `lower` is 0 for CIF; for IF it is below every potential. Numbers may be
   vectors; a comparison of vectors that holds is -1, of scalars 1. */
#define UP(v, n, threshold, cap) (((v) >= (threshold)) & ((n) < (cap)))
#define DOWN(v, n, lower) (((v) < (lower)) & ((n) > 0))
#define SPIKE(type, v, n, threshold, cap, lower) ((type)UP(v, n, threshold, cap) - (type)DOWN(v, n, lower))

/* One step of `n` neurons in integers, which receive (a << shift) + b + c (NULL: nothing). Returns whether any spiked; counts
   the spikes of each sign where it is told where to. */
INLINE int32_t NAME(fire)(int64_t n, const int32_t *restrict a, int shift, const int32_t *restrict b,
                          const int32_t *restrict c, int32_t threshold, int32_t cap, int32_t lower, int32_t *restrict v,
                          int32_t *restrict total, int8_t *restrict out, int32_t *up, int32_t *down) {
    int32_t any = 0, ups = 0, downs = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t charged = v[k] + (int32_t)((uint32_t)a[k] << shift) + b[k] + (c ? c[k] : 0);
        const int32_t spike = SPIKE(int32_t, charged, total[k], threshold, cap, lower);
        v[k] = charged - (spike > 0 ? threshold : 0) + (spike < 0 ? threshold : 0);
        total[k] += spike;
        out[k] = (int8_t)spike;
        any |= spike;
        ups += spike > 0, downs += spike < 0;
    }
    if (up) *up = ups, *down = downs;
    return any;
}

/* The same for currents a + b, without counting. */
INLINE int32_t NAME(fire_uncounted)(int64_t n, const int32_t *restrict a, const int32_t *restrict b, int32_t threshold,
                                    int32_t cap, int32_t lower, int32_t *restrict v, int32_t *restrict total,
                                    int8_t *restrict out) {
#if VECTOR == 512 /* compilers make less of the loop */
    typedef int32_t Lanes __attribute__((vector_size(64)));
    Lanes any = {0};
    for (int64_t k = 0; k < n; k += 16) {
        const Lanes count = (Lanes)LOAD(total + k), charged = (Lanes)LOAD(v + k) + (Lanes)LOAD(a + k) + (Lanes)LOAD(b + k);
        const Lanes up = UP(charged, count, threshold, cap), down = DOWN(charged, count, lower), spike = down - up;
        STORE(v + k, (WORD)(charged - (up & threshold) + (down & threshold)));
        STORE(total + k, (WORD)(count + spike));
        _mm_storeu_si128((__m128i *)(out + k), _mm512_cvtepi32_epi8((WORD)spike));
        any |= spike;
    }
    return _mm512_test_epi32_mask((WORD)any, (WORD)any) != 0;
#else
    return NAME(fire)(n, a, 0, b, NULL, threshold, cap, lower, v, total, out, NULL, NULL);
#endif
}

/* The levels that `n` neurons settle at: clip(floor(current / threshold), 0, total), where the drive `b` flows `total` times.
   Returns their sum. */
static int64_t NAME(levels_of)(int64_t n, const int32_t *restrict a, int shift, const int32_t *restrict b,
                               const int32_t *restrict c, const Neurons *neurons, int8_t *restrict out) {
    const int32_t threshold = (int32_t)neurons->threshold, total = (int32_t)neurons->total, most = threshold * total;
    const float inverse = 1.0f / (float)threshold;
    int64_t sum = 0;
    for (int64_t k = 0; k < n; k++) {
        int32_t current = (int32_t)((uint32_t)a[k] << shift) + b[k] * total + c[k];
        current = current < 0 ? 0 : current > most ? most : current;
        /* The quotient is rounded; the product of a count and a threshold is exact, so it decides. */
        int32_t count = (int32_t)((float)current * inverse);
        count -= count * threshold > current;
        count += (count + 1) * threshold <= current;
        out[k] = (int8_t)count;
        sum += count;
    }
    return sum;
}

/* Of `n` neurons that have taken a step, lists those whose potential was within the margin of a decision. Returns how many. */
INLINE int64_t NAME(undecided)(int64_t n, const int32_t *restrict v, const int32_t *restrict total,
                               const int8_t *restrict fired, int32_t threshold, int32_t cap, int32_t cif, int32_t margin,
                               int32_t *restrict which) {
    const uint32_t both = 2 * (uint32_t)margin;
    int32_t any = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t spike = fired[k], before = total[k] - spike;
        const int32_t charged = v[k] + (spike > 0 ? threshold : 0) - (spike < 0 ? threshold : 0);
        const int32_t up = ((uint32_t)(charged - threshold + margin) <= both) & (before < cap);
        const int32_t down = ((uint32_t)(charged + margin) <= both) & (before > 0) & cif;
        which[k] = up | down;
        any |= up | down;
    }
    if (!any) return 0;
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t near = which[k];
        which[count] = (int32_t)k;
        count += near;
    }
    return count;
}

/* The same of neurons whose levels have been computed, from currents as those of `levels_of`. */
INLINE int64_t NAME(undecided_levels)(int64_t n, const int32_t *restrict a, int shift, const int32_t *restrict b,
                                      const int32_t *restrict c, const int8_t *restrict levels, const Neurons *neurons,
                                      int32_t margin, int32_t *restrict which) {
    const int32_t threshold = (int32_t)neurons->threshold, total = (int32_t)neurons->total;
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t level = levels[k];
        const int32_t over = (int32_t)((uint32_t)a[k] << shift) + b[k] * total + c[k] - level * threshold;
        which[count] = (int32_t)k;
        count += ((level > 0) & (over <= margin)) | ((level < total) & (threshold - over <= margin));
    }
    return count;
}

/* What a neuron does whose potential, current received, is `charged`: its spike, or with `levels` its level. */
static int32_t NAME(decided)(const Neurons *neurons, const Exactly *exactly, double charged, int64_t count, int64_t cap) {
    if (!neurons->levels)
        return (int32_t)UP(charged, count, exactly->threshold, cap) - (neurons->cif && DOWN(charged, count, 0));
    int32_t level = (int32_t)neurons->total;
    while (level > 0 && level * exactly->threshold > charged) level--;
    return level;
}

/* The neurons first..last-1 over all their steps, in blocks that stay in the nearest cache. With a threshold for each level, `v`
   is the sum that has been received, which no spike resets, and `total` counts from the lowest level. */
#define DEFINE_SCAN(REAL, COUNT, CURRENT, TYPE)                                                                             \
    static int64_t NAME(scan_##TYPE)(const ScanTask *task, int64_t first, int64_t last) {                             \
        enum { BLOCK = 512 };                                                                                         \
        COUNT total[BLOCK]; /* as wide as potentials: one vector loop */                                               \
        REAL v[BLOCK], threshold[BLOCK];                                                                              \
        int64_t needed = 0;                                                                                           \
        const Neurons *neurons = &task->neurons;                                                                      \
        const REAL lower = neurons->cif ? 0 : -(REAL)INFINITY;                                                        \
        const REAL *by_level = (const REAL *)task->by_level;                                                          \
        const COUNT takes_back = neurons->cif ? 1 : 0;                                                                \
        const int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;            \
        for (int64_t start = first; start < last; start += BLOCK) {                                                   \
            const int64_t n = last - start < BLOCK ? last - start : BLOCK;                                            \
            const REAL *drive = task->drive ? (const REAL *)task->drive + start : NULL;                               \
            for (int64_t k = 0; k < n; k++) {                                                                         \
                v[k] = task->potential ? ((const REAL *)task->potential)[start + k] : 0;                              \
                total[k] = (COUNT)-task->lowest;                                                                      \
                threshold[k] = task->thresholds ? ((const REAL *)task->thresholds)[start + k]                         \
                                                : (REAL)neurons->threshold;                                           \
            }                                                                                                         \
            int64_t step = 0;                                                                                         \
            for (; step <= task->capacity && step < neurons->most_steps; step++) {                                    \
                int8_t beyond[BLOCK];                                                                                 \
                int8_t *out = step < task->capacity ? task->out + step * task->count + start : beyond;                \
                const int driven = drive && awake_at(neurons, step);                                            \
                const CURRENT *current = (const CURRENT *)task->currents + step * task->count + start;                \
                if (step < task->arriving && driven)                                                                  \
                    for (int64_t k = 0; k < n; k++) v[k] += (REAL)current[k] + drive[k];                              \
                else if (step < task->arriving)                                                                       \
                    for (int64_t k = 0; k < n; k++) v[k] += (REAL)current[k];                                         \
                else if (driven)                                                                                      \
                    for (int64_t k = 0; k < n; k++) v[k] += drive[k];                                                 \
                const COUNT cap = (COUNT)cap_at(neurons, step);                                                       \
                COUNT any = 0;                                                                                        \
                for (int64_t k = 0; by_level && k < n; k++) {                                                         \
                    const COUNT up = v[k] >= by_level[total[k] + 1] * threshold[k];                                   \
                    const COUNT spike = up - (takes_back & (v[k] < by_level[total[k]] * threshold[k]));               \
                    total[k] += spike;                                                                                \
                    out[k] = (int8_t)spike;                                                                           \
                    any |= spike;                                                                                     \
                }                                                                                                     \
                for (int64_t k = 0; !by_level && k < n; k++) {                                                        \
                    const COUNT spike = SPIKE(COUNT, v[k], total[k], threshold[k], cap, lower);                       \
                    v[k] = v[k] - (spike > 0 ? threshold[k] : 0) + (spike < 0 ? threshold[k] : 0);                    \
                    total[k] += spike;                                                                                \
                    out[k] = (int8_t)spike;                                                                           \
                    any |= spike;                                                                                     \
                }                                                                                                     \
                if (any) {                                                                                            \
                    if (step == task->capacity) return task->capacity + 1;                                            \
                    needed = step + 1 > needed ? step + 1 : needed;                                                   \
                } else if (step >= ended) {                                                                           \
                    break;                                                                                            \
                }                                                                                                     \
            }                                                                                                         \
            for (; step < task->capacity; step++) memset(task->out + step * task->count + start, 0, (size_t)n);       \
        }                                                                                                             \
        return needed;                                                                                                \
    }
DEFINE_SCAN(float, int32_t, float, FLOAT32)
DEFINE_SCAN(double, int64_t, double, FLOAT64)
DEFINE_SCAN(double, int64_t, float, MIXED)
#undef DEFINE_SCAN

#define DEFINE_LEVELS(REAL, TYPE)                                                                                     \
    /* The levels that the neurons first..last-1 settle at: clip(floor(current / threshold), 0, total). */            \
    static int64_t NAME(levels_##TYPE)(const ScanTask *task, int64_t first, int64_t last) {                           \
        const REAL *currents = (const REAL *)task->currents, *drive = (const REAL *)task->drive;                      \
        const REAL *thresholds = (const REAL *)task->thresholds;                                                      \
        const REAL total = (REAL)task->neurons.total;                                                                 \
        for (int64_t k = first; k < last; k++) {                                                                      \
            const REAL current = (currents ? currents[k] : 0) + (drive ? drive[k] * total : 0);                       \
            const REAL threshold = thresholds ? thresholds[k] : (REAL)task->neurons.threshold;                        \
            REAL count = current / threshold;                                                                         \
            count = count < 0 ? 0 : count > total ? total : count;                                                    \
            count = (REAL)(int32_t)count;                                                                             \
            /* The quotient is rounded; the product of a count and a threshold is exact, so it decides. */            \
            count -= ((count * threshold > current) & (count > 0)) ? 1 : 0;                                           \
            count += (((count + 1) * threshold <= current) & (count < total)) ? 1 : 0;                                \
            task->out[k] = (int8_t)(int32_t)count;                                                                    \
        }                                                                                                             \
        return 0;                                                                                                     \
    }
DEFINE_LEVELS(float, FLOAT32)
DEFINE_LEVELS(double, FLOAT64)
#undef DEFINE_LEVELS
