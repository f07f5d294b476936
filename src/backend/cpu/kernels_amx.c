/* The kernels of kernels_vnni.c, and integer products of many rows by AMX tiles. */
#include "backend/cpu/kernels.h"

#if defined(__AMX_INT8__) || defined(__AMXINT8__) /* as Clang called it until 15 */

#define TABLE_AMX

#include "backend/cpu/lanes_x86.h"
#include "backend/cpu/kernels_lanes.h"
#include "backend/cpu/int8_vnni.h"
#include "backend/cpu/int8_amx.h"

#define TABLE kernels_amx
#define TABLE_NAME "amx"
#include "backend/cpu/kernels_table.h"

#endif
