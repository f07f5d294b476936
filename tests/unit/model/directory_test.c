/* Directories of every architecture are opened as config.json says; every one that would be
 * computed wrongly is refused with words that name what was found and what would do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/half.h"
#include "directory_build.h"
#include "model/tokenizer.h"
#include "model/weights.h"

static struct folder folder;

static struct model *open_right(void)
{
    struct model *model = NULL;
    folder_write(&folder);
    if (weights_open(folder.path, &model) != OK)
        fail_msg("%s", error_text());
    return model;
}

/* What folder holds is refused; then it is the least llama again. */
static void expect_refused_files(status expected, const char *words)
{
    struct model *model = NULL;
    status code = weights_open(folder.path, &model);
    if (code != expected)
        fail_msg("status %d, expected %d for \"%s\" (%s)", code, expected, words,
                 code == OK ? "" : error_text());
    assert_null(model);
    if (strstr(error_text(), words) == NULL || strstr(error_text(), folder.path) == NULL)
        fail_msg("the message is: %s; expected in it: %s", error_text(), words);
    folder_remove(&folder);
    folder_make(&folder, "llama");
}

static void expect_refused(status expected, const char *words)
{
    folder_write(&folder);
    expect_refused_files(expected, words);
}

static void expect_config_refused(const char *key, json_t *value, status expected,
                                  const char *words)
{
    json_object_set_new(folder.config, key, value);
    expect_refused(expected, words);
}

static void least_models(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen2", "qwen3"};
    for (size_t i = 0; i < 3; i++) {
        folder_make(&folder, names[i]);
        struct model *model = open_right();
        assert_int_equal(model->architecture, i);
        assert_int_equal(model->layer_count, 2);
        assert_int_equal(model->head_dim, 8);
        assert_int_equal(model->vocabulary, 48);
        assert_int_equal(model->context_tokens, 256);
        assert_true(model->rope_halves);
        assert_true(model->tied);
        assert_ptr_equal(model->output.data, model->embedding.data);
        assert_null(model->rope_factors);
        assert_string_equal(model->name, strrchr(folder.path, '/') + 1);
        assert_int_equal(model->layers[1].w_down.rows, 32);
        assert_int_equal(model->layers[1].w_down.columns, 64);
        assert_int_equal(model->layers[1].wk.type, DTYPE_BF16);
        assert_int_equal(model->layers[0].bk.rows != 0, i == 1);
        assert_int_equal(model->layers[0].k_norm.rows != 0, i == 2);
        assert_int_equal(model->weight_bytes, folder.data_bytes);
        weights_close(model);
        folder_remove(&folder);
    }
}

/* The divisors of a rotation of 8 dimensions. */
static void expect_divisors(const float expected[4])
{
    struct model *model = open_right();
    assert_non_null(model->rope_factors);
    for (int i = 0; i < 4; i++) {
        if (!(model->rope_factors[i] >= expected[i] * 0.99999f &&
              model->rope_factors[i] <= expected[i] * 1.00001f))
            fail_msg("divisor %d is %g, expected %g", i, (double)model->rope_factors[i],
                     (double)expected[i]);
    }
    weights_close(model);
}

static void rotations(void **state)
{
    (void)state;
    /* Wavelengths 6.28, 62.8, 628, 6283; original 256: kept below 64, all of the factor over 256.
     * The second is within the ramp: (256 / 62.8 - 1) / 3 = 1.025, which is above 1: kept. */
    folder_make(&folder, "llama");
    json_t *llama3 =
        json_pack("{ss sf sf sf si}", "rope_type", "llama3", "factor", 8.0, "low_freq_factor", 1.0,
                  "high_freq_factor", 4.0, "original_max_position_embeddings", 256);
    json_object_set(folder.config, "rope_scaling", llama3);
    expect_divisors((const float[]){1, 1, 8, 8});
    json_object_set_new(llama3, "original_max_position_embeddings", json_integer(128));
    /* (128 / 62.83 - 1) / 3 = 0.34573; 1 / (0.65427 / 8 + 0.34573) = 2.33913 */
    expect_divisors((const float[]){1, 2.33913f, 8, 8});
    /* transformers 5: in rope_parameters, with theta; 4 may have it there as well. */
    json_object_del(folder.config, "rope_scaling");
    json_object_set(folder.config, "rope_parameters", llama3);
    json_object_set_new(llama3, "rope_theta", json_real(1e8));
    json_object_set_new(llama3, "original_max_position_embeddings", json_integer(256));
    struct model *model = open_right();
    assert_true(model->rope_theta >= 1e8f && model->rope_theta <= 1e8f);
    weights_close(model);
    json_object_set_new(folder.config, "rope_parameters",
                        json_pack("{ss sf}", "type", "linear", "factor", 4.0));
    expect_divisors((const float[]){4, 4, 4, 4});
    json_decref(llama3);
    folder_remove(&folder);
}

