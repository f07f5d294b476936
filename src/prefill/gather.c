/* The longest prefix that need not be computed: from the own tree, then from peers.
 *
 *     own tree |#######|
 *     peer A           |=======|            each range is fetched on its own, in parallel;
 *     peer B                   |=====|      one that fails or takes longer than computing it would
 *     compute                        |...   goes to another peer that lends it, and else to compute
 *
 * When every range has ended, what landed without a hole is sealed, and computing starts behind it.
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
    if (ms < GATHER_LEAST_MS)
        ms = GATHER_LEAST_MS;
    return ms < wire->deadline_ms ? (uint32_t)ms : wire->deadline_ms;
}

/* Slower than computing, as far as one knows. Each time it is passed over its rate is believed a
 * little less, so that it is tried again some day. */
static bool gather_is_slow(struct prefill *prefill, uint64_t incarnation, uint32_t blocks)
{
    struct prefill_peer *peer = gather_peer(prefill, incarnation);
    double compute_s = gather_compute_s(prefill, blocks);
    double bytes = (double)blocks * (double)engine_layout(prefill->engine)->block_bytes;
    if (peer->bytes_per_s <= 0 || compute_s <= 0 || bytes / peer->bytes_per_s <= compute_s)
        return false;
    peer->bytes_per_s *= 1.25;
    return true;
}

/* ---- ranges ---- */

static struct prefill_range *gather_range_add(struct prefill_request *request, uint32_t source,
                                              uint32_t first, uint32_t count)
{
    if (request->range_count == WIRE_RANGES_MAX)
        return NULL;
    const struct wire_source *from = &request->wire->sources[source];
    struct prefill_range *range = &request->ranges[request->range_count++];
    *range = (struct prefill_range){.source = source,
                                    .started_ns = clock_ns(),
                                    .told = {.from = WIRE_FROM_PEER,
                                             .holder = from->holder.incarnation,
                                             .first_block = first,
                                             .block_count = count,
                                             .status = ERR_REFUSED}};
    request->sources_used |= 1u << source;
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

/* Fetch first .. end from the first source that lends first and was not asked yet. Answers where
 * that source's blocks end; first: nobody lends it. */
static uint32_t gather_ask(struct prefill *prefill, struct prefill_request *request, uint32_t first,
                           uint32_t end)
{
    const struct wire_request *wire = request->wire;
    for (uint32_t i = 0; i < wire->source_count; i++) {
        const struct wire_source *source = &wire->sources[i];
        if ((request->sources_used >> i & 1) != 0 || source->first_block > first ||
            source->block_count <= first - source->first_block)
            continue;
        uint32_t source_end = end - source->first_block < source->block_count
                                  ? end
                                  : source->first_block + source->block_count;
        struct prefill_range *range = gather_range_add(request, i, first, source_end - first);
        if (range == NULL)
            return first;
        if (gather_is_slow(prefill, source->holder.incarnation, source_end - first)) {
            range->told.status = ERR_TIMEOUT;
            continue;
        }
        status st = gather_receive(prefill, request, range);
        range->told.status = st;
        range->open = st == OK;
        if (st == OK) {
            request->ranges_open++;
            return source_end;
        }
        prefill->counters.gather_failures++;
    }
    return first;
}

/* Every range has ended: computing starts where the blocks without a hole end. */
static void gather_end(struct prefill *prefill, struct prefill_request *request)
{
    uint32_t landed = request->table.token_count / prefill->block_tokens;
    uint32_t before = landed;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < request->range_count; i++) {
            const struct wire_range *told = &request->ranges[i].told;
            if (told->status == OK && told->block_count > 0 && told->first_block <= landed &&
                told->first_block + told->block_count > landed) {
                landed = told->first_block + told->block_count;
                more = true;
            }
        }
    }
    request->peer_tokens = (landed - before) * prefill->block_tokens;
    block_table_advance(&request->table, request->peer_tokens);
    request->cached_tokens = request->table.token_count;
    prefill->counters.peer_tokens += request->peer_tokens;
    prefill->counters.prefix_hits += request->peer_tokens;
    prefill_seal(prefill, request);
    request->gather_ns = clock_ns() - request->gather_started_ns;
    request->gather = PREFILL_GATHERED;
}

/* The own prefix, and blocks for the rest of the prompt. */
static status gather_take(struct prefill *prefill, struct prefill_request *request, bool looks,
                          uint32_t most)
{
    const struct wire_request *wire = request->wire;
    struct block_copy copy;
    uint32_t matched = 0;
    if (looks)
        matched = prefix_tree_match(prefill->tree, request->keys, most, request->ids);
    block_table_adopt(&request->table, request->ids, matched, matched * prefill->block_tokens);
    status st = block_table_reserve(&request->table, prefill->tree,
                                    wire->prompt_tokens - request->table.token_count, &copy);
    if (st != OK) {
        block_table_drop(&request->table, prefill->tree);
        return st;
    }
    /* Matched blocks are full, so the first new token never falls into a shared one. */
    request->cached_tokens = request->table.token_count;
    request->sealed_blocks = matched;
    return OK;
}

