/* baton ctl: what an operator asks of a running router: status, role, drain. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/error.h"
#include "base/loop.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "http/text.h"
#include "wire/link.h"
#include "wire/operator.h"

#define TIMEOUT_MS 10000
#define FRAME_BYTES_MAX (1u << 20)
#define TEXT_BYTES_MAX (4u << 20)

struct ctl_options {
    const char *router, *cluster_key;
    bool json;
};

#define T struct ctl_options
#define CTL_ROWS                                                                                   \
    {"router",                                                                                     \
     OPTION_TEXT,                                                                                  \
     "ADDR",                                                                                       \
     "127.0.0.1:8001",                                                                             \
     0,                                                                                            \
     0,                                                                                            \
     offsetof(T, router),                                                                          \
     "where the router listens for workers: HOST:PORT or unix:PATH"},                              \
        CLUSTER_KEY_ROW(T)

/* One question and its answer. */
struct ctl {
    struct loop *loop;
    struct loop_timer *timer;
    struct link *link;
    struct cluster_key *key;
    struct wire_frame frame;
    uint16_t ask, answer; /* frame types */
    status result;
    struct wire_changed changed;
    struct wire_status head;
    struct wire_member *members; /* [head.member_count] */
};

static void ctl_end(struct ctl *ctl, status result)
{
    ctl->result = result;
    loop_stop(ctl->loop);
}

static void ctl_on_ready(void *ctx, const struct hello *peer)
{
    struct ctl *ctl = ctx;
    status st = OK;
    if (peer->role != HELLO_ROUTER)
        st = error_set(ERR_REFUSED, "\"%s\" is a %s, expected a router", peer->name,
                       hello_role_name(peer->role));
    if (st == OK)
        st = link_send(ctl->link, ctl->ask, ctl->frame.data, (uint32_t)ctl->frame.bytes);
    if (st != OK)
        ctl_end(ctl, st);
}

static status ctl_read_status(struct ctl *ctl, const uint8_t *payload, uint32_t bytes)
{
    struct reader from = reader_over(payload, bytes);
    status st = wire_status_decode(&from, &ctl->head);
    if (st != OK)
        return st;
    ctl->members = calloc(ctl->head.member_count + 1, sizeof(*ctl->members));
    if (ctl->members == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u workers", ctl->head.member_count);
    for (uint32_t i = 0; st == OK && i < ctl->head.member_count; i++)
        st = wire_member_decode(&from, &ctl->members[i]);
    return st;
}

static void ctl_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct ctl *ctl = ctx;
    struct wire_failed failed;
    status st;
    if (type == WIRE_FAILED && wire_failed_decode(payload, bytes, &failed) == OK)
        st = error_set(ERR_REFUSED, "%s", failed.text);
    else if (type != ctl->answer)
        st = error_set(ERR_BAD_INPUT, "the router answers with a frame of type 0x%04x", type);
    else if (type == WIRE_STATUS)
        st = ctl_read_status(ctl, payload, bytes);
    else
        st = wire_changed_decode(payload, bytes, &ctl->changed);
    if (st == OK && ctl->changed.status != OK)
        st = error_set(ERR_REFUSED, "%s", ctl->changed.text);
    ctl_end(ctl, st);
}

static void ctl_on_close(void *ctx, status cause)
{
    struct ctl *ctl = ctx;
    ctl->link = NULL;
    ctl_end(ctl, cause);
}

static void ctl_on_timer(void *ctx)
{
    ctl_end(ctx,
            error_set(ERR_TIMEOUT, "the router did not answer within %u s", TIMEOUT_MS / 1000));
}

static const struct link_calls ctl_calls = {
    .on_ready = ctl_on_ready, .on_frame = ctl_on_frame, .on_close = ctl_on_close};

