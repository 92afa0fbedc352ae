/* What the kernels are asked to do: the structures that the Python side fills in, and the memory that one thread works in. */

#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* How weights are stored and summed. SUMS16: int16 weights, and every product fits int16. SUMS32: int16 weights, int32
   sums. WIDE: int32 weights and sums. */
enum { SUMS16 = 0, SUMS32 = 1, WIDE = 2 };
enum { FLOAT32 = 0, FLOAT64 = 1, MIXED = 2 };
enum { PLAIN = 0, NEON = 1, AVX2 = 2, AVX512 = 3 };
enum { NO_MEMORY = -1, OUT_OF_RANGE = -2, UNFIT = -3 };
/* To look for a nearer reference than one that so few rows are missing from takes as long as adding them. */
enum { FEW_ROWS = 4 };
/* Patterns of four inputs that each spike once, not at all or once back; positions of a tile at most, and rows of a kernel
   where tables are used. */
enum { PATTERNS = 81, SILENCE = 40, TILE = 16, MOST_KERNEL = 16 };
/* Outputs in a block of weights that are summed densely, and terms of a sum at most. */
enum { DENSE_BLOCK = 16, MOST_TERMS = 16 };
/* A list has room for so many more than there are inputs. Steps back whose spikes may be near those of a step. */
enum { LIST_ROOM = 16, STEPS_BACK = 4 };
/* Terms of a float32 sum that are added before that is added to others. */
enum { DRIVEN_TERMS = 32 };
/* The few additions on the way to a decision round by less than so many of the finer units. */
enum { ROUNDED = 32 };
/* Of a gated layer: outputs in a block of its weights, the rows whose sum int16 holds, those that are added in one go, entries
   of a small table of thresholds. */
enum { GATED_BLOCK = 64, ROWS_OF_INT16 = 7, ROWS_AT_ONCE = 3, SMALL_TABLE = 32 };

/* Neurons under a schedule: CIF, or IF. `threshold` is in the unit of their currents, a whole number where those are. `awake`
   [wake_steps] marks the wake steps, `caps` [wake_steps] holds the largest spike count at each; `total` is the largest
   afterwards. The run is cut after `most_steps`. With `levels` their counts are computed at once, as the levels that they
   settle at. */
typedef struct {
    double threshold;
    int64_t cif, levels, total;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, most_steps;
} Neurons;

/* The largest spike count that a neuron may reach at a step. */
static int64_t cap_at(const Neurons *neurons, int64_t step) {
    return step < neurons->wake_steps ? neurons->caps[step] : neurons->total;
}

/* Whether the drive flows at a step. */
static int awake_at(const Neurons *neurons, int64_t step) { return step < neurons->wake_steps && neurons->awake[step]; }

/* The potential below which a neuron takes a spike back, in integers. */
static int32_t lower_of(const Neurons *neurons) { return neurons->cif ? 0 : INT32_MIN; }

/* Weights by input: a row holds what one input sends to all outputs. Rows are `stride` (a multiple of 32) apart;
   `rows_padded` is a multiple of 64. */
typedef struct {
    const void *values;
    int64_t kind, rows, rows_padded, stride, outputs;
} Weights;

/* The product of `train` [steps, samples, rows] int8, `out` [steps, samples, outputs]. `peaks` [rows_padded] holds the largest
   spike count of each input, 0 in the padding; `peak_product` [stride] its product. */
typedef struct {
    Weights weights;
    const int8_t *peaks;
    const int32_t *peak_product;
    const int8_t *train;
    int64_t steps, samples, outputs;
    void *out;
    int64_t out_type;
    double unit;
} RowsTask;

/* Neurons of one floating type, or MIXED: currents in float32, all else in float64. `currents` [arriving, count] and `drive`
   [count] or NULL, `thresholds` [count] or NULL for one, `potential` [count] before the first step or NULL. With `by_level`
   [range + 2], -infinity, a threshold for each level, and infinity, counts go from `lowest` to `lowest + range`, whatever the
   cap, and `thresholds` are what those are multiplied by. */
