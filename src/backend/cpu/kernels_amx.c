/* The kernels of kernels_vnni.c, integer products of many rows and all of bf16 numbers by AMX
 * tiles. */
#include "backend/cpu/kernels.h"

/* As Clang called them until 15. */
#if (defined(__AMX_INT8__) && defined(__AMX_BF16__)) ||                                            \
    (defined(__AMXINT8__) && defined(__AMXBF16__))

#define TABLE_AMX

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_vnni.h"
#include "backend/cpu/int8_amx.h"
#include "backend/cpu/bf16_amx.h"

#define TABLE kernels_amx
#define TABLE_NAME "amx"
#include "backend/cpu/kernels_table.h"

#endif
