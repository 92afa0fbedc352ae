/* A gated recurrence, GRU or LSTM: text after text, token after token, all steps of each.

   What the hidden state brings is summed in int32, of weights rounded to int16; what the input brings, in float64, which the
   caller has proven to hold every sum exactly. Gates are fired by float32 sums of the two, which are within a margin of the true
   ones; a neuron nearer than that to a decision is decided by the true sum, of the weights as they are. Levels and products of
   two of them are whole numbers that float32 holds.

   Arrays are `width` long, a multiple of 16: the neurons of one gate, and what is padded, which stays silent. */

/* Neurons with a threshold for each level. `exact` has -infinity, the thresholds, and infinity, `table` the same in float32;
   `index` counts those that are reached, `above` and `below` are the next one and the last. */
typedef struct {
    const double *exact;
    const float *table, *sums;
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
    double *base;                        /* [rows]: what has arrived from the input; of a GRU, that of its candidate is last,
                                            behind what its reset gate multiplies */
    float *base_sums, *sums;             /* the same in float32, and with what the hidden state brings */
    int32_t *recurrent;                  /* what that is, in units of the rounded weights */
    double norm;                         /* the sum of the magnitudes of the hidden state's levels before */
    float *products;                     /* [width] of each population that receives products */
    float *before, *before_cells, *seen; /* levels of the states before; what the output gate multiplies */
    NAME(Population) populations[6];
    NAME(Events) hidden, cells, hidden_before, cells_before;
} NAME(GatedState);

/* What gate `gate` of neuron `k` has received of the hidden state, truly. */
static double NAME(true_product)(const NAME(GatedState) *state, int64_t gate, int64_t k) {
    enum { LANES = 8 };
    const GatedTask *task = state->task;
    const double *row = task->exact + (gate * task->hidden + k) * task->width;
    double sums[LANES] = {0}, sum = 0;
    for (int64_t j = 0; j < task->width; j += LANES)
        for (int64_t i = 0; i < LANES; i++) sums[i] += row[j + i] * (double)state->before[j + i];
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* What neuron `k` of a gate's population has received, truly. */
static double NAME(true_total)(const NAME(GatedState) *state, int which, int64_t k) {
    const GatedTask *task = state->task;
    const double received = state->base[which * task->width + k] + NAME(true_product)(state, which, k);
    if (which != 2 || task->lstm) return received;
    return (double)task->q * state->base[3 * task->width + k] + (double)state->populations[0].level[k] * received;
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
    for (; marked; marked &= marked - 1) {
        const int place = __builtin_ctz(marked);
        const double total = NAME(true_total)(state, which, k + place);
        const double *thresholds = p->exact + p->index[k + place];
        *up = (*up & ~(1u << place)) | (uint32_t)(total >= thresholds[1]) << place;
        *down = (*down & ~(1u << place)) | (uint32_t)(back && total < thresholds[0]) << place;
    }
}

/* What the neurons of one vector, from `k` on, do: bits of those that spike +1, and -1. Their levels follow, and their
   thresholds: the next one above is read from the table, that below is the one that was reached. */
INLINE uint32_t NAME(spikes_of)(const NAME(GatedState) *state, int which, int64_t k, int back, float margin, uint32_t *fallen) {
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
    const __mmask16 ups = (__mmask16)up, downs = (__mmask16)down, moved = ups | downs;
    const __m512i step = _mm512_set1_epi32(1), last = LOAD(p->index + k);
    const __m512i index = _mm512_mask_sub_epi32(_mm512_mask_add_epi32(last, ups, last, step), downs, last, step);
    const __m512 one = _mm512_set1_ps(1), level = _mm512_loadu_ps(p->level + k);
    STORE(p->index + k, index);
    _mm512_storeu_ps(p->level + k, _mm512_mask_sub_ps(_mm512_mask_add_ps(level, ups, level, one), downs, level, one));
    const __m512 next = _mm512_mask_i32gather_ps(above, moved, _mm512_mask_add_epi32(index, ups, index, step), table, 4);
    _mm512_storeu_ps(p->above + k, _mm512_mask_mov_ps(next, downs, below));
    if (back) _mm512_storeu_ps(p->below + k, _mm512_mask_mov_ps(_mm512_mask_mov_ps(below, downs, next), ups, above));
#elif VECTOR == 256
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i ups = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)up), lanes), lanes);
    const __m256i downs = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)down), lanes), lanes);
    const __m256i change = _mm256_sub_epi32(downs, ups), index = _mm256_add_epi32(LOAD(p->index + k), change);
    STORE(p->index + k, index);
    _mm256_storeu_ps(p->level + k, _mm256_add_ps(_mm256_loadu_ps(p->level + k), _mm256_cvtepi32_ps(change)));
    const __m256 rose = _mm256_castsi256_ps(ups), fell = _mm256_castsi256_ps(downs);
    const __m256 next = _mm256_mask_i32gather_ps(above, table, _mm256_sub_epi32(index, ups), _mm256_or_ps(rose, fell), 4);
    _mm256_storeu_ps(p->above + k, _mm256_blendv_ps(next, below, fell));
    if (back) _mm256_storeu_ps(p->below + k, _mm256_blendv_ps(_mm256_blendv_ps(below, next, fell), above, rose));
