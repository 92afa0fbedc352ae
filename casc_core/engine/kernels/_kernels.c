/* Compiled kernels of the engine: sparse products, the neuron's loop over time, and whole recurrences.

   Products and recurrences work in integers, multiples of a power-of-two unit for which the caller has proven that
   every result fits its type. So results depend neither on the instructions chosen, nor on the order of summation, nor
   on the split over threads. The library has no state and calls nothing of Python: casc_core/kernels/library.py loads it with
   ctypes, which lets other threads run meanwhile. */

#if defined(__linux__)
#define _DEFAULT_SOURCE /* for madvise */
#include <sys/mman.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "The kernels are written for GCC and Clang; without them, torch does their work."
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* How weights are stored and summed. SUMS16: int16 weights, and every product fits int16. SUMS32: int16 weights, int32
   sums. WIDE: int32 weights and sums. */
enum { SUMS16 = 0, SUMS32 = 1, WIDE = 2 };
enum { FLOAT32 = 0, FLOAT64 = 1, MIXED = 2 };
enum { PLAIN = 0, AVX2 = 1, AVX512 = 2 };
enum { NO_MEMORY = -1, OUT_OF_RANGE = -2, UNFIT = -3 };
/* More spikes than any cap allows. */
enum { SILENCED = 1 << 24 };

/* Rows of outgoing weights, one for each input: `stride` (a multiple of 32) apart, `rows_padded` a multiple of 64. */
typedef struct {
    const void *values;
    int64_t kind, rows, rows_padded, stride;
} Weights;

/* `train` [steps, samples, rows] int8 to `out` [steps, samples, outputs]. `peaks` [rows_padded] holds the largest count
   in each row, 0 in the padding; `peak_product` [stride] its product. */
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

/* A population of one type, or MIXED: currents in float32, all else in float64. `currents` [arriving, neurons] and `drive`
   [neurons] or NULL, `thresholds` [neurons] or NULL for one, `potential` [neurons] before the first step or NULL.

   In this task and the next: a neuron emits up to `burst` spikes a step, and takes one back where its potential is negative
   and at most `lower` thresholds (integers: below `lower`). Before step `restart`, neurons of negative potential are silenced
   and all others begin anew. */
typedef struct {
    const void *currents, *drive, *thresholds, *potential;
    int64_t neurons, arriving;
    double threshold, lower;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, total, burst, restart, most_steps, capacity;
    int8_t *out;
} ScanTask;

/* A recurrent population over a batch of sequences. Its drive is dense, or rows of a table by `index`; all strides count
   elements. `levels`: all steps at once, in counts. */
typedef struct {
    Weights weights;
    const int8_t *peaks;
    const int32_t *peak_product;
    int64_t batch, length;
    const int64_t *lengths;
    int64_t reverse;
    const void *drive;
    const int64_t *index;
    int64_t drive_type, drive_sample, drive_position, drive_row;
    double scale, drive_limit;
    const void *train;
    int64_t train_type, arriving, train_step, train_sample, train_position;
    const int32_t *initial, *potential;
    /* A product times 2**shift is in the unit of currents and threshold. */
    int64_t threshold, shift, total, lower, burst, restart, levels;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, most_steps, capacity;
    int8_t *out;
    int64_t out_step, out_sample, out_position;
    int32_t *positive, *negative;
} RecurrenceTask;

/* One linear map of a train [steps, samples, height, width, channels] int8 on its way to a population. For each block of
   outputs, weights [kernel_y * kernel_x * in_n[block], width of a block], `block_bytes` apart, read the channels from
   in_lo[block] on, at most `most_in` of them. A product times 2**shift is in the population's unit. `ring`: input rows
   that an output row spans. */
typedef struct {
    const int8_t *train;
    int64_t steps, height, width, channels;
    const void *weights;
    int64_t kind, block_bytes, shift, most_in;
    const int64_t *in_lo, *in_n;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, ring;
} ConvolutionTerm;

/* A population [samples, out_height, out_width, outputs] that reads the sum of some terms and, awake, its drive (int32,
   NULL for none; strides count elements), its potential before the first step likewise. Its outputs fall into blocks of at most `width`, a multiple of 32. */
typedef struct {
    const ConvolutionTerm *term;
    int64_t terms, samples, out_height, out_width, outputs, bands, width;
    const int64_t *out_lo, *out_n;
    const int32_t *drive;
    int64_t drive_sample, drive_channel, drive_y, drive_x;
    const int32_t *potential;
    int64_t potential_sample, potential_channel, potential_y, potential_x;
    int64_t threshold, total, lower, burst, restart, levels;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, most_steps, capacity;
    int8_t *out;
} ConvolutionTask;

