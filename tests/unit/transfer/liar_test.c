/* Peers that lie or flood, played by a link that is driven by hand: they get nothing, and the next
 * peer is served. */
#include "unit/transfer/worker_sample.h"

#include <errno.h>

#include "wire/auth.h"
#include "wire/link.h"

#define BLOCKS 32

struct liar {
    struct loop *loop;
    struct loop_timer *timer;
    struct link *link;
    struct link_listener *listener;
    struct hello hello;
    bool ready, closed, timed_out, takes_pool;
    int pool_fd; /* that came, when it takes_pool */
    uint32_t offers, gones, bulks, completes;
    status gone_status;
    struct subscribe_message subscription;
    uint8_t remote[OFFER_FRAME_BYTES_MAX]; /* a REMOTE that came */
    uint32_t remote_bytes;
    uint8_t place[1 << 20];
};

static void liar_on_ready(void *ctx, const struct hello *peer)
{
    (void)peer;
    struct liar *liar = ctx;
    liar->ready = true;
    loop_stop(liar->loop);
}

static void liar_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes)
{
    struct liar *liar = ctx;
    struct end_message end;
    if (type == FRAME_POOL && liar->takes_pool) {
        liar->pool_fd = link_take_fd(liar->link);
        loop_stop(liar->loop);
    }
    if (type == FRAME_PING || type == FRAME_POOL)
        return;
    liar->offers += type == FRAME_OFFER;
    liar->completes += type == FRAME_COMPLETE;
    if (type == FRAME_GONE) {
        assert_int_equal(end_read(payload, payload_bytes, &end), OK);
        liar->gone_status = end.status;
        liar->gones++;
    }
    if (type == FRAME_REMOTE) {
        memcpy(liar->remote, payload, payload_bytes);
        liar->remote_bytes = payload_bytes;
    }
    if (type == FRAME_SUBSCRIBE)
        assert_int_equal(subscribe_read(payload, payload_bytes, &liar->subscription), OK);
    loop_stop(liar->loop);
}

static void liar_on_close(void *ctx, status cause)
{
    (void)cause;
    struct liar *liar = ctx;
    liar->link = NULL;
    liar->closed = true;
    loop_stop(liar->loop);
}

static uint32_t liar_on_bulk(void *ctx, uint16_t type, const uint8_t *payload,
                             uint32_t payload_bytes, uint32_t bulk_bytes,
                             struct iovec spans[LINK_SPANS_MAX])
{
    (void)type, (void)payload, (void)payload_bytes;
    struct liar *liar = ctx;
    spans[0] = (struct iovec){.iov_base = liar->place, .iov_len = bulk_bytes};
    return 1;
}

static void liar_on_landed(void *ctx)
{
    struct liar *liar = ctx;
    liar->bulks++;
    loop_stop(liar->loop);
}

static void liar_on_timer(void *ctx)
{
    struct liar *liar = ctx;
    liar->timed_out = true;
    loop_stop(liar->loop);
}

static const struct link_calls liar_calls = {.on_ready = liar_on_ready,
                                             .on_frame = liar_on_frame,
                                             .on_close = liar_on_close,
                                             .on_bulk = liar_on_bulk,
                                             .on_landed = liar_on_landed};

static struct link_setup liar_setup(struct liar *liar)
{
    return (struct link_setup){.calls = &liar_calls,
                               .ctx = liar,
                               .hello = &liar->hello,
                               .limits = {.payload_bytes_max = 200000,
                                          .bulk_bytes_max = 1 << 20,
                                          .pending_bytes_max = 64 << 20}};
}

static void liar_on_accept(void *ctx, int fd)
{
    struct liar *liar = ctx;
    struct link_setup setup = liar_setup(liar);
    assert_int_equal(link_open(liar->loop, fd, &setup, &liar->link), OK);
}

/* Run until something happens, or timeout_ms. */
static void liar_turn(struct liar *liar, uint32_t timeout_ms)
{
    liar->timed_out = false;
    loop_timer_start(liar->timer, timeout_ms);
    loop_run(liar->loop);
    loop_timer_stop(liar->timer);
}

