#include "model/dummy_shapes.h"

#include <stddef.h>
#include <string.h>

#define LLAMA3_ROPE(factor)                                                                        \
    "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": " factor ", \"low_freq_factor\": "  \
    "1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"

static const struct {
    const char *name, *json;
} shapes[] = {
    {"llama-3.1-8b",
     "{\"model_type\": \"llama\", \"hidden_size\": 4096, \"intermediate_size\": 14336, "
     "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "
     "\"vocab_size\": 128256, \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-05, "
     "\"rope_theta\": 500000.0, \"dtype\": \"bfloat16\", " LLAMA3_ROPE("8.0") "}"},
    {"llama-3.2-1b",
     "{\"model_type\": \"llama\", \"hidden_size\": 2048, \"intermediate_size\": 8192, "
     "\"num_hidden_layers\": 16, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "
     "\"head_dim\": 64, \"vocab_size\": 128256, \"max_position_embeddings\": 131072, "
     "\"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0, \"tie_word_embeddings\": true, "
     "\"dtype\": \"bfloat16\", " LLAMA3_ROPE("32.0") "}"},
    {"qwen2.5-0.5b",
     "{\"model_type\": \"qwen2\", \"hidden_size\": 896, \"intermediate_size\": 4864, "
     "\"num_hidden_layers\": 24, \"num_attention_heads\": 14, \"num_key_value_heads\": 2, "
     "\"vocab_size\": 151936, \"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-06, "
     "\"rope_theta\": 1000000.0, \"tie_word_embeddings\": true, \"dtype\": \"bfloat16\"}"},
    {"qwen3-0.6b",
     "{\"model_type\": \"qwen3\", \"hidden_size\": 1024, \"intermediate_size\": 3072, "
     "\"num_hidden_layers\": 28, \"num_attention_heads\": 16, \"num_key_value_heads\": 8, "
     "\"head_dim\": 128, \"vocab_size\": 151936, \"max_position_embeddings\": 40960, "
     "\"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, \"tie_word_embeddings\": true, "
     "\"dtype\": \"bfloat16\"}"},
    {"qwen3-8b",
     "{\"model_type\": \"qwen3\", \"hidden_size\": 4096, \"intermediate_size\": 12288, "
     "\"num_hidden_layers\": 36, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "
     "\"head_dim\": 128, \"vocab_size\": 151936, \"max_position_embeddings\": 40960, "
     "\"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, \"dtype\": \"bfloat16\"}"},
    {"smollm2-135m",
     "{\"model_type\": \"llama\", \"hidden_size\": 576, \"intermediate_size\": 1536, "
     "\"num_hidden_layers\": 30, \"num_attention_heads\": 9, \"num_key_value_heads\": 3, "
     "\"vocab_size\": 49152, \"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-05, "
     "\"rope_theta\": 100000.0, \"tie_word_embeddings\": true, \"dtype\": \"bfloat16\"}"},
};

const char *const dummy_shape_names =
    "llama-3.1-8b, llama-3.2-1b, qwen2.5-0.5b, qwen3-0.6b, qwen3-8b, smollm2-135m";

const char *dummy_shape_find(const char *name)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        if (strcmp(name, shapes[i].name) == 0)
            return shapes[i].json;
    }
    return NULL;
}
