#include "model/jinja/sort.h"

#include <string.h>

/* Merge sort from the bottom: runs of 1, 2, 4, ... items. */
void items_sort(struct machine *m, struct sort_item *items, size_t count, bool reverse)
{
    struct sort_item *from = items;
    struct sort_item *to = machine_take_array(m, count, sizeof(*to));
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t start = 0; start < count; start += 2 * run) {
            size_t middle = start + run < count ? start + run : count;
            size_t end = middle + run < count ? middle + run : count;
            size_t left = start, right = middle;
            for (size_t at = start; at < end; at++) {
                bool take_right = left == middle;
                if (left < middle && right < end) {
                    int order = reverse ? value_compare(m, from[left].key, from[right].key, "<")
                                        : value_compare(m, from[right].key, from[left].key, "<");
                    take_right = order < 0;
                }
                to[at] = take_right ? from[right++] : from[left++];
            }
        }
        struct sort_item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items && count > 0)
        memcpy(items, from, count * sizeof(*items));
}

const struct dict_entry *entries_sorted(struct machine *m, const struct dict *dict)
{
    struct sort_item *items = machine_take_array(m, dict->count, sizeof(*items));
    for (size_t i = 0; i < dict->count; i++)
        items[i] = (struct sort_item){.key = dict->entries[i].key, .item = dict->entries[i].value};
    items_sort(m, items, dict->count, false);
    struct dict_entry *entries = machine_take_array(m, dict->count, sizeof(*entries));
    for (size_t i = 0; i < dict->count; i++)
        entries[i] = (struct dict_entry){.key = items[i].key, .value = items[i].item};
    return entries;
}
