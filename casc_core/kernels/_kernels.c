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

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#else
#define INLINE static __inline
#define EXPORT __declspec(dllexport)
#define restrict __restrict
#include <intrin.h>
#include <math.h>
#define __builtin_rint rint
#define __builtin_rintf rintf
#endif

/* How weights are stored and summed. SUMS16: int16 weights, and every product fits int16. SUMS32: int16 weights, int32
   sums. WIDE: int32 weights and sums. */
enum { SUMS16 = 0, SUMS32 = 1, WIDE = 2 };
enum { FLOAT32 = 0, FLOAT64 = 1, MIXED = 2 };
enum { PLAIN = 0, AVX2 = 1, AVX512 = 2 };
enum { NO_MEMORY = -1, OUT_OF_RANGE = -2 };

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

/* A population of one type, or MIXED: currents in float32, all else in float64. `currents` [arriving, neurons] and `drive` [neurons] or NULL, `thresholds` [neurons] or NULL for one. */
typedef struct {
    const void *currents, *drive, *thresholds;
    int64_t neurons, arriving;
    double threshold;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, total, is_signed, most_steps, capacity;
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
    const int32_t *initial;
    /* A product times 2**shift is in the unit of currents and threshold. */
    int64_t threshold, shift, total, is_signed, levels;
    const uint8_t *awake;
    const int32_t *caps;
    int64_t wake_steps, most_steps, capacity;
    int8_t *out;
    int64_t out_step, out_sample, out_position;
    int32_t *positive, *negative;
} RecurrenceTask;

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

/* What one thread works with. `added` counts the rows it has added. */
typedef struct {
    Entries list;
    uint64_t *mask;
    int64_t added;
    void *memory;
} Scratch;

/* Room for products of `rows` inputs, and `more` bytes of zeros beside it, which are returned (NULL: no memory). */
static char *scratch_open(Scratch *scratch, int64_t rows, int64_t more) {
    const int64_t masks = 2 * (rows / 64) * (int64_t)sizeof(uint64_t);
    const int64_t list = (rows + 2) * (int64_t)(sizeof(int32_t) + sizeof(int16_t));
    char *memory = (char *)calloc(1, (size_t)(masks + list + more + 64));
    if (!memory) return NULL;
    scratch->memory = memory;
    scratch->added = 0;
    scratch->mask = (uint64_t *)memory;
    scratch->list.row = (int32_t *)(memory + masks + more / 8 * 8 + 8);
    scratch->list.factor = (int16_t *)(scratch->list.row + rows + 2);
    return memory + masks;
}

static void scratch_close(Scratch *scratch) { free(scratch->memory); }

static int64_t type_size(int64_t type) { return type == FLOAT64 ? 8 : 4; }

#if defined(__GNUC__)
static int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }
#else
static int lowest_bit(uint64_t bits) {
    unsigned long index;
    _BitScanForward64(&index, bits);
    return (int)index;
}
#endif

#define NAME(x) x##_plain
#define VECTOR 0
#include "_kernels_body.h"
#undef NAME
#undef VECTOR

#if defined(__GNUC__) && defined(__x86_64__)
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
EXPORT int64_t casc_large_pages(int64_t isa, char *memory, int64_t bytes) {
    (void)isa, (void)memory, (void)bytes;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2 << 20, start = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#endif
    return 0;
}

/* Raised whenever a function or structure below changes, so that a stale build is noticed. */
EXPORT int64_t casc_version(void) { return 3; }

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

/* Returns how many rows were added, or an error. */
EXPORT int64_t casc_rows(int64_t isa, const RowsTask *task, int64_t first, int64_t last) {
    return DISPATCH(rows, task, first, last);
}

/* Adds to counts [steps] how many rows `casc_rows` would add for every `by`-th sample. Returns 0 or an error. */
EXPORT int64_t casc_count_rows(int64_t isa, const RowsTask *task, int64_t first, int64_t last, int64_t by,
                               int64_t *counts) {
    return DISPATCH(count_rows, task, first, last, by, counts);
}

/* Returns the last step, from 1, with a spike; capacity + 1 where there was no room for it. */
EXPORT int64_t casc_scan(int64_t isa, int64_t type, const ScanTask *task, int64_t first, int64_t last) {
    if (type == FLOAT32) return DISPATCH(scan_FLOAT32, task, first, last);
    if (type == MIXED) return DISPATCH(scan_MIXED, task, first, last);
    return DISPATCH(scan_FLOAT64, task, first, last);
}

/* `task->out` [neurons]: counts, of a task whose `currents` and `drive` stand for all steps. */
EXPORT int64_t casc_levels(int64_t isa, int64_t type, const ScanTask *task, int64_t first, int64_t last) {
    if (type == FLOAT32)
        DISPATCH(levels_FLOAT32, task, first, last);
    else
        DISPATCH(levels_FLOAT64, task, first, last);
    return 0;
}

/* Returns the last step, from 1, with a spike; capacity + 1 where there was no room for it; or an error. */
EXPORT int64_t casc_recurrence(int64_t isa, const RecurrenceTask *task, int64_t first, int64_t last) {
    return DISPATCH(recurrence, task, first, last);
}

/* Sums over the middle dimension of `from` [outer, middle, inner], for the rows first..last-1 of outer. */
EXPORT int64_t casc_sum_middle(int64_t isa, const int8_t *from, int64_t first, int64_t last, int64_t middle,
                            int64_t inner, int32_t *to) {
    DISPATCH(sum_middle, from, first, last, middle, inner, to);
    return 0;
}

/* How many entries of each row of `from` [rows, inner] are positive, and how many negative. */
EXPORT int64_t casc_tally(int64_t isa, const int8_t *from, int64_t first, int64_t last, int64_t inner, int32_t *positive,
                       int32_t *negative) {
    DISPATCH(tally, from, first, last, inner, positive, negative);
    return 0;
}

/* Importable as a module of Python, though it offers nothing there: builds expect it of an extension. */
EXPORT void *PyInit__kernels(void) { return NULL; }