static void heads_and_names(void **state)
{
    (void)state;
    folder_make(&folder, "llama");
    json_object_set_new(folder.config, "tie_word_embeddings", json_false());
    folder_tensor(&folder, "lm_head.weight", 48, 32);
    folder_tensor(&folder, "model.layers.0.self_attn.rotary_emb.inv_freq", 0, 4);
    struct model *model = open_right();
    assert_false(model->tied);
    assert_ptr_not_equal(model->output.data, model->embedding.data);
    weights_close(model);
    /* A tied head that is written all the same is not read. */
    json_object_set_new(folder.config, "tie_word_embeddings", json_true());
    model = open_right();
    assert_true(model->tied);
    weights_close(model);
    /* The window of qwen that is switched off. */
    json_object_set_new(folder.config, "sliding_window", json_integer(16));
    json_object_set_new(folder.config, "use_sliding_window", json_false());
    model = open_right();
    weights_close(model);
    folder_remove(&folder);
}

static void fingerprints(void **state)
{
    (void)state;
    uint8_t first[MODEL_FINGERPRINT_BYTES];
    folder_make(&folder, "qwen2");
    struct model *model = open_right();
    memcpy(first, model->fingerprint, sizeof(first));
    weights_close(model);
    /* What only text needs does not count; the tokenizer and the configuration do. */
    folder_text(&folder, "chat_template.jinja", "{{ messages }}");
    model = open_right();
    assert_memory_equal(model->fingerprint, first, sizeof(first));
    weights_close(model);
    folder_text(&folder, "tokenizer.json", "{}");
    model = open_right();
    assert_memory_not_equal(model->fingerprint, first, sizeof(first));
    weights_close(model);
    folder_unlink(&folder, "tokenizer.json");
    json_object_set_new(folder.config, "rope_theta", json_real(20000));
    model = open_right();
    assert_memory_not_equal(model->fingerprint, first, sizeof(first));
    weights_close(model);
    json_object_del(folder.config, "rope_theta");

    /* The same tensors in two shards. */
    model = open_right();
    memcpy(first, model->fingerprint, sizeof(first));
    weights_close(model);
    json_t *map = json_object(), *parts[2] = {json_object(), json_object()};
    size_t sizes[2] = {0, 0}, count = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(folder.header, name, entry)
    {
        size_t part = count++ % 2;
        json_t *copy = json_deep_copy(entry), *offsets = json_object_get(copy, "data_offsets");
        json_int_t bytes = json_integer_value(json_array_get(offsets, 1)) -
                           json_integer_value(json_array_get(offsets, 0));
        json_array_set_new(offsets, 0, json_integer((json_int_t)sizes[part]));
        sizes[part] += (size_t)bytes;
        json_array_set_new(offsets, 1, json_integer((json_int_t)sizes[part]));
        json_object_set_new(parts[part], name, copy);
        json_object_set_new(map, name, json_string(part == 0 ? "a.safetensors" : "b.safetensors"));
    }
    folder_safetensors(&folder, "a.safetensors", parts[0], sizes[0]);
    folder_safetensors(&folder, "b.safetensors", parts[1], sizes[1]);
    json_t *index = json_pack("{so}", "weight_map", map);
    folder_json(&folder, "model.safetensors.index.json", index);
    folder_unlink(&folder, "model.safetensors");
    assert_int_equal(weights_open(folder.path, &model), OK);
    assert_memory_equal(model->fingerprint, first, sizeof(first));
    weights_close(model);
    json_decref(index);
    json_decref(parts[0]);
    json_decref(parts[1]);
    folder_remove(&folder);
}

