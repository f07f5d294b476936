/* model/tokenizer_json_steps.c - normalizer, pre_tokenizer and post_processor of a tokenizer.json.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/json_file.h"
#include "model/split_pattern.h"
#include "model/tokenizer_json.h"

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */

/* What ByteLevel cuts by when it is told to. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* A step's type, as a word for messages. */
static const char *type_of(const json_t *step)
{
    const char *type = json_string_value(json_object_get(step, "type"));
    return type != NULL && strlen(type) < 64 ? type : "without a type";
}

static bool is_type(const json_t *step, const char *type)
{
    return strcmp(type_of(step), type) == 0;
}

static bool text_is(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static status refuse(const char *where, const json_t *step, const char *supported)
{
    return error_set(ERR_UNSUPPORTED, "%s \"%s\" is not supported (supported: %s)", where,
                     type_of(step), supported);
}

/* Calls one for a step, or for each step of a Sequence, whose array is called key. */
static status each_step(const json_t *step, const char *key, struct tokenizer_json *read,
                        status (*one)(const json_t *step, struct tokenizer_json *read))
{
    const json_t *part;
    size_t i;
    status code = OK;
    if (step == NULL || json_is_null(step))
        return OK;
    if (!is_type(step, "Sequence"))
        return one(step, read);
    json_array_foreach(json_object_get(step, key), i, part)
    {
        if (code == OK)
            code = one(part, read);
    }
    return code;
}

/* ---- normalizer ---- */

static status normalizer_step(const json_t *step, struct tokenizer_json *read)
{
    if (is_type(step, "NFC")) {
        read->spec.compose = true;
        return OK;
    }
    if (is_type(step, "Prepend") && text_is(json_object_get(step, "prepend"), SPACE_MARK)) {
        read->spec.add_space_prefix = 1;
        read->spec.space_prefix = SPACE_PREFIX_EACH;
        return OK;
    }
    const json_t *pattern = json_object_get(json_object_get(step, "pattern"), "String");
    if (is_type(step, "Replace") && text_is(pattern, " ") &&
        text_is(json_object_get(step, "content"), SPACE_MARK)) {
        read->marks = true;
        return OK;
    }
    return refuse("normalizer", step, "NFC, Prepend and Replace of spaces by U+2581");
}

/* ---- pre_tokenizer ---- */

static status cut_add(struct tokenizer_json *read, const char *pattern, size_t bytes, bool literal,
                      bool drop_gaps)
{
    char *translated = NULL;
    if (read->spec.cut_count == PRETOKENIZER_CUTS_MAX)
        return error_set(ERR_UNSUPPORTED, "a pre_tokenizer of more than %u patterns",
                         PRETOKENIZER_CUTS_MAX);
    status code = literal ? split_pattern_literal(pattern, bytes, &translated)
                          : split_pattern_translate(pattern, bytes, &translated);
    if (code != OK)
        return error_prefix(code, "pre_tokenizer");
    char *kept = arena_copy(read->arena, translated, strlen(translated));
    free(translated);
    if (kept == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the patterns of the pre_tokenizer");
    read->cuts[read->spec.cut_count++] = (struct tokenizer_cut){kept, drop_gaps};
    return OK;
}

static status split_step(const json_t *step, struct tokenizer_json *read)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = json_object_get(pattern, "String");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    bool invert = json_is_true(json_object_get(step, "invert"));
    if (!json_is_string(regex) && !json_is_string(text))
        return error_set(ERR_BAD_INPUT, "pre_tokenizer Split has no pattern");
    bool isolated = behavior != NULL && strcmp(behavior, "Isolated") == 0;
    bool removed = behavior != NULL && strcmp(behavior, "Removed") == 0 && invert;
    if (!isolated && !removed)
        return error_set(ERR_UNSUPPORTED,
                         "pre_tokenizer Split with behavior \"%.32s\"%s is not supported "
                         "(supported: Isolated, and Removed with invert)",
                         behavior != NULL ? behavior : "", invert ? " and invert" : "");
    const json_t *given = json_is_string(regex) ? regex : text;
    return cut_add(read, json_string_value(given), json_string_length(given), given == text,
                   removed);
}

static status byte_level_step(const json_t *step, struct tokenizer_json *read)
{
    if (json_is_true(json_object_get(step, "add_prefix_space")))
        return error_set(ERR_UNSUPPORTED, "pre_tokenizer ByteLevel with add_prefix_space is not "
                                          "supported (supported: without)");
    read->byte_level = true;
    if (json_is_false(json_object_get(step, "use_regex")))
        return OK;
    return cut_add(read, GPT2_PATTERN, strlen(GPT2_PATTERN), false, false);
}

static status metaspace_step(const json_t *step, struct tokenizer_json *read)
{
    const json_t *scheme = json_object_get(step, "prepend_scheme");
    bool prefix = json_is_true(json_object_get(step, "add_prefix_space"));
    if (!text_is(json_object_get(step, "replacement"), SPACE_MARK))
        return error_set(ERR_UNSUPPORTED, "pre_tokenizer Metaspace with another replacement than "
                                          "U+2581 is not supported");
    if (!json_is_false(json_object_get(step, "split")))
        return error_set(ERR_UNSUPPORTED, "pre_tokenizer Metaspace with split is not supported "
                                          "(supported: \"split\": false)");
    read->marks = true;
    if (text_is(scheme, "first"))
        read->spec.space_prefix = SPACE_PREFIX_FIRST;
    else if (text_is(scheme, "always") || (scheme == NULL && prefix))
        read->spec.space_prefix = SPACE_PREFIX_ALWAYS;
    else if (!text_is(scheme, "never") && scheme != NULL)
        return error_set(ERR_UNSUPPORTED, "pre_tokenizer Metaspace with another prepend_scheme "
                                          "than first, always and never is not supported");
    read->spec.add_space_prefix = read->spec.space_prefix != SPACE_PREFIX_SENTENCEPIECE;
    return OK;
}

static status pre_tokenizer_step(const json_t *step, struct tokenizer_json *read)
{
    /* ByteLevel turns bytes into letters: a pattern after it would see those. */
    if (read->byte_level)
        return error_set(ERR_UNSUPPORTED,
                         "pre_tokenizer \"%s\" after ByteLevel is not supported (supported: "
                         "ByteLevel as the last)",
                         type_of(step));
    if (is_type(step, "Split"))
        return split_step(step, read);
    if (is_type(step, "Digits")) {
        const char *digits =
            json_is_true(json_object_get(step, "individual_digits")) ? "\\p{N}" : "\\p{N}+";
        return cut_add(read, digits, strlen(digits), false, false);
    }
    if (is_type(step, "ByteLevel"))
        return byte_level_step(step, read);
    if (is_type(step, "Metaspace"))
        return metaspace_step(step, read);
    return refuse("pre_tokenizer", step, "Split, Digits, ByteLevel, Metaspace, Sequence");
}

/* ---- post_processor ---- */

/* The token that a template writes. */
static status template_token(const json_t *step, const json_t *piece, uint32_t *id_out)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
    const json_t *token =
        name != NULL ? json_object_get(json_object_get(step, "special_tokens"), name) : NULL;
    const json_t *ids = json_object_get(token, "ids");
    if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0)) ||
        json_integer_value(json_array_get(ids, 0)) < 0 ||
        json_integer_value(json_array_get(ids, 0)) >= TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT,
                         "post_processor TemplateProcessing: token \"%.64s\" has no one id",
                         name != NULL ? name : "");
    *id_out = (uint32_t)json_integer_value(json_array_get(ids, 0));
    return OK;
}

