#include "cli/serve_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

#define FOLDER_PREFIX "baton-"
#define FOLDER_SUFFIX_BYTES 6 /* mkdtemp's */
#define BASE_BYTES_MAX 40
#define MAKE_ATTEMPTS 10

static const char *folder_base(void)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    bool usable = base != NULL && base[0] == '/' && strlen(base) <= BASE_BYTES_MAX &&
                  access(base, W_OK | X_OK) == 0;
    return usable ? base : "/tmp";
}

static bool socket_is_stale(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return false;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    int rc = connect(fd, (struct sockaddr *)&address, sizeof(address));
    bool stale = rc != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

/* Remove the sockets that nobody listens on, then the folder if nothing else is in it. */
static void folder_remove(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        char file[SERVE_FOLDER_BYTES + sizeof(entry->d_name) + 1];
        struct stat facts;
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        if (lstat(file, &facts) == 0 && S_ISSOCK(facts.st_mode) && socket_is_stale(file))
            unlink(file);
    }
    closedir(folder);
    rmdir(path);
}

/* The lock, or -1: somebody has it, or the folder is gone. */
static int folder_lock(const char *path)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    /* Without a link it was removed between the opening and the locking. */
    if (fstat(fd, &facts) != 0 || facts.st_uid != geteuid() || flock(fd, LOCK_EX | LOCK_NB) != 0 ||
        access(path, F_OK) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void folder_sweep(const char *base)
{
    DIR *all = opendir(base);
    if (all == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(all)) != NULL) {
        char path[SERVE_FOLDER_BYTES];
        if (strncmp(entry->d_name, FOLDER_PREFIX, strlen(FOLDER_PREFIX)) != 0 ||
            strlen(entry->d_name) != strlen(FOLDER_PREFIX) + FOLDER_SUFFIX_BYTES)
            continue;
        snprintf(path, sizeof(path), "%s/%s", base, entry->d_name);
        int lock_fd = folder_lock(path);
        if (lock_fd < 0)
            continue;
        folder_remove(path);
        close(lock_fd);
    }
    closedir(all);
}

status serve_folder_open(struct serve_folder *folder_out)
{
    const char *base = folder_base();
    folder_sweep(base);
    folder_out->lock_fd = -1;
    for (int attempt = 0; attempt < MAKE_ATTEMPTS; attempt++) {
        snprintf(folder_out->path, sizeof(folder_out->path), "%s/" FOLDER_PREFIX "XXXXXX", base);
        if (mkdtemp(folder_out->path) == NULL)
            return error_set(ERR_IO, "cannot make folder %s: %s", folder_out->path,
                             strerror(errno));
        folder_out->lock_fd = folder_lock(folder_out->path);
        if (folder_out->lock_fd >= 0)
            return OK;
        rmdir(folder_out->path); /* Another serve swept it away before it was locked. */
    }
    return error_set(ERR_IO, "cannot lock a new folder in %s: %s", base, strerror(errno));
}

void serve_folder_close(struct serve_folder *folder)
{
    if (folder->lock_fd < 0)
        return;
    folder_remove(folder->path);
    close(folder->lock_fd);
    folder->lock_fd = -1;
}