static void refuses_what_is_not_built(void **state)
{
    (void)state;
    folder_make(&folder, "llama");
    expect_config_refused("model_type", json_string("gemma\n3"), ERR_UNSUPPORTED,
                          "architecture \"gemma?3\" is not supported (supported: llama, qwen2");
    expect_config_refused("model_type", json_integer(1), ERR_BAD_INPUT,
                          "model_type is an integer (expected a string");
    expect_config_refused("quantization_config",
                          json_pack("{ss si}", "quant_method", "awq", "bits", 4), ERR_UNSUPPORTED,
                          "quantised by \"awq\" is not supported (supported: F32, F16, BF16); use "
                          "the original checkpoint");
    expect_config_refused("hidden_act", json_string("gelu"), ERR_UNSUPPORTED,
                          "hidden_act is \"gelu\" (supported: silu)");
    expect_config_refused("mlp_bias", json_true(), ERR_UNSUPPORTED, "mlp_bias is not supported");
    expect_config_refused("partial_rotary_factor", json_real(0.5), ERR_UNSUPPORTED,
                          "partial_rotary_factor is 0.5 (supported: 1)");
    expect_config_refused("sliding_window", json_integer(128), ERR_UNSUPPORTED,
                          "a sliding attention window of 128 tokens");
    expect_config_refused("layer_types", json_pack("[s, s]", "full_attention", "sliding_attention"),
                          ERR_UNSUPPORTED, "layer_types[1] is \"sliding_attention\"");
    expect_config_refused("rope_scaling", json_pack("{ss sf}", "rope_type", "yarn", "factor", 4.0),
                          ERR_UNSUPPORTED,
                          "rope scaling \"yarn\" is not supported (supported: default, linear, "
                          "llama3)");
    expect_config_refused("rope_scaling", json_pack("{ss}", "rope_type", "linear"), ERR_BAD_INPUT,
                          "factor of the rope scaling is nothing (expected a number)");
    expect_config_refused("rope_scaling", json_pack("{ss sf}", "type", "linear", "factor", 0.0),
                          ERR_BAD_INPUT, "factor of the rope scaling is 0 (expected 0.001 to");
    folder_tensor(&folder, "model.layers.0.self_attn.o_proj.bias", 0, 32);
    expect_refused(ERR_UNSUPPORTED, "self_attn.o_proj.bias is not part of a llama model of 2");
    folder_tensor(&folder, "model.layers.1.mlp.experts.0.weight", 2, 32);
    expect_refused(ERR_UNSUPPORTED, "mlp.experts.0.weight is not part of");
    json_object_set_new(json_object_get(folder.header, "model.norm.weight"), "dtype",
                        json_string("I16"));
    expect_refused(ERR_UNSUPPORTED,
                   "tensor model.norm.weight has type I16 (supported: F32, F16, BF16)");
    json_t *down = json_object_get(folder.header, "model.layers.1.mlp.down_proj.weight");
    json_object_set_new(down, "dtype", json_string("F8_E4M3"));
    json_object_set_new(down, "shape", json_pack("[i, i]", 64, 64));
    expect_refused(ERR_UNSUPPORTED, "mlp.down_proj.weight has type F8_E4M3 (supported");
    folder_remove(&folder);
}

