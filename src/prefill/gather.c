/* The longest prefix that need not be computed: from the own tree, then from peers, then from the
 * store.
 *
 *     own tree |#######|
 *     peer A           |=======|            each range is fetched on its own, in parallel;
 *     store                    |=====|p|    one that fails or takes longer than computing it would
 *     compute                          |.   goes to another peer that lends it, then to the store,
 *                                           and else to compute
 *
 * Of blocks that two peers on other hosts lend, each gives a part, as their links are fast: there
 * the links are what takes the time. (On one host it is the copying, and one thread does that.)
 *
 * The store is asked for whatever no peer lends: it knows better than anybody what it has, and a
 * request that goes on from a handoff by the store asks for the prompt's last, partial block (p)
 * too, which has a key of its own.
 *
 * When every range has ended, what landed is sealed, and holes in it are computed: a chunk ends
 * where the next landed block begins, and the next chunk begins behind those (prefill_skip).
 * Nothing waits here: ranges end by reports, which the transfer makes within each one's deadline.
 */
#include <assert.h>
#include <string.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "prefill/request.h"
#include "transfer/transfer.h"

/* A deadline is what computing the range would take, so that a slow source costs at most as much
 * again as it might have saved; but no less than this, in which a busy machine gets nowhere. */
#define GATHER_LEAST_MS 250u
#define GATHER_UNKNOWN_MS 2000u /* nothing was computed here yet */
#define GATHER_RESUME_MS 1000u  /* what goes on is not to be computed twice */

/* ---- rates ---- */

static struct prefill_peer *gather_peer(struct prefill *prefill, uint64_t incarnation)
{
    struct prefill_peer *oldest = &prefill->peers[0];
    for (uint32_t i = 0; i < PREFILL_PEERS_MAX; i++) {
        struct prefill_peer *peer = &prefill->peers[i];
        if (peer->incarnation == incarnation)
            return peer;
        if (peer->used_ns < oldest->used_ns)
            oldest = peer;
    }
    *oldest = (struct prefill_peer){.incarnation = incarnation};
    return oldest;
}

static double gather_compute_s(const struct prefill *prefill, uint32_t blocks)
{
    return prefill->tokens_per_s > 0 ? blocks * prefill->block_tokens / prefill->tokens_per_s : 0;
}

static uint32_t gather_deadline_ms(const struct prefill *prefill, const struct wire_request *wire,
                                   uint32_t blocks)
{
    double ms = gather_compute_s(prefill, blocks) * 1000;
    if (prefill->tokens_per_s <= 0)
        ms = GATHER_UNKNOWN_MS;
    double least_ms = wire->resumed_tokens > 0 ? GATHER_RESUME_MS : GATHER_LEAST_MS;
    if (ms < least_ms)
        ms = least_ms;
    return ms < wire->deadline_ms ? (uint32_t)ms : wire->deadline_ms;
}

/* Slower than computing, as far as one knows; of no interest to what goes on from elsewhere. Each
 * time it is passed over its rate is believed a little less, so that it is tried again some day. */
static bool gather_is_slow(const struct prefill *prefill, const struct prefill_request *request,
                           struct prefill_peer *peer, uint32_t blocks)
{
    double compute_s = gather_compute_s(prefill, blocks);
    double bytes = (double)blocks * (double)engine_layout(prefill->engine)->block_bytes;
    if (request->wire->resumed_tokens > 0 || peer->bytes_per_s <= 0 || compute_s <= 0 ||
        bytes / peer->bytes_per_s <= compute_s)
        return false;
    peer->bytes_per_s *= 1.25;
    return true;
}

/* ---- ranges ---- */

static bool gather_has(const struct wire_source *source, uint32_t block)
{
    return source->first_block <= block && block - source->first_block < source->block_count;
}

static uint32_t gather_source_end(const struct wire_source *source, uint32_t end)
{
    uint32_t source_end = source->first_block + source->block_count;
    return end < source_end ? end : source_end;
}

/* From the first of two on other hosts that lend first, and the one that lends more: how many
 * leading blocks of first .. end come from the one that lends less, so that both end together.
 * part_out: that one. 0: all from the other; halves would be too small. */
