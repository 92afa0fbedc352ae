/* A gated recurrence, GRU or LSTM: text after text, token after token, all steps of each. Currents are float64, which the
   caller has proven to hold every sum exactly; totals of spikes and their products are whole numbers. */

/* What a neuron does whose sum is `s`, where levels are the nearest multiples of q, halves going to the even one. */
#define NEAREST(s, count, q)                                                                                          \
    ((int32_t)(2 * (s) + ((count) & 1) > (q) * (2 * (count) + 1)) -                                                   \
     (back & (int32_t)(2 * (s) - ((count) & 1) < (q) * (2 * (count) - 1))))

/* One step of `n` neurons with a threshold for each level, with these sums: +1 where one reaches the level above its count, -1
   where it does not reach its own. `table` has -infinity, a threshold for each level, and infinity; counts are from the lowest
   level on. Returns whether any spiked. */
INLINE int32_t NAME(fire_by_level)(int64_t n, const double *restrict sums, const double *restrict table, int32_t back,
                                   int32_t *restrict count, int8_t *restrict out) {
    int32_t any = 0;
    for (int64_t k = 0; k < n; k++) {
        const int32_t known = count[k];
        const int32_t spike = (int32_t)(sums[k] >= table[known + 1]) - (back & (int32_t)(sums[k] < table[known]));
        count[k] = known + spike;
        out[k] = (int8_t)spike;
        any |= spike;
    }
    return any;
}

/* What one thread works with, for one text. */
typedef struct {
    double *sums, *input, *products;        /* [rows]; of a GRU's candidate [hidden]: what is multiplied is in `sums` */
    int32_t *count, *before, *before_cells; /* [populations * hidden], [hidden] */
    int8_t *spikes;                         /* [populations * hidden], of this step */
} NAME(GatedState);

/* The step of a GRU, its currents received. */
INLINE int32_t NAME(gru_step)(const GatedTask *task, const NAME(GatedState) *state, int32_t back) {
    const int64_t n = task->hidden;
    const int32_t q = (int32_t)task->q;
    int32_t *restrict count = state->count;
    int8_t *restrict spikes = state->spikes;
    int32_t any = NAME(fire_by_level)(2 * n, state->sums, task->sigmoid, back, count, spikes);
    const double *restrict input = state->input, *restrict kept = state->sums + 2 * n;
    double *restrict products = state->products;
    const int32_t *restrict before = state->before;
    for (int64_t k = 0; k < n; k++) products[k] = (double)q * input[k] + (double)count[k] * kept[k];
    any |= NAME(fire_by_level)(n, products, task->tanh, back, count + 2 * n, spikes + 2 * n);
    for (int64_t k = 0; k < n; k++) {
        const int32_t update = count[n + k], candidate = count[2 * n + k] - q;
        const int32_t sum = (q - update) * candidate + update * before[k];
        const int32_t spike = NEAREST(sum, count[3 * n + k], q);
        count[3 * n + k] += spike;
        spikes[3 * n + k] = (int8_t)spike;
        any |= spike;
    }
    return any;
}

/* The step of an LSTM. Populations: input and forget gate, candidate, output gate, cell, hidden state. */
INLINE int32_t NAME(lstm_step)(const GatedTask *task, const NAME(GatedState) *state, int32_t back) {
    const int64_t n = task->hidden;
    const int32_t q = (int32_t)task->q, cells = (int32_t)task->cells;
    int32_t *restrict count = state->count;
    int8_t *restrict spikes = state->spikes;
    int32_t any = NAME(fire_by_level)(2 * n, state->sums, task->sigmoid, back, count, spikes);
    any |= NAME(fire_by_level)(n, state->sums + 2 * n, task->tanh, back, count + 2 * n, spikes + 2 * n);
    any |= NAME(fire_by_level)(n, state->sums + 3 * n, task->sigmoid, back, count + 3 * n, spikes + 3 * n);
    const int32_t *restrict before = state->before_cells;
    for (int64_t k = 0; k < n; k++) {
        const int32_t sum = count[n + k] * before[k] + count[k] * (count[2 * n + k] - q), cell = count[4 * n + k];
        int32_t spike = NEAREST(sum, cell, q);
        spike = (spike > 0 && cell >= cells) || (spike < 0 && cell <= -cells) ? 0 : spike;
        count[4 * n + k] += spike;
        spikes[4 * n + k] = (int8_t)spike;
        any |= spike;
    }
    for (int64_t k = 0; k < n; k++) {
        const int32_t sum = count[3 * n + k] * task->table[count[4 * n + k] + cells];
        const int32_t spike = NEAREST(sum, count[5 * n + k], q);
        count[5 * n + k] += spike;
        spikes[5 * n + k] = (int8_t)spike;
        any |= spike;
    }
    return any;
}

