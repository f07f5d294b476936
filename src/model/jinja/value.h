/* model/jinja/value.h - what a template computes with, as Python has it.
 *
 *     value = kind + 8 bytes: a number, or a pointer to something in the arena that never changes
 *             (but namespaces, iterators and loops, which exist to change)
 *
 *     from JSON:  null none | true | 12 int | 1.5 float | "text" | [list] | {dict}
 *     made here:  (tuple) | namespace | range | view of a dict | iterator | loop | macro |
 *                 method (bound) | function | undefined
 *
 * Integers are 64 bits; what would pass that is an error, where Python goes on.
 *
 * Threads: one machine. Memory: the machine's arena.
 */
#ifndef MODEL_JINJA_VALUE_H
#define MODEL_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/jinja/machine.h"
#include "model/jinja/text.h"

enum value_kind {
    VALUE_ABSENT, /* an argument that was not given; never seen by a template */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_RANGE,
    VALUE_VIEW,
    VALUE_ITERATOR,
    VALUE_LOOP,
    VALUE_MACRO,
    VALUE_METHOD,
    VALUE_FUNCTION,
};

struct value {
    enum value_kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        const struct undefined *undefined;
        const struct text *text;
        const struct list *list; /* and tuple */
        struct dict *dict;       /* and namespace */
        const struct range *range;
        const struct view *view;
        struct iterator *iterator;
        struct loop *loop;         /* eval.h */
        const struct macro *macro; /* eval.h */
        const struct method *method;
        int function; /* enum function, call.h */
    } as;
};

/* Why a value is undefined, for the error when it is used: hint, or name (of type). */
struct undefined {
    const char *hint;
    const struct text *name;
    const char *type;
};

struct list {
    size_t count;
    const struct value *items;
};

/* Entries in the order they came; slots is an open-addressed index of them once there are many. */
struct dict {
    size_t count, room;
    struct dict_entry *entries;
    uint32_t *slots; /* entry + 1, 0 is empty */
    size_t slot_count;
};

struct dict_entry {
    struct value key, value;
};

struct range {
    int64_t start, step;
    int64_t stop; /* as given, for printing */
    size_t count;
};

enum view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

struct view {
    enum view_kind kind;
    const struct dict *dict;
};

/* Gives each item once, as a Python generator does. Those of filters are made, whole, when the
 * first item is asked for, so that what would fail in one fails only if it is ever walked. */
struct iterator {
    const char *type;              /* "generator", "list_reverseiterator" */
    const struct list *list;       /* NULL: ask pending */
    const struct pending *pending; /* filters.h */
    size_t at;
};

struct method {
    struct value self;
    int id; /* enum method_id, methods.h */
};

/* A walk over any iterable. */
struct cursor {
    struct value of;
    size_t at;
};

struct value value_undefined(struct machine *m, const char *hint);
struct value value_missing(struct machine *m, const struct text *name, const char *type);

static inline struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}

static inline struct value value_bool(bool truth)
{
    return (struct value){.kind = VALUE_BOOL, .as.truth = truth};
}

static inline struct value value_int(int64_t integer)
{
    return (struct value){.kind = VALUE_INT, .as.integer = integer};
}

static inline struct value value_float(double real)
{
    return (struct value){.kind = VALUE_FLOAT, .as.real = real};
}

static inline struct value value_text(const struct text *text)
{
    return (struct value){.kind = VALUE_TEXT, .as.text = text};
}

struct value value_list(struct machine *m, const struct value *items, size_t count);
struct value value_tuple(struct machine *m, const struct value *items, size_t count);
struct value value_pair(struct machine *m, struct value first, struct value second);
struct value value_iterator(struct machine *m, const char *type, const struct value *items,
                            size_t count);
struct value value_dict(struct machine *m);

/* The name that Python prints for the type: "str", "dict". */
const char *value_type(struct value value);

/* Leaves with the message that the undefined value carries. */
_Noreturn void value_fail_undefined(struct machine *m, struct value value);

bool value_truth(struct machine *m, struct value value);
/* Bool, int or float. */
bool value_is_number(struct value value);
/* Bool or int. */
bool value_is_integer(struct value value);
int64_t value_integer(struct value value);
double value_real(struct value value);

bool value_equal(struct machine *m, struct value a, struct value b);
/* The same object, as Python's "is" sees it. */
bool value_same(struct value a, struct value b);
/* -1, 0, 1, or 2 when one is not a number (nan); leaves when the two cannot be ordered, with op in
 * the message. */
int value_compare(struct machine *m, struct value a, struct value b, const char *op);
bool value_contains(struct machine *m, struct value container, struct value item);

/* Leaves when the value has no length. */
size_t value_length(struct machine *m, struct value value);
bool value_has_length(struct value value);
bool value_is_iterable(struct value value);

/* Leaves when the value is not iterable. */
struct cursor cursor_open(struct machine *m, struct value value);
bool cursor_next(struct machine *m, struct cursor *cursor, struct value *item_out);
/* All the items that are left, as a list's. */
const struct list *value_items(struct machine *m, struct value value);

/* NULL when the key is not there. Leaves when the key cannot be hashed. */
const struct value *dict_get(struct machine *m, const struct dict *dict, struct value key);
const struct value *dict_get_text(struct machine *m, const struct dict *dict,
                                  const struct text *key);
void dict_set(struct machine *m, struct dict *dict, struct value key, struct value value);
bool value_is_hashable(struct machine *m, struct value value);

/* range(start, stop, step); at index i: start + i * step. */
struct value value_range(struct machine *m, int64_t start, int64_t stop, int64_t step);

/* value[index] and value[start:stop:step] as Python's sequences do; VALUE_ABSENT when index is out
 * of range. Slice bounds may be VALUE_NONE. Kinds: text, list, tuple, range. */
struct value sequence_at(struct machine *m, struct value value, int64_t index);
struct value sequence_slice(struct machine *m, struct value value, struct value start,
                            struct value stop, struct value step);

/* str(value) and repr(value). */
const struct text *value_to_text(struct machine *m, struct value value);
/* str(value), but a text that is marked stays marked. */
const struct text *value_to_soft_text(struct machine *m, struct value value);
const struct text *value_repr(struct machine *m, struct value value);
/* Write str(value) to the output. */
void value_print(struct machine *m, struct value value);

#endif
