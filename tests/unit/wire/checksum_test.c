/* The checksum's definition, its vectors, and that every flipped bit and every moved word shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "wire/checksum.h"

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void random_fill(uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(random_u64() >> 24);
}

/* The definition, word by word. */
static struct checksum checksum_slow(const uint8_t *data, size_t bytes)
{
    struct checksum sum = {0, 0};
    for (size_t i = 0; i * 8 < bytes; i++) {
        uint8_t word[8] = {0};
        memcpy(word, data + i * 8, bytes - i * 8 < 8 ? bytes - i * 8 : 8);
        sum.a += load_u64(word);
        sum.b += (i + 1) * load_u64(word);
    }
    return sum;
}

static void vectors_hold(void **state)
{
    (void)state;
    /* data: bytes (i * 7 + 3) mod 256 */
    static const struct {
        size_t bytes;
        uint64_t a, b;
    } vectors[] = {
        {0, 0x0000000000000000u, 0x0000000000000000u},
        {1, 0x0000000000000003u, 0x0000000000000003u},
        {8, 0x342d261f18110a03u, 0x342d261f18110a03u},
        {13, 0x342d2676685a4c3eu, 0x342d26cdb8a38e79u},
        {128, 0x8717a837c756e770u, 0x5badf73b7fc41218u},
        {1000, 0xf2881daf44da6fc7u, 0x5520c79b9f7f2b89u},
        {12288, 0x090f14eaf0f6fa00u, 0xd872cfcf0c8f6900u},
    };
    uint8_t data[12288];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + 3);
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        struct checksum sum = checksum_of(data, vectors[i].bytes);
        if (sum.a != vectors[i].a || sum.b != vectors[i].b)
            print_error("{%zu, 0x%016llxu, 0x%016llxu},\n", vectors[i].bytes,
                        (unsigned long long)sum.a, (unsigned long long)sum.b);
        assert_int_equal(sum.a, vectors[i].a);
        assert_int_equal(sum.b, vectors[i].b);
    }
}

static void every_length_and_alignment_is_the_definition(void **state)
{
    (void)state;
    size_t room = 20000;
    uint8_t *from = malloc(room + 64), *to = malloc(room + 64);
    random_fill(from, room + 64);
    for (int round = 0; round < 4000; round++) {
        size_t bytes = round < 600 ? (size_t)round : random_u64() % room;
        size_t shift = random_u64() % 33;
        size_t to_shift = round % 2 == 0 ? 0 : random_u64() % 33;
        struct checksum slow = checksum_slow(from + shift, bytes);
        assert_true(checksum_equal(checksum_of(from + shift, bytes), slow));
        memset(to, 0xa5, room + 64);
        assert_true(checksum_equal(land_copy(to + to_shift, from + shift, bytes), slow));
        assert_memory_equal(to + to_shift, from + shift, bytes);
        for (size_t i = 0; i < to_shift; i++)
            assert_int_equal(to[i], 0xa5);
        for (size_t i = to_shift + bytes; i < to_shift + bytes + 31; i++)
            assert_int_equal(to[i], 0xa5);
    }
    free(from);
    free(to);
}

static void parts_join_to_the_whole(void **state)
{
    (void)state;
    uint8_t data[4096 + 5];
    random_fill(data, sizeof(data));
    struct checksum whole = checksum_of(data, sizeof(data));
    for (size_t words = 0; words <= 512; words += 1 + random_u64() % 9) {
        struct checksum joined =
            checksum_join(checksum_of(data, words * 8), words,
                          checksum_of(data + words * 8, sizeof(data) - words * 8));
        assert_true(checksum_equal(joined, whole));
    }
}

static void damage_shows(void **state)
{
    (void)state;
    uint8_t data[12288], copy[12288];
    random_fill(data, sizeof(data));
    struct checksum whole = checksum_of(data, sizeof(data));
    for (int round = 0; round < 10000; round++) {
        size_t bit = random_u64() % (sizeof(data) * 8);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(checksum_equal(land_copy(copy, data, sizeof(data)), whole));
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (int round = 0; round < 1000; round++) {
        size_t x = random_u64() % 1536 * 8, y = random_u64() % 1536 * 8;
        if (memcmp(data + x, data + y, 8) == 0)
            continue;
        memcpy(copy, data, sizeof(data));
        memcpy(copy + x, data + y, 8);
        memcpy(copy + y, data + x, 8);
        assert_false(checksum_equal(checksum_of(copy, sizeof(copy)), whole));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_hold),
        cmocka_unit_test(every_length_and_alignment_is_the_definition),
        cmocka_unit_test(parts_join_to_the_whole),
        cmocka_unit_test(damage_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
