/* Models of every architecture are opened as their files say; every model that would be computed
 * wrongly is refused with words that name what was found and what would do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "gguf_build.h"
#include "model/gguf.h"
#include "model/weights.h"

#define MODELS TEST_DATA_DIR "/vectors/models/"

static struct build build;

/* The least model: 2 layers, width 32, 4 heads over 2, 48 tokens. architecture is a name's own. */
static void model_start(const char *architecture)
{
    static const char *const numbers[] = {
        "block_count",    "embedding_length",     "feed_forward_length",
        "context_length", "attention.head_count", "attention.head_count_kv",
    };
    static const uint32_t values[] = {2, 32, 64, 256, 4, 2};
    char key[80];
    build_start(&build, 3);
    build_string(&build, "general.architecture", architecture);
    for (size_t i = 0; i < 6; i++) {
        snprintf(key, sizeof(key), "%s.%s", architecture, numbers[i]);
        build_u32(&build, key, values[i]);
    }
    snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", architecture);
    build_f32(&build, key, 1e-5f);

    build_matrix(&build, "token_embd.weight", DTYPE_Q8_0, 48, 32);
    build_vector(&build, "output_norm.weight", 32);
    for (int i = 0; i < 2; i++) {
        static const struct {
            const char *name;
            uint32_t rows, columns;
        } tensors[] = {
            {"attn_norm", 0, 32}, {"attn_q", 32, 32},      {"attn_k", 16, 32},
            {"attn_v", 16, 32},   {"attn_output", 32, 32}, {"ffn_norm", 0, 32},
            {"ffn_gate", 64, 32}, {"ffn_up", 64, 32},      {"ffn_down", 32, 64},
        };
        for (size_t t = 0; t < sizeof(tensors) / sizeof(tensors[0]); t++) {
            snprintf(key, sizeof(key), "blk.%d.%s.weight", i, tensors[t].name);
            if (tensors[t].rows == 0)
                build_vector(&build, key, tensors[t].columns);
            else
                build_matrix(&build, key, DTYPE_F16, tensors[t].rows, tensors[t].columns);
        }
        if (strcmp(architecture, "qwen2") == 0) {
            snprintf(key, sizeof(key), "blk.%d.attn_q.bias", i);
            build_vector(&build, key, 32);
            snprintf(key, sizeof(key), "blk.%d.attn_k.bias", i);
            build_vector(&build, key, 16);
            snprintf(key, sizeof(key), "blk.%d.attn_v.bias", i);
            build_vector(&build, key, 16);
        }
        if (strcmp(architecture, "qwen3") == 0) {
            snprintf(key, sizeof(key), "blk.%d.attn_q_norm.weight", i);
            build_vector(&build, key, 8);
            snprintf(key, sizeof(key), "blk.%d.attn_k_norm.weight", i);
            build_vector(&build, key, 8);
        }
    }
}

/* The file of the model that open_right gave last. */
static struct gguf *gguf;

static struct model *open_right(void)
{
    gguf = NULL;
    struct model *model = NULL;
    build_finish(&build);
    if (gguf_open_memory("dir/little.gguf", build.data, build.bytes, &gguf) != OK ||
        weights_read(gguf, &model) != OK)
        fail_msg("%s", error_text());
    build_end(&build);
    return model;
}

/* What build holds now is refused; build starts anew with the same architecture. */
static void expect_refused(const char *architecture, status expected, const char *words)
{
    gguf = NULL;
    struct model *model = NULL;
    build_finish(&build);
    if (gguf_open_memory("little.gguf", build.data, build.bytes, &gguf) != OK)
        fail_msg("%s", error_text());
    status code = weights_read(gguf, &model);
    if (code != expected)
        fail_msg("status %d, expected %d (%s)", code, expected, code == OK ? "" : error_text());
    assert_null(model);
    if (strstr(error_text(), words) == NULL || strstr(error_text(), "little.gguf: ") == NULL)
        fail_msg("the message is: %s; expected in it: %s", error_text(), words);
    build_end(&build);
    model_start(architecture);
}

static bool near(float value, float expected)
{
    return value >= expected * 0.999999f && value <= expected * 1.000001f;
}