status prefill_gather(struct prefill *prefill, struct prefill_request *request)
{
    const struct wire_request *wire = request->wire;
    bool looks = prefill->options.prefix_cache && (wire->flags & WIRE_REQUEST_NO_PREFIX) == 0;
    /* At least the last token is computed: its logits are what the request came for. */
    uint32_t most = (wire->prompt_tokens - 1) / prefill->block_tokens;
    status st = gather_take(prefill, request, looks, most);
    if (st != OK)
        return st;
    if (looks) {
        prefill->counters.prefix_queries += wire->prompt_tokens;
        prefill->counters.prefix_hits += request->cached_tokens;
    }
    request->gather_started_ns = clock_ns();
    request->gather = PREFILL_GATHERING;
    for (uint32_t at = request->sealed_blocks; looks && prefill->transfer != NULL && at < most;) {
        uint32_t end = gather_ask(prefill, request, at, most);
        if (end == at)
            break;
        at = end;
    }
    if (request->ranges_open == 0)
        gather_end(prefill, request);
    return OK;
}

void prefill_gather_cancel(struct prefill *prefill, struct prefill_request *request)
{
    for (uint32_t i = 0; i < request->range_count; i++) {
        if (request->ranges[i].open)
            transfer_receive_cancel(prefill->transfer,
                                    &request->wire->sources[request->ranges[i].source].lease);
    }
}

static struct prefill_range *gather_range_of(const struct prefill_list *list,
                                             const struct lease_id *lease,
                                             struct prefill_request **request_out)
{
    for (struct prefill_request *r = list->head; r != NULL; r = r->next) {
        for (uint32_t i = 0; r->ranges_open > 0 && i < r->range_count; i++) {
            struct prefill_range *range = &r->ranges[i];
            if (range->open && lease_id_equal(&r->wire->sources[range->source].lease, lease)) {
                *request_out = r;
                return range;
            }
        }
    }
    return NULL;
}

/* What the report says of a range, and of the peer that it came from. */
static void gather_range_end(struct prefill *prefill, struct prefill_range *range,
                             const struct transfer_report *report)
{
    struct prefill_peer *peer = gather_peer(prefill, range->told.holder);
    uint64_t now_ns = clock_ns();
    range->open = false;
    range->told.status = report->status;
    range->told.carrier = (uint32_t)report->carrier;
    range->told.bytes = report->bytes;
    range->told.ns = now_ns - range->started_ns;
    peer->used_ns = now_ns;
    if (report->mail.kind == TRANSFER_RECEIVED) {
        if (report->block_count < range->told.block_count)
            range->told.block_count = report->block_count; /* It has fewer by now. */
        if (report->bytes > 0 && range->told.ns > 0) {
            double rate = (double)report->bytes * 1e9 / (double)range->told.ns;
            peer->bytes_per_s =
                peer->bytes_per_s > 0 ? 0.75 * peer->bytes_per_s + 0.25 * rate : rate;
        }
    } else if (report->status == ERR_TIMEOUT) {
        double least = (double)engine_layout(prefill->engine)->block_bytes *
                       range->told.block_count * 1e9 / ((double)range->told.ns + 1);
        peer->bytes_per_s = least; /* at best; it did not get there */
    }
}

bool prefill_gathered(struct prefill *prefill, const struct transfer_report *report)
{
    struct prefill_request *request;
    struct prefill_range *range = gather_range_of(&prefill->waiting, &report->lease, &request);
    bool retired = range == NULL;
    if (retired)
        range = gather_range_of(&prefill->held, &report->lease, &request);
    if (range == NULL)
        return false;
    uint32_t first = range->told.first_block, end = first + range->told.block_count;
    gather_range_end(prefill, range, report);
    request->ranges_open--;
    if (retired) {
        if (request->ranges_open == 0 && !request->lease_open) {
            prefill_list_remove(&prefill->held, request);
            prefill_request_close(prefill, request);
        }
        return true;
    }
    if (range->told.status != OK) {
        prefill->counters.gather_failures++;
        log_line(LOG_INFO, request->wire->request_id, "blocks not fetched",
                 "from=%s blocks=%u status=\"%s\" reason=\"%s\"",
                 request->wire->sources[range->source].holder.name, end - first,
                 status_name(range->told.status), report->text);
        while (first < end) {
            uint32_t next = gather_ask(prefill, request, first, end);
            if (next == first)
                break;
            first = next;
        }
    }
    if (request->ranges_open == 0)
        gather_end(prefill, request);
    return true;
}

void prefill_seal(struct prefill *prefill, struct prefill_request *request)
{
    if (!prefill->options.prefix_cache || (request->wire->flags & WIRE_REQUEST_NO_PREFIX) != 0)
        return;
    uint32_t full = request->table.token_count / prefill->block_tokens;
    while (request->sealed_blocks < full) {
        uint32_t i = request->sealed_blocks++;
        block_id there;
        /* Another block with this key, or a parent that is gone: ours stays private. It is not
         * swapped, because its id may be on offer. */
        prefix_tree_insert(prefill->tree, &request->keys[i], i > 0 ? &request->keys[i - 1] : NULL,
                           request->ids[i], &there);
    }
}