static void refuses_wrong_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        json_int_t value;
        const char *words;
    } cases[] = {
        {"num_hidden_layers", 0, "config.json: num_hidden_layers is 0 (expected 1 to 4096)"},
        {"num_hidden_layers", 4000, "4000 layers, but only 20 tensors"},
        {"num_hidden_layers", 3, "tensor model.layers.2.input_layernorm.weight is missing"},
        {"hidden_size", -1, "hidden_size is -1 (expected 0 to"},
        {"hidden_size", 0x7fffffffffffffff, "is 9223372036854775807 (expected"},
        {"hidden_size", 2097152, "is 2097152 (expected 1 to 1048576)"},
        {"hidden_size", 64, "[expected"},
        {"intermediate_size", 0, "is 0 (expected"},
        {"max_position_embeddings", 0, "is 0 (expected"},
        {"num_attention_heads", 5, "5 query heads are not a multiple of 2"},
        {"num_key_value_heads", 0, "is 0 (expected"},
        {"head_dim", 7, "heads of 7 dimensions (expected an even number"},
        {"head_dim", 16, "has shape [1, 1, 32, 32] (expected [64, 32] from the configuration)"},
        {"vocab_size", 47, "vocab_size is 47, but model.embed_tokens.weight has 48 rows"},
        {"rope_theta", 0, "rope_theta is 0 (expected 1 to"},
    };
    folder_make(&folder, "llama");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *words = cases[i].words[0] == '[' ? "(expected" : cases[i].words;
        expect_config_refused(cases[i].key, json_integer(cases[i].value), ERR_BAD_INPUT, words);
    }
    expect_config_refused("hidden_size", json_string("32"), ERR_BAD_INPUT,
                          "hidden_size is a string (expected an integer)");
    expect_config_refused("hidden_size", json_real(32), ERR_BAD_INPUT, "a number with a point");
    expect_config_refused("rms_norm_eps", json_real(-1), ERR_BAD_INPUT, "rms_norm_eps is -1");
    expect_config_refused("rms_norm_eps", json_null(), ERR_BAD_INPUT, "rms_norm_eps is missing");
    expect_config_refused("tie_word_embeddings", json_false(), ERR_BAD_INPUT,
                          "tensor lm_head.weight is missing");
    folder_remove(&folder);
}

static void refuses_missing_files(void **state)
{
    (void)state;
    folder_make(&folder, "llama");
    expect_refused_files(ERR_NOT_FOUND, "no config.json: expected a model's directory");
    folder_json(&folder, "config.json", folder.config);
    expect_refused_files(ERR_NOT_FOUND, "no model.safetensors and no model.safetensors.index.json");
    folder_json(&folder, "config.json", folder.config);
    folder_text(&folder, "pytorch_model.bin", "x");
    expect_refused_files(ERR_UNSUPPORTED, "pytorch_model.bin is not read: save the model as");
    folder_text(&folder, "config.json", "{\"a\": ");
    expect_refused_files(ERR_BAD_INPUT, "config.json: not JSON: line 1");
    folder_text(&folder, "config.json", "[1]");
    expect_refused_files(ERR_BAD_INPUT, "config.json: an array (expected an object)");

    static const struct {
        const char *index, *words;
        status code;
    } cases[] = {
        {"{}", "weight_map is nothing (expected an object)", ERR_BAD_INPUT},
        {"{\"weight_map\": {\"a\": \"gone.safetensors\"}}",
         "the shard gone.safetensors is missing: the download is incomplete", ERR_NOT_FOUND},
        {"{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "tensor a is in ../x.safetensors",
         ERR_BAD_INPUT},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "expected the name of a file beside it",
         ERR_BAD_INPUT},
        {"{\"weight_map\": {\"a\": 1}}", "tensor a is in an integer", ERR_BAD_INPUT},
        {"{\"weight_map\": {\"absent\": \"part.safetensors\"}}",
         "tensor absent is not in part.safetensors: index and shards do not belong together",
         ERR_BAD_INPUT},
        {"{\"weight_map\": {\"model.norm.weight\": \"part.safetensors\", \"a\": "
         "\"copy.safetensors\"}}",
         "is not in copy.safetensors", ERR_BAD_INPUT},
        {"{\"weight_map\": {\"model.norm.weight\": \"part.safetensors\", "
         "\"model.embed_tokens.weight\": \"copy.safetensors\"}}",
         "is in two shards", ERR_BAD_INPUT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        folder_json(&folder, "config.json", folder.config);
        folder_safetensors(&folder, "part.safetensors", folder.header, folder.data_bytes);
        folder_safetensors(&folder, "copy.safetensors", folder.header, folder.data_bytes);
        folder_text(&folder, "model.safetensors.index.json", cases[i].index);
        expect_refused_files(cases[i].code, cases[i].words);
    }
    folder_remove(&folder);
}

