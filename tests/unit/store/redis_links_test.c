/* What operators ask of a Redis: against real processes, one and a cluster of six. */
#include "unit/store/redis_store_rig.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/redis_links.h"

static const uint8_t model[REDIS_MODEL_BYTES] = {9}, nobody[REDIS_MODEL_BYTES] = {8};

/* Blocks that are there, of those that are linked. */
static uint32_t count_there(struct redis_links *links, size_t linked)
{
    const struct redis_links_key *keys;
    size_t count;
    uint32_t there = 0;
    assert_int_equal(redis_links_look(links, &keys, &count), OK);
    assert_int_equal(count, linked);
    for (size_t i = 0; i < count; i++) {
        there += keys[i].bytes > 0;
        assert_true(keys[i].bytes == 0 || keys[i].bytes > BLOCK_BYTES);
    }
    return there;
}

static struct redis_links *open_at(const char *address)
{
    struct redis_links *links;
    assert_int_equal(redis_links_open(address, NULL, &links), OK);
    return links;
}

static uint64_t deleted(struct redis_links *links)
{
    uint64_t count;
    assert_int_equal(redis_links_delete(links, &count), OK);
    return count;
}

/* Two chains: 0 .. 39, and 100 .. 129 that continues 9. */
static void fill_store(struct store_rig *rig)
{
    struct store_block blocks[30];
    assert_int_equal(add(rig, 0, 40, 0, 0).count, 40);
    for (uint32_t i = 0; i < 30; i++) {
        fill(rig->pool + (size_t)i * BLOCK_BYTES, 100 + i);
        blocks[i] = (struct store_block){
            .key = key_of(100 + i), .parent = key_of(i == 0 ? 9 : 99 + i), .id = i};
    }
    assert_int_equal(store_add(rig->store, 7, blocks, 30, 0), OK);
    assert_int_equal(take(rig, 40000).count, 30);
}

static void everything_is_found_and_deleted(const char *address)
{
    struct store_rig rig;
    const uint8_t *models;
    uint32_t model_count;
    rig_open_at(&rig, address, 0);
    assert_true(wait_up(&rig, true, 10000));
    fill_store(&rig);
    struct redis_links *links = open_at(address);
    assert_int_equal(redis_links_models(links, &models, &model_count), OK);
    assert_int_equal(model_count, 1);
    assert_memory_equal(models, model, sizeof(model));
    assert_int_equal(redis_links_take_model(links, model), OK);
    assert_int_equal(count_there(links, 70), 70);
    assert_int_equal(redis_links_take_model(links, nobody), OK);
    assert_int_equal(count_there(links, 0), 0);

    /* One: what continues it stays, and is found past it. */
    struct block_key one = key_of(5), absent = key_of(999);
    assert_int_equal(redis_links_take_keys(links, &one, 1), OK);
    assert_int_equal(deleted(links), 1);
    assert_int_equal(deleted(links), 0);
    assert_int_equal(redis_links_take_keys(links, &absent, 1), OK);
    assert_int_equal(deleted(links), 0);
    assert_int_equal(redis_links_take_model(links, model), OK);
    assert_int_equal(count_there(links, 70), 69);
    assert_int_equal(find(&rig, 0, 40), 5);

    /* A tree: both chains go on from 9. */
    one = key_of(9);
    assert_int_equal(redis_links_take_tree(links, &one), OK);
    assert_int_equal(count_there(links, 61), 61);
    assert_int_equal(deleted(links), 61);
    assert_int_equal(redis_links_take_tree(links, &one), OK);
    assert_int_equal(count_there(links, 1), 0); /* no link is left below it */
    assert_int_equal(find(&rig, 100, 30), 0);
    assert_int_equal(find(&rig, 6, 10), 3);

    /* A model, of which nothing is left then. */
    assert_int_equal(redis_links_take_model(links, nobody), OK);
    assert_int_equal(deleted(links), 0);
    assert_int_equal(redis_links_take_model(links, model), OK);
    assert_int_equal(deleted(links), 8);
    assert_int_equal(redis_links_models(links, &models, &model_count), OK);
    assert_int_equal(model_count, 0);

    /* What was deleted can be added again. */
    fill_store(&rig);
    assert_int_equal(get(&rig, 0, 40, 100).count, 40);
    assert_int_equal(redis_links_take_model(links, model), OK);
    assert_int_equal(deleted(links), 70);
    redis_links_close(links);
    rig_close(&rig);
}

