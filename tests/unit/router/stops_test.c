/* Stop strings in text that comes in pieces: whatever the cuts, what is sent is the text before the
 * first stop string, and never more is held back than could become one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/stops.h"

#define TEXT_MAX 400
#define STRINGS_MAX 4
#define ROUNDS 20000

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % limit);
}

static struct stop_string stop_of(const char *text)
{
    return (struct stop_string){text, strlen(text)};
}

/* ---- the model: the whole text at once ---- */

/* Where the first stop string to be complete is complete, when text comes byte by byte; of those
 * complete at one place, the one that begins first. Returns its beginning and sets its end; bytes
 * when there is none. */
static size_t model_stop(const struct stop_string *strings, uint32_t count, const char *text,
                         size_t bytes, size_t *end_out)
{
    for (size_t end = 1; end <= bytes; end++) {
        size_t begin = end;
        for (uint32_t i = 0; i < count; i++) {
            if (strings[i].bytes <= end &&
                memcmp(text + end - strings[i].bytes, strings[i].text, strings[i].bytes) == 0 &&
                end - strings[i].bytes < begin)
                begin = end - strings[i].bytes;
        }
        if (begin < end) {
            *end_out = end;
            return begin;
        }
    }
    *end_out = bytes;
    return bytes;
}

/* How much of the end of text could still become a stop string. */
static size_t model_held(const struct stop_string *strings, uint32_t count, const char *text,
                         size_t bytes)
{
    for (size_t held = bytes; held > 0; held--) {
        for (uint32_t i = 0; i < count; i++) {
            if (held < strings[i].bytes && memcmp(text + bytes - held, strings[i].text, held) == 0)
                return held;
        }
    }
    return 0;
}

/* ---- the stops, fed with pieces ---- */

struct feed {
    struct stops stops;
    char sent[TEXT_MAX];
    size_t sent_bytes;
    bool stopped;
};

static void feed_push(struct feed *feed, const char *text, size_t bytes)
{
    size_t free_bytes;
    char *piece = malloc(bytes > 0 ? bytes : 1); /* exactly as long, for a sanitizer */
    assert_non_null(piece);
    memcpy(piece, text, bytes);
    assert_int_equal(stops_push(&feed->stops, piece, bytes, &free_bytes, &feed->stopped), OK);
    free(piece);
    assert_true(free_bytes <= feed->stops.held_bytes);
    if (free_bytes > 0)
        memcpy(feed->sent + feed->sent_bytes, feed->stops.held, free_bytes);
    feed->sent_bytes += free_bytes;
    stops_take(&feed->stops, free_bytes);
}

static void every_cut_gives_the_same(void **state)
{
    (void)state;
    static const char letters[] = "ab\n";
    for (int round = 0; round < ROUNDS; round++) {
        char texts[STRINGS_MAX][8], text[TEXT_MAX];
        struct stop_string strings[STRINGS_MAX];
        uint32_t count = random_below(STRINGS_MAX + 1);
        for (uint32_t i = 0; i < count; i++) {
            strings[i] = (struct stop_string){texts[i], 1 + random_below(sizeof(texts[i]) - 1)};
            /* Sometimes a beginning or an end of the one before. */
            if (i > 0 && random_below(3) == 0) {
                strings[i].bytes = 1 + random_below((uint32_t)strings[i - 1].bytes);
                size_t skip = random_below(2) ? strings[i - 1].bytes - strings[i].bytes : 0;
                memmove(texts[i], texts[i - 1] + skip, strings[i].bytes);
                continue;
            }
            for (size_t k = 0; k < strings[i].bytes; k++)
                texts[i][k] = letters[random_below(sizeof(letters) - 1)];
        }
        size_t bytes = random_below(60);
        for (size_t k = 0; k < bytes; k++)
            text[k] = letters[random_below(sizeof(letters) - 1)];

        struct feed feed = {.sent_bytes = 0};
        stops_open(&feed.stops, strings, count);
        size_t at = 0, stop_end;
        size_t stop = model_stop(strings, count, text, bytes, &stop_end);
        while (at < bytes && !feed.stopped) {
            size_t piece = random_below(9);
            if (piece > bytes - at)
                piece = bytes - at;
            feed_push(&feed, text + at, piece);
            at += piece;
            /* What was sent is the beginning of the text, and nothing is held without need. */
            assert_memory_equal(feed.sent, text, feed.sent_bytes);
            if (!feed.stopped)
                assert_int_equal(feed.stops.held_bytes, model_held(strings, count, text, at));
        }
        assert_int_equal(feed.stopped, stop < bytes);
        if (!feed.stopped)
            assert_int_equal(feed.sent_bytes + feed.stops.held_bytes, bytes);
        else
            assert_int_equal(feed.sent_bytes, stop);
        assert_true(!feed.stopped || at >= stop_end);
        stops_close(&feed.stops);
    }
}

