/* The kernels of kernels_vnni.c, and products of bf16 numbers by AVX-512 BF16. */
#include "backend/cpu/kernels.h"

#if defined(__AVX512BF16__)

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_vnni.h"
#include "backend/cpu/bf16_dot.h"

#define TABLE kernels_bf16
#define TABLE_NAME "bf16"
#include "backend/cpu/kernels_table.h"

#endif
