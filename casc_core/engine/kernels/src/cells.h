/* One position of a GRU or an LSTM in training: its activations and states, rounded to levels or not, and the gradient of that.

   All arrays are rows of float32, of `hidden` entries or of that many for each gate. No sum is fused with a product, so all sets
   of instructions give the same bits. */

#define POWER 12582912.0f /* 1.5 * 2^23: a sum with it is a whole number, in the lowest bits */

/* x within -most..most. */
INLINE REALS NAME(clip)(REALS x, REALS most) { return NO_LESS(AT_MOST(x, most), EACH_REAL(0) - most); }

/* 1 / (1 + exp(-x)): exp(-x) is 2^n exp(r), that of r no larger than log(2) / 2 by its series. */
INLINE REALS NAME(sigmoid)(REALS x) {
    static const float series[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1, 1};
    const REALS y = NAME(clip)(EACH_REAL(0) - x, EACH_REAL(86)); /* no power leaves the range of float32 */
    const REALS power = y * EACH_REAL(1.44269504f) + EACH_REAL(POWER), n = power - EACH_REAL(POWER);
    /* log(2) in two parts, of which n times the first is exact. */
    const REALS r = (y - n * EACH_REAL(0.693359375f)) + n * EACH_REAL(2.12194440e-4f);
    REALS sum = EACH_REAL(series[0]);
    for (int i = 1; i < 8; i++) sum = sum * r + EACH_REAL(series[i]);
    return EACH_REAL(1) / (EACH_REAL(1) + TIMES_POWER(sum, power));
}

INLINE REALS NAME(hyperbolic)(REALS x) { return NAME(sigmoid)(x + x) * EACH_REAL(2) - EACH_REAL(1); }

/* The derivatives of both, of their values. */
INLINE REALS NAME(sigmoid_slope)(REALS y) { return y - y * y; }
INLINE REALS NAME(hyperbolic_slope)(REALS y) { return EACH_REAL(1) - y * y; }

/* The levels that numbers are rounded to; without them q is 1 and nothing is rounded. */
typedef struct {
    int rounds;
    REALS q, unit, most;
} NAME(Grid);

INLINE NAME(Grid) NAME(grid_of)(int64_t q, int64_t most) {
    const REALS levels = EACH_REAL((float)(q ? q : 1));
    return (NAME(Grid)){q != 0, levels, EACH_REAL(1) / levels, EACH_REAL((float)most)};
}

/* An activation in levels: the nearest. */
INLINE REALS NAME(activation)(const NAME(Grid) *to, REALS x) {
    return to->rounds ? BELOW(x * to->q + EACH_REAL(0.5f)) : x;
}

/* A state, which is a multiple of 1/q, in levels. */
INLINE REALS NAME(whole)(const NAME(Grid) *to, REALS x) { return to->rounds ? NEAREST(x * to->q) : x; }

/* In levels: the nearest to such a state. */
INLINE REALS NAME(state)(const NAME(Grid) *to, REALS x) { return to->rounds ? NEAREST(x) : x; }

/* x / q, for times 1/q, what lies halfway between two levels would lie beside that. */
INLINE REALS NAME(over)(const NAME(Grid) *to, REALS x) {
    if (to->rounds) x = x / to->q;
    return x;
}

/* An LSTM's cell in levels, before it is clipped. */
INLINE REALS NAME(next_cell)(const NAME(Grid) *to, REALS taken, REALS kept, REALS candidate, REALS before) {
    return NAME(state)(to, NAME(over)(to, kept * NAME(whole)(to, before) + taken * candidate));
}