/* Nothing is ever sent that the same text in smaller pieces would have kept back for good. */
static void text_of_a_stop_string_is_never_sent(void **state)
{
    (void)state;
    const struct stop_string strings[] = {stop_of("END"), stop_of("\n\n"), stop_of("ENDLESS")};
    static const char text[] = "a line\nEN EN\tENDLESS words";
    for (size_t cut = 0; cut < sizeof(text) - 1; cut++) {
        struct feed feed = {.sent_bytes = 0};
        stops_open(&feed.stops, strings, 3);
        feed_push(&feed, text, cut);
        if (!feed.stopped)
            feed_push(&feed, text + cut, sizeof(text) - 1 - cut);
        assert_true(feed.stopped);
        assert_int_equal(feed.sent_bytes, strlen("a line\nEN EN\t"));
        stops_close(&feed.stops);
    }
}

static void what_is_complete_first_counts(void **state)
{
    (void)state;
    const struct stop_string strings[] = {stop_of("abcd"), stop_of("bc")};
    for (size_t cut = 0; cut <= 4; cut++) {
        struct feed feed = {.sent_bytes = 0};
        stops_open(&feed.stops, strings, 2);
        feed_push(&feed, "abcd", cut);
        if (!feed.stopped)
            feed_push(&feed, &"abcd"[cut], 4 - cut);
        assert_true(feed.stopped);
        assert_int_equal(feed.sent_bytes, 1);
        stops_close(&feed.stops);
    }
    /* Of two that are complete at once, the longer. */
    const struct stop_string together[] = {stop_of("c"), stop_of("abc"), stop_of("bc")};
    struct feed feed = {.sent_bytes = 0};
    stops_open(&feed.stops, together, 3);
    feed_push(&feed, "xab", 3);
    assert_int_equal(feed.sent_bytes, 1);
    feed_push(&feed, "c", 1);
    assert_true(feed.stopped);
    assert_int_equal(feed.sent_bytes, 1);
    stops_close(&feed.stops);
}

static void characters_of_many_bytes(void **state)
{
    (void)state;
    /* A stop string that is one character of four bytes, and one that begins like another one. */
    const struct stop_string strings[] = {stop_of("\xf0\x9f\x98\x80"), stop_of("\xc3\xa9.")};
    static const char text[] = "caf\xc3\xa9 \xf0\x9f\x98\x81 \xc3\xa8. \xf0\x9f\x98\x80 more";
    const size_t expected = strlen("caf\xc3\xa9 \xf0\x9f\x98\x81 \xc3\xa8. ");
    for (size_t piece = 1; piece < sizeof(text); piece++) {
        struct feed feed = {.sent_bytes = 0};
        stops_open(&feed.stops, strings, 2);
        for (size_t at = 0; at < sizeof(text) - 1 && !feed.stopped; at += piece) {
            size_t bytes = sizeof(text) - 1 - at < piece ? sizeof(text) - 1 - at : piece;
            feed_push(&feed, text + at, bytes);
        }
        assert_true(feed.stopped);
        assert_int_equal(feed.sent_bytes, expected);
        assert_memory_equal(feed.sent, text, expected);
        stops_close(&feed.stops);
    }
}

static void without_stops_nothing_is_held(void **state)
{
    (void)state;
    struct feed feed = {.sent_bytes = 0};
    stops_open(&feed.stops, NULL, 0);
    feed_push(&feed, "", 0);
    feed_push(&feed, "text", 4);
    assert_int_equal(feed.sent_bytes, 4);
    assert_false(feed.stopped);
    stops_close(&feed.stops);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_gives_the_same),
        cmocka_unit_test(text_of_a_stop_string_is_never_sent),
        cmocka_unit_test(what_is_complete_first_counts),
        cmocka_unit_test(characters_of_many_bytes),
        cmocka_unit_test(without_stops_nothing_is_held),
    };
    random_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 20250704;
    printf("seed %llu\n", (unsigned long long)random_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
