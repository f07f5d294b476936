#include "cli/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define RESTART_FIRST_MS 250
#define RESTART_MOST_MS 5000
#define EARLY_DEATHS_MAX 3
#define GOOD_LIFE_NS 30000000000u /* after such a life the next start is quick again */

struct child {
    struct child *next;
    struct supervisor *supervisor;
    char *name;
    char **argv;
    uint32_t stage;
    int keep_fd;   /* open until the first start */
    int fd_number; /* its number; later lives find /dev/null there */
    pid_t pid;     /* 0: not running */
    uint64_t started_ns;
    uint32_t deaths;
    uint64_t restart_ms;
    struct loop_timer *restart;
};

struct supervisor {
    struct loop *loop;
    void (*on_over)(void *ctx, bool failed);
    void *ctx;
    struct loop_watch *child_watch;
    struct child *children;
    bool useful, ending, killed, failed, over;
    uint32_t stage; /* being ended */
};

/* The new process, until it is another program. No signal is let in before. */
static _Noreturn void child_become(const struct child *child, pid_t parent)
{
    static const int handled[] = {SIGTERM, SIGINT, SIGCHLD};
    sigset_t none;
    /* Nobody is left behind when the supervisor is killed. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    /* The supervisor's handlers would tell the supervisor's loop, which is still shared, of signals
     * that were meant for this process. */
    for (size_t i = 0; i < sizeof(handled) / sizeof(handled[0]); i++)
        signal(handled[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Ctrl-C is for the supervisor, which ends its children in order. */
    setpgid(0, 0);
    if (child->keep_fd >= 0)
        fcntl(child->keep_fd, F_SETFD, 0);
    else if (child->fd_number >= 0)
        dup2(open("/dev/null", O_RDWR), child->fd_number);
    execv("/proc/self/exe", child->argv);
    _exit(127);
}

static status child_start(struct child *child)
{
    pid_t parent = getpid();
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        child_become(child, parent);
    int cause = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return error_set(ERR_IO, "cannot start %s: %s", child->name, strerror(cause));
    if (child->keep_fd >= 0)
        close(child->keep_fd);
    child->keep_fd = -1;
    child->pid = pid;
    child->started_ns = clock_ns();
    log_info("started", "child=%s pid=%ld", child->name, (long)pid);
    return OK;
}

static void child_restart(void *ctx)
{
    struct child *child = ctx;
    if (child->supervisor->ending)
        return;
    if (child_start(child) != OK) {
        log_error("cannot restart", "child=%s reason=\"%s\"", child->name, error_text());
        loop_timer_start(child->restart, child->restart_ms);
    }
}

static bool supervisor_any(const struct supervisor *supervisor, bool of_stage)
{
    for (const struct child *c = supervisor->children; c != NULL; c = c->next) {
        if (c->pid != 0 && (!of_stage || c->stage <= supervisor->stage))
            return true;
    }
    return false;
}

static void supervisor_signal(struct supervisor *supervisor, int number, bool all)
{
    for (struct child *c = supervisor->children; c != NULL; c = c->next) {
        if (c->pid != 0 && (all || c->stage == supervisor->stage))
            kill(c->pid, number);
    }
}

/* Ending: when a stage is empty, the next one is told to go. */
static void supervisor_advance(struct supervisor *supervisor)
{
    while (!supervisor_any(supervisor, true) && supervisor_any(supervisor, false)) {
        supervisor->stage++;
        supervisor_signal(supervisor, SIGTERM, false);
    }
    if (!supervisor_any(supervisor, false) && !supervisor->over) {
        supervisor->over = true;
        supervisor->on_over(supervisor->ctx, supervisor->failed);
    }
}

static void child_died(struct child *child, int wait_status)
{
    struct supervisor *supervisor = child->supervisor;
    child->pid = 0;
    if (supervisor->ending)
        return;
    if (WIFSIGNALED(wait_status))
        log_warn("died", "child=%s signal=%d", child->name, WTERMSIG(wait_status));
    else
        log_warn("died", "child=%s code=%d", child->name, WEXITSTATUS(wait_status));
    /* One that ends by itself has said why, and would do it again. */
    bool by_itself = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) != 0;
    child->deaths++;
    if (!supervisor->useful && (by_itself || child->deaths >= EARLY_DEATHS_MAX)) {
        log_error("given up",
                  "child=%s reason=\"it ended before it was ready; its last message says "
                  "why\" deaths=%u",
                  child->name, child->deaths);
        supervisor->failed = true;
        supervisor_end(supervisor);
        return;
    }
    if (clock_ns() - child->started_ns > GOOD_LIFE_NS)
        child->restart_ms = RESTART_FIRST_MS;
    loop_timer_start(child->restart, child->restart_ms);
    child->restart_ms *= 2;
    if (child->restart_ms > RESTART_MOST_MS)
        child->restart_ms = RESTART_MOST_MS;
}

static void supervisor_on_child(void *ctx, int number)
{
    struct supervisor *supervisor = ctx;
    int wait_status;
    pid_t pid;
    (void)number;
    while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
        for (struct child *c = supervisor->children; c != NULL; c = c->next) {
            if (c->pid == pid)
                child_died(c, wait_status);
        }
    }
    if (supervisor->ending)
        supervisor_advance(supervisor);
}

