/* What must not happen, whatever a template or a message holds: no render without end, none that
 * takes more than its limits, and no construct that fails only when a request first meets it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "model/chat_template.h"

static struct chat_template *open_template(const char *source)
{
    struct chat_template *tmpl = NULL;
    status code = chat_template_open(source, strlen(source), &tmpl);
    if (code != OK)
        fail_msg("%s: %s", source, error_text());
    return tmpl;
}

static status render(const char *source, json_t *variables,
                     const struct chat_template_limits *limits, char **text_out)
{
    struct chat_template *tmpl = open_template(source);
    char *text = NULL;
    size_t bytes = 0;
    json_t *own = variables != NULL ? json_incref(variables) : json_object();
    status code = chat_template_render(tmpl, own, NULL, limits, &text, &bytes);
    if (code == OK)
        assert_int_equal(bytes, strlen(text));
    if (text_out != NULL)
        *text_out = text;
    else
        free(text);
    json_decref(own);
    chat_template_close(tmpl);
    return code;
}

static void expect_error(const char *source, const struct chat_template_limits *limits,
                         status expected, const char *part)
{
    status code = render(source, NULL, limits, NULL);
    if (code != expected || strstr(error_text(), part) == NULL)
        fail_msg("%s: expected %s with \"%s\", found %s: %s", source, status_name(expected), part,
                 status_name(code), code == OK ? "" : error_text());
}

static void test_steps_are_bounded(void **state)
{
    (void)state;
    struct chat_template_limits few = chat_template_limits_default;
    few.steps = 10000;
    expect_error("a\n{% for x in range(99999) %}{% endfor %}", &few, ERR_FULL, "line 2");
    expect_error("{% for x in range(200) %}{% for y in range(200) %}{% endfor %}{% endfor %}", &few,
                 ERR_FULL, "steps");
    /* Work inside one filter or method counts too. */
    expect_error("{{ (range(9000)|list|sort)|length }}", &few, ERR_FULL, "steps");
    expect_error("{{ ('a' * 400000).replace('a', 'b')|length }}", &few, ERR_FULL, "steps");
    expect_error("{{ 'a' in ('b' * 900000) }}", &few, ERR_FULL, "steps");
}

static void test_a_hostile_template_ends(void **state)
{
    (void)state;
    expect_error("{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
                 "{% endfor %}{% endfor %}{% endfor %}",
                 NULL, ERR_FULL, "steps");
    expect_error("{% set ns = namespace(t='x') %}{% for a in range(99) %}"
                 "{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
                 NULL, ERR_FULL, "line 1");
    expect_error("{% set ns = namespace(t=[1]) %}{% for a in range(99) %}"
                 "{% set ns.t = ns.t + ns.t %}{% endfor %}",
                 NULL, ERR_FULL, "line 1");
    expect_error("{{ 'x' * 9000000000000000000 }}", NULL, ERR_FULL, "");
    expect_error("{{ 'xy' * 9223372036854775807 }}", NULL, ERR_FULL, "");
    expect_error("{{ [1] * 9223372036854775807 }}", NULL, ERR_FULL, "");
    expect_error("{{ 'x'.center(9223372036854775807) }}", NULL, ERR_FULL, "");
    expect_error("{{ ('a' * 9000000).replace('', 'b' * 9000000) }}", NULL, ERR_FULL, "");
    expect_error("{{ ('ab' * 9000).rfind('ba' * 4000 ~ 'c') }}{{ ('a' * 4000000).rfind('b' ~ 'a' * "
                 "1000000) }}",
                 NULL, ERR_FULL, "");
    expect_error("{{ '%1001d' % 1 }}", NULL, ERR_UNSUPPORTED, "");
    expect_error("{% for x in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", NULL, ERR_FULL, "");
}

