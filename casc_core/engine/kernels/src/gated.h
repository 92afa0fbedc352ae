/* A gated recurrence, GRU or LSTM: text after text, token after token, all steps of each.

   What the hidden state brings is summed in whole numbers, of weights rounded to so few bits that int16 holds the sum of some
   rows. What the input brings is a multiple of its drive, and what trains have brought, which float64 holds exactly; so the
   caller has proven. Gates are fired by float32 sums of all this, which are within a margin of the true ones; a neuron nearer
   than that to a decision is decided by the weights' next bits, or by the weights as they are. Levels and products of two of
   them are whole numbers that float32 holds.

   Arrays are `width` long, a multiple of 16: the neurons of one gate, and what is padded, which stays silent. */

/* Neurons with a threshold for each level. `exact` has -infinity, the thresholds, and infinity, `table` the same in float32,
   with `small` no more than a table that vectors hold, which has room for it; `index` counts those that are reached, `above`
   and `below` are the next one and the last. */
typedef struct {
    const double *exact;
    const float *table, *sums;
    int small;
    int64_t lowest, highest;
    float *level, *above, *below;
    int32_t *index;
} NAME(Population);

/* The spikes of a state, or its levels, step by step: those of a step end at `ends` of the next. */
typedef struct {
    int64_t steps, *ends;
    int32_t *unit;
    int16_t *change;
} NAME(Events);

/* What one thread works with, for one text. */
typedef struct {
    const GatedTask *task;
    const double *drive;                 /* of the position, or NULL; it has flowed `flows` times */
    double flows;
    double *arrived;                     /* [rows]: what trains have brought; of a GRU, that of its candidate is last, behind
                                            what its reset gate multiplies */
    float *rounded_drive;                /* [rows]: in float32, and what flows beside it */
    float *input_sums, *sums;            /* [rows]: what has come of the input, in float32, and with what the state brings */
    int32_t *recurrent;                  /* what that is, in units of the rounded weights */
    double norm;                         /* the sum of the magnitudes of the hidden state's levels before */
    float *products;                     /* [width] of each population that receives products */
    float *before, *before_cells, *seen; /* levels of the states before; what the output gate multiplies */
    int16_t *counts;                     /* the hidden state's levels before, as the next bits of weights meet them */
    int32_t *risen, *fallen;             /* [hidden]: units of the hidden state that spike at a step */
    NAME(Population) populations[6];
    NAME(Events) hidden, cells, hidden_before, cells_before;
} NAME(GatedState);

/* What neuron `k` has received of the input in one of the blocks of rows, truly. */
INLINE double NAME(given_of)(const NAME(GatedState) *state, int64_t block, int64_t k) {
    const GatedTask *task = state->task;
    const int is_kept = block == 2 && !task->lstm; /* what a GRU's reset gate multiplies: there is no drive */
    const int64_t gate = block == 3 && !task->lstm ? 2 : block;
    double flow = 0;
    if (is_kept) flow = task->bias ? task->bias[k] : 0;
    else if (state->drive) flow = state->drive[gate * task->hidden + k];
    return state->arrived[block * task->width + k] + state->flows * flow;
}

/* What neuron `k` of a gate's population has received: with the weights' next bits, or `truly`. */
static double NAME(total_of)(const NAME(GatedState) *state, int which, int64_t k, int truly) {
    const GatedTask *task = state->task;
    const int64_t row = which * task->width + k;
    const double product = truly ? task->grain * NAME(true_sum)(&task->left_out, row, state->counts)
                                 : task->unit * state->recurrent[row] +
                                       task->grain * NAME(next_bits)(&task->left_out, row, state->counts);
    const double received = NAME(given_of)(state, which, k) + product;
    if (which != 2 || task->lstm) return received;
    return (double)task->q * NAME(given_of)(state, 3, k) + (double)state->populations[0].level[k] * received;
}

/* How far a gate's sums may be from the true ones if those of what has been received may be so far. */
INLINE double NAME(spread)(const GatedTask *task, int which, double margin) {
    return which == 2 && !task->lstm ? (double)task->q * margin : margin;
}

