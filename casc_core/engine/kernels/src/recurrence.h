/* A whole recurrence: text after text, token after token, all steps of each. */

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

INLINE double NAME(value_at)(const void *from, int64_t type, int64_t at) {
    return type == FLOAT32 ? (double)((const float *)from)[at] : ((const double *)from)[at];
}

/* One position of a sequence, whose neurons may have to be decided by what int32 leaves out. */
typedef struct {
    const RecurrenceTask *task;
    const int8_t *before; /* the train that reaches it, of so many steps `row` apart */
    int64_t before_steps, row;
    int64_t drive_at, train_at; /* where its drive (-1: there is none) and its train are */
    const double *start;        /* the train that it begins with, of so many steps */
    int64_t starting;
    const double *initial;      /* or NULL */
    const int32_t *drive;       /* rounded, with what is initial */
    int32_t *v, *total;
    int64_t received, arrived;  /* the error that spikes have brought, and trains, in half units */
    int64_t known;              /* steps whose spikes have been counted */
    int16_t *counts;            /* of the neurons before */
} NAME(Visited);

/* What neuron `k` has received of drive, potential and train, flowed so often, up to `step`: in the finer unit, beyond what
   has been rounded of it, and with `truly` all of it. */
static double NAME(given)(const NAME(Visited) *at, int64_t k, int64_t flows, int64_t step, int truly) {
    const RecurrenceTask *task = at->task;
    const int64_t hidden = task->weights.outputs;
    const double unit = truly ? 0 : task->exactly.unit;
    double given = 0;
    /* A drive is rounded where neurons receive it; trains are on the grid already. */
    if (at->drive_at >= 0) {
        const double value = NAME(value_at)(task->exact_drive, task->exact_drive_type, at->drive_at + k);
        given += (double)flows * __builtin_rint(task->exact_scale * value);
    }
    if (at->initial) given += (double)flows * at->initial[k];
    if (at->drive_at >= 0 || at->initial) given -= (double)flows * unit * at->drive[k];
    if (task->exact_potential) given += task->exact_potential[k] - unit * task->potential[k];
    for (int64_t s = 0; s <= step && s < task->arriving; s++) {
        const double value = NAME(value_at)(task->train, task->train_type, at->train_at + s * task->train_step + k);
        given += task->exact_scale * value - unit * __builtin_rint(task->scale * value);
    }
    for (int64_t s = 0; s <= step && s < at->starting; s++) {
        const double value = at->start[s * task->batch * hidden + k];
        given += task->exact_scale * value - unit * __builtin_rint(task->scale * value);
    }
    return given;
}

/* What a neuron does that int32 says has received `sum`: by the weights' next bits; where these leave it open, by what else has been
   rounded, which lies far away in memory; then by all of it as it is. */
static int32_t NAME(decide_visited)(NAME(Visited) *at, int64_t step, int64_t k, int32_t count, double sum) {
    const RecurrenceTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const Exactly *exactly = &task->exactly;
    const LeftOut *left_out = &task->left_out;
    const double threshold = task->exact_thresholds[k];
    const int64_t cap = cap_at(neurons, step), flows = neurons->levels ? neurons->total : cap;
    if (!at->known) memset(at->counts, 0, (size_t)task->weights.rows_padded * sizeof *at->counts);
    for (; at->known <= step && at->known < at->before_steps; at->known++)
        NAME(count)(task->weights.rows_padded, at->before + at->known * at->row, at->counts);
    double margin = (double)at->received * exactly->unit * left_out->finer / 2 + ROUNDED;
    double about = sum * exactly->unit + NAME(next_bits)(left_out, k, at->counts);
    /* Threshold and drive are each off by half units, the potential and each current that arrived by one at most. */
    const double others = exactly->unit * (double)(exactly->once + at->arrived + flows * exactly->flow) / 2;
    int32_t truth = NAME(decided)(neurons, threshold, about - margin - others, count, cap);
    if (truth == NAME(decided)(neurons, threshold, about + margin + others, count, cap)) return truth;
    about += NAME(given)(at, k, flows, step, 0);
    truth = NAME(decided)(neurons, threshold, about - margin, count, cap);
    if (truth == NAME(decided)(neurons, threshold, about + margin, count, cap)) return truth;
    const double all = NAME(given)(at, k, flows, step, 1) + NAME(true_sum)(left_out, k, at->counts);
    return NAME(decided)(neurons, threshold, all, count, cap);
}