/* `from` [outer, middle, inner] int8; `to` [outer, inner]. */
typedef struct {
    const int8_t *from;
    int64_t middle, inner;
    int32_t *to;
} SumTask;

/* `from` [rows, inner] int8; `positive`, `negative` [rows]. */
typedef struct {
    const int8_t *from;
    int64_t inner;
    int32_t *positive, *negative;
} TallyTask;

/* `train` [arriving, neurons] int8 against `levels` [neurons] out of `q`, after each of `steps`, of which `awake` [steps] so many
   were wake steps; counts begin anew before step `restart`. `out` [blocks of 16384 neurons, steps, 3]: neurons with at least
   one spike too many, too few, and the sum of |count * q - level * awake|. `narrow`: int32 holds that sum over 1024 neurons. */
typedef struct {
    const int8_t *train;
    const int16_t *levels;
    const int64_t *awake;
    int64_t neurons, arriving, steps, q, restart, narrow;
    int64_t *out;
} AgreementTask;

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
} Entries;

/* What one thread works with. */
typedef struct {
    Entries list;
    uint64_t *mask;
    void *memory;
} Scratch;

/* Room for products of `rows` inputs, and `more` bytes of zeros beside it, which are returned (NULL: no memory). */
static char *scratch_open(Scratch *scratch, int64_t rows, int64_t more) {
    const int64_t masks = 2 * (rows / 64) * (int64_t)sizeof(uint64_t);
    const int64_t list = (rows + 2) * (int64_t)(sizeof(int32_t) + sizeof(int16_t));
    char *memory = (char *)calloc(1, (size_t)(masks + list + more + 64));
    if (!memory) return NULL;
    scratch->memory = memory;
    scratch->mask = (uint64_t *)memory;
    scratch->list.row = (int32_t *)(memory + masks + more / 8 * 8 + 8);
    scratch->list.factor = (int16_t *)(scratch->list.row + rows + 2);
    return memory + masks;
}

static void scratch_close(Scratch *scratch) { free(scratch->memory); }

static int64_t type_size(int64_t type) { return type == FLOAT64 ? 8 : 4; }

static int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

#define NAME(x) x##_plain
#define VECTOR 0
#include "_kernels_body.h"
#include "_kernels_convolution.h"
#include "_kernels_end.h"
#undef NAME
#undef VECTOR