/* How far totals with the weights' next bits may be from the true ones. */
INLINE double NAME(finer_margin)(const NAME(GatedState) *state, int which) {
    const GatedTask *task = state->task;
    return NAME(spread)(task, which, task->error * task->left_out.finer * state->norm + ROUNDED * task->grain);
}

/* All counts at 0. */
INLINE void NAME(rest)(const NAME(Population) *p, int64_t n, int64_t width, int back) {
    const int32_t index = (int32_t)-p->lowest;
    for (int64_t k = 0; k < width; k++) {
        p->level[k] = 0;
        p->index[k] = index;
        p->above[k] = k < n ? p->table[index + 1] : INFINITY;
        p->below[k] = k < n && back ? p->table[index] : -INFINITY;
    }
}

/* Decides the neurons that are marked, from `k` on: bits of those that spike. */
static void NAME(decide_gates)(const NAME(GatedState) *state, int which, int64_t k, int back, uint32_t marked, uint32_t *up,
                               uint32_t *down) {
    const NAME(Population) *p = state->populations + which;
    const double margin = NAME(finer_margin)(state, which);
    for (; marked; marked &= marked - 1) {
        const int place = __builtin_ctz(marked);
        const double *thresholds = p->exact + p->index[k + place], about = NAME(total_of)(state, which, k + place, 0);
        double low = about - margin, high = about + margin;
        if ((low >= thresholds[1]) != (high >= thresholds[1]) || (low < thresholds[0]) != (high < thresholds[0]))
            low = high = NAME(total_of)(state, which, k + place, 1);
        *up = (*up & ~(1u << place)) | (uint32_t)(low >= thresholds[1]) << place;
        *down = (*down & ~(1u << place)) | (uint32_t)(back && high < thresholds[0]) << place;
    }
}

/* Entries of a table, which is `small` if vectors hold all of it: that is faster than to gather them. */
#if VECTOR == 512
INLINE __m512 NAME(entries)(const float *table, const int small, __m512i index) {
    if (!small) return _mm512_i32gather_ps(index, table, 4);
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
}
#elif VECTOR == 256
INLINE __m256 NAME(entries)(const float *table, const int small, __m256i index) {
    if (!small) return _mm256_i32gather_ps(table, index, 4);
    __m256 eight[4];
    for (int i = 0; i < 4; i++) eight[i] = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8 * i), index);
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)); /* the sign says which of two it is */
    const __m256 half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
    return _mm256_blendv_ps(_mm256_blendv_ps(eight[0], eight[1], second), _mm256_blendv_ps(eight[2], eight[3], second), half);
}
#endif

/* What the neurons of one vector, from `k` on, do: bits of those that spike +1, and -1. Their levels follow, and their
   thresholds: the next one above is read from the table, that below is the one that was reached. */
INLINE uint32_t NAME(spikes_of)(const NAME(GatedState) *state, int which, const int small, int64_t k, int back, float margin,
                                uint32_t *fallen) {
    const NAME(Population) *p = state->populations + which;
    const float *table = p->table;
    uint32_t up, down, marked;
#if VECTOR == 512
    const __m512 sums = _mm512_loadu_ps(p->sums + k), above = _mm512_loadu_ps(p->above + k), below = _mm512_loadu_ps(p->below + k);
    const __m512 low = _mm512_sub_ps(sums, _mm512_set1_ps(margin)), high = _mm512_add_ps(sums, _mm512_set1_ps(margin));
    const uint32_t rises = _mm512_cmp_ps_mask(high, above, _CMP_GE_OQ), falls = _mm512_cmp_ps_mask(low, below, _CMP_LT_OQ);
    if (!(rises | falls)) return *fallen = 0;
    up = _mm512_cmp_ps_mask(low, above, _CMP_GE_OQ), down = _mm512_cmp_ps_mask(high, below, _CMP_LT_OQ);
#elif VECTOR == 256
    const __m256 sums = _mm256_loadu_ps(p->sums + k), above = _mm256_loadu_ps(p->above + k), below = _mm256_loadu_ps(p->below + k);
    const __m256 low = _mm256_sub_ps(sums, _mm256_set1_ps(margin)), high = _mm256_add_ps(sums, _mm256_set1_ps(margin));
    const __m256 rising = _mm256_cmp_ps(high, above, _CMP_GE_OQ), falling = _mm256_cmp_ps(low, below, _CMP_LT_OQ);
    if (!_mm256_movemask_ps(_mm256_or_ps(rising, falling))) return *fallen = 0;
    const uint32_t rises = (uint32_t)_mm256_movemask_ps(rising), falls = (uint32_t)_mm256_movemask_ps(falling);
    up = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(low, above, _CMP_GE_OQ));
    down = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(high, below, _CMP_LT_OQ));
