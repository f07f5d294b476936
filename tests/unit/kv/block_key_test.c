#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kv/block_key.h"

struct root_parts {
    uint8_t fingerprint[BLOCK_KEY_FINGERPRINT_BYTES];
    uint8_t layout_hash[KV_LAYOUT_HASH_BYTES];
    enum dtype dtype;
    const char *numerics_class;
    const char *salt;
    size_t salt_bytes;
};

static struct root_parts parts_sample(void)
{
    struct root_parts parts = {
        .dtype = DTYPE_F16, .numerics_class = "cpu-float", .salt = "tenant", .salt_bytes = 6};
    for (uint8_t i = 0; i < sizeof(parts.fingerprint); i++)
        parts.fingerprint[i] = i;
    for (uint8_t i = 0; i < sizeof(parts.layout_hash); i++)
        parts.layout_hash[i] = (uint8_t)(100 + i);
    return parts;
}

static struct block_key root_of(const struct root_parts *parts)
{
    return block_key_root(parts->fingerprint, parts->layout_hash, parts->dtype,
                          parts->numerics_class, parts->salt, parts->salt_bytes);
}

/* Computed by Python's hashlib.blake2b(digest_size=16) over the bytes that block_key.h describes:
 * keys are shared between machines and kept on disk, so they may never change. */
static void known_answers(void **state)
{
    (void)state;
    struct root_parts parts = parts_sample();
    struct block_key root = root_of(&parts);
    char text[BLOCK_KEY_TEXT_BYTES];
    assert_string_equal(block_key_text(&root, text), "a8eda1b69b38971d8b6ccae656199242");

    uint32_t tokens[16], many[100];
    for (uint32_t i = 0; i < 16; i++)
        tokens[i] = 1000 + i;
    for (uint32_t i = 0; i < 100; i++)
        many[i] = 7 * i * i;
    struct block_key key0 = block_key_next(&root, tokens, 16);
    assert_string_equal(block_key_text(&key0, text), "943b47606c0b28ac9812ff9ab04f8eed");
    struct block_key key1 = block_key_next(&key0, many, 100);
    assert_string_equal(block_key_text(&key1, text), "8445945becad4cce4120def646ae681a");
}

static void every_part_of_the_root_counts(void **state)
{
    (void)state;
    struct root_parts parts[8];
    struct block_key keys[8];
    for (int i = 0; i < 8; i++)
        parts[i] = parts_sample();
    parts[1].fingerprint[31] ^= 1;
    parts[2].layout_hash[15] ^= 1;
    parts[3].dtype = DTYPE_Q8_0;
    parts[4].numerics_class = "cpu-int8";
    parts[5].salt = "tenanu";
    parts[6].salt_bytes = 0;
    parts[7].numerics_class = "cpu-floatt"; /* the same bytes when joined */
    parts[7].salt = "enant";
    parts[7].salt_bytes = 5;
    for (int i = 0; i < 8; i++) {
        keys[i] = root_of(&parts[i]);
        for (int j = 0; j < i; j++)
            assert_false(block_key_equal(&keys[i], &keys[j]));
    }
    struct block_key again = root_of(&parts[3]);
    assert_true(block_key_equal(&again, &keys[3]));
}

static void chain_names_all_tokens_before(void **state)
{
    (void)state;
    struct root_parts parts = parts_sample();
    struct block_key root = root_of(&parts), a[4], b[4];
    uint32_t tokens[70];
    for (uint32_t i = 0; i < 70; i++)
        tokens[i] = i % 7;
    assert_int_equal(block_key_chain(&root, tokens, 70, 16, a), 4);
    assert_int_equal(block_key_chain(&root, tokens, 15, 16, b), 0);
    struct block_key next = block_key_next(&a[2], tokens + 48, 16);
    assert_true(block_key_equal(&next, &a[3]));

    tokens[17]++;
    assert_int_equal(block_key_chain(&root, tokens, 64, 16, b), 4);
    assert_true(block_key_equal(&a[0], &b[0]));
    for (int i = 1; i < 4; i++)
        assert_false(block_key_equal(&a[i], &b[i]));
}

static void a_partial_block_has_its_own_key(void **state)
{
    (void)state;
    struct root_parts parts = parts_sample();
    struct block_key root = root_of(&parts), keys[17];
    uint32_t tokens[16] = {0};
    for (uint32_t count = 1; count <= 16; count++) {
        keys[count] = block_key_next(&root, tokens, count);
        for (uint32_t other = 1; other < count; other++)
            assert_false(block_key_equal(&keys[count], &keys[other]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(every_part_of_the_root_counts),
        cmocka_unit_test(chain_names_all_tokens_before),
        cmocka_unit_test(a_partial_block_has_its_own_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
