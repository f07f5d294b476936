/* Which requests are computed together, and which of their rows next. */
#include <assert.h>

#include "base/clock.h"
#include "prefill/request.h"

uint32_t prefill_chunk(uint32_t position, uint32_t prompt_tokens, uint32_t rows_left,
                       uint32_t block_tokens)
{
    uint32_t left = prompt_tokens - position;
    if (left <= rows_left)
        return left;
    uint32_t end = (position + rows_left) / block_tokens * block_tokens;
    return end > position ? end - position : 0;
}

/* Tokens of the batch that are not computed yet. */
static uint32_t prefill_batch_left(const struct prefill *prefill)
{
    uint32_t left = 0;
    for (const struct prefill_request *r = prefill->batch.head; r != NULL; r = r->next)
        left += r->wire->prompt_tokens - r->table.token_count;
    return left;
}

/* The running batch has at most one step to go: ask places for those that the next one could take,
 * so that the answers come while that step computes. */
static void prefill_ask_places(struct prefill *prefill)
{
    if (prefill_batch_left(prefill) > prefill->options.chunk_tokens)
        return;
    uint64_t tokens = 0;
    for (struct prefill_request *r = prefill->waiting.head; r != NULL; r = r->next) {
        if (tokens > 0 && tokens + r->wire->prompt_tokens > prefill->options.batch_tokens)
            break;
        tokens += r->wire->prompt_tokens;
        if (r->state == PREFILL_QUEUED) {
            r->state = PREFILL_PLACING;
            r->asked_ns = clock_ns();
            prefill->calls->starting(prefill->ctx, r->wire->request_id);
        }
    }
}

/* Room for the sequences that will be decoded here. */
static bool prefill_take_local(struct prefill *prefill, struct prefill_request *r)
{
    bool goes_on = (r->wire->flags & WIRE_REQUEST_LOCAL) != 0 && prefill_goes_on(r->wire);
    if (goes_on)
        r->local_taken = prefill->calls->local_take(prefill->ctx, r->wire->sequence_count);
    return !goes_on || r->local_taken;
}

/* False: there is no room for it now. */
static bool prefill_start_gather(struct prefill *prefill, struct prefill_request *r)
{
    if (r->gather != PREFILL_UNGATHERED || prefill_waits_for_twin(prefill, r))
        return true;
    r->lacked_room = !prefill_take_local(prefill, r);
    if (r->lacked_room)
        return false;
    r->lacked_room = prefill_gather(prefill, r) != OK;
    if (r->lacked_room)
        prefill_drop_local(prefill, r);
    return !r->lacked_room;
}

/* The running batch is nearly done: blocks of those that come next begin to move. Who has no source
 * that is known gathers when it starts, from what the tree has by then; unless it has been without
 * room before: then it takes what is free now, lest those behind it do so each time. */
static void prefill_start_gathers(struct prefill *prefill)
{
    if (prefill->batch.head == NULL || prefill_batch_left(prefill) > prefill->options.chunk_tokens)
        return;
    uint64_t tokens = 0;
    for (struct prefill_request *r = prefill->waiting.head; r != NULL; r = r->next) {
        if (r->state != PREFILL_PLACED)
            continue;
        if (tokens > 0 && tokens + r->wire->prompt_tokens > prefill->options.batch_tokens)
            return;
        tokens += r->wire->prompt_tokens;
        bool comes = r->wire->source_count > 0 || r->wire->saved_blocks > 0 || r->lacked_room;
        if (comes && !prefill_start_gather(prefill, r))
            return;
    }
}

/* Tokens that it computes, as far as one knows. */
static uint32_t prefill_left(const struct prefill *prefill, const struct prefill_request *r)
{
    bool shares = r->gather == PREFILL_UNGATHERED && prefill_twin(prefill, r) != NULL;
    return shares ? 1 : r->wire->prompt_tokens - r->cached_tokens;
}

#define HOLD_PART 0.25 /* of what those behind take to compute */
#define HOLD_MS 100u   /* at most */