typedef struct {
    Neurons neurons;
    const void *currents, *drive, *thresholds, *potential, *by_level;
    int64_t lowest, count, arriving, capacity;
    int8_t *out;
} ScanTask;

/* What int32 leaves out of a population's sums, where its numbers are finer than int32 holds: one of its units is `unit` of the
   finer ones, in which float64 holds every sum exactly, and in which `threshold` is. Sums are within `margin` of the true ones
   (0: nothing is left out), and within half of `once`, `flow` for each time that the drive has flowed, and the `error` of the
   weights for each spike. A neuron nearer than that to a decision is decided by what was left out. */
typedef struct {
    int64_t margin, once, flow;
    double threshold, unit;
} Exactly;

/* What the rounding of weights has left out, output by output, `reads` (a multiple of 32) of them: their next bits, in
   `unit` of the finer units, and the weights as they are. A spike may be off by `error` half units before the next bits are
   counted, and by `finer` of that afterwards. */
typedef struct {
    const int16_t *low;
    const double *exact;
    double unit, finer;
    int64_t reads, error;
} LeftOut;

/* Within how many units a sum is the true one, once spikes have brought so many half units of error. */
static int32_t margin_at(const Exactly *exactly, int64_t received, int64_t flows) {
    const int64_t margin = (exactly->once + received + flows * exactly->flow) / 2 + 1;
    return (int32_t)(margin < exactly->margin ? margin : exactly->margin);
}

/* A recurrent population over a batch of sequences. Its drive is dense, or rows of an embedding by `index`; all strides count
   elements. A product times 2**shift is in the unit of currents and thresholds [stride]. `start` [starting, batch, hidden]: a train
   that reaches the first position of each sequence besides. `spikes` [spiking, batch, rows]: those of a position before the first,
   which send through the weights; a population that another one drives is a recurrence of one position. */
typedef struct {
    Neurons neurons;
    Weights weights;
    const int32_t *thresholds;
    const double *exact_thresholds;
    const int8_t *spikes;
    int64_t spiking;
    const int8_t *peaks;
    const int32_t *peak_product;
    int64_t shift, batch, length;
    const int64_t *lengths;
    int64_t reverse;
    const void *drive;
    const int64_t *index;
    int64_t drive_type, drive_sample, drive_position, drive_row;
    double scale, drive_limit;
    const void *train;
    int64_t train_type, arriving, train_step, train_sample, train_position;
    const double *start;
    int64_t starting;
    const int32_t *initial, *potential;
    Exactly exactly;
    LeftOut left_out;
    const double *exact_initial, *exact_potential;
    const void *exact_drive; /* as the drive, which may be rounded to float32 */
    int64_t exact_drive_type;
    double exact_scale;
    int64_t capacity;
    int8_t *out; /* or NULL, where only sums are asked for */
    int64_t out_step, out_sample, out_position;
    int32_t *sums; /* zeros, or NULL: of the spikes of all positions */
    int64_t sums_step, sums_sample;
    int32_t *positive, *negative;
} RecurrenceTask;

/* Thresholds between -infinity and infinity, and the same in float32. */
typedef struct {
    const double *exact;
    const float *rounded;
} GatedTable;

/* A gated recurrent layer over a batch of sequences, a GRU or an LSTM; all strides count elements. `weights` [blocks, hidden +
   1, GATED_BLOCK] by input, the last of which is 0, of 3 or 4 gates of `width` outputs each (a multiple of 16), 0 behind
   `hidden`, in the order that gated_sums.h tells; rounded in units of `unit`, each off by at most `error`, to magnitudes of which int16 holds the sum of
   ROWS_OF_INT16. `left_out` by output: their next bits, and as they are, in units of `grain`. Sums in float32 are off by at most
   `rounding` besides. `bias` [hidden] or NULL, beside what a GRU's reset gate multiplies. Thresholds: of `sigmoid` [q + 2] and
   `tanh` [2 q + 2], those of a GRU times q, of the hidden `state` [2 q + 2] and of a `cell` [2 cells + 2]. `seen` [2 cells + 1]:
   an LSTM's cell as its output gate meets it. The drive is dense, or rows of a table by `index`. `start` [starting, batch, hidden]
   and `start_cells`: by how many levels the states that each sequence begins with change at each step. `out`: zeros, of each population, NULL where they are not asked for:
   spikes in int8, levels in int16. */
