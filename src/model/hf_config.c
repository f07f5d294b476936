#include "model/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/json_file.h"
#include "model/weights.h"

#define FACTOR_MIN 1e-3
#define FACTOR_MAX 1e6

/* NULL: such a checkpoint does not say it. */
static const char *const number_keys[NUMBER_COUNT] = {
    [NUMBER_LAYERS] = "num_hidden_layers",
    [NUMBER_WIDTH] = "hidden_size",
    [NUMBER_FFN_WIDTH] = "intermediate_size",
    [NUMBER_CONTEXT] = "max_position_embeddings",
    [NUMBER_HEADS] = "num_attention_heads",
    [NUMBER_KV_HEADS] = "num_key_value_heads",
    [NUMBER_KEY_DIM] = "head_dim",
    [NUMBER_VOCABULARY] = "vocab_size",
    [NUMBER_EPSILON] = "rms_norm_eps",
    [NUMBER_ROPE_THETA] = "rope_theta",
};

static const char *const tensor_names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "model.embed_tokens.weight",
    [ROLE_OUTPUT_NORM] = "model.norm.weight",
    [ROLE_OUTPUT] = "lm_head.weight",
    [ROLE_ATTENTION_NORM] = "input_layernorm.weight",
    [ROLE_Q] = "self_attn.q_proj.weight",
    [ROLE_K] = "self_attn.k_proj.weight",
    [ROLE_V] = "self_attn.v_proj.weight",
    [ROLE_Q_BIAS] = "self_attn.q_proj.bias",
    [ROLE_K_BIAS] = "self_attn.k_proj.bias",
    [ROLE_V_BIAS] = "self_attn.v_proj.bias",
    [ROLE_ATTENTION_OUTPUT] = "self_attn.o_proj.weight",
    [ROLE_FFN_NORM] = "post_attention_layernorm.weight",
    [ROLE_GATE] = "mlp.gate_proj.weight",
    [ROLE_UP] = "mlp.up_proj.weight",
    [ROLE_DOWN] = "mlp.down_proj.weight",
    [ROLE_Q_NORM] = "self_attn.q_norm.weight",
    [ROLE_K_NORM] = "self_attn.k_norm.weight",
};

void hf_config_tensor_name(enum source_role role, uint32_t layer, char name_out[SOURCE_NAME_BYTES])
{
    const char *name = tensor_names[role] != NULL ? tensor_names[role] : "";
    if (role < ROLE_LAYERS)
        snprintf(name_out, SOURCE_NAME_BYTES, "%s", name);
    else
        snprintf(name_out, SOURCE_NAME_BYTES, "model.layers.%u.%s", layer, name);
}

void hf_config_number_name(enum source_number number, char name_out[SOURCE_NAME_BYTES])
{
    snprintf(name_out, SOURCE_NAME_BYTES, "config.json: %s",
             number_keys[number] != NULL ? number_keys[number] : "");
}

/* A string of config.json as a word that may be printed. */
static void word_copy(const json_t *value, char word_out[SOURCE_WORD_BYTES])
{
    const char *text = json_string_value(value);
    size_t at = 0;
    for (; text != NULL && text[at] != '\0' && at < SOURCE_WORD_BYTES - 1; at++)
        word_out[at] = (char)(text[at] >= 0x20 && text[at] <= 0x7e ? text[at] : '?');
    word_out[at] = '\0';
}

static bool given(const json_t *value)
{
    return value != NULL && !json_is_null(value);
}

/* The rotation's settings: transformers 5 has them in rope_parameters, 4 in rope_scaling beside
 * rope_theta. NULL when there are none. */
static const json_t *rope_object(const json_t *config)
{
    const json_t *object = json_object_get(config, "rope_parameters");
    if (!json_is_object(object))
        object = json_object_get(config, "rope_scaling");
    return json_is_object(object) ? object : NULL;
}

