/* The kernels, once for each set of instructions: included by _kernels.c with NAME and VECTOR defined.

   All loops run over PADDED lengths, so that none has a remainder; what is padded is zero and stays silent. */

/* sums = base + sum over the list of factor * row, by loops that compilers vectorise. */
INLINE void NAME(accumulate_plain)(const void *weight, int kind, int64_t stride, const Entries *list,
                                   const int32_t *base, int32_t *sums) {
    if (sums != base) memcpy(sums, base, (size_t)stride * sizeof *sums);
    for (int64_t i = 0; i < list->count; i++) {
        /* Unsigned, because a sum may wrap around on the way to a result that fits. */
        const uint32_t factor = (uint32_t)list->factor[i];
        uint32_t *to = (uint32_t *)sums;
        if (kind == WIDE) {
            const int32_t *row = (const int32_t *)weight + (int64_t)list->row[i] * stride;
            for (int64_t k = 0; k < stride; k++) to[k] += factor * (uint32_t)row[k];
        } else {
            const int16_t *row = (const int16_t *)weight + (int64_t)list->row[i] * stride;
            for (int64_t k = 0; k < stride; k++) to[k] += factor * (uint32_t)(int32_t)row[k];
        }
    }
}

#if VECTOR == 256
#define WORD __m256i
#define WORD_LANES 16
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define ZERO() _mm256_setzero_si256()
#define EACH_PAIR(x) _mm256_set1_epi32(x)
#define EACH(x) _mm256_set1_epi16(x)
#define ADD32(a, b) _mm256_add_epi32(a, b)
#define ADD16(a, b) _mm256_add_epi16(a, b)
#define TIMES16(a, b) _mm256_mullo_epi16(a, b)
#define LOW(a, b) _mm256_unpacklo_epi16(a, b)
#define HIGH(a, b) _mm256_unpackhi_epi16(a, b)
#define PAIRS(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
/* Undoes the order in which LOW and HIGH leave the results. */
#define FIRST(low, high) _mm256_permute2x128_si256(low, high, 0x20)
#define SECOND(low, high) _mm256_permute2x128_si256(low, high, 0x31)
#define WIDER(x, half) _mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x))
#define MOST_WORDS 6
#elif VECTOR == 512
#define WORD __m512i
#define WORD_LANES 32
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define ZERO() _mm512_setzero_si512()
#define EACH_PAIR(x) _mm512_set1_epi32(x)
#define EACH(x) _mm512_set1_epi16(x)
#define ADD32(a, b) _mm512_add_epi32(a, b)
#define ADD16(a, b) _mm512_add_epi16(a, b)
#define TIMES16(a, b) _mm512_mullo_epi16(a, b)
#define LOW(a, b) _mm512_unpacklo_epi16(a, b)
#define HIGH(a, b) _mm512_unpackhi_epi16(a, b)
#define PAIRS(sum, a, b) _mm512_dpwssd_epi32(sum, a, b)
#define FIRST(low, high) _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high)
#define SECOND(low, high) _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high)
#define WIDER(x, half) _mm512_cvtepi16_epi32(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x))
#define MOST_WORDS 10
#endif

#if VECTOR
/* `words` vectors of sums stay in registers while the list goes by. Two rows at a time are interleaved, so that one
   instruction multiplies both by their factors and adds them. */
INLINE void NAME(sums32)(const int words, const int16_t *weight, int64_t stride, const Entries *list,
                         const int32_t *base, int32_t *sums) {
    WORD low[MOST_WORDS], high[MOST_WORDS];
    for (int w = 0; w < words; w++) low[w] = high[w] = ZERO();
    for (int64_t i = 0; i < list->count; i += 2) {
        const int16_t *a = weight + (int64_t)list->row[i] * stride, *b = weight + (int64_t)list->row[i + 1] * stride;
        int32_t pair;
        memcpy(&pair, list->factor + i, sizeof pair);
        const WORD factors = EACH_PAIR(pair);
        for (int w = 0; w < words; w++) {
            const WORD x = LOAD(a + WORD_LANES * w), y = LOAD(b + WORD_LANES * w);
            low[w] = PAIRS(low[w], LOW(x, y), factors);
            high[w] = PAIRS(high[w], HIGH(x, y), factors);
        }
    }
    for (int w = 0; w < words; w++) {
        const int64_t at = WORD_LANES * w, half = WORD_LANES / 2;
        STORE(sums + at, ADD32(LOAD(base + at), FIRST(low[w], high[w])));
        STORE(sums + at + half, ADD32(LOAD(base + at + half), SECOND(low[w], high[w])));
    }
}