static uint32_t gather_part(struct prefill *prefill, const struct prefill_request *request,
                            uint32_t first, uint32_t end, uint32_t *part_out)
{
    const struct wire_request *wire = request->wire;
    double block_bytes = (double)engine_layout(prefill->engine)->block_bytes;
    uint32_t found[2], count = 0;
    for (uint32_t i = 0; i < wire->source_count && count < 2; i++) {
        const struct wire_source *source = &wire->sources[i];
        if ((request->sources_used >> i & 1) == 0 && gather_has(source, first) &&
            source->again != 0 && source->holder.transfer_unix[0] == '\0')
            found[count++] = i;
    }
    if (count < 2)
        return 0;
    bool second = gather_source_end(&wire->sources[found[1]], end) >
                  gather_source_end(&wire->sources[found[0]], end);
    const struct wire_source *more = &wire->sources[found[second]];
    const struct wire_source *less = &wire->sources[found[!second]];
    double more_rate = gather_peer(prefill, more->holder.incarnation)->bytes_per_s;
    double less_rate = gather_peer(prefill, less->holder.incarnation)->bytes_per_s;
    if (more_rate <= 0 || less_rate <= 0) /* What is not known is as the other one. */
        more_rate = less_rate = more_rate > 0 ? more_rate : less_rate > 0 ? less_rate : 1;
    uint32_t blocks = gather_source_end(more, end) - first;
    uint32_t most = gather_source_end(less, end) - first;
    uint32_t part = (uint32_t)(blocks * (less_rate / (less_rate + more_rate)));
    part = part < most ? part : most;
    double least = prefill->options.split_bytes;
    if (part * block_bytes < least || (blocks - part) * block_bytes < least)
        return 0;
    *part_out = found[!second];
    return part;
}

static struct prefill_range *gather_range_add(struct prefill_request *request, enum wire_from from,
                                              uint32_t first, uint32_t count)
{
    if (request->range_count == WIRE_RANGES_MAX)
        return NULL;
    struct prefill_range *range = &request->ranges[request->range_count++];
    *range = (struct prefill_range){
        .started_ns = clock_ns(),
        .told = {.from = from, .first_block = first, .block_count = count, .status = ERR_REFUSED}};
    return range;
}

static status gather_receive(struct prefill *prefill, struct prefill_request *request,
                             const struct prefill_range *range)
{
    const struct wire_request *wire = request->wire;
    const struct wire_source *source = &wire->sources[range->source];
    struct address local, remote;
    struct transfer_wish wish = {
        .lease = source->lease,
        .request_id = wire->request_id,
        .epoch = wire->epoch,
        .source.incarnation = source->holder.incarnation,
        .first_index = range->told.first_block,
        .block_ids = request->ids + range->told.first_block,
        .block_count = range->told.block_count,
        .deadline_ms = gather_deadline_ms(prefill, wire, range->told.block_count),
    };
    if (address_parse_numeric(source->holder.transfer_unix, &local) == OK)
        wish.source.local = &local;
    if (address_parse_numeric(source->holder.transfer_tcp, &remote) == OK)
        wish.source.remote = &remote;
    return transfer_receive(prefill->transfer, &wish);
}

/* Fetch first .. end from this source. False: it does not, and is not asked again. */
static bool gather_ask_one(struct prefill *prefill, struct prefill_request *request, uint32_t i,
                           uint32_t first, uint32_t end)
{
    const struct wire_source *source = &request->wire->sources[i];
    struct prefill_range *range = gather_range_add(request, WIRE_FROM_PEER, first, end - first);
    if (range == NULL)
        return false;
    request->sources_used |= 1u << i;
    range->source = i;
    range->told.holder = source->holder.incarnation;
    if (gather_is_slow(prefill, request, gather_peer(prefill, source->holder.incarnation),
                       end - first)) {
        range->told.status = ERR_TIMEOUT;
        return false;
    }
    range->told.status = gather_receive(prefill, request, range);
    range->open = range->told.status == OK;
    if (range->open)
        request->ranges_open++;
    else
        prefill->counters.gather_failures++;
    return range->open;
}

