#include "model/token_list.h"

#include <stdlib.h>

#include "base/error.h"

#define TOKEN_LIST_CAPACITY_MIN 256

status token_list_push(struct token_list *list, size_t limit_tokens, uint32_t id)
{
    if (list->count >= limit_tokens)
        return error_set(ERR_FULL, "the text has more than %zu tokens", limit_tokens);
    if (list->count == list->capacity) {
        size_t capacity =
            list->capacity > TOKEN_LIST_CAPACITY_MIN ? list->capacity : TOKEN_LIST_CAPACITY_MIN;
        uint32_t *ids = capacity < SIZE_MAX / 2 / sizeof(*ids)
                            ? realloc(list->ids, 2 * capacity * sizeof(*ids))
                            : NULL;
        if (ids == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for %zu tokens", 2 * capacity);
        list->ids = ids;
        list->capacity = 2 * capacity;
    }
    list->ids[list->count++] = id;
    return OK;
}

void token_list_close(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}
