/* cli/router_options.h - the options that serve and router share, as rows of their tables. */
#ifndef CLI_ROUTER_OPTIONS_H
#define CLI_ROUTER_OPTIONS_H

#include <stddef.h>

#include "base/options.h"

/* T: a struct whose fields bear the names, and have the types, of struct router_options. */
#define ROUTER_ROWS(T)                                                                             \
    {"host",                                                                                       \
     OPTION_TEXT,                                                                                  \
     "HOST",                                                                                       \
     "127.0.0.1",                                                                                  \
     0,                                                                                            \
     0,                                                                                            \
     offsetof(T, host),                                                                            \
     "address to serve HTTP on; one that is not loopback needs an API key"},                       \
        {"port",                                                                                   \
         OPTION_UINT,                                                                              \
         "PORT",                                                                                   \
         "8000",                                                                                   \
         0,                                                                                        \
         65535,                                                                                    \
         offsetof(T, port),                                                                        \
         "port to serve HTTP on; 0: any"},                                                         \
        {"model-name",                                                                             \
         OPTION_TEXT,                                                                              \
         "NAME",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, model_name),                                                                  \
         "the model's name for clients; unset: the one in the model file"},                        \
        {"api-key",                                                                                \
         OPTION_TEXT,                                                                              \
         "KEY",                                                                                    \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, api_key),                                                                     \
         "key that clients must send; better in a file, where other users cannot see it"},         \
        {"api-key-file",                                                                           \
         OPTION_TEXT,                                                                              \
         "FILE",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, api_key_file),                                                                \
         "file with one accepted key a line"},                                                     \
        {"queue",                                                                                  \
         OPTION_UINT,                                                                              \
         "REQUESTS",                                                                               \
         "256",                                                                                    \
         1,                                                                                        \
         65536,                                                                                    \
         offsetof(T, queue),                                                                       \
         "most requests that wait for their first token; more are answered 429"},                  \
        {"local-tokens",                                                                           \
         OPTION_UINT,                                                                              \
         "TOKENS",                                                                                 \
         "0",                                                                                      \
         0,                                                                                        \
         1048576,                                                                                  \
         offsetof(T, local_tokens),                                                                \
         "most of a prompt that is computed on the decode worker that holds the rest of it"},      \
        {"handoff",                                                                                \
         OPTION_TEXT,                                                                              \
         "WAY",                                                                                    \
         "both",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, handoff),                                                                     \
         "how a prompt's blocks get to another worker that decodes it: direct; store (the two "    \
         "never connect); both: direct, and by the store where that does not work"},               \
        {"place",                                                                                  \
         OPTION_CHOICE,                                                                            \
         "auto|prefill|pull|decode",                                                               \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, place),                                                                       \
         "where a prompt is computed: auto (what is predicted to have its first token soonest), "  \
         "or, "                                                                                    \
         "to measure one way, wherever there is that way: prefill (a prefill worker, from what "   \
         "it has), "                                                                               \
         "pull (the same, with blocks that another one holds), decode (the decode worker that "    \
         "holds "                                                                                  \
         "its beginning, within --local-tokens)"},                                                 \
        {"crashes",                                                                                \
         OPTION_UINT,                                                                              \
         "WORKERS",                                                                                \
         "3",                                                                                      \
         0,                                                                                        \
         1000000,                                                                                  \
         offsetof(T, crashes),                                                                     \
         "a request fails when so many workers died while they computed it, one after another, "   \
         "with no token in between; 0: never"},                                                    \
        {"body-bytes",                                                                             \
         OPTION_BYTES,                                                                             \
         "BYTES",                                                                                  \
         "16M",                                                                                    \
         1024,                                                                                     \
         1073741824,                                                                               \
         offsetof(T, body_bytes),                                                                  \
         "largest request body"},                                                                  \
        {"stream-bytes",                                                                           \
         OPTION_BYTES,                                                                             \
         "BYTES",                                                                                  \
         "1M",                                                                                     \
         4096,                                                                                     \
         1073741824,                                                                               \
         offsetof(T, stream_bytes),                                                                \
         "most output that a slow client may leave unread before it is cut"},                      \
        {"request-timeout",                                                                        \
         OPTION_SECONDS,                                                                           \
         "TIME",                                                                                   \
         "10m",                                                                                    \
         1000,                                                                                     \
         86400000,                                                                                 \
         offsetof(T, request_timeout_ms),                                                          \
         "longest time without progress of a request; then it fails with 504"},                    \
        {"silence",                                                                                \
         OPTION_SECONDS,                                                                           \
         "TIME",                                                                                   \
         "1s",                                                                                     \
         50,                                                                                       \
         3600000,                                                                                  \
         offsetof(T, silence_ms),                                                                  \
         "a worker that is silent for so long is dead"},                                           \
        {"stuck",                                                                                  \
         OPTION_SECONDS,                                                                           \
         "TIME",                                                                                   \
         "60s",                                                                                    \
         50,                                                                                       \
         3600000,                                                                                  \
         offsetof(T, stuck_ms),                                                                    \
         "a worker that has work and makes no step for so long is dead"},                          \
    {                                                                                              \
        "drain", OPTION_SECONDS, "TIME", "10m", 0, 86400000, offsetof(T, drain_ms),                \
            "at SIGTERM, the longest wait for requests that run"                                   \
    }

#endif
