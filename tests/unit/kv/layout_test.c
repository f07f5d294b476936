#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "kv/layout.h"

static const struct kv_shape smol = {.layer_count = 30,
                                     .kv_head_count = 3,
                                     .head_dim = 64,
                                     .block_tokens = 16,
                                     .dtype = DTYPE_F16,
                                     .rank = 0,
                                     .ranks = 1};

static void slices_tile_the_block(void **state)
{
    (void)state;
    struct kv_layout *layout;
    assert_int_equal(kv_layout_open(&smol, &layout), OK);
    assert_int_equal(layout->block_bytes, 30u * 2 * 3 * 16 * 64 * 2);
    assert_int_equal(layout->slice_count, 60);

    size_t end = 0;
    for (uint32_t i = 0; i < layout->slice_count; i++) {
        const struct kv_slice *slice = &layout->slices[i];
        assert_int_equal(slice->offset, end);
        assert_int_equal(slice->layer, i / 2);
        assert_int_equal(slice->plane, i % 2 == 0 ? KV_KEYS : KV_VALUES);
        assert_int_equal(slice->head_first, 0);
        assert_int_equal(slice->head_count, 3);
        end += slice->bytes;
    }
    assert_int_equal(end, layout->block_bytes);

    size_t offset, bytes, sum = 0;
    for (uint32_t layer = 0; layer < 30; layer++) {
        kv_layout_layer(layout, layer, &offset, &bytes);
        assert_int_equal(offset, sum);
        assert_int_equal(bytes, layout->block_bytes / 30);
        sum += bytes;
    }
    assert_int_equal(kv_layout_layers_bytes(layout, 3, 4), 4 * bytes);
    assert_int_equal(kv_layout_layers_bytes(layout, 30, 0), 0);
    uint8_t *base = (uint8_t *)0x1000;
    assert_ptr_equal(kv_layout_address(layout, base, 5, 7),
                     base + 5 * layout->block_bytes + layout->slices[7].offset);
    kv_layout_close(layout);
}

static void a_rank_holds_its_heads(void **state)
{
    (void)state;
    struct kv_shape half = smol;
    half.kv_head_count = 8;
    half.rank = 1;
    half.ranks = 2;
    struct kv_layout *layout;
    assert_int_equal(kv_layout_open(&half, &layout), OK);
    assert_int_equal(layout->slices[0].head_first, 4);
    assert_int_equal(layout->slices[0].head_count, 4);

    struct backend_shape shape = {.head_count = 9};
    kv_layout_fill_shape(layout, &shape);
    assert_int_equal(shape.kv_head_count, 4);
    assert_int_equal(shape.head_count, 9);
    assert_int_equal(shape.layer_count, 30);
    assert_int_equal(shape.block_tokens, 16);
    assert_int_equal(shape.kv_dtype, DTYPE_F16);
    assert_int_equal(shape.block_bytes, layout->block_bytes);
    assert_int_equal(shape.layer_bytes * 30, layout->block_bytes);
    kv_layout_close(layout);
}

static void hash_names_every_number(void **state)
{
    (void)state;
    struct kv_shape shapes[8];
    for (int i = 0; i < 8; i++) {
        shapes[i] = smol;
        shapes[i].kv_head_count = 6;
    }
    shapes[1].layer_count = 31;
    shapes[2].kv_head_count = 12;
    shapes[3].head_dim = 32;
    shapes[4].block_tokens = 32;
    shapes[5].dtype = DTYPE_BF16;
    shapes[6].ranks = 2;
    shapes[7].ranks = 2;
    shapes[7].rank = 1;
    struct kv_layout *layouts[8], *again;
    for (int i = 0; i < 8; i++)
        assert_int_equal(kv_layout_open(&shapes[i], &layouts[i]), OK);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(layouts[i]->hash, layouts[j]->hash, KV_LAYOUT_HASH_BYTES);
    assert_int_equal(kv_layout_open(&shapes[3], &again), OK);
    assert_memory_equal(again->hash, layouts[3]->hash, KV_LAYOUT_HASH_BYTES);
    kv_layout_close(again);
    for (int i = 0; i < 8; i++)
        kv_layout_close(layouts[i]);
}

static void bad_shapes_are_refused_by_name(void **state)
{
    (void)state;
    struct kv_shape bad[8];
    for (int i = 0; i < 8; i++)
        bad[i] = smol;
    bad[0].layer_count = 0;
    bad[1].kv_head_count = UINT32_MAX;
    bad[2].head_dim = 0;
    bad[3].block_tokens = 0;
    bad[4].dtype = DTYPE_Q4_K; /* groups of 256 do not divide 64 */
    bad[5].ranks = 2;          /* 3 heads */
    bad[6].rank = 1;
    bad[7].dtype = (enum dtype)999;
    static const char *const words[8] = {"layers", "heads",  "values", "tokens",
                                         "Q4_K",   "rank 0", "rank 1", "unknown"};
    for (int i = 0; i < 8; i++) {
        struct kv_layout *layout = NULL;
        assert_int_equal(kv_layout_open(&bad[i], &layout), ERR_BAD_INPUT);
        assert_null(layout);
        assert_non_null(strstr(error_text(), words[i]));
    }
}

static void blocks_are_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(kv_blocks_for(0, 16), 0);
    assert_int_equal(kv_blocks_for(1, 16), 1);
    assert_int_equal(kv_blocks_for(16, 16), 1);
    assert_int_equal(kv_blocks_for(17, 16), 2);
    assert_int_equal(kv_blocks_for(UINT32_MAX, 16), 1u << 28);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_tile_the_block),   cmocka_unit_test(a_rank_holds_its_heads),
        cmocka_unit_test(hash_names_every_number), cmocka_unit_test(bad_shapes_are_refused_by_name),
        cmocka_unit_test(blocks_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
