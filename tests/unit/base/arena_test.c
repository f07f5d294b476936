/* Arena: pieces are aligned, zeroed, apart, and bounded, whatever sizes are asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdalign.h>
#include <string.h>

#include "base/arena.h"

static void test_pieces(void **state)
{
    (void)state;
    struct arena *arena;
    unsigned char *pieces[600];
    size_t sizes[600];
    assert_int_equal(arena_open(64u << 20, &arena), OK);
    for (size_t i = 0; i < 600; i++) {
        sizes[i] = i * i * 7 % 40000; /* small, chunk-sized and larger than a chunk */
        pieces[i] = arena_take(arena, sizes[i]);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % alignof(max_align_t), 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(pieces[i][k], 0);
        memset(pieces[i], (int)(i % 255 + 1), sizes[i]);
    }
    for (size_t i = 0; i < 600; i++) {
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(pieces[i][k], i % 255 + 1);
    }
    arena_close(arena);
    arena_close(NULL);
}

static void test_limit(void **state)
{
    (void)state;
    struct arena *arena;
    assert_int_equal(arena_open(1000, &arena), OK);
    assert_null(arena_take(arena, 1001));
    assert_int_equal(arena_used_bytes(arena), 0); /* a refusal takes nothing */
    assert_non_null(arena_take(arena, 900));
    assert_true(arena_used_bytes(arena) >= 900);
    assert_null(arena_take(arena, 100));
    assert_non_null(arena_take(arena, 80));
    assert_null(arena_take(arena, 64));
    arena_close(arena);

    /* The bound is on memory: a million single bytes are no million bytes. */
    assert_int_equal(arena_open(100000, &arena), OK);
    int count = 0;
    while (arena_take(arena, 1) != NULL)
        count++;
    assert_true(count * (int)alignof(max_align_t) <= 100000);
    arena_close(arena);
}

static void test_hostile_sizes(void **state)
{
    (void)state;
    struct arena *arena;
    assert_int_equal(arena_open(SIZE_MAX, &arena), OK);
    assert_null(arena_take(arena, SIZE_MAX));
    assert_null(arena_take(arena, SIZE_MAX - 7));
    assert_null(arena_take_array(arena, SIZE_MAX / 4, 8));
    assert_null(arena_take_array(arena, 8, SIZE_MAX / 4));
    assert_null(arena_copy(arena, "a", SIZE_MAX));
    assert_non_null(arena_take_array(arena, 0, 8));
    assert_non_null(arena_take_array(arena, 8, 0));
    char *copy = arena_copy(arena, "abcdef", 3);
    assert_string_equal(copy, "abc");
    assert_string_equal(arena_copy(arena, NULL, 0), "");
    arena_close(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_hostile_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