/* Send ctl->frame and wait for the answer. */
static status ctl_run(struct ctl *ctl, const struct ctl_options *options)
{
    struct address address;
    const struct hello hello = {.role = HELLO_OPERATOR,
                                .ranks = 1,
                                .incarnation = hello_incarnation_random(),
                                .name = "operator"};
    status st = cluster_key_open(options->cluster_key, &ctl->key);
    if (st == OK)
        st = address_parse(options->router, 8001, &address);
    if (st == OK)
        st = loop_open(&ctl->loop);
    if (st == OK)
        st = loop_timer_open(ctl->loop, ctl_on_timer, ctl, &ctl->timer);
    const struct link_setup setup = {
        .calls = &ctl_calls,
        .ctx = ctl,
        .hello = &hello,
        .key = ctl->key,
        .limits = {.payload_bytes_max = FRAME_BYTES_MAX, .pending_bytes_max = FRAME_BYTES_MAX}};
    if (st == OK)
        st = link_connect(ctl->loop, &address, TIMEOUT_MS, &setup, &ctl->link);
    if (st != OK)
        return st;
    loop_timer_start(ctl->timer, TIMEOUT_MS);
    loop_run(ctl->loop);
    return ctl->result;
}

static int ctl_close(struct ctl *ctl, const struct ctl_options *options, status result)
{
    if (result != OK)
        fprintf(stderr, "baton ctl: %s: %s\n", options->router, error_text());
    link_close(ctl->link);
    loop_timer_close(ctl->timer);
    if (ctl->loop != NULL)
        loop_close(ctl->loop);
    cluster_key_close(ctl->key);
    wire_frame_close(&ctl->frame);
    free(ctl->members);
    return result == OK ? EXIT_OK : EXIT_FAILED;
}

/* ---- status ---- */

static const char *ctl_role(uint32_t roles)
{
    return roles == WIRE_ROLE_PREFILL ? "prefill" : roles == WIRE_ROLE_DECODE ? "decode" : "both";
}

static uint64_t member_held(const struct wire_member *m)
{
    return m->beat.blocks_referenced + m->beat.blocks_reserved + m->beat.blocks_swapped +
           m->beat.sequences_preempted;
}

/* Every block is in one state. */
static bool member_adds_up(const struct wire_member *m)
{
    return m->beat.blocks_free + m->beat.blocks_cached + m->beat.blocks_referenced +
               m->beat.blocks_reserved ==
           m->registration.block_count;
}

static void member_print(const struct wire_member *m)
{
    const struct wire_heartbeat *b = &m->beat;
    const struct wire_register *r = &m->registration;
    printf("%-16s %-8s %-8s %016" PRIx64 "\n", r->name, ctl_role(r->roles),
           m->leaving != 0 ? "leaving" : "ready", r->incarnation);
    printf("  blocks      %" PRIu64 " free, %" PRIu64 " cached, %" PRIu64 " referenced, %" PRIu64
           " reserved of %u; %" PRIu64 " swapped out%s\n",
           b->blocks_free, b->blocks_cached, b->blocks_referenced, b->blocks_reserved,
           r->block_count, b->blocks_swapped, member_adds_up(m) ? "" : "  DO NOT ADD UP");
    printf("  sequences   %" PRIu64 " running, %" PRIu64 " waiting, %" PRIu64
           " preempted; %u placed here and %" PRIu64 " prompt tokens queued by this router\n",
           b->sequences_running, b->sequences_waiting, b->sequences_preempted, m->decoding,
           m->queued_tokens);
    printf("  moving      %" PRIu64 " leases, %" PRIu64 " lendings\n", b->leases, b->lendings);
    printf("  done        %" PRIu64 " prompt tokens computed, %" PRIu64 " decoded, %" PRIu64
           " recomputed; %" PRIu64 " ms ago\n",
           b->prefill_tokens, b->decode_tokens, b->recomputed_tokens, (uint64_t)m->beat_age_ms);
}

