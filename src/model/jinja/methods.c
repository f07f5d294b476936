#include "model/jinja/methods.h"

#include <string.h>

/* Kinds of values that have the method. */
enum owner { OF_TEXT = 1, OF_LIST = 2, OF_TUPLE = 4, OF_DICT = 8, OF_LOOP = 16, OF_RANGE = 32 };

struct method_spec {
    const char *name;
    unsigned owners;
    struct value (*apply)(struct render *r, struct value self, const struct value *arguments);
    struct value (*apply_call)(struct render *r, struct value self, const struct call *call);
    const char *parameters;
    size_t required;
    bool keywords;
};

static const struct text *text_argument(struct machine *m, struct value value)
{
    if (value.kind != VALUE_TEXT)
        machine_fail(m, ERR_BAD_INPUT, "a string method expected a string, found '%s'",
                     value_type(value));
    return value.as.text;
}

static int64_t integer_argument(struct machine *m, struct value value, int64_t otherwise)
{
    if (value.kind == VALUE_ABSENT || value.kind == VALUE_NONE)
        return otherwise;
    if (!value_is_integer(value))
        machine_fail(m, ERR_BAD_INPUT, "a method expected an integer, found '%s'",
                     value_type(value));
    return value_integer(value);
}

/* Byte offsets of [start:end] as find, count and startswith take them; false when start is beyond
 * the end of the text or end is before start. */
static bool window(struct machine *m, const struct text *text, struct value start, struct value end,
                   size_t *from_out, size_t *to_out)
{
    int64_t length = (int64_t)text->points;
    int64_t from = integer_argument(m, start, 0), to = integer_argument(m, end, length);
    from = from < -length ? 0 : from < 0 ? from + length : from;
    to = to < -length ? 0 : to < 0 ? to + length : to > length ? length : to;
    if (from > to || from > length)
        return false;
    *from_out = text_offset(m, text, (size_t)from);
    *to_out = text_offset(m, text, (size_t)to);
    return true;
}

static struct value find(struct render *r, struct value self, const struct value *arguments,
                         bool last, bool must)
{
    struct machine *m = r->m;
    const struct text *text = self.as.text, *what = text_argument(m, arguments[0]);
    size_t from, to, found = TEXT_NOT_FOUND;
    if (window(m, text, arguments[1], arguments[2], &from, &to))
        found = last ? text_find_last(m, text, what, from, to) : text_find(m, text, what, from, to);
    if (found != TEXT_NOT_FOUND)
        return value_int((int64_t)text_points(text->data, found));
    if (must)
        machine_fail(m, ERR_BAD_INPUT, "substring not found");
    return value_int(-1);
}

static struct value text_find_method(struct render *r, struct value self, const struct value *a)
{
    return find(r, self, a, false, false);
}

static struct value text_rfind(struct render *r, struct value self, const struct value *a)
{
    return find(r, self, a, true, false);
}

static struct value text_index(struct render *r, struct value self, const struct value *a)
{
    return find(r, self, a, false, true);
}

static struct value text_rindex(struct render *r, struct value self, const struct value *a)
{
    return find(r, self, a, true, true);
}

static struct value text_count(struct render *r, struct value self, const struct value *a)
{
    const struct text *text = self.as.text, *what = text_argument(r->m, a[0]);
    size_t from, to;
    int64_t count = 0;
    if (!window(r->m, text, a[1], a[2], &from, &to))
        return value_int(0);
    if (what->bytes == 0)
        return value_int((int64_t)text_points(text->data + from, to - from) + 1);
    machine_spend_bytes(r->m, to - from);
    while (from <= to && what->bytes <= to - from) {
        const char *found = memmem(text->data + from, to - from, what->data, what->bytes);
        if (found == NULL)
            break;
        count++;
        from = (size_t)(found - text->data) + what->bytes;
    }
    return value_int(count);
}

