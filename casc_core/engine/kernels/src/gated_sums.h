/* What a hidden state brings to the gates of the next position: sums of rows of rounded weights, for all of its steps.

   The weights fall into blocks of GATED_BLOCK outputs, which stay in the nearest cache while all steps go by. In each 32 outputs
   of a block, the first 16 and the last 16 take turns, so that to widen sums to int32 leaves them in order. */

/* What goes on to the next position of a state, step by step: the units that spike +1, and those that spike -1. Those of a step
   end at `rises`, and `falls`, of the next. With `graded` the units `risen` change by `change`. */
typedef struct {
    int64_t steps, *rises, *falls;
    int32_t *risen, *fallen;
    int graded;
    int16_t *change;
} NAME(Events);

/* Begins a list anew. */
INLINE void NAME(clear)(NAME(Events) *events) {
    events->steps = events->graded = 0;
    events->rises[0] = events->rises[1] = events->falls[0] = events->falls[1] = 0;
}

/* Appends that a unit's level changes, to what are no spikes. */
INLINE void NAME(list_change)(NAME(Events) *events, int64_t k, int64_t change) {
    int64_t *end = events->rises + events->steps + 1;
    events->graded = 1;
    events->risen[*end] = (int32_t)k;
    events->change[*end] = (int16_t)change;
    *end += change != 0;
}

/* Appends to a list the units of a vector from `k` on whose bits are set; it has room for eight more. Returns its end. */
INLINE int64_t NAME(list_units)(int32_t *list, int64_t end, uint32_t bits, int64_t k, const uint8_t (*ones)[8]) {
    for (int64_t first = k; first < k + FLOATS; first += 8, bits >>= 8) { /* no branch: nobody could foretell the bits */
        for (int i = 0; i < 8; i++) list[end + i] = (int32_t)first + ones[bits & 255][i];
        end += __builtin_popcount(bits & 255);
    }
    return end;
}