static void status_print(const struct ctl *ctl)
{
    const struct wire_status *s = &ctl->head;
    bool at_rest = true, adds_up = true;
    printf("router %016" PRIx64 "%s: %u requests, %u of them wait for their first token; %" PRIu64
           " failovers\n",
           s->incarnation, s->draining != 0 ? " (draining)" : "", s->requests, s->waiting,
           s->failovers);
    printf("directory: %" PRIu64 " keys, %" PRIu64 " gaps repaired\n", s->directory_keys,
           s->directory_repairs);
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct wire_member *m = &ctl->members[i];
        member_print(m);
        at_rest = at_rest && member_held(m) + m->beat.leases + m->beat.lendings == 0;
        adds_up = adds_up && member_adds_up(m);
    }
    printf("%u workers; %s; %s\n", s->member_count,
           at_rest ? "nothing is referenced, reserved or swapped out" : "blocks are in use",
           adds_up ? "all blocks add up" : "BLOCKS DO NOT ADD UP");
}

static void member_json(struct text *text, const struct wire_member *m)
{
    const struct wire_heartbeat *b = &m->beat;
    const struct wire_register *r = &m->registration;
    text_put(text, "{\"worker\": ");
    text_json_string(text, r->name, strlen(r->name));
    text_format(text,
                ", \"role\": \"%s\", \"incarnation\": \"%016" PRIx64
                "\", \"state\": \"%s\", \"pid\": %u, \"heartbeat_ms\": %u, ",
                ctl_role(r->roles), r->incarnation, m->leaving != 0 ? "leaving" : "ready", r->pid,
                m->beat_age_ms);
    text_format(text,
                "\"blocks\": {\"total\": %u, \"free\": %" PRIu64 ", \"cached\": %" PRIu64
                ", \"referenced\": %" PRIu64 ", \"reserved\": %" PRIu64 ", \"swapped\": %" PRIu64
                "}, ",
                r->block_count, b->blocks_free, b->blocks_cached, b->blocks_referenced,
                b->blocks_reserved, b->blocks_swapped);
    text_format(
        text,
        "\"sequences\": {\"running\": %" PRIu64 ", \"waiting\": %" PRIu64
        ", \"preempted\": %" PRIu64 "}, \"leases\": %" PRIu64 ", \"lendings\": %" PRIu64 ", ",
        b->sequences_running, b->sequences_waiting, b->sequences_preempted, b->leases, b->lendings);
    text_format(text,
                "\"placed_sequences\": %u, \"queued_tokens\": %" PRIu64
                ", \"prefill_tokens\": %" PRIu64 ", \"decode_tokens\": %" PRIu64
                ", \"recomputed_tokens\": %" PRIu64 ", \"held\": %" PRIu64 ", \"adds_up\": %s}",
                m->decoding, m->queued_tokens, b->prefill_tokens, b->decode_tokens,
                b->recomputed_tokens, member_held(m), member_adds_up(m) ? "true" : "false");
}

static status status_json(const struct ctl *ctl)
{
    const struct wire_status *s = &ctl->head;
    struct text text = text_open(TEXT_BYTES_MAX);
    text_format(&text,
                "{\"router\": \"%016" PRIx64 "\", \"draining\": %s, \"requests\": %u, "
                "\"waiting\": %u, \"failovers\": %" PRIu64 ", \"directory_keys\": %" PRIu64
                ", \"directory_repairs\": %" PRIu64 ", \"workers\": [",
                s->incarnation, s->draining != 0 ? "true" : "false", s->requests, s->waiting,
                s->failovers, s->directory_keys, s->directory_repairs);
    for (uint32_t i = 0; i < s->member_count; i++) {
        text_put(&text, i > 0 ? ", " : "");
        member_json(&text, &ctl->members[i]);
    }
    text_put(&text, "]}\n");
    status st = text_ok(&text) ? OK : error_set(ERR_NO_MEMORY, "no memory for the status");
    if (st == OK)
        fputs(text.data, stdout);
    text_close(&text);
    return st;
}