#else
    const float low = p->sums[k] - margin, high = p->sums[k] + margin;
    const uint32_t rises = high >= p->above[k], falls = low < p->below[k];
    up = low >= p->above[k], down = high < p->below[k];
#endif
    marked = (up ^ rises) | (down ^ falls);
    if (marked) NAME(decide_gates)(state, which, k, back, marked, &up, &down);
    *fallen = down;
    if (!(up | down)) return 0;
#if VECTOR == 512
    const __mmask16 ups = (__mmask16)up, downs = (__mmask16)down;
    const __m512i step = _mm512_set1_epi32(1), last = LOAD(p->index + k);
    const __m512i index = _mm512_mask_sub_epi32(_mm512_mask_add_epi32(last, ups, last, step), downs, last, step);
    const __m512 one = _mm512_set1_ps(1), level = _mm512_loadu_ps(p->level + k);
    STORE(p->index + k, index);
    _mm512_storeu_ps(p->level + k, _mm512_mask_sub_ps(_mm512_mask_add_ps(level, ups, level, one), downs, level, one));
    const __m512 next = NAME(entries)(table, small, _mm512_mask_add_epi32(index, ups, index, step));
    _mm512_storeu_ps(p->above + k, _mm512_mask_mov_ps(_mm512_mask_mov_ps(above, ups, next), downs, below));
    if (back) _mm512_storeu_ps(p->below + k, _mm512_mask_mov_ps(_mm512_mask_mov_ps(below, downs, next), ups, above));
#elif VECTOR == 256
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i ups = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)up), lanes), lanes);
    const __m256i downs = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)down), lanes), lanes);
    const __m256i change = _mm256_sub_epi32(downs, ups), index = _mm256_add_epi32(LOAD(p->index + k), change);
    STORE(p->index + k, index);
    _mm256_storeu_ps(p->level + k, _mm256_add_ps(_mm256_loadu_ps(p->level + k), _mm256_cvtepi32_ps(change)));
    const __m256 rose = _mm256_castsi256_ps(ups), fell = _mm256_castsi256_ps(downs);
    const __m256 next = NAME(entries)(table, small, _mm256_sub_epi32(index, ups));
    _mm256_storeu_ps(p->above + k, _mm256_blendv_ps(_mm256_blendv_ps(above, next, rose), below, fell));
    if (back) _mm256_storeu_ps(p->below + k, _mm256_blendv_ps(_mm256_blendv_ps(below, next, fell), above, rose));
#else
    (void)small;
    p->index[k] += (int32_t)up - (int32_t)down;
    p->level[k] += (float)up - (float)down;
    p->above[k] = table[p->index[k] + 1];
    if (back) p->below[k] = table[p->index[k]];
#endif
    return up;
}

/* One step: +1 where a sum reaches the threshold of the level above, -1 where it does not reach that of its own. Spikes are
   written to `out` and added to `events`, where these are given. Returns whether there are any. */
INLINE int NAME(fire_by_level)(const NAME(GatedState) *state, int which, const int small, int back, float margin,
                               int8_t *restrict out, NAME(Events) *events) {
    int64_t end = events ? events->ends[events->steps + 1] : 0;
    uint32_t any = 0;
    for (int64_t k = 0; k < state->task->width; k += FLOATS) {
        uint32_t down, up = NAME(spikes_of)(state, which, small, k, back, margin, &down), moved = up | down;
        any |= moved;
        if (!out && !events) continue;
        for (; moved; moved &= moved - 1) {
            const int place = __builtin_ctz(moved);
            const int32_t spike = (int32_t)(up >> place & 1) * 2 - 1;
            if (out) out[k + place] = (int8_t)spike;
            if (events) {
                events->unit[end] = (int32_t)(k + place);
                events->change[end++] = (int16_t)spike;
            }
        }
    }
    if (events) events->ends[events->steps + 1] = end;
    return any != 0;
}

