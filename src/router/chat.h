/* router/chat.h - from messages to the text of a prompt. Internal to router/. */
#ifndef ROUTER_CHAT_H
#define ROUTER_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct router;

/* The model's chat template over messages (an array), more (chat_template_kwargs, an object, or
 * NULL) and the model's own tokens. text_out is malloc'd. Threads: any; for the pool, it may take
 * long. Errors: ERR_UNSUPPORTED (the model has no template that can be used),
 * chat_template_render's. */
status chat_render(const struct router *router, json_t *messages, json_t *more,
                   bool add_generation_prompt, char **text_out, size_t *bytes_out);

#endif
