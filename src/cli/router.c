/* baton router: the process that clients talk to, in the foreground. */
#include "router/router.h"

#include <stdio.h>

#include "base/log.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/router_options.h"

#define T struct router_options

static const struct option_spec router_rows[] = {
    MODEL_ROWS(T),
    ROUTER_ROWS(T),
    {"workers", OPTION_TEXT, "ADDR", "127.0.0.1:8001", 0, 0, offsetof(T, workers),
     "where workers connect: HOST:PORT or unix:PATH"},
    CLUSTER_KEY_ROW(T),
    {"trust-network", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, trust_network),
     "without a cluster key: let workers of other hosts connect, although they do not "
     "authenticate"},
    {"expect-workers", OPTION_UINT, "N", "1", 1, 256, offsetof(T, expect_workers),
     "/health answers 503 until so many workers are there"},
    {"pool-threads", OPTION_UINT, "N", "2", 1, 64, offsetof(T, pool_threads),
     "threads that read bodies, render templates and tokenize"},
    {"ready-fd", OPTION_TEXT, "FD", NULL, 0, 0, offsetof(T, ready_fd),
     "open descriptor that gets a line when the expected workers are there"},
    {"log-level", OPTION_TEXT, "LEVEL", "info", 0, 0, offsetof(T, log_level),
     "debug, info, warn or error"},
};

static int router_command_run(const void *options, const char *const *operands,
                              uint32_t operand_count)
{
    const struct router_options *router = options;
    (void)operand_count;
    if (log_level_parse(router->log_level) < 0) {
        fprintf(stderr,
                "baton router: --log-level is \"%s\", expected debug, info, warn or error\n",
                router->log_level);
        return EXIT_USAGE;
    }
    if (router_handoff_parse(router->handoff) < 0) {
        fprintf(stderr, "baton router: --handoff is \"%s\", expected direct, store or both\n",
                router->handoff);
        return EXIT_USAGE;
    }
    return router_run(operands[0], router);
}

const struct command_spec router_command = {
    .name = "router",
    .operands = "MODEL",
    .summary = "start the process that clients talk to",
    .details = "Serves the OpenAI API over HTTP, and gives requests to the workers that connect to "
               "it. Of the model file it reads the tokenizer and the chat template. SIGTERM: new "
               "requests are refused, those that run come to their end; a second SIGTERM ends it "
               "at once.",
    .options = router_rows,
    .option_count = sizeof(router_rows) / sizeof(router_rows[0]),
    .options_bytes = sizeof(struct router_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = router_command_run,
};