typedef struct {
    Neurons neurons;
    const int16_t *weights;
    int64_t blocks;
    LeftOut left_out;
    double unit, grain, error, rounding;
    int64_t lstm, q, cells, batch, length, hidden, width;
    const double *bias;
    GatedTable sigmoid, tanh, state, cell;
    const float *seen;
    const int64_t *lengths;
    int64_t reverse;
    const double *drive;
    const int64_t *index;
    int64_t drive_sample, drive_position, drive_row;
    const double *train;
    int64_t arriving, train_step, train_sample, train_position;
    const int16_t *start, *start_cells;
    int64_t starting, starting_cells;
    int64_t capacity, out_step, out_sample, out_position;
    void *out[6];
} GatedTask;

/* One convolution of a train [steps, samples, height, width, channels] int8 on its way to a population. For each block of
   output channels, weights, `block_bytes` apart, read the channels from in_lo[block] on, at most `most_in` of them, in chunks of
   `chunk`: [kernel_y, chunks, kernel_x, channels of a chunk, width of a block]. A product times 2**shift is in the population's
   unit. `ring`: input rows that the output rows of a tile span. */
typedef struct {
    const int8_t *train;
    int64_t steps, height, width, channels;
    const void *weights;
    int64_t kind, block_bytes, shift, most_in, chunk;
    const int64_t *in_lo, *in_n;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, ring;
    LeftOut left_out; /* of the first block, those of the next behind it; `width` outputs each */
    int64_t own;
    const void *tables;
    int64_t table_bytes, quarters, padded_width;
} ConvolutionTerm;

static int64_t taps_of(const ConvolutionTerm *term) { return term->kernel_y * term->kernel_x; }

/* Whether what spikes is listed. */
static int is_listed(const ConvolutionTerm *term) { return !term->own && !term->tables; }

/* Numbers of room that lists and keys of an input row take. */
static int64_t starts_of(const ConvolutionTerm *term) {
    return is_listed(term) ? (term->steps * term->width + 1) * ((term->most_in + term->chunk - 1) / term->chunk) : 0;
}
static int64_t entries_of(const ConvolutionTerm *term) {
    return is_listed(term) ? term->steps * term->width * term->most_in + LIST_ROOM : 0;
}
/* Keys of a step, and of all; they are marked four by four. */
static int64_t keys_of_step(const ConvolutionTerm *term) { return term->padded_width * term->quarters; }
static int64_t keys_of_term(const ConvolutionTerm *term) { return term->tables ? term->steps * keys_of_step(term) + 32 : 0; }
static int64_t marks_of_step(const ConvolutionTerm *term) { return keys_of_step(term) / 4 / 64 + 1; }
static int64_t marks_of_term(const ConvolutionTerm *term) { return term->tables ? term->steps * marks_of_step(term) : 0; }

/* One row of input positions, as a term reads it. Its lists: entries of (chunk, step, x) lie from
   start[chunk * (steps * width + 1) + step * width + x] up to the next; `spike` is what spikes there. The magnitudes of the sums
   of spikes up to a step grow by `growth` [steps, out_width] where an output position reads them, in half units of error. Or keys
   of tables [step, x with the padding, quarters], and a mark [step, marks_of_step] for every four that are not all of silence. */
typedef struct {
    int64_t y; /* which row it is; -1: none */
    uint32_t *start;
    int32_t *entry;
    int64_t *growth;
    int16_t *spike;
    int16_t *key;
    uint64_t *some;
} InputRow;

/* How many input columns `positions` outputs in a row read. */
static int64_t across_of(const ConvolutionTerm *term, int64_t positions) {
    return (positions - 1) * term->stride_x + (term->kernel_x - 1) * term->dilation_x + 1;
}

/* The input row of an output row and a kernel row; -1: there is none. */
static int64_t input_row(const ConvolutionTerm *term, int64_t oy, int64_t ky) {
    const int64_t y = oy * term->stride_y - term->pad_y + ky * term->dilation_y;
    return y >= 0 && y < term->height ? y : -1;
}

