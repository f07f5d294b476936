/* base/dtype.h - the number formats that tensors and KV blocks are stored in.
 *
 * A quantised type stores dtype_group(t) consecutive values of a row as one packed group of
 * dtype_group_bytes(t) bytes. Numbers are GGUF's, so a file's type field converts by a check.
 *
 * Threads: any. Source: ggml's block formats, as documented in the GGUF specification.
 */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q8_0 = 8,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_BF16 = 30,
};

/* False for any number that is not one of the above. */
bool dtype_known(uint32_t number);
const char *dtype_name(enum dtype type); /* "Q4_1" */
uint32_t dtype_group(enum dtype type);   /* values per group: 1, 32 or 256 */
uint32_t dtype_group_bytes(enum dtype type);

/* Bytes of a row of count values; count is a multiple of the group. */
size_t dtype_row_bytes(enum dtype type, size_t count);

#endif
