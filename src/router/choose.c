#include "router/choose.h"

#include <stddef.h>
#include <string.h>

#include "wire/control.h"

int route_choose_prefill(const struct route_view *views, uint32_t count, bool *local_out)
{
    int best = -1;
    bool decode_exists = false, prefill_exists = false;
    for (uint32_t i = 0; i < count; i++) {
        if (!views[i].usable)
            continue;
        decode_exists = decode_exists || (views[i].roles & WIRE_ROLE_DECODE) != 0;
        prefill_exists = prefill_exists || (views[i].roles & WIRE_ROLE_PREFILL) != 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!views[i].usable)
            continue;
        /* With none of the right role left, the others do it: any worker can do both. */
        if (prefill_exists && (views[i].roles & WIRE_ROLE_PREFILL) == 0)
            continue;
        if (best < 0 || views[i].queued_tokens < views[best].queued_tokens ||
            (views[i].queued_tokens == views[best].queued_tokens &&
             views[i].decoding < views[best].decoding))
            best = (int)i;
    }
    if (best >= 0)
        *local_out = !decode_exists || (views[best].roles & WIRE_ROLE_DECODE) != 0;
    return best;
}

#define ROUTE_TOKEN_S 0.001     /* a token's, while no worker is known */
#define ROUTE_PULL_RATE 5e8     /* bytes/s, while that pair is not known */
#define ROUTE_PULL_S 0.001      /* lending, subscribing, and the last acknowledgement */
#define ROUTE_STORE_S 0.002     /* the same of the store, which is asked first */
#define ROUTE_MOVE_GAIN 0.75    /* what has its place in a queue leaves it for no less */
#define ROUTE_LOCAL_GAIN 0.9    /* those who decode there are slowed: it must be worth it */
#define ROUTE_STEP_TOKENS 512.0 /* of a prompt in one step, as a rule */
#define ROUTE_FADE_S 60.0 /* what was measured so long ago is no longer held against anybody */

/* All that one choice looks at. */
struct route_scene {
    const struct route_ask *ask;
    const struct route_view *views;
    uint32_t count;
    int best; /* the quickest by what is known; -1: nothing is */
    bool decode_exists, prefill_exists;
};

static struct route_scene route_scene_of(const struct route_ask *ask,
                                         const struct route_view *views, uint32_t count)
{
    struct route_scene scene = {.ask = ask, .views = views, .count = count, .best = -1};
    double best_s = 0;
    for (uint32_t i = 0; i < count; i++) {
        scene.decode_exists |= views[i].usable && (views[i].roles & WIRE_ROLE_DECODE) != 0;
        scene.prefill_exists |= views[i].usable && (views[i].roles & WIRE_ROLE_PREFILL) != 0;
        double seconds = cost_prompt_s(&views[i].cost, 0, ask->prompt_tokens);
        if (cost_known(&views[i].cost) && (scene.best < 0 || seconds < best_s)) {
            scene.best = (int)i;
            best_s = seconds;
        }
    }
    return scene;
}

/* How much less is believed of what was measured so long ago: 1 is all. What was slow once would
 * never be tried again, and never measured. */
static double route_faded(double age_s)
{
    return age_s < ROUTE_FADE_S ? age_s / ROUTE_FADE_S : 1;
}

/* To compute a prompt's tokens from position before on. A worker that nothing is known of is as
 * quick as the best one, and so is, more and more, one that was not measured for a while: or it
 * would never be tried again. */
static double route_work_s(const struct route_scene *scene, uint32_t of, double before,
                           double tokens)
{
    const struct route_view *view = &scene->views[of];
    if (scene->best < 0)
        return tokens * ROUTE_TOKEN_S;
    double best_s = cost_prompt_s(&scene->views[scene->best].cost, before, tokens);
    if (!cost_known(&view->cost))
        return best_s;
    double own_s = cost_prompt_s(&view->cost, before, tokens);
    return own_s > best_s ? own_s - route_faded(view->cost_age_s) * (own_s - best_s) : own_s;
}

/* Leading blocks that help: the last token is always computed. */
static uint32_t route_run_most(const struct route_ask *ask)
{
    return ask->block_tokens > 0 ? (ask->prompt_tokens - 1) / ask->block_tokens : 0;
}

static uint32_t route_run(const struct route_ask *ask, const struct route_view *view)
{
    uint32_t most = route_run_most(ask);
    return view->run_blocks < most ? view->run_blocks : most;
}

/* Bytes/s from the worker of that slot. One that was slow long ago is more and more taken to be as
 * it was guessed to be. */
