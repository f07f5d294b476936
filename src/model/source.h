/* model/source.h - where a model comes from: what weights.c asks a format for.
 *
 *     GGUF file        source_gguf.c       metadata and tensors of gguf.h
 *     directory        source_directory.c  config.json, *.safetensors, tokenizer.json
 *     --dummy-weights  source_dummy.c      config.json or a named shape; values from a generator
 *
 * A source finds a number or a tensor under the format's own name and says what it found; whether
 * that is a model (ranges, shapes, types, nothing left over) is checked once, in weights.c.
 *
 * Threads: open and close by one; the rest by any.
 * Memory:  what a source gives out lives until close.
 */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sodium.h>

#include "base/dtype.h"
#include "base/status.h"
#include "base/synthetic.h"

#define SOURCE_NAME_BYTES 160 /* of a number or a tensor, for messages too */
#define SOURCE_WORD_BYTES 64

struct model;
struct tokenizer;
struct gguf;

/* The numbers of a model's shape. */
enum source_number {
    NUMBER_LAYERS,
    NUMBER_WIDTH,
    NUMBER_FFN_WIDTH,
    NUMBER_CONTEXT,
    NUMBER_HEADS,
    NUMBER_KV_HEADS,
    NUMBER_KEY_DIM,
    NUMBER_VALUE_DIM,
    NUMBER_ROPE_DIMS,
    NUMBER_VOCABULARY,
    NUMBER_EPSILON, /* the two that are no integers */
    NUMBER_ROPE_THETA,
    NUMBER_COUNT,
};

/* What a tensor is for. Those after ROLE_LAYERS are there once for each layer. */
enum source_role {
    ROLE_EMBEDDING,
    ROLE_OUTPUT_NORM,
    ROLE_OUTPUT,
    ROLE_ROPE_FACTORS,
    ROLE_LAYERS,
    ROLE_ATTENTION_NORM = ROLE_LAYERS,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_ATTENTION_OUTPUT,
    ROLE_FFN_NORM,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_COUNT,
};

/* A tensor as the format has it. dimensions[0] is contiguous; 1 beyond dimension_count. */
struct source_tensor {
    const char *name;
    const char *type_name; /* "BF16", "I64"; NULL: it has only a number */
    uint32_t type_number;
    bool type_known; /* type is set */
    enum dtype type;
    uint32_t dimension_count;
    uint64_t dimensions[4];
    const void *data; /* NULL: generated */
    size_t bytes;
    struct synthetic synthetic; /* the values, where data is NULL */
};

struct source;

struct source_calls {
    void (*close)(struct source *source);
    /* No tensor will be read for a while: what is mapped of them need not count. */
    void (*forget)(const struct source *source);

    /* The architecture's name, as it is written here; for messages, printable. */
    status (*architecture)(struct source *source, char word_out[SOURCE_WORD_BYTES]);

    /* "metadata llama.block_count", for messages. */
    void (*number_name)(const struct source *source, enum source_number number,
                        char name_out[SOURCE_NAME_BYTES]);
    /* Errors: ERR_NOT_FOUND without a message (not given); ERR_BAD_INPUT. */
    status (*read_u32)(const struct source *source, enum source_number number, uint32_t *value_out);
    status (*read_f32)(const struct source *source, enum source_number number, float *value_out);

    /* Refuse by name what the format can ask for and is not built. The numbers are read. */
    status (*refuse_unbuilt)(const struct source *source, const struct model *model);

    /* Multiply the divisors of the frequencies [rope_dims / 2] by the scaling that is asked for. */
    status (*scale_rope)(const struct source *source, const struct model *model, float *divisors);

    void (*tensor_name)(const struct source *source, enum source_role role, uint32_t layer,
                        char name_out[SOURCE_NAME_BYTES]);
    /* False when there is none. It counts as read from then on. rows and columns are what is
     * expected: a generator makes that. */
    bool (*tensor_find)(struct source *source, enum source_role role, uint32_t layer, uint32_t rows,
                        uint32_t columns, struct source_tensor *tensor_out);
    /* A tensor that nothing has read, or NULL. */
    const char *(*tensor_unread)(const struct source *source);
    /* All of them, in an order that is the model's own; false after the last. */
    bool (*tensor_at)(const struct source *source, size_t index, struct source_tensor *tensor_out);

    /* What the model is called. */
    void (*name)(const struct source *source, char *name_out, size_t bytes);
    /* All that makes the model, but the tensors' values, into the fingerprint. */
    void (*identify)(const struct source *source, crypto_generichash_state *hash);

    /* Tokens that the tokenizer may give, or 0 when that is seen later. */
    status (*token_count)(const struct source *source, size_t *count_out);
    status (*tokenizer_open)(const struct source *source, uint32_t vocabulary,
                             struct tokenizer **tokenizer_out);
    /* From malloc, NUL-terminated. Errors: ERR_NOT_FOUND (there is none; no message). */
    status (*chat_template)(const struct source *source, char **text_out, size_t *bytes_out);
};

struct source {
    const struct source_calls *calls;
    const char *path; /* for messages */
    const char *file; /* a file that stands for the model; NULL: it has none */
    size_t tensor_count;
    const char *tensor_types; /* those that are built, for messages */
    bool rope_halves;         /* rotated dimensions are paired (i, i + d/2), whatever the model */
    bool rows_first;          /* shapes are written [rows, columns] */
    bool vector_types_any;    /* vectors need not be F32 */
    bool head_required;       /* no output head means that it is missing, not tied */
};

/* Takes over gguf, closed by the call when it fails. Errors: ERR_NO_MEMORY. */
status source_gguf_open(struct gguf *gguf, struct source **source_out);

/* Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT, ERR_UNSUPPORTED, ERR_NO_MEMORY. */
status source_directory_open(const char *path, struct source **source_out);

/* shape: a config.json, a directory with one, or a name (dummy_shapes.h). tokens: a directory or a
 * GGUF file whose tokenizer and template are used, or NULL for a tokenizer of bytes. */
status source_dummy_open(const char *shape, const char *tokens, struct source **source_out);

/* Write "path: message". Returns code. */
status source_error(const struct source *source, status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
