/* tests/fuzz/gguf_fuzz.c - any bytes as a model file: opened and read whole, or refused in words.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/dequant.h"
#include "base/error.h"
#include "model/gguf.h"
#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint8_t sink;

/* The keys that tokenizer, template and weights ask for, in every type. */
static void read_metadata(const struct gguf *gguf)
{
    static const char *const keys[] = {
        "general.architecture",  "general.name",
        "tokenizer.ggml.tokens", "tokenizer.ggml.merges",
        "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
        "tokenizer.ggml.model",  "tokenizer.chat_template",
        "llama.block_count",
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        uint32_t number;
        uint64_t wide;
        float value;
        bool yes;
        struct gguf_string text;
        struct gguf_strings strings;
        struct gguf_array array;
        (void)gguf_read_u32(gguf, keys[i], &number);
        (void)gguf_read_u64(gguf, keys[i], &wide);
        (void)gguf_read_f32(gguf, keys[i], &value);
        (void)gguf_read_bool(gguf, keys[i], &yes);
        if (gguf_read_string(gguf, keys[i], &text) == OK && text.bytes > 0)
            sink = (uint8_t)(text.text[0] ^ text.text[text.bytes - 1]);
        if (gguf_read_strings(gguf, keys[i], &strings) == OK) {
            while (gguf_strings_next(&strings, &text))
                sink = text.bytes > 0 ? (uint8_t)text.text[text.bytes - 1] : 0;
        }
        if (gguf_read_integers(gguf, keys[i], &array) == OK && array.count > 0)
            sink = (uint8_t)gguf_array_integer(&array, array.count - 1);
        if (gguf_read_floats(gguf, keys[i], &array) == OK && array.count > 0)
            sink = gguf_array_float(&array, array.count - 1) > 0;
    }
}

/* Every row of a tensor that the model would compute with lies in the file. */
static void read_tensor(const struct model_tensor *tensor)
{
    static float row[1 << 16];
    if (tensor->data == NULL || tensor->columns > sizeof(row) / sizeof(row[0]))
        return;
    size_t row_bytes = dtype_row_bytes(tensor->type, tensor->columns);
    const uint8_t *last = (const uint8_t *)tensor->data + (tensor->rows - 1) * row_bytes;
    dequant_row(tensor->type, tensor->data, tensor->columns, row);
    dequant_row(tensor->type, last, tensor->columns, row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct gguf *gguf = NULL;
    struct model *model = NULL;
    if (gguf_open_memory("fuzz", data, bytes, &gguf) != OK) {
        assert(strlen(error_text()) > 0);
        return 0;
    }
    read_metadata(gguf);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        assert(gguf_tensor_find(gguf, tensor->name) == tensor);
        if (tensor->data != NULL)
            sink = tensor->data[tensor->bytes - 1];
    }
    if (weights_read(gguf, &model) != OK) {
        assert(strlen(error_text()) > 0);
        return 0;
    }
    read_tensor(&model->embedding);
    read_tensor(&model->output);
    for (uint32_t i = 0; i < model->layer_count; i++) {
        read_tensor(&model->layers[i].wq);
        read_tensor(&model->layers[i].wo);
        read_tensor(&model->layers[i].w_down);
        read_tensor(&model->layers[i].k_norm);
    }
    for (uint32_t i = 0; model->rope_factors != NULL && i < model->rope_dims / 2; i++)
        assert(model->rope_factors[i] > 0);
    weights_close(model);
    return 0;
}
