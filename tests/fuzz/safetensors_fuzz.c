/* tests/fuzz/safetensors_fuzz.c - any bytes as a safetensors file: opened and read whole, or
 * refused in words. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint8_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct safetensors *file = NULL;
    size_t sum = 0;
    if (safetensors_open_memory("fuzz", data, bytes, &file) != OK) {
        assert(strlen(error_text()) > 0);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_tensor *tensor = safetensors_at(file, i);
        assert(safetensors_find(file, tensor->name) == tensor);
        assert(tensor->dimension_count <= SAFETENSORS_DIMENSIONS_MAX);
        if (tensor->bytes > 0)
            sink = (uint8_t)(tensor->data[0] ^ tensor->data[tensor->bytes - 1]);
        sum += tensor->bytes;
    }
    assert(sum <= bytes);
    assert(safetensors_find(file, "no such tensor") == NULL);
    safetensors_close(file);
    return 0;
}
