/* The checksum's definition, its vectors, and that flipped bits and moved words show. */
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
        uint64_t m = load_u64(word) ^ (load_u64(word) >> 32);
        sum.a += m;
        sum.b += (i + 1) * m;
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
        {8, 0x342d261f2c3c2c1cu, 0x342d261f2c3c2c1cu},
        {13, 0x342d26767c856e88u, 0x342d26cdccceb0f4u},
        {128, 0x8717a835c5c5c5c0u, 0x5badf72b140e0ee0u},
        {1000, 0xf2881d9fa8f9a96cu, 0x5520c3cf863ca194u},
        {12288, 0x090f142a2a2a2800u, 0xd8708d54b26c5400u},
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

static void flip(uint8_t *data, size_t word, uint32_t bit)
{
    data[word * 8 + bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* Every pair of bits of the word, in words at every distance that a carry or a power of two could
 * care about, whatever was there before. */
static void two_flips_show(void **state)
{
    (void)state;
    static const size_t distances[] = {1, 2, 3, 4, 8, 64, 1000, 1024, 1534};
    uint8_t data[12288];
    for (int round = 0; round < 4; round++) {
        random_fill(data, sizeof(data));
        if (round == 1)
            memset(data, 0, sizeof(data));
        struct checksum whole = checksum_of(data, sizeof(data));
        for (size_t i = 0; i < sizeof(distances) / sizeof(distances[0]); i++)
            for (uint32_t pair = 0; pair < 64 * 64; pair++) {
                size_t first = random_u64() % (1536 - distances[i]);
                flip(data, first, pair / 64);
                flip(data, first + distances[i], pair % 64);
                assert_false(checksum_equal(checksum_of(data, sizeof(data)), whole));
                flip(data, first, pair / 64);
                flip(data, first + distances[i], pair % 64);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_hold),
        cmocka_unit_test(every_length_and_alignment_is_the_definition),
        cmocka_unit_test(parts_join_to_the_whole),
        cmocka_unit_test(damage_shows),
        cmocka_unit_test(two_flips_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
