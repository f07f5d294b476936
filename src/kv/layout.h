/* kv/layout.h - what lies where in a KV block.
 *
 * A block holds the keys and values of block_tokens consecutive tokens, for every layer, in one
 * contiguous piece. A layout is a table of its slices, made once per model:
 *
 *     block    | layer 0 k | layer 0 v | layer 1 k | layer 1 v | ...          block_bytes
 *     slice    [kv_head][token][head_dim] of one layer and plane              slice.bytes
 *     layer    the slices of one layer, contiguous: what one offer moves      kv_layout_layer()
 *     pool     block i is at base + i * block_bytes
 *
 * Nothing else multiplies layers by heads: who wants a place asks the table, so that layouts with
 * latent, windowed or state layers, or the heads of one tensor-parallel rank, need no other change.
 *
 * Threads:  open and close by one; reading by any.
 * Memory:   the layout owns its table.
 */
#ifndef KV_LAYOUT_H
#define KV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/dtype.h"
#include "base/status.h"

#define KV_LAYOUT_HASH_BYTES 16
#define KV_BLOCK_TOKENS_MAX 1024

enum kv_plane { KV_KEYS, KV_VALUES };

struct kv_slice {
    uint32_t layer;
    enum kv_plane plane;
    uint32_t head_first, head_count; /* of the model's KV heads; a rank may hold a part */
    size_t offset;                   /* in the block */
    size_t bytes;
};

/* What a layout is made from: the whole model's numbers, and the part of it that is held here. */
struct kv_shape {
    uint32_t layer_count;
    uint32_t kv_head_count; /* of the whole model; a multiple of ranks */
    uint32_t head_dim;
    uint32_t block_tokens; /* 1 .. KV_BLOCK_TOKENS_MAX */
    enum dtype dtype;      /* a type whose groups divide head_dim */
    uint32_t rank, ranks;  /* (0, 1): all heads */
};

struct kv_layout {
    struct kv_shape shape;
    uint32_t slice_count;
    struct kv_slice *slices; /* [slice_count], by offset; all of a layer's are neighbours */
    uint32_t *layer_slices;  /* [layer_count + 1] first slice of each layer, then slice_count */
    size_t block_bytes;
    /* Names everything above: equal hashes mean equal blocks. In handshakes and block keys. */
    uint8_t hash[KV_LAYOUT_HASH_BYTES];
};

/* Errors: ERR_BAD_INPUT (a zero, too large or indivisible number), ERR_NO_MEMORY. */
status kv_layout_open(const struct kv_shape *shape, struct kv_layout **layout_out);
void kv_layout_close(struct kv_layout *layout);

/* The contiguous range of one layer in a block. */
void kv_layout_layer(const struct kv_layout *layout, uint32_t layer, size_t *offset_out,
                     size_t *bytes_out);

/* Bytes of layers [first, first + count): contiguous too. */
size_t kv_layout_layers_bytes(const struct kv_layout *layout, uint32_t first, uint32_t count);

/* Where a slice of a block is in a pool that starts at base. */
uint8_t *kv_layout_address(const struct kv_layout *layout, uint8_t *base, block_id id,
                           uint32_t slice);

/* Fill the fields of a backend's shape that are the layout's: layer_count, kv_head_count (of this
 * rank), head_dim, block_tokens, kv_dtype, block_bytes, layer_bytes. The others stay. */
void kv_layout_fill_shape(const struct kv_layout *layout, struct backend_shape *shape);

/* Blocks that hold token_count tokens: rounded up. */
static inline uint32_t kv_blocks_for(uint32_t token_count, uint32_t block_tokens)
{
    return token_count / block_tokens + (token_count % block_tokens != 0 ? 1 : 0);
}

#endif