status supervisor_open(struct loop *loop, void (*on_over)(void *ctx, bool failed), void *ctx,
                       struct supervisor **supervisor_out)
{
    struct supervisor *supervisor = calloc(1, sizeof(*supervisor));
    if (supervisor == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the supervisor");
    supervisor->loop = loop;
    supervisor->on_over = on_over;
    supervisor->ctx = ctx;
    status st =
        loop_signal_open(loop, SIGCHLD, supervisor_on_child, supervisor, &supervisor->child_watch);
    if (st != OK) {
        free(supervisor);
        return st;
    }
    *supervisor_out = supervisor;
    return OK;
}

static void child_free(struct child *child)
{
    loop_timer_close(child->restart);
    for (uint32_t i = 0; child->argv != NULL && child->argv[i] != NULL; i++)
        free(child->argv[i]);
    free(child->argv);
    free(child->name);
    free(child);
}

void supervisor_close(struct supervisor *supervisor)
{
    if (supervisor == NULL)
        return;
    supervisor->ending = true;
    supervisor_signal(supervisor, SIGKILL, true);
    loop_watch_close(supervisor->child_watch);
    while (supervisor->children != NULL) {
        struct child *child = supervisor->children;
        supervisor->children = child->next;
        if (child->pid != 0)
            waitpid(child->pid, NULL, 0);
        child_free(child);
    }
    free(supervisor);
}

status supervisor_add(struct supervisor *supervisor, const char *name, uint32_t stage,
                      char *const *argv, int keep_fd)
{
    uint32_t count = 0;
    while (argv[count] != NULL)
        count++;
    struct child *child = calloc(1, sizeof(*child));
    if (child == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for child %s", name);
    child->supervisor = supervisor;
    child->stage = stage;
    child->keep_fd = child->fd_number = keep_fd;
    child->restart_ms = RESTART_FIRST_MS;
    child->name = strdup(name);
    child->argv = calloc(count + 1, sizeof(*child->argv));
    bool copied = child->name != NULL && child->argv != NULL;
    for (uint32_t i = 0; copied && i < count; i++) {
        child->argv[i] = strdup(argv[i]);
        copied = child->argv[i] != NULL;
    }
    if (!copied || loop_timer_open(supervisor->loop, child_restart, child, &child->restart) != OK) {
        child_free(child);
        return error_set(ERR_NO_MEMORY, "no memory for child %s", name);
    }
    struct child **last = &supervisor->children;
    while (*last != NULL)
        last = &(*last)->next;
    *last = child;
    return OK;
}

status supervisor_start(struct supervisor *supervisor)
{
    status st = OK;
    for (struct child *c = supervisor->children; c != NULL && st == OK; c = c->next)
        st = child_start(c);
    return st;
}

void supervisor_useful(struct supervisor *supervisor)
{
    supervisor->useful = true;
    for (struct child *c = supervisor->children; c != NULL; c = c->next)
        c->restart_ms = RESTART_FIRST_MS;
}

void supervisor_end(struct supervisor *supervisor)
{
    if (supervisor->ending) {
        supervisor->killed = true;
        supervisor_signal(supervisor, SIGKILL, true);
        return;
    }
    supervisor->ending = true;
    supervisor->stage = 0;
    supervisor_signal(supervisor, SIGTERM, supervisor->failed);
    supervisor_advance(supervisor);
}
