#include "kv/layout.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"

#define LAYERS_MAX 4096u
#define KV_HEADS_MAX 4096u
#define HEAD_DIM_MAX 4096u
#define PLANES 2u

static status shape_check(const struct kv_shape *shape)
{
    if (shape->layer_count == 0 || shape->layer_count > LAYERS_MAX)
        return error_set(ERR_BAD_INPUT, "KV layout: expected 1 to %u layers, found %u", LAYERS_MAX,
                         shape->layer_count);
    if (shape->kv_head_count == 0 || shape->kv_head_count > KV_HEADS_MAX)
        return error_set(ERR_BAD_INPUT, "KV layout: expected 1 to %u KV heads, found %u",
                         KV_HEADS_MAX, shape->kv_head_count);
    if (shape->head_dim == 0 || shape->head_dim > HEAD_DIM_MAX)
        return error_set(ERR_BAD_INPUT, "KV layout: expected a head of 1 to %u values, found %u",
                         HEAD_DIM_MAX, shape->head_dim);
    if (shape->block_tokens == 0 || shape->block_tokens > KV_BLOCK_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "KV layout: expected 1 to %u tokens a block, found %u",
                         KV_BLOCK_TOKENS_MAX, shape->block_tokens);
    if (!dtype_known((uint32_t)shape->dtype) || shape->head_dim % dtype_group(shape->dtype) != 0)
        return error_set(ERR_BAD_INPUT,
                         "KV layout: a head of %u values cannot be stored in type %s, which has "
                         "groups of %u; use "
                         "--kv-dtype f16",
                         shape->head_dim,
                         dtype_known((uint32_t)shape->dtype) ? dtype_name(shape->dtype) : "unknown",
                         dtype_known((uint32_t)shape->dtype) ? dtype_group(shape->dtype) : 0);
    if (shape->ranks == 0 || shape->rank >= shape->ranks ||
        shape->kv_head_count % shape->ranks != 0)
        return error_set(
            ERR_BAD_INPUT,
            "KV layout: rank %u of %u cannot hold a part of %u KV heads; the ranks must "
            "divide the heads",
            shape->rank, shape->ranks, shape->kv_head_count);
    return OK;
}

/* The bounds of shape_check keep one slice below 2^44 bytes and the block below 2^57. */
static void slices_fill(struct kv_layout *layout)
{
    const struct kv_shape *shape = &layout->shape;
    uint32_t heads = shape->kv_head_count / shape->ranks;
    size_t head_bytes = dtype_row_bytes(shape->dtype, shape->head_dim);
    size_t slice_bytes = heads * (size_t)shape->block_tokens * head_bytes;
    size_t offset = 0;
    uint32_t count = 0;

    for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
        layout->layer_slices[layer] = count;
        for (uint32_t plane = 0; plane < PLANES; plane++) {
            layout->slices[count++] = (struct kv_slice){
                .layer = layer,
                .plane = plane == 0 ? KV_KEYS : KV_VALUES,
                .head_first = shape->rank * heads,
                .head_count = heads,
                .offset = offset,
                .bytes = slice_bytes,
            };
            offset += slice_bytes;
        }
    }
    layout->layer_slices[shape->layer_count] = count;
    layout->slice_count = count;
    layout->block_bytes = offset;
}

static void layout_hash(struct kv_layout *layout)
{
    static const char domain[] = "baton layout 1";
    const struct kv_shape *shape = &layout->shape;
    uint8_t bytes[64];
    struct writer w = writer_over(bytes, sizeof(bytes));
    crypto_generichash_state state;

    crypto_generichash_init(&state, NULL, 0, KV_LAYOUT_HASH_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)domain, sizeof(domain));
    write_u32(&w, shape->layer_count);
    write_u32(&w, shape->kv_head_count);
    write_u32(&w, shape->head_dim);
    write_u32(&w, shape->block_tokens);
    write_u32(&w, (uint32_t)shape->dtype);
    write_u32(&w, shape->rank);
    write_u32(&w, shape->ranks);
    write_u32(&w, layout->slice_count);
    write_u64(&w, layout->block_bytes);
    assert(!w.failed);
    crypto_generichash_update(&state, bytes, sizeof(bytes) - w.left);

    for (uint32_t i = 0; i < layout->slice_count; i++) {
        const struct kv_slice *slice = &layout->slices[i];
        w = writer_over(bytes, sizeof(bytes));
        write_u32(&w, slice->layer);
        write_u32(&w, (uint32_t)slice->plane);
        write_u32(&w, slice->head_first);
        write_u32(&w, slice->head_count);
        write_u64(&w, slice->offset);
        write_u64(&w, slice->bytes);
        crypto_generichash_update(&state, bytes, sizeof(bytes) - w.left);
    }
    crypto_generichash_final(&state, layout->hash, KV_LAYOUT_HASH_BYTES);
}

status kv_layout_open(const struct kv_shape *shape, struct kv_layout **layout_out)
{
    status code = shape_check(shape);
    if (code != OK)
        return code;

    struct kv_layout *layout = calloc(1, sizeof(*layout));
    if (layout == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a KV layout");
    layout->shape = *shape;
    layout->slices = calloc((size_t)shape->layer_count * PLANES, sizeof(*layout->slices));
    layout->layer_slices = calloc((size_t)shape->layer_count + 1, sizeof(*layout->layer_slices));
    if (layout->slices == NULL || layout->layer_slices == NULL) {
        kv_layout_close(layout);
        return error_set(ERR_NO_MEMORY, "no memory for a KV layout of %u layers",
                         shape->layer_count);
    }
    slices_fill(layout);
    layout_hash(layout);
    *layout_out = layout;
    return OK;
}

void kv_layout_close(struct kv_layout *layout)
{
    if (layout == NULL)
        return;
    free(layout->layer_slices);
    free(layout->slices);
    free(layout);
}

void kv_layout_layer(const struct kv_layout *layout, uint32_t layer, size_t *offset_out,
                     size_t *bytes_out)
{
    assert(layer < layout->shape.layer_count);
    *offset_out = layout->slices[layout->layer_slices[layer]].offset;
    *bytes_out = kv_layout_layers_bytes(layout, layer, 1);
}

size_t kv_layout_layers_bytes(const struct kv_layout *layout, uint32_t first, uint32_t count)
{
    assert(first <= layout->shape.layer_count && count <= layout->shape.layer_count - first);
    if (count == 0)
        return 0;
    const struct kv_slice *begin = &layout->slices[layout->layer_slices[first]];
    const struct kv_slice *last = &layout->slices[layout->layer_slices[first + count] - 1];
    return last->offset + last->bytes - begin->offset;
}

uint8_t *kv_layout_address(const struct kv_layout *layout, uint8_t *base, block_id id,
                           uint32_t slice)
{
    assert(slice < layout->slice_count);
    return base + (size_t)id * layout->block_bytes + layout->slices[slice].offset;
}

void kv_layout_fill_shape(const struct kv_layout *layout, struct backend_shape *shape)
{
    size_t offset;
    shape->layer_count = layout->shape.layer_count;
    shape->kv_head_count = layout->shape.kv_head_count / layout->shape.ranks;
    shape->head_dim = layout->shape.head_dim;
    shape->block_tokens = layout->shape.block_tokens;
    shape->kv_dtype = layout->shape.dtype;
    shape->block_bytes = layout->block_bytes;
    kv_layout_layer(layout, 0, &offset, &shape->layer_bytes);
}
