#include "model/gguf_file.h"

#include <assert.h>
#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/half.h"

const uint8_t gguf_scalar_bytes[GGUF_F64 + 1] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2,    [GGUF_U32] = 4,
    [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STRING] = 0, [GGUF_ARRAY] = 0,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

const char *const gguf_value_type_names[GGUF_F64 + 1] = {
    [GGUF_U8] = "u8",         [GGUF_I8] = "i8",       [GGUF_U16] = "u16", [GGUF_I16] = "i16",
    [GGUF_U32] = "u32",       [GGUF_I32] = "i32",     [GGUF_F32] = "f32", [GGUF_BOOL] = "bool",
    [GGUF_STRING] = "string", [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64",
    [GGUF_F64] = "f64",
};

status gguf_error(const struct gguf *gguf, status code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(code, "%s: %s", gguf->path, text);
}

/* Metadata: values that were checked at open, by the type that the caller wants. */

int gguf_entry_compare(const void *a, const void *b)
{
    return strcmp(((const struct gguf_entry *)a)->key, ((const struct gguf_entry *)b)->key);
}

static status entry_find(const struct gguf *gguf, const char *key, const struct gguf_entry **out)
{
    struct gguf_entry wanted = {.key = key};
    *out = bsearch(&wanted, gguf->entries, gguf->entry_count, sizeof(wanted), gguf_entry_compare);
    if (*out == NULL)
        return gguf_error(gguf, ERR_NOT_FOUND, "metadata %s is missing", key);
    return OK;
}

static status entry_mistyped(const struct gguf *gguf, const struct gguf_entry *entry,
                             const char *expected)
{
    bool array = entry->type == GGUF_ARRAY;
    return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s is %s%s (expected %s)", entry->key,
                      array ? "an array of type " : "of type ",
                      gguf_value_type_names[array ? entry->element_type : entry->type], expected);
}

static bool type_integer(enum gguf_type type)
{
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

static int64_t integer_at(enum gguf_type type, const uint8_t *at)
{
    switch (type) {
    case GGUF_U8:
        return at[0];
    case GGUF_I8:
        return (int8_t)at[0];
    case GGUF_U16:
        return load_u16(at);
    case GGUF_I16:
        return (int16_t)load_u16(at);
    case GGUF_U32:
        return load_u32(at);
    case GGUF_I32:
        return (int32_t)load_u32(at);
    case GGUF_U64:
        return load_u64(at) > INT64_MAX ? INT64_MAX : (int64_t)load_u64(at);
    case GGUF_I64:
        return (int64_t)load_u64(at);
    case GGUF_F32:
    case GGUF_BOOL:
    case GGUF_STRING:
    case GGUF_ARRAY:
    case GGUF_F64:
        break;
    }
    assert(type_integer(type));
    return 0;
}

static double float_at(enum gguf_type type, const uint8_t *at)
{
    assert(type == GGUF_F32 || type == GGUF_F64);
    if (type == GGUF_F32)
        return (double)float_from_bits(load_u32(at));
    uint64_t bits = load_u64(at);
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

bool gguf_has(const struct gguf *gguf, const char *key)
{
    struct gguf_entry wanted = {.key = key};
    return bsearch(&wanted, gguf->entries, gguf->entry_count, sizeof(wanted), gguf_entry_compare) !=
           NULL;
}

status gguf_read_u64(const struct gguf *gguf, const char *key, uint64_t *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (!type_integer(entry->type))
        return entry_mistyped(gguf, entry, "an integer");
    int64_t value = integer_at(entry->type, entry->value);
    if (value < 0)
        return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s is %lld (expected 0 or more)", key,
                          (long long)value);
    *value_out = entry->type == GGUF_U64 ? load_u64(entry->value) : (uint64_t)value;
    return OK;
}

status gguf_read_u32(const struct gguf *gguf, const char *key, uint32_t *value_out)
{
    uint64_t value = 0;
    status code = gguf_read_u64(gguf, key, &value);
    if (code != OK)
        return code;
    if (value > UINT32_MAX)
        return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s is %llu (expected at most %u)", key,
                          (unsigned long long)value, UINT32_MAX);
    *value_out = (uint32_t)value;
    return OK;
}

