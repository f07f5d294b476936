/* tests/sim/fake_network.h - clock, chance and connections of routers, without sockets and time.
 *
 *     events by time:   [ 12.004 frame to router ][ 12.011 step of worker 2 ][ 12.1 tick ] ...
 *     link              router <==== frames, each with its delay ====> worker
 *
 * A program that includes this defines the calls of wire/link.h and base/clock.h that a router
 * makes, so the linker takes nothing of these from the library. A link keeps its order, unless the
 * network is lossy: then single frames are dropped, come twice, or late. It can break (each side
 * sees it a little later) or become a black hole (nobody sees anything until one falls silent for
 * too long). What comes to a stopped worker lies there until it wakes up.
 *
 * All chance is drawn from the seed, libsodium's too; net.trace sums up every frame that was sent,
 * so two runs of one seed can be compared.
 */
#ifndef TESTS_FAKE_NETWORK_H
#define TESTS_FAKE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/error.h"
#include "wire/control.h"
#include "wire/link.h"

#define MS UINT64_C(1000000)
#define NET_START UINT64_C(1000000000) /* a clock never says 0 */

/* ---- chance ---- */

static uint64_t net_random_state;

static uint32_t net_below(uint32_t limit)
{
    net_random_state ^= net_random_state << 13;
    net_random_state ^= net_random_state >> 7;
    net_random_state ^= net_random_state << 17;
    return (uint32_t)(net_random_state >> 33) % limit;
}

static bool net_chance(uint32_t in_1000)
{
    return net_below(1000) < in_1000;
}

static const char *net_random_name(void)
{
    return "seed";
}

static uint32_t net_random(void)
{
    return net_below(1u << 30) ^ net_below(1u << 30) << 2;
}

static void net_random_fill(void *const to, const size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)net_below(256);
}

/* Names of answers, and seeds of those who give none; below it, leases. */
static struct randombytes_implementation net_random_source = {
    .implementation_name = net_random_name, .random = net_random, .buf = net_random_fill};

ssize_t getrandom(void *to, size_t bytes, unsigned flags)
{
    (void)flags;
    net_random_fill(to, bytes);
    return (ssize_t)bytes;
}

/* ---- events ---- */

struct net_event {
    struct net_event *next;
    uint64_t at_ns, order;
    void (*run)(struct net_event *event);
    void *subject;
    uint64_t number;
    uint16_t type;
    uint32_t bytes;
    uint8_t *payload;
};

#define NET_EVENTS_MAX 65536
#define NET_LISTENERS_MAX 4
#define NET_WORKER_IDLE_MS 5000 /* worker/control.c: its routers have fallen silent */

static struct {
    uint64_t now_ns, order;
    struct net_event *heap[NET_EVENTS_MAX];
    uint32_t count;
    bool lossy, was_lossy;
    uint64_t trace; /* of all frames so far */
    struct {
        void (*on_accept)(void *ctx, int fd);
        void *ctx; /* NULL: nobody listens */
    } listeners[NET_LISTENERS_MAX];
    struct link *connecting; /* what on_accept opens */
    struct link *links;      /* all of this world */
} net;

static uint64_t net_dropped, net_twice, net_late; /* of all worlds */

static bool net_before(const struct net_event *a, const struct net_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static struct net_event *net_at(uint64_t at_ns, void (*run)(struct net_event *), void *subject,
                                uint64_t number)
{
    struct net_event *event = calloc(1, sizeof(*event));
    assert_true(event != NULL && net.count < NET_EVENTS_MAX);
    *event = (struct net_event){
        .at_ns = at_ns, .order = net.order++, .run = run, .subject = subject, .number = number};
    uint32_t i = net.count++;
    for (; i > 0 && net_before(event, net.heap[(i - 1) / 2]); i = (i - 1) / 2)
        net.heap[i] = net.heap[(i - 1) / 2];
    net.heap[i] = event;
    return event;
}

static struct net_event *net_after(uint64_t delay_ns, void (*run)(struct net_event *),
                                   void *subject, uint64_t number)
{
    return net_at(net.now_ns + delay_ns, run, subject, number);
}

static struct net_event *net_take(void)
{
    struct net_event *first = net.heap[0], *last = net.heap[--net.count];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < net.count; i = child) {
        child += child + 1 < net.count && net_before(net.heap[child + 1], net.heap[child]);
        if (!net_before(net.heap[child], last))
            break;
        net.heap[i] = net.heap[child];
    }
    net.heap[i] = last;
    return first;
}

static void net_run_one(void)
{
    struct net_event *event = net_take();
    if (event->at_ns > net.now_ns)
        net.now_ns = event->at_ns;
    event->run(event);
    free(event->payload);
    free(event);
}

/* ---- clock ---- */