static status post_processor_step(const json_t *step, struct tokenizer_json *read)
{
    const json_t *piece;
    size_t i;
    bool text = false;
    if (is_type(step, "ByteLevel"))
        return OK;
    if (!is_type(step, "TemplateProcessing"))
        return refuse("post_processor", step, "TemplateProcessing, ByteLevel, Sequence");
    read->bos_decided = true;
    read->spec.add_bos = read->spec.add_eos = 0;
    json_array_foreach(json_object_get(step, "single"), i, piece)
    {
        uint32_t id;
        if (json_object_get(piece, "Sequence") != NULL) {
            text = true;
            continue;
        }
        int *add = text ? &read->spec.add_eos : &read->spec.add_bos;
        if (*add != 0)
            return error_set(ERR_UNSUPPORTED, "post_processor TemplateProcessing with more than "
                                              "one token before or after the text");
        status code = template_token(step, piece, &id);
        if (code != OK)
            return code;
        *add = 1;
        *(text ? &read->spec.eos_id : &read->spec.bos_id) = id;
    }
    if (!text)
        return error_set(ERR_BAD_INPUT, "post_processor TemplateProcessing without the text");
    return OK;
}

/* ---- decoder ---- */

static status decoder_step(const json_t *step, struct tokenizer_json *read)
{
    static const char *const built[] = {"ByteLevel", "Replace", "ByteFallback",
                                        "Fuse",      "Strip",   "Metaspace"};
    (void)read;
    for (size_t i = 0; i < sizeof(built) / sizeof(built[0]); i++) {
        if (is_type(step, built[i]))
            return OK;
    }
    return refuse("decoder", step, "ByteLevel; Replace, ByteFallback, Fuse, Strip; Metaspace");
}

status tokenizer_json_steps(const json_t *root, struct tokenizer_json *read)
{
    status code =
        each_step(json_object_get(root, "normalizer"), "normalizers", read, normalizer_step);
    if (code == OK)
        code = each_step(json_object_get(root, "pre_tokenizer"), "pretokenizers", read,
                         pre_tokenizer_step);
    if (code == OK)
        code = each_step(json_object_get(root, "post_processor"), "processors", read,
                         post_processor_step);
    if (code == OK)
        code = each_step(json_object_get(root, "decoder"), "decoders", read, decoder_step);
    if (code != OK)
        return code;
    if (read->byte_level && read->marks)
        return error_set(ERR_UNSUPPORTED, "a pre_tokenizer of both ByteLevel and U+2581");
    if (!read->byte_level && (!read->marks || read->spec.compose || read->spec.cut_count > 0))
        return error_set(ERR_UNSUPPORTED,
                         "the steps before the model make neither bytes (ByteLevel) nor spaces "
                         "marked by U+2581 alone (Replace or Metaspace)");
    return OK;
}