/* Fetch first .. end, or a beginning of it, from a source that lends first and is free. Answers
 * where that ends; first: nobody does. */
static uint32_t gather_ask(struct prefill *prefill, struct prefill_request *request, uint32_t first,
                           uint32_t end)
{
    const struct wire_request *wire = request->wire;
    uint32_t lesser, part = gather_part(prefill, request, first, end, &lesser);
    if (part > 0 && gather_ask_one(prefill, request, lesser, first, first + part))
        return first + part;
    for (uint32_t i = 0; i < wire->source_count; i++) {
        const struct wire_source *source = &wire->sources[i];
        if ((request->sources_used >> i & 1) != 0 || !gather_has(source, first))
            continue;
        uint32_t source_end = gather_source_end(source, end);
        if (gather_ask_one(prefill, request, i, first, source_end))
            return source_end;
    }
    return first;
}

/* Somebody lends first and may be asked again, when what is fetched from there has come: where
 * those blocks end; first: nobody. */
static uint32_t gather_busy_end(const struct prefill_request *request, uint32_t first, uint32_t end)
{
    for (uint32_t i = 0; i < request->range_count; i++) {
        const struct prefill_range *range = &request->ranges[i];
        const struct wire_source *source = &request->wire->sources[range->source];
        if (range->open && range->told.from == WIRE_FROM_PEER && source->again != 0 &&
            gather_has(source, first))
            return gather_source_end(source, end);
    }
    return first;
}

/* Have the store fill count blocks from first on. */
static void gather_fetch(struct prefill *prefill, struct prefill_request *request,
                         const struct block_key *keys, uint32_t first, uint32_t count)
{
    if (gather_is_slow(prefill, request, &prefill->store, count))
        return;
    struct prefill_range *range = gather_range_add(request, WIRE_FROM_STORE, first, count);
    if (range == NULL)
        return;
    range->ticket = ++prefill->next_ticket;
    status st = prefill->calls->fetch(prefill->ctx, range->ticket, keys, request->ids + first,
                                      count, gather_deadline_ms(prefill, request->wire, count));
    range->told.status = st;
    range->open = st == OK;
    if (st == OK)
        request->ranges_open++;
    else
        request->range_count--; /* There is no store, or none now. */
}

/* Where, behind a block that nobody lends, somebody lends again. */
static uint32_t gather_gap_end(const struct prefill_request *request, uint32_t first, uint32_t end)
{
    const struct wire_request *wire = request->wire;
    for (uint32_t i = 0; i < wire->source_count; i++) {
        uint32_t start = wire->sources[i].first_block;
        if ((request->sources_used >> i & 1) == 0 && start > first && start < end)
            end = start;
    }
    return end;
}

/* first .. end from the peers that lend it, and what none of them does from the store, unless it
 * was asked. */
static void gather_cover(struct prefill *prefill, struct prefill_request *request, uint32_t first,
                         uint32_t end, bool asks_store)
{
    while (first < end) {
        uint32_t next =
            prefill->transfer != NULL ? gather_ask(prefill, request, first, end) : first;
        if (next == first && request->later_end == 0 &&
            (next = gather_busy_end(request, first, end)) > first) {
            request->later_first = first;
            request->later_end = next;
        }
        if (next == first) {
            next = prefill->transfer != NULL ? gather_gap_end(request, first, end) : end;
            if (asks_store)
                gather_fetch(prefill, request, request->keys + first, first, next - first);
        }
        first = next;
    }
}

/* The prompt's last block, as it was when its prefill was handed over by the store: one token has
 * come since. */
static void gather_cover_partial(struct prefill *prefill, struct prefill_request *request)
{
    const struct wire_request *wire = request->wire;
    uint32_t full = (wire->prompt_tokens - 1) / prefill->block_tokens;
    uint32_t tokens = (wire->prompt_tokens - 1) % prefill->block_tokens;
    if (wire->resumed_tokens != 1 || tokens == 0 ||
        request->table.token_count == wire->prompt_tokens - 1)
        return;
    struct block_key key = block_key_next(full > 0 ? &request->keys[full - 1] : &request->root,
                                          wire->prompt + full * prefill->block_tokens, tokens);
    gather_fetch(prefill, request, &key, full, 1);
}

