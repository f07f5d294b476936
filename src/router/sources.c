/* Which peers lend blocks of a prompt, and what is told to them. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/request.h"

/* A lending that nobody came for is over after this; usually it is ended when the first token is
 * there. */
#define LEND_EXPIRY_MS 30000u
#define SOURCES_ASKED 2u /* one to fetch from, and one to stand in for it */

void sources_keys(const struct hello *worker, const uint8_t salt[WIRE_SALT_BYTES],
                  const struct token_list *prompt, struct block_key **keys_out, uint32_t *count_out)
{
    uint32_t count = (uint32_t)prompt->count / worker->block_tokens;
    *count_out = 0;
    *keys_out = count > 0 ? malloc(count * sizeof(**keys_out)) : NULL;
    if (*keys_out == NULL)
        return; /* Without keys nobody is asked, and all is computed. */
    struct block_key root =
        block_key_root(worker->fingerprint, worker->layout_hash, (enum dtype)worker->kv_dtype,
                       worker->numerics_class, salt, WIRE_SALT_BYTES);
    *count_out = block_key_chain(&root, prompt->ids, (uint32_t)prompt->count, worker->block_tokens,
                                 *keys_out);
}

const struct block_key *sources_keys_of(const struct request *request, uint32_t *count_out)
{
    bool resumed = request->wire.resumed_tokens > 0;
    bool looks = (request->wire.flags & WIRE_REQUEST_NO_PREFIX) == 0;
    *count_out = !looks ? 0 : resumed ? request->resumed_key_count : request->key_count;
    return resumed ? request->resumed_keys : request->keys;
}

void sources_resume(struct request *request)
{
    const struct hello *worker = &request->answer->worker;
    const struct token_list *tokens = &request->resumed;
    free(request->resumed_keys);
    request->resumed_keys = NULL;
    request->resumed_key_count = 0;
    uint32_t count =
        request->block_tokens > 0 ? (uint32_t)tokens->count / request->block_tokens : 0;
    struct block_key *keys = count > 0 ? malloc(count * sizeof(*keys)) : NULL;
    if (keys == NULL)
        return; /* Nobody is asked, and all is computed. */
    if (request->key_count > 0)
        memcpy(keys, request->keys, request->key_count * sizeof(*keys));
    const struct block_key root =
        block_key_root(worker->fingerprint, worker->layout_hash, (enum dtype)worker->kv_dtype,
                       worker->numerics_class, request->wire.salt, WIRE_SALT_BYTES);
    for (uint32_t i = request->key_count; i < count; i++)
        keys[i] =
            block_key_next(i > 0 ? &keys[i - 1] : &root,
                           tokens->ids + (size_t)i * request->block_tokens, request->block_tokens);
    request->resumed_keys = keys;
    request->resumed_key_count = count;
}

void route_holder_fill(const struct worker *holder, const struct worker *asker,
                       struct wire_holder *out)
{
    const struct wire_register *from = &holder->registration;
    *out = (struct wire_holder){.incarnation = from->incarnation};
    memcpy(out->name, from->name, sizeof(out->name));
    if (strcmp(from->host, asker->registration.host) == 0)
        memcpy(out->transfer_unix, from->transfer_unix, sizeof(out->transfer_unix));
    memcpy(out->transfer_tcp, from->transfer_tcp, sizeof(out->transfer_tcp));
}

static void sources_add(struct request *request, struct worker *holder, const struct worker *asker,
                        uint32_t first_block, uint32_t end_block, bool again)
{
    struct router *router = request->answer->router;
    uint32_t key_count;
    const struct block_key *keys = sources_keys_of(request, &key_count);
    struct wire_source *source = &request->sources[request->wire.source_count];
    *source = (struct wire_source){
        .first_block = first_block, .block_count = end_block - first_block, .again = again};
    uint32_t bit = UINT32_C(1) << request->wire.source_count;
    bool decodes_only = holder->ahead_count == 0 && holder->decoding > 0;
    request->holders_decoding &= ~bit;
    request->holders_decoding |= decodes_only ? bit : 0;
    route_holder_fill(holder, asker, &source->holder);
    lease_id_random(&source->lease);
    struct wire_lend lend = {.request_id = request->wire.request_id,
                             .lease = source->lease,
                             .epoch = request->wire.epoch,
                             .expiry_ms = LEND_EXPIRY_MS,
                             .first_block = first_block,
                             .again = again,
                             .key_count = end_block,
                             .keys = keys[0].bytes};
    wire_frame_reset(&router->frame);
    wire_lend_encode(&router->frame, &lend);
    route_send(holder, WIRE_LEND, &router->frame);
    request->wire.source_count++;
    log_line(LOG_DEBUG, request->id, "lend", "holder=%s asker=%s first=%u blocks=%u",
             holder->registration.name, asker->registration.name, first_block,
             end_block - first_block);
}

