/* tests/sim/sim_client.h - clients of the routers: they ask, wait or leave, and compare every piece
 * of what they are sent with what an undisturbed worker would have said.
 */
#ifndef TESTS_SIM_CLIENT_H
#define TESTS_SIM_CLIENT_H

#include "fake_http.h"
#include "sim_control.h"

#define CLIENTS_MAX 24

struct sim_client {
    struct net_client net; /* first */
    uint32_t router;
    bool arrived;
    bool poison; /* its prompt takes workers down */
    bool failed;
    char failure[64]; /* the error's code */
    uint32_t prompts, n, max_tokens;
    uint64_t seed;
    uint32_t prompt[2][200], prompt_tokens[2];
    struct block_key keys[200 / SIM_BLOCK_TOKENS]; /* of the first prompt */
    uint32_t key_count;
    uint64_t arrived_ns, ended_ns;
};

/* A router's process; another one takes its place when it dies. */
struct sim_router {
    struct router *router; /* NULL: dead */
    struct router_options options;
    uint64_t lives;
};

static struct {
    struct sim_router routers[SIM_ROUTERS_MAX];
    struct sim_client clients[CLIENTS_MAX];
    uint32_t client_count;
    uint32_t harm_count; /* of this world */
    struct model *model;
    struct tokenizer *tokenizer;
    uint64_t answers, errors, left, refused, pings; /* of all worlds */
    uint64_t codes[4];
} world;

static const char *const known_errors[] = {"no_workers", "handoff_failed", "crashes_workers",
                                           "timeout"};
#define KNOWN_ERRORS (sizeof(known_errors) / sizeof(known_errors[0]))

static void client_prompt(struct sim_client *c, uint32_t which)
{
    /* Shared beginnings, so that there is something to lend. */
    uint32_t shared = net_below(4), count = 0;
    for (; count < 32 * shared; count++)
        c->prompt[which][count] = 20 + (count * 7 + shared) % 250;
    uint32_t own = 1 + net_below(70);
    for (uint32_t i = 0; i < own; i++)
        c->prompt[which][count++] = 20 + net_below(250);
    c->prompt_tokens[which] = count;
}

static char *client_body(struct sim_client *c)
{
    struct text text = text_open(1u << 20);
    text_put(&text, "{\"prompt\": [");
    for (uint32_t p = 0; p < c->prompts; p++) {
        text_put(&text, p > 0 ? ", [" : "[");
        for (uint32_t i = 0; i < c->prompt_tokens[p]; i++)
            text_format(&text, i > 0 ? ", %u" : "%u", c->prompt[p][i]);
        text_put(&text, "]");
    }
    text_format(&text,
                "], \"max_tokens\": %u, \"n\": %u, \"seed\": %llu, \"temperature\": 1, "
                "\"ignore_eos\": true, \"stream\": %s}",
                c->max_tokens, c->n, (unsigned long long)c->seed,
                net_chance(800) ? "true" : "false");
    return text.data;
}

static void client_arrive(struct net_event *event)
{
    struct sim_client *c = event->subject;
    struct router *router = world.routers[c->router].router;
    c->arrived = true;
    c->arrived_ns = c->ended_ns = c->net.heard_ns = net.now_ns;
    if (router == NULL) { /* its connection is refused */
        c->net.over = c->net.left = true;
        world.refused++;
        return;
    }
    c->prompts = 1 + net_chance(150);
    c->n = net_chance(250) ? 2 + net_below(2) : 1;
    c->max_tokens = net_chance(100) ? 1 : 2 + net_below(40);
    c->seed = 1 + net_below(1000000);
    for (uint32_t p = 0; p < c->prompts; p++)
        client_prompt(c, p);
    if (c->poison) {
        c->prompt[0][0] = SIM_POISON;
        c->prompt_tokens[0] = SIM_CHUNK + 32; /* two steps of it */
    }
    c->key_count =
        block_key_chain(&sim.root, c->prompt[0], c->prompt_tokens[0], SIM_BLOCK_TOKENS, c->keys);
    c->net.body = client_body(c);
    c->net.http = (struct http_request){.method = "POST",
                                        .path = "/v1/completions",
                                        .query = "",
                                        .started_ns = net.now_ns,
                                        .peer = "sim"};
    c->net.streamed = text_open(4u << 20);
    for (uint32_t i = 0; i < router_route_count; i++) {
        if (strcmp(router_routes[i].path, "/v1/completions") == 0)
            router_routes[i].on_request(router, &c->net.http);
    }
}

/* What these tokens are as text; all of it, or what surely stays when more come. */
static void text_of(const uint32_t *tokens, uint32_t count, bool all, struct text *text)
{
    struct detokenizer detokenizer;
    char piece[DETOKENIZER_PIECE_BYTES_MAX];
    size_t bytes;
    detokenizer_open(world.tokenizer, DETOKENIZER_SKIP_SPECIAL, &detokenizer);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(detokenizer_push(&detokenizer, tokens[i], piece, &bytes), OK);
        text_add(text, piece, bytes);
    }
    if (!all)
        return;
    detokenizer_flush(&detokenizer, piece, &bytes);
    text_add(text, piece, bytes);
}

