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

/* What one thread works with, for one text. */
typedef struct {
    const GatedTask *task;
    const double *drive;                 /* of the position, or NULL; it has flowed `flows` times */
    double flows;
    double *arrived;                     /* [rows]: what trains have brought; of a GRU, that of its candidate is last, behind
                                            what its reset gate multiplies */
    float *rounded_drive;                /* [rows]: in float32, and what flows beside it */
    float *input_sums, *sums;            /* [rows]: what has come of the input, in float32, and with what the state brings */
    int32_t *received;                   /* [steps, rows]: what the state has brought, in units of the rounded weights */
    const int32_t *recurrent;            /* that by this step */
    double norm;                         /* the sum of the magnitudes of the hidden state's levels before */
    float *products;                     /* [width] of each population that receives products */
    float *before, *before_cells, *seen; /* levels of the states before; what the output gate multiplies */
    int16_t *counts;                     /* the hidden state's levels before, as the next bits of weights meet them */
    const uint8_t (*ones)[8];            /* [256]: the places of the ones among eight bits */
    NAME(Population) populations[6];
    NAME(Events) hidden, cells, hidden_before, cells_before;
    NAME(Schedule) schedule;
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
    const float above = p->table[index + 1], below = back ? p->table[index] : -INFINITY;
    memset(p->level, 0, (size_t)width * sizeof *p->level);
    for (int64_t k = 0; k < width; k++) p->index[k] = index, p->above[k] = above, p->below[k] = below;
    for (int64_t k = n; k < width; k++) p->above[k] = INFINITY, p->below[k] = -INFINITY;
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

/* Whether neurons of the vector from `k` on may spike. */
INLINE int NAME(may_spike)(const NAME(Population) *p, int64_t k, float margin) {
#if VECTOR
    const REALS sums = LOAD_REALS(p->sums + k), each = EACH_REAL(margin);
    return ANY(AT_LEAST(ADD_REALS(sums, each), LOAD_REALS(p->above + k)) | LESS(SUB_REALS(sums, each), LOAD_REALS(p->below + k)));
#else
    int any = 0;
    for (int i = 0; i < FLOATS; i++)
        any |= p->sums[k + i] + margin >= p->above[k + i] || p->sums[k + i] - margin < p->below[k + i];
    return any;
#endif
}

/* What the neurons of one vector, from `k` on, do: bits of those that spike +1, and -1. Their levels follow, and their
   thresholds: the next one above is read from the table, that below is the one that was reached. */
INLINE uint32_t NAME(spikes_of)(const NAME(GatedState) *state, int which, const NAME(Population) *p, const int small, int64_t k,
                                int back, float margin, uint32_t *fallen) {
    const float *table = p->table;
    uint32_t up, down, marked;
#if VECTOR
    const REALS sums = LOAD_REALS(p->sums + k), above = LOAD_REALS(p->above + k), below = LOAD_REALS(p->below + k);
    const REALS low = SUB_REALS(sums, EACH_REAL(margin)), high = ADD_REALS(sums, EACH_REAL(margin));
    MASK ups = AT_LEAST(low, above), downs = LESS(high, below);
    up = BITS(ups), down = BITS(downs);
    marked = BITS((ups ^ AT_LEAST(high, above)) | (downs ^ LESS(low, below)));
#else
    up = down = marked = 0;
    for (int i = 0; i < FLOATS; i++) {
        const float low = p->sums[k + i] - margin, high = p->sums[k + i] + margin;
        const uint32_t rises = low >= p->above[k + i], falls = high < p->below[k + i];
        up |= rises << i, down |= falls << i;
        marked |= ((rises ^ (high >= p->above[k + i])) | (falls ^ (low < p->below[k + i]))) << i;
    }
#endif
    if (marked) {
        NAME(decide_gates)(state, which, k, back, marked, &up, &down);
#if VECTOR
        ups = MASK_OF(up), downs = MASK_OF(down);
#endif
    }
    *fallen = down;
#if VECTOR
    const WORD change = ONE_LESS(ONE_MORE(ZERO(), ups), downs), index = ADD32(LOAD(p->index + k), change);
    STORE(p->index + k, index);
    STORE_REALS(p->level + k, ADD_REALS(LOAD_REALS(p->level + k), TO_REALS(change)));
    const REALS next = NAME(entries)(table, small, ONE_MORE(index, ups));
    STORE_REALS(p->above + k, SELECT(downs, below, SELECT(ups, next, above)));
    if (back) STORE_REALS(p->below + k, SELECT(ups, above, SELECT(downs, next, below)));
#else
    (void)small;
    for (uint32_t moved = up | down; moved; moved &= moved - 1) {
        const int64_t at = k + __builtin_ctz(moved);
        const int32_t spike = up >> (at - k) & 1 ? 1 : -1;
        p->index[at] += spike;
        p->level[at] += (float)spike;
        p->above[at] = table[p->index[at] + 1];
        if (back) p->below[at] = table[p->index[at]];
    }
#endif
    return up;
}

/* One step: +1 where a sum reaches the threshold of the level above, -1 where it does not reach that of its own. Spikes are
   written to `out` and added to `events`, where these are given. Returns whether there are any. */
INLINE int NAME(fire_by_level)(const NAME(GatedState) *state, int which, const int small, int back, float margin,
                               int8_t *restrict out, NAME(Events) *events) {
    const NAME(Population) population = state->populations[which], *p = &population; /* its own, which nothing else writes to */
    int64_t rises = events ? events->rises[events->steps + 1] : 0, falls = events ? events->falls[events->steps + 1] : 0;
    uint32_t any = 0;
    for (int64_t first = 0; first < state->task->width; first += 64 * FLOATS) {
        const int64_t end = first + 64 * FLOATS < state->task->width ? first + 64 * FLOATS : state->task->width;
        uint64_t vectors = 0; /* that may spike: found without a branch for each, since nobody could foretell them */
        for (int64_t k = first; k < end; k += FLOATS)
            vectors |= (uint64_t)NAME(may_spike)(p, k, margin) << ((k - first) / FLOATS);
        for (; vectors; vectors &= vectors - 1) {
            const int64_t k = first + FLOATS * lowest_bit(vectors);
            uint32_t down, up = NAME(spikes_of)(state, which, p, small, k, back, margin, &down);
            any |= up | down;
            if (events) {
                rises = NAME(list_units)(events->risen, rises, up, k, state->ones);
                falls = NAME(list_units)(events->fallen, falls, down, k, state->ones);
            }
            if (out) NAME(write_spikes)(out + k, up, down, state->task->hidden - k);
        }
    }
    if (events) events->rises[events->steps + 1] = rises, events->falls[events->steps + 1] = falls;
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
    for (int64_t k = 0; k < n; k++) {
        const int64_t level = p->lowest + p->index[k];
        p->level[k] = (float)level;
        if (out) out[k] = (int16_t)level;
        if (events) NAME(list_change)(events, k, level);
    }
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
    const int64_t step = state->cells.steps, rises = state->cells.rises[step + 1], falls = state->cells.falls[step + 1];
    any |= NAME(react)(state, 4, at, &state->cells);
    const int32_t *level = state->populations[4].index;
    for (int64_t e = rises; e < state->cells.rises[step + 1]; e++) {
        const int32_t k = state->cells.risen[e];
        seen[k] = task->seen[level[k]];
    }
    for (int64_t e = falls; e < state->cells.falls[step + 1]; e++) {
        const int32_t k = state->cells.fallen[e];
        seen[k] = task->seen[level[k]];
    }
    for (int64_t k = 0; k < width; k++) states[k] = shown[k] * seen[k];
    return any | NAME(react)(state, 5, at, &state->hidden);
}

/* Adds what a step's spikes of the states before bring to their levels. */
INLINE void NAME(receive)(NAME(GatedState) *state, int64_t step) {
    const NAME(Events) *hidden = &state->hidden_before, *cells = &state->cells_before;
    int64_t norm = 0;
    for (int sign = 1; sign >= -1; sign -= 2) {
        const int64_t *ends = sign > 0 ? hidden->rises : hidden->falls;
        const int32_t *units = sign > 0 ? hidden->risen : hidden->fallen;
        for (int64_t e = ends[step]; e < ends[step + 1]; e++) {
            const int32_t unit = units[e], last = state->counts[unit];
            const int32_t level = last + (hidden->graded ? hidden->change[e] : sign);
            state->counts[unit] = (int16_t)level;
            state->before[unit] = (float)level;
            norm += (level < 0 ? -level : level) - (last < 0 ? -last : last);
        }
        if (!state->task->lstm) continue;
        ends = sign > 0 ? cells->rises : cells->falls;
        units = sign > 0 ? cells->risen : cells->fallen;
        for (int64_t e = ends[step]; e < ends[step + 1]; e++)
            state->before_cells[units[e]] += cells->graded ? cells->change[e] : (float)sign;
    }
    state->norm += (double)norm;
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

/* A state that text `sample` begins with: by how many levels it changes at each of `steps`, and not in the rest of `all`. */
INLINE void NAME(begun)(const GatedTask *task, NAME(Events) *events, const int16_t *change, int64_t steps, int64_t all,
                        int64_t sample) {
    const int64_t n = task->hidden;
    int64_t ended = 0;
    NAME(clear)(events);
    for (int64_t step = 0; step < all; step++) {
        events->steps = step;
        events->rises[step + 1] = events->rises[step], events->falls[step + 1] = 0;
        for (int64_t k = 0; step < steps && k < n; k++)
            NAME(list_change)(events, k, change[(step * task->batch + sample) * n + k]);
        if (events->rises[step + 1] > events->rises[step]) ended = step + 1;
    }
    events->steps = ended;
}

/* The steps of the states that texts begin with. */
INLINE int64_t NAME(starting)(const GatedTask *task) {
    return task->starting > task->starting_cells ? task->starting : task->starting_cells;
}

/* Room for one text at a time (NULL: no memory), and the state that lies in it. */
static char *NAME(open_state)(const GatedTask *task, NAME(GatedState) *state) {
    const int64_t n = task->hidden, width = task->width, populations = task->lstm ? 6 : 4, rows = 4 * width;
    const int64_t starting = NAME(starting)(task), steps = (task->capacity > starting ? task->capacity : starting) + 2;
    const int64_t spikes = steps * n + 8, reads = task->left_out.reads;
    const int64_t received = (steps + 1) * task->blocks * GATED_BLOCK;
    const int64_t floats = 3 * rows + (2 + 3 + 3 * populations) * width + populations * SMALL_TABLE;
    const int64_t scheduled = spikes + 2 * steps * ROWS_AT_ONCE;
    const int64_t ints = received + populations * width + 8 * spikes + scheduled + 2 * steps;
    const int64_t shorts = 4 * spikes + reads, ends = 8 * (steps + 2);
    char *memory = (char *)calloc(1, (size_t)((rows + ends) * 8 + (floats + ints) * 4 + shorts * 2 + 256 * 8 + 64));
    if (!memory) return NULL;
    char *from = memory;
#define TAKE(type, count) ((type *)(from += (count) * (int64_t)sizeof(type)) - (count))
    *state = (NAME(GatedState)){.task = task, .arrived = TAKE(double, rows)};
    NAME(Events) *events[4] = {&state->hidden, &state->cells, &state->hidden_before, &state->cells_before};
    for (int i = 0; i < 4; i++) events[i]->rises = TAKE(int64_t, steps + 2), events[i]->falls = TAKE(int64_t, steps + 2);
    state->input_sums = TAKE(float, rows), state->sums = TAKE(float, rows), state->rounded_drive = TAKE(float, rows);
    state->products = TAKE(float, 2 * width);
    state->before = TAKE(float, width), state->before_cells = TAKE(float, width), state->seen = TAKE(float, width);
    state->received = TAKE(int32_t, received);
    for (int64_t p = 0; p < populations; p++) {
        const int is_state = p == populations - 1, is_cell = p == 4, is_candidate = p == 2;
        const GatedTable *table = is_state ? &task->state : is_cell ? &task->cell : is_candidate ? &task->tanh : &task->sigmoid;
        const int64_t highest = is_cell && !is_state ? task->cells : task->q;
        const int64_t lowest = is_state || is_candidate || is_cell ? -highest : 0, entries = highest - lowest + 2;
        const int64_t product = p - (task->lstm ? 4 : 2); /* that it receives; those before receive sums */
        float *small = TAKE(float, SMALL_TABLE);
        for (int64_t i = 0; i < SMALL_TABLE && entries <= SMALL_TABLE; i++)
            small[i] = table->rounded[i < entries ? i : entries - 1]; /* behind the last there is infinity */
        state->populations[p] = (NAME(Population)){
            table->exact, entries <= SMALL_TABLE ? small : table->rounded,
            product < 0 ? state->sums + p * width : state->products + product * width, entries <= SMALL_TABLE, lowest, highest,
            TAKE(float, width), TAKE(float, width), TAKE(float, width), TAKE(int32_t, width)};
    }
    for (int i = 0; i < 4; i++) events[i]->risen = TAKE(int32_t, spikes), events[i]->fallen = TAKE(int32_t, spikes);
    state->schedule = (NAME(Schedule)){TAKE(int32_t, scheduled), TAKE(int32_t, 2 * steps)};
    for (int i = 0; i < 4; i++) events[i]->change = TAKE(int16_t, spikes);
    state->counts = TAKE(int16_t, reads);
    uint8_t(*ones)[8] = (uint8_t(*)[8])TAKE(uint8_t, 256 * 8);
#undef TAKE
    list_ones(ones);
    state->ones = ones;
    return memory;
}

/* Nothing has been received yet at a position, beside a train; its drive (NULL: there is none). */
INLINE void NAME(begin_position)(NAME(GatedState) *state, const double *drive) {
    const GatedTask *task = state->task;
    const int64_t width = task->width, rows = 4 * width;
    if (task->arriving) memset(state->arrived, 0, (size_t)rows * sizeof *state->arrived);
    memset(state->input_sums, 0, (size_t)(2 * rows) * sizeof(float)); /* and all sums */
    memset(state->before, 0, (size_t)(3 * width) * sizeof(float)); /* and the cells, and what is seen of one of 0 */
    memset(state->counts, 0, (size_t)task->left_out.reads * sizeof *state->counts);
    state->norm = state->flows = 0;
    NAME(round_drive)(state, drive);
    for (int64_t p = 0; p < (task->lstm ? 6 : 4); p++)
        NAME(rest)(state->populations + p, task->hidden, width, task->neurons.cif != 0);
    NAME(clear)(&state->hidden);
    NAME(clear)(&state->cells);
    /* Before any spike nothing has come of the state; behind the last one, no more comes. */
    const int64_t stride = task->blocks * GATED_BLOCK;
    memset(state->received, 0, (size_t)stride * sizeof *state->received);
    NAME(sum_steps)(task, &state->hidden_before, &state->schedule, state->received + stride);
    state->recurrent = state->received;
}

/* What has come of the input and of the state by a step. */
INLINE void NAME(sum_up)(NAME(GatedState) *state) {
    const int64_t rows = 4 * state->task->width, recurrent = state->task->lstm ? rows : 3 * state->task->width;
    const float unit = (float)state->task->unit;
    for (int64_t k = 0; k < recurrent; k++) state->sums[k] = state->input_sums[k] + unit * (float)state->recurrent[k];
    for (int64_t k = recurrent; k < rows; k++) state->sums[k] = state->input_sums[k];
}

/* All steps of a position whose spikes are written from `out` on. Returns the steps needed. */
INLINE int64_t NAME(settle_position)(NAME(GatedState) *state, const double *train, int64_t out) {
    const GatedTask *task = state->task;
    const Neurons *neurons = &task->neurons;
    NAME(Events) *hidden = &state->hidden, *cells = &state->cells;
    const NAME(Events) *before = &state->hidden_before;
    const int64_t cells_steps = state->cells_before.steps, arriving = cells_steps > before->steps ? cells_steps : before->steps;
    int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;
    ended = arriving > ended ? arriving : ended;
    int64_t passed = 0, needed = 0;
    for (int64_t step = 0; step <= task->capacity && step < neurons->most_steps; step++) {
        int changed = NAME(receive_input)(state, step, train);
        if (step < arriving) {
            NAME(receive)(state, step);
            changed |= before->rises[step + 1] > before->rises[step] || before->falls[step + 1] > before->falls[step];
        }
        if (step < before->steps) state->recurrent += task->blocks * GATED_BLOCK;
        if (changed) NAME(sum_up)(state);
        hidden->steps = cells->steps = step;
        hidden->rises[step + 1] = hidden->rises[step], hidden->falls[step + 1] = hidden->falls[step];
        cells->rises[step + 1] = cells->rises[step], cells->falls[step + 1] = cells->falls[step];
        const int64_t at = step < task->capacity ? out + step * task->out_step : -1;
        const int any = task->lstm ? NAME(lstm_step)(state, at) : NAME(gru_step)(state, at);
        if (hidden->rises[step + 1] > hidden->rises[step] || hidden->falls[step + 1] > hidden->falls[step] ||
            cells->rises[step + 1] > cells->rises[step] || cells->falls[step + 1] > cells->falls[step])
            passed = step + 1;
        if (any) {
            needed = step + 1;
        } else if (step >= ended) {
            break;
        }
    }
    hidden->steps = cells->steps = passed;
    return needed;
}

/* The texts first..last-1. Returns the steps needed, one more than the capacity if that was too small. */
static int64_t NAME(gated)(const GatedTask *task, int64_t first, int64_t last) {
    const int64_t capacity = task->capacity, starting = NAME(starting)(task);
    NAME(GatedState) state;
    char *memory = NAME(open_state)(task, &state);
    if (!memory) return NO_MEMORY;
    int64_t needed = 0;
    for (int64_t sample = first; sample < last && needed <= capacity; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        NAME(begun)(task, &state.hidden_before, task->start, task->starting, starting, sample);
        NAME(begun)(task, &state.cells_before, task->start_cells, task->starting_cells, starting, sample);
        for (int64_t i = 0; i < length && needed <= capacity; i++) {
            const int64_t position = task->reverse ? length - 1 - i : i;
            int64_t drive = sample * task->drive_sample + position * task->drive_position;
            if (task->index) drive = task->index[drive] * task->drive_row;
            NAME(begin_position)(&state, task->drive ? task->drive + drive : NULL);
            const double *train = task->train + sample * task->train_sample + position * task->train_position;
            const int64_t steps =
                NAME(settle_position)(&state, train, sample * task->out_sample + position * task->out_position);
            needed = steps > needed ? steps : needed;
            const NAME(Events) hidden = state.hidden_before, cells = state.cells_before;
            state.hidden_before = state.hidden, state.cells_before = state.cells;
            state.hidden = hidden, state.cells = cells;
        }
    }
    free(memory);
    return needed;
}
