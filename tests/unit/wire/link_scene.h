/* tests/unit/wire/link_scene.h - two links that talk to each other on one loop, shared by the tests
 * of wire/. */
#ifndef LINK_SCENE_H
#define LINK_SCENE_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/error.h"
#include "wire/frame.h"
#include "wire/link.h"

enum { FRAME_TEXT = FRAME_CONTROL_FIRST, FRAME_FILE, FRAME_BULK };

struct side {
    struct link *link;
    struct hello hello, peer;
    const struct cluster_key *key;
    struct link_limits limits;
    bool ready, closed, close_on_frame, no_place;
    status cause;
    char text[ERROR_TEXT_BYTES];
    uint32_t frames, landed;
    char last[64];
    int fd;
    uint8_t place[300000];
};

struct scene {
    struct loop *loop;
    struct loop_timer *guard, *poll;
    bool (*over)(struct scene *);
    bool guard_fired;
    struct link_listener *listener;
    char folder[64];
    struct address address;
    struct side connector, acceptor;
    int raw_fd; /* accepted, when the test speaks by hand */
};

static inline void side_on_ready(void *ctx, const struct hello *peer)
{
    struct side *side = ctx;
    side->ready = true;
    side->peer = *peer;
}

static inline void side_on_frame(void *ctx, uint16_t type, const uint8_t *payload,
                                 uint32_t payload_bytes)
{
    struct side *side = ctx;
    side->frames++;
    if (type == FRAME_FILE)
        side->fd = link_take_fd(side->link);
    memset(side->last, 0, sizeof(side->last));
    memcpy(side->last, payload, payload_bytes < 63 ? payload_bytes : 63);
    if (side->close_on_frame) {
        link_close(side->link);
        side->link = NULL;
    }
}

static inline void side_on_close(void *ctx, status cause)
{
    struct side *side = ctx;
    side->closed = true;
    side->cause = cause;
    snprintf(side->text, sizeof(side->text), "%s", error_text());
    side->link = NULL;
}

static inline uint32_t side_on_bulk(void *ctx, uint16_t type, const uint8_t *payload,
                                    uint32_t payload_bytes, uint32_t bulk_bytes,
                                    struct iovec spans[LINK_SPANS_MAX])
{
    (void)type, (void)payload, (void)payload_bytes;
    struct side *side = ctx;
    if (side->no_place)
        return 0;
    /* Two places, backwards, with a hole between them. */
    assert_true(bulk_bytes + 100 <= sizeof(side->place));
    spans[0] = (struct iovec){.iov_base = side->place + 200, .iov_len = bulk_bytes - 100};
    spans[1] = (struct iovec){.iov_base = side->place, .iov_len = 100};
    return 2;
}

static inline void side_on_landed(void *ctx)
{
    ((struct side *)ctx)->landed++;
}

static const struct link_calls side_calls = {.on_ready = side_on_ready,
                                             .on_frame = side_on_frame,
                                             .on_close = side_on_close,
                                             .on_bulk = side_on_bulk,
                                             .on_landed = side_on_landed};

static inline struct link_setup side_setup(struct side *side)
{
    return (struct link_setup){.calls = &side_calls,
                               .ctx = side,
                               .hello = &side->hello,
                               .key = side->key,
                               .limits = side->limits};
}

static inline void scene_on_accept(void *ctx, int fd)
{
    struct scene *scene = ctx;
    struct link_setup setup = side_setup(&scene->acceptor);
    assert_int_equal(link_open(scene->loop, fd, &setup, &scene->acceptor.link), OK);
}

static inline void scene_keep_raw(void *ctx, int fd)
{
    ((struct scene *)ctx)->raw_fd = fd;
}

static inline void scene_on_guard(void *ctx)
{
    struct scene *scene = ctx;
    scene->guard_fired = true;
    loop_stop(scene->loop);
}

static inline void scene_on_poll(void *ctx)
{
    struct scene *scene = ctx;
    if (scene->over(scene))
        loop_stop(scene->loop);
    else
        loop_timer_start(scene->poll, 1);
}

