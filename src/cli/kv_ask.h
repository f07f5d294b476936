/* cli/kv_ask.h - a question to a running store, and its answer: what the kv commands are made of.
 *
 * Threads: one. Memory: kv_close frees what a question took.
 */
#ifndef CLI_KV_ASK_H
#define CLI_KV_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "cli/cluster_options.h"
#include "wire/control.h"
#include "wire/link.h"
#include "wire/store.h"

#define KV_TIMEOUT_MS 10000
#define KEY_BYTES WIRE_STORE_KEY_BYTES

struct kv_options {
    const char *store, *store_password_file, *cluster_key, *fingerprint;
    const char *transfer_tcp, *transfer_advertise;
    bool tree, all, trust_network;
};

#define KV_ROWS(T)                                                                                 \
    {"store",                                                                                      \
     OPTION_TEXT,                                                                                  \
     "ADDR",                                                                                       \
     "127.0.0.1:8002",                                                                             \
     0,                                                                                            \
     0,                                                                                            \
     offsetof(T, store),                                                                           \
     "where the store listens: HOST:PORT or unix:PATH; or redis://..."},                           \
        STORE_PASSWORD_ROW(T), CLUSTER_KEY_ROW(T)

/* One question. */
struct kv {
    struct loop *loop;
    struct loop_timer *timer;
    struct link *link;
    struct cluster_key *key;
    struct wire_frame frame;
    uint16_t ask, answer; /* frame types */
    status result;
    struct hello peer; /* the store */
    uint8_t *payload;
    uint32_t bytes;
};

/* Send kv->frame, of type kv->ask, and wait for kv->answer in kv->payload. Errors: the link's,
 * ERR_REFUSED (no store listens there), ERR_TIMEOUT. */
status kv_run(struct kv *kv, const struct kv_options *options);

/* Say on standard error what went wrong with `baton kv NAME`, if anything did; the exit code. */
int kv_close(struct kv *kv, const char *name, status result);

/* Hex digits, all of them. Errors: ERR_BAD_INPUT, which names what. */
status kv_read_hex(const char *text, const char *what, uint8_t *bytes, size_t count);

#endif
