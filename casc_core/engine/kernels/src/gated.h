/* A gated recurrence, GRU or LSTM: text after text, token after token, all steps of each. Currents are float64, which the
   caller has proven to hold every sum exactly; so are levels, whose products are whole numbers.

   Arrays are `width` long, a multiple of 8: the neurons of one gate, and what is padded, which stays silent. */

/* Neurons with a threshold for each level. `table` has -infinity, the thresholds, and infinity; `index` counts those that are
   reached, `above` and `below` are the next one and the last. */
typedef struct {
    const double *table, *sums;
    int64_t lowest, highest;
    double *level, *above, *below;
    int32_t *index;
} NAME(Population);

/* The spikes of a state, or its levels, step by step: those of a step end at `ends` of the next. */
typedef struct {
    int64_t steps, *ends;
    int32_t *unit;
    int16_t *change;
} NAME(Events);

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

/* What the neurons of one vector, from `k` on, do: bits of those that spike +1, and -1. Their levels follow, and their
   thresholds: the next one above is read from the table, that below is the one that was reached. */
INLINE uint32_t NAME(spikes_of)(const NAME(Population) *p, int64_t k, int back, uint32_t *fallen) {
    const double *table = p->table;
#if VECTOR == 512
    const __m512d sums = _mm512_loadu_pd(p->sums + k), above = _mm512_loadu_pd(p->above + k), below = _mm512_loadu_pd(p->below + k);
    const __mmask8 up = _mm512_cmp_pd_mask(sums, above, _CMP_GE_OQ), down = _mm512_cmp_pd_mask(sums, below, _CMP_LT_OQ);
    const __mmask8 moved = up | down;
    *fallen = down;
    if (!moved) return 0;
    const __m512d one = _mm512_set1_pd(1), level = _mm512_loadu_pd(p->level + k);
    const __m256i step = _mm256_set1_epi32(1), last = _mm256_loadu_si256((const __m256i *)(p->index + k));
    const __m256i index = _mm256_mask_sub_epi32(_mm256_mask_add_epi32(last, up, last, step), down, last, step);
    _mm256_storeu_si256((__m256i *)(p->index + k), index);
    _mm512_storeu_pd(p->level + k, _mm512_mask_sub_pd(_mm512_mask_add_pd(level, up, level, one), down, level, one));
    const __m512d next = _mm512_mask_i32gather_pd(above, moved, _mm256_mask_add_epi32(index, up, index, step), table, 8);
    _mm512_storeu_pd(p->above + k, _mm512_mask_mov_pd(next, down, below));
    if (back) _mm512_storeu_pd(p->below + k, _mm512_mask_mov_pd(_mm512_mask_mov_pd(below, down, next), up, above));
    return up;
#elif VECTOR == 256
    const __m256d sums = _mm256_loadu_pd(p->sums + k), above = _mm256_loadu_pd(p->above + k), below = _mm256_loadu_pd(p->below + k);
    const __m256d up = _mm256_cmp_pd(sums, above, _CMP_GE_OQ), down = _mm256_cmp_pd(sums, below, _CMP_LT_OQ);
    const __m256d moved = _mm256_or_pd(up, down);
    *fallen = (uint32_t)_mm256_movemask_pd(down);
    if (!_mm256_movemask_pd(moved)) return 0;
    const __m256d one = _mm256_set1_pd(1), change = _mm256_sub_pd(_mm256_and_pd(up, one), _mm256_and_pd(down, one));
    const __m128i index = _mm_add_epi32(_mm_loadu_si128((const __m128i *)(p->index + k)), _mm256_cvtpd_epi32(change));
    _mm_storeu_si128((__m128i *)(p->index + k), index);
    _mm256_storeu_pd(p->level + k, _mm256_add_pd(_mm256_loadu_pd(p->level + k), change));
    const __m128i place = _mm_add_epi32(index, _mm256_cvtpd_epi32(_mm256_and_pd(up, one)));
    const __m256d next = _mm256_mask_i32gather_pd(above, table, place, moved, 8);
    _mm256_storeu_pd(p->above + k, _mm256_blendv_pd(next, below, down));
    if (back) _mm256_storeu_pd(p->below + k, _mm256_blendv_pd(_mm256_blendv_pd(below, next, down), above, up));
    return (uint32_t)_mm256_movemask_pd(up);
#else
    const uint32_t up = p->sums[k] >= p->above[k], down = p->sums[k] < p->below[k];
    *fallen = down;
    if (!(up | down)) return 0;
    p->index[k] += (int32_t)up - (int32_t)down;
    p->level[k] += (double)up - (double)down;
    p->above[k] = table[p->index[k] + 1];
    if (back) p->below[k] = table[p->index[k]];
    return up;
#endif
}

