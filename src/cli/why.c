/* baton why: the timeline of one of the last requests of a running server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/error.h"
#include "base/loop.h"
#include "cli/commands.h"
#include "http/client.h"
#include "http/text.h"

#define WHY_ANSWER_BYTES_MAX (16u << 20)

struct why_options {
    const char *server, *api_key;
};

static const struct option_spec why_rows[] = {
    {"server", OPTION_TEXT, "HOST:PORT", "127.0.0.1:8000", 0, 0,
     offsetof(struct why_options, server), "where the router serves HTTP"},
    {"api-key", OPTION_TEXT, "KEY", NULL, 0, 0, offsetof(struct why_options, api_key),
     "key that the server wants; unset: the environment's BATON_API_KEY"},
};

struct why_fetch {
    struct loop *loop;
    struct text text;
    unsigned code;
    status result;
    char failure[256];
};

static void why_on_head(void *ctx, struct http_exchange *exchange, unsigned code)
{
    struct why_fetch *fetch = ctx;
    (void)exchange;
    fetch->code = code;
}

static void why_on_data(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    struct why_fetch *fetch = ctx;
    (void)at_ns;
    text_add(&fetch->text, data, bytes);
}

static void why_on_end(void *ctx, status result)
{
    struct why_fetch *fetch = ctx;
    fetch->result = result;
    if (result != OK)
        snprintf(fetch->failure, sizeof(fetch->failure), "%s", error_text());
    loop_stop(fetch->loop);
}

static status why_fetch(const struct why_options *options, struct why_fetch *fetch)
{
    struct address address;
    struct http_client *client = NULL;
    struct http_exchange *exchange;
    char bearer[512];
    const char *key = options->api_key != NULL ? options->api_key : getenv("BATON_API_KEY");
    const struct http_client_options limits = {
        .connect_timeout_ms = 5000, .head_timeout_ms = 10000, .total_timeout_ms = 30000};
    snprintf(bearer, sizeof(bearer), "Bearer %s", key != NULL ? key : "");
    const struct http_header header = {"Authorization", bearer};
    const struct http_call call = {.method = "GET",
                                   .path = "/debug/requests",
                                   .headers = &header,
                                   .header_count = key != NULL ? 1 : 0,
                                   .on_head = why_on_head,
                                   .on_data = why_on_data,
                                   .on_end = why_on_end,
                                   .ctx = fetch};
    status st = address_parse(options->server, 8000, &address);
    if (st == OK)
        st = loop_open(&fetch->loop);
    if (st == OK)
        st = http_client_open(fetch->loop, &address, options->server, &limits, &client);
    if (st == OK)
        st = http_client_start(client, &call, &exchange);
    if (st == OK) {
        loop_run(fetch->loop);
        st = fetch->result != OK ? error_set(fetch->result, "%s", fetch->failure) : OK;
    }
    http_client_close(client);
    loop_close(fetch->loop);
    return st;
}

/* Print every record of that request; false: there is none. */
static bool why_print(const char *text, const char *id)
{
    bool any = false;
    for (const char *at = text; at != NULL && *at != '\0';) {
        const char *end = strstr(at, "\n\n");
        size_t bytes = end != NULL ? (size_t)(end + 1 - at) : strlen(at);
        size_t id_bytes = strlen(id);
        if (strncmp(at, "request ", 8) == 0 && strncmp(at + 8, id, id_bytes) == 0 &&
            at[8 + id_bytes] == '\n') {
            fwrite(at, 1, bytes, stdout);
            any = true;
        }
        at = end != NULL ? end + 2 : NULL;
    }
    return any;
}

static int why_run(const void *given, const char *const *operands, uint32_t operand_count)
{
    const struct why_options *options = given;
    struct why_fetch fetch = {.text = text_open(WHY_ANSWER_BYTES_MAX)};
    if (operand_count != 1) {
        fprintf(stderr, "baton why: expected one request id, as the header X-Request-Id has it\n");
        return EXIT_USAGE;
    }
    status st = why_fetch(options, &fetch);
    int code = EXIT_FAILED;
    if (st != OK)
        fprintf(stderr, "baton why: %s: %s\n", options->server, error_text());
    else if (fetch.code != 200)
        fprintf(stderr, "baton why: %s answered %u: %s\n", options->server, fetch.code,
                fetch.text.data != NULL ? fetch.text.data : "");
    else if (!why_print(fetch.text.data, operands[0]))
        fprintf(stderr,
                "baton why: %s does not know %s: it keeps the last 512 requests that have ended\n",
                options->server, operands[0]);
    else
        code = EXIT_OK;
    text_close(&fetch.text);
    return code;
}

const struct command_spec why_command = {
    .name = "why",
    .operands = "REQUEST_ID",
    .summary = "print the timeline of a request that has ended",
    .details = "Prints how long each part of a request took, where the blocks of its prompt came "
               "from and how fast, and which other ways to its first token there were and why they "
               "were not taken. REQUEST_ID is what the response header X-Request-Id says.",
    .options = why_rows,
    .option_count = sizeof(why_rows) / sizeof(why_rows[0]),
    .options_bytes = sizeof(struct why_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = why_run,
};