/* Decides those neurons that are within the margin of a decision, of the ones from `first` on that have a bit: corrects potentials,
   counts and spikes. */
static void NAME(decide_some)(NAME(Visited) *at, int64_t step, int64_t first, uint32_t bits, int32_t margin, int8_t *fired) {
    const RecurrenceTask *task = at->task;
    const int32_t cap = (int32_t)cap_at(&task->neurons, step), lower = lower_of(&task->neurons);
    for (; bits; bits &= bits - 1) {
        const int64_t k = first + lowest_bit(bits);
        if (k >= task->weights.outputs) return; /* padding */
        const int32_t threshold = task->thresholds[k], spike = fired[k], count = at->total[k] - spike;
        const int32_t charged = at->v[k] + spike * threshold;
        if (!(NEAR_UP(charged, count, threshold, cap, margin) | NEAR_DOWN(charged, count, lower, margin))) continue;
        const int32_t truth = NAME(decide_visited)(at, step, k, count, (double)charged + (double)count * threshold);
        fired[k] = (int8_t)truth;
        at->v[k] += (spike - truth) * threshold;
        at->total[k] = count + truth;
    }
}

/* A step of a position's neurons, which receive (recurrent << shift) + drive (or NULL). With `open` none can have reached its cap. Those
   within the margin of a decision are decided; without `near` there are none. */
INLINE void NAME(take_step)(NAME(Visited) *at, int64_t step, const int32_t *restrict recurrent, int shift,
                            const int32_t *restrict drive, const int open, const int near, int32_t margin,
                            int8_t *restrict fired) {
    const RecurrenceTask *task = at->task;
    const int32_t cap = (int32_t)cap_at(&task->neurons, step), lower = lower_of(&task->neurons);
    const int32_t *restrict thresholds = task->thresholds;
    int32_t *v = at->v, *total = at->total;
    for (int64_t k = 0; k < task->weights.stride; k += 16) {
        uint32_t bits = 0;
#if VECTOR /* compilers make less of the loop */
        enum { LANES = VECTOR / 32, VECTORS = 16 / LANES };
        typedef NAME(Lanes) Lanes;
        const WORD most = EACH_PAIR(cap), within = EACH_PAIR(margin + 2);
        const WORD least = lower ? EACH_PAIR(INT32_MAX) : ZERO(); /* so that no spike is taken back */
        MASK up[VECTORS], down[VECTORS];
        WORD off[VECTORS];
        for (int i = 0; i < VECTORS; i++) {
            const int64_t j = k + i * LANES;
            const WORD count = LOAD(total + j), threshold = LOAD(thresholds + j);
            WORD charged = ADD32(LOAD(v + j), SHIFTED32(LOAD(recurrent + j), shift));
            if (drive) charged = ADD32(charged, LOAD(drive + j));
            up[i] = GREATER(charged, (WORD)((Lanes)threshold - 1));
            if (!open) up[i] &= GREATER(most, count);
            down[i] = GREATER(ZERO(), charged) & GREATER(count, least);
            const WORD left = SPENT(charged, up[i], down[i], threshold);
            STORE(v + j, left);
            STORE(total + j, COUNTED(count, up[i], down[i]));
            if (near) { /* what is left is near zero or the threshold, if it was; and then as far from the middle as those */
                const Lanes middle = (Lanes)threshold >> 1;
                off[i] = ABS32((WORD)((Lanes)ABS32((WORD)((Lanes)left - middle)) - middle));
            }
        }
        NAME(store_spikes)(fired + k, up, down);
        if (near) {
            WORD nearest = off[0];
            for (int i = 1; i < VECTORS; i++) nearest = LEAST(nearest, off[i]);
            if (ANY(GREATER(within, nearest)))
                for (int i = 0; i < VECTORS; i++) bits |= (uint32_t)BITS(GREATER(within, off[i])) << (i * LANES);
        }
#else
        (void)open;
        for (int64_t j = k; j < k + 16; j++) {
            const int32_t charged = v[j] + (int32_t)((uint32_t)recurrent[j] << shift) + (drive ? drive[j] : 0);
            const int32_t spike = SPIKE(int32_t, charged, total[j], thresholds[j], cap, lower);
            if (near && (NEAR_UP(charged, total[j], thresholds[j], cap, margin) | NEAR_DOWN(charged, total[j], lower, margin)))
                bits |= 1u << (j - k);
            v[j] = charged - spike * thresholds[j];
            total[j] += spike;
            fired[j] = (int8_t)spike;
        }
#endif
        if (bits) NAME(decide_some)(at, step, k, bits, margin, fired);
    }
}