/* How many thresholds a total reaches. */
INLINE int32_t NAME(level_at)(const NAME(Population) *p, double total) {
    int32_t reached = 0;
    while (total >= p->exact[reached + 1]) reached++;
    return reached;
}

/* The levels that all settle at, which are written to `out` and added to `events`, where these are given. */
INLINE void NAME(settle_by_level)(const NAME(GatedState) *state, int which, float margin, int16_t *restrict out,
                                  NAME(Events) *events) {
    enum { BLOCK = 8 };
    const NAME(Population) *p = state->populations + which;
    const int64_t n = state->task->hidden;
    const int32_t levels = (int32_t)(p->highest - p->lowest);
    int32_t widest = 1;
    while (2 * widest <= levels) widest *= 2;
    for (int64_t k = 0; k < n; k += BLOCK) {
        int32_t *restrict reached = p->index + k;
        for (int64_t i = 0; i < BLOCK; i++) reached[i] = 0;
        for (int32_t span = widest; span; span /= 2)
            for (int64_t i = 0; i < BLOCK; i++) { /* behind the last threshold there is infinity */
                const int32_t next = reached[i] + span < levels + 1 ? reached[i] + span : levels + 1;
                reached[i] = p->sums[k + i] >= p->table[next] ? next : reached[i];
            }
    }
    const double finer = NAME(finer_margin)(state, which);
    for (int64_t k = 0; margin > 0 && k < n; k++) {
        const float *near = p->table + p->index[k];
        if (p->sums[k] - near[0] > margin && near[1] - p->sums[k] > margin) continue;
        double total = NAME(total_of)(state, which, k, 0);
        p->index[k] = NAME(level_at)(p, total);
        const double *thresholds = p->exact + p->index[k];
        if (total - finer >= thresholds[0] && total + finer < thresholds[1]) continue;
        p->index[k] = NAME(level_at)(p, NAME(total_of)(state, which, k, 1));
    }
    int64_t end = events ? events->ends[events->steps + 1] : 0;
    for (int64_t k = 0; k < n; k++) {
        const int64_t level = p->lowest + p->index[k];
        p->level[k] = (float)level;
        if (out) out[k] = (int16_t)level;
        if (!events) continue;
        events->unit[end] = (int32_t)k;
        events->change[end] = (int16_t)level;
        end += level != 0;
    }
    if (events) events->ends[events->steps + 1] = end;
}

/* How far the sums of a population may be from the true ones: those of gates are rounded, products of levels are not. */
INLINE float NAME(margin_of)(const NAME(GatedState) *state, int which) {
    const GatedTask *task = state->task;
    if (which >= (task->lstm ? 4 : 3)) return 0;
    return (float)(NAME(spread)(task, which, task->error * state->norm + task->rounding) * (1 + 1e-6));
}

/* A population's step, or with `levels` all of its steps. */
INLINE int NAME(react)(const NAME(GatedState) *state, int which, int64_t at, NAME(Events) *events) {
    const GatedTask *task = state->task;
    const float margin = NAME(margin_of)(state, which);
    char *out = at < 0 ? NULL : (char *)task->out[which];
    if (!task->neurons.levels) {
        const int back = task->neurons.cif != 0;
        int8_t *spikes = out ? (int8_t *)out + at : NULL;
        return state->populations[which].small ? NAME(fire_by_level)(state, which, 1, back, margin, spikes, events)
                                               : NAME(fire_by_level)(state, which, 0, back, margin, spikes, events);
    }
    NAME(settle_by_level)(state, which, margin, out ? (int16_t *)out + at : NULL, events);
    return 1;
}