/* Who looks twice sees that time has passed. */
uint64_t clock_ns(void)
{
    return net.now_ns += 50;
}

uint64_t clock_wall_s(void)
{
    return net.now_ns / 1000000000;
}

/* ---- links: the router's side keeps the contract of wire/link.h, the worker's side is ours ----
 */

struct link {
    struct link *next;
    struct link_setup setup;
    bool router_open, worker_open, black;
    uint64_t to_router_ns, to_worker_ns; /* when the last frame arrives: what follows is later */
    uint64_t router_heard_ns, worker_heard_ns;
    struct hello hello; /* the worker's */
    void *worker;
    uint32_t router;                       /* listener */
    struct net_event *waiting, **wait_end; /* what a stopped worker has not read yet */
    bool cut;                              /* the same of the connection's end */
};

/* The worker's side. */
static bool worker_reads(const struct link *link);
static void worker_on_ready(struct link *link);
static void worker_on_frame(struct link *link, uint16_t type, const uint8_t *payload,
                            uint32_t bytes);
static void worker_on_cut(struct link *link);

static void net_trace(const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, (const uint8_t *)data + i,
               bytes - i < sizeof(word) ? bytes - i : sizeof(word));
        net.trace = (net.trace ^ word) * UINT64_C(0x100000001b3);
        net.trace ^= net.trace >> 29;
    }
}

static void link_router_frame(struct net_event *event)
{
    struct link *link = event->subject;
    if (!link->router_open || link->black)
        return;
    link->router_heard_ns = net.now_ns;
    link->setup.calls->on_frame(link->setup.ctx, event->type, event->payload, event->bytes);
}

static void link_worker_frame(struct net_event *event)
{
    struct link *link = event->subject;
    if (!link->worker_open || link->black)
        return;
    if (worker_reads(link)) {
        link->worker_heard_ns = net.now_ns;
        worker_on_frame(link, event->type, event->payload, event->bytes);
        return;
    }
    struct net_event *kept = malloc(sizeof(*kept));
    assert_non_null(kept);
    *kept = *event;
    kept->next = NULL;
    event->payload = NULL;
    *(link->waiting == NULL ? &link->waiting : link->wait_end) = kept;
    link->wait_end = &kept->next;
}

static void link_worker_cut(struct net_event *event)
{
    struct link *link = event->subject;
    if (!link->worker_open)
        return;
    link->cut = true;
    if (!worker_reads(link))
        return;
    link->worker_open = false;
    worker_on_cut(link);
}

/* The worker wakes up: it reads what came while it slept. */
static void link_catch_up(struct link *link)
{
    link->worker_heard_ns = net.now_ns;
    while (link->waiting != NULL) {
        struct net_event *event = link->waiting;
        link->waiting = event->next;
        if (link->worker_open)
            worker_on_frame(link, event->type, event->payload, event->bytes);
        free(event->payload);
        free(event);
    }
    if (link->cut && link->worker_open) {
        link->worker_open = false;
        worker_on_cut(link);
    }
}

static void link_post(struct link *link, bool to_router, uint16_t type, const void *payload,
                      size_t bytes)
{
    uint64_t *last = to_router ? &link->to_router_ns : &link->to_worker_ns;
    uint64_t at = net.now_ns + 20000 + net_below(400000);
    uint32_t copies = 1;
    bool harmed = net.lossy && type != WIRE_REGISTER; /* who never registers is no worker */
    net_trace(&net.now_ns, sizeof(net.now_ns));
    net_trace(&type, sizeof(type));
    net_trace(payload, bytes);
    if (harmed && net_chance(4)) {
        net_dropped++;
        return;
    }
    if (harmed && net_chance(4)) {
        net_twice++;
        copies = 2;
    }
    if (harmed && net_chance(8)) {
        net_late++;
        at += net_below(60) * MS;
    } else {
        at = at > *last ? at : *last;
        *last = at;
    }
    for (uint32_t i = 0; i < copies; i++) {
        struct net_event *event =
            net_at(at + i * 300000, to_router ? link_router_frame : link_worker_frame, link, 0);
        event->type = type;
        event->bytes = (uint32_t)bytes;
        event->payload = malloc(bytes + 1);
        assert_non_null(event->payload);
        if (bytes > 0)
            memcpy(event->payload, payload, bytes);
    }
}

static void link_router_cut(struct net_event *event)
{
    struct link *link = event->subject;
    if (!link->router_open)
        return;
    link->router_open = false;
    error_set(ERR_CLOSED, "the connection is broken");
    link->setup.calls->on_close(link->setup.ctx, ERR_CLOSED);
}

/* One side sees that it is over, after all that was sent to it. */
static void link_cut(struct link *link, bool router)
{
    uint64_t at = net.now_ns + net_below(3000000);
    uint64_t last = router ? link->to_router_ns : link->to_worker_ns;
    if (!link->black)
        net_at(at > last ? at : last, router ? link_router_cut : link_worker_cut, link, 0);
}

