/* The kernels of kernels_neon.c, and integer products by SDOT. */
#include "backend/cpu/kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_neon.h"
#include "backend/cpu/bf16_plain.h"

#define TABLE kernels_dotprod
#define TABLE_NAME "dotprod"
#include "backend/cpu/kernels_table.h"

#endif
