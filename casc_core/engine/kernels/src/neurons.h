/* The spiking neurons IF and CIF, over their steps, and the levels that they settle at. */

/* The rule of IF and CIF, as casc_core/neuron.py has it, for a potential `v` that has received its current: +1 if v >= threshold
   and N < cap; -1 if v < lower and N > 0; else 0. `lower` is 0 for CIF; for IF it is below every potential. Numbers may be
   vectors; a comparison of vectors that holds is -1, of scalars 1. */
#define UP(v, n, threshold, cap) (((v) >= (threshold)) & ((n) < (cap)))
#define DOWN(v, n, lower) (((v) < (lower)) & ((n) > 0))
#define SPIKE(type, v, n, threshold, cap, lower) ((type)UP(v, n, threshold, cap) - (type)DOWN(v, n, lower))

/* Whether a potential is within the margin of a decision that is still open. */
#define NEAR_UP(v, n, threshold, cap, margin)                                                                         \
    (((uint32_t)((v) - (threshold) + (margin)) <= 2 * (uint32_t)(margin)) & ((n) < (cap)))
#define NEAR_DOWN(v, n, lower, margin) (((uint32_t)((v) + (margin)) <= 2 * (uint32_t)(margin)) & ((n) > 0) & ((lower) == 0))

/* Marks which of `n` neurons were within the margin of a decision at a step that they have taken. */
static void NAME(mark_near)(int64_t n, const int32_t *restrict v, const int32_t *restrict total, const int8_t *restrict out,
                            const int32_t *restrict thresholds, int32_t cap, int32_t lower, int32_t margin,
                            int8_t *restrict near) {
    for (int64_t k = 0; k < n; k++) {
        const int32_t threshold = thresholds[k];
        const int32_t charged = v[k] + out[k] * threshold, count = total[k] - out[k];
        near[k] = (int8_t)(NEAR_UP(charged, count, threshold, cap, margin) | NEAR_DOWN(charged, count, lower, margin));
    }
}

/* One step of `n` (a multiple of 16) neurons in integers, which receive a + b. Returns whether any spiked. With `near`, says whether
   any are within the margin of a decision, and then marks them. */
INLINE int32_t NAME(fire)(int64_t n, const int32_t *restrict a, const int32_t *restrict b,
                          const int32_t *restrict thresholds, int32_t cap, int32_t lower, int32_t *restrict v,
                          int32_t *restrict total, int8_t *restrict out, int32_t margin, int8_t *restrict near,
                          int32_t *undecided) {
    int32_t spiked = 0, nears = 0;
#if VECTOR /* compilers make less of the loop */
    enum { LANES = VECTOR / 32, VECTORS = 16 / LANES };
    typedef NAME(Lanes) Lanes;
    const WORD most = EACH_PAIR(cap), both = EACH_PAIR(2 * margin);
    const WORD least = lower ? most : ZERO(); /* no count is above the cap, so that no spike is taken back */
    MASK any = GREATER(ZERO(), ZERO());
    WORD nearest = EACH_PAIR(-1); /* how far any is from what is within the margin below a decision */
    for (int64_t k = 0; k < n; k += 16) {
        MASK up[VECTORS], down[VECTORS];
        for (int i = 0; i < VECTORS; i++) {
            const int64_t at = k + i * LANES;
            const WORD count = LOAD(total + at), threshold = LOAD(thresholds + at);
            const WORD charged = ADD32(ADD32(LOAD(v + at), LOAD(a + at)), LOAD(b + at));
            const MASK open = GREATER(most, count), taken = GREATER(count, least);
            up[i] = GREATER(charged, (WORD)((Lanes)threshold - 1)) & open, down[i] = GREATER(ZERO(), charged) & taken;
            any |= up[i] | down[i];
            if (near) {
                const Lanes from = (Lanes)charged + margin;
                nearest = LEAST_WHERE(LEAST_WHERE(nearest, open, from - (Lanes)threshold), taken, from);
            }
            STORE(v + at, SPENT(charged, up[i], down[i], threshold));
            STORE(total + at, COUNTED(count, up[i], down[i]));
        }
        NAME(store_spikes)(out + k, up, down);
    }
    spiked = ANY(any), nears = near && ANY(WITHIN(nearest, both));
#else
    for (int64_t k = 0; k < n; k++) {
        const int32_t charged = v[k] + a[k] + b[k], threshold = thresholds[k];
        const int32_t spike = SPIKE(int32_t, charged, total[k], threshold, cap, lower);
        if (near)
            nears |= NEAR_UP(charged, total[k], threshold, cap, margin) | NEAR_DOWN(charged, total[k], lower, margin);
        v[k] = charged - (spike > 0 ? threshold : 0) + (spike < 0 ? threshold : 0);
        total[k] += spike;
        out[k] = (int8_t)spike;
        spiked |= spike;
    }
#endif
    if (near) *undecided = nears;
    if (near && nears) NAME(mark_near)(n, v, total, out, thresholds, cap, lower, margin, near);
    return spiked;
}

