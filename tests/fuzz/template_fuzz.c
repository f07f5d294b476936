/* Any bytes as a template, rendered over a fixed conversation, or, when the input starts with '@',
 * the family template of the corpus' kind over what follows as JSON. Small limits, so that what
 * takes long is a finding and not a hostile template at work. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "model/chat_template.h"

static const char fixed_variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" S \"},"
    " {\"role\": \"user\", \"content\": \"H\\u00e9 \\u4e16 </think> <b>\"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"123456789\","
    " \"function\": {\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, true, {}]}}}]}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}],"
    " \"s\": \"text\", \"i\": 7, \"f\": 2.5, \"l\": [3, 1, 2], \"d\": {\"b\": 1, \"a\": 2},"
    " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";

static const char family[] =
    "{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}{% set ns.last = loop.index %}"
    "{% endfor %}{{ tools|tojson(indent=2) }}{% for m in messages if m.role is string %}"
    "{{ m.role|title ~ m.content|trim }}{{ m|tojson }}{{ m }}{% for c in m.content %}{{ c }}"
    "{% endfor %}{{ m.content|string|replace('a', 'b')|upper|indent(2) }}"
    "{{ m.content.split('x')[0].strip() }}{{ m.content[1:-1:2] }}{% endfor %}";

static const struct chat_template_limits limits = {
    .steps = 200000, .output_bytes = 1 << 18, .memory_bytes = 4 << 20, .depth = 200};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    bool is_json = bytes > 0 && data[0] == '@';
    const char *source = is_json ? family : (const char *)data;
    size_t source_bytes = is_json ? strlen(family) : bytes;
    json_t *variables = is_json
                            ? json_loadb((const char *)data + 1, bytes - 1, JSON_ALLOW_NUL, NULL)
                            : json_loads(fixed_variables, 0, NULL);
    struct chat_template *tmpl = NULL;
    const struct tm now = {.tm_year = 125, .tm_mon = 2, .tm_mday = 9};
    if (variables != NULL && chat_template_open(source, source_bytes, &tmpl) == OK) {
        char *text = NULL;
        size_t text_bytes;
        if (chat_template_render(tmpl, variables, &now, &limits, &text, &text_bytes) == OK) {
            if (text_bytes > limits.output_bytes || text[text_bytes] != '\0')
                abort();
            free(text);
        }
        chat_template_close(tmpl);
    }
    json_decref(variables);
    return 0;
}
