#include "cli/kv_ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/commands.h"
#include "store/redis_url.h"

static void kv_end(struct kv *kv, status result)
{
    kv->result = result;
    loop_stop(kv->loop);
}

static void kv_on_ready(void *ctx, const struct hello *peer)
{
    struct kv *kv = ctx;
    if (peer->role != HELLO_STORE) {
        kv_end(kv, error_set(ERR_REFUSED, "\"%s\" is a %s, expected a store", peer->name,
                             hello_role_name(peer->role)));
        return;
    }
    kv->peer = *peer;
    status st = link_send(kv->link, kv->ask, kv->frame.data, (uint32_t)kv->frame.bytes);
    if (st != OK)
        kv_end(kv, st);
}

static void kv_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct kv *kv = ctx;
    if (type != kv->answer) {
        kv_end(kv, error_set(ERR_BAD_INPUT, "the store answers with a frame of type 0x%04x", type));
        return;
    }
    kv->payload = malloc((size_t)bytes + 1);
    if (kv->payload == NULL) {
        kv_end(kv, error_set(ERR_NO_MEMORY, "no memory for the answer"));
        return;
    }
    memcpy(kv->payload, payload, bytes);
    kv->bytes = bytes;
    kv_end(kv, OK);
}

static void kv_on_close(void *ctx, status cause)
{
    struct kv *kv = ctx;
    kv->link = NULL;
    kv_end(kv, cause);
}

static void kv_on_timer(void *ctx)
{
    kv_end(ctx,
           error_set(ERR_TIMEOUT, "the store did not answer within %u s", KV_TIMEOUT_MS / 1000));
}

static const struct link_calls kv_calls = {
    .on_ready = kv_on_ready, .on_frame = kv_on_frame, .on_close = kv_on_close};

status kv_run(struct kv *kv, const struct kv_options *options)
{
    struct address address;
    const struct hello hello = {.role = HELLO_OPERATOR,
                                .ranks = 1,
                                .incarnation = hello_incarnation_random(),
                                .name = "operator"};
    status st = redis_url_check_file(options->store, options->store_password_file);
    if (st == OK)
        st = cluster_key_open(options->cluster_key, &kv->key);
    if (st == OK)
        st = address_parse(options->store, 0, &address);
    if (st == OK)
        st = loop_open(&kv->loop);
    if (st == OK)
        st = loop_timer_open(kv->loop, kv_on_timer, kv, &kv->timer);
    const struct link_setup setup = {.calls = &kv_calls,
                                     .ctx = kv,
                                     .hello = &hello,
                                     .key = kv->key,
                                     .limits = {.payload_bytes_max = WIRE_STORE_PAYLOAD_BYTES_MAX,
                                                .pending_bytes_max = 16u << 20}};
    if (st == OK)
        st = link_connect(kv->loop, &address, KV_TIMEOUT_MS, &setup, &kv->link);
    if (st != OK)
        return st;
    loop_timer_start(kv->timer, KV_TIMEOUT_MS);
    loop_run(kv->loop);
    return kv->result;
}

int kv_close(struct kv *kv, const char *name, status result)
{
    if (result != OK)
        fprintf(stderr, "baton kv %s: %s\n", name, error_text());
    link_close(kv->link);
    loop_timer_close(kv->timer);
    if (kv->loop != NULL)
        loop_close(kv->loop);
    cluster_key_close(kv->key);
    wire_frame_close(&kv->frame);
    free(kv->payload);
    return result == OK ? EXIT_OK : EXIT_FAILED;
}

status kv_read_hex(const char *text, const char *what, uint8_t *bytes, size_t count)
{
    bool ok = strlen(text) == 2 * count;
    for (size_t i = 0; ok && i < count; i++) {
        unsigned value;
        char two[3] = {text[2 * i], text[2 * i + 1], '\0'}, left;
        ok = two[0] != ' ' && two[0] != '+' && two[0] != '-' &&
             sscanf(two, "%2x%c", &value, &left) == 1;
        bytes[i] = ok ? (uint8_t)value : 0;
    }
    return ok ? OK
              : error_set(ERR_BAD_INPUT, "%s is \"%s\", expected %zu hexadecimal digits", what,
                          text, 2 * count);
}