/* The last token is always computed. */
static uint32_t gather_tokens(const struct prefill *prefill, const struct prefill_request *request,
                              uint32_t blocks)
{
    uint64_t tokens = (uint64_t)blocks * prefill->block_tokens;
    uint32_t most = request->wire->prompt_tokens - 1;
    return tokens < most ? (uint32_t)tokens : most;
}

/* The range that block number at landed with; NULL: it did not. */
static struct prefill_range *gather_range_with(struct prefill_request *request, uint32_t at)
{
    for (uint32_t i = 0; i < request->range_count; i++) {
        struct prefill_range *range = &request->ranges[i];
        if (range->told.first_block <= at && at - range->told.first_block < range->landed_blocks)
            return range;
    }
    return NULL;
}

void prefill_skip(struct prefill *prefill, struct prefill_request *request)
{
    for (;;) {
        uint32_t at = request->table.token_count / prefill->block_tokens;
        struct prefill_range *range = gather_range_with(request, at);
        if (range == NULL)
            return;
        uint32_t end = range->told.first_block + range->landed_blocks;
        uint32_t tokens = gather_tokens(prefill, request, end);
        if (tokens <= request->table.token_count)
            return;
        tokens -= request->table.token_count;
        block_table_advance(&request->table, tokens);
        bool is_store = range->told.from == WIRE_FROM_STORE;
        *(is_store ? &request->store_tokens : &request->peer_tokens) += tokens;
        *(is_store ? &prefill->counters.store_tokens : &prefill->counters.peer_tokens) += tokens;
        prefill->counters.prefix_hits += tokens;
        request->cached_tokens += tokens;
    }
}

uint32_t prefill_hole_end(const struct prefill *prefill, const struct prefill_request *request)
{
    uint32_t position = request->table.token_count, end = request->wire->prompt_tokens;
    for (uint32_t i = 0; i < request->range_count; i++) {
        const struct prefill_range *range = &request->ranges[i];
        uint32_t start = range->told.first_block * prefill->block_tokens;
        if (range->landed_blocks > 0 && start > position && start < end)
            end = start;
    }
    return end;
}

/* Every range has ended: computing starts at the first block that is not there. */
static void gather_end(struct prefill *prefill, struct prefill_request *request)
{
    prefill_skip(prefill, request);
    prefill_seal(prefill, request);
    request->gather_ns = clock_ns() - request->gather_started_ns;
    request->gather = PREFILL_GATHERED;
    prefill_twins_release(prefill, request);
}

/* Leading blocks that are here, referenced: a twin's, with the partial one, else the tree's. */
static uint32_t gather_own(struct prefill *prefill, struct prefill_request *request, bool looks,
                           uint32_t most, uint32_t *tokens_out)
{
    const struct prefill_request *twin = prefill_twin(prefill, request);
    *tokens_out = 0;
    if (twin == NULL && !looks)
        return 0;
    if (twin == NULL) {
        uint32_t matched = prefix_tree_match(prefill->tree, request->keys, most, request->ids);
        *tokens_out = matched * prefill->block_tokens;
        return matched;
    }
    uint32_t tokens = request->wire->prompt_tokens - 1;
    uint32_t blocks = kv_blocks_for(tokens, prefill->block_tokens);
    for (uint32_t i = 0; i < blocks; i++) {
        request->ids[i] = twin->ids[i];
        prefix_tree_share(prefill->tree, request->ids[i]);
    }
    *tokens_out = tokens;
    return blocks;
}

/* The own prefix, and blocks for the rest of the prompt. */
static status gather_take(struct prefill *prefill, struct prefill_request *request, bool looks,
                          uint32_t most)
{
    const struct wire_request *wire = request->wire;
    struct block_copy copy;
    uint32_t tokens, blocks = gather_own(prefill, request, looks, most, &tokens);
    block_table_adopt(&request->table, request->ids, blocks, tokens);
    status st = block_table_reserve(&request->table, prefill->tree,
                                    wire->prompt_tokens - request->table.token_count, &copy);
    if (st != OK) {
        block_table_drop(&request->table, prefill->tree);
        return st;
    }
    if (copy.needed) /* The twin writes its own token into that one. */
        engine_block_copy(prefill->engine, copy.from, copy.to);
    request->cached_tokens = tokens;
    request->sealed_blocks = tokens / prefill->block_tokens;
    return OK;
}