void sources_ask(struct request *request, struct worker *asker, struct worker *holder,
                 const uint32_t *runs)
{
    struct router *router = request->answer->router;
    request->wire.source_count = 0;
    if (request->block_tokens == 0)
        return;
    uint32_t most = (request->wire.prompt_tokens - 1) / request->block_tokens;
    uint32_t own = asker->slot >= 0 ? runs[asker->slot] : 0;
    request->wire.sources = request->sources;
    struct worker *holders[SOURCES_ASKED];
    uint32_t ends[SOURCES_ASKED], count = 0;
    while (holder != NULL && count < SOURCES_ASKED) {
        uint32_t run = runs[holder->slot] < most ? runs[holder->slot] : most;
        if (run <= own || run > WIRE_KEYS_MAX)
            break;
        holders[count] = holder;
        ends[count++] = run;
        struct worker *next = NULL;
        for (struct worker *w = router->workers; w != NULL; w = w->next) {
            if (w->registered && !w->closed && w->slot >= 0 && w != asker && w != holder &&
                handoff_may_fetch(asker, w) && runs[w->slot] <= runs[holder->slot] &&
                runs[w->slot] > own && (next == NULL || runs[w->slot] > runs[next->slot]))
                next = w;
        }
        holder = next;
    }
    /* Of several each may have to do what another one did not. */
    for (uint32_t i = 0; i < count; i++)
        sources_add(request, holders[i], asker, own, ends[i], count > 1);
}

void sources_end(struct request *request)
{
    struct router *router = request->answer->router;
    for (uint32_t i = 0; i < request->wire.source_count; i++) {
        for (struct worker *w = router->workers; w != NULL; w = w->next) {
            if (!w->registered || w->closed ||
                w->registration.incarnation != request->sources[i].holder.incarnation)
                continue;
            wire_frame_reset(&router->frame);
            wire_id_encode(&router->frame, request->wire.request_id);
            route_send(w, WIRE_LEND_END, &router->frame);
        }
    }
    request->wire.source_count = 0;
}

static double sources_mean(double known, double found)
{
    return known > 0 ? 0.75 * known + 0.25 * found : found;
}

/* Of what a peer lent. It does so between two steps: how long one with a prompt takes is predicted
 * from that prompt, and how long one of decoding alone is measured here. */
static void sources_measure_peer(struct worker *asker, const struct request *request,
                                 const struct wire_range *range)
{
    struct worker *holder = asker->router->workers;
    while (holder != NULL && (!holder->registered || holder->slot < 0 ||
                              holder->registration.incarnation != range->holder))
        holder = holder->next;
    if (holder == NULL || range->ns <= range->wait_ns)
        return;
    struct route_pull *pull = &asker->pulls[holder->slot];
    double found = (double)range->bytes * 1e9 / (double)(range->ns - range->wait_ns);
    pull->rate = (float)sources_mean((double)pull->rate, found);
    pull->measured_ns = clock_ns();
    for (uint32_t i = 0; i < request->wire.source_count; i++) {
        if (request->sources[i].holder.incarnation != range->holder || !request->found_idle ||
            (request->holders_decoding >> i & 1) == 0)
            continue;
        holder->lend_s = sources_mean(holder->lend_s, (double)range->wait_ns / 1e9);
        holder->lend_ns = clock_ns();
        return;
    }
}

/* How fast blocks came and how soon there was a place, by the asker's own clock; the next choice is
 * made with it. */
void sources_measure(struct worker *asker, const struct request *request,
                     const struct wire_first *first)
{
    double place_s = (double)first->place_ns / 1e9;
    /* Behind others it has its place while they are computed. */
    if (first->place_ns > 0 && request->found_idle)
        asker->place_s = sources_mean(asker->place_s, place_s);
    for (uint32_t i = 0; i < first->range_count; i++) {
        const struct wire_range *range = &first->ranges[i];
        if (range->status != OK || range->bytes == 0 || range->ns == 0)
            continue;
        if (range->from == WIRE_FROM_PEER)
            sources_measure_peer(asker, request, range);
        else
            asker->store_rate =
                sources_mean(asker->store_rate, (double)range->bytes * 1e9 / (double)range->ns);
    }
}