/* The texts first..last-1. Returns the steps needed, one more than the capacity if that was too small. */
static int64_t NAME(gated)(const GatedTask *task, int64_t first, int64_t last) {
    const int64_t n = task->hidden, gates = task->lstm ? 4 : 3, populations = task->lstm ? 6 : 4, rows = gates * n;
    const int64_t capacity = task->capacity, hidden_at = (populations - 1) * n, cells_at = 4 * n;
    const Neurons *neurons = &task->neurons;
    const int32_t back = neurons->cif ? 1 : 0;
    const int64_t doubles = rows + 2 * n, ints = (populations + 2) * n, states = (capacity + 2) * n;
    char *memory = (char *)calloc(1, (size_t)(doubles * 8 + ints * 4 + 4 * states * 2 + populations * n + 64));
    if (!memory) return NO_MEMORY;
    NAME(GatedState) state;
    state.sums = (double *)memory, state.input = state.sums + rows, state.products = state.input + n;
    state.count = (int32_t *)(state.products + n);
    state.before = state.count + populations * n, state.before_cells = state.before + n;
    int16_t *now = (int16_t *)(state.before_cells + n), *then = now + states, *cells_now = then + states;
    int16_t *cells_then = cells_now + states;
    state.spikes = (int8_t *)(cells_then + states);
    int64_t needed = 0;
    for (int64_t sample = first; sample < last && needed <= capacity; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        int64_t arriving = 0; /* steps of the states of the position before */
        if (task->start) {
            memcpy(then, task->start + sample * n, (size_t)n * 2);
            if (task->lstm) memcpy(cells_then, task->start_cells + sample * n, (size_t)n * 2);
            arriving = 1;
        }
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
            memset(state.sums, 0, (size_t)(rows + n) * 8);
            memset(state.count, 0, (size_t)ints * 4);
            for (int64_t k = 0; k < n; k++) state.count[2 * n + k] = (int32_t)task->q; /* the lowest level is -q */
            int64_t ended = task->arriving > neurons->wake_steps ? task->arriving : neurons->wake_steps;
            ended = arriving > ended ? arriving : ended;
            int64_t passed = 0, step = 0;
            for (; step <= capacity && step < neurons->most_steps; step++) {
                double *restrict sums = state.sums, *restrict kept = sums + 2 * n;
                if (step < arriving) {
                    const int16_t *spikes = then + step * n, *cells = cells_then + step * n;
                    for (int64_t j = 0; j < n; j++) {
                        if (!spikes[j]) continue;
                        const double factor = spikes[j], *restrict weight = task->weights + j * rows;
                        for (int64_t k = 0; k < rows; k++) sums[k] += factor * weight[k];
                    }
                    for (int64_t k = 0; k < n; k++) state.before[k] += spikes[k];
                    if (task->lstm)
                        for (int64_t k = 0; k < n; k++) state.before_cells[k] += cells[k];
                }
                const int driven = awake_at(neurons, step);
                const int64_t whole = task->lstm ? rows : 2 * n; /* the input of a GRU's candidate is kept apart */
                if (driven && task->bias)
                    for (int64_t k = 0; k < n; k++) kept[k] += task->bias[k];
                const double *sources[2] = {driven ? drive : NULL, step < task->arriving ? train + step * task->train_step : NULL};
                for (int64_t source = 0; source < 2; source++) {
                    const double *restrict current = sources[source];
                    if (!current) continue;
                    for (int64_t k = 0; k < whole; k++) sums[k] += current[k];
                    for (int64_t k = whole; k < rows; k++) state.input[k - whole] += current[k];
                }
                const int32_t any = task->lstm ? NAME(lstm_step)(task, &state, back) : NAME(gru_step)(task, &state, back);
                int32_t moved = 0;
                for (int64_t k = 0; k < n; k++) {
                    now[step * n + k] = state.spikes[hidden_at + k];
                    moved |= state.spikes[hidden_at + k];
                }
                if (task->lstm)
                    for (int64_t k = 0; k < n; k++) {
                        cells_now[step * n + k] = state.spikes[cells_at + k];
                        moved |= state.spikes[cells_at + k];
                    }
                if (moved) passed = step + 1;
                if (any) {
                    needed = step + 1 > needed ? step + 1 : needed;
                    if (step == capacity) break;
                    for (int64_t p = 0; p < populations; p++)
                        if (task->out[p])
                            memcpy(task->out[p] + out + step * task->out_step, state.spikes + p * n, (size_t)n);
                } else if (step >= ended) {
                    break;
                }
            }
            arriving = passed;
            int16_t *swap = now;
            now = then, then = swap;
            swap = cells_now, cells_now = cells_then, cells_then = swap;
        }
    }
    free(memory);
    return needed;
}
#undef NEAREST
