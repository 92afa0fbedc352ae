/* Products of spikes: the rows of weights behind those inputs that spike are added. */

/* sums = base + sum over the list of factor * row, by loops that compilers vectorise. */
INLINE void NAME(accumulate_plain)(const void *weight, int kind, int64_t stride, const RowList *list,
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

#if VECTOR
/* `words` vectors of sums stay in registers while the list goes by. Two rows at a time are interleaved, so that one
   instruction multiplies both by their factors and adds them. */
INLINE void NAME(sums32)(const int words, const int16_t *weight, int64_t stride, const RowList *list,
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
            ADD_PRODUCTS(low[w], high[w], x, y, factors);
        }
    }
    for (int w = 0; w < words; w++) {
        const int64_t at = WORD_LANES * w, half = WORD_LANES / 2;
        STORE(sums + at, ADD32(LOAD(base + at), FIRST(low[w], high[w])));
        STORE(sums + at + half, ADD32(LOAD(base + at + half), SECOND(low[w], high[w])));
    }
}

/* The same where every result fits int16: one row at a time, twice as many sums in a vector. */
INLINE void NAME(sums16)(const int words, const int16_t *weight, int64_t stride, const RowList *list,
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

/* sums = base + sum over the list of factor * row, for the first `outputs` of a row; what is behind them may be left as it
   is. */
static void NAME(accumulate_some)(const void *weight, int kind, int64_t stride, int64_t outputs, const RowList *list,
                                  const int32_t *base, int32_t *to) {
#if VECTOR
    if (kind != WIDE && list->count) {
        const int16_t *rows = (const int16_t *)weight;
        int64_t words = (outputs + WORD_LANES - 1) / WORD_LANES;
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
    (void)outputs;
    NAME(accumulate_plain)(weight, kind, stride, list, base, to);
}
#undef WITH_WORDS

/* Where two vectors of int8 differ, 64 entries to a mask. Returns in how many. */
static int64_t NAME(differences)(const int8_t *a, const int8_t *b, int64_t blocks, uint64_t *mask) {
    int64_t count = 0;
    for (int64_t w = 0; w < blocks; w++, a += 64, b += 64) {
        mask[w] = NAME(unequal)(a, b);
        count += __builtin_popcountll(mask[w]);
    }
    return count;
}

/* Lists the inputs that are in the mask, and by how much they differ; writes up to LIST_ROOM entries beyond them. */
INLINE void NAME(list_rows)(int64_t blocks, const uint64_t *mask, const int8_t *x, const int8_t *reference, RowList *list) {
    int64_t count = 0;
#if VECTOR == 512
    const WORD places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t w = 0; w < blocks; w++)
        for (int64_t j = w * 64, end = j + 64; j < end; j += 16) { /* what differs moves together */
            const __mmask16 some = (__mmask16)(mask[w] >> (j % 64));
            const WORD by = _mm512_sub_epi32(WIDENED(x + j), WIDENED(reference + j));
            STORE(list->row + count, _mm512_maskz_compress_epi32(some, ADD32(places, EACH_PAIR((int32_t)j))));
            _mm256_storeu_si256((__m256i *)(list->factor + count), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(some, by)));
            count += __builtin_popcount(some);
        }
#else
    for (int64_t w = 0; w < blocks; w++) {
        uint64_t bits = mask[w];
        const int64_t end = count + __builtin_popcountll(bits);
        int32_t *row = list->row + count;
        for (; count < end; count += 8, row += 8) /* eight at a time, so that few branches depend on how many there are */
            for (int i = 0; i < 8; i++, bits &= bits - 1) {
                int32_t place = lowest_bit(bits | (uint64_t)1 << 63);
                __asm__("" : "+r"(place)); /* compilers would gather them in vectors, one by one */
                row[i] = (int32_t)(w * 64) + place;
            }
        count = end;
    }
    for (int64_t i = 0; i < count; i++) list->factor[i] = (int16_t)(x[list->row[i]] - reference[list->row[i]]);
#endif
    list->count = count;
}

/* The product of `x` with the weights, from the nearest of the references: inputs whose products are known. Returns how
   many of its entries differ from the first. */
static int64_t NAME(product)(const Weights *weights, const int8_t *x, const Reference *references, int count,
                          Scratch *scratch, int32_t *to) {
    const int64_t blocks = weights->rows_padded / 64;
    uint64_t *best = scratch->mask, *other = scratch->mask + blocks;
    const Reference *nearest = references;
    const int64_t first = NAME(differences)(x, references[0].input, blocks, best);
    int64_t fewest = first;
    for (int r = 1; r < count && fewest > FEW_ROWS; r++) {
        const int64_t found = NAME(differences)(x, references[r].input, blocks, other);
        if (found < fewest) {
            uint64_t *swapped = best;
            best = other, other = swapped, fewest = found, nearest = references + r;
        }
    }
    RowList *list = &scratch->list;
    NAME(list_rows)(blocks, best, x, nearest->input, list);
    list->row[list->count] = 0, list->factor[list->count] = 0; /* rows are taken in pairs */
    NAME(accumulate_some)(weights->values, weights->kind, weights->stride, weights->outputs, list, nearest->product, to);
    return first;
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

