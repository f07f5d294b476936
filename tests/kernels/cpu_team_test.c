/* Every chunk of a job is computed exactly once, by whichever threads come, job after job; and what
 * a job wrote is seen by the one who ran it. */
#include "cpu_fixture.h"

#include <time.h>
#include <sched.h>

#include "backend/cpu/team.h"

#define CHUNKS 300u

struct counts {
    uint32_t of[CHUNKS]; /* not atomic: the team must order them */
    uint32_t thread_limit;
};

static void count_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
    struct counts *counts = ctx;
    assert_true(thread < counts->thread_limit);
    counts->of[chunk]++;
}

static void test_every_chunk_once(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 6; threads++) {
        struct team *team;
        assert_int_equal(team_open(threads, NULL, &team), OK);
        assert_int_equal(team_threads(team), threads);
        struct counts counts = {.thread_limit = threads};
        uint32_t expected[CHUNKS] = {0};
        for (uint32_t job = 0; job < 3000; job++) {
            uint32_t chunks = random_below(job % 100 == 0 ? CHUNKS : 9);
            team_run(team, chunks, count_chunk, &counts);
            for (uint32_t i = 0; i < chunks; i++)
                expected[i]++;
            assert_int_equal(counts.of[chunks / 2], expected[chunks / 2]);
            if (job % 500 == 0) /* long enough for workers to fall asleep */
                (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
        assert_memory_equal(counts.of, expected, sizeof(expected));
        team_close(team);
    }
}

static void mark_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
    (void)thread;
    ((uint8_t *)ctx)[chunk]++;
}

/* More chunks than a thread's share has bits for. */
static void test_very_many_chunks(void **state)
{
    (void)state;
    enum { MANY = 700001 };
    struct team *team;
    static uint8_t marks[MANY + 1];
    assert_int_equal(team_open(3, NULL, &team), OK);
    team_run(team, MANY, mark_chunk, marks);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(marks[i], 1);
    assert_int_equal(marks[MANY], 0);
    team_close(team);
}

static void slow_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
    (void)thread;
    (void)nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    ((uint32_t *)ctx)[chunk] = chunk + 1;
}

/* The caller sleeps until slow workers are done. */
static void test_slow_workers(void **state)
{
    (void)state;
    struct team *team;
    assert_int_equal(team_open(4, NULL, &team), OK);
    for (uint32_t job = 0; job < 20; job++) {
        uint32_t done[8] = {0};
        team_run(team, 8, slow_chunk, done);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(done[i], i + 1);
    }
    team_close(team);
}

static void test_pinning(void **state)
{
    (void)state;
    struct team *team;
    int cpus[2] = {0, 0};
    cpu_set_t before, now;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    if (CPU_ISSET(0, &before)) {
        assert_int_equal(team_open(2, cpus, &team), OK);
        assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
        assert_true(CPU_COUNT(&now) == 1 && CPU_ISSET(0, &now));
        team_close(team);
        assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    }
    cpus[1] = CPU_SETSIZE - 1;
    assert_int_equal(team_open(2, cpus, &team), ERR_BAD_INPUT);
    cpus[0] = -1;
    assert_int_equal(team_open(1, cpus, &team), ERR_BAD_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chunk_once), cmocka_unit_test(test_very_many_chunks),
        cmocka_unit_test(test_slow_workers), cmocka_unit_test(test_pinning)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