static void of_one_redis(void **state)
{
    (void)state;
    struct redis_server server;
    char address[128];
    rig_server_start(&server, false, "");
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server.port);
    rig_cli(&server, "set somebody else");
    everything_is_found_and_deleted(address);
    assert_string_equal(rig_cli(&server, "keys *"), "somebody\n"); /* ours left nothing */
    rig_server_stop(&server);
}

static void of_a_cluster(void **state)
{
    (void)state;
    struct redis_server servers[REDIS_RIG_NODES];
    char address[128];
    assert_true(rig_cluster_start(servers));
    snprintf(address, sizeof(address), "redis-cluster://127.0.0.1:%d", servers[2].port);
    everything_is_found_and_deleted(address);
    for (int i = 0; i < REDIS_RIG_NODES; i++) {
        assert_string_equal(rig_cli(&servers[i], "dbsize"), "0\n");
        rig_server_stop(&servers[i]);
    }
}

/* A set of more than a page, and members that are no keys. */
static void sets_are_read_page_by_page(void **state)
{
    (void)state;
    struct redis_server server;
    char address[128];
    rig_server_start(&server, false, "");
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server.port);
    rig_cli(&server, "eval for\ti=1,5000\tdo\tredis.call('sadd','baton:r:"
                     "09000000000000000000000000000000',string.format('%%032x',i))\tend 0");
    rig_cli(&server, "sadd baton:r:09000000000000000000000000000000 hello "
                     "zz000000000000000000000000000000 -0000000000000000000000000000000");
    struct redis_links *links = open_at(address);
    assert_int_equal(redis_links_take_model(links, model), OK);
    assert_int_equal(count_there(links, 5000), 0);
    assert_int_equal(deleted(links), 0);
    redis_links_close(links);
    assert_string_equal(rig_cli(&server, "dbsize"), "0\n");
    rig_server_stop(&server);
}

/* Down, a password, links in a circle, a set that is none: an error by name, in bounded time. */
static void what_goes_wrong_is_named(void **state)
{
    (void)state;
    struct redis_server server;
    char address[128];
    struct block_key key = key_of(1);
    const uint8_t *models;
    uint32_t count;
    rig_server_start(&server, false, "--requirepass secret");
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server.port);
    struct redis_links *links = open_at(address);
    uint64_t start_ns = clock_ns();
    assert_int_equal(redis_links_models(links, &models, &count), ERR_TIMEOUT);
    assert_non_null(strstr(error_text(), "NOAUTH"));
    assert_true(clock_ns() - start_ns < 12 * UINT64_C(1000000000));
    redis_links_close(links);
    rig_server_stop(&server);
    links = open_at(address);
    assert_int_equal(redis_links_take_tree(links, &key), ERR_TIMEOUT);
    redis_links_close(links);

    rig_server_start(&server, false, "");
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server.port);
    links = open_at(address);
    rig_cli(&server, "set baton:models hello");
    assert_int_equal(redis_links_models(links, &models, &count), ERR_REFUSED);
    assert_non_null(strstr(error_text(), "WRONGTYPE"));
    redis_links_close(links);
    rig_server_stop(&server);
    assert_int_equal(redis_links_open("rediss://127.0.0.1", NULL, &links), ERR_UNSUPPORTED);
}

static int quiet(void **state)
{
    (void)state;
    log_open("test", LOG_ERROR + 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_one_redis),
        cmocka_unit_test(of_a_cluster),
        cmocka_unit_test(sets_are_read_page_by_page),
        cmocka_unit_test(what_goes_wrong_is_named),
    };
    if (!rig_has_redis()) {
        printf("skipped: redis-server or redis-cli is not installed\n");
        return 77;
    }
    srand((unsigned)getpid());
    return cmocka_run_group_tests(tests, quiet, NULL);
}
