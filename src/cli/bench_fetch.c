#include "cli/bench_fetch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/commands.h"

#define WAIT_NS 10000000000u

static uint32_t dice_below(struct fetch *fetch, uint32_t limit)
{
    fetch->dice = fetch->dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fetch->dice >> 33) % limit);
}

status fetch_open(const char *word, const char *plugin, struct device *device_out,
                  struct fetch *fetch_out)
{
    const struct backend_shape shape = {.layer_count = FETCH_LAYERS,
                                        .head_count = 32,
                                        .kv_head_count = 8,
                                        .head_dim = 128,
                                        .block_tokens = 16,
                                        .kv_dtype = DTYPE_F16,
                                        .block_bytes = FETCH_BLOCK_BYTES,
                                        .layer_bytes = FETCH_LAYER_BYTES,
                                        .rope_dims = 128,
                                        .rope_theta = 10000,
                                        .norm_epsilon = 1e-5f};
    const struct backend_limits limits = {
        .rows_max = 16, .sequences_max = 4, .outputs_max = 4, .table_blocks_max = 16};
    const struct device_options options = {.staged = false};
    struct backend_pool pool;
    struct fetch fetch = {.blocks = FETCH_BLOCKS, .dice = 1};
    status st = device_find(word, plugin, device_out);
    if (st == OK && device_out->plugin == NULL)
        st = error_set(ERR_BAD_INPUT, "expected a GPU such as cuda:0, found \"%s\"", word);
    if (st == OK)
        st = device_open(device_out, &shape, &limits, &options, &fetch.backend);
    if (st == OK)
        st = fetch.backend->calls->pool_open(fetch.backend, FETCH_BLOCKS, &pool);
    *fetch_out = fetch;
    return st;
}

status fetch_map(const struct fetch_holder *holder, struct backend *backend, uint64_t pool_bytes,
                 struct fetch *fetch_out)
{
    uint8_t handle[POOL_HANDLE_BYTES];
    struct fetch fetch = {
        .backend = backend, .blocks = (uint32_t)(pool_bytes / FETCH_BLOCK_BYTES), .dice = 1};
    if (fetch.blocks < MOVE_SPANS_MAX)
        return error_set(ERR_BAD_INPUT,
                         "a pool of %llu bytes has no room for what is fetched, %u blocks of %zu",
                         (unsigned long long)pool_bytes, MOVE_SPANS_MAX, FETCH_BLOCK_BYTES);
    if (read(holder->up, handle, sizeof(handle)) != (ssize_t)sizeof(handle))
        return error_set(ERR_CLOSED, "the holder gave no handle");
    status st =
        backend->moves->pool_map(backend, handle, FETCH_BLOCKS * FETCH_BLOCK_BYTES, &fetch.map);
    *fetch_out = fetch;
    return st;
}

void fetch_unmap(struct fetch *fetch)
{
    if (fetch->map != NULL)
        fetch->backend->moves->pool_unmap(fetch->backend, fetch->map);
    fetch->map = NULL;
}

/* Start one move of size slices; steps prime to the number of blocks: all different. */
static status slices_start(struct fetch *fetch, uint32_t size, uint32_t *ticket_out)
{
    struct move_span spans[MOVE_SPANS_MAX];
    uint64_t layer = dice_below(fetch, FETCH_LAYERS) * (uint64_t)FETCH_LAYER_BYTES;
    uint32_t from = dice_below(fetch, FETCH_BLOCKS), to = dice_below(fetch, fetch->blocks);
    for (uint32_t i = 0; i < size; i++)
        spans[i] = (struct move_span){
            .from = (from + i * 37ull) % FETCH_BLOCKS * FETCH_BLOCK_BYTES + layer,
            .to = (to + i * (fetch->blocks % 101 == 0 ? 103ull : 101ull)) % fetch->blocks *
                      FETCH_BLOCK_BYTES +
                  layer};
    const struct pool_move move = {.kind = MOVE_FETCH,
                                   .map = fetch->map,
                                   .spans = spans,
                                   .span_count = size,
                                   .bytes = FETCH_LAYER_BYTES};
    return fetch->backend->moves->start(fetch->backend, &move, ticket_out);
}