/* Notes the spikes of a step, `n` (a multiple of 64) of them, in sums of steps (or NULL). Returns whether there are any. */
INLINE int64_t NAME(note)(int64_t n, const int8_t *restrict fired, int8_t *restrict sums) {
    int8_t any = 0;
    for (int64_t k = 0; k < n; k++) any |= fired[k];
    if (sums)
        for (int64_t k = 0; k < n; k++) sums[k] = (int8_t)(sums[k] + fired[k]);
    return any != 0;
}

/* How many of `n` (a multiple of 64) spikes are positive, and how many negative. */
INLINE void NAME(signs)(int64_t n, const int8_t *fired, int32_t *ups, int32_t *downs) {
    int64_t positive = 0, negative = 0;
    for (int64_t k = 0; k < n; k += 64) {
        positive += __builtin_popcountll(NAME(positive)(fired + k));
        negative += __builtin_popcountll(NAME(negative)(fired + k));
    }
    *ups = (int32_t)positive, *downs = (int32_t)negative;
}

/* Adds to the sums of a sequence what has been summed of it in int8, `row` entries for a step, and begins anew. */
static void NAME(add_up)(const RecurrenceTask *task, int64_t sample, int64_t steps, int64_t row, int8_t *summed) {
    const int64_t hidden = task->weights.outputs;
    for (int64_t step = 0; step < steps; step++) {
        int32_t *sums = task->sums + step * task->sums_step + sample * task->sums_sample;
        for (int64_t k = 0; k < hidden; k++) sums[k] += summed[step * row + k];
    }
    memset(summed, 0, (size_t)(steps * row));
}

