#include "backend/cpu/kernels.h"

#include <string.h>

#include "backend/cpu/bf16_check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

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

static bool has_bf16(void)
{
    unsigned a, b, c, d;
    return has_vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 5) != 0;
}

/* The processor has tiles, and the system lets this process use them: it must be asked, once, and
 * threads that are started afterwards may too. */
static bool has_amx(void)
{
    enum { ASK_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!has_vnni() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0)
        return false;
    bool tiles = (d & 1u << 24) != 0 && (d & 1u << 25) != 0 && (d & 1u << 22) != 0;
    return tiles && syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) == 0;
}

/* Products of bf16 numbers are what their instructions' documents say (bf16_check.h): found out
 * once. */
static bool conforms(const struct kernels *kernels, _Atomic int *found)
{
    if (*found == 0)
        *found = bf16_check(kernels) ? 1 : 2;
    return *found == 1;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static bool has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
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
    case 4: {
        static _Atomic int found;
        return has_bf16() && conforms(&kernels_bf16, &found) ? &kernels_bf16 : NULL;
    }
    case 5: {
        static _Atomic int found;
        return has_amx() && conforms(&kernels_amx, &found) ? &kernels_amx : NULL;
    }
#elif defined(__aarch64__)
    case 6:
        return &kernels_neon;
    case 7:
        return has_dotprod() ? &kernels_dotprod : NULL;
#endif
    default:
        return NULL;
    }
}

const struct kernels *kernels_find(const char *name, bool *known_out)
{
    static const char *const names[KERNELS_COUNT] = {"scalar", "avx2", "avx512", "vnni",
                                                     "bf16",   "amx",  "neon",   "dotprod"};
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