/* Run the loop until over is true; false when it does not happen within 5 s. */
static inline bool scene_run(struct scene *scene, bool (*over)(struct scene *))
{
    scene->over = over;
    scene->guard_fired = false;
    loop_timer_start(scene->guard, 5000);
    loop_timer_start(scene->poll, 0);
    loop_run(scene->loop);
    loop_timer_stop(scene->guard);
    loop_timer_stop(scene->poll);
    return !scene->guard_fired;
}

static inline struct hello hello_sample(uint32_t role, const char *name)
{
    struct hello hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                          .kv_dtype = DTYPE_F16,
                          .block_tokens = 16,
                          .ranks = 1,
                          .role = role,
                          .incarnation = hello_incarnation_random()};
    memset(hello.fingerprint, 0x11, sizeof(hello.fingerprint));
    memset(hello.layout_hash, 0x22, sizeof(hello.layout_hash));
    strcpy(hello.numerics_class, "cpu-int8");
    snprintf(hello.name, sizeof(hello.name), "%s", name);
    return hello;
}

/* What both sides of the next scenes have. */
static const struct cluster_key *scene_key;

static inline struct scene *scene_open(bool tcp, bool raw)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char text[100];
    strcpy(scene->folder, "/tmp/baton-link-XXXXXX");
    assert_non_null(mkdtemp(scene->folder));
    snprintf(text, sizeof(text), "unix:%s/s", scene->folder);
    assert_int_equal(address_parse(tcp ? "127.0.0.1:0" : text, 0, &scene->address), OK);
    assert_int_equal(loop_open(&scene->loop), OK);
    assert_int_equal(loop_timer_open(scene->loop, scene_on_guard, scene, &scene->guard), OK);
    assert_int_equal(loop_timer_open(scene->loop, scene_on_poll, scene, &scene->poll), OK);
    assert_int_equal(link_listen(scene->loop, &scene->address,
                                 raw ? scene_keep_raw : scene_on_accept, scene, &scene->listener),
                     OK);
    scene->address = *link_listener_address(scene->listener);
    scene->connector.hello = hello_sample(HELLO_DECODE, "decode-0");
    scene->acceptor.hello = hello_sample(HELLO_PREFILL, "prefill-0");
    scene->connector.key = scene->acceptor.key = scene_key;
    scene->connector.fd = scene->acceptor.fd = scene->raw_fd = -1;
    scene->connector.limits = scene->acceptor.limits = (struct link_limits){
        .payload_bytes_max = 70000, .bulk_bytes_max = 1 << 20, .pending_bytes_max = 1 << 20};
    return scene;
}

static inline void scene_connect(struct scene *scene)
{
    struct link_setup setup = side_setup(&scene->connector);
    assert_int_equal(
        link_connect(scene->loop, &scene->address, 2000, &setup, &scene->connector.link), OK);
}

static inline void scene_close(struct scene *scene)
{
    link_close(scene->connector.link);
    link_close(scene->acceptor.link);
    link_listener_close(scene->listener);
    loop_timer_close(scene->guard);
    loop_timer_close(scene->poll);
    loop_close(scene->loop);
    if (scene->raw_fd >= 0)
        close(scene->raw_fd);
    rmdir(scene->folder);
    free(scene);
}

static inline bool both_ready(struct scene *scene)
{
    return scene->connector.ready && scene->acceptor.ready;
}

static inline bool both_closed(struct scene *scene)
{
    return scene->connector.closed && scene->acceptor.closed;
}

static inline bool acceptor_closed(struct scene *scene)
{
    return scene->acceptor.closed;
}

static inline bool connector_closed(struct scene *scene)
{
    return scene->connector.closed;
}

static inline bool acceptor_has_3(struct scene *scene)
{
    return scene->acceptor.frames == 3;
}

static inline bool acceptor_landed(struct scene *scene)
{
    return scene->acceptor.landed == 1;
}

static inline bool raw_accepted(struct scene *scene)
{
    return scene->raw_fd >= 0;
}

#endif
