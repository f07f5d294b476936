/* Who holds the longest leading run of a prompt, under messages that are lost and come twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/directory.h"

#define KEYS 400
#define WORKERS 5

static struct block_key key_of(uint32_t number)
{
    struct block_key key = {{0}};
    uint32_t mixed = number * 2654435761u;
    memcpy(key.bytes, &mixed, sizeof(mixed));
    memcpy(key.bytes + 4, &number, sizeof(number));
    return key;
}

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % limit;
}

/* A worker as it is, and what it says. */
struct speaker {
    bool holds[KEYS];
    uint64_t next_number;
    int slot;
    uint32_t count;
    uint8_t events[4 * KEYS][WIRE_EVENT_BYTES];
};

static void speaker_event(struct speaker *s, enum wire_event event, uint32_t number)
{
    struct block_key key = key_of(number);
    s->events[s->count][0] = (uint8_t)event;
    memcpy(s->events[s->count++] + 1, key.bytes, sizeof(key.bytes));
}

static struct wire_blocks speaker_message(struct speaker *s, uint32_t flags)
{
    struct wire_blocks message = {.number = s->next_number++,
                                  .flags = flags,
                                  .event_count = s->count,
                                  .events = s->events[0]};
    s->count = 0;
    return message;
}

static void speaker_tell_all(struct directory *d, struct speaker *s)
{
    s->count = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        if (s->holds[i])
            speaker_event(s, WIRE_EVENT_STORED, i);
    }
    struct wire_blocks all = speaker_message(s, WIRE_BLOCKS_ALL);
    assert_true(directory_take(d, s->slot, &all));
}

static uint32_t run_of(const struct speaker *s, uint32_t first, uint32_t count)
{
    uint32_t run = 0;
    while (run < count && s->holds[first + run])
        run++;
    return run;
}

static void assert_known(struct directory *d, const struct speaker *speakers, uint32_t first)
{
    struct block_key keys[64];
    uint32_t runs[DIRECTORY_WORKERS_MAX], saved;
    for (uint32_t i = 0; i < 64; i++)
        keys[i] = key_of(first + i);
    directory_find(d, keys, 64, runs, &saved);
    for (uint32_t w = 0; w < WORKERS; w++) {
        if (speakers[w].slot >= 0)
            assert_int_equal(runs[speakers[w].slot], run_of(&speakers[w], first, 64));
    }
}

/* A random life: blocks come and go, messages are dropped and come twice, workers die. After each
 * repair what is known is what is there. */
static void repairs_lead_to_the_truth(void **state)
{
    (void)state;
    static struct speaker speakers[WORKERS];
    uint64_t repairs = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct directory *d;
        struct directory_counts counts;
        random_state = seed * 0x9e3779b97f4a7c15u;
        memset(speakers, 0, sizeof(speakers));
        assert_int_equal(directory_open(4096, &d), OK);
        for (uint32_t w = 0; w < WORKERS; w++) {
            speakers[w].slot = directory_join(d);
            assert_true(speakers[w].slot >= 0);
            speaker_tell_all(d, &speakers[w]);
        }
        for (uint32_t round = 0; round < 400; round++) {
            struct speaker *s = &speakers[random_below(WORKERS)];
            for (uint32_t i = random_below(12); i > 0; i--) {
                uint32_t at = random_below(KEYS);
                s->holds[at] = !s->holds[at];
                speaker_event(s, s->holds[at] ? WIRE_EVENT_STORED : WIRE_EVENT_REMOVED, at);
            }
            struct wire_blocks message = speaker_message(s, 0);
            uint32_t fate = random_below(20);
            if (fate == 0)
                continue; /* lost */
            if (fate == 1 && random_below(4) == 0) {
                directory_leave(d, s->slot);
                memset(s, 0, sizeof(*s));
                s->slot = directory_join(d);
                speaker_tell_all(d, s);
            } else if (!directory_take(d, s->slot, &message)) {
                speaker_tell_all(d, s);
            } else if (fate == 2) {
                assert_true(directory_take(d, s->slot, &message)); /* twice */
            }
            if (fate > 2) {
                /* All have their gap found by one more message each. */
                for (uint32_t w = 0; w < WORKERS; w++) {
                    struct wire_blocks last = speaker_message(&speakers[w], 0);
                    if (!directory_take(d, speakers[w].slot, &last))
                        speaker_tell_all(d, &speakers[w]);
                }
                assert_known(d, speakers, random_below(KEYS - 64));
            }
        }
        directory_count(d, &counts);
        repairs += counts.repairs;
        assert_int_equal(counts.dropped, 0);
        for (uint32_t w = 0; w < WORKERS; w++)
            directory_leave(d, speakers[w].slot);
        directory_count(d, &counts);
        assert_int_equal(counts.entries, 0);
        directory_close(d);
    }
    assert_true(repairs > 100);
}