static void test_least_models(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen2", "qwen3"};
    for (size_t i = 0; i < 3; i++) {
        model_start(names[i]);
        struct model *model = open_right();
        assert_int_equal(model->architecture, i);
        assert_int_equal(model->layer_count, 2);
        assert_int_equal(model->head_dim, 8);
        assert_int_equal(model->rope_dims, 8);
        assert_int_equal(model->vocabulary, 48);
        assert_int_equal(model->rope_halves, i > 0);
        assert_true(near(model->rope_theta, 10000.0f));
        assert_null(model->rope_factors);
        assert_ptr_equal(model->output.data, model->embedding.data);
        assert_string_equal(model->name, "little");
        assert_string_equal(model->layers[1].w_down.name, "blk.1.ffn_down.weight");
        assert_int_equal(model->layers[1].w_down.rows, 32);
        assert_int_equal(model->layers[1].w_down.columns, 64);
        assert_int_equal(model->layers[1].wk.rows, 16);
        assert_int_equal(model->layers[0].bk.rows != 0, i == 1);
        assert_int_equal(model->layers[0].k_norm.rows != 0, i == 2);
        uint64_t bytes = 0;
        for (size_t t = 0; t < gguf_tensor_count(gguf); t++)
            bytes += gguf_tensor_at(gguf, t)->bytes;
        assert_int_equal(model->weight_bytes, bytes);
        weights_close(model);
    }
    weights_close(NULL);
}

static void test_options_of_a_model(void **state)
{
    (void)state;
    model_start("llama");
    build_string(&build, "general.name", "Little \xc3\xa9\n");
    build_f32(&build, "llama.rope.freq_base", 500000.0f);
    build_u32(&build, "llama.rope.dimension_count", 4);
    build_string(&build, "llama.rope.scaling.type", "none");
    build_vector(&build, "rope_freqs.weight", 2);
    build_matrix(&build, "output.weight", DTYPE_Q8_0, 48, 32);
    for (int i = 0; i < 2; i++) { /* llama files with biases exist */
        build_vector(&build, i == 0 ? "blk.0.attn_q.bias" : "blk.1.attn_q.bias", 32);
        build_vector(&build, i == 0 ? "blk.0.attn_k.bias" : "blk.1.attn_k.bias", 16);
        build_vector(&build, i == 0 ? "blk.0.attn_v.bias" : "blk.1.attn_v.bias", 16);
    }
    struct model *model = open_right();
    assert_string_equal(model->name, "Little ???");
    assert_true(near(model->rope_theta, 500000.0f));
    assert_int_equal(model->rope_dims, 4);
    assert_ptr_equal(model->rope_factors, gguf_tensor_find(gguf, "rope_freqs.weight")->data);
    assert_ptr_not_equal(model->output.data, model->embedding.data);
    assert_non_null(model->layers[1].bv.data);
    weights_close(model);

    /* Linear scaling divides all frequencies alike. */
    model_start("llama");
    build_string(&build, "llama.rope.scaling.type", "linear");
    build_f32(&build, "llama.rope.scaling.factor", 4.0f);
    model = open_right();
    assert_non_null(model->rope_factors);
    for (int i = 0; i < 4; i++)
        assert_true(near(model->rope_factors[i], 4.0f));
    weights_close(model);

    /* Heads may be wider than the model shared out. */
    model_start("qwen3");
    build_u32(&build, "qwen3.attention.key_length", 16);
    build_u32(&build, "qwen3.attention.value_length", 16);
    for (int i = 0; i < 2; i++) {
        char name[64];
        static const char *const names[] = {"attn_q", "attn_k", "attn_v"};
        for (int t = 0; t < 3; t++) {
            snprintf(name, sizeof(name), "blk.%d.%s.weight", i, names[t]);
            build_matrix(&build, name, DTYPE_F16, t == 0 ? 64 : 32, 32);
        }
        snprintf(name, sizeof(name), "blk.%d.attn_output.weight", i);
        build_matrix(&build, name, DTYPE_F16, 32, 64);
        snprintf(name, sizeof(name), "blk.%d.attn_q_norm.weight", i);
        build_vector(&build, name, 16);
        snprintf(name, sizeof(name), "blk.%d.attn_k_norm.weight", i);
        build_vector(&build, name, 16);
    }
    model = open_right();
    assert_int_equal(model->head_dim, 16);
    assert_int_equal(model->rope_dims, 16);
    weights_close(model);
}

