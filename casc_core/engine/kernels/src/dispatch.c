/* Compiled kernels of the engine: products of spikes, the neuron's loop over time, whole recurrences and convolutions.

   Products and recurrences work in integers, multiples of a power-of-two unit for which the caller has proven that
   every result fits its type. So results depend neither on the instructions chosen, nor on the order of summation, nor
   on the split over threads. The library has no state and calls nothing of Python: loader.py loads it with ctypes, which lets
   other threads run meanwhile.

   Each kernel is compiled once for each set of instructions; which of them runs is chosen at run time. */

#define _DEFAULT_SOURCE /* for madvise and clock_gettime */
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <math.h>
#include <pthread.h>
#include <time.h>
#if !defined(__GNUC__)
#error "The kernels are written for GCC and Clang; without them, torch does their work."
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

#include "tasks.h"

#define NAME(x) x##_plain
#define VECTOR 0
#include "kernels.h"
#undef NAME
#undef VECTOR

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,popcnt")
#endif
#define NAME(x) x##_avx2
#define VECTOR 256
#include "kernels.h"
#undef NAME
#undef VECTOR
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                                         \
    __attribute__((target("avx2,fma,bmi,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")
#endif
#define NAME(x) x##_avx512
#define VECTOR 512
#include "kernels.h"
#undef NAME
#undef VECTOR
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define NAME(x) x##_neon
#define VECTOR 128
#include "kernels.h"
#undef NAME
#undef VECTOR
#endif

#if defined(__x86_64__)
#define DISPATCH(name, ...)                                                                                           \
    (isa == AVX512 ? name##_avx512(__VA_ARGS__) : isa == AVX2 ? name##_avx2(__VA_ARGS__) : name##_plain(__VA_ARGS__))
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define DISPATCH(name, ...) (isa == NEON ? name##_neon(__VA_ARGS__) : name##_plain(__VA_ARGS__))
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
EXPORT int64_t casc_version(void) { return 35; }

/* Whether this processor has a set of instructions, and they have been compiled. */
EXPORT int64_t casc_has(int64_t isa) {
    if (isa == PLAIN) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                     __builtin_cpu_supports("popcnt");
    if (isa == AVX2) return avx2;
    if (isa == AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__ARM_NEON)
    if (isa == NEON) return 1;
#endif
    return 0;
}

/* Adds to counts [steps] how many rows the products of every `by`-th sample would take. Returns 0 or an error. */
EXPORT int64_t casc_count_rows(int64_t isa, const RowsTask *task, int64_t by, int64_t *counts) {
    return DISPATCH(count_rows, task, by, counts);
}

enum {
    ROWS, SCAN, LEVELS, RECURRENCE, SUM_MIDDLE, TALLY, CONVOLUTION, AGREEMENT, ROUND, GATED, DRIVEN, LSTM, GRU, LSTM_GRADIENT,
    GRU_GRADIENT, DENSE, CURRENTS, MAXIMA
};

/* Whether weights are laid out as the kernels read them; their loops run over what is padded. */
static int laid_out(const Weights *weights) {
    return weights->values && weights->rows >= 0 && weights->rows <= weights->rows_padded &&
           weights->rows_padded % 64 == 0 && weights->stride >= 0 && weights->stride % 32 == 0;
}

/* Whether a threshold can be compared with sums in int32. */
static int whole(double threshold) { return threshold >= 1 && threshold <= INT32_MAX && threshold == (int32_t)threshold; }

/* Whether a margin is one that int32 holds twice, and errors are ones that add up. */
static int decides(const Exactly *exactly) {
    return exactly->margin >= 0 && exactly->margin < INT32_MAX / 4 && exactly->once >= 0 && exactly->flow >= 0;
}

/* Whether what weights have left out is laid out as the kernels read it. */
static int kept(const LeftOut *left_out) { return left_out->reads >= 0 && left_out->reads % 32 == 0 && left_out->error >= 0; }

/* Whether the sizes of a task are ones that a kernel can go over; which pointers they belong to, the caller has checked. */
static int fits(int64_t kernel, const void *task) {
    if (kernel == ROWS) {
        const RowsTask *rows = (const RowsTask *)task;
        return laid_out(&rows->weights) && rows->steps >= 0 && rows->outputs >= 0 && rows->outputs <= rows->weights.stride;
    }
    if (kernel == RECURRENCE) {
        const RecurrenceTask *recurrence = (const RecurrenceTask *)task;
        return laid_out(&recurrence->weights) &&
               (recurrence->weights.rows == recurrence->weights.outputs || recurrence->length <= 1) &&
               recurrence->weights.outputs <= recurrence->weights.stride && recurrence->thresholds && recurrence->spiking >= 0 &&
               recurrence->length >= 0 && recurrence->arriving >= 0 && recurrence->capacity >= 0 &&
               whole(recurrence->neurons.threshold) && decides(&recurrence->exactly) && recurrence->shift >= 0 &&
               recurrence->shift < 31 &&
               (!recurrence->exactly.margin || (kept(&recurrence->left_out) &&
                                                recurrence->left_out.reads == recurrence->weights.rows_padded && recurrence->exact_thresholds));
    }
    if (kernel == GATED) {
        const GatedTask *gated = (const GatedTask *)task;
        return gated->hidden > 0 && gated->width >= gated->hidden && gated->width % 16 == 0 && gated->length >= 0 &&
               gated->arriving >= 0 && gated->capacity >= 0 && gated->q > 0 && gated->q <= INT16_MAX && gated->cells >= 0 &&
               gated->cells <= INT16_MAX;
    }
    if (kernel == CONVOLUTION) {
        const ConvolutionTask *convolution = (const ConvolutionTask *)task;
        int good = convolution->width > 0 && convolution->width % 16 == 0 && convolution->terms > 0 &&
                   convolution->tile > 0 && convolution->tile <= (convolution->width == 16 ? TILE : TILE / 2) &&
                   convolution->rows > 0 && (convolution->rows == 1 || convolution->tile >= convolution->out_width) &&
                   convolution->bands > 0 && convolution->samples > 0 && convolution->capacity >= 0 &&
                   !convolution->neurons.levels && whole(convolution->neurons.threshold) && decides(&convolution->exactly);
        for (int64_t t = 0; good && t < convolution->terms; t++) {
            const ConvolutionTerm *term = convolution->term + t;
            good = (convolution->width % 32 == 0 || !is_listed(term)) &&
                   (!term->tables || (convolution->tile % (TILE / 2) == 0 && term->kernel_y <= MOST_KERNEL &&
                                      term->quarters % 4 == 0 && SILENCE * 4 * convolution->width <= INT16_MAX)) &&
                   term->steps >= 0 && term->ring > 0 && term->most_in >= 0 && term->chunk > 0 && term->shift >= 0 && term->shift < 31 &&
                   kept(&term->left_out) &&
                   (!convolution->exactly.margin ||
                    term->left_out.reads >= term->kernel_y * term->kernel_x * term->most_in);
        }
        return good;
    }
    if (kernel == DENSE) {
        const DenseTask *dense = (const DenseTask *)task;
        int good = dense->neurons.levels && dense->neurons.total > 0 && dense->neurons.total <= INT8_MAX && dense->terms > 0 && dense->terms <= MOST_TERMS &&
                   dense->samples > 0 && dense->out_height > 0 && dense->out_width > 0 && dense->outputs > 0 && dense->bands > 0 &&
                   dense->together > 0 && dense->parts > 0 && (dense->bands == 1 || dense->together == 1);
        for (int64_t t = 0; good && t < dense->terms; t++) {
            const DenseTerm *term = dense->term + t;
            good = term->pixel >= term->channels && term->pixel % 2 == 0 && term->span % 2 == 0 && term->kernel_y > 0 &&
                   term->kernel_x > 0 && term->pad_x >= 0 &&
                   term->columns >= (dense->out_width - 1) * term->stride_x + (term->kernel_x - 1) * term->dilation_x + 1 &&
                   term->inputs > 0 && term->each_out > 0;
        }
        return good;
    }
    if (kernel == DRIVEN) {
        const DrivenTask *driven = (const DrivenTask *)task;
        const int64_t groups = driven->reads.groups;
        return groups > 0 && driven->outputs > 0 && driven->outputs % groups == 0 && driven->width % 64 == 0 &&
               driven->width >= driven->outputs / groups && driven->capacity >= 0 && driven->positions > 0 &&
               driven->reads.height > 0 && driven->reads.width > 0 && whole(driven->neurons.threshold);
    }
    if (kernel == ROUND) {
        const RoundTask *round = (const RoundTask *)task;
        return round->positions > 0 && round->outputs > 0 && round->reads.groups > 0 &&
               round->outputs % round->reads.groups == 0 && round->reads.height > 0 && round->reads.width > 0 &&
               (!round->two_parts || (round->whole && round->upper && round->lower && !round->bias));
    }
    if (kernel == CURRENTS) {
        const CurrentsTask *currents = (const CurrentsTask *)task;
        return currents->groups > 0 && currents->channels % currents->groups == 0 &&
               currents->outputs % currents->groups == 0 && currents->padded % 16 == 0 && currents->channels < 1 << 24 &&
               currents->padded >= (currents->own ? currents->channels : currents->outputs / currents->groups) &&
               currents->bands > 0 && currents->kernel_y > 0 && currents->kernel_x > 0 && currents->out_height > 0;
    }
    if (kernel == MAXIMA) {
        const MaximaTask *maxima = (const MaximaTask *)task;
        return maxima->steps >= 0 && maxima->samples > 0 && maxima->channels > 0 && maxima->bands > 0 &&
               maxima->out_height >= maxima->bands && maxima->out_width > 0 && maxima->kernel_y > 0 && maxima->kernel_x > 0 &&
               maxima->stride_y > 0 && maxima->stride_x > 0;
    }
    return 1;
}

/* The items first..last-1 of a task. Returns what its kernel does: steps needed, or an error. */
static int64_t part(int64_t isa, int64_t kernel, int64_t type, void *task, int64_t first, int64_t last) {
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
        case ROUND: return DISPATCH(round_products, (RoundTask *)task, first, last);
        case DRIVEN: return DISPATCH(driven, (DrivenTask *)task, first, last);
        case DENSE: return DISPATCH(dense, (const DenseTask *)task, first, last);
        case GATED: return DISPATCH(gated, task, first, last);
        case CURRENTS:
            return type == FLOAT32 ? DISPATCH(currents_FLOAT32, task, first, last)
                                   : DISPATCH(currents_FLOAT64, task, first, last);
        case LSTM: return DISPATCH(lstm, task, first, last);
        case GRU: return DISPATCH(gru, task, first, last);
        case LSTM_GRADIENT: return DISPATCH(lstm_gradient, task, first, last);
        case GRU_GRADIENT: return DISPATCH(gru_gradient, task, first, last);
        case MAXIMA: return DISPATCH(maxima, task, first, last);
        case SUM_MIDDLE: return DISPATCH(sum_middle, task, first, last);
        default: return DISPATCH(tally, task, first, last);
    }
}

/* A task cut into chunks, which threads take until there are none left. */
typedef struct {
    int64_t isa, kernel, type;
    void *task;
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

/* When the thread that called had no more to do, in nanoseconds. */
typedef struct {
    Shared *shared;
    pthread_t caller;
    int64_t done;
} Team;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void work(void *team_) {
    Team *team = (Team *)team_;
    casc_work(team->shared);
    if (pthread_equal(pthread_self(), team->caller)) team->done = now();
}

/* All of a task on so many threads of the caller's OpenMP, by its GOMP_parallel, which waits for all of them. Returns whether
   the caller waited longer for the others than it worked. */
EXPORT int64_t casc_parallel(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned), Shared *shared,
                             int64_t threads) {
    Team team = {shared, pthread_self(), 0};
    const int64_t began = now();
    gomp_parallel(work, &team, (unsigned)threads, 0);
    return now() - team.done > team.done - began;
}
