#include "model/jinja/tests.h"

#include <math.h>
#include <string.h>

#include "model/jinja/filters.h"
#include "model/jinja/number.h"

struct test {
    const char *name;
    bool (*apply)(struct render *r, struct value value, struct value argument);
    const char *parameters; /* "" or one name */
};

static bool test_defined(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind != VALUE_UNDEFINED;
}

static bool test_undefined(struct render *r, struct value value, struct value argument)
{
    return !test_defined(r, value, argument);
}

static bool test_none(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_NONE;
}

static bool test_boolean(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_BOOL;
}

static bool test_true(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_BOOL && value.as.truth;
}

static bool test_false(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_BOOL && !value.as.truth;
}

static bool test_integer(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_INT;
}

static bool test_float(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_FLOAT;
}

static bool test_number(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value_is_number(value);
}

static bool test_string(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_TEXT;
}

static bool test_mapping(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_DICT;
}

/* What has a length and a place for an index: an undefined value has both in Python. */
static bool test_sequence(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value_has_length(value) && value.kind != VALUE_VIEW && value.kind != VALUE_LOOP;
}

static bool test_iterable(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value_is_iterable(value);
}

static bool test_callable(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_MACRO || value.kind == VALUE_METHOD || value.kind == VALUE_LOOP ||
           value.kind == VALUE_FUNCTION || value.kind == VALUE_UNDEFINED;
}

static bool test_escaped(struct render *r, struct value value, struct value argument)
{
    (void)r;
    (void)argument;
    return value.kind == VALUE_TEXT && value.as.text->markup;
}

static bool has_case(struct render *r, struct value value, bool (*wanted)(uint32_t),
                     bool (*unwanted)(uint32_t))
{
    const struct text *text = value_to_text(r->m, value);
    bool any = false;
    machine_spend(r->m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;) {
        uint32_t point = text_next(text->data, &at);
        if (unwanted(point) || point_is_title(point))
            return false;
        any |= wanted(point);
    }
    return any;
}

static bool test_lower(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    return has_case(r, value, point_is_lower, point_is_upper);
}

static bool test_upper(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    return has_case(r, value, point_is_upper, point_is_lower);
}

static bool remainder_is(struct render *r, struct value value, struct value by, int64_t wanted)
{
    if (value.kind == VALUE_TEXT)
        machine_fail(r->m, ERR_BAD_INPUT, "not all arguments converted during string formatting");
    if (!value_is_number(value) || !value_is_number(by))
        machine_fail(r->m, ERR_BAD_INPUT, "unsupported operand types for %%: '%s' and '%s'",
                     value_type(value), value_type(by));
    return value_equal(r->m, number_combine(r->m, '%', value, by), value_int(wanted));
}

static bool test_odd(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    return remainder_is(r, value, value_int(2), 1);
}

static bool test_even(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    return remainder_is(r, value, value_int(2), 0);
}

static bool test_divisible(struct render *r, struct value value, struct value argument)
{
    return remainder_is(r, value, argument, 0);
}

static bool test_same(struct render *r, struct value value, struct value argument)
{
    (void)r;
    return value_same(value, argument);
}

static bool test_in(struct render *r, struct value value, struct value argument)
{
    return value_contains(r->m, argument, value);
}

static bool test_equal(struct render *r, struct value value, struct value argument)
{
    return value_equal(r->m, value, argument);
}

static bool test_differ(struct render *r, struct value value, struct value argument)
{
    return !value_equal(r->m, value, argument);
}

static bool test_more(struct render *r, struct value value, struct value argument)
{
    return value_compare(r->m, value, argument, ">") == 1;
}

static bool test_less(struct render *r, struct value value, struct value argument)
{
    return value_compare(r->m, value, argument, "<") == -1;
}

static bool test_at_least(struct render *r, struct value value, struct value argument)
{
    int order = value_compare(r->m, value, argument, ">=");
    return order == 1 || order == 0;
}

static bool test_at_most(struct render *r, struct value value, struct value argument)
{
    int order = value_compare(r->m, value, argument, "<=");
    return order == -1 || order == 0;
}

static bool test_filter(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    if (!value_is_hashable(r->m, value))
        machine_fail(r->m, ERR_BAD_INPUT, "unhashable type: '%s'", value_type(value));
    return value.kind == VALUE_TEXT &&
           (filter_find(value.as.text) != NULL || filter_is_unbuilt(value.as.text));
}

static bool test_test(struct render *r, struct value value, struct value argument)
{
    (void)argument;
    if (!value_is_hashable(r->m, value))
        machine_fail(r->m, ERR_BAD_INPUT, "unhashable type: '%s'", value_type(value));
    return value.kind == VALUE_TEXT && test_find(value.as.text) != NULL;
}

static const struct test tests[] = {
    {"defined", test_defined, ""},    {"undefined", test_undefined, ""},
    {"none", test_none, ""},          {"boolean", test_boolean, ""},
    {"true", test_true, ""},          {"false", test_false, ""},
    {"integer", test_integer, ""},    {"float", test_float, ""},
    {"number", test_number, ""},      {"string", test_string, ""},
    {"mapping", test_mapping, ""},    {"sequence", test_sequence, ""},
    {"iterable", test_iterable, ""},  {"callable", test_callable, ""},
    {"escaped", test_escaped, ""},    {"lower", test_lower, ""},
    {"upper", test_upper, ""},        {"odd", test_odd, ""},
    {"even", test_even, ""},          {"divisibleby", test_divisible, "num"},
    {"sameas", test_same, "other"},   {"in", test_in, "seq"},
    {"==", test_equal, "other"},      {"eq", test_equal, "other"},
    {"equalto", test_equal, "other"}, {"!=", test_differ, "other"},
    {"ne", test_differ, "other"},     {">", test_more, "other"},
    {"gt", test_more, "other"},       {"greaterthan", test_more, "other"},
    {">=", test_at_least, "other"},   {"ge", test_at_least, "other"},
    {"<", test_less, "other"},        {"lt", test_less, "other"},
    {"lessthan", test_less, "other"}, {"<=", test_at_most, "other"},
    {"le", test_at_most, "other"},    {"filter", test_filter, ""},
    {"test", test_test, ""},
};

const struct test *test_find(const struct text *name)
{
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        if (text_is(name, tests[i].name))
            return &tests[i];
    return NULL;
}

bool test_apply(struct render *r, const struct test *test, struct value value,
                const struct call *call)
{
    struct value argument = {.kind = VALUE_ABSENT};
    call_bind(r->m, test->name, call, test->parameters, test->parameters[0] != '\0', true,
              &argument);
    machine_spend(r->m, 1);
    return test->apply(r, value, argument);
}