status fetch_slices(struct fetch *fetch, uint32_t blocks, uint32_t times)
{
    const struct backend_moves *moves = fetch->backend->moves;
    struct move_sum sums[MOVE_SPANS_MAX];
    uint32_t tickets[MOVES_MAX], started = 0, over = 0;
    uint32_t parts = (blocks + MOVE_SPANS_MAX - 1) / MOVE_SPANS_MAX * times;
    uint32_t size = blocks < MOVE_SPANS_MAX ? blocks : MOVE_SPANS_MAX;
    uint64_t end_ns = clock_ns() + WAIT_NS;
    status st = OK;
    while (st == OK && over < parts) {
        if (started < parts && started - over < MOVES_MAX) {
            st = slices_start(fetch, size, &tickets[started % MOVES_MAX]);
            started++;
            continue;
        }
        bool is_over = false;
        st = moves->poll(fetch->backend, tickets[over % MOVES_MAX], &is_over, sums);
        over += is_over;
        if (st == OK && !is_over && clock_ns() > end_ns)
            st = error_set(ERR_TIMEOUT, "a fetch does not end");
    }
    return st;
}

/* ---- the holder ---- */

/* A handle goes up the pipe; then each byte from below begins or ends a load of the GPU. */
static status holder_serve(struct fetch *holder, int up, int down)
{
    uint8_t handle[POOL_HANDLE_BYTES];
    status st = holder->backend->moves->pool_export(holder->backend, handle);
    if (st == OK)
        st = holder->backend->moves->pool_map(holder->backend, handle,
                                              FETCH_BLOCKS * FETCH_BLOCK_BYTES, &holder->map);
    if (st == OK && write(up, handle, sizeof(handle)) != (ssize_t)sizeof(handle))
        st = error_set(ERR_IO, "cannot give the handle: %s", strerror(errno));
    char word = 0;
    while (st == OK && read(down, &word, 1) == 1) {
        while (st == OK && word == 'l') {
            st = fetch_slices(holder, MOVE_SPANS_MAX, MOVES_MAX);
            char next;
            fd_set ready;
            struct timeval now = {0, 0};
            FD_ZERO(&ready);
            FD_SET(down, &ready);
            if (select(down + 1, &ready, NULL, NULL, &now) == 1)
                word = read(down, &next, 1) == 1 ? next : 0;
        }
    }
    return st;
}

status fetch_holder_start(const char *device, const char *plugin, struct fetch_holder *holder_out)
{
    int up[2], down[2];
    *holder_out = (struct fetch_holder){.up = -1, .down = -1};
    if (pipe(up) != 0)
        return error_set(ERR_IO, "cannot start the holder: %s", strerror(errno));
    if (pipe(down) != 0) {
        close(up[0]);
        close(up[1]);
        return error_set(ERR_IO, "cannot start the holder: %s", strerror(errno));
    }
    signal(SIGPIPE, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) {
        struct device own;
        struct fetch holder = {.dice = 2};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(up[0]);
        close(down[1]);
        status st = fetch_open(device, plugin, &own, &holder);
        if (st == OK)
            st = holder_serve(&holder, up[1], down[0]);
        if (st != OK)
            fprintf(stderr, "baton bench: holder: %s\n", error_text());
        _exit(st == OK ? EXIT_OK : EXIT_FAILED);
    }
    close(up[1]);
    close(down[0]);
    *holder_out = (struct fetch_holder){.pid = pid, .up = up[0], .down = down[1]};
    return pid > 0 ? OK : error_set(ERR_IO, "cannot start the holder: %s", strerror(errno));
}

void fetch_holder_stop(struct fetch_holder *holder)
{
    if (holder->pid <= 0)
        return;
    close(holder->down);
    close(holder->up);
    waitpid(holder->pid, NULL, 0);
    holder->pid = 0;
}

status fetch_holder_load(const struct fetch_holder *holder, bool loaded)
{
    if (write(holder->down, loaded ? "l" : "q", 1) != 1)
        return error_set(ERR_IO, "the holder is gone");
    return OK;
}