status prefill_gather(struct prefill *prefill, struct prefill_request *request)
{
    const struct wire_request *wire = request->wire;
    bool fetches = (wire->flags & WIRE_REQUEST_NO_PREFIX) == 0;
    bool looks = fetches && prefill->options.prefix_cache;
    /* At least the last token is computed: its logits are what the request came for. */
    uint32_t most = (wire->prompt_tokens - 1) / prefill->block_tokens;
    status st = gather_take(prefill, request, looks, most);
    if (st != OK)
        return st;
    if (fetches) {
        prefill->counters.prefix_queries += wire->prompt_tokens;
        prefill->counters.prefix_hits += request->cached_tokens;
    }
    request->gather_started_ns = clock_ns();
    request->gather = PREFILL_GATHERING;
    if (fetches) {
        gather_cover(prefill, request, request->sealed_blocks, most, true);
        gather_cover_partial(prefill, request);
    }
    if (request->ranges_open == 0)
        gather_end(prefill, request);
    return OK;
}

void prefill_gather_cancel(struct prefill *prefill, struct prefill_request *request)
{
    for (uint32_t i = 0; i < request->range_count; i++) {
        const struct prefill_range *range = &request->ranges[i];
        if (range->open && range->told.from == WIRE_FROM_STORE)
            prefill->calls->fetch_cancel(prefill->ctx, range->ticket);
        else if (range->open)
            transfer_receive_cancel(prefill->transfer,
                                    &request->wire->sources[range->source].lease);
    }
}

/* ---- how ranges end ---- */

/* Of a peer, by lease, or (lease NULL) of the store, by ticket. */
static struct prefill_range *gather_range_of(const struct prefill_list *list,
                                             const struct lease_id *lease, uint64_t ticket,
                                             struct prefill_request **request_out)
{
    for (struct prefill_request *r = list->head; r != NULL; r = r->next) {
        for (uint32_t i = 0; r->ranges_open > 0 && i < r->range_count; i++) {
            struct prefill_range *range = &r->ranges[i];
            bool is_store = range->told.from == WIRE_FROM_STORE;
            if (!range->open || is_store != (lease == NULL))
                continue;
            if (is_store ? range->ticket == ticket
                         : lease_id_equal(&r->wire->sources[range->source].lease, lease)) {
                *request_out = r;
                return range;
            }
        }
    }
    return NULL;
}

/* What is said of a range, and learnt of where it came from. It ended at ended_ns, which may be
 * a whole step ago, and bytes came in the last moved_s of it. */
static void gather_range_end(struct prefill *prefill, struct prefill_range *range,
                             struct prefill_peer *peer, status result, uint64_t bytes,
                             uint64_t ended_ns, double moved_s)
{
    uint64_t moved_ns = (uint64_t)(moved_s * 1e9);
    range->open = false;
    range->told.status = result;
    range->told.bytes = bytes;
    range->told.ns = ended_ns > range->started_ns ? ended_ns - range->started_ns : 0;
    moved_ns = moved_ns < range->told.ns ? moved_ns : range->told.ns;
    range->told.wait_ns = range->told.ns - moved_ns;
    peer->used_ns = clock_ns();
    if (result == OK && bytes > 0 && moved_ns > 0) {
        double rate = (double)bytes * 1e9 / (double)moved_ns;
        peer->bytes_per_s = peer->bytes_per_s > 0 ? 0.75 * peer->bytes_per_s + 0.25 * rate : rate;
    } else if (result == ERR_TIMEOUT) {
        double least = (double)engine_layout(prefill->engine)->block_bytes *
                       range->told.block_count * 1e9 / ((double)range->told.ns + 1);
        peer->bytes_per_s = least; /* at best; it did not get there */
    }
}

