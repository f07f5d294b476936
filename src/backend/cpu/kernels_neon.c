/* The float kernels with 4 lanes: the NEON that every AArch64 has. */
#include "backend/cpu/kernels.h"

#if defined(__aarch64__)

#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_neon.h"
#include "backend/cpu/bf16_plain.h"

#define TABLE kernels_neon
#define TABLE_NAME "neon"
#include "backend/cpu/kernels_table.h"

#endif