#define LIAR_UNTIL(liar, condition)                                                                \
    do {                                                                                           \
        for (int turns_ = 0; turns_ < 2000 && !(condition); turns_++) {                            \
            liar_turn(liar, 3000);                                                                 \
            if ((liar)->timed_out)                                                                 \
                fail_msg("waited in vain for " #condition);                                        \
        }                                                                                          \
    } while (0)

static struct liar *liar_open(void)
{
    struct liar *liar = calloc(1, sizeof(*liar));
    assert_int_equal(loop_open(&liar->loop), OK);
    assert_int_equal(loop_timer_open(liar->loop, liar_on_timer, liar, &liar->timer), OK);
    liar->hello = hello_sample("liar");
    return liar;
}

static void liar_connect(struct liar *liar, const struct address *address)
{
    struct link_setup setup = liar_setup(liar);
    link_close(liar->link);
    liar->ready = liar->closed = false;
    assert_int_equal(link_connect(liar->loop, address, 2000, &setup, &liar->link), OK);
    LIAR_UNTIL(liar, liar->ready);
}

static void liar_close(struct liar *liar)
{
    link_close(liar->link);
    link_listener_close(liar->listener);
    loop_timer_close(liar->timer);
    loop_close(liar->loop);
    free(liar);
}

static uint8_t message[OFFER_FRAME_BYTES_MAX];

static void liar_fetch(struct liar *liar, const struct lease_tag *tag, uint32_t number,
                       uint32_t from, uint32_t count)
{
    struct fetch_message fetch = {.tag = *tag, .number = number, .from = from, .count = count};
    link_send(liar->link, FRAME_FETCH, message, fetch_write(&fetch, message));
}

static void liar_subscribe(struct liar *liar, const struct lease_tag *tag)
{
    struct subscribe_message subscribe = {.tag = *tag, .block_count = 8, .wait_ms = 5000};
    link_send(liar->link, FRAME_SUBSCRIBE, message, subscribe_write(&subscribe, message));
}

/* A receiver that forges leases, epochs, offers and ranges gets nothing, and disturbs nobody. */
static void a_receiver_that_lies(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, BLOCKS, 500);
    struct worker holder, receiver;
    uint32_t ids[4] = {3, 1, 2, 0};
    struct lease_tag tag = {.epoch = 3, .ranks = 1}, forged = {.epoch = 3, .ranks = 1};
    struct transfer_counters counters;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    struct liar *liar = liar_open();
    lease_id_random(&tag.lease);
    lease_id_random(&forged.lease);
    blocks_fill(&holder, ids, 4);
    transfer_lease_open(holder.transfer, &tag.lease, 9, 3, 20000);
    transfer_offer(holder.transfer, &tag.lease, 0, 0, ids, 4, NULL);

    /* No lease, no subscription: no bytes. */
    liar_connect(liar, &holder.tcp_address);
    liar_fetch(liar, &forged, 0, 0, 1);
    liar_fetch(liar, &tag, 0, 0, 1);
    liar_turn(liar, 100);
    assert_int_equal(liar->bulks, 0);
    transfer_counters_read(holder.transfer, &counters);
    assert_int_equal(counters.refused_frames, 2);
    /* With it: what was offered, and nothing else. */
    liar_subscribe(liar, &tag);
    LIAR_UNTIL(liar, liar->offers == 1);
    liar_fetch(liar, &tag, 0, 1, 3);
    LIAR_UNTIL(liar, liar->bulks == 1);
    assert_memory_equal(liar->place, block_at(&holder, 1), 500);
    forged = tag;
    forged.epoch = 2;
    liar_fetch(liar, &forged, 0, 0, 1);
    liar_turn(liar, 50);
    assert_int_equal(liar->bulks, 1);
    /* A second receiver of the same lease. */
    struct liar *second = liar_open();
    liar_connect(second, &holder.tcp_address);
    liar_subscribe(second, &tag);
    LIAR_UNTIL(second, second->gones == 1);
    assert_int_equal(second->gone_status, ERR_REFUSED);
    liar_fetch(second, &tag, 0, 0, 1);
    liar_turn(second, 50);
    assert_int_equal(second->bulks, 0);
    liar_close(second);
    /* Past the end of an offer: the connection ends, and the lease with it. */
    liar_fetch(liar, &tag, 0, 2, 3);
    LIAR_UNTIL(liar, liar->closed);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);

    /* An offer that was not made; an unknown frame; a holder's frame; a flood of subscriptions. */
    lease_id_random(&tag.lease);
    transfer_lease_open(holder.transfer, &tag.lease, 9, 3, 20000);
    liar_connect(liar, &holder.tcp_address);
    liar_subscribe(liar, &tag);
    liar_fetch(liar, &tag, 0, 0, 1);
    LIAR_UNTIL(liar, liar->closed);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
    liar_connect(liar, &holder.tcp_address);
    link_send(liar->link, 0x2ff, "?", 1);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.unix_address);
    link_send(liar->link, FRAME_OFFER, message, 60);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.tcp_address);
    struct iovec span = {.iov_base = liar->place, .iov_len = 1000};
    link_send_bulk(liar->link, FRAME_DATA, message, 40, &span, 1);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.tcp_address);
    liar->gones = 0;
    for (int i = 0; i < 1500; i++) {
        lease_id_random(&forged.lease);
        liar_subscribe(liar, &forged);
    }
    LIAR_UNTIL(liar, liar->gones == 1500 - 1024);
    assert_int_equal(liar->gone_status, ERR_FULL);

    one_handoff(&holder, &receiver, TRANSFER_TCP, 0);
    one_handoff(&holder, &receiver, TRANSFER_SHM, 0);
    liar_close(liar);
    worker_close(&receiver);
    worker_close(&holder);
}

