/* model/chat_template.h - turns a conversation into the text that a chat model was trained on.
 *
 * A model carries its chat format as a Jinja template. chat_template_open parses one once;
 * chat_template_render runs it over a request's variables and answers with exactly the bytes that
 * the transformers package answers with (its sandboxed environment: trim_blocks, lstrip_blocks,
 * break and continue, {% generation %}, tojson without HTML escapes, raise_exception,
 * strftime_now). docs: the constructs that are built are listed in jinja/parser.h.
 *
 *      source --open--> chat_template (immutable)
 *                            |
 *      {"messages": [...], "tools": null, "add_generation_prompt": true,
 *       "bos_token": "<s>", ...}  --render--> "<|im_start|>user\nHi<|im_end|>\n..."
 *
 * A template and a message are bytes from outside. Whatever they hold, a render ends: it is bounded
 * in steps, output, memory and depth, and the error says the template's line and what happened.
 *
 * Threads: open and close by one; render by any number at once on the same template. A render
 *          needs up to 2 MiB of stack.
 * Memory:  the template owns a copy of all it needs of the source. A render takes one arena, freed
 *          before it returns; the text is the caller's, to be freed with free().
 * Source:  Jinja 3.1 template designer documentation; transformers.utils.chat_template_utils.
 */
#ifndef MODEL_CHAT_TEMPLATE_H
#define MODEL_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <jansson.h>

#include "base/status.h"

struct chat_template;

struct chat_template_limits {
    uint64_t steps; /* nodes evaluated, items walked, and one for every 64 bytes of text moved */
    size_t output_bytes; /* of the text, unfinished {% set %} blocks and macros included */
    size_t memory_bytes; /* of everything a render makes beside the output */
    uint32_t depth;      /* nested expressions, statements, macro calls and values */
};

/* 20 million steps, 16 MiB of output, 128 MiB of memory, 400 levels. */
extern const struct chat_template_limits chat_template_limits_default;

/* Most bytes a template may have. */
#define CHAT_TEMPLATE_SOURCE_BYTES (1024 * 1024)

/* Parse source (UTF-8, source_bytes long, no NUL needed).
 * Errors: ERR_UNSUPPORTED: a construct of Jinja that is not built, named with its line (serve
 * without chat then); ERR_BAD_INPUT: not a template at all (syntax, encoding, size), with the line;
 * ERR_NO_MEMORY. Cost: linear in source_bytes. */
status chat_template_open(const char *source, size_t source_bytes,
                          struct chat_template **template_out);
void chat_template_close(struct chat_template *tmpl);

/* Whether the template reads a variable of this name anywhere, for example "tools". */
bool chat_template_reads(const struct chat_template *tmpl, const char *name);

/* Render with variables, an object: messages (an array of objects), tools, documents,
 * add_generation_prompt, bos_token, eos_token and whatever else the request names. As transformers
 * does: messages is [], tools and documents are none and add_generation_prompt is false when they
 * are not there, and a message's reasoning is readable under reasoning_content and thinking.
 * now: the local time for strftime_now; NULL asks the system. limits: NULL for the default.
 * text_out is malloc'd, bytes_out long and has a NUL after that (the text itself may hold NULs).
 *
 * Errors: ERR_REFUSED: the template called raise_exception, and error_text() is its message, to be
 * shown to the client as it is; ERR_BAD_INPUT: the template failed on these variables ("chat
 * template line 7: ..."); ERR_FULL: a limit was reached; ERR_NO_MEMORY. */
status chat_template_render(const struct chat_template *tmpl, const json_t *variables,
                            const struct tm *now, const struct chat_template_limits *limits,
                            char **text_out, size_t *bytes_out);

#endif