static int ctl_status_run(const void *given, const char *const *operands, uint32_t operand_count)
{
    const struct ctl_options *options = given;
    struct ctl ctl = {.ask = WIRE_STATUS_ASK, .answer = WIRE_STATUS};
    (void)operands, (void)operand_count;
    status st = ctl_run(&ctl, options);
    if (st == OK && options->json)
        st = status_json(&ctl);
    else if (st == OK)
        status_print(&ctl);
    return ctl_close(&ctl, options, st);
}

static const struct option_spec status_rows[] = {
    CTL_ROWS,
    {"json", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, json), "print JSON, for programs"},
};

const struct command_spec ctl_status_command = {
    .name = "ctl status",
    .operands = "",
    .summary = "print the workers of a router: role, blocks, load",
    .details = "Blocks are free, cached (prefix cache), referenced (in use) or reserved (being "
               "filled), and add up to the pool. With no request running, none is referenced or "
               "reserved. Numbers are those of the last heartbeat.",
    .options = status_rows,
    .option_count = sizeof(status_rows) / sizeof(status_rows[0]),
    .options_bytes = sizeof(struct ctl_options),
    .run = ctl_status_run,
};

/* ---- role, drain ---- */

static int ctl_change(const struct ctl_options *options, const struct wire_change *change)
{
    struct ctl ctl = {.ask = WIRE_CHANGE, .answer = WIRE_CHANGED};
    wire_change_encode(&ctl.frame, change);
    return ctl_close(&ctl, options, ctl_run(&ctl, options));
}

static bool ctl_worker(const char *name, struct wire_change *change)
{
    if (strlen(name) < sizeof(change->worker) && name[0] != '\0') {
        memcpy(change->worker, name, strlen(name) + 1);
        return true;
    }
    fprintf(stderr, "baton ctl: \"%s\" is no name of a worker: expected 1 to %zu characters\n",
            name, sizeof(change->worker) - 1);
    return false;
}

static int ctl_role_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct wire_change change = {.action = WIRE_CHANGE_ROLES};
    const char *role = operand_count == 2 ? operands[1] : "";
    change.roles = strcmp(role, "prefill") == 0  ? WIRE_ROLE_PREFILL
                   : strcmp(role, "decode") == 0 ? WIRE_ROLE_DECODE
                   : strcmp(role, "both") == 0   ? WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE
                                                 : 0;
    if (change.roles == 0) {
        fprintf(stderr, "baton ctl role: the role is \"%s\", expected prefill, decode or both\n",
                role);
        return EXIT_USAGE;
    }
    return ctl_worker(operands[0], &change) ? ctl_change(options, &change) : EXIT_USAGE;
}

static int ctl_drain_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct wire_change change = {.action = WIRE_CHANGE_DRAIN};
    (void)operand_count;
    return ctl_worker(operands[0], &change) ? ctl_change(options, &change) : EXIT_USAGE;
}

static const struct option_spec change_rows[] = {CTL_ROWS};

const struct command_spec ctl_role_command = {
    .name = "ctl role",
    .operands = "WORKER prefill|decode|both",
    .summary = "change the role of a running worker",
    .details = "What runs there comes to its end, its blocks stay, and new requests are placed by "
               "the new role at once. A worker that is started again has the role that it was "
               "started with.",
    .options = change_rows,
    .option_count = sizeof(change_rows) / sizeof(change_rows[0]),
    .options_bytes = sizeof(struct ctl_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = ctl_role_run,
};

const struct command_spec ctl_drain_command = {
    .name = "ctl drain",
    .operands = "WORKER",
    .summary = "have a worker finish what it has, and end",
    .details = "The worker gets no new requests, from any of its routers, and ends when its last "
               "one is done, as at SIGTERM. `baton serve` starts its own workers again.",
    .options = change_rows,
    .option_count = sizeof(change_rows) / sizeof(change_rows[0]),
    .options_bytes = sizeof(struct ctl_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = ctl_drain_run,
};
