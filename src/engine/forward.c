#include "engine/forward.h"

#include <stdlib.h>

#include "base/error.h"

static status tensor_open(struct backend *backend, const struct model_tensor *tensor,
                          struct backend_tensor **tensor_out)
{
    if (tensor->rows == 0) { /* this architecture has none */
        *tensor_out = NULL;
        return OK;
    }
    const struct backend_weight weight = {
        .name = tensor->name,
        .type = tensor->type,
        .rows = tensor->rows,
        .columns = tensor->columns,
        .data = tensor->data,
        .synthetic = tensor->synthetic,
    };
    return backend->calls->tensor_open(backend, &weight, tensor_out);
}

static status layer_open(struct backend *backend, const struct model_layer *from,
                         struct forward_layer *to)
{
    const struct {
        const struct model_tensor *from;
        struct backend_tensor **to;
    } tensors[] = {
        {&from->attention_norm, &to->attention_norm},
        {&from->wq, &to->wq},
        {&from->wk, &to->wk},
        {&from->wv, &to->wv},
        {&from->bq, &to->bq},
        {&from->bk, &to->bk},
        {&from->bv, &to->bv},
        {&from->q_norm, &to->q_norm},
        {&from->k_norm, &to->k_norm},
        {&from->wo, &to->wo},
        {&from->ffn_norm, &to->ffn_norm},
        {&from->w_gate, &to->w_gate},
        {&from->w_up, &to->w_up},
        {&from->w_down, &to->w_down},
    };
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
        status code = tensor_open(backend, tensors[i].from, tensors[i].to);
        if (code != OK)
            return code;
    }
    return OK;
}

static status buffers_open(const struct model *model, struct backend *backend,
                           struct forward *forward)
{
    uint32_t q_width = model->head_count * model->head_dim;
    uint32_t kv_width = model->kv_head_count * model->head_dim;
    const struct {
        struct backend_buffer **buffer;
        uint32_t width;
        bool outputs;
    } buffers[] = {
        {&forward->x, model->width, false},
        {&forward->h, model->width, false},
        {&forward->q, q_width, false},
        {&forward->o, q_width, false},
        {&forward->k, kv_width, false},
        {&forward->v, kv_width, false},
        {&forward->gate, model->ffn_width, false},
        {&forward->up, model->ffn_width, false},
        {&forward->last, model->width, true},
        {&forward->last_h, model->width, true},
        {&forward->logits, model->vocabulary, true},
    };
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        status code = backend->calls->buffer_open(backend, buffers[i].width, buffers[i].outputs,
                                                  buffers[i].buffer);
        if (code != OK)
            return code;
    }
    return OK;
}

status forward_open(const struct model *model, struct backend *backend, struct forward *forward_out)
{
    struct forward forward = {.backend = backend, .layer_count = model->layer_count};
    status code;

    forward.layers = calloc(model->layer_count, sizeof(*forward.layers));
    if (forward.layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u layers", model->layer_count);
    for (uint32_t i = 0; i < model->layer_count; i++) {
        code = layer_open(backend, &model->layers[i], &forward.layers[i]);
        if (code != OK)
            goto err_layers;
    }
    code = tensor_open(backend, &model->embedding, &forward.embedding);
    if (code != OK)
        goto err_layers;
    code = tensor_open(backend, &model->output_norm, &forward.output_norm);
    if (code != OK)
        goto err_layers;
    forward.output = forward.embedding; /* a tied head is the same tensor */
    if (!model->tied) {
        code = tensor_open(backend, &model->output, &forward.output);
        if (code != OK)
            goto err_layers;
    }
    if (backend->calls->weights_done != NULL)
        backend->calls->weights_done(backend);
    code = buffers_open(model, backend, &forward);
    if (code != OK)
        goto err_layers;
    *forward_out = forward;
    return OK;

err_layers:
    free(forward.layers);
    return code;
}

void forward_close(struct forward *forward)
{
    free(forward->layers);
    forward->layers = NULL;
}

/* Up to the point where the pool holds this layer: who waits for it need not wait for the rest. */
static void kv_enqueue(const struct forward *forward, uint32_t index)
{
    const struct backend_calls *calls = forward->backend->calls;
    const struct forward_layer *layer = &forward->layers[index];
    const struct backend_projection qkv[] = {
        {.weight = layer->wq, .bias = layer->bq, .y = forward->q},
        {.weight = layer->wk, .bias = layer->bk, .y = forward->k},
        {.weight = layer->wv, .bias = layer->bv, .y = forward->v},
    };

    calls->norm(forward->backend, forward->x, layer->attention_norm, forward->h);
    calls->project(forward->backend, forward->h, qkv, 3);
    calls->rope_store(forward->backend, index, forward->q, forward->k, forward->v, layer->q_norm,
                      layer->k_norm);
    calls->layer_done(forward->backend, index);
}

static void attention_enqueue(const struct forward *forward, uint32_t index)
{
    const struct backend_calls *calls = forward->backend->calls;
    const struct backend_projection out = {
        .weight = forward->layers[index].wo, .y = forward->x, .accumulate = true};

    calls->attend(forward->backend, index, forward->q, forward->o);
    calls->project(forward->backend, forward->o, &out, 1);
}

static void ffn_enqueue(const struct forward *forward, uint32_t index)
{
    const struct backend_calls *calls = forward->backend->calls;
    const struct forward_layer *layer = &forward->layers[index];
    const struct backend_projection in[] = {
        {.weight = layer->w_gate, .y = forward->gate},
        {.weight = layer->w_up, .y = forward->up},
    };
    const struct backend_projection out = {
        .weight = layer->w_down, .y = forward->x, .accumulate = true};

    calls->norm(forward->backend, forward->x, layer->ffn_norm, forward->h);
    calls->project(forward->backend, forward->h, in, 2);
    calls->gate(forward->backend, forward->gate, forward->up, forward->gate);
    calls->project(forward->backend, forward->gate, &out, 1);
}

void forward_enqueue(struct forward *forward, const struct step *step)
{
    struct backend *backend = forward->backend;
    const struct backend_calls *calls = backend->calls;

    calls->step_begin(backend, step);
    calls->embed(backend, forward->embedding, forward->x);
    for (uint32_t i = 0; i < forward->layer_count; i++) {
        kv_enqueue(forward, i);
        if (i + 1 == forward->layer_count && step->output_count == 0)
            return; /* nobody reads more than the pool */
        attention_enqueue(forward, i);
        ffn_enqueue(forward, i);
    }
    const struct backend_projection head = {.weight = forward->output, .y = forward->logits};
    calls->take_outputs(backend, forward->x, forward->last);
    calls->norm(backend, forward->last, forward->output_norm, forward->last_h);
    calls->project(backend, forward->last_h, &head, 1);
    if (calls->pick != NULL)
        calls->pick(backend, forward->logits);
}