status gguf_read_f32(const struct gguf *gguf, const char *key, float *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_F32 && entry->type != GGUF_F64)
        return entry_mistyped(gguf, entry, "f32 or f64");
    double value = float_at(entry->type, entry->value);
    if (!(value >= -(double)FLT_MAX && value <= (double)FLT_MAX))
        return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s is not a finite float", key);
    *value_out = (float)value;
    return OK;
}

status gguf_read_bool(const struct gguf *gguf, const char *key, bool *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_BOOL)
        return entry_mistyped(gguf, entry, "bool");
    *value_out = entry->value[0] != 0;
    return OK;
}

status gguf_read_string(const struct gguf *gguf, const char *key, struct gguf_string *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_STRING)
        return entry_mistyped(gguf, entry, "string");
    *value_out = (struct gguf_string){.text = (const char *)entry->value, .bytes = entry->count};
    return OK;
}

status gguf_read_strings(const struct gguf *gguf, const char *key, struct gguf_strings *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_ARRAY || entry->element_type != GGUF_STRING)
        return entry_mistyped(gguf, entry, "an array of strings");
    *value_out =
        (struct gguf_strings){.count = entry->count, .left = entry->count, .at = entry->value};
    return OK;
}

bool gguf_strings_next(struct gguf_strings *strings, struct gguf_string *string_out)
{
    if (strings->left == 0)
        return false;
    /* Lengths were checked at open. */
    string_out->bytes = (size_t)load_u64(strings->at);
    string_out->text = (const char *)strings->at + 8;
    strings->at += 8 + string_out->bytes;
    strings->left--;
    return true;
}

status gguf_read_integers(const struct gguf *gguf, const char *key, struct gguf_array *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_ARRAY || !type_integer(entry->element_type))
        return entry_mistyped(gguf, entry, "an array of integers");
    *value_out = (struct gguf_array){
        .type = entry->element_type, .count = entry->count, .data = entry->value};
    return OK;
}

status gguf_read_floats(const struct gguf *gguf, const char *key, struct gguf_array *value_out)
{
    const struct gguf_entry *entry;
    status code = entry_find(gguf, key, &entry);
    if (code != OK)
        return code;
    if (entry->type != GGUF_ARRAY ||
        (entry->element_type != GGUF_F32 && entry->element_type != GGUF_F64))
        return entry_mistyped(gguf, entry, "an array of f32 or f64");
    *value_out = (struct gguf_array){
        .type = entry->element_type, .count = entry->count, .data = entry->value};
    return OK;
}

int64_t gguf_array_integer(const struct gguf_array *array, size_t index)
{
    assert(index < array->count);
    return integer_at(array->type, array->data + index * gguf_scalar_bytes[array->type]);
}

double gguf_array_float(const struct gguf_array *array, size_t index)
{
    assert(index < array->count);
    return float_at(array->type, array->data + index * gguf_scalar_bytes[array->type]);
}

status gguf_chat_template(const struct gguf *gguf, char **text_out, size_t *bytes_out)
{
    struct gguf_string text = {0};
    if (!gguf_has(gguf, "tokenizer.chat_template"))
        return ERR_NOT_FOUND;
    status code = gguf_read_string(gguf, "tokenizer.chat_template", &text);
    if (code != OK)
        return code;
    char *copy = malloc(text.bytes + 1);
    if (copy == NULL)
        return gguf_error(gguf, ERR_NO_MEMORY, "no memory for the chat template");
    memcpy(copy, text.text, text.bytes);
    copy[text.bytes] = '\0';
    *text_out = copy;
    *bytes_out = text.bytes;
    return OK;
}