/* The step of a GRU, its currents received. Populations: reset and update gate, candidate, hidden state. `at`: where spikes
   are written; -1: nowhere. Returns whether there are any. */
INLINE int NAME(gru_step)(NAME(GatedState) *state, int64_t at) {
    const int64_t width = state->task->width;
    const float q = (float)state->task->q;
    const float *restrict kept = state->sums + 2 * width, *restrict input = kept + width, *restrict before = state->before;
    float *restrict candidates = state->products, *restrict states = candidates + width;
    int any = NAME(react)(state, 0, at, NULL) | NAME(react)(state, 1, at, NULL);
    const float *restrict reset = state->populations[0].level, *restrict update = state->populations[1].level;
    for (int64_t k = 0; k < width; k++) candidates[k] = q * input[k] + reset[k] * kept[k];
    any |= NAME(react)(state, 2, at, NULL);
    const float *restrict candidate = state->populations[2].level;
    for (int64_t k = 0; k < width; k++) states[k] = (q - update[k]) * candidate[k] + update[k] * before[k];
    return any | NAME(react)(state, 3, at, &state->hidden);
}

/* The step of an LSTM. Populations: input and forget gate, candidate, output gate, cell, hidden state. */
INLINE int NAME(lstm_step)(NAME(GatedState) *state, int64_t at) {
    const GatedTask *task = state->task;
    const int64_t width = task->width;
    const float *restrict before = state->before_cells, *restrict taken = state->populations[0].level;
    const float *restrict kept = state->populations[1].level, *restrict candidate = state->populations[2].level;
    const float *restrict shown = state->populations[3].level;
    float *restrict cells = state->products, *restrict states = cells + width, *restrict seen = state->seen;
    int any = 0;
    for (int which = 0; which < 4; which++) any |= NAME(react)(state, which, at, NULL);
    for (int64_t k = 0; k < width; k++) cells[k] = kept[k] * before[k] + taken[k] * candidate[k];
    const int64_t first = state->cells.ends[state->cells.steps + 1];
    any |= NAME(react)(state, 4, at, &state->cells);
    for (int64_t e = first; e < state->cells.ends[state->cells.steps + 1]; e++) {
        const int32_t k = state->cells.unit[e];
        seen[k] = task->seen[state->populations[4].index[k]];
    }
    for (int64_t k = 0; k < width; k++) states[k] = shown[k] * seen[k];
    return any | NAME(react)(state, 5, at, &state->hidden);
}

#if VECTOR
/* sums += the rows of `risen`, - the rows of `fallen`, of `words` vectors: in int16, which holds the sum of ROWS_OF_INT16. */
INLINE void NAME(signed_rows)(const int words, const int16_t *weight, int64_t stride, const int32_t *risen, int64_t rises,
                              const int32_t *fallen, int64_t falls, int32_t *sums) {
    while (rises + falls > 0) {
        WORD sum[MOST_WORDS];
        for (int w = 0; w < words; w++) sum[w] = ZERO();
        const int64_t ups = rises < ROWS_OF_INT16 ? rises : ROWS_OF_INT16;
        const int64_t room = ROWS_OF_INT16 - ups, downs = falls < room ? falls : room;
        for (int64_t i = 0; i < ups; i++) {
            const int16_t *row = weight + risen[i] * stride;
            for (int w = 0; w < words; w++) sum[w] = ADD16(sum[w], LOAD(row + WORD_LANES * w));
        }
        for (int64_t i = 0; i < downs; i++) {
            const int16_t *row = weight + fallen[i] * stride;
            for (int w = 0; w < words; w++) sum[w] = SUB16(sum[w], LOAD(row + WORD_LANES * w));
        }
        for (int w = 0; w < words; w++)
            for (int half = 0; half < 2; half++) {
                int32_t *to = sums + WORD_LANES * w + WORD_LANES / 2 * half;
                STORE(to, ADD32(LOAD(to), half ? WIDER(sum[w], 1) : WIDER(sum[w], 0)));
            }
        risen += ups, rises -= ups, fallen += downs, falls -= downs;
    }
}
#endif