/* What a peer of the same host gets of a pool can be read, and neither written nor resized. */
static void a_pool_is_lent_to_be_read(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, BLOCKS, 4096);
    struct worker holder;
    uint32_t ids[1] = {3};
    worker_open(&holder, "holder", &shape);
    blocks_fill(&holder, ids, 1);
    struct liar *liar = liar_open();
    liar->takes_pool = true;
    liar->pool_fd = -1;
    liar_connect(liar, &holder.unix_address);
    LIAR_UNTIL(liar, liar->pool_fd >= 0);
    size_t bytes = shape.block_bytes * shape.block_count;
    assert_int_equal(fcntl(liar->pool_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_ptr_equal(mmap(NULL, bytes, PROT_WRITE, MAP_SHARED, liar->pool_fd, 0), MAP_FAILED);
    assert_int_equal(errno, EACCES);
    assert_int_equal(write(liar->pool_fd, "x", 1), -1);
    assert_int_equal(ftruncate(liar->pool_fd, 0), -1);
    uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, liar->pool_fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_memory_equal(map + 3 * shape.block_bytes, block_at(&holder, 3), shape.block_bytes);
    assert_int_equal(mprotect(map, bytes, PROT_READ | PROT_WRITE), -1);
    munmap(map, bytes);
    close(liar->pool_fd);
    liar_close(liar);
    worker_close(&holder);
}

struct lie {
    bool tcp, unsealed, no_pool;
    uint32_t layer, block_id, number_second;
    bool data;
    status expected;
};

static void liar_send_pool(struct liar *liar, const struct lie *lie, const struct shape *shape)
{
    size_t bytes = shape->block_bytes * shape->block_count;
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    if (!lie->unsealed)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    struct pool_message pool = {.block_count = shape->block_count,
                                .block_bytes = shape->block_bytes};
    link_send_fd(liar->link, FRAME_POOL, message, pool_write(&pool, message), fd);
    close(fd);
}

static void liar_offer(struct liar *liar, const struct lie *lie, uint32_t number)
{
    struct checksum sums[2] = {{0, 0}, {0, 0}};
    uint32_t ids[2] = {0, lie->block_id};
    link_send(liar->link, FRAME_OFFER, message,
              offer_write(&liar->subscription.tag, number, lie->layer, 0, ids, sums, 2, message));
}

/* A holder that offers blocks outside its pool, layers that are not, memory that may vanish, or
 * sends what was not asked for: FAILED by name, and the receiver's other blocks are untouched. */
static void a_holder_that_lies(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {.block_id = BLOCKS, .expected = ERR_BAD_INPUT},
        {.block_id = UINT32_MAX, .expected = ERR_BAD_INPUT},
        {.layer = 2, .expected = ERR_BAD_INPUT},
        {.unsealed = true, .expected = ERR_BAD_INPUT},
        {.no_pool = true, .expected = ERR_BAD_INPUT},
        {.tcp = true, .layer = 99, .expected = ERR_BAD_INPUT},
        {.tcp = true, .data = true, .expected = ERR_BAD_INPUT},
    };
    struct shape shape = shape_even(2, BLOCKS, 500);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        const struct lie *lie = &lies[i];
        struct worker receiver, as_seen;
        struct address address;
        uint32_t ids[2] = {4, 9};
        struct lease_id lease;
        char text[ADDRESS_TEXT_BYTES];
        struct liar *liar = liar_open();
        snprintf(text, sizeof(text), "unix:%s/liar", folder);
        assert_int_equal(address_parse(lie->tcp ? "127.0.0.1:0" : text, 0, &address), OK);
        assert_int_equal(link_listen(liar->loop, &address, liar_on_accept, liar, &liar->listener),
                         OK);
        worker_open(&receiver, "receiver", &shape);
        lease_id_random(&lease);
        memset(&as_seen, 0, sizeof(as_seen));
        as_seen.hello = liar->hello;
        as_seen.unix_address = as_seen.tcp_address = *link_listener_address(liar->listener);
        struct transfer_wish wish =
            wish_of(&as_seen, &lease, lie->tcp ? TRANSFER_TCP : TRANSFER_SHM, ids, 2);
        transfer_receive(receiver.transfer, &wish);
        LIAR_UNTIL(liar, liar->ready);
        if (lie->no_pool)
            link_send(liar->link, FRAME_POOL, message,
                      pool_write(&(struct pool_message){.block_count = BLOCKS, .block_bytes = 1000},
                                 message));
        else if (!lie->tcp)
            liar_send_pool(liar, lie, &shape);
        if (!lie->unsealed && !lie->no_pool) {
            LIAR_UNTIL(liar, liar->subscription.block_count == 2);
            liar_offer(liar, lie, 0);
        }
        if (lie->data) { /* the question was for entries from 0 on */
            struct fetch_message head = {.tag = liar->subscription.tag, .from = 1, .count = 1};
            struct iovec span = {.iov_base = liar->place, .iov_len = 500};
            link_send_bulk(liar->link, FRAME_DATA, message, fetch_write(&head, message), &span, 1);
        }
        for (int turns = 0; turns < 50 && !mailbox_wait(receiver.reports, 0); turns++)
            liar_turn(liar, 20);
        worker_expect_free(&receiver, TRANSFER_FAILED, lie->expected);
        blocks_are_poison(&receiver, ids, 2);
        liar_close(liar);
        worker_close(&receiver);
    }
}

