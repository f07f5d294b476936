#include "router/router.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "http/keys.h"
#include "router/request.h"

#define TICK_MS 100
#define POOL_QUEUE_MAX 4096
#define SCRATCH_BYTES_MAX (256u << 20)

static void router_on_drained(void *ctx)
{
    struct router *router = ctx;
    loop_stop(router->loop);
}

static void router_tick(void *ctx)
{
    struct router *router = ctx;
    route_tick(router);
    relay_tick(router);
    if (router->draining && clock_ns() > router->drain_deadline_ns) {
        loop_stop(router->loop);
        return;
    }
    if (router->draining && router->answers == NULL && !router->http_draining) {
        router->http_draining = true; /* Last bytes may still be on their way. */
        http_server_drain(router->http, router_on_drained, router);
    }
    loop_timer_start(router->tick, TICK_MS);
}

static void router_on_signal(void *ctx, int number)
{
    struct router *router = ctx;
    log_info(router->draining ? "stopping" : "draining", "signal=%d", number);
    if (router->draining) {
        loop_stop(router->loop);
        return;
    }
    router->draining = true;
    router->drain_deadline_ns = clock_ns() + router->options->drain_ms * 1000000u;
}

/* ---- the model: tokenizer and chat template; the weights are only named ---- */

static void router_token_text(const struct router *router, uint32_t id, char *text, size_t bytes)
{
    size_t length = 0;
    text[0] = '\0';
    if (id == TOKEN_NONE)
        return;
    const char *from = tokenizer_token_text(router->tokenizer, id, &length);
    snprintf(text, bytes, "%.*s", (int)length, from);
}

static status router_open_template(struct router *router)
{
    status st =
        model_chat_template(router->model, &router->template_source, &router->template_bytes);
    if (st == ERR_NOT_FOUND) {
        log_warn("no chat template", "effect=\"only /v1/completions works\"");
        return OK;
    }
    if (st != OK)
        return st;
    st =
        chat_template_open(router->template_source, router->template_bytes, &router->chat_template);
    if (st == ERR_NO_MEMORY)
        return st;
    if (st != OK)
        log_warn("chat template not usable", "effect=\"only /v1/completions works\" reason=\"%s\"",
                 error_text());
    return OK;
}

static status router_open_model(struct router *router, const char *path)
{
    status st = weights_choose(path, router->options->dummy_weights, &router->model);
    if (st == OK)
        st = model_tokenizer_open(router->model, &router->tokenizer);
    if (st == OK)
        st = router_open_template(router);
    if (st != OK)
        return st;
    const struct tokenizer_facts *facts = tokenizer_facts(router->tokenizer);
    router_token_text(router, facts->bos_id, router->bos_text, sizeof(router->bos_text));
    router_token_text(router, facts->eos_id, router->eos_text, sizeof(router->eos_text));
    router->model_name =
        router->options->model_name != NULL ? router->options->model_name : router->model->name;
    return OK;
}

static status router_open_keys(struct router *router)
{
    const struct router_options *options = router->options;
    status st = http_keys_open(&router->keys);
    if (st == OK && options->api_key != NULL)
        st = http_keys_add(router->keys, options->api_key);
    if (st == OK && options->api_key_file != NULL)
        st = http_keys_add_file(router->keys, options->api_key_file);
    return st;
}

static status router_open_http(struct router *router)
{
    const struct router_options *options = router->options;
    struct address address;
    char text[ADDRESS_TEXT_BYTES];
    bool v6 = strchr(options->host, ':') != NULL && options->host[0] != '[';
    snprintf(text, sizeof(text), v6 ? "[%s]:%u" : "%s:%u", options->host, options->port);
    struct http_server_options http = {.body_bytes_max = (size_t)options->body_bytes,
                                       .stream_pending_bytes = (size_t)options->stream_bytes,
                                       .keys = router->keys};
    status st = address_parse(text, 0, &address);
    if (st == OK)
        st = http_server_open(router->loop, &address, &http, router_routes, router_route_count,
                              router, &router->http);
    return st;
}

