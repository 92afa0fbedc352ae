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

/* Counts the entries of each row that are not zero, of which 64 bits, one behind another, tell. */
typedef struct {
    int32_t *row, count;
    int64_t left; /* of a row, bits */
} NAME(Rows);

INLINE void NAME(count_in_rows)(NAME(Rows) *at, uint64_t any, int64_t bits, const int64_t inner) {
    if (bits == 64 && 64 % inner == 0) { /* whole rows: none is begun */
        for (int64_t k = 0; k < 64; k += inner) {
            *at->row++ = __builtin_popcountll(inner < 64 ? any & (((uint64_t)1 << inner) - 1) : any);
            if (inner < 64) any >>= inner;
        }
        return;
    }
    while (bits) {
        const int64_t own = at->left < bits ? at->left : bits;
        at->count += __builtin_popcountll(own < 64 ? any & (((uint64_t)1 << own) - 1) : any);
        bits -= own, at->left -= own;
        if (own < 64) any >>= own;
        if (!at->left) *at->row++ = at->count, at->count = 0, at->left = inner;
    }
}

INLINE void NAME(tally_blocks)(const TallyTask *task, int64_t first, int64_t last, const int64_t inner) {
    const int64_t size = task->rows * inner;
    for (int64_t block = first; block < last; block++) {
        NAME(Rows) rows = {task->in_rows + block * task->rows, 0, inner};
        int32_t ups = 0, downs = 0;
        const int8_t *x = task->from + block * size;
        for (int64_t k = 0; k < size; k += 64) {
            int8_t rest[64] = {0};
            const int64_t n = size - k < 64 ? size - k : 64;
            if (n < 64) memcpy(rest, x + k, (size_t)n);
            const uint64_t up = NAME(positive)(n < 64 ? rest : x + k), down = NAME(negative)(n < 64 ? rest : x + k);
            ups += __builtin_popcountll(up), downs += __builtin_popcountll(down);
            NAME(count_in_rows)(&rows, up | down, n, inner);
        }
        task->positive[block] = ups, task->negative[block] = downs;
    }
}

/* How many entries of each block are positive, how many negative, and how many of each row are not zero. */
static int64_t NAME(tally)(const TallyTask *task, int64_t first, int64_t last) {
    switch (task->inner) {
        case 16: NAME(tally_blocks)(task, first, last, 16); break;
        case 32: NAME(tally_blocks)(task, first, last, 32); break;
        case 64: NAME(tally_blocks)(task, first, last, 64); break;
        default: NAME(tally_blocks)(task, first, last, task->inner);
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