/* A range of a request that was given up has ended. */
static void gather_retired(struct prefill *prefill, struct prefill_request *request)
{
    request->ranges_open--;
    if (request->ranges_open == 0 && !request->lease_open) {
        prefill_list_remove(&prefill->held, request);
        prefill_request_close(prefill, request);
    }
}

/* Of a range that has ended what did not land goes elsewhere. */
static void gather_next(struct prefill *prefill, struct prefill_request *request,
                        const struct prefill_range *range, const char *text)
{
    bool is_store = range->told.from == WIRE_FROM_STORE;
    uint32_t first = range->told.first_block + range->landed_blocks;
    uint32_t end = range->told.first_block + range->told.block_count;
    request->ranges_open--;
    if (!is_store && first == end && request->wire->sources[range->source].again != 0)
        request->sources_used &= ~(1u << range->source);
    if (range->told.status != OK) {
        prefill->counters.gather_failures++;
        log_line(LOG_INFO, request->wire->request_id, "blocks not fetched",
                 "from=%s blocks=%u status=\"%s\" reason=\"%s\"",
                 is_store ? "store" : request->wire->sources[range->source].holder.name,
                 end - first, status_name(range->told.status), text);
    }
    if (end <= (request->wire->prompt_tokens - 1) / prefill->block_tokens)
        gather_cover(prefill, request, first, end, !is_store);
    first = request->later_first;
    end = request->later_end;
    request->later_first = request->later_end = 0;
    gather_cover(prefill, request, first, end, true);
    if (request->ranges_open == 0)
        gather_end(prefill, request);
}

bool prefill_gathered(struct prefill *prefill, const struct transfer_report *report)
{
    struct prefill_request *request;
    struct prefill_range *range = gather_range_of(&prefill->waiting, &report->lease, 0, &request);
    bool retired = range == NULL;
    if (retired)
        range = gather_range_of(&prefill->held, &report->lease, 0, &request);
    if (range == NULL)
        return false;
    range->told.carrier = (uint32_t)report->carrier;
    if (report->mail.kind == TRANSFER_RECEIVED) /* It may have fewer by now. */
        range->landed_blocks = report->block_count < range->told.block_count
                                   ? report->block_count
                                   : range->told.block_count;
    gather_range_end(prefill, range, gather_peer(prefill, range->told.holder), report->status,
                     report->bytes, report->ended_ns, report->seconds);
    if (retired)
        gather_retired(prefill, request);
    else
        gather_next(prefill, request, range, report->text);
    return true;
}

void prefill_fetched(struct prefill *prefill, const struct prefill_fetch *fetch)
{
    struct prefill_request *request;
    struct prefill_range *range = gather_range_of(&prefill->waiting, NULL, fetch->ticket, &request);
    bool retired = range == NULL;
    if (retired)
        range = gather_range_of(&prefill->held, NULL, fetch->ticket, &request);
    assert(range != NULL && fetch->block_count <= range->told.block_count);
    range->landed_blocks = fetch->block_count;
    gather_range_end(prefill, range, &prefill->store, fetch->status, fetch->bytes, fetch->ended_ns,
                     fetch->seconds);
    if (retired)
        gather_retired(prefill, request);
    else
        gather_next(prefill, request, range, fetch->text);
}

void prefill_seal(struct prefill *prefill, struct prefill_request *request)
{
    if ((request->wire->flags & WIRE_REQUEST_NO_PREFIX) != 0)
        return;
    uint32_t full = request->table.token_count / prefill->block_tokens;
    while (request->sealed_blocks < full) {
        uint32_t i = request->sealed_blocks++;
        const struct block_key *parent = i > 0 ? &request->keys[i - 1] : NULL;
        block_id there;
        status st = OK;
        /* Another block with this key, or a parent that is gone: ours stays private. It is not
         * swapped, because its id may be on offer. */
        if (prefill->options.prefix_cache)
            st = prefix_tree_insert(prefill->tree, &request->keys[i], parent, request->ids[i],
                                    &there);
        if (gather_range_with(request, i) == NULL && st != ERR_FULL)
            prefill->calls->sealed(prefill->ctx, request->saves ? request->wire->request_id : 0,
                                   &request->keys[i], parent, request->ids[i]);
    }
}