/* Each of eight bits as a byte of 0 or 1. */
INLINE uint64_t NAME(bytes_of)(uint32_t bits) {
    const uint64_t own = (bits & 255) * 0x0101010101010101u & 0x8040201008040201u;
    return (own + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
}

/* Writes the spikes of a vector of neurons, of which there are `n`. */
INLINE void NAME(write_spikes)(int8_t *to, uint32_t up, uint32_t down, int64_t n) {
    enum { BYTES = FLOATS < 8 ? FLOATS : 8 };
    for (int64_t first = 0; first < FLOATS && first < n; first += 8, up >>= 8, down >>= 8) {
        const uint64_t spikes = NAME(bytes_of)(up) | NAME(bytes_of)(down) * 255;
        if (first + BYTES <= n) memcpy(to + first, &spikes, BYTES);
        else memcpy(to + first, &spikes, (size_t)(n - first));
    }
}

/* Rows in the order in which they are summed, for every block alike: those of a step's positive spikes, then those of its
   negative ones, in groups of ROWS_AT_ONCE that are filled up with the row behind the last, which is zero. `groups` of a step are
   at 2 * step, of the negative ones behind it. */
typedef struct {
    int32_t *offset; /* in a block */
    int32_t *groups;
} NAME(Schedule);

/* Lists some of a step's units. Returns what is behind the last group. */
INLINE int32_t *NAME(schedule_units)(const int32_t *units, int64_t count, int64_t hidden, int32_t *groups, int32_t *to) {
    *groups = (int32_t)((count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
    for (int64_t i = 0; i < *groups * ROWS_AT_ONCE; i++) to[i] = (int32_t)((i < count ? units[i] : hidden) * GATED_BLOCK);
    return to + *groups * ROWS_AT_ONCE;
}

static void NAME(schedule)(const NAME(Events) *events, int64_t hidden, const NAME(Schedule) *schedule) {
    int32_t *to = schedule->offset;
    for (int64_t step = 0; step < events->steps; step++) {
        const int64_t rises = events->rises[step], falls = events->falls[step];
        int32_t *groups = schedule->groups + 2 * step;
        to = NAME(schedule_units)(events->risen + rises, events->rises[step + 1] - rises, hidden, groups, to);
        to = NAME(schedule_units)(events->fallen + falls, events->falls[step + 1] - falls, hidden, groups + 1, to);
    }
}

#if VECTOR
/* sum += or -= one group of rows. */
INLINE void NAME(add_group)(const int16_t *weights, const int32_t *offset, const int rises, WORD *sum) {
    for (int i = 0; i < ROWS_AT_ONCE; i++) {
        const int16_t *row = weights + offset[i];
        for (int w = 0; w < GATED_BLOCK / WORD_LANES; w++) {
            const WORD x = LOAD(row + WORD_LANES * w);
            sum[w] = rises ? ADD16(sum[w], x) : SUB16(sum[w], x);
        }
    }
}

/* Adds sums in int16, of some groups, to those in int32, and begins anew. */
INLINE void NAME(widen)(WORD *sum, WORD *low, WORD *high) {
    const WORD firsts = EACH_PAIR(1), seconds = EACH_PAIR(1 << 16);
    for (int w = 0; w < GATED_BLOCK / WORD_LANES; w++) {
        low[w] = PAIRS(low[w], sum[w], firsts), high[w] = PAIRS(high[w], sum[w], seconds);
        sum[w] = ZERO();
    }
}

/* The running sums of a block at each step, `stride` apart. */
INLINE void NAME(sum_block)(const int16_t *weights, const NAME(Events) *events, const NAME(Schedule) *schedule, int64_t stride,
                            int32_t *to) {
    enum { WORDS = GATED_BLOCK / WORD_LANES, HALF = WORD_LANES / 2, MOST_GROUPS = ROWS_OF_INT16 / ROWS_AT_ONCE };
    WORD sum[WORDS], low[WORDS], high[WORDS];
    for (int w = 0; w < WORDS; w++) sum[w] = low[w] = high[w] = ZERO();
    const int32_t *offset = schedule->offset;
    for (int64_t step = 0; step < events->steps; step++, to += stride) {
        int groups = 0;
        for (int sign = 0; sign < 2; sign++)
            for (int64_t n = schedule->groups[2 * step + sign]; !events->graded && n > 0; n--, offset += ROWS_AT_ONCE) {
                NAME(add_group)(weights, offset, sign == 0, sum);
                if (++groups < MOST_GROUPS) continue;
                NAME(widen)(sum, low, high);
                groups = 0;
            }
        for (int64_t e = events->rises[step]; events->graded && e < events->rises[step + 1]; e++) {
            const int16_t *row = weights + (int64_t)events->risen[e] * GATED_BLOCK;
            const WORD firsts = EACH_PAIR((uint16_t)events->change[e]), seconds = EACH_PAIR(events->change[e] * 65536);
            for (int w = 0; w < WORDS; w++) {
                const WORD x = LOAD(row + WORD_LANES * w);
                low[w] = PAIRS(low[w], x, firsts), high[w] = PAIRS(high[w], x, seconds);
            }
        }
        NAME(widen)(sum, low, high);
        for (int w = 0; w < WORDS; w++) {
            int32_t *at = to + w * WORD_LANES / 32 * 32 + w * HALF % 16;
            STORE(at, low[w]);
            STORE(at + 16, high[w]);
        }
    }
}
#else
INLINE void NAME(sum_block)(const int16_t *weights, const NAME(Events) *events, const NAME(Schedule) *schedule, int64_t stride,
                            int32_t *to) {
    (void)schedule;
    int32_t sums[GATED_BLOCK] = {0};
    for (int64_t step = 0; step < events->steps; step++, to += stride) {
        for (int sign = 1; sign >= -1; sign -= 2) {
            const int64_t *ends = sign > 0 ? events->rises : events->falls;
            for (int64_t e = ends[step]; e < ends[step + 1]; e++) {
                const int16_t *row = weights + (int64_t)(sign > 0 ? events->risen : events->fallen)[e] * GATED_BLOCK;
                const int32_t factor = events->graded ? events->change[e] : sign;
                for (int k = 0; k < GATED_BLOCK; k++) sums[k] += factor * row[k / 32 * 32 + k % 16 * 2 + k % 32 / 16];
            }
        }
        memcpy(to, sums, sizeof sums);
    }
}
#endif

/* The running sums of all rows at each step. */
static void NAME(sum_steps)(const GatedTask *task, const NAME(Events) *events, const NAME(Schedule) *schedule, int32_t *to) {
    if (!events->graded) NAME(schedule)(events, task->hidden, schedule);
    for (int64_t block = 0; block < task->blocks; block++)
        NAME(sum_block)(task->weights + block * (task->hidden + 1) * GATED_BLOCK, events, schedule,
                        task->blocks * GATED_BLOCK, to + block * GATED_BLOCK);
}