static double route_pull_rate(const struct route_view *view, int slot)
{
    if (view->pulls == NULL)
        return 0;
    const struct route_pull *pull = &view->pulls[slot];
    double rate = (double)pull->rate,
           guess = pull->guess > 0 ? (double)pull->guess : ROUTE_PULL_RATE;
    if (rate <= 0 || rate >= guess)
        return rate;
    double age_s = (double)(view->now_ns - pull->measured_ns) / 1e9;
    return 1 / (1 / rate - route_faded(age_s) * (1 / rate - 1 / guess)); /* as times fade */
}

static double route_move_s(double fixed_s, uint32_t blocks, double block_bytes, double rate)
{
    return fixed_s + blocks * block_bytes / (rate > 0 ? rate : ROUTE_PULL_RATE);
}

/* Of the prompt, behind its leading blocks. */
static double route_rest_s(const struct route_scene *scene, uint32_t of, uint32_t blocks)
{
    double before = (double)blocks * scene->ask->block_tokens;
    return route_work_s(scene, of, before, scene->ask->prompt_tokens - before);
}

/* To the first token, when the leading blocks are there: the worker asks the store for more by
 * itself, and computes the rest, after what it was given before. */
static double route_compute_s(const struct route_scene *scene, uint32_t of, uint32_t blocks)
{
    const struct route_ask *ask = scene->ask;
    const struct route_view *view = &scene->views[of];
    uint32_t most = route_run_most(ask);
    uint32_t saved = ask->saved_blocks < most ? ask->saved_blocks : most;
    double seconds = route_rest_s(scene, of, blocks);
    if (view->store_up && saved > blocks) {
        double fetched_s =
            route_move_s(ROUTE_STORE_S, saved - blocks, ask->block_bytes, view->store_rate) +
            route_rest_s(scene, of, saved);
        seconds = fetched_s < seconds ? fetched_s : seconds;
    }
    if (view->queued_tokens > 0)
        return seconds + route_work_s(scene, of, 0, (double)view->queued_tokens);
    /* While it waits its place is found; when it need not, that is to be waited for. */
    bool hands_over = scene->decode_exists && (view->roles & WIRE_ROLE_DECODE) == 0;
    return hands_over ? seconds + view->place_s : seconds;
}

static void route_offer(struct route_option *option, const struct route_view *views, uint32_t of,
                        int holder, double seconds)
{
    bool same = option->worker >= 0 && seconds >= option->seconds * 0.999 &&
                seconds <= option->seconds * 1.001;
    if (option->worker < 0 || (!same && seconds < option->seconds) ||
        (same && views[of].decoding < views[option->worker].decoding))
        *option = (struct route_option){(int)of, holder, seconds};
}

/* Until the holder lends: it looks into its tree between two steps. What its steps took is believed
 * less and less, or it would never be asked again. */
static double route_lend_s(const struct route_scene *scene, uint32_t holder)
{
    const struct route_view *view = &scene->views[holder];
    double tokens = (double)view->queued_tokens;
    if (tokens == 0) {
        double kept = 1 - route_faded(view->lend_age_s);
        double more_s = view->lend_s > ROUTE_PULL_S ? view->lend_s - ROUTE_PULL_S : 0;
        return ROUTE_PULL_S + (view->decoding > 0 ? kept * more_s : 0);
    }
    return ROUTE_PULL_S +
           route_work_s(scene, holder, 0, tokens < ROUTE_STEP_TOKENS ? tokens : ROUTE_STEP_TOKENS);
}

static void route_weigh_pulls(const struct route_scene *scene, uint32_t of,
                              struct route_option *option)
{
    const struct route_ask *ask = scene->ask;
    const struct route_view *views = scene->views;
    uint32_t own = route_run(ask, &views[of]);
    for (uint32_t h = 0; h < scene->count; h++) {
        uint32_t run = route_run(ask, &views[h]);
        if (h == of || run <= own || views[h].slot < 0 ||
            (ask->apart && (views[h].roles & views[of].roles) == 0))
            continue;
        double rate = route_pull_rate(&views[of], views[h].slot);
        double pull_s = route_move_s(route_lend_s(scene, h), run - own, ask->block_bytes, rate);
        route_offer(option, views, of, (int)h, pull_s + route_compute_s(scene, of, run));
    }
}