INLINE void NAME(lstm_row)(const CellTask *task, const NAME(Grid) *to, int64_t row) {
    const int64_t hidden = task->hidden;
    for (int64_t k = 0; k < hidden; k += FLOATS) {
        const int64_t left = hidden - k, at = row * hidden + k;
        REALS opened[4];
        for (int gate = 0; gate < 4; gate++) {
            const int64_t place = (4 * row + gate) * hidden + k;
            const REALS x = NAME(load_reals)(task->drive + place, left) + NAME(load_reals)(task->product + place, left);
            const REALS y = gate == 2 ? NAME(hyperbolic)(x) : NAME(sigmoid)(x);
            NAME(store_reals)(task->gates + place, y, left);
            opened[gate] = NAME(activation)(to, y);
        }
        REALS cell = NAME(next_cell)(to, opened[0], opened[1], opened[2], NAME(load_reals)(task->before + at, left));
        if (to->rounds) cell = NAME(over)(to, NAME(clip)(cell, to->most));
        const REALS shown = opened[3] * NAME(activation)(to, NAME(hyperbolic)(cell));
        NAME(store_reals)(task->beside + at, cell, left);
        NAME(store_reals)(task->state + at, NAME(over)(to, NAME(state)(to, NAME(over)(to, shown))), left);
    }
}

INLINE void NAME(gru_row)(const CellTask *task, const NAME(Grid) *to, int64_t row) {
    const int64_t hidden = task->hidden;
    for (int64_t k = 0; k < hidden; k += FLOATS) {
        const int64_t left = hidden - k, at = row * hidden + k;
        REALS opened[2];
        for (int gate = 0; gate < 2; gate++) {
            const int64_t place = (3 * row + gate) * hidden + k;
            const REALS x = NAME(load_reals)(task->drive + place, left) + NAME(load_reals)(task->product + place, left);
            const REALS y = NAME(sigmoid)(x);
            NAME(store_reals)(task->gates + place, y, left);
            opened[gate] = NAME(activation)(to, y);
        }
        const int64_t place = (3 * row + 2) * hidden + k;
        const REALS recurrent = NAME(load_reals)(task->product + place, left);
        const REALS x = NAME(load_reals)(task->drive + place, left) + opened[0] * to->unit * recurrent;
        const REALS y = NAME(hyperbolic)(x), candidate = NAME(activation)(to, y);
        NAME(store_reals)(task->gates + place, y, left);
        NAME(store_reals)(task->beside + at, recurrent, left);
        const REALS before = NAME(whole)(to, NAME(load_reals)(task->before + at, left));
        const REALS mixed = NAME(over)(to, opened[1] * (before - candidate)) + candidate;
        NAME(store_reals)(task->state + at, NAME(over)(to, NAME(state)(to, mixed)), left);
    }
}

/* What arrives at a state: from above, and from the position that is visited next. */
INLINE REALS NAME(arriving)(const CellGradientTask *task, int64_t row, int64_t k, int64_t left) {
    REALS sum = NAME(load_reals)(task->above + row * task->above_row + k, left);
    if (row < task->known) sum = sum + NAME(load_reals)(task->later + row * task->hidden + k, left);
    return sum;
}

INLINE REALS NAME(carried)(const CellGradientTask *task, int64_t row, int64_t k, int64_t left) {
    return row < task->known ? NAME(load_reals)(task->carry + row * task->hidden + k, left) : EACH_REAL(0);
}

