/* worker/lend.h - blocks that others fetch by their content.
 *
 *     router --lend(lease, keys)--> lend_take    longest leading run in the own tree, referenced
 *                                                and offered: all layers, complete
 *     asker  ======= fetches =====>
 *     HOLDER_DONE ----------------> lend_released    references dropped
 *
 * When another one lends the same (wire_lend.again), the asker may come back for what that one did
 * not deliver: it is over when the router says so.
 *
 * It belongs to no role: whoever has blocks lends them. A lending of which nothing is here is
 * complete with what there is, so that the asker knows at once.
 *
 * Threads:  the compute thread.
 * Memory:   at most LEND_MAX lendings, and half of the pool held by them; more are refused, and the
 *           asker computes.
 */
#ifndef WORKER_LEND_H
#define WORKER_LEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/prefix_tree.h"
#include "transfer/transfer.h"
#include "wire/control.h"

#define LEND_MAX 256

struct lend;

/* Errors: ERR_NO_MEMORY. */
status lend_open(struct prefix_tree *tree, uint32_t block_count, uint32_t layer_count,
                 struct transfer *transfer, struct lend **lend_out);
/* All lendings must be over: lend_end_all, then wait for lend_idle. */
void lend_close(struct lend *lend);

/* Match, hold, offer. Errors (a message is set; the asker hears nothing and gives up in its own
 * time): ERR_FULL, ERR_NO_MEMORY. */
status lend_take(struct lend *lend, const struct wire_lend *message);

/* What was lent for this request is not wanted any more. */
void lend_end(struct lend *lend, uint64_t request_id);
void lend_end_all(struct lend *lend);
void lend_end_router(struct lend *lend, uint32_t router); /* all that this router asked for */

/* A HOLDER_DONE; true when it was one of ours. */
bool lend_released(struct lend *lend, const struct transfer_report *report);

bool lend_idle(const struct lend *lend);
uint32_t lend_count(const struct lend *lend);          /* open now */
uint64_t lend_fetched_blocks(const struct lend *lend); /* acknowledged, since open */

#endif