/* Each side that is still there sees it. */
static void link_break(struct link *link)
{
    link_cut(link, true);
    link_cut(link, false);
}

static void link_begin(struct net_event *event)
{
    struct link *link = event->subject;
    if (link->router_open && !link->black) {
        link->router_heard_ns = net.now_ns;
        link->setup.calls->on_ready(link->setup.ctx, &link->hello);
    }
    if (link->router_open && link->worker_open && !link->black && worker_reads(link))
        worker_on_ready(link);
}

/* Worker: connect. NULL: nobody listens there. */
static struct link *net_connect(void *worker, uint32_t router, const struct hello *hello)
{
    if (net.listeners[router].ctx == NULL)
        return NULL;
    struct link *link = calloc(1, sizeof(*link));
    assert_non_null(link);
    link->worker = worker;
    link->router = router;
    link->hello = *hello;
    link->worker_open = true;
    link->next = net.links;
    net.links = link;
    net.connecting = link;
    net.listeners[router].on_accept(net.listeners[router].ctx, -1);
    link->to_router_ns = net.now_ns + 100000;
    link->worker_heard_ns = link->router_heard_ns = net.now_ns;
    net_at(link->to_router_ns, link_begin, link, 0);
    return link;
}

/* Worker: no more of this one. */
static void net_disconnect(struct link *link)
{
    if (link == NULL || !link->worker_open)
        return;
    link->worker_open = false;
    link_cut(link, true);
}

static void net_look_for_silence(void)
{
    for (struct link *link = net.links; link != NULL; link = link->next) {
        if (link->router_open &&
            net.now_ns - link->router_heard_ns > link->setup.limits.idle_ms * MS) {
            link->router_open = false;
            link_cut(link, false);
            error_set(ERR_TIMEOUT, "nothing was heard for %u ms", link->setup.limits.idle_ms);
            link->setup.calls->on_close(link->setup.ctx, ERR_TIMEOUT);
        }
        if (link->worker_open && worker_reads(link) &&
            net.now_ns - link->worker_heard_ns > NET_WORKER_IDLE_MS * MS) {
            link->worker_open = false;
            link_cut(link, true);
            worker_on_cut(link);
        }
    }
}

/* The router's process is gone, and its connections with it. */
static void net_router_gone(uint32_t router)
{
    net.listeners[router].ctx = NULL;
    for (struct link *link = net.links; link != NULL; link = link->next) {
        if (link->router != router || !link->router_open)
            continue;
        link->router_open = false;
        link_cut(link, false);
    }
}

status link_open(struct loop *loop, int fd, const struct link_setup *setup, struct link **link_out)
{
    (void)loop, (void)fd;
    net.connecting->setup = *setup;
    net.connecting->router_open = true;
    *link_out = net.connecting;
    return OK;
}

void link_close(struct link *link)
{
    if (link == NULL || !link->router_open)
        return;
    link->router_open = false;
    link_cut(link, false);
}

status link_send(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes)
{
    if (!link->router_open)
        return error_set(ERR_CLOSED, "the connection is not open");
    if (!worker_reads(link) && net_chance(20))
        return error_set(ERR_FULL, "the peer does not read");
    if (!link->black)
        link_post(link, false, type, payload, payload_bytes);
    return OK;
}

void link_limit_payload(struct link *link, uint32_t payload_bytes_max)
{
    (void)link, (void)payload_bytes_max;
}

/* The loop is a number here: which listener it is. */
status link_listen(struct loop *loop, const struct address *address,
                   void (*on_accept)(void *ctx, int fd), void *ctx,
                   struct link_listener **listener_out)
{
    (void)address;
    net.listeners[(uintptr_t)loop].on_accept = on_accept;
    net.listeners[(uintptr_t)loop].ctx = ctx;
    *listener_out = NULL;
    return OK;
}

void link_listener_close(struct link_listener *listener)
{
    (void)listener;
}

static void net_open(uint64_t seed)
{
    memset(&net, 0, sizeof(net));
    net.now_ns = NET_START;
    net.trace = UINT64_C(0xcbf29ce484222325);
    net_random_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 88172645463325252u;
    for (int i = 0; i < 8; i++)
        net_below(2);
}

static void net_event_free(struct net_event *event)
{
    free(event->payload);
    free(event);
}

static void net_close(void)
{
    while (net.count > 0)
        net_event_free(net_take());
    while (net.links != NULL) {
        struct link *link = net.links;
        net.links = link->next;
        while (link->waiting != NULL) {
            struct net_event *event = link->waiting;
            link->waiting = event->next;
            net_event_free(event);
        }
        free(link);
    }
}

#endif