static void test_fingerprints(void **state)
{
    (void)state;
    uint8_t first[MODEL_FINGERPRINT_BYTES];
    struct model *model;
    model_start("llama");
    /* Longer than what is hashed whole. */
    build_matrix(&build, "token_embd.weight", DTYPE_F32, 1024, 32);
    model = open_right();
    memcpy(first, model->fingerprint, sizeof(first));
    weights_close(model);
    model = open_right();
    assert_memory_equal(model->fingerprint, first, sizeof(first));
    weights_close(model);

    /* The last byte of the longest tensor, a byte of a short one, and a word of the metadata. */
    for (int change = 0; change < 3; change++) {
        build_finish(&build);
        assert_int_equal(gguf_open_memory("x", build.data, build.bytes, &gguf), OK);
        size_t header_bytes;
        const uint8_t *start = gguf_header(gguf, &header_bytes);
        const struct gguf_tensor *tensor =
            gguf_tensor_find(gguf, change == 0 ? "token_embd.weight" : "blk.1.ffn_norm.weight");
        size_t at = (size_t)(tensor->data - start) + (change == 0 ? tensor->bytes - 1 : 9);
        gguf_close(gguf);
        if (change == 2) {
            build_string(&build, "tokenizer.chat_template", "{{ messages }}");
            build_finish(&build);
        } else {
            build.data[at] ^= 1;
        }
        assert_int_equal(gguf_open_memory("x", build.data, build.bytes, &gguf), OK);
        assert_int_equal(weights_read(gguf, &model), OK);
        assert_memory_not_equal(model->fingerprint, first, sizeof(first));
        weights_close(model);
    }
    build_end(&build);
}

static void test_refuses_what_is_not_built(void **state)
{
    (void)state;
    model_start("llama");
    build_string(&build, "general.architecture", "gemma\n3");
    expect_refused("llama", ERR_UNSUPPORTED,
                   "architecture \"gemma?3\" is not supported (supported: llama, qwen2, qwen3)");
    build_remove(&build, "general.architecture");
    expect_refused("llama", ERR_BAD_INPUT, "metadata general.architecture is missing");
    build_u32(&build, "general.architecture", 1);
    expect_refused("llama", ERR_BAD_INPUT, "is of type u32 (expected string)");

    build_tensor(&build, "blk.1.attn_q.weight", 10, 2, (uint64_t[]){32, 32});
    expect_refused("llama", ERR_UNSUPPORTED,
                   "tensor blk.1.attn_q.weight has type Q2_K (supported: F32, F16, BF16, Q8_0, "
                   "Q4_0, Q4_1, Q4_K, Q5_K, Q6_K)");
    build_tensor(&build, "blk.1.attn_q.weight", 77, 2, (uint64_t[]){32, 32});
    expect_refused("llama", ERR_UNSUPPORTED, "has type number 77 (supported");
    build_tensor(&build, "blk.0.ffn_norm.weight", DTYPE_F16, 1, (uint64_t[]){32});
    expect_refused("llama", ERR_UNSUPPORTED,
                   "vector blk.0.ffn_norm.weight has type F16 (supported: F32)");

    build_u32(&build, "llama.expert_count", 8);
    expect_refused("llama", ERR_UNSUPPORTED, "a mixture of 8 experts is not supported");
    build_u32(&build, "llama.attention.sliding_window", 128);
    expect_refused("llama", ERR_UNSUPPORTED, "a sliding attention window of 128 tokens");
    build_u32(&build, "split.count", 3);
    expect_refused("llama", ERR_UNSUPPORTED, "one of 3 parts of a split model");
    build_string(&build, "llama.rope.scaling.type", "yarn");
    expect_refused("llama", ERR_UNSUPPORTED,
                   "rope scaling \"yarn\" is not supported (supported: none, linear, and Llama-3's "
                   "rope_freqs.weight)");
    build_u32(&build, "llama.attention.value_length", 16);
    expect_refused("llama", ERR_UNSUPPORTED, "values of 16 dimensions beside keys of 8");

    build_vector(&build, "blk.1.attn_output.bias", 32);
    expect_refused("llama", ERR_UNSUPPORTED,
                   "tensor blk.1.attn_output.bias is not part of a llama");
    build_vector(&build, "blk.0.attn_q_norm.weight", 8);
    expect_refused("llama", ERR_UNSUPPORTED, "tensor blk.0.attn_q_norm.weight is not part");
    build_vector(&build, "blk.2.attn_norm.weight", 32);
    expect_refused("llama", ERR_UNSUPPORTED,
                   "blk.2.attn_norm.weight is not part of a llama model "
                   "of 2 layers");
    build_end(&build);
}