/* Text of a choice in what the client was sent: of a stream all its pieces. */
static void add_choice_text(struct text *text, const char *json, size_t bytes, uint32_t choice)
{
    json_t *root = json_loadb(json, bytes, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    json_t *choices = json_object_get(root, "choices");
    for (size_t i = 0; i < json_array_size(choices); i++) {
        json_t *one = json_array_get(choices, i);
        if ((uint32_t)json_integer_value(json_object_get(one, "index")) == choice)
            text_add(text, json_string_value(json_object_get(one, "text")),
                     json_string_length(json_object_get(one, "text")));
    }
    json_decref(root);
}

static void said_text(const struct sim_client *c, const char *body, size_t bytes, uint32_t choice,
                      struct text *text)
{
    if (!c->net.begun) {
        add_choice_text(text, body, bytes, choice);
        return;
    }
    for (const char *at = strstr(body, "data: {"); at != NULL; at = strstr(at, "data: {")) {
        const char *end = strchr(at, '\n');
        assert_non_null(end);
        add_choice_text(text, at + 6, (size_t)(end - at - 6), choice);
        at = end;
    }
}

/* The tokens that the router has of it, and the text that the client has of it, are the beginning
 * of what they should be; whole: all of it. */
static void client_check_choice(const struct sim_client *c, const struct sequence *sequence,
                                uint32_t prompt, const char *body, size_t bytes, bool whole)
{
    uint32_t tokens[SIM_TOKENS_MAX], count = sequence->token_count;
    for (uint32_t i = 0; i < c->max_tokens; i++)
        tokens[i] = sim_token(c->prompt[prompt], c->prompt_tokens[prompt], tokens, i, c->seed,
                              sequence->choice);
    assert_true(whole ? count == c->max_tokens : count <= c->max_tokens);
    assert_int_equal(sequence->given.count, count);
    if (count > 0)
        assert_memory_equal(sequence->given.ids, tokens, count * sizeof(*tokens));
    if (!whole && !c->net.begun)
        return;
    struct text want = text_open(1u << 20), got = text_open(1u << 20);
    text_put(&want, "");
    text_put(&got, "");
    bool ended = count == c->max_tokens;
    text_of(tokens, count, ended, &want);
    said_text(c, body, bytes, sequence->choice, &got);
    assert_int_equal(want.bytes, got.bytes);
    if (want.bytes > 0)
        assert_memory_equal(want.data, got.data, want.bytes);
    text_close(&want);
    text_close(&got);
}

static void client_check(const struct sim_client *c, const char *body, size_t bytes, bool whole)
{
    const struct answer *answer = world.routers[c->router].router->answers;
    while (answer != NULL && answer->http != &c->net.http)
        answer = answer->next;
    if (answer == NULL || answer->requests == NULL) {
        assert_false(whole);
        return;
    }
    for (uint32_t p = 0; p < c->prompts; p++) {
        for (uint32_t k = 0; k < c->n && answer->requests[p].sequences != NULL; k++)
            client_check_choice(c, &answer->requests[p].sequences[k], p, body, bytes, whole);
    }
}

static void client_note_error(struct sim_client *c, const char *body)
{
    const char *at = strstr(body, "\"code\":\"");
    c->failed = true;
    snprintf(c->failure, sizeof(c->failure), "%.*s", at != NULL ? (int)strcspn(at + 8, "\"") : 4,
             at != NULL ? at + 8 : "none");
    world.errors++;
    for (uint32_t i = 0; i < KNOWN_ERRORS; i++)
        world.codes[i] += strcmp(c->failure, known_errors[i]) == 0;
}

static void client_ended(struct net_client *client, const char *body, size_t bytes)
{
    struct sim_client *c = (struct sim_client *)client;
    bool whole = client->code == 200 && strstr(body, "\"error\"") == NULL;
    c->ended_ns = net.now_ns;
    world.pings += client->pings;
    net_trace(body, bytes);
    client_check(c, body, bytes, whole);
    if (whole)
        world.answers++;
    else
        client_note_error(c, body);
}

/* It hangs up, or its router is gone. */
static void client_cut(struct sim_client *c)
{
    if (!c->arrived || c->net.over || c->net.on_gone == NULL)
        return;
    client_check(c, c->net.streamed.data, c->net.streamed.bytes, false);
    c->net.over = c->net.left = true;
    c->ended_ns = net.now_ns;
    c->net.on_gone(c->net.gone_ctx);
}

static void client_leave(struct net_event *event)
{
    client_cut(event->subject);
}

#endif