/* startswith and endswith: affix is a text, or a tuple of which one will do. */
static struct value has_affix(struct render *r, struct value self, const struct value *a,
                              bool at_end)
{
    const struct text *text = self.as.text;
    size_t from = 0, to = 0;
    bool inside = window(r->m, text, a[1], a[2], &from, &to);
    struct value affix = a[0];
    const struct list *affixes = affix.kind == VALUE_TUPLE ? affix.as.list : NULL;
    size_t count = affixes != NULL ? affixes->count : 1;
    for (size_t i = 0; i < count; i++) {
        machine_spend(r->m, 1);
        const struct text *one = text_argument(r->m, affixes != NULL ? affixes->items[i] : affix);
        if (!inside || one->bytes > to - from)
            continue;
        size_t at = at_end ? to - one->bytes : from;
        if (one->bytes == 0 || memcmp(text->data + at, one->data, one->bytes) == 0)
            return value_bool(true);
    }
    return value_bool(false);
}

static struct value text_startswith(struct render *r, struct value self, const struct value *a)
{
    return has_affix(r, self, a, false);
}

static struct value text_endswith(struct render *r, struct value self, const struct value *a)
{
    return has_affix(r, self, a, true);
}

static struct value strip(struct render *r, struct value self, const struct value *a,
                          enum text_strip sides)
{
    bool given = a[0].kind != VALUE_ABSENT && a[0].kind != VALUE_NONE;
    const struct text *chars = given ? text_argument(r->m, a[0]) : NULL;
    return value_text(text_strip(r->m, self.as.text, chars, sides));
}

static struct value text_strip_method(struct render *r, struct value self, const struct value *a)
{
    return strip(r, self, a, TEXT_STRIP_BOTH);
}

static struct value text_lstrip(struct render *r, struct value self, const struct value *a)
{
    return strip(r, self, a, TEXT_STRIP_LEFT);
}

static struct value text_rstrip(struct render *r, struct value self, const struct value *a)
{
    return strip(r, self, a, TEXT_STRIP_RIGHT);
}

#define CASE_METHOD(name, to)                                                                      \
    static struct value name(struct render *r, struct value self, const struct value *a)           \
    {                                                                                              \
        (void)a;                                                                                   \
        return value_text(text_to_case(r->m, self.as.text, to));                                   \
    }
CASE_METHOD(text_upper, TEXT_UPPER)
CASE_METHOD(text_lower, TEXT_LOWER)
CASE_METHOD(text_title, TEXT_TITLE)
CASE_METHOD(text_capitalize, TEXT_CAPITALIZE)
CASE_METHOD(text_swapcase, TEXT_SWAP)

static struct value text_replace_method(struct render *r, struct value self, const struct value *a)
{
    const struct text *old = text_argument(r->m, a[0]), *new = text_argument(r->m, a[1]);
    if (self.as.text->markup)
        new = text_escape(r->m, new);
    int64_t most = integer_argument(r->m, a[2], -1);
    return value_text(text_replace(r->m, self.as.text, old, new, most));
}

static struct value text_join_method(struct render *r, struct value self, const struct value *a)
{
    struct machine *m = r->m;
    const struct text *between = self.as.text;
    struct cursor cursor = cursor_open(m, a[0]);
    struct value item;
    size_t from = m->output.used;
    for (size_t i = 0; cursor_next(m, &cursor, &item); i++) {
        if (item.kind != VALUE_TEXT && !between->markup)
            machine_fail(m, ERR_BAD_INPUT, "sequence item %zu: expected str instance, %s found", i,
                         value_type(item));
        const struct text *text = value_to_soft_text(m, item);
        if (between->markup)
            text = text_escape(m, text);
        if (i > 0)
            output_write(m, between->data, between->bytes);
        output_write(m, text->data, text->bytes);
    }
    return value_text(text_marked(m, output_cut(m, from), between->markup));
}