static void test_refuses_missing_parts(void **state)
{
    (void)state;
    static const char *const tensors[] = {
        "token_embd.weight",        "output_norm.weight",    "blk.0.attn_norm.weight",
        "blk.1.attn_q.weight",      "blk.0.attn_k.weight",   "blk.1.attn_v.weight",
        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight",
        "blk.1.ffn_up.weight",      "blk.0.ffn_down.weight", "blk.1.attn_q.bias",
        "blk.0.attn_k.bias",        "blk.0.attn_v.bias",
    };
    static const char *const keys[] = {
        "qwen2.block_count",          "qwen2.embedding_length",
        "qwen2.context_length",       "qwen2.feed_forward_length",
        "qwen2.attention.head_count", "qwen2.attention.layer_norm_rms_epsilon",
    };
    char words[128];
    model_start("qwen2");
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
        build_remove(&build, tensors[i]);
        snprintf(words, sizeof(words), "tensor %s is missing", tensors[i]);
        expect_refused("qwen2", ERR_BAD_INPUT, words);
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        build_remove(&build, keys[i]);
        snprintf(words, sizeof(words), "metadata %s is missing", keys[i]);
        expect_refused("qwen2", ERR_BAD_INPUT, words);
    }
    build_end(&build);
    model_start("qwen3");
    build_remove(&build, "blk.1.attn_k_norm.weight");
    expect_refused("qwen3", ERR_BAD_INPUT, "tensor blk.1.attn_k_norm.weight is missing");
    build_end(&build);
}

static void test_refuses_wrong_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
    } cases[] = {
        {"token_embd.weight", "has shape [33, 7, 1, 1] (expected [32, 7]"},
        {"blk.0.attn_q.weight", "has shape [33, 7, 1, 1] (expected [32, 32]"},
        {"blk.1.attn_k.weight", "(expected [32, 16]"},
        {"blk.0.attn_v.weight", "(expected [32, 16]"},
        {"blk.1.attn_output.weight", "(expected [32, 32]"},
        {"blk.0.ffn_gate.weight", "(expected [32, 64]"},
        {"blk.1.ffn_up.weight", "(expected [32, 64]"},
        {"blk.0.ffn_down.weight", "(expected [64, 32]"},
        {"blk.1.attn_norm.weight", "(expected [32, 1]"},
        {"blk.0.ffn_norm.weight", "(expected [32, 1]"},
        {"output_norm.weight", "(expected [32, 1]"},
        {"output.weight", "(expected [32, 48]"},
        {"rope_freqs.weight", "(expected [4, 1]"},
    };
    model_start("llama");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        build_matrix(&build, cases[i].name, DTYPE_F32, 7, 33);
        expect_refused("llama", ERR_BAD_INPUT, cases[i].words);
    }
    /* One of the two is enough to be wrong. */
    build_matrix(&build, "blk.0.attn_k.weight", DTYPE_F32, 15, 32);
    expect_refused("llama", ERR_BAD_INPUT, "has shape [32, 15, 1, 1] (expected [32, 16]");
    build_matrix(&build, "blk.1.ffn_down.weight", DTYPE_F32, 32, 65);
    expect_refused("llama", ERR_BAD_INPUT, "has shape [65, 32, 1, 1] (expected [64, 32]");
    build_tensor(&build, "blk.0.attn_q.weight", DTYPE_F16, 3, (uint64_t[]){32, 32, 2});
    expect_refused("llama", ERR_BAD_INPUT, "has shape [32, 32, 2, 1]");
    build_tensor(&build, "blk.0.attn_q.weight", DTYPE_F16, 4, (uint64_t[]){32, 32, 1, 3});
    expect_refused("llama", ERR_BAD_INPUT, "has shape [32, 32, 1, 3]");
    build_end(&build);
}