/* A population [samples, out_height, out_width, outputs] that receives the sum of some terms and, awake, its drive (int32,
   NULL for none; strides count elements); its potential before the first step likewise. `thresholds` [outputs]: of each
   channel, the largest of which is that of `neurons`; `exact_thresholds` in the finer units, where there are any. Its output
   channels fall into blocks of at most `width`, a multiple of 16, its rows into `bands`, and these into tiles of `tile`
   positions in a row; where that is the whole row, `rows` of them are taken together. */
typedef struct {
    Neurons neurons;
    const ConvolutionTerm *term;
    int64_t terms, samples, out_height, out_width, outputs, bands, width, tile, rows;
    const int64_t *out_lo, *out_n;
    const int32_t *thresholds, *drive;
    int64_t drive_sample, drive_channel, drive_y, drive_x;
    const int32_t *potential;
    int64_t potential_sample, potential_channel, potential_y, potential_x;
    Exactly exactly;
    const double *exact_thresholds, *exact_drive, *exact_potential; /* the last two of the same strides */
    int64_t capacity;
    int8_t *out;
} ConvolutionTask;

/* Numbers of room that the growth of an input row's sums takes. */
static int64_t growths_of(const ConvolutionTask *task, const ConvolutionTerm *term) {
    return is_listed(term) && term->left_out.error ? term->steps * task->out_width : 0;
}

/* A convolution of levels [samples, height, width, channels] int8 on its way to a population. The levels are copied with
   zeros around them: `columns` of them in a row are read, `pixel` (even) channels each. `weights` int16 [blocks, parts, span / 2,
   DENSE_BLOCK, 2], `block_size` for each block, meet the channels from first[block] on in pairs; a part is what lies together in memory:
   there are `across` of them in each of the kernel's rows. With `own` each output has its own input channel; then a part
   is a tap, and pairs are of two taps: [blocks, taps / 2, DENSE_BLOCK, 2]. A product times 2**shift [outputs] is in the population's unit.

   Where weights have been rounded, `low` has their next bits, [outputs, parts, span padded to whole words], in `low_unit` [outputs] of the
   finer unit (NULL: nothing is left out); `error` [outputs] is by how much each level that is read may put a sum off, and
   `exact` [outputs, inputs, kernel_y, kernel_x], times `exact_unit`, the weights as they are. With `summed` the levels that a position reads are summed, to know how
   far off its sums may be; else they are at most `most_read`. A group has `inputs` channels, and `each_out` outputs. */
typedef struct {
    const int8_t *levels;
    int64_t height, width, channels, pixel, columns;
    const int16_t *weights;
    int64_t block_size, span, across, own, summed;
    const int64_t *first;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    const int32_t *shift;
    const int16_t *low;
    const double *low_unit, *error, *exact;
    double exact_unit, most_read;
    int64_t inputs, each_out;
} DenseTerm;

static int64_t parts_of(const DenseTerm *term) { return term->kernel_y * term->across; }

/* Of the next bits of a part's weights: so much room. */
static int64_t next_bits_room(const DenseTerm *term) { return term->own ? 1 : (term->span + 31) / 32 * 32; }

/* The levels `out` [samples, out_height, out_width, outputs] of a population that receives the sum of some terms beside what it begins
   with, `begin` [outputs], or where it differs by position [samples, out_height, out_width, outputs]. `thresholds` and their
   `inverse`, what a rest lies between of which it is sure that its level is right, `lowest` and `highest`, `top`, above which nothing matters,
   and `begin` if it is by output, have room for whole blocks. Sums may be off by `base` [outputs] beside what levels that are summed bring. A unit is `unit` [outputs] of the finer one, in which the exact numbers are.

   Items are `together` samples, or where `bands` is above 1, a band of one sample's rows; and of the outputs one of so many `parts`.
   `alike`: all blocks read the same inputs, or their own. */
typedef struct {
    Neurons neurons;
    const DenseTerm *term;
    int64_t terms, samples, out_height, out_width, outputs, bands, together, parts, alike;
    const int32_t *thresholds;
    const float *inverse;
    const int32_t *lowest, *highest, *top, *begin;
    int64_t begin_by_position;
    const double *base, *unit, *exact_thresholds, *exact_begin;
    int8_t *out;
} DenseTask;