static void test_output_is_bounded(void **state)
{
    (void)state;
    struct chat_template_limits small = chat_template_limits_default;
    small.output_bytes = 100;
    char *text;
    assert_int_equal(render("{{ 'x' * 100 }}", NULL, &small, &text), OK);
    assert_int_equal(strlen(text), 100);
    free(text);
    expect_error("\n\n{{ 'x' * 101 }}", &small, ERR_FULL, "line 3: more output than");
    expect_error("{% set a %}{{ 'x' * 200 }}{% endset %}", &small, ERR_FULL, "output");
}

static void test_memory_is_bounded(void **state)
{
    (void)state;
    struct chat_template_limits small = chat_template_limits_default;
    small.memory_bytes = 100000;
    expect_error("{{ ('x' * 200000)|length }}", &small, ERR_FULL, "memory");
    expect_error("{% set ns = namespace(l=[]) %}{% for x in range(9999) %}"
                 "{% set ns.l = [ns.l] %}{% endfor %}",
                 &small, ERR_FULL, "memory");
    json_t *variables = json_pack("{s:[]}", "messages");
    for (int i = 0; i < 2000; i++)
        json_array_append_new(json_object_get(variables, "messages"),
                              json_pack("{s:s}", "role", "user"));
    assert_int_equal(render("{{ messages|length }}", variables, &small, NULL), ERR_FULL);
    json_decref(variables);
}

static void test_a_text_that_grows_costs_its_length_once(void **state)
{
    (void)state;
    struct chat_template_limits small = chat_template_limits_default;
    small.memory_bytes = 16u << 20;
    small.steps = 300000;
    char *text;
    assert_int_equal(render("{% set ns = namespace(t='') %}{% for x in range(10000) %}"
                            "{% set ns.t = ns.t + '0123456789' %}{% endfor %}{{ ns.t }}",
                            NULL, &small, &text),
                     OK);
    assert_int_equal(strlen(text), 100000);
    free(text);
}

/* count copies of open, then middle, then count copies of close. */
static char *nest(const char *open, const char *middle, const char *close, size_t count)
{
    char *text = calloc(1, count * (strlen(open) + strlen(close)) + strlen(middle) + 1);
    assert_non_null(text);
    char *at = text;
    for (size_t i = 0; i < count; i++)
        at = stpcpy(at, open);
    at = stpcpy(at, middle);
    for (size_t i = 0; i < count; i++)
        at = stpcpy(at, close);
    return text;
}

static void test_depth_is_bounded(void **state)
{
    (void)state;
    static const char *const nests[][4] = {
        {"{{ ", "(", ")", " }}"},
        {"{{ ", "[", "]", " }}"},
        {"{{ ", "not ", "", " }}"},
        {"{{ ", "-", "", " }}"},
        {"", "{% if 1 %}", "{% endif %}", ""},
        {"", "{% for x in [1] %}", "{% endfor %}", ""},
        {"{{ ", "1 if 0 else ", "", " }}"},
        {"{{ ", "{1:", "}", " }}"},
        {"{{ ", "x(", ")", " }}"},
        {"{{ ", "x[", "]", " }}"},
    };
    for (size_t i = 0; i < sizeof(nests) / sizeof(nests[0]); i++) {
        char *middle = nest(nests[i][1], "1", nests[i][2], 30000);
        char *source = calloc(1, strlen(middle) + 20);
        strcat(strcat(strcat(source, nests[i][0]), middle), nests[i][3]);
        struct chat_template *tmpl = NULL;
        status code = chat_template_open(source, strlen(source), &tmpl);
        if (code != ERR_FULL || strstr(error_text(), "line 1") == NULL)
            fail_msg("%s: %s", nests[i][1], code == OK ? "opened" : error_text());
        free(source);
        free(middle);
    }
    /* What is no recursion in the source may be one when it runs: a long chain leans left. */
    char *chain = nest("1 + ", "1", "", 40000);
    char *source = calloc(1, strlen(chain) + 20);
    sprintf(source, "{{ %s }}", chain);
    expect_error(source, NULL, ERR_FULL, "deep");
    free(source);
    free(chain);
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", NULL, ERR_FULL, "deep");
    expect_error("{% macro m() %}{% set x = m() %}{% endmacro %}{{ m() }}", NULL, ERR_FULL, "deep");
    expect_error("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL, ERR_FULL, "deep");
    const char *values = "{%% set ns = namespace(t=(1,)) %%}{%% for x in range(5000) %%}"
                         "{%% set ns.t = (ns.t,) %%}{%% endfor %%}{{ %s }}";
    static const char *const uses[] = {"ns.t",           "ns.t|tojson", "ns.t == (ns.t,)",
                                       "ns.t < (ns.t,)", "{ns.t: 1}",   "[ns.t]|unique|list",
                                       "ns.t in {}"};
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        char use[300];
        snprintf(use, sizeof(use), values, uses[i]);
        expect_error(use, NULL, ERR_FULL, "deep");
    }
}