#else
    p->index[k] += (int32_t)up - (int32_t)down;
    p->level[k] += (float)up - (float)down;
    p->above[k] = table[p->index[k] + 1];
    if (back) p->below[k] = table[p->index[k]];
#endif
    return up;
}

/* One step: +1 where a sum reaches the threshold of the level above, -1 where it does not reach that of its own. Spikes are
   written to `out` and added to `events`, where these are given. Returns whether there are any. */
INLINE int NAME(fire_by_level)(const NAME(GatedState) *state, int which, int back, float margin, int8_t *restrict out,
                               NAME(Events) *events) {
    int64_t end = events ? events->ends[events->steps + 1] : 0;
    uint32_t any = 0;
    for (int64_t k = 0; k < state->task->width; k += FLOATS) {
        uint32_t down, up = NAME(spikes_of)(state, which, k, back, margin, &down), moved = up | down;
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
    for (int64_t k = 0; margin > 0 && k < n; k++) {
        const float *thresholds = p->table + p->index[k];
        if (p->sums[k] - thresholds[0] > margin && thresholds[1] - p->sums[k] > margin) continue;
        const double total = NAME(true_total)(state, which, k);
        p->index[k] = 0;
        while (total >= p->exact[p->index[k] + 1]) p->index[k]++;
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
    const double margin = task->error * state->norm + task->rounding;
    return (float)((which == 2 && !task->lstm ? (double)task->q * margin : margin) * (1 + 1e-6));
}

/* A population's step, or with `levels` all of its steps. */
INLINE int NAME(react)(const NAME(GatedState) *state, int which, int64_t at, NAME(Events) *events) {
    const GatedTask *task = state->task;
    const float margin = NAME(margin_of)(state, which);
    char *out = at < 0 ? NULL : (char *)task->out[which];
    if (!task->neurons.levels)
        return NAME(fire_by_level)(state, which, task->neurons.cif != 0, margin, out ? (int8_t *)out + at : NULL, events);
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

/* Adds what a step's spikes of the states before bring. Returns whether they bring anything. */
INLINE int NAME(receive)(NAME(GatedState) *state, int64_t step) {
    const Weights *weights = &state->task->weights;
    const NAME(Events) *events = &state->hidden_before;
    const int64_t first = events->ends[step], end = events->ends[step + 1];
    for (int64_t e = first; e < end; e++) {
        float *level = state->before + events->unit[e];
        const float last = *level;
        *level += events->change[e];
        state->norm += fabs((double)*level) - fabs((double)last);
    }
    if (end > first) {
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

/* Adds what a step brings of the input. Returns whether it brings anything. */
INLINE int NAME(receive_input)(NAME(GatedState) *state, int64_t step, const double *drive, const double *train) {
    const GatedTask *task = state->task;
    const Neurons *neurons = &task->neurons;
    const int64_t n = task->hidden, width = task->width, gates = task->lstm ? 4 : 3;
    const int flows = awake_at(neurons, step), arrives = step < task->arriving;
    const double times = neurons->levels ? (double)neurons->total : 1;
    if (flows && task->bias)
        for (int64_t k = 0; k < n; k++) state->base[2 * width + k] += times * task->bias[k];
    for (int64_t gate = 0; gate < gates; gate++) { /* the input of a GRU's candidate is kept apart */
        double *restrict own = state->base + (gate == 2 && !task->lstm ? 3 : gate) * width;
        if (flows && drive)
            for (int64_t k = 0; k < n; k++) own[k] += times * drive[gate * n + k];
        if (arrives)
            for (int64_t k = 0; k < n; k++) own[k] += train[step * task->train_step + gate * n + k];
    }
    return arrives || (flows && (drive || task->bias));
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
    const int64_t floats = 2 * rows + (2 + 3 + 3 * populations) * width, spikes = (capacity + 2) * n + 1;
    const int64_t ends = capacity + 4, ints = stride + populations * width + 4 * spikes;
    char *memory = (char *)calloc(1, (size_t)(rows * 8 + 4 * ends * 8 + (floats + ints) * 4 + 4 * spikes * 2 + 64));
    if (!memory) return NO_MEMORY;
    char *from = memory;
#define TAKE(type, count) ((type *)(from += (count) * (int64_t)sizeof(type)) - (count))
    NAME(GatedState) state = {.task = task};
    state.base = TAKE(double, rows);
    NAME(Events) *events[4] = {&state.hidden, &state.cells, &state.hidden_before, &state.cells_before};
    for (int i = 0; i < 4; i++) events[i]->ends = TAKE(int64_t, ends);
    state.base_sums = TAKE(float, rows), state.sums = TAKE(float, rows), state.products = TAKE(float, 2 * width);
    state.before = TAKE(float, width), state.before_cells = TAKE(float, width), state.seen = TAKE(float, width);
    state.recurrent = TAKE(int32_t, stride);
    const float *sums[6] = {state.sums, state.sums + width, state.products, state.products + width};
    if (task->lstm)
        for (int p = 0; p < 6; p++) sums[p] = p < 4 ? state.sums + p * width : state.products + (p - 4) * width;
    for (int64_t p = 0; p < populations; p++) {
        const int is_state = p == populations - 1, is_cell = p == 4, is_candidate = p == 2;
        const GatedTable *table = is_state ? &task->state : is_cell ? &task->cell : is_candidate ? &task->tanh : &task->sigmoid;
        const int64_t highest = is_cell && !is_state ? task->cells : task->q;
        state.populations[p] = (NAME(Population)){
            table->exact, table->rounded, sums[p], is_state || is_candidate || is_cell ? -highest : 0, highest,
            TAKE(float, width), TAKE(float, width), TAKE(float, width), TAKE(int32_t, width)};
    }
    for (int i = 0; i < 4; i++) events[i]->unit = TAKE(int32_t, spikes);
    for (int i = 0; i < 4; i++) events[i]->change = TAKE(int16_t, spikes);
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
            memset(state.base, 0, (size_t)rows * sizeof *state.base);
            memset(state.base_sums, 0, (size_t)(2 * rows) * sizeof(float));
            memset(state.recurrent, 0, (size_t)stride * sizeof *state.recurrent);
            memset(state.before, 0, (size_t)(3 * width) * sizeof(float)); /* and the cells, and what is seen of one of 0 */
            state.norm = 0;
            for (int64_t p = 0; p < populations; p++) NAME(rest)(state.populations + p, n, width, back);
            int64_t arriving = state.hidden_before.steps;
            arriving = state.cells_before.steps > arriving ? state.cells_before.steps : arriving;
            int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;
            ended = arriving > ended ? arriving : ended;
            int64_t passed = 0;
            state.hidden.ends[0] = state.cells.ends[0] = 0;
            for (int64_t step = 0; step <= capacity && step < neurons->most_steps; step++) {
                int changed = step < arriving && NAME(receive)(&state, step);
                if (NAME(receive_input)(&state, step, drive, train)) {
                    for (int64_t k = 0; k < rows; k++) state.base_sums[k] = (float)state.base[k];
                    changed = 1;
                }
                if (changed) {
                    const float unit = (float)task->unit;
                    for (int64_t k = 0; k < recurrent; k++)
                        state.sums[k] = state.base_sums[k] + unit * (float)state.recurrent[k];
                    memcpy(state.sums + recurrent, state.base_sums + recurrent, (size_t)(rows - recurrent) * sizeof(float));
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