/* The same where every result fits int16: one row at a time, twice as many sums in a vector. */
INLINE void NAME(sums16)(const int words, const int16_t *weight, int64_t stride, const Entries *list,
                         const int32_t *base, int32_t *sums) {
    WORD sum[MOST_WORDS];
    for (int w = 0; w < words; w++) sum[w] = ZERO();
    for (int64_t i = 0; i < list->count; i++) {
        const int16_t *row = weight + (int64_t)list->row[i] * stride;
        const WORD factor = EACH(list->factor[i]);
        for (int w = 0; w < words; w++) sum[w] = ADD16(sum[w], TIMES16(LOAD(row + WORD_LANES * w), factor));
    }
    for (int w = 0; w < words; w++) {
        const int64_t at = WORD_LANES * w, half = WORD_LANES / 2;
        STORE(sums + at, ADD32(LOAD(base + at), WIDER(sum[w], 0)));
        STORE(sums + at + half, ADD32(LOAD(base + at + half), WIDER(sum[w], 1)));
    }
}

#define WITH_WORDS(sums, now)                                                                                         \
    switch (now) {                                                                                                    \
        case 1: NAME(sums)(1, rows, stride, list, base, to); break;                                                   \
        case 2: NAME(sums)(2, rows, stride, list, base, to); break;                                                   \
        case 3: NAME(sums)(3, rows, stride, list, base, to); break;                                                   \
        case 4: NAME(sums)(4, rows, stride, list, base, to); break;                                                   \
        case 5: NAME(sums)(5, rows, stride, list, base, to); break;                                                   \
        case 6: NAME(sums)(6, rows, stride, list, base, to); break;                                                   \
        case 7: NAME(sums)(7 <= MOST_WORDS ? 7 : 1, rows, stride, list, base, to); break;                             \
        case 8: NAME(sums)(8 <= MOST_WORDS ? 8 : 1, rows, stride, list, base, to); break;                             \
        case 9: NAME(sums)(9 <= MOST_WORDS ? 9 : 1, rows, stride, list, base, to); break;                             \
        default: NAME(sums)(MOST_WORDS, rows, stride, list, base, to); break;                                         \
    }
#endif

static void NAME(accumulate)(const void *weight, int kind, int64_t stride, const Entries *list, const int32_t *base,
                             int32_t *to) {
#if VECTOR
    if (kind != WIDE && list->count) {
        const int16_t *rows = (const int16_t *)weight;
        int64_t words = stride / WORD_LANES;
        for (int64_t blocks = (words + MOST_WORDS - 1) / MOST_WORDS; blocks > 0; blocks--) {
            const int64_t now = (words + blocks - 1) / blocks; /* blocks of about one size */
            if (kind == SUMS16) {
                WITH_WORDS(sums16, now)
            } else {
                WITH_WORDS(sums32, now)
            }
            rows += now * WORD_LANES, base += now * WORD_LANES, to += now * WORD_LANES, words -= now;
        }
        return;
    }
#endif
    NAME(accumulate_plain)(weight, kind, stride, list, base, to);
}

/* Where two vectors of int8 differ, 64 entries to a mask. Returns in how many. */
static int64_t NAME(differences)(const int8_t *a, const int8_t *b, int64_t blocks, uint64_t *mask) {
    int64_t count = 0;
    for (int64_t w = 0; w < blocks; w++, a += 64, b += 64) {
#if VECTOR == 512
        mask[w] = _mm512_cmpneq_epi8_mask(LOAD(a), LOAD(b));
        count += __builtin_popcountll(mask[w]);
#elif VECTOR == 256
        const uint32_t first = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(LOAD(a), LOAD(b)));
        const uint32_t second = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(LOAD(a + 32), LOAD(b + 32)));
        mask[w] = ~((uint64_t)second << 32 | first);
        count += __builtin_popcountll(mask[w]);
