/* cli/bench_server.h - the server under measure, and one streamed request to it.
 *
 *     bench_server_open(url) -> bench_server_find_model -> bench_stream_start ... (many at once)
 *
 *     bench_stream:   sent ---- first ---- token ---- token ---- ... ---- last    end
 *                       `- TTFT -'`-- ITL --'                             (DONE)
 *
 * A token event is a chunk with text in it, so what a server puts into one chunk counts as one
 * event; how many tokens there were is what the server's usage says, or the events without it.
 *
 * Threads: the loop's.
 */
#ifndef CLI_BENCH_SERVER_H
#define CLI_BENCH_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"

struct bench_server;

struct bench_server_options {
    const char *base_url; /* "http://HOST:PORT", perhaps with a path before /v1 */
    const char *api_key;  /* NULL: none is sent */
    const char *model;    /* NULL: bench_server_find_model asks for it */
    bool chat;            /* /v1/chat/completions instead of /v1/completions */
    bool ignore_eos;
    double temperature;
};

/* Errors: ERR_BAD_INPUT (the URL), ERR_NO_MEMORY. */
status bench_server_open(struct loop *loop, const struct bench_server_options *options,
                         struct bench_server **server_out);
void bench_server_close(struct bench_server *server);

/* Ask /v1/models; runs the loop until the answer is there. With a model given it still asks, so
 * that a server that is not there is one clear error. Errors: ERR_IO, ERR_TIMEOUT, ERR_REFUSED
 * (the server's answer is an error), ERR_BAD_INPUT (no list of models). */
status bench_server_find_model(struct bench_server *server);
const char *bench_server_model(const struct bench_server *server);

struct bench_result {
    bool ok;
    char error[256]; /* when not ok */
    uint64_t sent_ns, first_ns, last_ns;
    uint32_t input_tokens; /* from usage; 0 when the server gave none */
    uint32_t output_tokens;
    uint32_t events; /* chunks with text */
};

struct bench_stream_calls {
    /* A chunk with text; previous_ns is 0 for the first. NULL: not wanted. */
    void (*on_token)(void *ctx, uint64_t at_ns, uint64_t previous_ns);
    /* Exactly once, unless the stream is cancelled. */
    void (*on_done)(void *ctx, const struct bench_result *result);
    void *ctx;
};

struct bench_stream;

/* prompt_json: the JSON value of the prompt (bench_prompt.h). Errors: ERR_NO_MEMORY, ERR_IO. */
status bench_stream_start(struct bench_server *server, const char *prompt_json,
                          uint32_t output_tokens, const struct bench_stream_calls *calls,
                          struct bench_stream **stream_out);

/* Hang up; no further call. */
void bench_stream_cancel(struct bench_stream *stream);

#endif