/* The levels that `n` neurons settle at: clip(floor(current / threshold), 0, total), where the drive `b` flows `total` times;
   with `each`, every neuron has a threshold of its own. Returns their sum. With `near`, marks those within the margin of a
   decision, and says whether there are any; then `over` is what their currents are beyond the level. */
INLINE int64_t NAME(levels_of)(int64_t n, const int32_t *restrict a, int shift, const int32_t *restrict b,
                               const int32_t *restrict c, const Neurons *neurons, const int32_t *restrict each,
                               int8_t *restrict out, int32_t margin, int8_t *restrict near, int32_t *restrict over,
                               int32_t *undecided) {
    const int32_t total = (int32_t)neurons->total;
    const float common = 1.0f / (float)neurons->threshold;
    int64_t sum = 0;
    int32_t nears = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t received = (int32_t)((uint32_t)a[k] << shift) + b[k] * total + c[k];
        const int32_t threshold = each ? each[k] : (int32_t)neurons->threshold, most = threshold * total;
        const float inverse = each ? 1.0f / (float)threshold : common;
        const int32_t current = received < 0 ? 0 : received > most ? most : received;
        /* The quotient is rounded; the product of a count and a threshold is exact, so it decides. */
        int32_t count = (int32_t)((float)current * inverse);
        count -= count * threshold > current;
        count += (count + 1) * threshold <= current;
        out[k] = (int8_t)count;
        sum += count;
        if (near) {
            const int32_t rest = received - count * threshold;
            const int32_t is_near = ((count > 0) & (rest <= margin)) | ((count < total) & (threshold - rest <= margin));
            over[k] = rest;
            near[k] = (int8_t)is_near;
            nears |= is_near;
        }
    }
    if (near) *undecided = nears;
    return sum;
}

/* The first neuron from `k` on, of `n` (a multiple of 8), that is marked; n: none. */
INLINE int64_t NAME(next_near)(const int8_t *near, int64_t k, int64_t n) {
    while (k < n) {
        uint64_t eight;
        memcpy(&eight, near + k / 8 * 8, 8);
        if (!eight) {
            k = k / 8 * 8 + 8;
            continue;
        }
        if (near[k]) return k;
        k++;
    }
    return n;
}

/* What a neuron does that has received so much of the finer units, in which its threshold is: its spike, or with `levels` its
   level. */
static int32_t NAME(decided)(const Neurons *neurons, double threshold, double received, int64_t count, int64_t cap) {
    if (!neurons->levels) {
        const double charged = received - threshold * (double)count;
        return (int32_t)UP(charged, count, threshold, cap) - (neurons->cif && DOWN(charged, count, 0));
    }
    int32_t level = (int32_t)neurons->total;
    while (level > 0 && level * threshold > received) level--;
    return level;
}

/* What the next bits of output `k`'s weights add to it, in the finer unit, its inputs having spiked so often. */
INLINE double NAME(next_bits)(const LeftOut *left_out, int64_t k, const int16_t *counts) {
    const int16_t *low = left_out->low + k * left_out->reads;
    int32_t sum = 0;
#if VECTOR
    WORD sums = ZERO();
    for (int64_t j = 0; j < left_out->reads; j += WORD_LANES) sums = DOT(sums, LOAD(low + j), LOAD(counts + j));
    int32_t each[WORD_LANES / 2];
    STORE(each, sums);
    for (int j = 0; j < WORD_LANES / 2; j++) sum += each[j];
#else
    for (int64_t j = 0; j < left_out->reads; j++) sum += low[j] * counts[j];
#endif
    return left_out->unit * sum;
}

/* What output `k` has received, in the finer unit. */
static double NAME(true_sum)(const LeftOut *left_out, int64_t k, const int16_t *counts) {
    enum { LANES = 8 };
    const double *exact = left_out->exact + k * left_out->reads;
    double sums[LANES] = {0}, sum = 0;
    for (int64_t j = 0; j < left_out->reads; j += LANES)
        for (int64_t i = 0; i < LANES; i++) sums[i] += exact[j + i] * counts[j + i];
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* counts += a train's step. */
INLINE void NAME(count)(int64_t n, const int8_t *restrict spikes, int16_t *restrict counts) {
    for (int64_t j = 0; j < n; j++) counts[j] = (int16_t)(counts[j] + spikes[j]);
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
                if (by_level) {                                                                                       \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        const COUNT up = v[k] >= by_level[total[k] + 1] * threshold[k];                               \
                        const COUNT spike = up - (takes_back & (v[k] < by_level[total[k]] * threshold[k]));           \
                        total[k] += spike;                                                                            \
                        out[k] = (int8_t)spike;                                                                       \
                        any |= spike;                                                                                 \
                    }                                                                                                 \
                } else {                                                                                              \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        const COUNT spike = SPIKE(COUNT, v[k], total[k], threshold[k], cap, lower);                   \
                        v[k] = v[k] - (spike > 0 ? threshold[k] : 0) + (spike < 0 ? threshold[k] : 0);                \
                        total[k] += spike;                                                                            \
                        out[k] = (int8_t)spike;                                                                       \
                        any |= spike;                                                                                 \
                    }                                                                                                 \
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