/* Adds what the units of the hidden state bring that spike +1, and -1. */
INLINE void NAME(add_signed)(NAME(GatedState) *state, int64_t rises, int64_t falls) {
    const Weights *weights = &state->task->weights;
    const int16_t *rows = (const int16_t *)weights->values;
    int32_t *to = state->recurrent;
#if VECTOR
    int64_t words = (weights->outputs + WORD_LANES - 1) / WORD_LANES;
#define SIGNED(words) NAME(signed_rows)(words, rows, weights->stride, state->risen, rises, state->fallen, falls, to)
    for (; words >= MOST_WORDS; words -= MOST_WORDS, rows += MOST_WORDS * WORD_LANES, to += MOST_WORDS * WORD_LANES)
        SIGNED(MOST_WORDS);
    for (; words >= 2; words -= 2, rows += 2 * WORD_LANES, to += 2 * WORD_LANES) SIGNED(2);
    if (words) SIGNED(1);
#undef SIGNED
#else
    for (int64_t i = 0; i < rises + falls; i++) {
        const int32_t sign = i < rises ? 1 : -1, unit = i < rises ? state->risen[i] : state->fallen[i - rises];
        for (int64_t k = 0; k < weights->outputs; k++) to[k] += sign * rows[unit * weights->stride + k];
    }
#endif
}

/* Adds what a step's spikes of the states before bring. Returns whether they bring anything. */
INLINE int NAME(receive)(NAME(GatedState) *state, int64_t step) {
    const Weights *weights = &state->task->weights;
    const NAME(Events) *events = &state->hidden_before;
    const int64_t first = events->ends[step], end = events->ends[step + 1];
    int64_t rises = 0, falls = 0, norm = 0;
    for (int64_t e = first; e < end; e++) {
        const int32_t unit = events->unit[e], change = events->change[e];
        const int32_t last = state->counts[unit], level = last + change;
        state->counts[unit] = (int16_t)level;
        state->before[unit] = (float)level;
        norm += (level < 0 ? -level : level) - (last < 0 ? -last : last);
        state->risen[rises] = state->fallen[falls] = unit;
        rises += change == 1, falls += change == -1;
    }
    state->norm += (double)norm;
    if (rises + falls == end - first) {
        NAME(add_signed)(state, rises, falls);
    } else { /* levels, of a start or of the reference */
        const RowList list = {end - first, events->unit + first, events->change + first};
        const int32_t unit = events->unit[end];
        const int16_t change = events->change[end];
        events->unit[end] = 0, events->change[end] = 0; /* rows are taken in pairs */
        NAME(accumulate_some)(weights->values, weights->kind, weights->stride, weights->outputs, &list, state->recurrent,
                              state->recurrent);
        events->unit[end] = unit, events->change[end] = change;
    }
    if (state->task->lstm) {
        events = &state->cells_before;
        for (int64_t i = events->ends[step]; i < events->ends[step + 1]; i++)
            state->before_cells[events->unit[i]] += events->change[i];
    }
    return end > first;
}

/* The drive of a position (NULL: there is none), and what flows beside it, in float32. */
INLINE void NAME(round_drive)(NAME(GatedState) *state, const double *drive) {
    const GatedTask *task = state->task;
    const int64_t n = task->hidden, width = task->width, gates = task->lstm ? 4 : 3;
    state->drive = drive;
    for (int64_t gate = 0; drive && gate < gates; gate++) {
        float *restrict own = state->rounded_drive + (gate == 2 && !task->lstm ? 3 : gate) * width;
        for (int64_t k = 0; k < n; k++) own[k] = (float)drive[gate * n + k];
    }
    for (int64_t k = 0; task->bias && k < n; k++) state->rounded_drive[2 * width + k] = (float)task->bias[k];
}