static void test_deep_json_is_bounded(void **state)
{
    (void)state;
    char *deep = nest("[", "1", "]", 1500);
    json_t *variables = json_pack("{s:o}", "x", json_loads(deep, 0, NULL));
    assert_non_null(variables);
    assert_int_equal(render("{{ x }}", variables, NULL, NULL), ERR_FULL);
    assert_non_null(strstr(error_text(), "deep"));
    json_decref(variables);
    free(deep);
}

static void expect_unsupported(const char *source, const char *line, const char *name)
{
    struct chat_template *tmpl = NULL;
    status code = chat_template_open(source, strlen(source), &tmpl);
    if (code != ERR_UNSUPPORTED || strstr(error_text(), line) == NULL ||
        strstr(error_text(), name) == NULL)
        fail_msg("%s: expected \"%s\" and \"%s\", found %s: %s", source, line, name,
                 status_name(code), code == OK ? "" : error_text());
}

static void test_what_is_not_built_is_named_at_open(void **state)
{
    (void)state;
    expect_unsupported("a\n{% include 'x' %}", "line 2", "'include'");
    expect_unsupported("{% extends 'x' %}", "line 1", "'extends'");
    expect_unsupported("\n\n{% block x %}{% endblock %}", "line 3", "'block'");
    expect_unsupported("{% import 'x' as y %}", "line 1", "'import'");
    expect_unsupported("{% from 'x' import y %}", "line 1", "'from'");
    expect_unsupported("{% autoescape true %}{% endautoescape %}", "line 1", "'autoescape'");
    expect_unsupported("\n{{ x|pprint }}", "line 2", "'pprint'");
    expect_unsupported("\n{{ x|map('urlize')|list }}", "line 2", "'urlize'");
    expect_unsupported("{{ x }}\n{{ x|frobnicate }}", "line 2", "'frobnicate'");
    expect_unsupported("{{ x }}\n{% if x %}\n{{ x|wordwrap }}{% endif %}", "line 3", "'wordwrap'");
    expect_unsupported("{{ x is frobnicated }}", "line 1", "'frobnicated'");
    expect_unsupported("{{ x }}{{\nx.translate(1) }}", "line 2", "'translate'");
    expect_unsupported("{% set j = joiner(',') %}", "line 1", "'joiner'");
    expect_unsupported("{{ '\\N{DASH}' }}", "line 1", "named characters");
    expect_unsupported("{{ \xc3\xa9 }}", "line 1", "names beyond ASCII");
}

static void test_bad_sources(void **state)
{
    (void)state;
    struct chat_template *tmpl = NULL;
    assert_int_equal(chat_template_open("a\xff", 2, &tmpl), ERR_BAD_INPUT);
    assert_int_equal(chat_template_open("a\xed\xa0\x80", 4, &tmpl), ERR_BAD_INPUT);
    char *large = calloc(1, CHAT_TEMPLATE_SOURCE_BYTES + 1);
    assert_int_equal(chat_template_open(large, CHAT_TEMPLATE_SOURCE_BYTES + 1, &tmpl),
                     ERR_BAD_INPUT);
    free(large);
    assert_int_equal(chat_template_open("a\n\n{% if x %}\nb", 16, &tmpl), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "expected 'endif'"));
    assert_int_equal(chat_template_open("a\n{{ (1 }}", 10, &tmpl), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "line 2"));
    assert_null(tmpl);
}