static const json_t *number_find(const json_t *config, enum source_number number)
{
    const json_t *value = NULL;
    if (number_keys[number] == NULL)
        return NULL;
    value = json_object_get(config, number_keys[number]);
    if (number == NUMBER_ROPE_THETA && !given(value))
        value = json_object_get(rope_object(config), "rope_theta");
    return given(value) ? value : NULL;
}

status hf_config_u32(const struct source *source, const json_t *config, enum source_number number,
                     uint32_t *value_out)
{
    const json_t *value = number_find(config, number);
    if (value == NULL)
        return ERR_NOT_FOUND;
    if (!json_is_integer(value))
        return source_error(source, ERR_BAD_INPUT, "config.json: %s is %s (expected an integer)",
                            number_keys[number], json_file_type(value));
    if (json_integer_value(value) < 0 || json_integer_value(value) > UINT32_MAX)
        return source_error(source, ERR_BAD_INPUT,
                            "config.json: %s is %lld (expected 0 to 4294967295)",
                            number_keys[number], (long long)json_integer_value(value));
    *value_out = (uint32_t)json_integer_value(value);
    return OK;
}

status hf_config_f32(const struct source *source, const json_t *config, enum source_number number,
                     float *value_out)
{
    const json_t *value = number_find(config, number);
    if (value == NULL)
        return ERR_NOT_FOUND;
    if (!json_is_number(value))
        return source_error(source, ERR_BAD_INPUT, "config.json: %s is %s (expected a number)",
                            number_keys[number], json_file_type(value));
    *value_out = (float)json_number_value(value);
    return OK;
}

status hf_config_architecture(const struct source *source, const json_t *config,
                              char word_out[SOURCE_WORD_BYTES])
{
    const json_t *quantised = json_object_get(config, "quantization_config");
    if (given(quantised)) {
        char method[SOURCE_WORD_BYTES];
        word_copy(json_object_get(quantised, "quant_method"), method);
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: a checkpoint quantised by \"%s\" is not supported "
                            "(supported: F32, F16, BF16); use the original checkpoint, or a "
                            "quantised GGUF file",
                            method);
    }
    const json_t *type = json_object_get(config, "model_type");
    if (!json_is_string(type))
        return source_error(source, ERR_BAD_INPUT,
                            "config.json: model_type is %s (expected a string, for example "
                            "\"llama\")",
                            json_file_type(type));
    word_copy(type, word_out);
    return OK;
}

/* Every layer_types must be full attention. */
static status check_layer_types(const struct source *source, const json_t *config)
{
    const json_t *types = json_object_get(config, "layer_types"), *type;
    size_t i;
    json_array_foreach(types, i, type)
    {
        char word[SOURCE_WORD_BYTES];
        word_copy(type, word);
        if (strcmp(word, "full_attention") != 0)
            return source_error(source, ERR_UNSUPPORTED,
                                "config.json: layer_types[%zu] is \"%s\" (supported: "
                                "full_attention)",
                                i, word);
    }
    return OK;
}

status hf_config_refuse_unbuilt(const struct source *source, const json_t *config,
                                const struct model *model)
{
    const json_t *act = json_object_get(config, "hidden_act");
    const json_t *partial = json_object_get(config, "partial_rotary_factor");
    const json_t *window = json_object_get(config, "sliding_window");
    const json_t *use_window = json_object_get(config, "use_sliding_window");
    if (given(act) && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0)) {
        char word[SOURCE_WORD_BYTES];
        word_copy(act, word);
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: hidden_act is \"%s\" (supported: silu)", word);
    }
    if (json_is_true(json_object_get(config, "mlp_bias")))
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: mlp_bias is not supported (supported: without)");
    if (!given(partial))
        partial = json_object_get(rope_object(config), "partial_rotary_factor");
    if (given(partial) && !(json_number_value(partial) >= 1 && json_number_value(partial) <= 1))
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: partial_rotary_factor is %g (supported: 1)",
                            json_number_value(partial));
    /* qwen: the window counts with use_sliding_window alone; others do not have that word. */
    bool windowed = json_is_integer(window) && json_integer_value(window) > 0 &&
                    json_integer_value(window) < model->context_tokens;
    if (windowed && (json_is_true(use_window) || use_window == NULL))
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: a sliding attention window of %lld tokens is not "
                            "supported (supported: full attention)",
                            (long long)json_integer_value(window));
    return check_layer_types(source, config);
}