/* Values and fingerprints of dummy weights are those of the shape, whoever opens it. */
static void dummy_weights(void **state)
{
    (void)state;
    struct model *model = NULL, *same = NULL;
    folder_make(&folder, "qwen2");
    json_object_set_new(folder.config, "vocab_size", json_integer(300));
    folder_json(&folder, "config.json", folder.config);
    assert_int_equal(weights_choose(NULL, folder.path, &model), OK);
    assert_int_equal(weights_choose(NULL, folder.path, &same), OK);
    assert_memory_equal(model->fingerprint, same->fingerprint, MODEL_FINGERPRINT_BYTES);
    assert_null(model->layers[1].wq.data);
    assert_int_equal(model->layers[1].wq.synthetic.seed, same->layers[1].wq.synthetic.seed);
    assert_int_not_equal(model->layers[1].wq.synthetic.seed, model->layers[0].wq.synthetic.seed);
    assert_int_equal(model->layers[1].bq.rows, 1);

    /* Any part, in any dtype, is the same numbers. */
    float all[256], part[9];
    uint16_t brain[256], half[256];
    const struct synthetic *values = &model->layers[0].w_up.synthetic;
    synthetic_fill(values, DTYPE_F32, 0, 256, all);
    synthetic_fill(values, DTYPE_F32, 101, 9, part);
    synthetic_fill(values, DTYPE_BF16, 0, 256, brain);
    synthetic_fill(values, DTYPE_F16, 0, 256, half);
    assert_memory_equal(part, all + 101, sizeof(part));
    double square = 0;
    for (int i = 0; i < 256; i++) {
        assert_int_equal(float_bits(bf16_to_f32(brain[i])), float_bits(all[i]));
        assert_int_equal(float_bits(f16_to_f32(half[i])), float_bits(all[i]));
        square += (double)all[i] * (double)all[i];
    }
    /* 1 / width, within a power of two. */
    assert_true(square / 256 > 0.5 / 32 / 2 && square / 256 < 2.0 / 32);
    assert_true(synthetic_word(0, 0) == 0xe220a8397b1dcdafu); /* splitmix64's first from 0 */

    struct tokenizer *tokenizer = NULL;
    assert_int_equal(model_tokenizer_open(model, &tokenizer), OK);
    assert_int_equal(tokenizer_facts(tokenizer)->vocabulary, 300);
    tokenizer_close(tokenizer);
    weights_close(same);
    json_object_set_new(folder.config, "rope_theta", json_real(20000));
    folder_json(&folder, "config.json", folder.config);
    assert_int_equal(weights_choose(NULL, folder.path, &same), OK);
    assert_memory_not_equal(model->fingerprint, same->fingerprint, MODEL_FINGERPRINT_BYTES);
    weights_close(same);
    weights_close(model);

    /* A known shape, of which nothing is read. */
    assert_int_equal(weights_choose(NULL, "llama-3.1-8b", &model), OK);
    assert_int_equal(model->weight_bytes, 16060522496u); /* 8,030,261,248 values */
    assert_non_null(model->rope_factors);
    weights_close(model);
    assert_int_equal(weights_choose(NULL, "no-such-shape", &model), ERR_NOT_FOUND);
    assert_non_null(strstr(error_text(), "nor a known shape (llama-3.1-8b"));
    assert_int_equal(weights_choose(NULL, NULL, &model), ERR_BAD_INPUT);
    folder_remove(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(least_models),
        cmocka_unit_test(rotations),
        cmocka_unit_test(heads_and_names),
        cmocka_unit_test(fingerprints),
        cmocka_unit_test(refuses_what_is_not_built),
        cmocka_unit_test(refuses_wrong_numbers),
        cmocka_unit_test(refuses_missing_files),
        cmocka_unit_test(dummy_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