/* Rows that an item has at most, and rows of a term's input that it reads. */
static int64_t most_rows(const DenseTask *task) { return (task->out_height + task->bands - 1) / task->bands; }
static int64_t dense_rows(const DenseTask *task, const DenseTerm *term) {
    return (most_rows(task) - 1) * term->stride_y + (term->kernel_y - 1) * term->dilation_y + 1;
}

/* The currents `out` [images, out_height, out_width, outputs] of a convolution of `train` [images, height, width, channels] int8.
   `weights` [groups, kernel_y * kernel_x, channels of a group, padded] are those of a group's outputs side by side; where each
   output has an input channel of its own, [kernel_y * kernel_x, padded]. `padded` is a multiple of a vector. Images are cut into
   `bands` of output rows. With `adds` the currents are added to what is there. */
typedef struct {
    const int8_t *train;
    const void *weights;
    int64_t height, width, channels, groups, outputs, padded, own;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int64_t out_height, out_width, bands, adds;
    void *out;
} CurrentsTask;

/* `from` [outer, middle, inner] int8; `to` [outer, inner]. */
typedef struct {
    const int8_t *from;
    int64_t middle, inner;
    int32_t *to;
} SumTask;

/* `from` [blocks, rows, inner] int8; `positive`, `negative` [blocks], and of both signs `in_rows` [blocks, rows]. */
typedef struct {
    const int8_t *from;
    int64_t rows, inner;
    int32_t *positive, *negative, *in_rows;
} TallyTask;

/* `out` [steps, samples, out_height, out_width, channels] int8: how the largest running total of each window of `train` [steps,
   samples, height, width, channels] int8 changes at each step; each window holds an input. int8 holds the totals if `narrow`, else int16.
   Images are cut into `bands` of rows of windows. */
typedef struct {
    const int8_t *train;
    int64_t steps, samples, height, width, channels;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int64_t out_height, out_width, bands, narrow;
    int8_t *out;
} MaximaTask;

/* `train` [arriving, neurons] int8 against `levels` [neurons] out of `q`, after each of `steps`, up to which there have been
   `awake` [steps] wake steps. `out` [blocks of 16384 neurons, steps, 3]: neurons with at least one spike too many, too few, and
   the sum of |count * q - level * awake|. `narrow`: int32 holds that sum over 1024 neurons. */
typedef struct {
    const int8_t *train;
    const int16_t *levels;
    const int64_t *awake;
    int64_t neurons, arriving, steps, q, narrow;
    int64_t *out;
} AgreementTask;

/* Where the inputs of a product lie: those of the result at (sample, y, x), of a group of outputs, from
   sample * by_sample + y * by_row + x * by_column + group * by_group on, `offset` [terms] from there. Outputs are numbered
   group by group. */
typedef struct {
    const double *values;
    const int64_t *offset;
    int64_t terms, height, width, by_sample, by_row, by_column, by_group, groups;
} Reads;

/* `values` [positions, outputs] become sums of products, and where they are to be `rounded`, with `bias` [outputs] (or NULL) added,
   rounded to multiples of 1 / scale, half to even. Weights are laid out in `whole` [groups, blocks of 8 outputs, terms, 8], 0
   behind a group's outputs; so are `upper` and `lower`. Without them `values` are sums already.

   Sums may be off by so much that they are, by `error` of those multiples, within reach of a half: those are taken again: of the
   weights' upper parts, `high` [outputs, terms], with inputs rounded by `splitter`, which float64 sums exactly, and of the small
   rest with `low`, which may be off by `rest_error`. In `two_parts` all are taken so at once; what is then beyond `limit` of those
   multiples need not be decided. The places of those that this does not decide either are listed in `near` [room], in any order;
   `found` counts them, those too for which there is no room. */
typedef struct {
    double *values;
    const double *bias;
    int64_t positions, outputs, rounded, two_parts;
    double scale, error;
    Reads reads;
    const double *whole, *upper, *lower, *high, *low;
    double splitter, rest_error, limit;
    int64_t *near;
    int64_t room, found;
} RoundTask;