/* A number of the rotation's settings in a range. */
static status rope_number(const struct source *source, const json_t *rope, const char *key,
                          double min, double max, double *value_out)
{
    const json_t *value = json_object_get(rope, key);
    if (!json_is_number(value))
        return source_error(source, ERR_BAD_INPUT,
                            "config.json: %s of the rope scaling is %s (expected a number)", key,
                            json_file_type(value));
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return source_error(source, ERR_BAD_INPUT,
                            "config.json: %s of the rope scaling is %g (expected %g to %g)", key,
                            number, min, max);
    *value_out = number;
    return OK;
}

/* Llama 3: long wavelengths are stretched by factor, short ones stay, a ramp between. */
static status scale_llama3(const struct source *source, const json_t *rope,
                           const struct model *model, float *divisors)
{
    double factor = 1, low = 1, high = 1, original = 1;
    status code = rope_number(source, rope, "factor", FACTOR_MIN, FACTOR_MAX, &factor);
    if (code == OK)
        code = rope_number(source, rope, "low_freq_factor", FACTOR_MIN, FACTOR_MAX, &low);
    if (code == OK)
        code = rope_number(source, rope, "high_freq_factor", FACTOR_MIN, FACTOR_MAX, &high);
    if (code == OK)
        code = rope_number(source, rope, "original_max_position_embeddings", 1, 1e9, &original);
    if (code != OK)
        return code;
    if (!(high > low))
        return source_error(source, ERR_BAD_INPUT,
                            "config.json: high_freq_factor of the rope scaling is %g (expected "
                            "more than low_freq_factor, %g)",
                            high, low);
    const double pi = 3.14159265358979323846;
    for (uint32_t i = 0; i < model->rope_dims / 2; i++) {
        double wavelength =
            2 * pi * pow((double)model->rope_theta, 2.0 * i / (double)model->rope_dims);
        double divisor = 1;
        if (wavelength > original / low) {
            divisor = factor;
        } else if (wavelength >= original / high) {
            double ramp = (original / wavelength - low) / (high - low);
            divisor = 1 / ((1 - ramp) / factor + ramp);
        }
        divisors[i] *= (float)divisor;
    }
    return OK;
}

status hf_config_scale_rope(const struct source *source, const json_t *config,
                            const struct model *model, float *divisors)
{
    const json_t *rope = rope_object(config);
    const json_t *type = json_object_get(rope, "rope_type");
    char word[SOURCE_WORD_BYTES];
    double factor = 1;
    if (!given(type))
        type = json_object_get(rope, "type");
    if (!given(type))
        return OK;
    word_copy(type, word);
    if (strcmp(word, "default") == 0)
        return OK;
    if (strcmp(word, "llama3") == 0)
        return scale_llama3(source, rope, model, divisors);
    if (strcmp(word, "linear") != 0)
        return source_error(source, ERR_UNSUPPORTED,
                            "config.json: rope scaling \"%s\" is not supported (supported: "
                            "default, linear, llama3)",
                            word);
    status code = rope_number(source, rope, "factor", FACTOR_MIN, FACTOR_MAX, &factor);
    for (uint32_t i = 0; code == OK && i < model->rope_dims / 2; i++)
        divisors[i] *= (float)factor;
    return code;
}

bool hf_config_tied(const json_t *config)
{
    return json_is_true(json_object_get(config, "tie_word_embeddings"));
}