static struct value partition(struct render *r, struct value self, const struct value *a, bool last)
{
    struct machine *m = r->m;
    const struct text *text = self.as.text, *by = text_argument(m, a[0]);
    if (by->bytes == 0)
        machine_fail(m, ERR_BAD_INPUT, "empty separator");
    size_t at =
        last ? text_find_last(m, text, by, 0, text->bytes) : text_find(m, text, by, 0, text->bytes);
    struct value *parts = machine_take_array(m, 3, sizeof(*parts));
    size_t whole = last ? 2 : 0;
    for (size_t i = 0; i < 3; i++)
        parts[i] =
            value_text(at == TEXT_NOT_FOUND && i == whole ? text : text_piece(m, text, 0, 0));
    if (at != TEXT_NOT_FOUND) {
        parts[0] = value_text(text_piece(m, text, 0, at));
        parts[1] = value_text(text_piece(m, text, at, at + by->bytes));
        parts[2] = value_text(text_piece(m, text, at + by->bytes, text->bytes));
    }
    return value_tuple(m, parts, 3);
}

static struct value text_partition(struct render *r, struct value self, const struct value *a)
{
    return partition(r, self, a, false);
}

static struct value text_rpartition(struct render *r, struct value self, const struct value *a)
{
    return partition(r, self, a, true);
}

static struct value text_removeprefix(struct render *r, struct value self, const struct value *a)
{
    const struct text *text = self.as.text, *prefix = text_argument(r->m, a[0]);
    bool has = prefix->bytes <= text->bytes && memcmp(text->data, prefix->data, prefix->bytes) == 0;
    return value_text(text_piece(r->m, text, has ? prefix->bytes : 0, text->bytes));
}

static struct value text_removesuffix(struct render *r, struct value self, const struct value *a)
{
    const struct text *text = self.as.text, *suffix = text_argument(r->m, a[0]);
    size_t kept = text->bytes - (suffix->bytes <= text->bytes ? suffix->bytes : 0);
    bool has =
        suffix->bytes <= text->bytes && memcmp(text->data + kept, suffix->data, suffix->bytes) == 0;
    return value_text(text_piece(r->m, text, 0, has ? kept : text->bytes));
}

static struct value pad(struct render *r, struct value self, const struct value *a, char side)
{
    const struct text *fill =
        a[1].kind != VALUE_ABSENT ? text_argument(r->m, a[1]) : text_of(r->m, " ");
    if (a[0].kind == VALUE_NONE)
        machine_fail(r->m, ERR_BAD_INPUT, "a width must be an integer");
    if (fill->points != 1)
        machine_fail(r->m, ERR_BAD_INPUT, "the fill character must be exactly one character");
    return value_text(text_pad(r->m, self.as.text, integer_argument(r->m, a[0], 0), fill, side));
}

static struct value text_ljust(struct render *r, struct value self, const struct value *a)
{
    return pad(r, self, a, 'l');
}

static struct value text_rjust(struct render *r, struct value self, const struct value *a)
{
    return pad(r, self, a, 'r');
}

static struct value text_center(struct render *r, struct value self, const struct value *a)
{
    return pad(r, self, a, 'c');
}

static struct value text_zfill(struct render *r, struct value self, const struct value *a)
{
    struct machine *m = r->m;
    const struct text *text = self.as.text;
    size_t sign = text->bytes > 0 && (text->data[0] == '-' || text->data[0] == '+');
    int64_t width = integer_argument(m, a[0], 0) - (int64_t)sign;
    const struct text *digits = text_piece(m, text, sign, text->bytes);
    const struct text *padded = text_pad(m, digits, width, text_of(m, "0"), 'r');
    return value_text(text_join(m, text_piece(m, text, 0, sign), padded));
}

static struct value text_splitlines(struct render *r, struct value self, const struct value *a)
{
    return text_lines(r->m, self.as.text, a[0].kind != VALUE_ABSENT && value_truth(r->m, a[0]));
}

static struct value text_split(struct render *r, struct value self, const struct value *a)
{
    bool by_space = a[0].kind == VALUE_ABSENT || a[0].kind == VALUE_NONE;
    const struct text *by = by_space ? NULL : text_argument(r->m, a[0]);
    return text_cut(r->m, self.as.text, by, integer_argument(r->m, a[1], -1), false);
}

