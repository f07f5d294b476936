/* model/jinja/sort.h - stable sorting by keys, as Python's sorted. */
#ifndef MODEL_JINJA_SORT_H
#define MODEL_JINJA_SORT_H

#include "model/jinja/value.h"

struct sort_item {
    struct value key, item;
};

/* Sort in place by key; leaves when two keys cannot be ordered. */
void items_sort(struct machine *m, struct sort_item *items, size_t count, bool reverse);

/* The dict's entries by key; a new array. */
const struct dict_entry *entries_sorted(struct machine *m, const struct dict *dict);

#endif