/* ---- before the proof ---- */

/* Who speaks to a Unix socket byte by byte, and sees every descriptor that comes. */
struct stranger {
    int fd;
    uint32_t sent, descriptors, bytes;
    bool closed;
    uint8_t heard[8192];
};

static void stranger_say(struct stranger *stranger, uint16_t type, const void *payload,
                         uint32_t bytes)
{
    uint8_t frame[FRAME_HEADER_BYTES + HELLO_PAYLOAD_BYTES_MAX];
    struct frame_header header = {.payload_bytes = bytes, .type = type, .number = stranger->sent++};
    frame_header_write(&header, frame);
    memcpy(frame + FRAME_HEADER_BYTES, payload, bytes);
    (void)send(stranger->fd, frame, FRAME_HEADER_BYTES + bytes, MSG_NOSIGNAL); /* it may be over */
}

/* What comes next: bytes, a descriptor, or the end. */
static void stranger_hear(struct stranger *stranger)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec span = {.iov_base = stranger->heard + stranger->bytes,
                         .iov_len = sizeof(stranger->heard) - stranger->bytes};
    struct msghdr got = {.msg_iov = &span,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t bytes = recvmsg(stranger->fd, &got, MSG_CMSG_CLOEXEC);
    if (bytes < 0 && errno != ECONNRESET)
        fail_msg("nothing was heard for 20 s: %s", strerror(errno));
    stranger->closed = bytes <= 0;
    stranger->bytes += bytes > 0 ? (uint32_t)bytes : 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&got); c != NULL; c = CMSG_NXTHDR(&got, c)) {
        int fd;
        assert_int_equal(c->cmsg_type, SCM_RIGHTS);
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        stranger->descriptors++;
        close(fd);
    }
}

