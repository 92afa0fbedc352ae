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
    const int8_t *before; /* the train that reaches it, of so many steps */
    int64_t before_steps;
    int64_t drive_at, train_at; /* where its drive (-1: there is none) and its train are */
    const double *start;        /* the train that it begins with, of so many steps */
    int64_t starting;
    const double *initial;      /* or NULL */
    const int32_t *drive;       /* rounded, with what is initial */
    int64_t known;              /* steps whose spikes have been counted */
    int16_t *counts;            /* of the neurons before */
} NAME(Visited);

/* What neuron `k` has received of drive, potential and train, flowed so often, up to `step`: in the finer unit, beyond what
   has been rounded of it, and with `truly` all of it. */
static double NAME(given)(const NAME(Visited) *at, int64_t k, int64_t flows, int64_t step, int truly) {
    const RecurrenceTask *task = at->task;
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
        const double value = at->start[s * task->batch * task->weights.rows + k];
        given += task->exact_scale * value - unit * __builtin_rint(task->scale * value);
    }
    return given;
}

/* Decides the neurons that are marked: corrects potentials, counts and spikes. `received` is the error that spikes have
   brought, in half units. */
static void NAME(decide_visited)(NAME(Visited) *at, int64_t step, int64_t received, const int8_t *near, int32_t *v,
                                 int32_t *total, int8_t *fired) {
    const RecurrenceTask *task = at->task;
    const Neurons *neurons = &task->neurons;
    const Exactly *exactly = &task->exactly;
    const LeftOut *left_out = &task->left_out;
    const int32_t threshold = (int32_t)neurons->threshold;
    const int64_t cap = cap_at(neurons, step), flows = neurons->levels ? neurons->total : cap;
    const int64_t hidden = task->weights.rows, padded = task->weights.rows_padded;
    const double margin = (double)received * exactly->unit * left_out->finer / 2 + ROUNDED;
    if (!at->known) memset(at->counts, 0, (size_t)padded * sizeof *at->counts);
    for (; at->known <= step && at->known < at->before_steps; at->known++)
        NAME(count)(padded, at->before + at->known * padded, at->counts);
    for (int64_t k = NAME(next_near)(near, 0, hidden); k < hidden; k = NAME(next_near)(near, k + 1, hidden)) {
        const int32_t spike = fired[k], count = neurons->levels ? 0 : total[k] - spike;
        const double sum = (double)v[k] + (double)(count + spike) * threshold;
        const double about = sum * exactly->unit + NAME(given)(at, k, flows, step, 0) +
                             NAME(next_bits)(left_out, k, at->counts);
        int32_t truth = NAME(decided)(neurons, exactly->threshold, about - margin, count, cap);
        if (truth != NAME(decided)(neurons, exactly->threshold, about + margin, count, cap))
            truth = NAME(decided)(neurons, exactly->threshold, NAME(given)(at, k, flows, step, 1) +
                                  NAME(true_sum)(left_out, k, at->counts), count, cap);
        fired[k] = (int8_t)truth;
        if (neurons->levels) continue;
        v[k] += (spike - truth) * threshold;
        total[k] = count + truth;
    }
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

/* Adds to the sums of a sequence what has been summed of it in int16, and begins anew. */
static void NAME(add_up)(const RecurrenceTask *task, int64_t sample, int64_t steps, int16_t *summed) {
    const int64_t hidden = task->weights.rows, stride = task->weights.stride;
    for (int64_t step = 0; step < steps; step++) {
        int32_t *sums = task->sums + step * task->sums_step + sample * task->sums_sample;
        for (int64_t k = 0; k < hidden; k++) sums[k] += summed[step * stride + k];
    }
    memset(summed, 0, (size_t)(steps * stride) * sizeof *summed);
}

/* The sequences first..last-1: position after position, all steps of each. */
static int64_t NAME(recurrence)(const RecurrenceTask *task, int64_t first, int64_t last) {
    const Weights *weights = &task->weights;
    const int64_t hidden = weights->rows, stride = weights->stride, padded = weights->rows_padded;
    const Neurons *neurons = &task->neurons;
    const int32_t threshold = (int32_t)neurons->threshold, lower = lower_of(neurons);
    const int64_t capacity = task->capacity, trains = (capacity + 1) * padded; /* one more, to see it silent */
    const int64_t ints = stride * (int64_t)sizeof(int32_t);
    Scratch scratch;
    const int64_t summed_steps = task->sums ? capacity : 0; /* in int16, so many positions at a time */
    const int64_t at_once = INT16_MAX / (neurons->levels ? neurons->total + 1 : 1);
    char *memory = scratch_open(&scratch, padded, (capacity + 6) * ints + 3 * trains + padded + stride +
                                                       (padded + summed_steps * stride) * (int64_t)sizeof(int16_t) +
                                                       2 * (capacity + 1) * (int64_t)sizeof(int64_t));
    if (!memory) return NO_MEMORY;
    int64_t *active = (int64_t *)memory, *active_before = active + capacity + 1; /* spikes at each step */
    int32_t *products = (int32_t *)(active_before + capacity + 1), *zeros = products + capacity * stride;
    int32_t *drive = zeros + stride, *arriving = drive + stride, *begun = arriving + stride;
    int32_t *v = begun + stride, *total = v + stride;
    int16_t *counts = (int16_t *)(total + stride), *summed = counts + padded;
    int8_t *spikes = (int8_t *)(summed + summed_steps * stride), *before = spikes + trains, *earlier = before + trains;
    int8_t *nothing = earlier + trains, *near = nothing + padded;
    const int is_rounded = task->exactly.margin > 0;
    int64_t needed = 0;

    for (int64_t sample = first; sample < last; sample++) {
        const int64_t length = task->lengths ? task->lengths[sample] : task->length;
        /* Steps of the trains `before` and `earlier`, of which `products` holds the latter's. */
        int64_t before_steps = 0, earlier_steps = 0, summed_to = 0, waiting = 0;
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
                task, before, before_steps, -1, sample * task->train_sample + position * task->train_position,
                starting ? task->start + sample * hidden : NULL, starting,
                task->exact_initial && visit == 0 ? task->exact_initial + sample * hidden : NULL, drive, 0, counts};
            if (real) {
                if (task->drive) {
                    int64_t at = sample * task->drive_sample + position * task->drive_position;
                    if (task->index) at = task->index[at] * task->drive_row;
                    const char *row = (const char *)task->drive + at * type_size(task->drive_type);
                    if (!NAME(units_of)(row, task->drive_type, hidden, task->scale, task->drive_limit, drive))
                        goto out_of_range;
                    driven = 1;
                    visited.drive_at = at;
                }
                if (task->initial && visit == 0) {
                    if (!driven) memset(drive, 0, (size_t)ints);
                    for (int64_t k = 0; k < hidden; k++) drive[k] += task->initial[sample * hidden + k];
                    driven = 1;
                }
                memset(v, 0, (size_t)ints);
                memset(total, 0, (size_t)ints);
                if (task->potential) memcpy(v, task->potential, (size_t)hidden * sizeof *v);
                int64_t received = 0; /* error that spikes and trains have brought, in half units */
                for (; step < neurons->most_steps; step++) {
                    const int32_t *recurrent = zeros, *current = zeros;
                    int32_t ups = 0, downs = 0, undecided = 0;
                    if (step < before_steps) {
                        received += active_before[step] * task->left_out.error;
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
                        received++;
                    }
                    if (step < starting) {
                        const double *row = task->start + (step * task->batch + sample) * hidden;
                        if (!NAME(units_of)(row, FLOAT64, hidden, task->scale, INT32_MAX / 2, begun)) goto out_of_range;
                        for (int64_t k = 0; k < hidden; k++) begun[k] += current[k];
                        current = begun;
                        received++;
                    }
                    int8_t *fired = spikes + step * padded;
                    const int32_t cap = (int32_t)cap_at(neurons, step);
                    const int32_t margin = margin_at(&task->exactly, received, neurons->levels ? neurons->total : cap);
                    int64_t any;
                    if (neurons->levels) {
                        if (task->potential) {
                            for (int64_t k = 0; k < hidden; k++) arriving[k] = current[k] + task->potential[k];
                            current = arriving;
                        }
#define LEVELS(margin, near)                                                                                          \
    NAME(levels_of)(stride, recurrent, (int)task->shift, driven ? drive : zeros, current, neurons, NULL, fired, margin, near, \
                    v, &undecided)
                        any = is_rounded ? LEVELS(margin, near) : LEVELS(0, NULL);
#undef LEVELS
                        ups = (int32_t)any;
                    } else {
                        const int flows = driven && awake_at(neurons, step), shift = (int)task->shift;
#define FIRE(b, c, margin, near)                                                                                      \
    NAME(fire)(stride, recurrent, shift, b, c, threshold, NULL, cap, lower, v, total, fired, margin, near, &undecided)
#define FIRE_OF(b, c) (is_rounded ? FIRE(b, c, margin, near) : FIRE(b, c, 0, NULL))
                        if (current != zeros)
                            any = FIRE_OF(flows ? drive : zeros, current);
                        else
                            any = flows ? FIRE_OF(drive, NULL) : FIRE_OF(NULL, NULL);
#undef FIRE_OF
#undef FIRE
                    }
                    if (undecided) {
                        NAME(decide_visited)(&visited, step, received, near, v, total, fired);
                        any = ups = 0;
                        for (int64_t k = 0; neurons->levels && k < hidden; k++) ups += fired[k];
                    }
                    if (!neurons->levels) {
                        NAME(signs)(padded, fired, &ups, &downs);
                        any = ups + downs;
                    } else {
                        any = ups;
                    }
                    if (!any && step >= before_steps && step >= task->arriving && step >= starting && step >= neurons->wake_steps) break;
                    if (step >= capacity) {
                        needed = capacity + 1;
                        goto done;
                    }
                    active[step] = ups + downs;
                    if (task->sums) {
                        int16_t *sum = summed + step * stride;
                        for (int64_t k = 0; k < stride; k++) sum[k] = (int16_t)(sum[k] + fired[k]);
                        summed_to = step >= summed_to ? step + 1 : summed_to;
                    }
                    if (task->out) memcpy(out + step * task->out_step, fired, (size_t)hidden);
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
                int64_t *freed_too = active_before;
                active_before = active, active = freed_too;
                if (ended > needed) needed = ended;
                if (task->sums && (++waiting == at_once || visit == length - 1)) {
                    NAME(add_up)(task, sample, summed_to, summed);
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

