/* tests/vectors/token_ids.h - ids of a text against those of a golden. */
#ifndef VECTORS_TOKEN_IDS_H
#define VECTORS_TOKEN_IDS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/tokenizer.h"

/* "1 2 3" -> a list. */
static inline struct token_list parse_ids(const char *words)
{
    struct token_list list = {0};
    list.capacity = strlen(words) / 2 + 1;
    list.ids = calloc(list.capacity, sizeof(*list.ids));
    assert_non_null(list.ids);
    for (char *end; *words != '\0'; words = *end == ' ' ? end + 1 : end) {
        assert_true(list.count < list.capacity);
        list.ids[list.count++] = (uint32_t)strtoul(words, &end, 10);
    }
    return list;
}

/* 1 when the ids of text are not the expected ones, which is said. */
static inline int check_ids(const struct tokenizer *tokenizer, const char *golden, size_t index,
                            const json_t *text, unsigned flags, const char *words)
{
    struct token_list expected = parse_ids(words), found = {0};
    assert_int_equal(OK, tokenizer_encode(tokenizer, json_string_value(text),
                                          json_string_length(text), flags, SIZE_MAX, &found));
    size_t same = 0;
    while (same < expected.count && same < found.count && expected.ids[same] == found.ids[same])
        same++;
    int wrong = same < expected.count || same < found.count;
    if (wrong) {
        fprintf(stderr, "%s text %zu flags %u: %zu ids, expected %zu; from %zu on:", golden, index,
                flags, found.count, expected.count, same);
        for (size_t i = same; i < found.count && i < same + 6; i++)
            fprintf(stderr, " %u", found.ids[i]);
        fprintf(stderr, " expected");
        for (size_t i = same; i < expected.count && i < same + 6; i++)
            fprintf(stderr, " %u", expected.ids[i]);
        fprintf(stderr, "\n");
    }
    free(expected.ids);
    token_list_close(&found);
    return wrong;
}

#endif
