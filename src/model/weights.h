/* model/weights.h - a model's shape and where its tensors lie in mapped files.
 *
 *     GGUF file ---------\
 *     directory ----------> source.h --> weights.c: every number, every tensor's type, shape and
 *     --dummy-weights ---/               place against the architecture --> struct model
 *
 * Nothing is converted: tensors are pointers into the maps. Dummy weights have no bytes at all; who
 * wants them asks base/synthetic.h for values.
 *
 * Threads: open and close by one; reading by any.
 * Memory:  the model owns the mappings; tensor data points into them (read-only, shared, never
 *          copied).
 * Source:  GGUF specification (ggml/docs/gguf.md), v2 and v3; safetensors' format; the
 * configuration and tensor names of transformers for llama, qwen2, qwen3.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "base/synthetic.h"

#define MODEL_NAME_BYTES 128
#define MODEL_FINGERPRINT_BYTES 32

struct gguf;
struct source;
struct tokenizer;

enum model_architecture { MODEL_LLAMA, MODEL_QWEN2, MODEL_QWEN3 };

/* rows x columns, columns contiguous and summed over in y = W x; a vector has rows = 1, and a
 * tensor that this model does not have rows = 0. */
struct model_tensor {
    const char *name;
    enum dtype type;
    uint32_t rows, columns;
    const void *data;           /* NULL: the values are those of synthetic */
    struct synthetic synthetic; /* --dummy-weights */
};

struct model_layer {
    struct model_tensor attention_norm;
    struct model_tensor wq, wk, wv;
    struct model_tensor bq, bk, bv;     /* qwen2, some llama; rows = 0 where there is none */
    struct model_tensor q_norm, k_norm; /* qwen3; rows = 0 elsewhere */
    struct model_tensor wo;
    struct model_tensor ffn_norm;
    struct model_tensor w_gate, w_up, w_down;
};

struct model {
    struct source *source; /* where it came from, with tokenizer and chat template */
    enum model_architecture architecture;
    char name[MODEL_NAME_BYTES]; /* the file's own name for it, else that of the file or folder */
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
    bool tied;
    struct model_layer *layers; /* [layer_count] */
    uint64_t weight_bytes;      /* sum over tensors */
    /* Names the weights: equal fingerprints mean equal models (header, tensor table, and samples of
     * every tensor's bytes under BLAKE2b-256; see weights.c). */
    uint8_t fingerprint[MODEL_FINGERPRINT_BYTES];
};

/* path: a GGUF file, or a directory with config.json and *.safetensors.
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT (not a model, truncated, inconsistent),
 * ERR_UNSUPPORTED (architecture, tensor type, rope scaling not built), ERR_NO_MEMORY. */
status weights_open(const char *path, struct model **model_out);

/* dummy_weights NULL: weights_open(path). Else random weights in the shape of dummy_weights: a
 * config.json, a directory with one, or a named shape (model/dummy_shapes.h). Tokenizer and
 * template are then path's, or, when that is NULL, a tokenizer of bytes. Errors: as above. */
status weights_choose(const char *path, const char *dummy_weights, struct model **model_out);

/* The same over an open file, which belongs to the call: it is closed when the call fails, and by
 * weights_close when not. */
status weights_read(struct gguf *gguf, struct model **model_out);
void weights_close(struct model *model);

/* Nothing of the tensors will be read for a while: their pages need not count as this process'. */
void weights_forget(const struct model *model);

/* A file that stands for the model, beside which what is made of it may lie; NULL: it has none
 * (--dummy-weights). */
const char *weights_file(const struct model *model);

/* The model's tokenizer; it has at most model->vocabulary tokens, and outlives the model.
 * Errors: ERR_NOT_FOUND, ERR_BAD_INPUT, ERR_UNSUPPORTED, ERR_NO_MEMORY. */
status model_tokenizer_open(const struct model *model, struct tokenizer **tokenizer_out);

/* The model's chat template, from malloc and NUL-terminated; the caller frees *text_out.
 * Errors: ERR_NOT_FOUND (it has none; no message), ERR_BAD_INPUT, ERR_NO_MEMORY. */
status model_chat_template(const struct model *model, char **text_out, size_t *bytes_out);

#endif
