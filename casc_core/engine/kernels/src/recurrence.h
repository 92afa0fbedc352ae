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

/* The true potential of a neuron that has fired so often, current received: of neuron `k` of one position, which `before`
   reached for so many steps. What it has received of spikes and currents up to step `upto[k]` is kept in `received[k]`: no step
   is summed twice. */
static double NAME(true_potential)(const RecurrenceTask *task, int64_t k, int64_t step, const int8_t *before,
                                   int64_t before_steps, int64_t drive, int64_t train, const double *initial,
                                   int64_t count, double *received, int32_t *upto) {
    const Neurons *neurons = &task->neurons;
    const int64_t rows = task->weights.rows, padded = task->weights.rows_padded, stride = task->weights.stride;
    const double flows = (double)(neurons->levels ? neurons->total : cap_at(neurons, step));
    double sum = task->exact_potential ? task->exact_potential[k] : 0;
    /* A drive is rounded where neurons receive it; trains are on the grid already. */
    if (drive >= 0) {
        const double value = NAME(value_at)(task->exact_drive, task->exact_drive_type, drive + k);
        sum += flows * __builtin_rint(task->exact_scale * value);
    }
    if (initial) sum += flows * initial[k];
    double arrived = upto[k] ? received[k] : 0;
    for (int64_t s = upto[k]; s <= step && s < task->arriving; s++)
        arrived += task->exact_scale * NAME(value_at)(task->train, task->train_type, train + s * task->train_step + k);
    for (int64_t s = upto[k]; s <= step && s < before_steps; s++) {
        const int8_t *spikes = before + s * padded;
        for (int64_t j = 0; j < rows; j += 8) {
            uint64_t eight;
            memcpy(&eight, spikes + j, 8);
            for (int64_t i = j; eight && i < j + 8 && i < rows; i++)
                if (spikes[i]) arrived += spikes[i] * task->exact_weights[i * stride + k];
        }
    }
    received[k] = arrived, upto[k] = (int32_t)step + 1;
    return sum + arrived - task->exactly.threshold * (double)count;
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
    char *memory = scratch_open(&scratch, padded, (capacity + 10) * ints + 3 * trains + padded);
    if (!memory) return NO_MEMORY;
    int32_t *products = (int32_t *)memory, *zeros = products + capacity * stride, *drive = zeros + stride;
    int32_t *arriving = drive + stride, *v = arriving + stride, *total = v + stride, *initial = total + stride;
    int32_t *which = initial + stride, *upto = which + stride;
    double *received = (double *)(upto + stride);
    const int32_t margin = (int32_t)task->exactly.margin;
    int8_t *spikes = (int8_t *)(received + stride), *before = spikes + trains, *earlier = before + trains;
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
            int64_t drive_at = -1; /* where its drive is; -1: there is none */
            if (real) {
                if (task->drive) {
                    int64_t at = sample * task->drive_sample + position * task->drive_position;
                    if (task->index) at = task->index[at] * task->drive_row;
                    const char *row = (const char *)task->drive + at * type_size(task->drive_type);
                    if (!NAME(units_of)(row, task->drive_type, hidden, task->scale, task->drive_limit, drive))
                        goto out_of_range;
                    driven = 1;
                    drive_at = at;
                }
                if (task->initial && visit == 0) {
                    if (!driven) memset(drive, 0, (size_t)ints);
                    for (int64_t k = 0; k < hidden; k++) drive[k] += task->initial[sample * hidden + k];
                    driven = 1;
                }
                memset(v, 0, (size_t)ints);
                memset(total, 0, (size_t)ints);
                memset(upto, 0, (size_t)ints);
                if (task->potential) memcpy(v, task->potential, (size_t)hidden * sizeof *v);
                for (; step < neurons->most_steps; step++) {
                    const int32_t *recurrent = zeros, *current = zeros;
                    int32_t ups = 0, downs = 0;
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
                    if (neurons->levels) {
                        if (task->potential) {
                            if (current == zeros) memset(arriving, 0, (size_t)ints);
                            for (int64_t k = 0; k < hidden; k++) arriving[k] += task->potential[k];
                            current = arriving;
                        }
                        any = NAME(levels_of)(stride, recurrent, (int)task->shift, driven ? drive : zeros, current, neurons,
                                              fired);
                        ups = (int32_t)any;
                    } else {
                        const int32_t *flowing = driven && awake_at(neurons, step) ? drive : zeros;
                        any = NAME(fire)(stride, recurrent, (int)task->shift, flowing, current, threshold,
                                         (int32_t)cap_at(neurons, step), lower, v, total, fired, &ups, &downs);
                    }
                    int64_t undecided = 0;
                    int changed = 0;
                    const int32_t cap = (int32_t)cap_at(neurons, step);
                    if (margin && neurons->levels)
                        undecided = NAME(undecided_levels)(stride, recurrent, (int)task->shift, driven ? drive : zeros, current,
                                                           fired, neurons, margin, which);
                    else if (margin)
                        undecided = NAME(undecided)(stride, v, total, fired, threshold, cap, (int32_t)neurons->cif, margin,
                                                    which);
                    for (int64_t u = 0; u < undecided; u++) {
                        const int64_t k = which[u];
                        if (k >= hidden) break; /* padding */
                        const int32_t spike = fired[k], count = neurons->levels ? 0 : total[k] - spike;
                        const double charged = NAME(true_potential)(
                            task, k, step, before, before_steps, drive_at,
                            sample * task->train_sample + position * task->train_position,
                            task->exact_initial && visit == 0 ? task->exact_initial + sample * hidden : NULL, count,
                            received, upto);
                        const int32_t decided = NAME(decided)(neurons, &task->exactly, charged, count, cap);
                        if (decided == spike) continue;
                        fired[k] = (int8_t)decided;
                        if (!neurons->levels) v[k] += (spike - decided) * threshold, total[k] = count + decided;
                        changed = 1;
                    }
                    if (changed) {
                        any = ups = downs = 0;
                        for (int64_t k = 0; k < hidden; k++)
                            any |= fired[k] != 0, ups += fired[k] > 0 ? (neurons->levels ? fired[k] : 1) : 0, downs += fired[k] < 0;
                    }
                    if (!any && step >= before_steps && step >= task->arriving && step >= neurons->wake_steps) break;
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

