/* model/jinja/tests.h - what may stand after "is". */
#ifndef MODEL_JINJA_TESTS_H
#define MODEL_JINJA_TESTS_H

#include "model/jinja/eval.h"

struct test;

/* NULL when there is no such test. */
const struct test *test_find(const struct text *name);
bool test_apply(struct render *r, const struct test *test, struct value value,
                const struct call *call);

#endif