/* One step: +1 where a sum reaches the threshold of the level above, -1 where it does not reach that of its own. Spikes are
   written to `out` and added to `events`, where these are given. Returns whether there are any. */
INLINE int NAME(fire_by_level)(const NAME(Population) *p, int64_t width, int back, int8_t *restrict out,
                               NAME(Events) *events) {
    int64_t end = events ? events->ends[events->steps + 1] : 0;
    uint32_t any = 0;
    for (int64_t k = 0; k < width; k += DOUBLES) {
        uint32_t down, up = NAME(spikes_of)(p, k, back, &down), moved = up | down;
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
INLINE void NAME(settle_by_level)(const NAME(Population) *p, int64_t n, int16_t *restrict out, NAME(Events) *events) {
    enum { BLOCK = 8 };
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
    int64_t end = events ? events->ends[events->steps + 1] : 0;
    for (int64_t k = 0; k < n; k++) {
        const int64_t level = p->lowest + p->index[k];
        p->level[k] = (double)level;
        if (out) out[k] = (int16_t)level;
        if (!events) continue;
        events->unit[end] = (int32_t)k;
        events->change[end] = (int16_t)level;
        end += level != 0;
    }
    if (events) events->ends[events->steps + 1] = end;
}

/* What one thread works with, for one text. */
typedef struct {
    const GatedTask *task;
    double *sums;                         /* [rows * width]; of a GRU, behind what its reset gate multiplies, its input */
    double *products;                     /* [width] of each population that receives products */
    double *before, *before_cells, *seen; /* levels of the states before; what the output gate multiplies */
    NAME(Population) populations[6];
    NAME(Events) hidden, cells, hidden_before, cells_before;
} NAME(GatedState);

/* A population's step, or with `levels` all of its steps. */
INLINE int NAME(react)(const NAME(GatedState) *state, int which, int64_t at, NAME(Events) *events) {
    const GatedTask *task = state->task;
    const NAME(Population) *p = state->populations + which;
    char *out = at < 0 ? NULL : (char *)task->out[which];
    if (!task->neurons.levels)
        return NAME(fire_by_level)(p, task->width, task->neurons.cif != 0, out ? (int8_t *)out + at : NULL, events);
    NAME(settle_by_level)(p, task->hidden, out ? (int16_t *)out + at : NULL, events);
    return 1;
}

/* The step of a GRU, its currents received. Populations: reset and update gate, candidate, hidden state. `at`: where spikes
   are written; -1: nowhere. Returns whether there are any. */
INLINE int NAME(gru_step)(NAME(GatedState) *state, int64_t at) {
    const int64_t width = state->task->width;
    const double q = (double)state->task->q;
    const double *restrict kept = state->sums + 2 * width, *restrict input = kept + width, *restrict before = state->before;
    double *restrict candidates = state->products, *restrict states = candidates + width;
    int any = NAME(react)(state, 0, at, NULL) | NAME(react)(state, 1, at, NULL);
    const double *restrict reset = state->populations[0].level, *restrict update = state->populations[1].level;
    for (int64_t k = 0; k < width; k++) candidates[k] = q * input[k] + reset[k] * kept[k];
    any |= NAME(react)(state, 2, at, NULL);
    const double *restrict candidate = state->populations[2].level;
    for (int64_t k = 0; k < width; k++) states[k] = (q - update[k]) * candidate[k] + update[k] * before[k];
    return any | NAME(react)(state, 3, at, &state->hidden);
}

/* The step of an LSTM. Populations: input and forget gate, candidate, output gate, cell, hidden state. */
INLINE int NAME(lstm_step)(NAME(GatedState) *state, int64_t at) {
    const GatedTask *task = state->task;
    const int64_t width = task->width;
    const double *restrict before = state->before_cells, *restrict taken = state->populations[0].level;
    const double *restrict kept = state->populations[1].level, *restrict candidate = state->populations[2].level;
    const double *restrict shown = state->populations[3].level;
    double *restrict cells = state->products, *restrict states = cells + width, *restrict seen = state->seen;
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

/* sums += what a step's spikes of the state before bring, and the levels of that state. */
INLINE void NAME(receive)(const NAME(GatedState) *state, int64_t step, int64_t rows) {
    const GatedTask *task = state->task;
    const NAME(Events) *events = &state->hidden_before;
    double *restrict sums = state->sums;
    int64_t e = events->ends[step];
    const int64_t end = events->ends[step + 1];
    for (int64_t i = e; i < end; i++) state->before[events->unit[i]] += events->change[i];
    for (; e + 4 <= end; e += 4) {
        const double *restrict a = task->weights + events->unit[e] * rows, *restrict b = task->weights + events->unit[e + 1] * rows;
        const double *restrict c = task->weights + events->unit[e + 2] * rows, *restrict d = task->weights + events->unit[e + 3] * rows;
        const double x = events->change[e], y = events->change[e + 1], z = events->change[e + 2], w = events->change[e + 3];
        for (int64_t k = 0; k < rows; k++) sums[k] += (x * a[k] + y * b[k]) + (z * c[k] + w * d[k]);
    }
    for (; e < end; e++) {
        const double *restrict a = task->weights + events->unit[e] * rows, x = events->change[e];
        for (int64_t k = 0; k < rows; k++) sums[k] += x * a[k];
    }
    if (!task->lstm) return;
    events = &state->cells_before;
    for (int64_t i = events->ends[step]; i < events->ends[step + 1]; i++)
        state->before_cells[events->unit[i]] += events->change[i];
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
    const int64_t capacity = task->capacity, blocks = task->lstm ? gates : gates + 1, rows = gates * width;
    const Neurons *neurons = &task->neurons;
    const int back = neurons->cif != 0;
    const int64_t doubles = (blocks + 2 + 3 + 3 * populations) * width, spikes = (capacity + 2) * n;
    const int64_t ends = capacity + 4, ints = populations * width + 4 * spikes;
    char *memory = (char *)calloc(1, (size_t)(doubles * 8 + 4 * ends * 8 + ints * 4 + 4 * spikes * 2 + 64));
    if (!memory) return NO_MEMORY;
    char *from = memory;
#define TAKE(type, count) ((type *)(from += (count) * (int64_t)sizeof(type)) - (count))
    NAME(GatedState) state = {.task = task};
    state.sums = TAKE(double, blocks * width), state.products = TAKE(double, 2 * width);
    state.before = TAKE(double, width), state.before_cells = TAKE(double, width), state.seen = TAKE(double, width);
    const double *sums[6] = {state.sums, state.sums + width, state.products, state.products + width};
    if (task->lstm)
        for (int p = 0; p < 6; p++) sums[p] = p < 4 ? state.sums + p * width : state.products + (p - 4) * width;
    for (int64_t p = 0; p < populations; p++) {
        const int is_state = p == populations - 1, is_cell = p == 4, is_candidate = p == 2;
        const double *table = is_state ? task->state : is_cell ? task->cell : is_candidate ? task->tanh : task->sigmoid;
        const int64_t highest = is_cell && !is_state ? task->cells : task->q;
        state.populations[p] = (NAME(Population)){table, sums[p], is_state || is_candidate || is_cell ? -highest : 0, highest,
                                                  TAKE(double, width), TAKE(double, width), TAKE(double, width), NULL};
    }
    NAME(Events) *events[4] = {&state.hidden, &state.cells, &state.hidden_before, &state.cells_before};
    for (int i = 0; i < 4; i++) events[i]->ends = TAKE(int64_t, ends);
    for (int i = 0; i < 4; i++) events[i]->unit = TAKE(int32_t, spikes);
    for (int64_t p = 0; p < populations; p++) state.populations[p].index = TAKE(int32_t, width);
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
            memset(state.sums, 0, (size_t)(blocks * width) * 8);
            memset(state.before, 0, (size_t)(3 * width) * 8); /* the cells before, and what is seen of a cell of 0, too */
            for (int64_t p = 0; p < populations; p++) NAME(rest)(state.populations + p, n, width, back);
            int64_t arriving = state.hidden_before.steps;
            arriving = state.cells_before.steps > arriving ? state.cells_before.steps : arriving;
            int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;
            ended = arriving > ended ? arriving : ended;
            int64_t passed = 0;
            state.hidden.ends[0] = state.cells.ends[0] = 0;
            for (int64_t step = 0; step <= capacity && step < neurons->most_steps; step++) {
                if (step < arriving) NAME(receive)(&state, step, rows);
                const double *sources[2] = {NULL, step < task->arriving ? train + step * task->train_step : NULL};
                double flows = 0;
                if (awake_at(neurons, step)) {
                    sources[0] = drive;
                    flows = neurons->levels ? (double)neurons->total : 1;
                    if (task->bias)
                        for (int64_t k = 0; k < n; k++) state.sums[2 * width + k] += flows * task->bias[k];
                }
                for (int source = 0; source < 2; source++) {
                    if (!sources[source]) continue;
                    for (int64_t gate = 0; gate < gates; gate++) { /* the input of a GRU's candidate is kept apart */
                        const double *restrict current = sources[source] + gate * n, times = source ? 1 : flows;
                        double *restrict own = state.sums + (gate == 2 && !task->lstm ? 3 : gate) * width;
                        for (int64_t k = 0; k < n; k++) own[k] += times * current[k];
                    }
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