static void router_fill_hello(struct router *router)
{
    struct hello *hello = &router->hello;
    hello->parts = HELLO_HAS_MODEL;
    memcpy(hello->fingerprint, router->model->fingerprint, sizeof(router->model->fingerprint));
    hello->ranks = 1;
    hello->role = HELLO_ROUTER;
    hello->incarnation = hello_incarnation_random();
    snprintf(hello->name, sizeof(hello->name), "router");
    router->next_request_id = (hello->incarnation << (64 - WIRE_ROUTER_BITS)) + 1;
}

static status router_open(struct router *router, const char *model_path)
{
    status st = router_open_model(router, model_path);
    if (st == OK)
        st = router_open_keys(router);
    if (st == OK)
        st = cluster_key_open(router->options->cluster_key, &router->key);
    if (st == OK)
        st = loop_open(&router->loop);
    if (st == OK)
        st = metrics_open(router);
    if (st == OK)
        st = mailbox_open(&router->pool_done);
    if (st == OK)
        st = task_pool_open(router->options->pool_threads, POOL_QUEUE_MAX, router->pool_done,
                            &router->pool);
    if (st == OK)
        st = loop_mailbox_open(router->loop, router->pool_done, accept_done, router,
                               &router->pool_watch);
    if (st == OK)
        st = loop_signal_open(router->loop, SIGTERM, router_on_signal, router, &router->term_watch);
    if (st == OK)
        st = loop_signal_open(router->loop, SIGINT, router_on_signal, router, &router->int_watch);
    if (st == OK)
        st = loop_timer_open(router->loop, router_tick, router, &router->tick);
    if (st != OK)
        return st;
    router->text = text_open(SCRATCH_BYTES_MAX);
    router_fill_hello(router);
    st = router_open_http(router);
    if (st == OK)
        st = health_open(router);
    return st;
}

static void router_close(struct router *router)
{
    if (router->pool != NULL)
        task_pool_close(router->pool);
    if (router->pool_done != NULL) {
        struct mail *mail = mailbox_take_all(router->pool_done);
        while (mail != NULL) {
            struct mail *next = mail->next;
            accept_done(router, mail);
            mail = next;
        }
    }
    http_server_close(router->http); /* Requests end by their on_gone. */
    if (router->model != NULL)
        health_close(router);
    loop_timer_close(router->tick);
    loop_watch_close(router->pool_watch);
    loop_watch_close(router->term_watch);
    loop_watch_close(router->int_watch);
    loop_close(router->loop);
    mailbox_close(router->pool_done);
    metrics_close(router);
    http_keys_close(router->keys);
    cluster_key_close(router->key);
    text_close(&router->text);
    wire_frame_close(&router->frame);
    chat_template_close(router->chat_template);
    free(router->template_source);
    tokenizer_close(router->tokenizer);
    weights_close(router->model);
    free(router);
}

int router_run(const char *model_path, const struct router_options *options)
{
    log_open("router", (enum log_level)log_level_parse(options->log_level));
    struct router *router = calloc(1, sizeof(*router));
    if (router == NULL || sodium_init() < 0) {
        free(router);
        log_error("router cannot start", "reason=\"no memory, or no random numbers\"");
        return 1;
    }
    json_object_seed(0); /* Before there are threads. */
    router->options = options;
    router->handoff = (enum router_handoff)router_handoff_parse(options->handoff);
    status st = router_open(router, model_path);
    if (st == OK) {
        log_info("listening", "http=%s workers=%s", http_server_address(router->http)->text,
                 link_listener_address(router->listener)->text);
        loop_timer_start(router->tick, TICK_MS);
        loop_run(router->loop);
    } else {
        log_error("router cannot start", "reason=\"%s\"", error_text());
    }
    router_close(router);
    return st == OK ? 0 : 1;
}
