/* engine/forward.h - a model's tensors in a backend, and the order of operations of one step.
 *
 *     x  [rows][width]          the residual stream
 *     h  [rows][width]          x, normed
 *     q, o  [rows][heads * d]   k, v  [rows][kv heads * d]   gate, up  [rows][ffn width]
 *     last, last_h  [outputs][width]      logits  [outputs][vocabulary]
 *
 * Threads: the compute thread. Memory: the backend owns tensors and buffers.
 */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "backend/backend.h"
#include "base/status.h"
#include "model/weights.h"

/* Optional ones are NULL where the architecture has none. */
struct forward_layer {
    struct backend_tensor *attention_norm, *wq, *wk, *wv, *bq, *bk, *bv, *q_norm, *k_norm, *wo;
    struct backend_tensor *ffn_norm, *w_gate, *w_up, *w_down;
};

struct forward {
    struct backend *backend;
    uint32_t layer_count;
    struct forward_layer *layers; /* [layer_count] */
    struct backend_tensor *embedding, *output_norm, *output;
    struct backend_buffer *x, *h, *q, *k, *v, *o, *gate, *up;
    struct backend_buffer *last, *last_h, *logits;
};

/* Hand all tensors to the backend and open the buffers. Errors: the backend's, with the tensor's
 * name; ERR_NO_MEMORY. */
status forward_open(const struct model *model, struct backend *backend,
                    struct forward *forward_out);
void forward_close(struct forward *forward);

/* Begin a step and enqueue all of its operations; step_submit is the caller's. */
void forward_enqueue(struct forward *forward, const struct step *step);

#endif