/* Until when those behind r had better wait for its blocks, which are on their way: once they run,
 * a batch being static, r waits for all of them. How long the blocks take is not known; so a part
 * of what r could lose is risked. */
static uint64_t prefill_hold_ns(const struct prefill *prefill, const struct prefill_request *r)
{
    uint64_t tokens = 0;
    if (prefill->tokens_per_s <= 0)
        return 0;
    for (const struct prefill_request *b = r->next; b != NULL; b = b->next) {
        uint32_t left = prefill_left(prefill, b);
        if (b->state != PREFILL_PLACED || b->gather == PREFILL_GATHERING)
            continue;
        if (tokens > 0 && tokens + left > prefill->options.batch_tokens)
            break;
        tokens += left;
    }
    double ms = HOLD_PART * 1000 * (double)tokens / prefill->tokens_per_s;
    return r->gather_started_ns + (uint64_t)((ms < HOLD_MS ? ms : HOLD_MS) * 1e6);
}

/* Form a batch from the oldest requests that have a place, as far as budget and room go. The oldest
 * that finds no room waits, and none takes any before it; but those that have theirs run: what the
 * oldest waits for may be what they keep. */
static void prefill_batch_form(struct prefill *prefill)
{
    uint64_t tokens = 0;
    bool full = false;
    struct prefill_request *next;
    prefill->hold_until_ns = 0;
    for (struct prefill_request *r = prefill->waiting.head; r != NULL; r = next) {
        next = r->next;
        if (r->state != PREFILL_PLACED || (full && r->gather != PREFILL_GATHERED))
            continue;
        if (tokens > 0 && tokens + prefill_left(prefill, r) > prefill->options.batch_tokens)
            break;
        if (!prefill_start_gather(prefill, r)) {
            full = true;
            continue;
        }
        if (r->gather != PREFILL_UNGATHERED) /* else it waits for a twin, and that one counts */
            tokens += prefill_left(prefill, r);
        bool held = prefill->hold_until_ns > 0;
        if (r->gather == PREFILL_GATHERING && !held) {
            uint64_t until_ns = prefill_hold_ns(prefill, r);
            prefill->hold_until_ns = until_ns > clock_ns() ? until_ns : 0;
        }
        if (r->gather != PREFILL_GATHERED || held)
            continue;
        prefill_list_remove(&prefill->waiting, r);
        r->state = PREFILL_RUNNING;
        r->started_ns = clock_ns();
        prefill_list_push(&prefill->batch, r);
        if (r->hands_over)
            prefill_offer_start(prefill, r);
    }
}

int prefill_wait_ms(const struct prefill *prefill, uint64_t now_ns)
{
    if (prefill->batch.head != NULL || prefill->hold_until_ns <= now_ns)
        return -1;
    return (int)((prefill->hold_until_ns - now_ns) / 1000000u) + 1;
}

/* What the last chunk of a request is for: its first tokens, and the scores of its prompt. */
static void prefill_fill_samples(struct prefill_request *r, struct engine_sequence *sequence)
{
    const struct wire_request *wire = r->wire;
    uint32_t prompt_count = wire_request_prompt_tokens(wire);
    for (uint32_t i = 0; i < wire->sequence_count; i++) {
        r->samples[i] = (struct engine_sample){.sampling = &r->sampling,
                                               .prompt_ids = wire->prompt,
                                               .prompt_count = prompt_count,
                                               .output_ids = wire->prompt + prompt_count,
                                               .output_count = wire->resumed_tokens,
                                               .sequence_index = wire->first_sequence + i};
    }
    sequence->sample_count = wire->sequence_count;
    sequence->samples = r->samples;
}

