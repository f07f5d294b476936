/* model/jinja/filters.h - what may stand after "|".
 *
 * abs attr batch capitalize center count d default dictsort e escape first float forceescape format
 * groupby indent int items join last length list lower map max min reject rejectattr replace
 * reverse round safe select selectattr slice sort string sum title tojson trim truncate unique
 * upper urlencode wordcount. Of Jinja's own, filesizeformat pprint random striptags urlize wordwrap
 * xmlattr are not built.
 *
 * What is a generator in Python (map, select, unique, ...) is computed when its first item is asked
 * for, and gives each item once.
 */
#ifndef MODEL_JINJA_FILTERS_H
#define MODEL_JINJA_FILTERS_H

#include "model/jinja/eval.h"

/* A filter gets its arguments sorted by its parameters; one without parameters gets the call. */
struct filter {
    const char *name;
    struct value (*apply)(struct render *r, struct value value, const struct value *arguments);
    struct value (*apply_call)(struct render *r, struct value value, const struct call *call);
    const char *parameters;
    size_t required;
    bool lazy; /* makes an iterator, when it is walked */
};

#define FILTER_PARAMETERS_MAX 5

/* A lazy filter that was applied and not walked yet. */
struct pending {
    struct render *render;
    const struct filter *filter;
    struct value value;
    struct call call;
    struct value arguments[FILTER_PARAMETERS_MAX];
};

/* The items it makes; once for each. */
const struct list *pending_make(struct machine *m, const struct pending *pending);

/* NULL when there is no such filter here. */
const struct filter *filter_find(const struct text *name);
/* Jinja has it, and it is not built here. */
bool filter_is_unbuilt(const struct text *name);
struct value filter_apply(struct render *r, const struct filter *filter, struct value value,
                          const struct call *call);

/* The tables of filters_text.c and filters_list.c; end with a NULL name. */
extern const struct filter filters_of_text[];
extern const struct filter filters_of_lists[];

/* An argument as an integer, or otherwise when it was not given. who: for the error. */
int64_t argument_integer(struct machine *m, const char *who, struct value value, int64_t otherwise);

#endif
