/* worker/compute.h - the compute thread: the only one that touches engine, pool and schedulers.
 *
 *     for ever: take mail, plan a step of decode rows and prompt chunks, run it, emit
 *
 * Threads:  compute_run is the thread's body; it ends after WORKER_STOP.
 * Memory:   engine, tree and schedulers belong to the thread while it runs.
 */
#ifndef WORKER_COMPUTE_H
#define WORKER_COMPUTE_H

#include "base/cpus.h"
#include "base/mailbox.h"
#include "base/status.h"
#include "decode/decode.h"
#include "engine/engine.h"
#include "prefill/prefill.h"
#include "worker/worker.h"

struct store;
struct transfer;
struct compute;

struct compute_setup {
    const struct worker_options *options;
    const struct model *model;
    struct engine *engine;
    struct prefix_tree *tree;
    struct transfer *transfer;
    struct store *store; /* reports come to in; NULL: none */
    struct mailbox *in;  /* from the loop thread and from the transfer thread */
    struct mailbox *out; /* to the loop thread */
};

status compute_open(const struct compute_setup *setup, struct compute **compute_out);

/* Until WORKER_STOP. */
void compute_run(struct compute *compute);
void compute_close(struct compute *compute);

#endif
