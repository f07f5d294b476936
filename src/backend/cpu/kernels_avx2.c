/* The float kernels with 8 lanes: AVX2, FMA and F16C. */
#include "backend/cpu/kernels.h"

#if defined(__AVX2__)

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_avx2.h"
#include "backend/cpu/bf16_lanes.h"

#define TABLE kernels_avx2
#define TABLE_NAME "avx2"
#include "backend/cpu/kernels_table.h"

#endif
