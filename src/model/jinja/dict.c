/* Dicts: entries in order, found by looking at all of them while they are few, by hash later. */
#include <math.h>
#include <string.h>

#include "model/jinja/value.h"

#define FEW_ENTRIES 8

struct value value_dict(struct machine *m)
{
    struct dict *dict = machine_take(m, sizeof(*dict));
    return (struct value){.kind = VALUE_DICT, .as.dict = dict};
}

bool value_is_hashable(struct machine *m, struct value value)
{
    if (value.kind == VALUE_LIST || value.kind == VALUE_DICT)
        return false;
    if (value.kind == VALUE_VIEW)
        return value.as.view->kind == VIEW_VALUES;
    if (value.kind != VALUE_TUPLE)
        return true;
    machine_enter(m);
    machine_spend(m, value.as.list->count);
    bool hashable = true;
    for (size_t i = 0; i < value.as.list->count && hashable; i++)
        hashable = value_is_hashable(m, value.as.list->items[i]);
    machine_leave(m);
    return hashable;
}

static uint64_t hash_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static uint64_t text_hash(struct machine *m, const struct text *text)
{
    machine_spend(m, text->bytes / 16);
    uint64_t hash = text->bytes;
    size_t at = 0;
    for (; at + 8 <= text->bytes; at += 8) {
        uint64_t word;
        memcpy(&word, text->data + at, 8);
        hash = hash_mix(hash, word);
    }
    uint64_t word = 0;
    if (at < text->bytes)
        memcpy(&word, text->data + at, text->bytes - at);
    return hash_mix(hash, word);
}

/* Equal values hash alike: 1, 1.0 and true are one key. */
static uint64_t value_hash(struct machine *m, struct value value)
{
    if (value.kind == VALUE_TEXT)
        return text_hash(m, value.as.text);
    if (value_is_integer(value))
        return hash_mix(1, (uint64_t)value_integer(value));
    if (value.kind == VALUE_FLOAT) {
        double real = value.as.real;
        if (fabs(real) < 9e18 && floor(real) >= real)
            return hash_mix(1, (uint64_t)(int64_t)real);
        uint64_t bits;
        memcpy(&bits, &real, sizeof(bits));
        return hash_mix(2, bits);
    }
    uint64_t hash = (uint64_t)value.kind;
    if (value.kind == VALUE_TUPLE)
        for (size_t i = 0; i < value.as.list->count; i++)
            hash = hash_mix(hash, value_hash(m, value.as.list->items[i]));
    return hash_mix(hash, 0);
}

static void check_hashable(struct machine *m, struct value key)
{
    if (!value_is_hashable(m, key))
        machine_fail(m, ERR_BAD_INPUT, "unhashable type: '%s'", value_type(key));
}

/* The entry, or NULL; with an index, *slot_out is where it is or would go. */
static struct dict_entry *dict_find(struct machine *m, const struct dict *dict, struct value key,
                                    size_t *slot_out)
{
    if (dict->slots == NULL) {
        for (size_t i = 0; i < dict->count; i++)
            if (value_equal(m, dict->entries[i].key, key))
                return &dict->entries[i];
        return NULL;
    }
    size_t mask = dict->slot_count - 1;
    size_t slot = (size_t)value_hash(m, key) & mask;
    for (; dict->slots[slot] != 0; slot = (slot + 1) & mask) {
        struct dict_entry *entry = &dict->entries[dict->slots[slot] - 1];
        if (value_equal(m, entry->key, key))
            return entry;
    }
    *slot_out = slot;
    return NULL;
}

static void dict_index(struct machine *m, struct dict *dict)
{
    dict->slot_count = dict->slot_count == 0 ? 4 * FEW_ENTRIES : 2 * dict->slot_count;
    dict->slots = machine_take_array(m, dict->slot_count, sizeof(*dict->slots));
    size_t mask = dict->slot_count - 1;
    for (size_t i = 0; i < dict->count; i++) {
        machine_spend(m, 1);
        size_t slot = (size_t)value_hash(m, dict->entries[i].key) & mask;
        for (; dict->slots[slot] != 0; slot = (slot + 1) & mask)
            machine_spend(m, 1);
        dict->slots[slot] = (uint32_t)i + 1;
    }
}

const struct value *dict_get(struct machine *m, const struct dict *dict, struct value key)
{
    check_hashable(m, key);
    size_t slot;
    const struct dict_entry *entry = dict_find(m, dict, key, &slot);
    return entry != NULL ? &entry->value : NULL;
}

const struct value *dict_get_text(struct machine *m, const struct dict *dict,
                                  const struct text *key)
{
    return dict_get(m, dict, value_text(key));
}

void dict_set(struct machine *m, struct dict *dict, struct value key, struct value value)
{
    check_hashable(m, key);
    size_t slot = 0;
    struct dict_entry *entry = dict_find(m, dict, key, &slot);
    if (entry != NULL) {
        entry->value = value;
        return;
    }
    if (dict->count >= UINT32_MAX - 1)
        machine_fail(m, ERR_FULL, "more entries than a dict may have");
    dict->entries =
        machine_grow(m, dict->entries, dict->count, &dict->room, sizeof(*dict->entries));
    dict->entries[dict->count++] = (struct dict_entry){.key = key, .value = value};
    if (dict->slots != NULL)
        dict->slots[slot] = (uint32_t)dict->count;
    if (dict->count > FEW_ENTRIES && 2 * dict->count > dict->slot_count)
        dict_index(m, dict);
}