static enum route_way route_pick(const struct route_scene *scene, const struct route_option *ways)
{
    const uint32_t place = scene->ask->place;
    bool pulls = ways[ROUTE_PULL].worker >= 0, local = ways[ROUTE_LOCAL].worker >= 0;
    enum route_way way = ROUTE_PREFILL;
    if (place != ROUTE_PLACE_AUTO)
        return pulls && place == ROUTE_PLACE_PULL     ? ROUTE_PULL
               : local && place == ROUTE_PLACE_DECODE ? ROUTE_LOCAL
                                                      : ROUTE_PREFILL;
    if (pulls && ways[ROUTE_PULL].seconds < ways[way].seconds)
        way = ROUTE_PULL;
    if (!local)
        return way;
    bool alone = scene->views[ways[ROUTE_LOCAL].worker].decoding == 0;
    if (ways[ROUTE_LOCAL].seconds < (alone ? 1 : ROUTE_LOCAL_GAIN) * ways[way].seconds)
        way = ROUTE_LOCAL;
    return way;
}

bool route_choose(const struct route_ask *ask, const struct route_view *views, uint32_t count,
                  struct route_choice *choice_out)
{
    const struct route_scene scene = route_scene_of(ask, views, count);
    struct route_option *ways = choice_out->ways;
    for (int i = 0; i < ROUTE_WAYS; i++)
        ways[i] = (struct route_option){-1, -1, 0};
    for (uint32_t i = 0; i < count; i++) {
        const struct route_view *view = &views[i];
        uint32_t own = route_run(ask, view);
        if (!view->usable)
            continue;
        double seconds = route_compute_s(&scene, i, own);
        /* With none of the right role left, the others do it: any worker can do both. */
        if (!scene.prefill_exists || (view->roles & WIRE_ROLE_PREFILL) != 0) {
            route_offer(&ways[ROUTE_PREFILL], views, i, -1, seconds);
            route_weigh_pulls(&scene, i, &ways[ROUTE_PULL]);
        } else if (own > 0 && view->decoding < view->decode_batch &&
                   ask->prompt_tokens - own * ask->block_tokens <= ask->local_tokens_max) {
            route_offer(&ways[ROUTE_LOCAL], views, i, -1, seconds);
        }
    }
    if (ways[ROUTE_PREFILL].worker < 0)
        return false;
    enum route_way way = route_pick(&scene, ways);
    uint32_t worker = (uint32_t)ways[way].worker;
    uint32_t own = way == ROUTE_PULL ? route_run(ask, &views[ways[way].holder])
                                     : route_run(ask, &views[worker]);
    if (views[worker].store_up && ask->saved_blocks > own)
        own = ask->saved_blocks < route_run_most(ask) ? ask->saved_blocks : route_run_most(ask);
    choice_out->way = way;
    choice_out->local =
        way == ROUTE_LOCAL || !scene.decode_exists || (views[worker].roles & WIRE_ROLE_DECODE) != 0;
    choice_out->compute_tokens = ask->prompt_tokens - own * ask->block_tokens;
    return true;
}

bool route_gains(const struct route_ask *ask, const struct route_view *views, uint32_t count,
                 uint32_t at)
{
    const struct route_scene scene = route_scene_of(ask, views, count);
    struct route_choice choice;
    if (!route_choose(ask, views, count, &choice))
        return false;
    const struct route_option *best = &choice.ways[choice.way];
    double stays_s = route_compute_s(&scene, at, route_run(ask, &views[at]));
    return best->worker != (int)at && views[best->worker].queued_tokens == 0 &&
           best->seconds < ROUTE_MOVE_GAIN * stays_s;
}

/* fetches: of those that get blocks from the store, and have room now. */
static int route_emptiest(const struct route_view *views, uint32_t count, bool fetches)
{
    int best = -1;
    for (uint32_t i = 0; i < count; i++) {
        const struct route_view *view = &views[i];
        if (!view->usable || (view->roles & WIRE_ROLE_DECODE) == 0 ||
            (fetches && (!view->store_up || view->decoding >= view->decode_batch)))
            continue;
        /* Least full by sequences; the batch sizes may differ. */
        if (best < 0 || (uint64_t)view->decoding * views[best].decode_batch <
                            (uint64_t)views[best].decoding * view->decode_batch)
            best = (int)i;
    }
    return best;
}

int route_choose_decode(const struct route_view *views, uint32_t count)
{
    return route_emptiest(views, count, false);
}

int route_choose_resume(const struct route_view *views, uint32_t count, bool saved)
{
    bool local;
    int best = saved ? route_emptiest(views, count, true) : -1;
    if (best < 0)
        best = route_emptiest(views, count, false);
    return best >= 0 ? best : route_choose_prefill(views, count, &local);
}

float route_pull_guess(const char *one_class, const char *other_class, bool one_host)
{
    bool gpus = strncmp(one_class, "cuda-", 5) == 0 && strncmp(other_class, "cuda-", 5) == 0;
    return gpus && one_host ? 1e10f : 0; /* by way of the host at worst, which gives 40e9 */
}