static void prefill_fill(struct prefill_request *r, uint32_t tokens,
                         struct engine_sequence *sequence)
{
    uint32_t start = r->table.token_count;
    bool last = start + tokens == r->wire->prompt_tokens;
    *sequence = (struct engine_sequence){.token_ids = r->wire->prompt + start,
                                         .token_count = tokens,
                                         .start_position = start,
                                         .table = &r->table};
    r->step = sequence;
    if (last)
        prefill_fill_samples(r, sequence);
    if (r->scores != NULL) {
        r->score = (struct engine_score){
            .next_token_id = last ? ENGINE_NO_TOKEN : r->wire->prompt[start + tokens],
            .top_count = r->wire->sampling.logprob_count,
            .results = r->scores + start,
        };
        sequence->score = &r->score;
    }
}

uint32_t prefill_plan(struct prefill *prefill, uint32_t rows_max, uint32_t sequences_max,
                      uint32_t outputs_max, struct engine_sequence *sequences)
{
    if (prefill->batch.head == NULL)
        prefill_batch_form(prefill);
    prefill_ask_places(prefill);
    prefill_start_gathers(prefill);

    uint32_t rows_left =
        rows_max < prefill->options.chunk_tokens ? rows_max : prefill->options.chunk_tokens;
    uint32_t outputs_left = outputs_max;
    uint32_t count = 0;
    for (struct prefill_request *r = prefill->batch.head; r != NULL; r = r->next) {
        r->step = NULL;
        if (count == sequences_max || outputs_left == 0)
            continue;
        /* Scored rows are outputs, and there is room for so many of them in a step. */
        uint32_t rows = r->scores != NULL && outputs_left < rows_left ? outputs_left : rows_left;
        uint32_t tokens = prefill_chunk(r->table.token_count, prefill_hole_end(prefill, r), rows,
                                        prefill->block_tokens);
        /* The first one always gets on: a block may have more rows than a step has outputs. */
        if (tokens == 0 && count == 0)
            tokens = rows;
        if (tokens == 0)
            continue;
        prefill_fill(r, tokens, &sequences[count]);
        block_table_write(&r->table, prefill->tree, tokens);
        prefill_offer_plan(prefill, r);
        rows_left -= tokens;
        outputs_left -= engine_outputs_of(&sequences[count]);
        count++;
    }
    prefill->planned_ns = clock_ns();
    return count;
}

/* What computing costs here of late, with all else that the steps do. */
static void prefill_measure(struct prefill *prefill, uint32_t tokens)
{
    uint64_t ns = clock_ns() - prefill->planned_ns;
    if (tokens == 0 || ns == 0)
        return;
    double rate = tokens * 1e9 / (double)ns;
    prefill->tokens_per_s =
        prefill->tokens_per_s > 0 ? 0.75 * prefill->tokens_per_s + 0.25 * rate : rate;
    prefill->counters.compute_ns += ns;
}

void prefill_stepped(struct prefill *prefill, const char *failure)
{
    struct prefill_request *next;
    uint32_t tokens = 0;
    for (const struct prefill_request *r = prefill->batch.head; r != NULL; r = r->next)
        tokens += r->step != NULL && r->step->outcome == OK ? r->step->token_count : 0;
    prefill_measure(prefill, tokens);
    for (struct prefill_request *r = prefill->batch.head; r != NULL; r = next) {
        next = r->next;
        if (r->step == NULL)
            continue;
        if (r->step->outcome != OK) {
            prefill_list_remove(&prefill->batch, r);
            prefill_request_fail(prefill, r, r->step->outcome, failure);
            continue;
        }
        uint64_t before = r->table.token_count, rows = r->step->token_count;
        block_table_advance(&r->table, r->step->token_count);
        prefill->counters.tokens += rows;
        prefill->counters.context += rows * before + rows * rows / 2;
        prefill->counters.prompts += r->table.token_count == r->wire->prompt_tokens;
        r->offered_blocks += r->offer_count;
        r->step = NULL;
        r->offer_count = 0;
        prefill_skip(prefill, r);
        prefill_offer_landed(prefill, r);
        prefill_seal(prefill, r);
        if (r->table.token_count == r->wire->prompt_tokens)
            prefill_finish(prefill, r);
    }
}
