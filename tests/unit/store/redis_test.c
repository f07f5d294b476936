/* store/store.h over redis.c, against real Redis processes: one, a cluster of six, and what goes
 * wrong with them.
 */
#include "unit/store/redis_store_rig.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/redis_slots.h"
#include "store/redis_url.h"
#include "store/redis_value.h"

#include <sys/stat.h>

/* ---- parts ---- */

static void test_slots(void **state)
{
    (void)state;
    assert_int_equal(redis_slot("123456789", 9), 12739);
    assert_int_equal(redis_slot("foo", 3), 12182);
    assert_int_equal(redis_slot("bar", 3), 5061);
    assert_int_equal(redis_slot("x{foo}y", 7), 12182);
    assert_int_equal(redis_slot("{}foo", 5), redis_slot("{}foo", 5));
    assert_int_not_equal(redis_slot("{}foo", 5), 12182);
}

static void test_urls(void **state)
{
    (void)state;
    struct redis_url url;
    static const char *const bad[] = {
        "redis://",          "redis://127.0.0.1:0",       "redis://127.0.0.1:99999",
        "redis://u@1.2.3.4", "redis://:p%zz@127.0.0.1",   "redis://127.0.0.1/x",
        "redis://1.1.1.1,,", "redis-cluster://1.1.1.1/3", "redis://127.0.0.1/5000",
        "http://127.0.0.1",  "redis://:%00@127.0.0.1",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (redis_url_parse(bad[i], NULL, &url) != ERR_BAD_INPUT)
            fail_msg("%s is taken", bad[i]);
        assert_true(error_text()[0] != '\0');
    }
    assert_int_equal(redis_url_parse("rediss://127.0.0.1", NULL, &url), ERR_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "rediss://"));
    assert_int_equal(
        redis_url_parse("redis://ann:s%40%25crt@127.0.0.1,127.0.0.2:7000/3", NULL, &url), OK);
    assert_string_equal(url.user, "ann");
    assert_string_equal(url.password, "s@%crt");
    assert_int_equal(url.seed_count, 2);
    assert_int_equal(address_port(&url.seeds[0]), 6379);
    assert_int_equal(address_port(&url.seeds[1]), 7000);
    assert_int_equal(url.database, 3);
    assert_false(url.must_be_cluster);
}

static void write_secret(const char *path, const char *text, size_t bytes, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void not_parsed(const char *text, const char *path, status cause, const char *words)
{
    struct redis_url url;
    assert_int_equal(redis_url_parse(text, path, &url), cause);
    if (strstr(error_text(), words) == NULL || strstr(error_text(), "s@%crt") != NULL)
        fail_msg("%s: %s", text, error_text());
}

static void test_password_files(void **state)
{
    (void)state;
    static const char *const good[] = {"redis://127.0.0.1", "redis://ann@127.0.0.1",
                                       "redis://ann:@127.0.0.1/3", "redis-cluster://@127.0.0.1"};
    static const struct {
        const char *text;
        size_t bytes;
    } bad[] = {{"", 0}, {"\n", 1}, {"s@%crt\nx\n", 9}, {"s@%crt\n\n", 8}, {"s@%crt\0x", 8}};
    char folder[] = "/tmp/baton-test-XXXXXX", path[64], most[REDIS_SECRET_BYTES + 2];
    struct redis_url url;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/password", folder);
    not_parsed(good[0], path, ERR_NOT_FOUND, path);
    not_parsed(good[0], folder, ERR_BAD_INPUT, "no regular file");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_secret(path, bad[i].text, bad[i].bytes, 0600);
        not_parsed(good[0], path, ERR_BAD_INPUT, "holds no password");
    }
    memset(most, 'x', sizeof(most));
    write_secret(path, most, REDIS_SECRET_BYTES, 0600);
    not_parsed(good[0], path, ERR_BAD_INPUT, "holds no password");
    most[REDIS_SECRET_BYTES - 1] = '\n';
    write_secret(path, most, REDIS_SECRET_BYTES, 0600);
    assert_int_equal(redis_url_parse(good[0], path, &url), OK);
    assert_int_equal(strlen(url.password), REDIS_SECRET_BYTES - 1);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        write_secret(path, "s@%crt 1\n", 8 + i % 2, 0600); /* an end of line, or none */
        assert_int_equal(redis_url_parse(good[i], path, &url), OK);
        assert_string_equal(url.password, "s@%crt 1");
        assert_string_equal(url.user, i == 1 || i == 2 ? "ann" : "");
    }
    not_parsed("redis://ann:x@127.0.0.1", path, ERR_BAD_INPUT, "leave it out of the address");
    not_parsed("redis://ann@127.0.0.1", NULL, ERR_BAD_INPUT, "--store-password-file");
    chmod(path, 0640);
    not_parsed(good[0], path, ERR_REFUSED, "mode 0640");
    chmod(path, 0602);
    not_parsed(good[0], path, ERR_REFUSED, "mode 0602");
    unlink(path);
    rmdir(folder);
}

