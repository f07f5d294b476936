/* Sequences of one prompt (n > 1) that was handed over by the store: one of them fetches it.
 *
 *     first    gathers, then runs    |=======|p|t1      p: the prompt's last block, partial
 *     twins    wait for it, then     |=======|p'|t2     the same blocks; p copied before it is
 *              share its blocks                         written to
 *
 * What did not come for the one does not come for the others in its way: each of them goes alone.
 */
#include <string.h>

#include "prefill/request.h"

/* Both go on from the same prompt, each with a first token of its own. */
static bool twins_are(const struct prefill_request *x, const struct prefill_request *y)
{
    const struct wire_request *a = x->wire, *b = y->wire;
    return x != y && a->resumed_tokens == 1 && b->resumed_tokens == 1 &&
           ((a->flags | b->flags) & WIRE_REQUEST_NO_PREFIX) == 0 &&
           a->prompt_tokens == b->prompt_tokens && block_key_equal(&x->root, &y->root) &&
           memcmp(a->prompt, b->prompt, (a->prompt_tokens - 1) * sizeof(a->prompt[0])) == 0;
}

/* It has all of what its twins go on from. */
static bool twin_is_whole(const struct prefill_request *request)
{
    return request->gather == PREFILL_GATHERED &&
           request->table.token_count >= request->wire->prompt_tokens - 1;
}

bool prefill_waits_for_twin(const struct prefill *prefill, const struct prefill_request *request)
{
    if (request->wire->resumed_tokens != 1 || request->goes_alone)
        return false;
    for (const struct prefill_request *r = prefill->waiting.head; r != NULL; r = r->next) {
        if (r->gather == PREFILL_GATHERING && twins_are(r, request))
            return true;
    }
    return false;
}

const struct prefill_request *prefill_twin(const struct prefill *prefill,
                                           const struct prefill_request *request)
{
    const struct prefill_list *lists[] = {&prefill->waiting, &prefill->batch};
    for (int i = 0; request->wire->resumed_tokens == 1 && i < 2; i++) {
        for (const struct prefill_request *r = lists[i]->head; r != NULL; r = r->next) {
            if (twin_is_whole(r) && twins_are(r, request))
                return r;
        }
    }
    return NULL;
}

void prefill_twins_release(struct prefill *prefill, const struct prefill_request *request)
{
    if (twin_is_whole(request))
        return;
    for (struct prefill_request *r = prefill->waiting.head; r != NULL; r = r->next)
        r->goes_alone = r->goes_alone || twins_are(r, request);
}
