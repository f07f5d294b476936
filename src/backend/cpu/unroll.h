/* backend/cpu/unroll.h - what kernels ask of the compiler, whatever the instruction set. */
#ifndef BACKEND_CPU_UNROLL_H
#define BACKEND_CPU_UNROLL_H

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
