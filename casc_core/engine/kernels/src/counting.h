/* Counting of spikes, and their comparison with levels. */

/* Sums over the middle dimension. */
static int64_t NAME(sum_middle)(const SumTask *task, int64_t first, int64_t last) {
    enum { BLOCK = 256 };
    const int64_t middle = task->middle, inner = task->inner;
    for (int64_t row = first; row < last; row++)
        for (int64_t start = 0; start < inner; start += BLOCK) {
            const int64_t n = inner - start < BLOCK ? inner - start : BLOCK;
            int32_t total[BLOCK] = {0};
            /* 127 addends of int8 fit int16. */
            for (int64_t m = 0; m < middle;) {
                int16_t some[BLOCK] = {0};
                const int64_t end = middle - m < 127 ? middle : m + 127;
                for (; m < end; m++) {
                    const int8_t *x = task->from + (row * middle + m) * inner + start;
                    for (int64_t k = 0; k < n; k++) some[k] = (int16_t)(some[k] + x[k]);
                }
                for (int64_t k = 0; k < n; k++) total[k] += some[k];
            }
            memcpy(task->to + row * inner + start, total, (size_t)n * sizeof *total);
        }
    return 0;
}

/* How many entries of each row are positive, and how many negative. */
static int64_t NAME(tally)(const TallyTask *task, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        int32_t ups = 0, downs = 0;
        const int8_t *x = task->from + row * task->inner;
        int64_t k = 0;
        for (; k + 64 <= task->inner; k += 64) {
            ups += __builtin_popcountll(NAME(positive)(x + k));
            downs += __builtin_popcountll(NAME(negative)(x + k));
        }
#if VECTOR
        if (k < task->inner && (last - row) * task->inner - k >= 64) { /* what is behind the row is there, and masked */
            const uint64_t own = ((uint64_t)1 << (task->inner - k)) - 1;
            ups += __builtin_popcountll(NAME(positive)(x + k) & own);
            downs += __builtin_popcountll(NAME(negative)(x + k) & own);
            k = task->inner;
        }
#endif
        for (; k < task->inner; k++) ups += x[k] > 0, downs += x[k] < 0;
        task->positive[row] = ups, task->negative[row] = downs;
    }
    return 0;
}

/* Blocks of neurons against their levels, part by part, so that counts stay in the nearest cache. */
#define DEFINE_AGREEMENT(WHOLE)                                                                                       \
    static int64_t NAME(agreement_##WHOLE)(const AgreementTask *task, int64_t first, int64_t last) {                  \
        enum { BLOCK = 16384, PART = 1024 };                                                                          \
        for (int64_t block = first; block < last; block++) {                                                          \
            const int64_t end = (block + 1) * BLOCK < task->neurons ? (block + 1) * BLOCK : task->neurons;            \
            int64_t *out = task->out + block * task->steps * 3;                                                       \
            for (int64_t start = block * BLOCK; start < end; start += PART) {                                         \
                const int64_t n = end - start < PART ? end - start : PART;                                            \
                const WHOLE q = (WHOLE)task->q;                                                                       \
                WHOLE count[PART] = {0};                                                                              \
                for (int64_t step = 0; step < task->steps; step++, out += 3) {                                        \
                    const WHOLE awake = (WHOLE)task->awake[step];                                                     \
                    WHOLE more = 0, fewer = 0, error = 0;                                                             \
                    if (step < task->arriving) {                                                                      \
                        const int8_t *spikes = task->train + step * task->neurons + start;                            \
                        for (int64_t k = 0; k < n; k++) count[k] += spikes[k];                                        \
                    }                                                                                                 \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        const WHOLE off = count[k] * q - (WHOLE)task->levels[start + k] * awake;                      \
                        more += off >= q, fewer += off <= -q, error += off < 0 ? -off : off;                          \
                    }                                                                                                 \
                    out[0] += more, out[1] += fewer, out[2] += error;                                                 \
                }                                                                                                     \
                out -= 3 * task->steps;                                                                               \
            }                                                                                                         \
        }                                                                                                             \
        return 0;                                                                                                     \
    }
DEFINE_AGREEMENT(int32_t)
DEFINE_AGREEMENT(int64_t)
#undef DEFINE_AGREEMENT

static int64_t NAME(agreement)(const AgreementTask *task, int64_t first, int64_t last) {
    return task->narrow ? NAME(agreement_int32_t)(task, first, last) : NAME(agreement_int64_t)(task, first, last);
}

