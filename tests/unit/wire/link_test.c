/* Links: handshake and its refusals, frames, bulk, descriptors, bounds, deadlines, garbage. */
#include "unit/wire/link_scene.h"

static void frames_arrive_in_order(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        struct scene *scene = scene_open(tcp, false);
        scene_connect(scene);
        assert_int_equal(link_send(scene->connector.link, FRAME_TEXT, "x", 1), ERR_CLOSED);
        assert_true(scene_run(scene, both_ready));
        assert_string_equal(scene->connector.peer.name, "prefill-0");
        assert_int_equal(scene->acceptor.peer.incarnation, scene->connector.hello.incarnation);
        char *large = calloc(1, 70000);
        strcpy(large, "large");
        assert_int_equal(link_send(scene->connector.link, FRAME_TEXT, NULL, 0), OK);
        assert_int_equal(link_send(scene->connector.link, FRAME_TEXT, large, 70000), OK);
        assert_int_equal(link_send(scene->connector.link, FRAME_TEXT, "last", 5), OK);
        free(large);
        assert_true(scene_run(scene, acceptor_has_3));
        assert_string_equal(scene->acceptor.last, "last");
        link_close(scene->connector.link);
        scene->connector.link = NULL;
        assert_true(scene_run(scene, acceptor_closed));
        assert_int_equal(scene->acceptor.cause, ERR_CLOSED);
        scene_close(scene);
    }
}

static void close_inside_a_call_is_safe(void **state)
{
    (void)state;
    struct scene *scene = scene_open(false, false);
    scene->acceptor.close_on_frame = true;
    scene_connect(scene);
    assert_true(scene_run(scene, both_ready));
    for (int i = 0; i < 10; i++)
        link_send(scene->connector.link, FRAME_TEXT, "x", 1);
    assert_true(scene_run(scene, connector_closed));
    assert_int_equal(scene->acceptor.frames, 1);
    assert_false(scene->acceptor.closed);
    scene_close(scene);
}

static void bulk_lands_where_it_is_told(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        struct scene *scene = scene_open(round % 2 == 1, false);
        scene->acceptor.no_place = round >= 2;
        scene_connect(scene);
        assert_true(scene_run(scene, both_ready));
        uint8_t *bulk = malloc(200000);
        for (int i = 0; i < 200000; i++)
            bulk[i] = (uint8_t)(i * 31 >> 3);
        struct iovec spans[3] = {{bulk, 1}, {bulk + 1, 150000}, {bulk + 150001, 49999}};
        assert_int_equal(link_send_bulk(scene->connector.link, FRAME_BULK, "head", 4, spans, 3),
                         OK);
        link_send(scene->connector.link, FRAME_TEXT, "after", 6);
        assert_int_equal(link_bulk_queued(scene->connector.link), 200000);
        assert_true(scene_run(scene, acceptor_landed));
        assert_int_equal(link_bulk_sent(scene->connector.link), 200000);
        scene->acceptor.frames += 2;
        assert_true(scene_run(scene, acceptor_has_3));
        assert_string_equal(scene->acceptor.last, "after");
        uint8_t zero[100] = {0};
        if (round < 2) {
            assert_memory_equal(scene->acceptor.place + 200, bulk, 199900);
            assert_memory_equal(scene->acceptor.place, bulk + 199900, 100);
        }
        assert_memory_equal(scene->acceptor.place + 100, zero, 100);
        free(bulk);
        scene_close(scene);
    }
}

static void a_descriptor_travels(void **state)
{
    (void)state;
    struct scene *scene = scene_open(false, false);
    scene_connect(scene);
    assert_true(scene_run(scene, both_ready));
    int fd = memfd_create("sample", MFD_CLOEXEC);
    assert_int_equal(write(fd, "sample", 6), 6);
    link_send(scene->connector.link, FRAME_TEXT, "1", 2);
    assert_int_equal(link_send_fd(scene->connector.link, FRAME_FILE, "file", 5, fd), OK);
    link_send(scene->connector.link, FRAME_TEXT, "3", 2);
    assert_true(scene_run(scene, acceptor_has_3));
    char got[7] = "";
    assert_int_equal(pread(scene->acceptor.fd, got, 6, 0), 6);
    assert_string_equal(got, "sample");
    close(scene->acceptor.fd);
    close(fd);
    scene_close(scene);
}

static void a_peer_that_does_not_read_is_bounded(void **state)
{
    (void)state;
    struct scene *scene = scene_open(true, false);
    scene->connector.limits.pending_bytes_max = 100000;
    scene_connect(scene);
    assert_true(scene_run(scene, both_ready));
    char payload[1000] = {0};
    status st = OK;
    for (int i = 0; i < 100000 && st == OK; i++)
        st = link_send(scene->connector.link, FRAME_TEXT, payload, sizeof(payload));
    assert_int_equal(st, ERR_FULL);
    assert_true(link_pending_bytes(scene->connector.link) <= 100000);
    scene_close(scene);
}

static void refused(void (*change)(struct scene *), const char *named)
{
    struct scene *scene = scene_open(true, false);
    change(scene);
    scene_connect(scene);
    assert_true(scene_run(scene, both_closed));
    assert_int_equal(scene->connector.cause, ERR_REFUSED);
    assert_int_equal(scene->acceptor.cause, ERR_REFUSED);
    if (strstr(scene->connector.text, named) == NULL || strstr(scene->acceptor.text, named) == NULL)
        fail_msg("\"%s\" / \"%s\" should name \"%s\"", scene->connector.text, scene->acceptor.text,
                 named);
    assert_false(scene->connector.ready);
    assert_false(scene->acceptor.ready);
    scene_close(scene);
}

static void change_model(struct scene *scene)
{
    scene->connector.hello.fingerprint[0] ^= 1;
}

static void change_layout(struct scene *scene)
{
    scene->connector.hello.layout_hash[31] ^= 1;
}

static void change_class(struct scene *scene)
{
    strcpy(scene->connector.hello.numerics_class, "cpu-float");
}

static void change_dtype(struct scene *scene)
{
    scene->connector.hello.kv_dtype = DTYPE_BF16;
}

static void change_tokens(struct scene *scene)
{
    scene->connector.hello.block_tokens = 32;
}

static void mismatches_are_refused_by_name(void **state)
{
    (void)state;
    refused(change_model, "model fingerprint");
    refused(change_layout, "block layout");
    refused(change_class, "cpu-float");
    refused(change_dtype, "BF16");
    refused(change_tokens, "block tokens");
}

/* A router without a model may talk to anyone. */
static void parts_that_one_side_lacks_are_not_compared(void **state)
{
    (void)state;
    struct scene *scene = scene_open(true, false);
    scene->connector.hello.parts = 0;
    memset(scene->connector.hello.fingerprint, 0, HELLO_HASH_BYTES);
    scene_connect(scene);
    assert_true(scene_run(scene, both_ready));
    scene_close(scene);
}

/* Say something by hand to a link that accepted, and see how it ends. */
static void raw_says(const void *bytes, size_t count, status expected, const char *named)
{
    struct scene *scene = scene_open(true, false);
    scene->acceptor.limits.handshake_ms = 300;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(
        connect(fd, (struct sockaddr *)&scene->address.socket_address, scene->address.bytes), 0);
    if (count > 0)
        assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    assert_true(scene_run(scene, acceptor_closed));
    assert_int_equal(scene->acceptor.cause, expected);
    if (strstr(scene->acceptor.text, named) == NULL)
        fail_msg("\"%s\" should name \"%s\"", scene->acceptor.text, named);
    close(fd);
    scene_close(scene);
}

static void garbage_ends_the_link(void **state)
{
    (void)state;
    uint8_t frame[FRAME_HEADER_BYTES + HELLO_PAYLOAD_BYTES_MAX];
    static const char http[] = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
    raw_says(http, sizeof(http) - 1, ERR_BAD_INPUT, "does not speak");
    raw_says(NULL, 0, ERR_TIMEOUT, "handshake");
    raw_says("\0\0\0", 3, ERR_TIMEOUT, "handshake");

    struct hello hello = hello_sample(HELLO_DECODE, "raw");
    struct frame_header header = {.type = FRAME_HELLO};
    header.payload_bytes = hello_write(&hello, frame + FRAME_HEADER_BYTES);
    store_u32(frame + FRAME_HEADER_BYTES + 4, WIRE_VERSION + 1);
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_REFUSED, "wire version");

    header.payload_bytes = hello_write(&hello, frame + FRAME_HEADER_BYTES);
    header.number = 7;
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_BAD_INPUT, "number 7");
    header.number = 0;
    header.flags = 0x80;
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_BAD_INPUT, "flags");
    header.flags = 0;
    header.bulk_bytes = 1;
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_BAD_INPUT, "bulk");
    header.bulk_bytes = 0;
    header.type = FRAME_TEXT; /* nothing is decoded before the handshake */
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_BAD_INPUT,
             "before the handshake");
    header.type = FRAME_HELLO;
    header.payload_bytes -= 1;
    frame_header_write(&header, frame);
    raw_says(frame, FRAME_HEADER_BYTES + header.payload_bytes, ERR_BAD_INPUT, "length");
}

static void a_stopped_peer_meets_the_deadline(void **state)
{
    (void)state;
    /* Accepts and says nothing: the handshake's deadline. */
    struct scene *scene = scene_open(false, true);
    struct link_setup setup = side_setup(&scene->connector);
    uint64_t from = clock_ns();
    assert_int_equal(
        link_connect(scene->loop, &scene->address, 200, &setup, &scene->connector.link), OK);
    assert_true(scene_run(scene, connector_closed));
    assert_int_equal(scene->connector.cause, ERR_TIMEOUT);
    assert_true(clock_ns() - from < 1500000000u);
    assert_true(raw_accepted(scene));
    scene_close(scene);

    /* Falls silent after the handshake: the idle limit. */
    scene = scene_open(true, false);
    scene->acceptor.limits.idle_ms = 200;
    scene_connect(scene);
    assert_true(scene_run(scene, both_ready));
    assert_true(scene_run(scene, acceptor_closed));
    assert_int_equal(scene->acceptor.cause, ERR_TIMEOUT);
    assert_non_null(strstr(scene->acceptor.text, "decode-0"));
    scene_close(scene);
}

/* One more byte of a frame that is longer than what follows: heard, and never whole. */
static bool trickles(struct scene *scene)
{
    if (!scene->acceptor.closed)
        (void)!send(scene->raw_fd, "x", 1, MSG_NOSIGNAL);
    return scene->acceptor.closed;
}

static bool acceptor_ready(struct scene *scene)
{
    return scene->acceptor.ready;
}

/* A connection whose connector the test plays by hand: the handshake is over. */
static struct scene *scene_by_hand(uint32_t idle_ms)
{
    uint8_t frame[FRAME_HEADER_BYTES + HELLO_PAYLOAD_BYTES_MAX];
    struct hello hello = hello_sample(HELLO_DECODE, "raw");
    struct frame_header header = {.type = FRAME_HELLO};
    struct scene *scene = scene_open(true, false);
    scene->acceptor.limits.idle_ms = idle_ms;
    scene->raw_fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(scene->raw_fd, (struct sockaddr *)&scene->address.socket_address,
                             scene->address.bytes),
                     0);
    header.payload_bytes = hello_write(&hello, frame + FRAME_HEADER_BYTES);
    frame_header_write(&header, frame);
    size_t bytes = FRAME_HEADER_BYTES + header.payload_bytes;
    assert_int_equal(write(scene->raw_fd, frame, bytes), (ssize_t)bytes);
    header = (struct frame_header){.type = FRAME_READY, .number = 1};
    frame_header_write(&header, frame);
    assert_int_equal(write(scene->raw_fd, frame, FRAME_HEADER_BYTES), FRAME_HEADER_BYTES);
    assert_true(scene_run(scene, acceptor_ready));
    return scene;
}

static void a_frame_that_never_ends_meets_the_deadline(void **state)
{
    (void)state;
    uint8_t frame[FRAME_HEADER_BYTES];
    struct scene *scene = scene_by_hand(200);
    struct frame_header header = {.type = FRAME_TEXT, .payload_bytes = 65536, .number = 2};
    frame_header_write(&header, frame);
    assert_int_equal(write(scene->raw_fd, frame, FRAME_HEADER_BYTES), FRAME_HEADER_BYTES);
    uint64_t begin_ns = clock_ns();
    assert_true(scene_run(scene, trickles));
    assert_int_equal(scene->acceptor.cause, ERR_TIMEOUT);
    assert_non_null(strstr(scene->acceptor.text, "\"raw\" announced a frame of 65536 bytes"));
    assert_true(clock_ns() - begin_ns > 1000000000u); /* and not while it might still come */
    scene_close(scene);
}

enum { DRIBBLED = 290000, AT_ONCE = 100000, DRIBBLE = 90 };
static uint8_t dribbled[FRAME_HEADER_BYTES + 4 + DRIBBLED];
static size_t dribbled_bytes;

/* A bulk of which so much comes at once. */
static void dribble_begin(struct scene *scene)
{
    struct frame_header header = {
        .type = FRAME_BULK, .payload_bytes = 4, .bulk_bytes = DRIBBLED, .number = 2};
    frame_header_write(&header, dribbled);
    for (size_t i = FRAME_HEADER_BYTES; i < sizeof(dribbled); i++)
        dribbled[i] = (uint8_t)(i * 31 >> 3);
    dribbled_bytes = AT_ONCE;
    assert_int_equal(write(scene->raw_fd, dribbled, AT_ONCE), AT_ONCE);
}

static bool dribbles(struct scene *scene)
{
    size_t left = sizeof(dribbled) - dribbled_bytes, bytes = left < DRIBBLE ? left : DRIBBLE;
    if (!scene->acceptor.closed && bytes > 0)
        assert_int_equal(write(scene->raw_fd, dribbled + dribbled_bytes, bytes), (ssize_t)bytes);
    dribbled_bytes += bytes;
    return scene->acceptor.closed || scene->acceptor.landed > 0;
}

/* The rest of a bulk, little by little: the peer is heard all the time, and what follows is too. */
static void a_bulk_whose_end_dribbles_lands(void **state)
{
    (void)state;
    uint8_t frame[FRAME_HEADER_BYTES + 6];
    struct scene *scene = scene_by_hand(300);
    dribble_begin(scene);
    uint64_t begin_ns = clock_ns();
    assert_true(scene_run(scene, dribbles));
    assert_false(scene->acceptor.closed);
    assert_true(clock_ns() - begin_ns > 2 * UINT64_C(300000000));
    const uint8_t *bulk = dribbled + FRAME_HEADER_BYTES + 4;
    assert_memory_equal(scene->acceptor.place + 200, bulk, DRIBBLED - 100);
    assert_memory_equal(scene->acceptor.place, bulk + DRIBBLED - 100, 100);
    struct frame_header header = {.type = FRAME_TEXT, .payload_bytes = 6, .number = 3};
    frame_header_write(&header, frame);
    memcpy(frame + FRAME_HEADER_BYTES, "after", 6);
    for (size_t i = 0; i < sizeof(frame); i++)
        assert_int_equal(write(scene->raw_fd, frame + i, 1), 1);
    scene->acceptor.frames += 2;
    assert_true(scene_run(scene, acceptor_has_3));
    assert_string_equal(scene->acceptor.last, "after");
    scene_close(scene);
}

static uint64_t stalled_ns;

/* A few bytes more once the reader has long waited, and then none. */
static bool stalls(struct scene *scene)
{
    uint64_t now = clock_ns();
    if (dribbled_bytes == AT_ONCE && now - stalled_ns > UINT64_C(400000000)) {
        dribbles(scene);
        stalled_ns = now;
    }
    return scene->acceptor.closed;
}

/* A bulk that stops for good is given up as long after its last byte as anything else. */
static void a_bulk_that_stops_meets_the_deadline(void **state)
{
    (void)state;
    struct scene *scene = scene_by_hand(600);
    dribble_begin(scene);
    stalled_ns = clock_ns();
    assert_true(scene_run(scene, stalls));
    assert_int_equal(scene->acceptor.cause, ERR_TIMEOUT);
    assert_int_equal(dribbled_bytes, AT_ONCE + DRIBBLE);
    assert_in_range((clock_ns() - stalled_ns) / 1000000u, 570, 950);
    scene_close(scene);
}

static void nobody_listens(void **state)
{
    (void)state;
    struct scene *scene = scene_open(true, false);
    link_listener_close(scene->listener);
    scene->listener = NULL;
    struct link_setup setup = side_setup(&scene->connector);
    status st = link_connect(scene->loop, &scene->address, 1000, &setup, &scene->connector.link);
    if (st == OK) {
        assert_true(scene_run(scene, connector_closed));
        st = scene->connector.cause;
    }
    assert_int_equal(st, ERR_IO);
    scene_close(scene);
}

static int with_a_key(void **state)
{
    static const struct cluster_key key = {{7}};
    (void)state;
    scene_key = &key;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_in_order),
        cmocka_unit_test(close_inside_a_call_is_safe),
        cmocka_unit_test(bulk_lands_where_it_is_told),
        cmocka_unit_test(a_descriptor_travels),
        cmocka_unit_test(a_peer_that_does_not_read_is_bounded),
        cmocka_unit_test(mismatches_are_refused_by_name),
        cmocka_unit_test(parts_that_one_side_lacks_are_not_compared),
        cmocka_unit_test(garbage_ends_the_link),
        cmocka_unit_test(a_stopped_peer_meets_the_deadline),
        cmocka_unit_test(a_frame_that_never_ends_meets_the_deadline),
        cmocka_unit_test(a_bulk_whose_end_dribbles_lands),
        cmocka_unit_test(a_bulk_that_stops_meets_the_deadline),
        cmocka_unit_test(nobody_listens),
    };
    const struct CMUnitTest sealed[] = {
        cmocka_unit_test(frames_arrive_in_order),
        cmocka_unit_test(close_inside_a_call_is_safe),
        cmocka_unit_test(bulk_lands_where_it_is_told),
        cmocka_unit_test(a_descriptor_travels),
        cmocka_unit_test(a_peer_that_does_not_read_is_bounded),
        cmocka_unit_test(mismatches_are_refused_by_name),
        cmocka_unit_test(a_stopped_peer_meets_the_deadline),
        cmocka_unit_test(nobody_listens),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("with a key", sealed, with_a_key, NULL);
}
