/* model/weights.h - a model's shape and where its tensors lie in the mapped file.
 *
 * weights_open maps a GGUF file, checks every number and every tensor's type, shape and place
 * against the architecture, and answers with pointers into the map. Nothing is converted.
 *
 * Threads: open and close by one; reading by any.
 * Memory:  the model owns the mapping; tensor data points into it (read-only, shared, never
 * copied). Source:  GGUF specification (ggml/docs/gguf.md), v2 and v3; llama, qwen2, qwen3 tensor
 * names.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#define MODEL_NAME_BYTES 128
#define MODEL_FINGERPRINT_BYTES 32

struct gguf;

enum model_architecture { MODEL_LLAMA, MODEL_QWEN2, MODEL_QWEN3 };

/* rows x columns, columns contiguous and summed over in y = W x; a vector has rows = 1. */
struct model_tensor {
    const char *name;
    enum dtype type;
    uint32_t rows, columns;
    const void *data;
};

struct model_layer {
    struct model_tensor attention_norm;
    struct model_tensor wq, wk, wv;
    struct model_tensor bq, bk, bv;     /* qwen2, some llama; data is NULL where there is none */
    struct model_tensor q_norm, k_norm; /* qwen3; data is NULL elsewhere */
    struct model_tensor wo;
    struct model_tensor ffn_norm;
    struct model_tensor w_gate, w_up, w_down;
};

struct model {
    struct gguf *gguf; /* metadata, for tokenizer and chat template */
    enum model_architecture architecture;
    char name[MODEL_NAME_BYTES]; /* general.name, else the file's name without .gguf */
    uint32_t layer_count;
    uint32_t width; /* embedding length */
    uint32_t head_count, kv_head_count, head_dim;
    uint32_t ffn_width;
    uint32_t vocabulary;
    uint32_t context_tokens; /* trained context length: the most a sequence may have */
    float norm_epsilon;
    float rope_theta;
    uint32_t rope_dims;
    bool rope_halves; /* pairs (i, i + d/2) instead of (2i, 2i + 1) */
    /* rope_dims / 2 divisors of the frequencies (Llama-3, linear scaling), or NULL */
    const float *rope_factors;
    float *rope_factors_own; /* what of them the model allocated, or NULL */
    struct model_tensor embedding;
    struct model_tensor output_norm;
    struct model_tensor output; /* the embedding itself when the head is tied */
    struct model_layer *layers; /* [layer_count] */
    uint64_t weight_bytes;      /* sum over tensors */
    /* Names the weights: equal fingerprints mean equal models (header, tensor table, and samples of
     * every tensor's bytes under BLAKE2b-256; see weights.c). */
    uint8_t fingerprint[MODEL_FINGERPRINT_BYTES];
};

/* Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT (not GGUF, truncated, inconsistent),
 * ERR_UNSUPPORTED (architecture, tensor type, rope scaling not built), ERR_NO_MEMORY. */
status weights_open(const char *path, struct model **model_out);

/* The same over an open file, which belongs to the call: it is closed when the call fails, and by
 * weights_close when not. */
status weights_read(struct gguf *gguf, struct model **model_out);
void weights_close(struct model *model);

#endif