static void test_refuses_wrong_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *words;
    } cases[] = {
        {"llama.block_count", 0, "llama.block_count is 0 (expected 1 to 4096)"},
        {"llama.block_count", 5000, "llama.block_count is 5000"},
        {"llama.block_count", 4000, "4000 layers, but only 20 tensors"},
        {"llama.block_count", 3, "tensor blk.2.attn_norm.weight is missing"},
        {"llama.embedding_length", 0, "is 0 (expected 1 to 1048576)"},
        {"llama.embedding_length", 0xffffffff, "is 4294967295 (expected"},
        {"llama.feed_forward_length", 0, "is 0 (expected"},
        {"llama.context_length", 0, "is 0 (expected"},
        {"llama.attention.head_count", 0, "is 0 (expected 1 to 4096)"},
        {"llama.attention.head_count", 5, "5 query heads are not a multiple of 2 key-value heads"},
        {"llama.attention.head_count_kv", 0, "is 0 (expected"},
        {"llama.attention.head_count_kv", 3, "4 query heads are not a multiple of 3"},
        {"llama.attention.key_length", 7, "heads of 7 dimensions (expected an even number"},
        {"llama.attention.key_length", 4096, "is 4096 (expected 2 to 1024)"},
        {"llama.rope.dimension_count", 10, "10 rotated dimensions of a head of 8"},
        {"llama.rope.dimension_count", 3, "3 rotated dimensions"},
        {"llama.rope.dimension_count", 0, "is 0 (expected 2"},
        {"llama.vocab_size", 47, "llama.vocab_size is 47, but token_embd.weight has 48 rows"},
        {"llama.rope.freq_base", 10000, "is of type u32 (expected f32 or f64)"},
    };
    model_start("llama");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        build_u32(&build, cases[i].key, cases[i].value);
        expect_refused("llama", ERR_BAD_INPUT, cases[i].words);
    }
    build_f32(&build, "llama.rope.freq_base", -1.0f);
    expect_refused("llama", ERR_BAD_INPUT, "llama.rope.freq_base is -1 (expected 1 to");
    build_f32(&build, "llama.attention.layer_norm_rms_epsilon", -1e-5f);
    expect_refused("llama", ERR_BAD_INPUT, "is -1e-05 (expected 0 to 1)");
    build_letters(&build, "tokenizer.ggml.tokens", 49);
    expect_refused("llama", ERR_BAD_INPUT,
                   "tokenizer.ggml.tokens has 49 tokens, but token_embd.weight has 48 rows");
    build_string(&build, "llama.rope.scaling.type", "linear");
    build_f32(&build, "llama.rope.scaling.factor", 0.0f);
    expect_refused("llama", ERR_BAD_INPUT, "llama.rope.scaling.factor is 0");
    build_end(&build);

    /* A factor of the rotation that is no number. */
    build_vector(&build, "rope_freqs.weight", 4);
    build_finish(&build);
    gguf = NULL;
    struct model *model = NULL;
    assert_int_equal(gguf_open_memory("little.gguf", build.data, build.bytes, &gguf), OK);
    size_t header_bytes;
    size_t at = (size_t)(gguf_tensor_find(gguf, "rope_freqs.weight")->data -
                         gguf_header(gguf, &header_bytes));
    gguf_close(gguf);
    store_u32(build.data + at + 4, 0x7fc00000u);
    assert_int_equal(gguf_open_memory("little.gguf", build.data, build.bytes, &gguf), OK);
    assert_int_equal(weights_read(gguf, &model), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "rope_freqs.weight[1] is nan"));
    build_end(&build);
}