static struct value text_rsplit(struct render *r, struct value self, const struct value *a)
{
    bool by_space = a[0].kind == VALUE_ABSENT || a[0].kind == VALUE_NONE;
    const struct text *by = by_space ? NULL : text_argument(r->m, a[0]);
    return text_cut(r->m, self.as.text, by, integer_argument(r->m, a[1], -1), true);
}

static struct value text_format_method(struct render *r, struct value self, const struct call *call)
{
    return text_format_fields(r, self.as.text, call);
}

/* All characters pass, and there is one. */
static struct value all_are(struct render *r, struct value self, bool (*passes)(uint32_t point))
{
    const struct text *text = self.as.text;
    machine_spend(r->m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;)
        if (!passes(text_next(text->data, &at)))
            return value_bool(false);
    return value_bool(text->bytes > 0);
}

#define CLASS_METHOD(name, passes)                                                                 \
    static struct value name(struct render *r, struct value self, const struct value *a)           \
    {                                                                                              \
        (void)a;                                                                                   \
        return all_are(r, self, passes);                                                           \
    }
CLASS_METHOD(text_isalnum, point_is_alnum)
CLASS_METHOD(text_isalpha, point_is_alpha)
CLASS_METHOD(text_isdecimal, point_is_decimal)
CLASS_METHOD(text_isdigit, point_is_digit)
CLASS_METHOD(text_isnumeric, point_is_numeric)
CLASS_METHOD(text_isspace, point_is_space)

static struct value text_isascii(struct render *r, struct value self, const struct value *a)
{
    (void)r;
    (void)a;
    for (size_t i = 0; i < self.as.text->bytes; i++)
        if ((unsigned char)self.as.text->data[i] >= 0x80)
            return value_bool(false);
    return value_bool(true);
}

/* At least one cased character, and none of the other case. */
static struct value cased_are(struct render *r, struct value self, bool (*wanted)(uint32_t),
                              bool (*unwanted)(uint32_t))
{
    const struct text *text = self.as.text;
    bool any = false;
    machine_spend(r->m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;) {
        uint32_t point = text_next(text->data, &at);
        if (unwanted(point) || point_is_title(point))
            return value_bool(false);
        any |= wanted(point);
    }
    return value_bool(any);
}

static struct value text_islower(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    return cased_are(r, self, point_is_lower, point_is_upper);
}

static struct value text_isupper(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    return cased_are(r, self, point_is_upper, point_is_lower);
}

static struct value text_istitle(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    const struct text *text = self.as.text;
    bool any = false, in_word = false;
    machine_spend(r->m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;) {
        uint32_t point = text_next(text->data, &at);
        bool head = point_is_upper(point) || point_is_title(point), tail = point_is_lower(point);
        if ((head && in_word) || (tail && !in_word))
            return value_bool(false);
        in_word = head || tail;
        any |= head;
    }
    return value_bool(any);
}

static struct value list_count(struct render *r, struct value self, const struct value *a)
{
    int64_t count = 0;
    for (size_t i = 0; i < self.as.list->count; i++)
        count += value_equal(r->m, self.as.list->items[i], a[0]);
    return value_int(count);
}

static struct value list_index(struct render *r, struct value self, const struct value *a)
{
    int64_t length = (int64_t)self.as.list->count;
    int64_t from = integer_argument(r->m, a[1], 0), to = integer_argument(r->m, a[2], length);
    from = from < -length ? 0 : from < 0 ? from + length : from;
    to = to < -length ? 0 : to < 0 ? to + length : to > length ? length : to;
    for (int64_t i = from; i < to; i++)
        if (value_equal(r->m, self.as.list->items[i], a[0]))
            return value_int(i);
    machine_fail(r->m, ERR_BAD_INPUT, "the value is not in the list");
}

static struct value container_copy(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    if (self.kind == VALUE_LIST)
        return value_list(r->m, self.as.list->items, self.as.list->count);
    struct value copy = value_dict(r->m);
    for (size_t i = 0; i < self.as.dict->count; i++)
        dict_set(r->m, copy.as.dict, self.as.dict->entries[i].key, self.as.dict->entries[i].value);
    return copy;
}

