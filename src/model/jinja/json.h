/* model/jinja/json.h - values from JSON, and tojson as Python's json.dumps writes it. */
#ifndef MODEL_JINJA_JSON_H
#define MODEL_JINJA_JSON_H

#include <jansson.h>

#include "model/jinja/value.h"

/* Texts share the bytes of json, which must stay. */
struct value value_from_json(struct machine *m, const json_t *json);

struct json_style {
    bool ascii; /* escape everything beyond ASCII */
    bool sort_keys;
    const struct text *indent; /* of one level; NULL: all on one line */
    const struct text *item_separator, *key_separator;
};

/* Write value as JSON to the output; leaves for what JSON has no form for. */
void json_print(struct machine *m, struct value value, const struct json_style *style);

#endif
