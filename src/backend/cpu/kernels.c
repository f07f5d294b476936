#include "backend/cpu/kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Clang's __builtin_cpu_supports does not know this one. Its use of the vector registers is allowed
 * by the system whenever AVX2 is, which the builtin checks. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif

const struct kernels *kernels_at(uint32_t index)
{
    switch (index) {
    case 0:
        return &kernels_scalar;
#if defined(__x86_64__)
    case 1:
        return has_avx2() ? &kernels_avx2 : NULL;
    case 2:
        return has_avx512() ? &kernels_avx512 : NULL;
    case 3:
        return has_vnni() ? &kernels_vnni : NULL;
#endif
    default:
        return NULL;
    }
}

const struct kernels *kernels_find(const char *name, bool *known_out)
{
    static const char *const names[KERNELS_COUNT] = {"scalar", "avx2", "avx512", "vnni"};
    bool best = name == NULL || strcmp(name, "auto") == 0;
    *known_out = best;
    for (uint32_t i = KERNELS_COUNT; i-- > 0;) {
        const struct kernels *kernels = kernels_at(i);
        if (best && kernels != NULL)
            return kernels;
        if (!best && strcmp(name, names[i]) == 0) {
            *known_out = true;
            return kernels;
        }
    }
    return NULL;
}