static void test_small_models(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum model_architecture architecture;
        uint32_t width, heads, kv_heads, head_dim, layers;
        enum dtype matrices, embedding;
        bool tied, factors;
    } cases[] = {
        {"llama-f32-tied", MODEL_LLAMA, 64, 4, 2, 16, 2, DTYPE_F32, DTYPE_F32, true, false},
        {"llama3-f16", MODEL_LLAMA, 64, 4, 2, 16, 2, DTYPE_F16, DTYPE_F16, false, true},
        {"llama-q4_0", MODEL_LLAMA, 128, 4, 4, 32, 2, DTYPE_Q4_0, DTYPE_Q8_0, false, false},
        {"llama-q4_1-tied", MODEL_LLAMA, 96, 3, 1, 32, 3, DTYPE_Q4_1, DTYPE_Q8_0, true, false},
        {"llama3-q4_k", MODEL_LLAMA, 256, 4, 1, 64, 2, DTYPE_Q4_K, DTYPE_Q6_K, true, true},
        {"qwen2-bf16-tied", MODEL_QWEN2, 64, 4, 2, 16, 2, DTYPE_BF16, DTYPE_BF16, true, false},
        {"qwen2-q5_k", MODEL_QWEN2, 256, 4, 2, 64, 2, DTYPE_Q5_K, DTYPE_Q4_K, false, false},
        {"qwen3-q8_0", MODEL_QWEN3, 64, 4, 2, 32, 2, DTYPE_Q8_0, DTYPE_Q8_0, false, false},
        {"qwen3-q6_k-tied", MODEL_QWEN3, 256, 2, 1, 128, 2, DTYPE_Q6_K, DTYPE_Q6_K, true, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[512];
        struct model *model = NULL;
        snprintf(path, sizeof(path), MODELS "%s.gguf", cases[i].name);
        if (weights_open(path, &model) != OK)
            fail_msg("%s", error_text());
        assert_string_equal(model->name, cases[i].name);
        assert_int_equal(model->architecture, cases[i].architecture);
        assert_int_equal(model->width, cases[i].width);
        assert_int_equal(model->head_count, cases[i].heads);
        assert_int_equal(model->kv_head_count, cases[i].kv_heads);
        assert_int_equal(model->head_dim, cases[i].head_dim);
        assert_int_equal(model->layer_count, cases[i].layers);
        assert_int_equal(model->vocabulary, 310);
        assert_int_equal(model->context_tokens, 1024);
        assert_int_equal(model->layers[1].wq.type, cases[i].matrices);
        assert_int_equal(model->embedding.type, cases[i].embedding);
        assert_int_equal(model->output.data == model->embedding.data, cases[i].tied);
        assert_int_equal(model->rope_factors != NULL, cases[i].factors);
        weights_close(model);
    }
}

static void test_smollm2(void **state)
{
    (void)state;
    const char *path = MODEL_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there (make model)\n", path);
        skip();
    }
    struct model *model = NULL;
    if (weights_open(path, &model) != OK)
        fail_msg("%s", error_text());
    assert_int_equal(model->architecture, MODEL_LLAMA);
    assert_int_equal(model->layer_count, 30);
    assert_int_equal(model->width, 576);
    assert_int_equal(model->head_count, 9);
    assert_int_equal(model->kv_head_count, 3);
    assert_int_equal(model->head_dim, 64);
    assert_int_equal(model->ffn_width, 1536);
    assert_int_equal(model->vocabulary, 49152);
    assert_int_equal(model->context_tokens, 8192);
    assert_true(near(model->rope_theta, 100000.0f));
    assert_true(near(model->norm_epsilon, 1e-5f));
    assert_int_equal(model->embedding.type, DTYPE_Q8_0);
    assert_int_equal(model->layers[29].w_down.type, DTYPE_Q4_1);
    assert_int_equal(model->weight_bytes, 96576768);
    weights_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_models),
        cmocka_unit_test(test_options_of_a_model),
        cmocka_unit_test(test_fingerprints),
        cmocka_unit_test(test_refuses_what_is_not_built),
        cmocka_unit_test(test_refuses_missing_parts),
        cmocka_unit_test(test_refuses_wrong_shapes),
        cmocka_unit_test(test_refuses_wrong_numbers),
        cmocka_unit_test(test_small_models),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
