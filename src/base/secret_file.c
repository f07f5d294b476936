#include "base/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* Who else could know it? Root may read everything, so a file of root's is as good as our own. */
static status secret_file_check(int fd, const char *path, const char *what)
{
    struct stat file;
    if (fstat(fd, &file) != 0)
        return error_set(ERR_IO, "cannot look at %s \"%s\": %s", what, path, strerror(errno));
    if (!S_ISREG(file.st_mode))
        return error_set(ERR_BAD_INPUT, "%s \"%s\" is no regular file", what, path);
    if ((file.st_mode & 077) != 0)
        return error_set(ERR_REFUSED,
                         "%s \"%s\" has mode %04o: others than its owner may use it, so it is no "
                         "secret; chmod 600 it, and make a new one if others may have read it",
                         what, path, file.st_mode & 07777);
    if (file.st_uid != geteuid() && file.st_uid != 0)
        return error_set(ERR_REFUSED,
                         "%s \"%s\" belongs to user %u, who may change it; expected user %u, as "
                         "whom this process runs, or root",
                         what, path, file.st_uid, geteuid());
    return OK;
}

status secret_file_read(const char *path, const char *what, char *text, size_t capacity,
                        size_t *bytes_out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s \"%s\": %s",
                         what, path, strerror(errno));
    status st = secret_file_check(fd, path, what);
    ssize_t got = st == OK ? read(fd, text, capacity) : 0;
    if (got < 0)
        st = error_set(ERR_IO, "cannot read %s \"%s\": %s", what, path, strerror(errno));
    close(fd);
    if (st == OK)
        *bytes_out = (size_t)got;
    return st;
}