static void test_a_failure_names_its_line(void **state)
{
    (void)state;
    expect_error("a\n{{ x.y }}", NULL, ERR_BAD_INPUT, "line 2: 'x' is undefined");
    expect_error("{{ 1 }}\n\n{{ 'a' + 1 }}", NULL, ERR_BAD_INPUT, "line 3: unsupported operand");
    expect_error("{{ 9223372036854775807 + 1 }}", NULL, ERR_BAD_INPUT, "64 bits");
    /* A refusal is the template's own words, without a line. */
    assert_int_equal(render("\n{{ raise_exception('No ' ~ 1) }}", NULL, NULL, NULL), ERR_REFUSED);
    assert_string_equal(error_text(), "No 1");
}

static void test_variables(void **state)
{
    (void)state;
    char *text;
    json_t *variables = json_pack("{s:{s:s}}", "messages", "role", "user");
    assert_int_equal(render("{{ messages }}", variables, NULL, NULL), ERR_BAD_INPUT);
    json_decref(variables);
    variables = json_pack("{s:[s]}", "messages", "user");
    assert_int_equal(render("{{ messages }}", variables, NULL, NULL), ERR_BAD_INPUT);
    /* What the template does not read is not looked at. */
    assert_int_equal(render("x", variables, NULL, &text), OK);
    assert_string_equal(text, "x");
    free(text);
    json_decref(variables);
    variables = json_array();
    assert_int_equal(render("x", variables, NULL, NULL), ERR_BAD_INPUT);
    json_decref(variables);

    struct chat_template *tmpl = open_template("{{ tools }}{% if x.custom %}{% endif %}");
    assert_true(chat_template_reads(tmpl, "tools"));
    assert_true(chat_template_reads(tmpl, "x"));
    assert_false(chat_template_reads(tmpl, "custom"));
    chat_template_close(tmpl);
    chat_template_close(NULL);
}

static void *render_often(void *context)
{
    struct chat_template *tmpl = context;
    json_t *variables = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", "Hi");
    intptr_t wrong = 0;
    for (int i = 0; i < 300; i++) {
        char *text = NULL;
        size_t bytes;
        if (chat_template_render(tmpl, variables, NULL, NULL, &text, &bytes) != OK ||
            strcmp(text, "a-user:HI a-user:HI!x") != 0)
            wrong++;
        free(text);
    }
    json_decref(variables);
    return (void *)wrong;
}

static void test_threads_share_a_template(void **state)
{
    (void)state;
    /* The constants are joined to, which happens in place where a text's own tail allows it. */
    struct chat_template *tmpl = open_template(
        "{% macro m(x) %}{{ 'a' '-' + x.role + ':' ~ x.content|upper }}{% endmacro %}"
        "{% for x in messages %}{% set t = m(x) + ' ' %}{{ t + m(x) + '!' }}{{ 'x' }}{% endfor %}");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, tmpl), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_int_equal((intptr_t)wrong, 0);
    }
    chat_template_close(tmpl);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_are_bounded),
        cmocka_unit_test(test_a_hostile_template_ends),
        cmocka_unit_test(test_output_is_bounded),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_a_text_that_grows_costs_its_length_once),
        cmocka_unit_test(test_depth_is_bounded),
        cmocka_unit_test(test_deep_json_is_bounded),
        cmocka_unit_test(test_what_is_not_built_is_named_at_open),
        cmocka_unit_test(test_bad_sources),
        cmocka_unit_test(test_a_failure_names_its_line),
        cmocka_unit_test(test_variables),
        cmocka_unit_test(test_threads_share_a_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