INLINE void NAME(lstm_gradient_row)(const CellGradientTask *task, const NAME(Grid) *to, int64_t row) {
    const int64_t hidden = task->hidden;
    for (int64_t k = 0; k < hidden; k += FLOATS) {
        const int64_t left = hidden - k, at = row * hidden + k, first = 4 * row * hidden + k;
        REALS smooth[4], opened[4];
        for (int gate = 0; gate < 4; gate++) {
            smooth[gate] = NAME(load_reals)(task->gates + first + gate * hidden, left);
            opened[gate] = NAME(activation)(to, smooth[gate]);
        }
        const REALS before = NAME(load_reals)(task->before + at, left);
        const REALS seen = NAME(hyperbolic)(NAME(load_reals)(task->beside + at, left));
        const REALS arriving = NAME(arriving)(task, row, k, left);
        REALS cell = NAME(carried)(task, row, k, left) + arriving * (opened[3] * to->unit) * NAME(hyperbolic_slope)(seen);
        if (task->above_cells) cell = cell + NAME(load_reals)(task->above_cells + at, left);
        if (to->rounds) { /* nothing goes back to a cell that is clipped */
            const REALS unclipped = NAME(next_cell)(to, opened[0], opened[1], opened[2], before);
            const REALS size = SELECT(LESS(unclipped, EACH_REAL(0)), EACH_REAL(0) - unclipped, unclipped);
            cell = SELECT(LESS(to->most, size), EACH_REAL(0), cell);
        }
        const REALS into[4] = {
            cell * (opened[2] * to->unit) * NAME(sigmoid_slope)(smooth[0]),
            cell * before * NAME(sigmoid_slope)(smooth[1]),
            cell * (opened[0] * to->unit) * NAME(hyperbolic_slope)(smooth[2]),
            arriving * (NAME(activation)(to, seen) * to->unit) * NAME(sigmoid_slope)(smooth[3]),
        };
        for (int gate = 0; gate < 4; gate++) NAME(store_reals)(task->into_gates + first + gate * hidden, into[gate], left);
        NAME(store_reals)(task->carry + at, cell * (opened[1] * to->unit), left);
    }
}

INLINE void NAME(gru_gradient_row)(const CellGradientTask *task, const NAME(Grid) *to, int64_t row) {
    const int64_t hidden = task->hidden;
    for (int64_t k = 0; k < hidden; k += FLOATS) {
        const int64_t left = hidden - k, at = row * hidden + k, first = 3 * row * hidden + k;
        REALS smooth[3], opened[3];
        for (int gate = 0; gate < 3; gate++) {
            smooth[gate] = NAME(load_reals)(task->gates + first + gate * hidden, left);
            opened[gate] = NAME(activation)(to, smooth[gate]) * to->unit;
        }
        const REALS before = NAME(load_reals)(task->before + at, left);
        const REALS recurrent = NAME(load_reals)(task->beside + at, left);
        const REALS arriving = NAME(arriving)(task, row, k, left) + NAME(carried)(task, row, k, left);
        const REALS candidate = arriving * (EACH_REAL(1) - opened[1]) * NAME(hyperbolic_slope)(smooth[2]);
        const REALS reset = candidate * recurrent * NAME(sigmoid_slope)(smooth[0]);
        const REALS update = arriving * (before - opened[2]) * NAME(sigmoid_slope)(smooth[1]);
        NAME(store_reals)(task->into_gates + first, reset, left);
        NAME(store_reals)(task->into_gates + first + hidden, update, left);
        NAME(store_reals)(task->into_gates + first + 2 * hidden, candidate, left);
        NAME(store_reals)(task->into_product + first, reset, left);
        NAME(store_reals)(task->into_product + first + hidden, update, left);
        NAME(store_reals)(task->into_product + first + 2 * hidden, candidate * opened[0], left);
        NAME(store_reals)(task->carry + at, arriving * opened[1], left);
    }
}

/* The rows first..last-1, with levels and without: two loops, of which either knows. */
#define ROWS_OF_CELLS(kernel, kind)                                                                                  \
    static int64_t NAME(kernel)(const kind *task, int64_t first, int64_t last) {                                     \
        const NAME(Grid) rounded = NAME(grid_of)(task->q, task->most), as_it_is = NAME(grid_of)(0, 0);         \
        if (task->q)                                                                                                 \
            for (int64_t row = first; row < last; row++) NAME(kernel##_row)(task, &rounded, row);                    \
        else                                                                                                         \
            for (int64_t row = first; row < last; row++) NAME(kernel##_row)(task, &as_it_is, row);                   \
        return 0;                                                                                                    \
    }
ROWS_OF_CELLS(lstm, CellTask)
ROWS_OF_CELLS(gru, CellTask)
ROWS_OF_CELLS(lstm_gradient, CellGradientTask)
ROWS_OF_CELLS(gru_gradient, CellGradientTask)
#undef ROWS_OF_CELLS
#undef POWER