static struct value dict_get_method(struct render *r, struct value self, const struct value *a)
{
    const struct value *found = dict_get(r->m, self.as.dict, a[0]);
    if (found != NULL)
        return *found;
    return a[1].kind != VALUE_ABSENT ? a[1] : value_none();
}

static struct value view_make(struct render *r, struct value self, enum view_kind kind)
{
    struct view *view = machine_take(r->m, sizeof(*view));
    view->kind = kind;
    view->dict = self.as.dict;
    return (struct value){.kind = VALUE_VIEW, .as.view = view};
}

static struct value dict_items(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    return view_make(r, self, VIEW_ITEMS);
}

static struct value dict_keys(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    return view_make(r, self, VIEW_KEYS);
}

static struct value dict_values(struct render *r, struct value self, const struct value *a)
{
    (void)a;
    return view_make(r, self, VIEW_VALUES);
}

static struct value loop_cycle(struct render *r, struct value self, const struct call *call)
{
    if (call->count == 0 || call->keyword_count > 0)
        machine_fail(r->m, ERR_BAD_INPUT, "loop.cycle needs items to cycle through");
    return call->values[(uint64_t)self.as.loop->index0 % call->count];
}

static struct value loop_changed(struct render *r, struct value self, const struct call *call)
{
    struct value now = value_tuple(r->m, call->values, call->count);
    struct loop *loop = self.as.loop;
    if (call->keyword_count > 0)
        machine_fail(r->m, ERR_BAD_INPUT, "loop.changed takes no keyword arguments");
    if (loop->changed.kind == VALUE_TUPLE && value_equal(r->m, loop->changed, now))
        return value_bool(false);
    loop->changed = now;
    return value_bool(true);
}

#define TEXT_METHOD(name, function, parameters, required)                                          \
    {                                                                                              \
        name, OF_TEXT, function, NULL, parameters, required, false                                 \
    }

static const struct method_spec methods[] = {
    TEXT_METHOD("strip", text_strip_method, "chars", 0),
    TEXT_METHOD("lstrip", text_lstrip, "chars", 0),
    TEXT_METHOD("rstrip", text_rstrip, "chars", 0),
    TEXT_METHOD("startswith", text_startswith, "prefix start end", 1),
    TEXT_METHOD("endswith", text_endswith, "suffix start end", 1),
    {"split", OF_TEXT, text_split, NULL, "sep maxsplit", 0, true},
    {"rsplit", OF_TEXT, text_rsplit, NULL, "sep maxsplit", 0, true},
    {"splitlines", OF_TEXT, text_splitlines, NULL, "keepends", 0, true},
    TEXT_METHOD("replace", text_replace_method, "old new count", 2),
    TEXT_METHOD("join", text_join_method, "iterable", 1),
    TEXT_METHOD("upper", text_upper, "", 0),
    TEXT_METHOD("lower", text_lower, "", 0),
    TEXT_METHOD("title", text_title, "", 0),
    TEXT_METHOD("capitalize", text_capitalize, "", 0),
    TEXT_METHOD("swapcase", text_swapcase, "", 0),
    TEXT_METHOD("find", text_find_method, "sub start end", 1),
    TEXT_METHOD("rfind", text_rfind, "sub start end", 1),
    TEXT_METHOD("index", text_index, "sub start end", 1),
    TEXT_METHOD("rindex", text_rindex, "sub start end", 1),
    TEXT_METHOD("count", text_count, "sub start end", 1),
    TEXT_METHOD("partition", text_partition, "sep", 1),
    TEXT_METHOD("rpartition", text_rpartition, "sep", 1),
    TEXT_METHOD("removeprefix", text_removeprefix, "prefix", 1),
    TEXT_METHOD("removesuffix", text_removesuffix, "suffix", 1),
    TEXT_METHOD("ljust", text_ljust, "width fillchar", 1),
    TEXT_METHOD("rjust", text_rjust, "width fillchar", 1),
    TEXT_METHOD("center", text_center, "width fillchar", 1),
    TEXT_METHOD("zfill", text_zfill, "width", 1),
    {"format", OF_TEXT, NULL, text_format_method, NULL, 0, true},
    TEXT_METHOD("isalnum", text_isalnum, "", 0),
    TEXT_METHOD("isalpha", text_isalpha, "", 0),
    TEXT_METHOD("isascii", text_isascii, "", 0),
    TEXT_METHOD("isdecimal", text_isdecimal, "", 0),
    TEXT_METHOD("isdigit", text_isdigit, "", 0),
    TEXT_METHOD("isnumeric", text_isnumeric, "", 0),
    TEXT_METHOD("isspace", text_isspace, "", 0),
    TEXT_METHOD("islower", text_islower, "", 0),
    TEXT_METHOD("isupper", text_isupper, "", 0),
    TEXT_METHOD("istitle", text_istitle, "", 0),
    {"count", OF_LIST | OF_TUPLE, list_count, NULL, "value", 1, false},
    {"index", OF_LIST | OF_TUPLE, list_index, NULL, "value start stop", 1, false},
    {"copy", OF_LIST | OF_DICT, container_copy, NULL, "", 0, false},
    {"get", OF_DICT, dict_get_method, NULL, "key default", 1, false},
    {"items", OF_DICT, dict_items, NULL, "", 0, false},
    {"keys", OF_DICT, dict_keys, NULL, "", 0, false},
    {"values", OF_DICT, dict_values, NULL, "", 0, false},
    {"cycle", OF_LOOP, NULL, loop_cycle, NULL, 0, false},
    {"changed", OF_LOOP, NULL, loop_changed, NULL, 0, false},
};