/* The sequences first..last-1: position after position, all steps of each. */
static int64_t NAME(recurrence)(const RecurrenceTask *task, int64_t first, int64_t last) {
    const Weights *weights = &task->weights;
    const int64_t hidden = weights->outputs, stride = weights->stride, inputs = weights->rows;
    const Neurons *neurons = &task->neurons;
    const int shift = (int)task->shift;
    const int64_t capacity = task->capacity;
    const int64_t outputs_padded = (stride + 63) / 64 * 64;
    const int64_t row = outputs_padded > weights->rows_padded ? outputs_padded : weights->rows_padded; /* of a train */
    /* Steps of a train: one more, to see it silent. */
    const int64_t steps = (capacity > task->spiking ? capacity : task->spiking) + 1;
    const int64_t ints = stride * (int64_t)sizeof(int32_t);
    Scratch scratch;
    const int64_t summed_steps = task->sums ? capacity : 0; /* in int8, so many positions at a time */
    const int64_t at_once = INT8_MAX / (neurons->levels && neurons->total > 1 ? neurons->total : 1);
    char *memory = scratch_open(&scratch, weights->rows_padded,
                                (steps + 6) * ints + (3 * steps + summed_steps + 2) * row + weights->rows_padded * (int64_t)sizeof(int16_t));
    if (!memory) return NO_MEMORY;
    int32_t *products = (int32_t *)memory, *zeros = products + steps * stride;
    int32_t *drive = zeros + stride, *arriving = drive + stride, *begun = arriving + stride;
    int32_t *v = begun + stride, *total = v + stride;
    int16_t *counts = (int16_t *)(total + stride);
    int8_t *spikes = (int8_t *)(counts + weights->rows_padded), *before = spikes + steps * row, *earlier = before + steps * row;
    int8_t *summed = earlier + steps * row, *nothing = summed + summed_steps * row, *near = nothing + row;
    const int is_rounded = task->exactly.margin > 0;
    int64_t needed = 0;

    for (int64_t sample = first; sample < last; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        /* Steps of the trains `before` and `earlier`, of which `products` holds the latter's. */
        int64_t before_steps = 0, earlier_steps = 0, summed_to = 0, waiting = 0;
        for (int64_t step = 0; step < task->spiking; step++) {
            memcpy(before + step * row, task->spikes + (step * task->batch + sample) * inputs, (size_t)inputs);
            if (NAME(note)(row, before + step * row, NULL)) before_steps = step + 1;
        }
        for (int64_t visit = 0; visit < task->length; visit++) {
            const int real = visit < length;
            const int64_t position = !real ? visit : task->reverse ? length - 1 - visit : visit;
            if (!real && !task->out && !task->positive) break;
            int8_t *out = task->out + sample * task->out_sample + position * task->out_position;
            const int64_t tally = sample * task->length + position;
            int64_t step = 0, ended = 0;
            int driven = 0;
            const int64_t starting = visit == 0 ? task->starting : 0;
            NAME(Visited) visited = {
                task, before, before_steps, row, -1, sample * task->train_sample + position * task->train_position,
                starting ? task->start + sample * hidden : NULL, starting,
                task->exact_initial && visit == 0 ? task->exact_initial + sample * hidden : NULL, drive, v, total, 0, 0, 0, counts};
            if (real) {
                if (task->drive) {
                    int64_t at = sample * task->drive_sample + position * task->drive_position;
                    if (task->index) at = task->index[at] * task->drive_row;
                    const char *values = (const char *)task->drive + at * type_size(task->drive_type);
                    if (!NAME(units_of)(values, task->drive_type, hidden, task->scale, task->drive_limit, drive))
                        goto out_of_range;
                    driven = 1;
                    visited.drive_at = at;
                    if (task->index && visit < length - 1) { /* rows of a table lie anywhere */
                        const int64_t next = sample * task->drive_sample +
                                             (position + (task->reverse ? -1 : 1)) * task->drive_position;
                        values = (const char *)task->drive + task->index[next] * task->drive_row * type_size(task->drive_type);
                        for (int64_t byte = 0; byte < hidden * type_size(task->drive_type); byte += 64)
                            __builtin_prefetch(values + byte);
                    }
                }
                if (task->initial && visit == 0) {
                    if (!driven) memset(drive, 0, (size_t)ints);
                    for (int64_t k = 0; k < hidden; k++) drive[k] += task->initial[sample * hidden + k];
                    driven = 1;
                }
                memset(total, 0, (size_t)ints);
                for (int64_t k = 0; k < hidden; k++) v[k] = task->potential ? task->potential[k] : 0;
                for (int64_t k = hidden; k < stride; k++) v[k] = task->thresholds[k] / 2; /* far from every decision */
                for (; step < neurons->most_steps; step++) {
                    const int32_t *recurrent = zeros, *current = zeros;
                    int32_t ups = 0, downs = 0;
                    if (step < before_steps) {
                        const int8_t *x = before + step * row;
                        int32_t *product = products + step * stride;
                        Reference references[4 + STEPS_BACK] = {{nothing, zeros}, {task->peaks, task->peak_product}};
                        int known = 2;
                        if (step < earlier_steps) references[known++] = (Reference){earlier + step * row, product};
                        for (int64_t back = 1; back <= STEPS_BACK && back <= step; back++)
                            references[known++] = (Reference){x - back * row, product - back * stride};
                        int64_t sent = NAME(product)(weights, x, references, known, &scratch, product);
                        if (neurons->levels) {
                            sent = 0;
                            for (int64_t j = 0; j < inputs; j++) sent += x[j];
                        }
                        visited.received += sent * task->left_out.error;
                        recurrent = product;
                    }
                    if (step < task->arriving) {
                        const int64_t at = step * task->train_step + sample * task->train_sample +
                                           position * task->train_position;
                        const char *values = (const char *)task->train + at * type_size(task->train_type);
                        if (!NAME(units_of)(values, task->train_type, hidden, task->scale, INT32_MAX / 2, arriving))
                            goto out_of_range;
                        current = arriving;
                        visited.arrived++;
                    }
                    if (step < starting) {
                        const double *values = task->start + (step * task->batch + sample) * hidden;
                        if (!NAME(units_of)(values, FLOAT64, hidden, task->scale, INT32_MAX / 2, begun)) goto out_of_range;
                        for (int64_t k = 0; k < hidden; k++) begun[k] += current[k];
                        current = begun;
                        visited.arrived++;
                    }
                    int8_t *fired = spikes + step * row;
                    const int32_t cap = (int32_t)cap_at(neurons, step);
                    const int32_t margin = margin_at(&task->exactly, visited.received + visited.arrived,
                                                     neurons->levels ? neurons->total : cap);
                    if (neurons->levels) {
                        int32_t undecided = 0;
                        if (task->potential) {
                            for (int64_t k = 0; k < hidden; k++) arriving[k] = current[k] + task->potential[k];
                            current = arriving;
                        }
#define LEVELS(margin, near)                                                                                          \
    NAME(levels_of)(stride, recurrent, shift, driven ? drive : zeros, current, neurons, NULL, fired, margin, near, v, &undecided)
                        ups = (int32_t)(is_rounded ? LEVELS(margin, near) : LEVELS(0, NULL));
#undef LEVELS
                        for (int64_t k = undecided ? NAME(next_near)(near, 0, hidden) : hidden; k < hidden;
                             k = NAME(next_near)(near, k + 1, hidden)) {
                            const double sum = (double)v[k] + (double)fired[k] * task->thresholds[k];
                            ups -= fired[k];
                            fired[k] = (int8_t)NAME(decide_visited)(&visited, step, k, 0, sum);
                            ups += fired[k];
                        }
                    } else {
                        const int flows = driven && awake_at(neurons, step), open = cap > step;
                        int by = shift;
                        if (current != zeros) {
                            for (int64_t k = 0; k < hidden; k++)
                                arriving[k] = current[k] + (int32_t)((uint32_t)recurrent[k] << shift);
                            recurrent = arriving, by = 0;
                        }
#define STEP(drive, open, near) NAME(take_step)(&visited, step, recurrent, by, drive, open, near, margin, fired)
#define STEP_OF(drive, open) (is_rounded ? STEP(drive, open, 1) : STEP(drive, open, 0))
                        if (open) flows ? STEP_OF(drive, 1) : STEP_OF(NULL, 1);
                        else flows ? STEP_OF(drive, 0) : STEP_OF(NULL, 0);
#undef STEP_OF
#undef STEP
                        if (task->positive) NAME(signs)(outputs_padded, fired, &ups, &downs);
                    }
                    const int any = NAME(note)(outputs_padded, fired, task->sums && step < capacity ? summed + step * row : NULL);
                    if (!any && step >= before_steps && step >= task->arriving && step >= starting && step >= neurons->wake_steps) break;
                    if (step >= capacity) {
                        needed = capacity + 1;
                        goto done;
                    }
                    if (task->sums) summed_to = step >= summed_to ? step + 1 : summed_to;
                    if (task->out) memcpy(out + step * task->out_step, fired, (size_t)hidden);
                    if (task->positive) {
                        task->positive[step * task->batch * task->length + tally] = ups;
                        task->negative[step * task->batch * task->length + tally] = downs;
                    }
                    if (any) ended = step + 1;
                }
                if (visit < length - 1) {
                    int8_t *freed = earlier;
                    earlier = before, earlier_steps = before_steps;
                    before = spikes, before_steps = ended;
                    spikes = freed;
                }
                if (ended > needed) needed = ended;
                if (task->sums && (++waiting == at_once || visit == length - 1)) {
                    NAME(add_up)(task, sample, summed_to, row, summed);
                    summed_to = waiting = 0;
                }
            }
            for (; step < capacity; step++) {
                if (task->out) memset(out + step * task->out_step, 0, (size_t)hidden);
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
