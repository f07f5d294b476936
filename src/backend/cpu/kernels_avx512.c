/* The float kernels with 16 lanes: AVX-512 F, BW, DQ and VL. */
#include "backend/cpu/kernels.h"

#if defined(__AVX512F__)

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_avx2.h"
#include "backend/cpu/bf16_lanes.h"

#define TABLE kernels_avx512
#define TABLE_NAME "avx512"
#include "backend/cpu/kernels_table.h"

#endif