/* Every flipped bit of 10,000, anywhere in the value, is caught. */
static void test_flips(void **state)
{
    (void)state;
    enum { BYTES = 2048, ALL = REDIS_VALUE_HEAD_BYTES + BYTES };
    uint8_t block[BYTES], value[ALL], to[BYTES];
    struct block_key key = key_of(3), parent = key_of(2);
    for (size_t i = 0; i < BYTES; i++)
        block[i] = (uint8_t)(i * 37 + (i >> 8));
    redis_value_write(&key, &parent, block, BYTES, value);
    assert_int_equal(redis_value_land(value, ALL, &key, to, BYTES), OK);
    assert_memory_equal(block, to, BYTES);
    for (uint32_t i = 0; i < 10000; i++) {
        size_t bit = (size_t)(i * 2654435761u) % (ALL * 8);
        value[bit / 8] ^= (uint8_t)(1u << bit % 8);
        status st = redis_value_land(value, ALL, &key, to, BYTES);
        assert_true(st == ERR_CORRUPT || st == ERR_BAD_INPUT); /* and none passes for an old one */
        value[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t bytes = 0; bytes < ALL; bytes += 61)
        assert_int_equal(redis_value_land(value, bytes, &key, to, BYTES), ERR_BAD_INPUT);
    assert_int_equal(redis_value_land(value, ALL, &parent, to, BYTES), ERR_CORRUPT);
    for (size_t bit = 0; bit < REDIS_VALUE_HEAD_BYTES * 8;
         bit++) { /* all of the head, key and parent */
        value[bit / 8] ^= (uint8_t)(1u << bit % 8);
        status st = redis_value_land(value, ALL, &key, to, BYTES);
        assert_true(st == ERR_CORRUPT || st == ERR_BAD_INPUT);
        value[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    value[4] = 1; /* an older version */
    assert_int_equal(redis_value_land(value, ALL, &key, to, BYTES), ERR_NOT_FOUND);
}

/* ---- one Redis ---- */

static void test_single(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    rig_server_start(&server, false, "");
    rig_open(&rig, &server);

    struct store_report report = add(&rig, 0, 40, 0, 0);
    assert_int_equal(report.status, OK);
    assert_int_equal(report.count, 40);
    assert_int_equal(report.bytes, 40 * BLOCK_BYTES);
    assert_int_equal(find(&rig, 0, 60), 40);
    assert_int_equal(find(&rig, 50, 3), 0);
    report = get(&rig, 0, 60, 100);
    assert_int_equal(report.status, OK);
    assert_int_equal(report.count, 40);

    /* Adding twice is one copy and moves nothing. */
    report = add(&rig, 0, 40, 0, 0);
    assert_int_equal(report.count, 40);
    assert_int_equal(report.bytes, 0);
    assert_int_equal(atoi(rig_cli(&server, "dbsize")),
                     40 + 40 + 1); /* blocks, their links, the model */
    assert_string_equal(rig_cli(&server, "scard baton:r:09000000000000000000000000000000"), "1\n");

    /* One that is missing in between ends the leading run. */
    rig_cli(&server, "del baton:b:01020300140000000000000000000000");
    assert_int_equal(get(&rig, 0, 40, 100).count, 20);
    assert_int_equal(find(&rig, 0, 40), 20);

    /* A block with a short life. */
    add(&rig, 200, 1, 0, 300);
    assert_int_equal(get(&rig, 200, 1, 100).count, 1);
    rig_sleep_ms(500);
    assert_int_equal(get(&rig, 200, 1, 100).count, 0);

    struct store_counters counters;
    store_count(rig.store, &counters);
    assert_int_equal(counters.queued_blocks, 0);
    assert_int_equal(counters.dropped_blocks, 0);
    assert_int_equal(counters.connects, 1);
    rig_close(&rig);
    rig_server_stop(&server);
}

static void test_damaged_at_rest(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    rig_server_start(&server, false, "");
    rig_open(&rig, &server);
    add(&rig, 0, 8, 0, 0);
    rig_cli(&server, "setrange baton:b:01020300050000000000000000000000 30000 xyzzy");
    struct store_report report = get(&rig, 0, 8, 100);
    assert_int_equal(report.status, ERR_CORRUPT);
    assert_int_equal(report.count, 5);
    /* It is gone, and the next add puts a good one there. */
    assert_int_equal(find(&rig, 0, 8), 5);
    add(&rig, 0, 8, 0, 0);
    assert_int_equal(get(&rig, 0, 8, 100).count, 8);
    struct store_counters counters;
    store_count(rig.store, &counters);
    assert_int_equal(counters.checksum_failures, 1);
    rig_close(&rig);
    rig_server_stop(&server);
}

/* As a release before left it: absent, no damage, and replaced by the next add. */
static void test_older_version(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    struct store_counters counters;
    rig_server_start(&server, false, "");
    rig_open(&rig, &server);
    add(&rig, 0, 8, 0, 0);
    rig_cli(&server,
            "--quoted-input setrange baton:b:01020300050000000000000000000000 4 \"\\x01\"");
    struct store_report report = get(&rig, 0, 8, 100);
    assert_int_equal(report.status, OK);
    assert_int_equal(report.count, 5);
    assert_int_equal(find(&rig, 0, 8), 5);
    assert_int_equal(add(&rig, 0, 8, 0, 0).count, 8);
    assert_int_equal(get(&rig, 0, 8, 100).count, 8);
    store_count(rig.store, &counters);
    assert_int_equal(counters.checksum_failures, 0);
    rig_close(&rig);
    rig_server_stop(&server);
}

static void test_password(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    char address[128];
    rig_server_start(&server, false, "--requirepass open%sesame");
    snprintf(address, sizeof(address), "redis://:open%%25sesame@127.0.0.1:%d", server.port);
    rig_open_at(&rig, address, 0);
    assert_true(wait_up(&rig, true, 5000));
    assert_int_equal(add(&rig, 0, 3, 0, 0).count, 3);
    rig_close(&rig);
    /* Without it, and with a wrong one: never up, calls are refused at once. */
    for (int i = 0; i < 2; i++) {
        struct block_key key = key_of(0);
        snprintf(address, sizeof(address),
                 i == 0 ? "redis://127.0.0.1:%d" : "redis://:x@127.0.0.1:%d", server.port);
        rig_open_at(&rig, address, 0);
        rig_sleep_ms(400);
        assert_false(store_is_up(rig.store));
        assert_int_equal(store_find(rig.store, 1, &key, 1, 100), ERR_CLOSED);
        rig_close(&rig);
    }
    rig_server_stop(&server);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    rig_server_start(&server, false, "--maxmemory 4mb --maxmemory-policy noeviction");
    rig_open(&rig, &server);
    struct store_report report = add(&rig, 0, 200, 0, 0);
    assert_int_equal(report.status, ERR_FULL);
    assert_non_null(strstr(report.text, "memory"));
    assert_true(report.count > 0 && report.count < 200);
    /* What is there can be read all the same. */
    assert_true(get(&rig, 0, 10, 300).count > 0);
    rig_close(&rig);
    rig_server_stop(&server);
}

static void test_killed_and_back(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    rig_server_start(&server, false, "");
    rig_open(&rig, &server);
    add(&rig, 0, 10, 0, 0);
    rig_server_kill(&server);
    assert_true(wait_up(&rig, false, 2000));
    struct store_block block = {.key = key_of(1)};
    assert_int_equal(store_add(rig.store, 1, &block, 1, 0), ERR_CLOSED);
    struct store_counters counters;
    store_count(rig.store, &counters);
    assert_int_equal(counters.dropped_blocks, 1);
    rig_server_run(&server);
    assert_true(wait_up(&rig, true, 5000));
    assert_int_equal(get(&rig, 0, 10, 100).count, 0); /* it kept nothing, and says so */
    assert_int_equal(add(&rig, 0, 10, 0, 0).count, 10);
    assert_int_equal(get(&rig, 0, 10, 100).count, 10);
    rig_close(&rig);
    rig_server_stop(&server);
}

/* A Redis that is stopped answers nobody: every call ends by its deadline. */
static void test_stopped(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    rig_server_start(&server, false, "");
    rig_open(&rig, &server);
    add(&rig, 0, 10, 0, 0);
    kill(server.pid, SIGSTOP);
    uint64_t start = clock_ns();
    ask(&rig, true, 0, 10, 100, 700);
    struct store_report report = take(&rig, 5000);
    double waited = (double)(clock_ns() - start) / 1e9;
    assert_int_equal(report.status, ERR_TIMEOUT);
    assert_int_equal(report.count, 0);
    assert_true(waited > 0.6 && waited < 1.7);
    /* After the silence the connection is given up; when it is awake it is found again. */
    assert_true(wait_up(&rig, false, 6000));
    kill(server.pid, SIGCONT);
    assert_true(wait_up(&rig, true, 5000));
    assert_int_equal(get(&rig, 0, 10, 100).count, 10);
    rig_close(&rig);
    rig_server_stop(&server);
}

static void test_queue_and_cancel(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    char address[64];
    rig_server_start(&server, false, "");
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server.port);
    rig_open_at(&rig, address, 16);
    assert_true(wait_up(&rig, true, 5000));
    kill(server.pid, SIGSTOP);
    struct store_block blocks[17];
    for (uint32_t i = 0; i < 17; i++)
        blocks[i] = (struct store_block){.key = key_of(i), .is_first = true, .id = i};
    assert_int_equal(store_add(rig.store, 1, blocks, 17, 0), ERR_FULL);
    assert_int_equal(store_add(rig.store, 1, blocks, 16, 0), OK);
    assert_int_equal(store_add(rig.store, 2, blocks, 1, 0), ERR_FULL);
    ask(&rig, true, 0, 4, 100, 10000);
    store_cancel(rig.store, 8);
    struct store_report report = take(&rig, 1000);
    assert_int_equal(report.mail.kind, STORE_GOT);
    assert_int_equal(report.status, ERR_CANCELLED);
    struct store_counters counters;
    store_count(rig.store, &counters);
    assert_int_equal(counters.queued_blocks, 16);
    assert_int_equal(counters.dropped_blocks, 18);
    kill(server.pid, SIGCONT);
    report = take(&rig, 10000);
    assert_int_equal(report.mail.kind, STORE_ADDED);
    assert_int_equal(report.count, 16);
    /* What was cancelled is not landed afterwards. */
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        assert_int_equal(rig.pool[100 * BLOCK_BYTES + i], 0xee);
    /* Closing with calls under way reports them. */
    kill(server.pid, SIGSTOP);
    ask(&rig, false, 0, 4, 0, 10000);
    struct mailbox *reports = rig.reports;
    store_close(rig.store);
    struct mail *mail = mailbox_take_all(reports);
    assert_non_null(mail);
    assert_int_equal(((struct store_report *)mail)->status, ERR_CANCELLED);
    store_report_free((struct store_report *)mail);
    mailbox_close(reports);
    free(rig.pool);
    rig_server_stop(&server);
}

static void test_no_cluster(void **state)
{
    (void)state;
    struct redis_server server;
    struct store_rig rig;
    char address[64];
    rig_server_start(&server, false, "");
    snprintf(address, sizeof(address), "redis-cluster://127.0.0.1:%d", server.port);
    rig_open_at(&rig, address, 0);
    rig_sleep_ms(500);
    assert_false(store_is_up(rig.store));
    rig_close(&rig);
    rig_server_stop(&server);
}

/* ---- a cluster of six ---- */

static int primary_of(struct redis_server *servers, const char *address_part)
{
    for (int i = 0; i < REDIS_RIG_NODES; i++) {
        char port[32];
        snprintf(port, sizeof(port), ":%d@", servers[i].port);
        if (strstr(address_part, port) != NULL)
            return i;
    }
    return -1;
}

static void cluster_ids(struct redis_server *servers, int primaries[3], char ids[3][41])
{
    char *rest = strdup(rig_cli(&servers[0], "cluster nodes")), *text = rest;
    int count = 0;
    for (char *line = strsep(&rest, "\n"); line != NULL && count < 3; line = strsep(&rest, "\n")) {
        if (strstr(line, "master") == NULL || strstr(line, " connected ") == NULL)
            continue; /* with slots, and not one that was taken for dead on a busy machine */
        memcpy(ids[count], line, 40);
        ids[count][40] = '\0';
        char *end = strchr(line + 41, ' ');
        *end = '\0';
        primaries[count++] = primary_of(servers, line + 41);
    }
    free(text);
    assert_int_equal(count, 3);
}

/* How often the node has answered with this error. */
static uint64_t answered(const struct redis_server *server, const char *error)
{
    char name[64];
    snprintf(name, sizeof(name), "errorstat_%s:count=", error);
    const char *at = strstr(rig_cli(server, "info errorstats"), name);
    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static int keys_in(const struct redis_server *server, uint32_t slot)
{
    return atoi(rig_cli(server, "cluster countkeysinslot %u", slot));
}

static uint32_t slot_of(uint32_t number)
{
    char name[REDIS_NAME_BYTES];
    struct block_key key = key_of(number);
    redis_block_name(&key, name);
    return redis_slot(name, strlen(name));
}

static void cli_says(const char *words, const char *said)
{
    if (strcmp(said, words) != 0)
        fail_msg("redis-cli: %s", said);
}

static void wait_agreed(const struct redis_server *server)
{
    const char *said = "";
    for (int i = 0; i < 100 && strstr(said, "[OK] All nodes agree") == NULL; i++) {
        said = rig_cli(server, "--cluster check 127.0.0.1:%d", server->port);
        rig_sleep_ms(100);
    }
    if (strstr(said, "[OK] All nodes agree") == NULL)
        fail_msg("the nodes do not agree: %s", said);
}

/* The slot of a block stands half way between two primaries, and then with the other one. The nodes
 * say what they answered: ASK for each command, and what follows it comes behind ASKING, or the
 * other one would have said MOVED; then nothing but the right one is asked, once the map is
 * learned, which is asked for again after every redirection. */
static void test_redirections(struct store_rig *rig, struct redis_server *servers,
                              const int primaries[3], char ids[3][41])
{
    char name[REDIS_NAME_BYTES];
    uint32_t number = 0, slot = slot_of(0), other = 1000, from = 0, to;
    while (from < 3 && keys_in(&servers[primaries[from]], slot) == 0)
        from++;
    assert_true(from < 3);
    to = (from + 1) % 3;
    const struct redis_server *here = &servers[primaries[from]], *there = &servers[primaries[to]];
    while (keys_in(here, slot) != 1 && number < 199) /* alone in its slot, and here */
        slot = slot_of(++number);
    while (slot_of(other) != slot)
        other++;
    struct block_key key = key_of(number);
    redis_block_name(&key, name);
    cli_says("OK\n", rig_cli(there, "cluster setslot %u importing %s", slot, ids[from]));
    cli_says("OK\n", rig_cli(here, "cluster setslot %u migrating %s", slot, ids[to]));
    cli_says("OK\n", rig_cli(here, "migrate 127.0.0.1 %d %s 0 5000", there->port, name));

    uint64_t asked = answered(here, "ASK"), moved = answered(here, "MOVED");
    uint64_t moved_there = answered(there, "MOVED");
    for (uint32_t i = 1; i <= 2; i++) { /* nothing is learned from it */
        assert_int_equal(get(rig, number, 1, 250).count, 1);
        assert_int_equal(answered(here, "ASK"), asked + i);
    }
    assert_int_equal(find(rig, number, 1), 1);
    assert_int_equal(add(rig, other, 1, 0, 0).count, 1); /* EXISTS and SET */
    assert_int_equal(get(rig, other, 1, 250).count, 1);
    assert_int_equal(answered(here, "ASK"), asked + 6);
    assert_int_equal(keys_in(here, slot), 0);
    assert_int_equal(keys_in(there, slot), 2);
    assert_int_equal(answered(here, "MOVED"), moved);
    assert_int_equal(answered(there, "MOVED"), moved_there);

    cli_says("OK\n", rig_cli(there, "cluster setslot %u node %s", slot, ids[to]));
    cli_says("OK\n", rig_cli(here, "cluster setslot %u node %s", slot, ids[to]));
    wait_agreed(here);
    uint32_t direct = 0; /* the node that is asked for the map may not have heard of it yet */
    for (uint32_t i = 0; i < 100 && direct < 3; i++) {
        rig_sleep_ms(direct > 0 ? 0 : 50);
        moved = answered(here, "MOVED");
        assert_int_equal(get(rig, number, 1, 250).count, 1);
        direct = answered(here, "MOVED") == moved ? direct + 1 : 0;
    }
    assert_int_equal(direct, 3);
    assert_int_equal(answered(here, "ASK"), asked + 6);
    assert_int_equal(answered(there, "MOVED"), moved_there);
}

static void test_cluster(void **state)
{
    (void)state;
    struct redis_server servers[REDIS_RIG_NODES];
    struct store_rig rig;
    char address[128];
    int primaries[3];
    char ids[3][41];
    assert_true(rig_cluster_start(servers));
    /* The first seed is dead: the second one answers. */
    snprintf(address, sizeof(address), "redis-cluster://127.0.0.1:%d,127.0.0.1:%d", rig_free_port(),
             servers[4].port);
    rig_open_at(&rig, address, 0);
    assert_true(wait_up(&rig, true, 10000));
    assert_int_equal(add(&rig, 0, 200, 0, 0).count, 200);
    assert_int_equal(find(&rig, 0, 201), 200);
    assert_int_equal(get(&rig, 0, 200, 250).count, 200);
    cluster_ids(servers, primaries, ids);
    /* A dead seed has the map asked for four times a second: without it, it is MOVED that tells. */
    rig_close(&rig);
    snprintf(address, sizeof(address), "redis-cluster://127.0.0.1:%d", servers[4].port);
    rig_open_at(&rig, address, 0);
    assert_true(wait_up(&rig, true, 10000));

    test_redirections(&rig, servers, primaries, ids);

    /* Slots move while blocks are read, with blocks in them, and nothing is missed. */
    uint64_t moved = answered(&servers[primaries[0]], "MOVED");
    pid_t mover = fork();
    if (mover == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        rig_cli(&servers[0],
                "--cluster reshard 127.0.0.1:%d --cluster-from %s --cluster-to %s "
                "--cluster-slots 200 --cluster-yes",
                servers[0].port, ids[0], ids[1]);
        _exit(0);
    }
    int rounds = 0;
    for (bool moving = true; moving || rounds < 3; rounds++) {
        assert_int_equal(get(&rig, 0, 200, 250).count, 200);
        moving = moving && waitpid(mover, NULL, WNOHANG) == 0;
    }
    assert_int_equal(get(&rig, 0, 200, 250).count, 200);
    assert_true(answered(&servers[primaries[0]], "MOVED") > moved);

    /* A primary dies. Replication is asynchronous: what it has not passed on would be lost. */
    for (int i = 0; i < REDIS_RIG_NODES; i++) {
        for (int k = 0; k < 100; k++) {
            const char *info = rig_cli(&servers[i], "info replication");
            if (strstr(info, "role:master") != NULL || strstr(info, "link_status:up") != NULL)
                break;
            rig_sleep_ms(100);
        }
    }
    rig_sleep_ms(1000);
    rig_server_kill(&servers[primaries[1]]);
    struct store_report report = get(&rig, 0, 200, 250); /* waits for the replica, at most 15 s */
    assert_int_equal(report.status, OK);
    assert_int_equal(report.count, 200);
    assert_int_equal(add(&rig, 300, 100, 0, 0).count, 100);
    assert_int_equal(get(&rig, 300, 100, 250).count, 100);

    /* It comes back as a replica. */
    rig_server_run(&servers[primaries[1]]);
    assert_int_equal(get(&rig, 300, 100, 250).count, 100);
    rig_close(&rig);
    for (int i = 0; i < REDIS_RIG_NODES; i++)
        rig_server_stop(&servers[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots),          cmocka_unit_test(test_urls),
        cmocka_unit_test(test_password_files), cmocka_unit_test(test_flips),
        cmocka_unit_test(test_single),         cmocka_unit_test(test_damaged_at_rest),
        cmocka_unit_test(test_older_version),  cmocka_unit_test(test_password),
        cmocka_unit_test(test_out_of_memory),  cmocka_unit_test(test_killed_and_back),
        cmocka_unit_test(test_stopped),        cmocka_unit_test(test_queue_and_cancel),
        cmocka_unit_test(test_no_cluster),     cmocka_unit_test(test_cluster),
    };
    if (!rig_has_redis()) {
        printf("skipped: redis-server or redis-cli is not installed\n");
        return 77;
    }
    srand((unsigned)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