/* Adds what a step brings of the input. Returns whether it brings anything. */
INLINE int NAME(receive_input)(NAME(GatedState) *state, int64_t step, const double *train) {
    const GatedTask *task = state->task;
    const Neurons *neurons = &task->neurons;
    const int64_t n = task->hidden, width = task->width, gates = task->lstm ? 4 : 3, rows = 4 * width;
    const int flows = awake_at(neurons, step) && (state->drive || task->bias), arrives = step < task->arriving;
    if (!flows && !arrives) return 0;
    if (flows) state->flows += neurons->levels ? (double)neurons->total : 1;
    for (int64_t gate = 0; arrives && gate < gates; gate++) { /* the input of a GRU's candidate is kept apart */
        double *restrict own = state->arrived + (gate == 2 && !task->lstm ? 3 : gate) * width;
        for (int64_t k = 0; k < n; k++) own[k] += train[step * task->train_step + gate * n + k];
    }
    const float times = (float)state->flows;
    for (int64_t k = 0; k < rows; k++) state->input_sums[k] = times * state->rounded_drive[k];
    for (int64_t k = 0; task->arriving && k < rows; k++) state->input_sums[k] += (float)state->arrived[k];
    return 1;
}

/* The levels that a text begins with, as spikes of one step; NULL: none. */
INLINE void NAME(begun)(NAME(Events) *events, const int16_t *levels, int64_t n) {
    int64_t end = 0;
    for (int64_t k = 0; levels && k < n; k++) {
        events->unit[end] = (int32_t)k;
        events->change[end] = levels[k];
        end += levels[k] != 0;
    }
    events->ends[1] = end;
    events->steps = end > 0;
}

