/* Templates against goldens of the transformers package (tools/goldens/make_chat.py), byte for
 * byte: the chat formats of model families over many conversations, and a table of small templates
 * that covers every construct. Where transformers fails, so must this; where a template refused,
 * the message must be the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "model/chat_template.h"

#define CHAT_DIR TEST_DATA_DIR "/vectors/chat/"

/* The clock of the goldens; the days of week and year are left out on purpose. */
static const struct tm golden_now = {
    .tm_year = 125, .tm_mon = 2, .tm_mday = 9, .tm_hour = 14, .tm_min = 5, .tm_sec = 6};

static json_t *load(const char *name)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof(path), CHAT_DIR "%s", name);
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (json == NULL)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}

static char *load_text(const char *name, size_t *bytes_out)
{
    char path[512];
    snprintf(path, sizeof(path), CHAT_DIR "templates/%s", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("%s: %s", path, strerror(errno));
    char *text = malloc(1 << 20);
    assert_non_null(text);
    *bytes_out = fread(text, 1, 1 << 20, file);
    fclose(file);
    return text;
}

/* How far two texts agree, for the message. */
static void print_difference(const char *what, const char *found, size_t found_bytes,
                             const char *expected, size_t expected_bytes)
{
    size_t same = 0;
    while (same < found_bytes && same < expected_bytes && found[same] == expected[same])
        same++;
    size_t from = same > 40 ? same - 40 : 0;
    printf("%s\n  differs at byte %zu of %zu (found %zu)\n  expected ...%.*s\n  found    ...%.*s\n",
           what, same, expected_bytes, found_bytes,
           (int)(expected_bytes - from < 160 ? expected_bytes - from : 160), expected + from,
           (int)(found_bytes - from < 160 ? found_bytes - from : 160), found + from);
}

/* Compare what came out of a render with a golden; 1 when it differs, which is printed. */
static int compare(const char *what, const json_t *golden, status code, const char *text,
                   size_t bytes)
{
    const json_t *output = json_object_get(golden, "output");
    const json_t *refused = json_object_get(golden, "refused");
    if (output != NULL && code != OK) {
        printf("%s\n  failed: %s (%s)\n", what, error_text(), status_name(code));
        return 1;
    }
    if (output != NULL) {
        const char *expected = json_string_value(output);
        size_t expected_bytes = json_string_length(output);
        if (bytes == expected_bytes && memcmp(text, expected, bytes) == 0 && text[bytes] == '\0')
            return 0;
        print_difference(what, text, bytes, expected, expected_bytes);
        return 1;
    }
    if (refused != NULL) {
        if (code == ERR_REFUSED && strcmp(error_text(), json_string_value(refused)) == 0)
            return 0;
        printf("%s\n  expected the refusal \"%s\", found %s: %s\n", what,
               json_string_value(refused), status_name(code), code == OK ? text : error_text());
        return 1;
    }
    if (code != OK && code != ERR_REFUSED && strstr(error_text(), "line ") != NULL)
        return 0;
    printf("%s\n  expected an error (%s), found %s: %s\n", what,
           json_string_value(json_object_get(golden, "error")), status_name(code),
           code == OK ? text : error_text());
    return 1;
}

static int run(const char *what, const char *source, size_t source_bytes, const json_t *variables,
               const json_t *golden)
{
    struct chat_template *tmpl = NULL;
    char *text = NULL;
    size_t bytes = 0;
    status code = chat_template_open(source, source_bytes, &tmpl);
    if (code == OK)
        code = chat_template_render(tmpl, variables, &golden_now, NULL, &text, &bytes);
    int differs = compare(what, golden, code, text, bytes);
    free(text);
    chat_template_close(tmpl);
    return differs;
}

static void test_snippets(void **state)
{
    (void)state;
    json_t *file = load("snippets.json");
    const json_t *variables = json_object_get(file, "variables");
    const json_t *cases = json_object_get(file, "cases");
    size_t count = json_array_size(cases);
    int differ = 0;
    assert_true(count > 1000);
    for (size_t i = 0; i < count; i++) {
        const json_t *golden = json_array_get(cases, i);
        const json_t *source = json_object_get(golden, "source");
        differ += run(json_string_value(source), json_string_value(source),
                      json_string_length(source), variables, golden);
    }
    json_decref(file);
    if (differ > 0)
        fail_msg("%d of %zu snippets differ", differ, count);
}

static void test_conversations(void **state)
{
    (void)state;
    json_t *file = load("conversations.json");
    const json_t *talks = json_object_get(file, "talks");
    const json_t *cases = json_object_get(file, "cases");
    size_t count = json_array_size(cases);
    int differ = 0;
    assert_true(count > 500);
    for (size_t i = 0; i < count; i++) {
        const json_t *golden = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(golden, "template"));
        json_int_t at = json_integer_value(json_object_get(golden, "talk"));
        const json_t *talk = json_array_get(talks, (size_t)at);
        char what[256];
        snprintf(what, sizeof(what), "%s, %s", name,
                 json_string_value(json_object_get(talk, "name")));
        size_t bytes;
        char *source = load_text(name, &bytes);
        differ += run(what, source, bytes, json_object_get(talk, "variables"), golden);
        free(source);
    }
    json_decref(file);
    if (differ > 0)
        fail_msg("%d of %zu renders differ", differ, count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snippets),
        cmocka_unit_test(test_conversations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