static unsigned owner_of(struct value value)
{
    switch (value.kind) {
    case VALUE_TEXT:
        return OF_TEXT;
    case VALUE_LIST:
        return OF_LIST;
    case VALUE_TUPLE:
        return OF_TUPLE;
    case VALUE_DICT:
        return OF_DICT;
    case VALUE_LOOP:
        return OF_LOOP;
    default:
        return 0;
    }
}

static bool is_one_of(const struct text *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (text_is(name, names[i]))
            return true;
    return false;
}

struct value method_bind(struct machine *m, struct value value, const struct text *name)
{
    static const char *const of_list[] = {"append", "clear",  "pop",  "reverse",
                                          "insert", "extend", "sort", "remove"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    unsigned owner = owner_of(value);
    for (size_t i = 0; owner != 0 && i < sizeof(methods) / sizeof(methods[0]); i++) {
        if ((methods[i].owners & owner) == 0 || !text_is(name, methods[i].name))
            continue;
        struct method *method = machine_take(m, sizeof(*method));
        method->self = value;
        method->id = (int)i;
        return (struct value){.kind = VALUE_METHOD, .as.method = method};
    }
    if ((owner == OF_LIST && is_one_of(name, of_list, sizeof(of_list) / sizeof(of_list[0]))) ||
        (owner == OF_DICT && is_one_of(name, of_dict, sizeof(of_dict) / sizeof(of_dict[0]))))
        return value_undefined(m, "a template may not change a list or dict (unsafe)");
    return (struct value){.kind = VALUE_ABSENT};
}

bool method_is_unbuilt(const struct text *name)
{
    static const char *const unbuilt[] = {
        "casefold",    "encode",     "expandtabs", "format_map",       "isidentifier",
        "isprintable", "maketrans",  "translate",  "fromkeys",         "is_integer",
        "bit_length",  "bit_count",  "conjugate",  "as_integer_ratio", "hex",
        "to_bytes",    "from_bytes", "unescape",   "striptags",
    };
    return is_one_of(name, unbuilt, sizeof(unbuilt) / sizeof(unbuilt[0]));
}

struct value method_call(struct render *r, const struct method *method, const struct call *call)
{
    const struct method_spec *spec = &methods[method->id];
    if (spec->apply_call != NULL)
        return spec->apply_call(r, method->self, call);
    struct value arguments[3] = {0};
    call_bind(r->m, spec->name, call, spec->parameters, spec->required, spec->keywords, arguments);
    return spec->apply(r, method->self, arguments);
}
