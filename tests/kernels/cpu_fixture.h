/* What the tests of the cpu backend share: random numbers, weights of every type, backends. */
#ifndef TESTS_KERNELS_CPU_FIXTURE_H
#define TESTS_KERNELS_CPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/kernels.h"
#include "base/bytes.h"
#include "base/dequant.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/half.h"

/* A sanitizer or an emulator makes kernels some twenty times slower: fewer rounds then. */
#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(TESTS_EMULATED) || defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) ||    \
    HAS_FEATURE(thread_sanitizer) || HAS_FEATURE(address_sanitizer)
#define SLOW_BUILD 1
#else
#define SLOW_BUILD 0
#endif

static const enum dtype all_types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0,
                                       DTYPE_Q4_1, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};
#define TYPE_COUNT (sizeof(all_types) / sizeof(all_types[0]))

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint32_t random_u32(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) * 2654435761u ^ (uint32_t)(random_state >> 40);
}

static inline uint32_t random_below(uint32_t limit)
{
    return (uint32_t)((uint64_t)random_u32() * limit >> 32);
}

/* -1 .. 1, now and then much larger. */
static inline float random_float(void)
{
    float value = (float)(int32_t)random_u32() * 0x1p-31f;
    return random_below(64) == 0 ? value * 20 : value;
}

static inline void random_floats(float *to, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = random_float();
}

/* A row of the type with random bits where they are values and sensible numbers where they are
 * scales. */
static inline void random_row(enum dtype type, uint32_t columns, uint8_t *to)
{
    size_t bytes = dtype_row_bytes(type, columns);
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)random_u32();
    uint32_t group_bytes = dtype_group_bytes(type);
    for (uint8_t *group = to; group < to + bytes; group += group_bytes) {
        /* Weights of about -1 .. 1. */
        float most = type == DTYPE_Q8_0   ? 127
                     : type == DTYPE_Q4_K ? 63 * 15
                     : type == DTYPE_Q5_K ? 63 * 31
                     : type == DTYPE_Q6_K ? 127 * 32
                                          : 15;
        float scale = random_float() / most;
        switch (type) {
        case DTYPE_F32:
            store_u32(group, float_bits(random_float()));
            break;
        case DTYPE_F16:
            store_u16(group, f32_to_f16(random_float()));
            break;
        case DTYPE_BF16:
            store_u16(group, f32_to_bf16(random_float()));
            break;
        case DTYPE_Q4_1:
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
            store_u16(group + 2, f32_to_f16(random_float() / (type == DTYPE_Q4_1 ? 2 : 64)));
            store_u16(group, f32_to_f16(scale));
            break;
        case DTYPE_Q6_K:
            store_u16(group + 208, f32_to_f16(scale));
            break;
        default:
            store_u16(group, f32_to_f16(scale));
            break;
        }
    }
}

/* rows x columns of the type; free it with free((void *)weight.data). */
static inline struct backend_weight random_weight(enum dtype type, uint32_t rows, uint32_t columns)
{
    size_t row_bytes = dtype_row_bytes(type, columns);
    uint8_t *data = malloc(rows * row_bytes);
    assert_non_null(data);
    for (uint32_t row = 0; row < rows; row++)
        random_row(type, columns, data + row * row_bytes);
    return (struct backend_weight){
        .name = "random", .type = type, .rows = rows, .columns = columns, .data = data};
}

/* The variants to test, with a line for each that this machine lacks. */
static inline uint32_t variants_here(const char *names_out[CPU_VARIANTS_MAX])
{
    static const char *const all[] = {"scalar", "avx2", "avx512", "vnni",
                                      "bf16",   "amx",  "neon",   "dotprod"};
    uint32_t count = backend_cpu_variants(names_out);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        bool known;
        if (kernels_find(all[i], &known) == NULL)
            print_message("[  SKIPPED ] variant %s: not on this machine\n", all[i]);
    }
    return count;
}

static inline void assert_same_bits(const float *a, const float *b, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof(float)) != 0)
            fail_msg("%s: value %zu of %zu: %.9g and %.9g", what, i, count, (double)a[i],
                     (double)b[i]);
}

#endif