/* After a gap nothing is believed until all was said; a lost answer is asked for again. */
static void a_gap_is_asked_for_once_and_again(void **state)
{
    (void)state;
    static struct speaker s;
    struct directory *d;
    struct block_key key = key_of(3);
    uint32_t runs[DIRECTORY_WORKERS_MAX];
    memset(&s, 0, sizeof(s));
    assert_int_equal(directory_open(64, &d), OK);
    s.slot = directory_join(d);
    s.holds[3] = true;
    speaker_tell_all(d, &s);
    directory_find(d, &key, 1, runs, NULL);
    assert_int_equal(runs[s.slot], 1);
    s.next_number++;
    struct wire_blocks message = speaker_message(&s, 0);
    assert_false(directory_take(d, s.slot, &message));
    directory_find(d, &key, 1, runs, NULL);
    assert_int_equal(runs[s.slot], 0);
    uint32_t asked = 0;
    for (uint32_t i = 0; i < 100; i++) {
        message = speaker_message(&s, 0);
        asked += !directory_take(d, s.slot, &message);
    }
    assert_true(asked >= 1 && asked <= 4);
    speaker_tell_all(d, &s);
    directory_find(d, &key, 1, runs, NULL);
    assert_int_equal(runs[s.slot], 1);
    directory_leave(d, s.slot);
    directory_close(d);
}

/* More keys than there is room for: the rest is unknown and counted, what is known stays right;
 * what only the store has goes first. */
static void memory_is_bounded(void **state)
{
    (void)state;
    static struct speaker s;
    struct directory *d;
    struct directory_counts counts;
    memset(&s, 0, sizeof(s));
    assert_int_equal(directory_open(64, &d), OK);
    s.slot = directory_join(d);
    speaker_tell_all(d, &s);
    for (uint32_t i = 0; i < KEYS; i++)
        speaker_event(&s, WIRE_EVENT_SAVED, i);
    struct wire_blocks message = speaker_message(&s, 0);
    assert_true(directory_take(d, s.slot, &message));
    directory_count(d, &counts);
    assert_true(counts.entries <= 64);
    for (uint32_t i = 0; i < KEYS; i++)
        s.holds[i] = true;
    speaker_tell_all(d, &s);
    directory_count(d, &counts);
    assert_int_equal(counts.entries, 64);
    assert_int_equal(counts.dropped, KEYS - 64);
    struct block_key keys[KEYS];
    uint32_t runs[DIRECTORY_WORKERS_MAX], saved;
    for (uint32_t i = 0; i < KEYS; i++)
        keys[i] = key_of(i);
    directory_find(d, keys, KEYS, runs, &saved);
    assert_int_equal(runs[s.slot], 64);
    directory_leave(d, s.slot);
    directory_close(d);
}

static void workers_are_bounded(void **state)
{
    (void)state;
    struct directory *d;
    assert_int_equal(directory_open(64, &d), OK);
    for (int i = 0; i < DIRECTORY_WORKERS_MAX; i++)
        assert_int_equal(directory_join(d), i);
    assert_int_equal(directory_join(d), -1);
    directory_leave(d, 77);
    assert_int_equal(directory_join(d), 77);
    directory_leave(d, -1);
    directory_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repairs_lead_to_the_truth),
        cmocka_unit_test(a_gap_is_asked_for_once_and_again),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(workers_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