/* A population [positions, outputs] whose drive is a product of inputs with weights and a bias [outputs]; its potential before
   the first step is the same at all positions. `values` are the inputs and `weights` [groups, terms, width] the weights in
   float32, `width` (a multiple of 64) 0 behind a group's outputs. A drive is held within `limit`, and times `scale` it is in the
   unit of `thresholds` [outputs] and `potential`, the largest threshold that of `neurons`; so it may be off by `flow` each time
   that it flows. What this does not decide is taken again, as in a `RoundTask`, on the grid of 1 / exact_scale, in whose units
   the exact numbers are but for `exact_bias`; products that are exact may be rounded to the grid of 1 / product_scale first (0: not).
   The places of those still undecided, and what would follow, are listed in `near` [room]. */
typedef struct {
    Neurons neurons;
    Reads reads;
    const float *values, *weights, *bias;
    int64_t positions, outputs, width;
    float limit, scale;
    double flow;
    const int32_t *thresholds, *potential;
    const double *high, *low, *exact_bias, *exact_thresholds, *exact_potential;
    double splitter, rest_error, exact_limit, exact_scale, product_scale;
    int64_t *near;
    int64_t room, found, capacity;
    int8_t *out;
} DrivenTask;

/* One position of a GRU or an LSTM in training, by rows. With q levels (0: none), and an LSTM's cell of `most` at most. `drive` is
   what the input drives, `product` that of the hidden state; `gates` are the activations before they are rounded. `before` is the
   hidden state, or an LSTM's cell, before; `beside` an LSTM's cell afterwards, or what a GRU's reset gate has multiplied. */
typedef struct {
    int64_t hidden, q, most;
    const float *drive, *product, *before;
    float *gates, *state, *beside;
} CellTask;

/* The gradient of that: of what the input drives and, of a GRU, of the product. It arrives at the hidden state from above (rows
   `above_row` apart) and, at the first `known` rows, from what is visited later: by its product, and by `carry`, elementwise, which is written for what was
   visited before. At an LSTM's cells it may arrive from above (or NULL). */
typedef struct {
    int64_t hidden, q, most, known, above_row;
    const float *gates, *before, *beside, *above, *above_cells, *later;
    float *carry, *into_gates, *into_product;
} CellGradientTask;

/* An input vector and its product, from which the product of a similar one is a few rows away. */
typedef struct {
    const int8_t *input;
    const int32_t *product;
} Reference;

/* Rows to add and what each is multiplied by. */
typedef struct {
    int64_t count;
    int32_t *row;
    int16_t *factor;
} RowList;

/* What one thread works with. */
typedef struct {
    RowList list;
    uint64_t *mask;
    void *memory;
} Scratch;

/* Lists the places of the ones among eight bits. */
static void list_ones(uint8_t (*ones)[8]) {
    memset(ones, 0, 256 * sizeof *ones); /* those behind the last are read as well */
    for (int bits = 0; bits < 256; bits++)
        for (int place = 0, count = 0; place < 8; place++)
            if (bits >> place & 1) ones[bits][count++] = (uint8_t)place;
}

/* Room for products of `rows` inputs, and `more` bytes of zeros beside it, which are returned (NULL: no memory). */
static char *scratch_open(Scratch *scratch, int64_t rows, int64_t more) {
    const int64_t masks = 2 * (rows / 64) * (int64_t)sizeof(uint64_t);
    const int64_t room = rows + LIST_ROOM, list = room * (int64_t)(sizeof(int32_t) + sizeof(int16_t));
    char *memory = (char *)calloc(1, (size_t)(masks + list + more + 64));
    if (!memory) return NULL;
    scratch->memory = memory;
    scratch->mask = (uint64_t *)memory;
    scratch->list.row = (int32_t *)(memory + masks + more / 8 * 8 + 8);
    scratch->list.factor = (int16_t *)(scratch->list.row + room);
    return memory + masks;
}

static void scratch_close(Scratch *scratch) { free(scratch->memory); }

static int64_t type_size(int64_t type) { return type == FLOAT64 ? 8 : 4; }

static int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }
