/* The cluster key: its file, the proof, and links with somebody in the middle. */
#include "unit/wire/link_scene.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "wire/auth.h"
#include "wire/seal.h"

static const struct cluster_key key_a = {{1, 2, 3}}, key_b = {{1, 2, 4}};

/* ---- the file ---- */

static void write_file(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void not_opened(const char *path, status expected, const char *named)
{
    struct cluster_key *key;
    assert_int_equal(cluster_key_open(path, &key), expected);
    assert_null(key);
    if (strstr(error_text(), named) == NULL)
        fail_msg("\"%s\" should name \"%s\"", error_text(), named);
}

static void a_key_file_is_made_and_read(void **state)
{
    (void)state;
    char folder[] = "/tmp/baton-key-XXXXXX", path[64], again[64], line[200] = "";
    struct cluster_key *key, *same, *other;
    struct stat made;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/key", folder);
    snprintf(again, sizeof(again), "%s/again", folder);
    mode_t before = umask(0);
    assert_int_equal(cluster_key_make(path), OK);
    umask(before);
    assert_int_equal(stat(path, &made), 0);
    assert_int_equal(made.st_mode & 07777, 0600);
    assert_int_equal(cluster_key_open(path, &key), OK);
    assert_int_equal(cluster_key_make(path), ERR_IO);
    assert_non_null(strstr(error_text(), "not overwritten"));
    assert_int_equal(cluster_key_open(path, &same), OK);
    assert_memory_equal(key, same, sizeof(*key));
    assert_int_equal(cluster_key_make(again), OK);
    assert_int_equal(cluster_key_open(again, &other), OK);
    assert_memory_not_equal(key, other, sizeof(*key));
    cluster_key_close(same);
    cluster_key_close(other);

    FILE *file = fopen(path, "r");
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    assert_int_equal(strlen(line), 85);
    chmod(path, 0640);
    not_opened(path, ERR_REFUSED, "mode 0640");
    chmod(path, 0606);
    not_opened(path, ERR_REFUSED, path);
    line[50] = 'x';
    write_file(path, line, 0600);
    not_opened(path, ERR_BAD_INPUT, "holds no key");
    line[50] = '0';
    strcpy(line + 84, "00\n");
    write_file(path, line, 0600);
    not_opened(path, ERR_BAD_INPUT, "holds no key");
    write_file(path, "", 0600);
    not_opened(path, ERR_BAD_INPUT, "holds no key");
    unlink(path);
    not_opened(path, ERR_NOT_FOUND, path);
    not_opened(folder, ERR_BAD_INPUT, "no regular file");
    assert_int_equal(cluster_key_open(NULL, &same), OK);
    assert_null(same);
    cluster_key_close(key);
    unlink(again);
    rmdir(folder);
}

static void without_a_key_only_loopback(void **state)
{
    (void)state;
    struct address loopback, open_to_all, local;
    assert_int_equal(address_parse("127.0.0.1:0", 0, &loopback), OK);
    assert_int_equal(address_parse("0.0.0.0:0", 0, &open_to_all), OK);
    assert_int_equal(address_parse("unix:/tmp/x", 0, &local), OK);
    assert_int_equal(cluster_key_allows(NULL, false, &loopback, "--x", "a"), OK);
    assert_int_equal(cluster_key_allows(NULL, false, &local, "--x", "a"), OK);
    assert_int_equal(cluster_key_allows(NULL, false, &open_to_all, "--x", "0.0.0.0:0"),
                     ERR_REFUSED);
    assert_non_null(strstr(error_text(), "--cluster-key"));
    assert_int_equal(cluster_key_allows(NULL, true, &open_to_all, "--x", "a"), OK);
    assert_int_equal(cluster_key_allows(&key_a, false, &open_to_all, "--x", "a"), OK);
}

/* ---- records ---- */

static void records_open_once_in_their_place(void **state)
{
    (void)state;
    static uint8_t plain[SEAL_PLAIN_BYTES_MAX], sealed[SEAL_RECORD_BYTES_MAX], back[sizeof(plain)];
    uint8_t key[SEAL_KEY_BYTES] = {5};
    randombytes_buf(plain, sizeof(plain));
    for (int cipher = SEAL_CHACHA20_POLY1305; cipher <= SEAL_AES256_OCB; cipher++) {
        struct seal *seal;
        if (cipher == SEAL_AES256_OCB && !seal_has_aes())
            continue;
        assert_int_equal(seal_open((enum seal_cipher)cipher, key, &seal), OK);
        size_t sizes[] = {1, 15, 16, 17, 1000, SEAL_PLAIN_BYTES_MAX};
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t bytes = sizes[i];
            memcpy(sealed, plain, bytes);
            seal_record(seal, i, sealed, bytes, sealed); /* where it lies: the same record */
            memcpy(back, sealed, bytes);
            seal_record(seal, i, plain, bytes, sealed);
            assert_memory_equal(back, sealed, bytes);
            assert_int_equal(seal_open_record(seal, i, sealed, bytes, back), OK);
            assert_memory_equal(back, plain, bytes);
            assert_int_equal(seal_open_record(seal, i + 1, sealed, bytes, back), ERR_BAD_INPUT);
            for (int flip = 0; flip < 64; flip++) {
                size_t at = flip < 32 ? (size_t)flip % (bytes + 16) : bytes + (size_t)flip % 16;
                sealed[at] ^= (uint8_t)(1 << flip % 8);
                assert_int_equal(seal_open_record(seal, i, sealed, bytes, back), ERR_BAD_INPUT);
                assert_true(sodium_is_zero(back, bytes)); /* nothing of it is left behind */
                sealed[at] ^= (uint8_t)(1 << flip % 8);
            }
        }
        seal_close(seal);
    }
    assert_int_equal(seal_wire_bytes(SEAL_PLAIN_BYTES_MAX + 1), SEAL_PLAIN_BYTES_MAX + 1 + 32);
    assert_int_equal(seal_plain_bytes(SEAL_PLAIN_BYTES_MAX + 1, SEAL_RECORD_BYTES_MAX + 16),
                     SEAL_PLAIN_BYTES_MAX);
    assert_int_equal(seal_plain_bytes(10, 26), 10);
}

/* A record of several places is the record of their bytes, whatever the places' sizes. */
static void records_of_places(void **state)
{
    (void)state;
    static uint8_t plain[SEAL_PLAIN_BYTES_MAX], flat[SEAL_RECORD_BYTES_MAX];
    static uint8_t sealed[SEAL_RECORD_BYTES_MAX], back[sizeof(plain)];
    static const size_t cuts[][4] = {
        {16, 32, 48, 4000}, {16, 1, 15, 32}, {32768, 32768, 0, 0}, {5, 16, 16, 3}, {1, 0, 0, 0}};
    uint8_t key[SEAL_KEY_BYTES] = {6};
    randombytes_buf(plain, sizeof(plain));
    for (int cipher = SEAL_CHACHA20_POLY1305; cipher <= SEAL_AES256_OCB; cipher++) {
        struct seal *seal;
        if (cipher == SEAL_AES256_OCB && !seal_has_aes())
            continue;
        assert_int_equal(seal_open((enum seal_cipher)cipher, key, &seal), OK);
        for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
            struct iovec from[4], to[4];
            uint32_t count = 0;
            size_t bytes = 0;
            for (; count < 4 && cuts[i][count] > 0; bytes += cuts[i][count++]) {
                from[count] = (struct iovec){plain + bytes, cuts[i][count]};
                to[count] = (struct iovec){back + bytes, cuts[i][count]};
            }
            seal_record(seal, i, plain, bytes, flat);
            seal_record_of(seal, i, from, count, sealed);
            assert_memory_equal(sealed, flat, bytes + SEAL_TAG_BYTES);
            assert_int_equal(seal_open_record_to(seal, i, sealed, to, count), OK);
            assert_memory_equal(back, plain, bytes);
            flat[bytes / 2] ^= 1;
            assert_int_equal(seal_open_record_to(seal, i, flat, to, count), ERR_BAD_INPUT);
            assert_true(sodium_is_zero(back, bytes));
        }
        seal_close(seal);
    }
}

/* ---- keys that differ ---- */

struct scribble {
    uint8_t *bytes;
    size_t count;
    atomic_bool ends;
};

static void *scribble_run(void *ctx)
{
    struct scribble *scribble = ctx;
    for (uint8_t value = 0; !atomic_load(&scribble->ends); value++)
        memset(scribble->bytes, value, scribble->count);
    return NULL;
}

/* A block is filled while it is sent: what comes is told by its checksum, and the link lives. */
static void a_record_of_changing_bytes_opens(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* it is a race, which the checksum and the later offer mend */
#endif
    enum { BYTES = 40000 };
    static uint8_t plain[BYTES], sealed[BYTES + SEAL_TAG_BYTES], opened[BYTES];
    static const uint8_t key[SEAL_KEY_BYTES] = {1, 2, 3};
    struct scribble scribble = {.bytes = plain, .count = BYTES};
    pthread_t writer;
    assert_int_equal(thread_start("scribble", scribble_run, &scribble, &writer), OK);
    for (int cipher = SEAL_CHACHA20_POLY1305; cipher <= SEAL_AES256_OCB; cipher++) {
        struct seal *seal, *other;
        assert_int_equal(seal_open((enum seal_cipher)cipher, key, &seal), OK);
        assert_int_equal(seal_open((enum seal_cipher)cipher, key, &other), OK);
        for (uint64_t number = 0; number < 4000; number++) {
            size_t first = 16 * (1 + number * 7 % 1000), bytes = first + 1 + number * 13 % 20000;
            const struct iovec places[2] = {{plain, first}, {plain + first, bytes - first}};
            if (number % 2 == 0)
                seal_record(seal, number, plain, bytes, sealed);
            else
                seal_record_of(seal, number, places, 2, sealed);
            assert_int_equal(seal_open_record(other, number, sealed, bytes, opened), OK);
        }
        seal_close(seal);
        seal_close(other);
    }
    atomic_store(&scribble.ends, true);
    pthread_join(writer, NULL);
}

static void other_keys_are_refused_by_name(void **state)
{
    (void)state;
    const struct cluster_key *keys[][2] = {{&key_a, &key_b}, {&key_a, NULL}, {NULL, &key_a}};
    for (int round = 0; round < 6; round++) {
        struct scene *scene = scene_open(round % 2 == 1, false);
        scene->connector.key = keys[round / 2][0];
        scene->acceptor.key = keys[round / 2][1];
        uint64_t from = clock_ns();
        scene_connect(scene);
        assert_true(scene_run(scene, both_closed));
        assert_true(clock_ns() - from < 2000000000u);
        assert_false(scene->connector.ready || scene->acceptor.ready);
        assert_int_equal(scene->connector.cause, ERR_REFUSED);
        assert_int_equal(scene->acceptor.cause, ERR_REFUSED);
        assert_non_null(strstr(scene->connector.text, "cluster key"));
        assert_non_null(strstr(scene->acceptor.text, "cluster key"));
        scene_close(scene);
    }
}

/* ---- somebody in the middle of a tcp connection, who changes what the connector sends ---- */

enum act { PASS, FLIP, DROP, CUT, SWAP, REPEAT };

struct middle {
    int listen_fd;
    struct address listens, to;
    pthread_t thread;
    enum act act;
    uint64_t at;  /* first byte of the stream that it acts on */
    size_t bytes; /* DROP, REPEAT: so many; SWAP: two times so many */
    uint8_t flip;
    uint8_t *seen; /* all that the connector sent */
    size_t seen_bytes, seen_max;
    uint8_t held[4096];
    size_t held_bytes;
};

static void middle_send(int fd, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        bytes += sent;
        count -= (size_t)sent;
    }
}

/* False when the connection is cut here. What is not acted on goes on as it came, in one piece:
 * byte by byte it would take longer than the acceptor has patience on a busy machine. */
static bool middle_forward(struct middle *m, int to, const uint8_t *bytes, size_t count)
{
    size_t length = m->act == CUT ? 1 : m->act == SWAP ? 2 * m->bytes : m->bytes;
    uint64_t first = m->seen_bytes;
    size_t sent = 0;
    assert_true(count <= m->seen_max - m->seen_bytes);
    memcpy(m->seen + m->seen_bytes, bytes, count);
    m->seen_bytes += count;
    for (size_t i = 0; i < count; i++) {
        uint64_t at = first + i;
        if (m->act == PASS || at < m->at || at >= m->at + length)
            continue;
        middle_send(to, bytes + sent, i - sent);
        sent = i + 1;
        if (m->act == CUT)
            return false;
        if (m->act == FLIP) {
            uint8_t changed = bytes[i] ^ m->flip;
            middle_send(to, &changed, 1);
        }
        if (m->act != SWAP && m->act != REPEAT)
            continue;
        m->held[m->held_bytes++] = bytes[i];
        if (m->held_bytes < length)
            continue;
        middle_send(to, m->act == SWAP ? m->held + m->bytes : m->held, m->bytes);
        middle_send(to, m->held, m->bytes);
    }
    middle_send(to, bytes + sent, count - sent);
    return true;
}

static void *middle_run(void *ctx)
{
    struct middle *m = ctx;
    uint8_t bytes[65536];
    int from = accept(m->listen_fd, NULL, NULL);
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(to, (struct sockaddr *)&m->to.socket_address, m->to.bytes) != 0)
        abort();
    for (bool open = true; open;) {
        struct pollfd both[2] = {{.fd = from, .events = POLLIN}, {.fd = to, .events = POLLIN}};
        if (poll(both, 2, 8000) <= 0)
            break;
        for (int i = 0; i < 2 && open; i++) {
            if (both[i].revents == 0)
                continue;
            ssize_t got = recv(both[i].fd, bytes, sizeof(bytes), 0);
            open = got > 0;
            if (open && i == 0)
                open = middle_forward(m, to, bytes, (size_t)got);
            else if (open)
                middle_send(from, bytes, (size_t)got);
        }
    }
    close(from);
    close(to);
    return NULL;
}

/* The scene's connector reaches the acceptor through m. */
static struct scene *middle_open(struct middle *m)
{
    struct scene *scene = scene_open(true, false);
    scene->connector.key = scene->acceptor.key = &key_a;
    scene->acceptor.limits.handshake_ms = 1000;
    scene->acceptor.limits.idle_ms = 1500;
    m->to = scene->address;
    m->seen_max = 4 << 20;
    m->seen = malloc(m->seen_max);
    assert_int_equal(address_parse("127.0.0.1:0", 0, &m->listens), OK);
    assert_int_equal(address_listen(&m->listens, &m->listen_fd), OK);
    assert_int_equal(fcntl(m->listen_fd, F_SETFL, 0), 0);
    assert_int_equal(address_of_socket(m->listen_fd, &m->listens), OK);
    scene->address = m->listens;
    assert_int_equal(pthread_create(&m->thread, NULL, middle_run, m), 0);
    return scene;
}

static void middle_close(struct middle *m, struct scene *scene)
{
    scene_close(scene);
    pthread_join(m->thread, NULL);
    close(m->listen_fd);
    free(m->seen);
}

/* What the connector says, with a secret that must not be seen. Offsets are of its stream. */
#define HELLO_WIRE (FRAME_HEADER_BYTES + hello_wire_bytes())
#define PROOF_AT HELLO_WIRE
#define READY_AT (PROOF_AT + FRAME_HEADER_BYTES + AUTH_PROOF_BYTES)
#define FIRST_AT (READY_AT + FRAME_HEADER_BYTES + SEAL_TAG_BYTES)
#define TEXT_WIRE (FRAME_HEADER_BYTES + SEAL_TAG_BYTES + 8 + SEAL_TAG_BYTES)
#define BULK_AT (FIRST_AT + 2 * TEXT_WIRE)
#define BULK_BYTES 70000
#define END_AT (BULK_AT + TEXT_WIRE + BULK_BYTES + 2 * SEAL_TAG_BYTES)

static uint8_t bulk[BULK_BYTES];

static size_t hello_wire_bytes(void)
{
    struct hello hello = hello_sample(HELLO_DECODE, "decode-0");
    uint8_t payload[HELLO_PAYLOAD_BYTES_MAX];
    return hello_write(&hello, payload);
}

static void say_all(struct scene *scene)
{
    struct iovec span = {bulk, sizeof(bulk)};
    for (size_t i = 0; i < sizeof(bulk); i++)
        bulk[i] = (uint8_t)("visible!"[i % 8]);
    link_send(scene->connector.link, FRAME_TEXT, "visible1", 8);
    link_send(scene->connector.link, FRAME_TEXT, "visible2", 8);
    link_send_bulk(scene->connector.link, FRAME_BULK, "visible3", 8, &span, 1);
}

static bool ready_or_closed(struct scene *scene)
{
    return both_ready(scene) || scene->acceptor.closed || scene->connector.closed;
}

static bool acceptor_over(struct scene *scene)
{
    return scene->acceptor.closed || scene->acceptor.landed == 1;
}

/* Run it all; returns after the acceptor has everything, or has given up. */
static void middle_talk(struct scene *scene)
{
    scene_connect(scene);
    assert_true(scene_run(scene, ready_or_closed));
    if (scene->connector.ready && !scene->connector.closed)
        say_all(scene);
    if (!acceptor_over(scene))
        assert_true(scene_run(scene, acceptor_over));
}

static void nothing_is_seen_in_the_middle(void **state)
{
    (void)state;
    struct middle m = {.act = PASS};
    struct scene *scene = middle_open(&m);
    middle_talk(scene);
    assert_int_equal(scene->acceptor.landed, 1);
    assert_int_equal(scene->acceptor.frames, 2);
    assert_memory_equal(scene->acceptor.place + 200, bulk, BULK_BYTES - 100);
    assert_memory_equal(scene->acceptor.place, bulk + BULK_BYTES - 100, 100);
    assert_int_equal(m.seen_bytes, END_AT);
    assert_null(memmem(m.seen, m.seen_bytes, "visib", 5));
    assert_non_null(memmem(m.seen, m.seen_bytes, "decode-0", 8)); /* of the HELLO */
    middle_close(&m, scene);
}

/* Frames that are whole before byte `at` comes. */
static uint32_t frames_before(enum act act, uint64_t at)
{
    at += act == REPEAT ? TEXT_WIRE : 0; /* the first of the two is right */
    return at >= FIRST_AT + 2 * TEXT_WIRE ? 2 : at >= FIRST_AT + TEXT_WIRE ? 1 : 0;
}

static void middle_fails(enum act act, uint64_t at, size_t bytes, uint8_t flip)
{
    struct middle m = {.act = act, .at = at, .bytes = bytes, .flip = flip};
    struct scene *scene = middle_open(&m);
    uint64_t from = clock_ns();
    middle_talk(scene);
    struct side *acceptor = &scene->acceptor;
    if (!acceptor->closed || acceptor->landed > 0 || acceptor->frames > frames_before(act, at))
        fail_msg("act %d at %llu: %u frames, %u landed", act, (unsigned long long)at,
                 acceptor->frames, acceptor->landed);
    assert_true(clock_ns() - from < 3000000000u);
    if (act == CUT)
        assert_int_equal(acceptor->cause, ERR_CLOSED);
    else if (at >= READY_AT)
        assert_int_equal(acceptor->cause, ERR_BAD_INPUT);
    else
        assert_true(acceptor->cause != OK && !acceptor->ready);
    middle_close(&m, scene);
}

static void a_flipped_bit_ends_the_link(void **state)
{
    (void)state;
    uint64_t places[] = {0,
                         5,
                         FRAME_HEADER_BYTES + 6,
                         FRAME_HEADER_BYTES + 40,
                         HELLO_WIRE - 1, /* its public key */
                         PROOF_AT + FRAME_HEADER_BYTES,
                         READY_AT - 1,
                         READY_AT,
                         READY_AT + 20,
                         FIRST_AT,      /* header */
                         FIRST_AT + 17, /* its tag */
                         FIRST_AT + 33, /* payload */
                         FIRST_AT + 45, /* its tag */
                         FIRST_AT + TEXT_WIRE + 8,
                         BULK_AT + 3,
                         BULK_AT + TEXT_WIRE,
                         BULK_AT + TEXT_WIRE + 65535,
                         BULK_AT + TEXT_WIRE + 65537,
                         BULK_AT + TEXT_WIRE + 65552,
                         END_AT - 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        middle_fails(FLIP, places[i], 1, (uint8_t)(1 << i % 8));
}

static void a_truncated_stream_ends_the_link(void **state)
{
    (void)state;
    uint64_t places[] = {
        10, PROOF_AT + 3, READY_AT, FIRST_AT + 5, FIRST_AT + 40, END_AT - 20000, END_AT - 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        middle_fails(CUT, places[i], 1, 0);
    middle_fails(DROP, FIRST_AT, TEXT_WIRE, 0); /* a whole frame */
    middle_fails(DROP, FIRST_AT + 32, 3, 0);
}

static void repeated_and_reordered_frames_end_the_link(void **state)
{
    (void)state;
    middle_fails(SWAP, FIRST_AT, TEXT_WIRE, 0);
    middle_fails(REPEAT, FIRST_AT + TEXT_WIRE, TEXT_WIRE, 0);
}

static void a_recorded_session_opens_nothing(void **state)
{
    (void)state;
    struct middle m = {.act = PASS};
    struct scene *scene = middle_open(&m);
    middle_talk(scene);
    assert_int_equal(scene->acceptor.landed, 1);
    for (int again = 0; again < 2; again++) {
        link_close(scene->acceptor.link);
        memset(&scene->acceptor.ready, 0, sizeof(scene->acceptor.ready));
        scene->acceptor.link = NULL;
        scene->acceptor.closed = false;
        scene->acceptor.frames = scene->acceptor.landed = 0;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&m.to.socket_address, m.to.bytes), 0);
        /* The second time without the first frame's last byte: waits, and not for ever. */
        middle_send(fd, m.seen, again == 0 ? m.seen_bytes : HELLO_WIRE - 1);
        assert_true(scene_run(scene, acceptor_closed));
        if (scene->acceptor.cause != (again == 0 ? ERR_REFUSED : ERR_TIMEOUT))
            fail_msg("round %d: %s", again, scene->acceptor.text);
        if (again == 0)
            assert_non_null(strstr(scene->acceptor.text, "cluster key"));
        assert_false(scene->acceptor.ready);
        assert_int_equal(scene->acceptor.frames + scene->acceptor.landed, 0);
        close(fd);
    }
    middle_close(&m, scene);
}

/* ---- who has no key, and answers with what it was told ---- */

static void *mirror_run(void *ctx)
{
    int fd = *(int *)ctx;
    uint8_t bytes[4096];
    for (ssize_t got; (got = recv(fd, bytes, sizeof(bytes), 0)) > 0;)
        middle_send(fd, bytes, (size_t)got);
    return NULL;
}

static void a_mirror_is_refused(void **state)
{
    (void)state;
    struct scene *scene = scene_open(true, true);
    pthread_t thread;
    scene->connector.key = &key_a;
    scene_connect(scene);
    assert_true(scene_run(scene, raw_accepted));
    assert_int_equal(fcntl(scene->raw_fd, F_SETFL, 0), 0);
    assert_int_equal(pthread_create(&thread, NULL, mirror_run, &scene->raw_fd), 0);
    assert_true(scene_run(scene, connector_closed));
    assert_false(scene->connector.ready);
    assert_true(scene->connector.cause == ERR_TIMEOUT || scene->connector.cause == ERR_REFUSED);
    pthread_join(thread, NULL);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_file_is_made_and_read),
        cmocka_unit_test(without_a_key_only_loopback),
        cmocka_unit_test(records_open_once_in_their_place),
        cmocka_unit_test(records_of_places),
        cmocka_unit_test(a_record_of_changing_bytes_opens),
        cmocka_unit_test(other_keys_are_refused_by_name),
        cmocka_unit_test(nothing_is_seen_in_the_middle),
        cmocka_unit_test(a_flipped_bit_ends_the_link),
        cmocka_unit_test(a_truncated_stream_ends_the_link),
        cmocka_unit_test(repeated_and_reordered_frames_end_the_link),
        cmocka_unit_test(a_recorded_session_opens_nothing),
        cmocka_unit_test(a_mirror_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