#else
        uint64_t bits = 0;
        for (int k = 0; k < 64; k++) {
            bits |= (uint64_t)(a[k] != b[k]) << k;
            count += a[k] != b[k];
        }
        mask[w] = bits;
#endif
    }
    return count;
}

/* The product of `x` with the weights, from the nearest of the references: inputs whose products are known. */
static void NAME(product)(const Weights *weights, const int8_t *x, const Reference *references, int count,
                          Scratch *scratch, int32_t *to) {
    const int64_t blocks = weights->rows_padded / 64;
    uint64_t *best = scratch->mask, *other = scratch->mask + blocks;
    const Reference *nearest = references;
    int64_t fewest = NAME(differences)(x, references[0].input, blocks, best);
    for (int r = 1; r < count && fewest; r++) {
        const int64_t found = NAME(differences)(x, references[r].input, blocks, other);
        if (found < fewest) {
            uint64_t *swapped = best;
            best = other, other = swapped, fewest = found, nearest = references + r;
        }
    }
    Entries *list = &scratch->list;
    list->count = 0;
    for (int64_t w = 0; w < blocks; w++)
        for (uint64_t bits = best[w]; bits; bits &= bits - 1) {
            const int64_t j = w * 64 + lowest_bit(bits);
            list->row[list->count] = (int32_t)j;
            list->factor[list->count++] = (int16_t)(x[j] - nearest->input[j]);
        }
    list->row[list->count] = 0, list->factor[list->count] = 0; /* rows are taken in pairs */
    NAME(accumulate)(weights->values, weights->kind, weights->stride, list, nearest->product, to);
}

/* How many spikes a neuron of this potential emits, how many it has emitted being `total`. */
INLINE int32_t NAME(rising)(const int burst, int32_t charged, int32_t threshold, int32_t total, int32_t cap) {
    if (burst == 1) return (charged >= threshold) & (total < cap);
    int32_t up = 0;
    for (int b = 1; b <= burst; b++) up += (charged >= b * threshold) & (total + b <= cap);
    return up;
}

/* One step of neurons: v += current; up if v >= threshold and n < cap; down if v < lower and n > 0. */
INLINE int64_t NAME(fire_up_to)(const int burst, int64_t n, const int32_t *restrict a, int shift,
                                const int32_t *restrict b, const int32_t *restrict c, int32_t threshold, int32_t cap,
                                int32_t lower, int32_t *restrict v, int32_t *restrict total, int8_t *restrict out,
                                int32_t *up_count, int32_t *down_count) {
    int32_t ups = 0, downs = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t charged = v[k] + (int32_t)((uint32_t)a[k] << shift) + b[k] + c[k];
        const int32_t up = NAME(rising)(burst, charged, threshold, total[k], cap);
        const int32_t down = (charged < lower) & (total[k] > 0);
        const int32_t spike = up - down;
        if (burst == 1)
            v[k] = charged - (spike > 0 ? threshold : 0) + (spike < 0 ? threshold : 0);
        else
            v[k] = charged - spike * threshold;
        total[k] += spike;
        out[k] = (int8_t)spike;
        ups += up, downs += down;
    }
    *up_count = ups, *down_count = downs;
    return (int64_t)ups + downs;
}

static int64_t NAME(fire)(int burst, int64_t n, const int32_t *a, int shift, const int32_t *b, const int32_t *c,
                          int32_t threshold, int32_t cap, int32_t lower, int32_t *v, int32_t *total, int8_t *out,
                          int32_t *up_count, int32_t *down_count) {
    if (burst == 1)
        return NAME(fire_up_to)(1, n, a, shift, b, c, threshold, cap, lower, v, total, out, up_count, down_count);
    if (burst == 5) /* the usual one: an unrolled loop is a vector loop */
        return NAME(fire_up_to)(5, n, a, shift, b, c, threshold, cap, lower, v, total, out, up_count, down_count);
    return NAME(fire_up_to)(burst, n, a, shift, b, c, threshold, cap, lower, v, total, out, up_count, down_count);
}