enum approach {
    SAYS_NO_KEY,
    HAS_ANOTHER,
    READY_AT_ONCE,
    ASKS_AT_ONCE,
    SENDS_HELLO_ONLY,
    APPROACHES
};

/* A worker with a key (NULL: none) and a stranger without it: what it heard until it was cut off,
 * or got a descriptor. */
static void stranger_comes(struct stranger *stranger, const struct address *address,
                           enum approach how)
{
    const struct cluster_key another = {.bytes = {99}};
    const struct timeval wait = {.tv_sec = 20};
    struct hello hello = hello_sample("stranger");
    struct auth *auth;
    uint8_t payload[HELLO_PAYLOAD_BYTES_MAX], proof[AUTH_PROOF_BYTES] = {0};
    *stranger = (struct stranger){0};
    assert_int_equal(address_connect(address, &stranger->fd), OK);
    assert_int_equal(fcntl(stranger->fd, F_SETFL, 0), 0);
    assert_int_equal(setsockopt(stranger->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    assert_int_equal(auth_open(&another, false, &auth), OK);
    memcpy(hello.nonce, auth_public(auth), sizeof(hello.nonce));
    hello.auth = how == SAYS_NO_KEY ? HELLO_AUTH_NONE : HELLO_AUTH_CLUSTER_KEY;
    stranger_say(stranger, FRAME_HELLO, payload, hello_write(&hello, payload));
    if (how == HAS_ANOTHER)
        stranger_say(stranger, FRAME_AUTH, proof, sizeof(proof));
    if (how == SAYS_NO_KEY || how == HAS_ANOTHER || how == READY_AT_ONCE)
        stranger_say(stranger, FRAME_READY, payload, 0);
    if (how == ASKS_AT_ONCE) {
        struct subscribe_message subscribe = {.block_count = 1, .wait_ms = 1000};
        stranger_say(stranger, FRAME_SUBSCRIBE, payload, subscribe_write(&subscribe, payload));
    }
    while (!stranger->closed && stranger->descriptors == 0)
        stranger_hear(stranger);
    auth_close(auth);
    close(stranger->fd);
}

/* The pool's descriptor goes to whoever has proved the key, and to nobody before. */
static void no_descriptor_before_the_proof(void **state)
{
    (void)state;
    static const char *const reasons[APPROACHES] = {
        [SAYS_NO_KEY] = "cluster key: we need one", [HAS_ANOTHER] = "has another key"};
    const struct cluster_key key = {.bytes = {1}};
    struct shape shape = shape_even(2, BLOCKS, 4096);
    struct worker holder, receiver;
    struct stranger stranger;
    worker_open(&holder, "open", &shape);
    stranger_comes(&stranger, &holder.unix_address, SAYS_NO_KEY); /* nobody has a key: it comes */
    assert_int_equal(stranger.descriptors, 1);
    worker_close(&holder);
    sample_key = &key;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    for (int how = 0; how < APPROACHES; how++) {
        stranger_comes(&stranger, &holder.unix_address, (enum approach)how);
        assert_int_equal(stranger.descriptors, 0);
        assert_true(stranger.closed);
        const char *why = reasons[how];
        if (why != NULL && memmem(stranger.heard, stranger.bytes, why, strlen(why)) == NULL)
            fail_msg("approach %d was not told \"%s\"", how, why);
    }
    one_handoff(&holder, &receiver, TRANSFER_SHM, 0);
    worker_close(&receiver);
    worker_close(&holder);
    sample_key = NULL;
}

/* ---- rdma ---- */

enum remote_lie { NOTHING, CUT, OTHER_BLOCKS, TWICE, OUTSIDE, REMOTE_LIES };

/* Say where a pool is, as a true holder told us, but for one lie. */
static void liar_send_remote(struct liar *liar, const struct liar *told, enum remote_lie lie)
{
    struct remote_message remote;
    assert_int_equal(remote_read(told->remote, told->remote_bytes, &remote), OK);
    if (lie == NOTHING)
        remote = (struct remote_message){0};
    if (lie == OTHER_BLOCKS)
        remote.block_bytes /= 2;
    uint32_t bytes = remote_write(&remote, message);
    link_send(liar->link, FRAME_REMOTE, message, lie == CUT ? bytes - 1 : bytes);
    if (lie == TWICE)
        link_send(liar->link, FRAME_REMOTE, message, bytes);
}

/* A holder that says what cannot be of where its pool is: FAILED by name, nothing is written. A
 * place outside the pool it told of is never read. */
static void a_holder_that_lies_about_its_pool(void **state)
{
    (void)state;
    static const status expected[REMOTE_LIES] = {[NOTHING] = ERR_REFUSED,
                                                 [CUT] = ERR_BAD_INPUT,
                                                 [OTHER_BLOCKS] = ERR_REFUSED,
                                                 [TWICE] = ERR_BAD_INPUT,
                                                 [OUTSIDE] = ERR_BAD_INPUT};
    struct shape shape = shape_even(2, BLOCKS, 500);
    struct worker holder;
    worker_open(&holder, "holder", &shape);
    struct liar *told = liar_open();
    liar_connect(told, &holder.tcp_address);
    link_send(told->link, FRAME_ASK_REMOTE, NULL, 0);
    LIAR_UNTIL(told, told->remote_bytes > 0);
    for (int i = 0; i < REMOTE_LIES; i++) {
        struct worker receiver, as_seen;
        struct address any;
        uint32_t ids[2] = {4, 9};
        struct lease_id lease;
        struct liar *liar = liar_open();
        assert_int_equal(address_parse("127.0.0.1:0", 0, &any), OK);
        assert_int_equal(link_listen(liar->loop, &any, liar_on_accept, liar, &liar->listener), OK);
        worker_open(&receiver, "receiver", &shape);
        lease_id_random(&lease);
        memset(&as_seen, 0, sizeof(as_seen));
        as_seen.hello = liar->hello;
        as_seen.tcp_address = *link_listener_address(liar->listener);
        struct transfer_wish wish = wish_of(&as_seen, &lease, TRANSFER_TCP, ids, 2);
        transfer_receive(receiver.transfer, &wish);
        LIAR_UNTIL(liar, liar->ready);
        liar_send_remote(liar, told, (enum remote_lie)i);
        if (i == OUTSIDE) {
            LIAR_UNTIL(liar, liar->subscription.block_count == 2);
            liar_offer(liar, &(struct lie){.block_id = BLOCKS}, 0);
        }
        for (int turns = 0; turns < 50 && !mailbox_wait(receiver.reports, 0); turns++)
            liar_turn(liar, 20);
        worker_expect_free(&receiver, TRANSFER_FAILED, expected[i]);
        blocks_are_poison(&receiver, ids, i == OUTSIDE ? 1 : 0);
        liar_close(liar);
        worker_close(&receiver);
    }
    /* Who is on this host takes shm. */
    liar_connect(told, &holder.unix_address);
    link_send(told->link, FRAME_ASK_REMOTE, NULL, 0);
    LIAR_UNTIL(told, told->closed);
    liar_close(told);
    worker_close(&holder);
}

static int with_rdma(void **state)
{
    (void)state;
    sample_rdma = true;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_receiver_that_lies),
        cmocka_unit_test(a_pool_is_lent_to_be_read),
        cmocka_unit_test(a_holder_that_lies),
        cmocka_unit_test(no_descriptor_before_the_proof),
    };
    strcpy(folder, "/tmp/baton-liar-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    log_open("liar-test", LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const struct CMUnitTest rdma_tests[] = {cmocka_unit_test(a_holder_that_lies_about_its_pool)};
    if (sample_has_rdma())
        failed += cmocka_run_group_tests_name("over rdma", rdma_tests, with_rdma, NULL);
    rmdir(folder);
    return failed;
}