/* The texts first..last-1. Returns the steps needed, one more than the capacity if that was too small. */
static int64_t NAME(gated)(const GatedTask *task, int64_t first, int64_t last) {
    const int64_t n = task->hidden, width = task->width, gates = task->lstm ? 4 : 3, populations = task->lstm ? 6 : 4;
    const int64_t capacity = task->capacity, rows = 4 * width, recurrent = gates * width, stride = task->weights.stride;
    const Neurons *neurons = &task->neurons;
    const int back = neurons->cif != 0;
    const int64_t floats = 3 * rows + (2 + 3 + 3 * populations) * width + populations * SMALL_TABLE;
    const int64_t spikes = (capacity + 2) * n + 1, ends = capacity + 4, reads = task->left_out.reads;
    const int64_t ints = stride + populations * width + 4 * spikes + 2 * (n + 1), shorts = 4 * spikes + reads;
    char *memory = (char *)calloc(1, (size_t)(rows * 8 + 4 * ends * 8 + (floats + ints) * 4 + shorts * 2 + 64));
    if (!memory) return NO_MEMORY;
    char *from = memory;
#define TAKE(type, count) ((type *)(from += (count) * (int64_t)sizeof(type)) - (count))
    NAME(GatedState) state = {.task = task};
    state.arrived = TAKE(double, rows);
    NAME(Events) *events[4] = {&state.hidden, &state.cells, &state.hidden_before, &state.cells_before};
    for (int i = 0; i < 4; i++) events[i]->ends = TAKE(int64_t, ends);
    state.input_sums = TAKE(float, rows), state.sums = TAKE(float, rows), state.rounded_drive = TAKE(float, rows);
    state.products = TAKE(float, 2 * width);
    state.before = TAKE(float, width), state.before_cells = TAKE(float, width), state.seen = TAKE(float, width);
    state.recurrent = TAKE(int32_t, stride);
    const float *sums[6] = {state.sums, state.sums + width, state.products, state.products + width};
    if (task->lstm)
        for (int p = 0; p < 6; p++) sums[p] = p < 4 ? state.sums + p * width : state.products + (p - 4) * width;
    for (int64_t p = 0; p < populations; p++) {
        const int is_state = p == populations - 1, is_cell = p == 4, is_candidate = p == 2;
        const GatedTable *table = is_state ? &task->state : is_cell ? &task->cell : is_candidate ? &task->tanh : &task->sigmoid;
        const int64_t highest = is_cell && !is_state ? task->cells : task->q;
        const int64_t lowest = is_state || is_candidate || is_cell ? -highest : 0, entries = highest - lowest + 2;
        float *small = TAKE(float, SMALL_TABLE);
        for (int64_t i = 0; i < SMALL_TABLE && entries <= SMALL_TABLE; i++)
            small[i] = table->rounded[i < entries ? i : entries - 1]; /* behind the last there is infinity */
        state.populations[p] = (NAME(Population)){
            table->exact, entries <= SMALL_TABLE ? small : table->rounded, sums[p], entries <= SMALL_TABLE, lowest, highest,
            TAKE(float, width), TAKE(float, width), TAKE(float, width), TAKE(int32_t, width)};
    }
    for (int i = 0; i < 4; i++) events[i]->unit = TAKE(int32_t, spikes);
    state.risen = TAKE(int32_t, n + 1), state.fallen = TAKE(int32_t, n + 1);
    for (int i = 0; i < 4; i++) events[i]->change = TAKE(int16_t, spikes);
    state.counts = TAKE(int16_t, reads);
#undef TAKE
    int64_t needed = 0;
    for (int64_t sample = first; sample < last && needed <= capacity; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        NAME(begun)(&state.hidden_before, task->start ? task->start + sample * n : NULL, n);
        NAME(begun)(&state.cells_before, task->start_cells ? task->start_cells + sample * n : NULL, n);
        for (int64_t i = 0; i < length && needed <= capacity; i++) {
            const int64_t position = task->reverse ? length - 1 - i : i;
            const double *drive = NULL;
            if (task->drive)
                drive = task->drive + (task->index
                                           ? task->index[sample * task->drive_sample + position * task->drive_position] *
                                                 task->drive_row
                                           : sample * task->drive_sample + position * task->drive_position);
            const double *train = task->train + sample * task->train_sample + position * task->train_position;
            const int64_t out = sample * task->out_sample + position * task->out_position;
            if (task->arriving) memset(state.arrived, 0, (size_t)rows * sizeof *state.arrived);
            memset(state.input_sums, 0, (size_t)(2 * rows) * sizeof(float)); /* and all sums */
            memset(state.recurrent, 0, (size_t)stride * sizeof *state.recurrent);
            memset(state.before, 0, (size_t)(3 * width) * sizeof(float)); /* and the cells, and what is seen of one of 0 */
            memset(state.counts, 0, (size_t)reads * sizeof *state.counts);
            state.norm = state.flows = 0;
            NAME(round_drive)(&state, drive);
            for (int64_t p = 0; p < populations; p++) NAME(rest)(state.populations + p, n, width, back);
            int64_t arriving = state.hidden_before.steps;
            arriving = state.cells_before.steps > arriving ? state.cells_before.steps : arriving;
            int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;
            ended = arriving > ended ? arriving : ended;
            int64_t passed = 0;
            state.hidden.ends[0] = state.cells.ends[0] = 0;
            for (int64_t step = 0; step <= capacity && step < neurons->most_steps; step++) {
                int changed = step < arriving && NAME(receive)(&state, step);
                changed |= NAME(receive_input)(&state, step, train);
                if (changed) {
                    const float unit = (float)task->unit;
                    for (int64_t k = 0; k < recurrent; k++)
                        state.sums[k] = state.input_sums[k] + unit * (float)state.recurrent[k];
                    memcpy(state.sums + recurrent, state.input_sums + recurrent, (size_t)(rows - recurrent) * sizeof(float));
                }
                state.hidden.steps = state.cells.steps = step;
                state.hidden.ends[step + 1] = state.hidden.ends[step];
                state.cells.ends[step + 1] = state.cells.ends[step];
                const int64_t at = step < capacity ? out + step * task->out_step : -1;
                const int any = task->lstm ? NAME(lstm_step)(&state, at) : NAME(gru_step)(&state, at);
                if (state.hidden.ends[step + 1] > state.hidden.ends[step] || state.cells.ends[step + 1] > state.cells.ends[step])
                    passed = step + 1;
                if (any) {
                    needed = step + 1 > needed ? step + 1 : needed;
                } else if (step >= ended) {
                    break;
                }
            }
            state.hidden.steps = state.cells.steps = passed;
            const NAME(Events) hidden = state.hidden_before, cells = state.cells_before;
            state.hidden_before = state.hidden, state.cells_before = state.cells;
            state.hidden = hidden, state.cells = cells;
        }
    }
    free(memory);
    return needed;
}
