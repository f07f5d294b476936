/* The kernels of kernels_avx512.c, and integer products by AVX-512 VNNI. */
#include "backend/cpu/kernels.h"

#if defined(__AVX512VNNI__)

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_vnni.h"
#include "backend/cpu/bf16_lanes.h"

#define TABLE kernels_vnni
#define TABLE_NAME "vnni"
#include "backend/cpu/kernels_table.h"

#endif
