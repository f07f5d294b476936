/* tests/redis_rig.h - real redis-server processes for a test: one, or a cluster of six.
 *
 * Each server has a folder under /tmp and a port of its own, binds to 127.0.0.1, and dies with the
 * test. Only for the tests that include it.
 */
#ifndef TESTS_REDIS_RIG_H
#define TESTS_REDIS_RIG_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REDIS_RIG_ARGUMENTS_MAX 40
#define REDIS_RIG_NODES 6

struct redis_server {
    pid_t pid;
    int port;
    bool cluster;
    char folder[64];
    char extra[256]; /* options, separated by spaces */
};

static inline void rig_sleep_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static inline bool rig_has_redis(void)
{
    return access("/usr/bin/redis-server", X_OK) == 0 && access("/usr/bin/redis-cli", X_OK) == 0;
}

static inline bool rig_port_is_free(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int bound = bind(fd, (struct sockaddr *)&at, sizeof(at));
    close(fd);
    return bound == 0;
}

/* A port that is free, and so is that of its cluster bus, 10000 above; both below those that the
 * system gives to outgoing connections. */
static inline int rig_free_port(void)
{
    for (;;) {
        int port = 12000 + rand() % 10000;
        if (rig_port_is_free(port) && rig_port_is_free(port + 10000))
            return port;
    }
}

static inline bool rig_connects(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
    close(fd);
    return ok;
}

static inline pid_t rig_spawn(char *const *arguments, int output)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(output >= 0 ? output : null, 1);
        dup2(output >= 0 ? output : null, 2);
        execv(arguments[0], arguments);
        _exit(127);
    }
    return pid;
}

/* Start, or start again with the same port and folder. */
static inline void rig_server_run(struct redis_server *server)
{
    char port[16], extra[256];
    char *arguments[REDIS_RIG_ARGUMENTS_MAX] = {"/usr/bin/redis-server",
                                                "--port",
                                                port,
                                                "--bind",
                                                "127.0.0.1",
                                                "--dir",
                                                server->folder,
                                                "--save",
                                                "",
                                                "--appendonly",
                                                "no",
                                                "--cluster-enabled",
                                                server->cluster ? "yes" : "no",
                                                "--cluster-node-timeout",
                                                "2000"};
    int count = 15;
    char *rest = extra;
    snprintf(port, sizeof(port), "%d", server->port);
    snprintf(extra, sizeof(extra), "%s", server->extra);
    for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " ")) {
        if (*word != '\0')
            arguments[count++] = word;
    }
    server->pid = rig_spawn(arguments, -1);
    for (int i = 0; i < 500 && !rig_connects(server->port); i++)
        rig_sleep_ms(20);
}

static inline void rig_server_start(struct redis_server *server, bool cluster, const char *extra)
{
    *server = (struct redis_server){.port = rig_free_port(), .cluster = cluster};
    snprintf(server->extra, sizeof(server->extra), "%s", extra);
    snprintf(server->folder, sizeof(server->folder), "/tmp/baton-redis-XXXXXX");
    if (mkdtemp(server->folder) == NULL)
        abort();
    rig_server_run(server);
}

static inline void rig_server_kill(struct redis_server *server)
{
    if (server->pid <= 0)
        return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

static inline void rig_server_stop(struct redis_server *server)
{
    char path[128];
    rig_server_kill(server);
    snprintf(path, sizeof(path), "%s/nodes.conf", server->folder);
    unlink(path);
    rmdir(server->folder);
}

/* redis-cli with these words; what it printed. */
static inline const char *rig_cli(const struct redis_server *server, const char *format, ...)
{
    static char output[65536];
    char words[4096], port[16];
    char *arguments[REDIS_RIG_ARGUMENTS_MAX] = {"/usr/bin/redis-cli", "-p", port,
                                                "--no-auth-warning"};
    int count = 4, ends[2];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    snprintf(port, sizeof(port), "%d", server->port);
    char *rest = words;
    for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " "))
        arguments[count++] = word;
    output[0] = '\0';
    if (pipe(ends) != 0)
        return output;
    pid_t pid = rig_spawn(arguments, ends[1]);
    size_t bytes = 0;
    ssize_t got;
    close(ends[1]);
    while (bytes + 1 < sizeof(output) &&
           (got = read(ends[0], output + bytes, sizeof(output) - 1 - bytes)) > 0)
        bytes += (size_t)got;
    output[bytes] = '\0';
    close(ends[0]);
    waitpid(pid, NULL, 0);
    return output;
}

/* Three primaries, three replicas, every slot assigned. */
static inline bool rig_cluster_start(struct redis_server servers[REDIS_RIG_NODES])
{
    char list[512] = "";
    for (int i = 0; i < REDIS_RIG_NODES; i++) {
        rig_server_start(&servers[i], true, "");
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, " 127.0.0.1:%d", servers[i].port);
    }
    rig_cli(&servers[0], "--cluster create%s --cluster-replicas 1 --cluster-yes", list);
    for (int i = 0; i < 200; i++) {
        bool all = true;
        for (int k = 0; k < REDIS_RIG_NODES; k++) {
            const char *info = rig_cli(&servers[k], "cluster info");
            all = all && strstr(info, "cluster_state:ok") != NULL &&
                  strstr(info, "cluster_known_nodes:6") != NULL;
        }
        if (all)
            return true;
        rig_sleep_ms(100);
    }
    return false;
}

#endif