#if defined(__x86_64__)
#define HAVE_X86 1
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,popcnt")
#endif
#define NAME(x) x##_avx2
#define VECTOR 256
#include "_kernels_body.h"
#include "_kernels_convolution.h"
#include "_kernels_end.h"
#undef NAME
#undef VECTOR
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                                         \
    __attribute__((target("avx2,bmi,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,bmi,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")
#endif
#define NAME(x) x##_avx512
#define VECTOR 512
#include "_kernels_body.h"
#include "_kernels_convolution.h"
#include "_kernels_end.h"
#undef NAME
#undef VECTOR
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
#define HAVE_X86 0
#endif

#if HAVE_X86
#define DISPATCH(name, ...)                                                                                           \
    (isa == AVX512 ? name##_avx512(__VA_ARGS__) : isa == AVX2 ? name##_avx2(__VA_ARGS__) : name##_plain(__VA_ARGS__))
#else
#define DISPATCH(name, ...) ((void)isa, name##_plain(__VA_ARGS__))
#endif

/* Asks for large pages under fresh memory that is about to be filled: faults of small pages would take longer. */
EXPORT void casc_large_pages(char *memory, int64_t bytes) {
    (void)memory, (void)bytes;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2 << 20, start = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#endif
}

/* Raised whenever a function or structure below changes, so that a stale build is noticed. */
EXPORT int64_t casc_version(void) { return 7; }

/* The best set of instructions that this processor has. */
EXPORT int64_t casc_isa(void) {
#if HAVE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("popcnt"))
        return PLAIN;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        return AVX512;
    return AVX2;
#else
    return PLAIN;
#endif
}

/* Adds to counts [steps] how many rows the products of every `by`-th sample would take. Returns 0 or an error. */
EXPORT int64_t casc_count_rows(int64_t isa, const RowsTask *task, int64_t by, int64_t *counts) {
    return DISPATCH(count_rows, task, by, counts);
}

enum { ROWS, SCAN, LEVELS, RECURRENCE, SUM_MIDDLE, TALLY, CONVOLUTION, AGREEMENT };

/* Whether weights are laid out as the kernels read them; their loops run over what is padded. */
static int laid_out(const Weights *weights) {
    return weights->values && weights->rows >= 0 && weights->rows <= weights->rows_padded &&
           weights->rows_padded % 64 == 0 && weights->stride >= 0 && weights->stride % 32 == 0;
}

/* Whether the sizes of a task are ones that a kernel can go over; which pointers they belong to, the caller has checked. */
static int fits(int64_t kernel, const void *task) {
    if (kernel == ROWS) {
        const RowsTask *rows = (const RowsTask *)task;
        return laid_out(&rows->weights) && rows->steps >= 0 && rows->outputs >= 0 && rows->outputs <= rows->weights.stride;
    }
    if (kernel == RECURRENCE) {
        const RecurrenceTask *recurrence = (const RecurrenceTask *)task;
        return laid_out(&recurrence->weights) && recurrence->weights.rows <= recurrence->weights.stride &&
               recurrence->length >= 0 && recurrence->arriving >= 0 && recurrence->capacity >= 0 &&
               recurrence->threshold > 0 && recurrence->shift >= 0 && recurrence->shift < 31;
    }
    if (kernel == CONVOLUTION) {
        const ConvolutionTask *convolution = (const ConvolutionTask *)task;
        int good = convolution->width > 0 && convolution->width % 32 == 0 && convolution->terms > 0 &&
                   convolution->bands > 0 && convolution->samples > 0 && convolution->capacity >= 0 &&
                   convolution->threshold > 0;
        for (int64_t t = 0; good && t < convolution->terms; t++) {
            const ConvolutionTerm *term = convolution->term + t;
            good = term->steps >= 0 && term->ring > 0 && term->most_in >= 0 && term->shift >= 0 && term->shift < 31;
        }
        return good;
    }
    return 1;
}

/* The items first..last-1 of a task. Returns what its kernel does: steps needed, or an error. */
static int64_t part(int64_t isa, int64_t kernel, int64_t type, const void *task, int64_t first, int64_t last) {
    if (!fits(kernel, task)) return UNFIT;
    switch (kernel) {
        case ROWS: return DISPATCH(rows, task, first, last);
        case SCAN:
            return type == FLOAT32 ? DISPATCH(scan_FLOAT32, task, first, last)
                   : type == MIXED ? DISPATCH(scan_MIXED, task, first, last)
                                   : DISPATCH(scan_FLOAT64, task, first, last);
        case LEVELS:
            return type == FLOAT32 ? DISPATCH(levels_FLOAT32, task, first, last)
                                   : DISPATCH(levels_FLOAT64, task, first, last);
        case RECURRENCE: return DISPATCH(recurrence, task, first, last);
        case CONVOLUTION: return DISPATCH(convolution, task, first, last);
        case AGREEMENT: return DISPATCH(agreement, task, first, last);
        case SUM_MIDDLE: return DISPATCH(sum_middle, task, first, last);
        default: return DISPATCH(tally, task, first, last);
    }
}

/* A task cut into chunks, which threads take until there are none left. */
typedef struct {
    int64_t isa, kernel, type;
    const void *task;
    int64_t items, chunks, next, most, least;
} Shared;

EXPORT void casc_work(Shared *shared) {
    for (;;) {
        const int64_t chunk = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        if (chunk >= shared->chunks) return;
        const int64_t first = shared->items * chunk / shared->chunks;
        const int64_t last = shared->items * (chunk + 1) / shared->chunks;
        const int64_t result = part(shared->isa, shared->kernel, shared->type, shared->task, first, last);
        int64_t seen = __atomic_load_n(&shared->most, __ATOMIC_RELAXED);
        while (result > seen && !__atomic_compare_exchange_n(&shared->most, &seen, result, 0, __ATOMIC_RELAXED,
                                                             __ATOMIC_RELAXED)) {}
        seen = __atomic_load_n(&shared->least, __ATOMIC_RELAXED);
        while (result < seen && !__atomic_compare_exchange_n(&shared->least, &seen, result, 0, __ATOMIC_RELAXED,
                                                             __ATOMIC_RELAXED)) {}
    }
}

static void work(void *shared) { casc_work((Shared *)shared); }

/* All of a task on so many threads of the caller's OpenMP, by its GOMP_parallel. */
EXPORT void casc_parallel(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned), Shared *shared,
                          int64_t threads) {
    gomp_parallel(work, shared, (unsigned)threads, 0);
}

/* Importable as a module of Python, though it offers nothing there: builds expect it of an extension. */
EXPORT void *PyInit__kernels(void) { return NULL; }