/* Neurons of negative potential are silenced, all others begin anew from `potential` (NULL: zero). */
static void NAME(restart)(int64_t n, int64_t own, const int32_t *potential, int32_t *restrict v, int32_t *restrict total) {
    for (int64_t k = 0; k < n; k++) {
        total[k] = v[k] < 0 ? SILENCED : 0;
        v[k] = potential && k < own ? potential[k] : 0;
    }
}

/* All steps at once: clip(floor(current / threshold), 0, total), where the drive flows `total` times. */
static int64_t NAME(level)(int64_t n, const int32_t *restrict a, int shift, const int32_t *restrict b,
                           const int32_t *restrict c, int32_t threshold, int32_t total, int8_t *restrict out) {
    const int32_t most = threshold * total;
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

/* `n` values into integers of the unit 1 / scale. Returns whether all lie within the limit (NaN does not). */
static int NAME(units_of)(const void *from, int type, int64_t n, double scale, double limit, int32_t *restrict to) {
    int inside = 1;
    if (type == FLOAT32) {
        const float *x = (const float *)from;
        /* A power of two scales exactly, and what float32 holds beyond 2**24 is an integer already. */
        const float s = (float)scale, most = (float)limit;
        for (int64_t k = 0; k < n; k++) {
            const float y = __builtin_rintf(x[k] * s);
            const int ok = y <= most && y >= -most;
            to[k] = (int32_t)(ok ? y : 0);
            inside &= ok;
        }
    } else {
        const double *x = (const double *)from;
        for (int64_t k = 0; k < n; k++) {
            const double y = __builtin_rint(x[k] * scale);
            const int ok = y <= limit && y >= -limit;
            to[k] = (int32_t)(ok ? y : 0);
            inside &= ok;
        }
    }
    return inside;
}

/* The products of the samples first..last-1 at every step. */
static int64_t NAME(rows)(const RowsTask *task, int64_t first, int64_t last) {
    const Weights *weights = &task->weights;
    const int64_t padded = weights->rows_padded, stride = weights->stride;
    Scratch scratch;
    char *memory = scratch_open(&scratch, padded, 3 * padded + 2 * stride * (int64_t)sizeof(int32_t));
    if (!memory) return NO_MEMORY;
    int32_t *sums = (int32_t *)memory, *zeros = sums + stride;
    int8_t *now = (int8_t *)(zeros + stride), *before = now + padded, *nothing = before + padded;
    for (int64_t sample = first; sample < last; sample++) {
        for (int64_t step = 0; step < task->steps; step++) {
            const int64_t row = step * task->samples + sample;
            int8_t *swapped = before;
            before = now, now = swapped;
            memcpy(now, task->train + row * weights->rows, (size_t)weights->rows);
            const Reference references[3] = {
                {nothing, zeros}, {task->peaks, task->peak_product}, {before, sums}};
            NAME(product)(weights, now, references, step ? 3 : 2, &scratch, sums);
            if (task->out_type == FLOAT32) {
                float *out = (float *)task->out + row * task->outputs;
                const float unit = (float)task->unit;
                for (int64_t k = 0; k < task->outputs; k++) out[k] = (float)sums[k] * unit;
            } else {
                double *out = (double *)task->out + row * task->outputs;
                for (int64_t k = 0; k < task->outputs; k++) out[k] = (double)sums[k] * task->unit;
            }
        }
    }
    scratch_close(&scratch);
    return 0;
}

/* How many rows `rows` would add for every `by`-th sample at each step. */
static int64_t NAME(count_rows)(const RowsTask *task, int64_t by, int64_t *counts) {
    const int64_t padded = task->weights.rows_padded, blocks = padded / 64, rows = task->weights.rows;
    char *memory = (char *)calloc(1, (size_t)(3 * padded + blocks * 8));
    if (!memory) return NO_MEMORY;
    uint64_t *mask = (uint64_t *)memory;
    int8_t *now = (int8_t *)(mask + blocks), *before = now + padded, *nothing = before + padded;
    for (int64_t sample = 0; sample < task->samples; sample += by)
        for (int64_t step = 0; step < task->steps; step++) {
            int8_t *swapped = before;
            before = now, now = swapped;
            memcpy(now, task->train + (step * task->samples + sample) * rows, (size_t)rows);
            int64_t fewest = NAME(differences)(now, nothing, blocks, mask);
            const int64_t complement = NAME(differences)(now, task->peaks, blocks, mask);
            fewest = complement < fewest ? complement : fewest;
            const int64_t changed = step ? NAME(differences)(now, before, blocks, mask) : fewest;
            counts[step] += changed < fewest ? changed : fewest;
        }
    free(memory);
    return 0;
}

/* The neurons first..last-1: over all their steps, in blocks that stay in the nearest cache. */
#define DEFINE_SCAN(REAL, CURRENT, TYPE)                                                                                     \
    static int64_t NAME(scan_##TYPE)(const ScanTask *task, int64_t first, int64_t last) {                             \
        enum { BLOCK = 512 };                                                                                         \
        REAL v[BLOCK], total[BLOCK], threshold[BLOCK]; /* counts of one width with potentials: one vector loop */     \
        int64_t needed = 0;                                                                                           \
        const int64_t burst = task->burst;                                                                            \
        const REAL lower = (REAL)task->lower, down = task->lower == 0 ? 1 : 0;                                        \
        const int plain = burst == 1 && (task->lower == 0 || task->lower < -1);                                       \
        const int64_t ended = task->arriving > task->wake_steps ? task->arriving : task->wake_steps;                  \
        for (int64_t start = first; start < last; start += BLOCK) {                                                   \
            const int64_t n = last - start < BLOCK ? last - start : BLOCK;                                            \
            const REAL *drive = task->drive ? (const REAL *)task->drive + start : NULL;                               \
            for (int64_t k = 0; k < n; k++) {                                                                         \
                v[k] = task->potential ? ((const REAL *)task->potential)[start + k] : 0;                              \
                total[k] = 0;                                                                                         \
                threshold[k] = task->thresholds ? ((const REAL *)task->thresholds)[start + k] : (REAL)task->threshold; \
            }                                                                                                         \
            int64_t step = 0;                                                                                         \
            for (; step <= task->capacity && step < task->most_steps; step++) {                                       \
                int8_t beyond[BLOCK];                                                                                 \
                if (step == task->restart)                                                                            \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        total[k] = v[k] < 0 ? SILENCED : 0;                                                           \
                        v[k] = task->potential ? ((const REAL *)task->potential)[start + k] : 0;                      \
                    }                                                                                                 \
                int8_t *out = step < task->capacity ? task->out + step * task->neurons + start : beyond;              \
                const int driven = drive && step < task->wake_steps && task->awake[step];                             \
                const CURRENT *current = (const CURRENT *)task->currents + step * task->neurons + start;              \
                if (step < task->arriving && driven)                                                                  \
                    for (int64_t k = 0; k < n; k++) v[k] += (REAL)current[k] + drive[k];                              \
                else if (step < task->arriving)                                                                       \
                    for (int64_t k = 0; k < n; k++) v[k] += (REAL)current[k];                                         \
                else if (driven)                                                                                      \
                    for (int64_t k = 0; k < n; k++) v[k] += drive[k];                                                 \
                const REAL cap = (REAL)(step < task->wake_steps ? task->caps[step] : task->total);                    \
                int32_t any = 0;                                                                                      \
                if (plain) /* IF and CIF in a loop that compilers vectorise */                                        \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        const REAL up = ((v[k] >= threshold[k]) & (total[k] < cap)) ? 1 : 0;                          \
                        const REAL spike = ((v[k] < 0) & (total[k] > 0)) ? up - down : up;                            \
                        v[k] -= spike * threshold[k];                                                                 \
                        total[k] += spike;                                                                            \
                        out[k] = (int8_t)(int32_t)spike;                                                              \
                        any |= (int32_t)spike;                                                                        \
                    }                                                                                                 \
                else                                                                                                  \
                    for (int64_t k = 0; k < n; k++) {                                                                 \
                        REAL spike = ((v[k] < 0) & (v[k] <= lower * threshold[k]) & (total[k] > 0)) ? -1 : 0;         \
                        for (int64_t b = 1; b <= burst; b++)                                                          \
                            spike += ((v[k] >= (REAL)b * threshold[k]) & (total[k] + (REAL)b <= cap)) ? 1 : 0;        \
                        v[k] -= spike * threshold[k];                                                                 \
                        total[k] += spike;                                                                            \
                        out[k] = (int8_t)(int32_t)spike;                                                              \
                        any |= (int32_t)spike;                                                                        \
                    }                                                                                                 \
                if (any) {                                                                                            \
                    if (step == task->capacity) return task->capacity + 1;                                            \
                    needed = step + 1 > needed ? step + 1 : needed;                                                   \
                } else if (step >= ended) {                                                                           \
                    break;                                                                                            \
                }                                                                                                     \
            }                                                                                                         \
            for (; step < task->capacity; step++) memset(task->out + step * task->neurons + start, 0, (size_t)n);     \
        }                                                                                                             \
        return needed;                                                                                                \
    }
DEFINE_SCAN(float, float, FLOAT32)
DEFINE_SCAN(double, double, FLOAT64)
DEFINE_SCAN(double, float, MIXED)
#undef DEFINE_SCAN

#define DEFINE_LEVELS(REAL, TYPE)                                                                                     \
    /* All steps at once: clip(floor(current / threshold), 0, total). */                                              \
    static int64_t NAME(levels_##TYPE)(const ScanTask *task, int64_t first, int64_t last) {                           \
        const REAL *currents = (const REAL *)task->currents, *drive = (const REAL *)task->drive;                      \
        const REAL *thresholds = (const REAL *)task->thresholds;                                                      \
        const REAL total = (REAL)task->total;                                                                         \
        for (int64_t k = first; k < last; k++) {                                                                      \
            const REAL current = (currents ? currents[k] : 0) + (drive ? drive[k] * total : 0);                       \
            const REAL threshold = thresholds ? thresholds[k] : (REAL)task->threshold;                                \
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

/* The sequences first..last-1: position after position, all steps of each. */
static int64_t NAME(recurrence)(const RecurrenceTask *task, int64_t first, int64_t last) {
    const Weights *weights = &task->weights;
    const int64_t hidden = weights->rows, stride = weights->stride, padded = weights->rows_padded;
    const int64_t capacity = task->capacity, trains = (capacity + 1) * padded; /* one more, to see it silent */
    const int64_t ints = stride * (int64_t)sizeof(int32_t);
    Scratch scratch;
    char *memory = scratch_open(&scratch, padded, (capacity + 6) * ints + 3 * trains + padded);
    if (!memory) return NO_MEMORY;
    int32_t *products = (int32_t *)memory, *zeros = products + capacity * stride, *drive = zeros + stride;
    int32_t *arriving = drive + stride, *v = arriving + stride, *total = v + stride, *initial = total + stride;
    int8_t *spikes = (int8_t *)(initial + stride), *before = spikes + trains, *earlier = before + trains;
    int8_t *nothing = earlier + trains;
    int64_t needed = 0;

    for (int64_t sample = first; sample < last; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        /* Steps of the trains `before` and `earlier`, of which `products` holds the latter's. */
        int64_t before_steps = 0, earlier_steps = 0;
        for (int64_t visit = 0; visit < task->length; visit++) {
            const int real = visit < length;
            const int64_t position = !real ? visit : task->reverse ? length - 1 - visit : visit;
            int8_t *out = task->out + sample * task->out_sample + position * task->out_position;
            const int64_t tally = sample * task->length + position;
            int64_t step = 0, ended = 0;
            int driven = 0;
            if (real) {
                if (task->drive) {
                    int64_t at = sample * task->drive_sample + position * task->drive_position;
                    if (task->index) at = task->index[at] * task->drive_row;
                    const char *row = (const char *)task->drive + at * type_size(task->drive_type);
                    if (!NAME(units_of)(row, task->drive_type, hidden, task->scale, task->drive_limit, drive))
                        goto out_of_range;
                    driven = 1;
                }
                if (task->initial && visit == 0) {
                    if (!driven) memset(drive, 0, (size_t)ints);
                    for (int64_t k = 0; k < hidden; k++) drive[k] += task->initial[sample * hidden + k];
                    driven = 1;
                }
                memset(v, 0, (size_t)ints);
                memset(total, 0, (size_t)ints);
                if (task->potential) memcpy(v, task->potential, (size_t)hidden * sizeof *v);
                for (; step < task->most_steps; step++) {
                    const int wake = step < task->wake_steps;
                    const int32_t *recurrent = zeros, *current = zeros;
                    int32_t ups = 0, downs = 0;
                    if (step == task->restart) NAME(restart)(stride, hidden, task->potential, v, total);
                    if (step < before_steps) {
                        int32_t *product = products + step * stride;
                        Reference references[4] = {{nothing, zeros}, {task->peaks, task->peak_product}};
                        int known = 2;
                        if (step < earlier_steps)
                            references[known++] = (Reference){earlier + step * padded, product};
                        if (step) references[known++] = (Reference){before + (step - 1) * padded, product - stride};
                        NAME(product)(weights, before + step * padded, references, known, &scratch, product);
                        recurrent = product;
                    }
                    if (step < task->arriving) {
                        const int64_t at = step * task->train_step + sample * task->train_sample +
                                           position * task->train_position;
                        const char *row = (const char *)task->train + at * type_size(task->train_type);
                        if (!NAME(units_of)(row, task->train_type, hidden, task->scale, INT32_MAX / 2, arriving))
                            goto out_of_range;
                        current = arriving;
                    }
                    int8_t *fired = spikes + step * padded;
                    int64_t any;
                    if (task->levels) {
                        if (task->potential) {
                            if (current == zeros) memset(arriving, 0, (size_t)ints);
                            for (int64_t k = 0; k < hidden; k++) arriving[k] += task->potential[k];
                            current = arriving;
                        }
                        any = NAME(level)(stride, recurrent, (int)task->shift, driven ? drive : zeros, current, (int32_t)task->threshold,
                                          (int32_t)task->total, fired);
                        ups = (int32_t)any;
                    } else {
                        any = NAME(fire)((int)task->burst, stride, recurrent, (int)task->shift, driven && wake && task->awake[step] ? drive : zeros,
                                         current, (int32_t)task->threshold,
                                         wake ? task->caps[step] : (int32_t)task->total, (int32_t)task->lower, v, total, fired, &ups, &downs);
                    }
                    if (!any && step >= before_steps && step >= task->arriving && step >= task->wake_steps) break;
                    if (step >= capacity) {
                        needed = capacity + 1;
                        goto done;
                    }
                    memcpy(out + step * task->out_step, fired, (size_t)hidden);
                    if (task->positive) {
                        task->positive[step * task->batch * task->length + tally] = ups;
                        task->negative[step * task->batch * task->length + tally] = downs;
                    }
                    if (any) ended = step + 1;
                }
                int8_t *freed = earlier;
                earlier = before, earlier_steps = before_steps;
                before = spikes, before_steps = ended;
                spikes = freed;
                if (ended > needed) needed = ended;
            }
            for (; step < capacity; step++) {
                memset(out + step * task->out_step, 0, (size_t)hidden);
                if (task->positive) {
                    task->positive[step * task->batch * task->length + tally] = 0;
                    task->negative[step * task->batch * task->length + tally] = 0;
                }
            }
        }
    }
done:
    scratch_close(&scratch);
    return needed;
out_of_range:
    scratch_close(&scratch);
    return OUT_OF_RANGE;
}

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
#if VECTOR == 512
        for (; k + 64 <= task->inner; k += 64) {
            const WORD now = LOAD(x + k);
            ups += __builtin_popcountll(_mm512_cmpgt_epi8_mask(now, ZERO()));
            downs += __builtin_popcountll(_mm512_movepi8_mask(now));
        }
#elif VECTOR == 256
        for (; k + 32 <= task->inner; k += 32) {
            const WORD now = LOAD(x + k);
            ups += __builtin_popcount((uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi8(now, ZERO())));
            downs += __builtin_popcount((uint32_t)_mm256_movemask_epi8(now));
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
                    if (step == task->restart) memset(count, 0, sizeof count);                                        \
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
