#include "base/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

#define LISTEN_BACKLOG 1024

static status address_parse_unix(const char *path, struct address *address)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&address->socket_address;
    if (strlen(path) >= sizeof(un->sun_path) || path[0] == '\0')
        return error_set(ERR_BAD_INPUT,
                         "a Unix socket path has 1 to %zu bytes, this one has %zu: \"%s\"",
                         sizeof(un->sun_path) - 1, strlen(path), path);
    un->sun_family = AF_UNIX;
    snprintf(un->sun_path, sizeof(un->sun_path), "%s", path);
    address->bytes = sizeof(*un);
    return OK;
}

/* Split "host:port", "[v6]:port", "host" into host and port text. */
static status address_split(const char *text, char *host, size_t host_bytes, char *port,
                            size_t port_bytes)
{
    const char *host_from = text;
    const char *host_end;
    const char *colon;
    if (text[0] == '[') {
        host_from = text + 1;
        host_end = strchr(text, ']');
        if (host_end == NULL)
            return error_set(ERR_BAD_INPUT, "address \"%s\" has a '[' and no ']'", text);
        colon = host_end[1] == ':' ? host_end + 1 : NULL;
        if (colon == NULL && host_end[1] != '\0')
            return error_set(ERR_BAD_INPUT, "address \"%s\": expected :PORT after ']'", text);
    } else {
        colon = strrchr(text, ':');
        host_end = colon != NULL ? colon : text + strlen(text);
    }
    size_t length = (size_t)(host_end - host_from);
    if (text[0] != '[' && memchr(host_from, ':', length) != NULL)
        return error_set(ERR_BAD_INPUT,
                         "address \"%s\": expected an IPv6 address in brackets, as "
                         "[::1]:8000",
                         text);
    if (length == 0 || length >= host_bytes)
        return error_set(ERR_BAD_INPUT,
                         "address \"%s\" has no usable host; expected HOST:PORT or "
                         "unix:PATH",
                         text);
    memcpy(host, host_from, length);
    host[length] = '\0';
    if (colon != NULL && strlen(colon + 1) >= port_bytes)
        return error_set(ERR_BAD_INPUT, "address \"%s\": expected a port from 0 to 65535", text);
    if (colon != NULL)
        snprintf(port, port_bytes, "%s", colon + 1);
    return OK;
}

static status address_parse_as(const char *text, unsigned default_port, int flags,
                               struct address *address_out)
{
    struct address address;
    memset(&address, 0, sizeof(address));
    if (strlen(text) >= sizeof(address.text))
        return error_set(ERR_BAD_INPUT, "an address has at most %zu bytes, this one has %zu",
                         sizeof(address.text) - 1, strlen(text));
    snprintf(address.text, sizeof(address.text), "%s", text);
    if (strncmp(text, "unix:", 5) == 0) {
        status st = address_parse_unix(text + 5, &address);
        if (st == OK)
            *address_out = address;
        return st;
    }

    char host[ADDRESS_TEXT_BYTES];
    char port[16] = "";
    status st = address_split(text, host, sizeof(host), port, sizeof(port));
    if (st != OK)
        return st;
    if (port[0] == '\0' && default_port != 0)
        snprintf(port, sizeof(port), "%u", default_port);
    char *end;
    unsigned long number = strtoul(port, &end, 10);
    if (port[0] < '0' || port[0] > '9' || *end != '\0' || number > 65535)
        return error_set(ERR_BAD_INPUT,
                         "address \"%s\": expected a port from 0 to 65535, found "
                         "\"%s\"",
                         text, port);

    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0)
        return error_set(ERR_BAD_INPUT, "cannot resolve host \"%s\": %s", host, gai_strerror(rc));
    memcpy(&address.socket_address, found->ai_addr, found->ai_addrlen);
    address.bytes = found->ai_addrlen;
    freeaddrinfo(found);
    *address_out = address;
    return OK;
}

status address_parse(const char *text, unsigned default_port, struct address *address_out)
{
    return address_parse_as(text, default_port, 0, address_out);
}

status address_parse_numeric(const char *text, struct address *address_out)
{
    return address_parse_as(text, 0, AI_NUMERICHOST, address_out);
}

bool address_is_unix(const struct address *address)
{
    return address->socket_address.ss_family == AF_UNIX;
}

bool address_is_loopback(const struct address *address)
{
    if (address_is_unix(address))
        return true;
    if (address->socket_address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address->socket_address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->socket_address;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

bool address_is_wildcard(const struct address *address)
{
    if (address_is_unix(address))
        return false;
    if (address->socket_address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address->socket_address;
        return in->sin_addr.s_addr == htonl(INADDR_ANY);
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->socket_address;
    return IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
}

unsigned address_port(const struct address *address)
{
    if (address_is_unix(address))
        return 0;
    if (address->socket_address.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&address->socket_address)->sin_port);
    return ntohs(((const struct sockaddr_in6 *)&address->socket_address)->sin6_port);
}

status address_write_numeric(struct address *address)
{
    char host[64];
    char port[16];
    if (address_is_unix(address)) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&address->socket_address;
        snprintf(address->text, sizeof(address->text), "unix:%s", un->sun_path);
        return OK;
    }
    int rc = getnameinfo((struct sockaddr *)&address->socket_address, address->bytes, host,
                         sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    if (rc != 0)
        return error_set(ERR_IO, "cannot write an address in numbers: %s", gai_strerror(rc));
    bool v6 = address->socket_address.ss_family == AF_INET6;
    snprintf(address->text, sizeof(address->text), v6 ? "[%s]:%s" : "%s:%s", host, port);
    return OK;
}

status address_of_socket(int fd, struct address *address_out)
{
    struct address address;
    memset(&address, 0, sizeof(address));
    address.bytes = sizeof(address.socket_address);
    if (getsockname(fd, (struct sockaddr *)&address.socket_address, &address.bytes) != 0)
        return error_set(ERR_IO, "cannot read a socket's address: %s", strerror(errno));
    status st = address_write_numeric(&address);
    if (st != OK)
        return st;
    *address_out = address;
    return OK;
}

static void address_set_nodelay(int fd, const struct address *address)
{
    int one = 1;
    if (!address_is_unix(address))
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* True when path is a socket file that refuses connections: its owner is gone. A file that is no
 * socket refuses them too, and is somebody's. */
static bool address_unix_is_stale(const struct address *address)
{
    struct stat file;
    const char *path = ((const struct sockaddr_un *)&address->socket_address)->sun_path;
    if (lstat(path, &file) != 0 || !S_ISSOCK(file.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    int rc = connect(fd, (const struct sockaddr *)&address->socket_address, address->bytes);
    bool stale = rc != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

status address_listen(const struct address *address, int *fd_out)
{
    int family = address->socket_address.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(ERR_IO, "cannot make a socket: %s", strerror(errno));
    int one = 1;
    if (address_is_unix(address)) {
        if (address_unix_is_stale(address))
            unlink(((const struct sockaddr_un *)&address->socket_address)->sun_path);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (bind(fd, (const struct sockaddr *)&address->socket_address, address->bytes) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0) {
        int cause = errno;
        close(fd);
        if (cause == EADDRINUSE)
            return error_set(ERR_IO,
                             "cannot listen on %s: the address is in use; stop the process "
                             "that has it or choose another",
                             address->text);
        return error_set(ERR_IO, "cannot listen on %s: %s", address->text, strerror(cause));
    }
    *fd_out = fd;
    return OK;
}

status address_connect(const struct address *address, int *fd_out)
{
    int family = address->socket_address.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(ERR_IO, "cannot make a socket: %s", strerror(errno));
    address_set_nodelay(fd, address);
    if (connect(fd, (const struct sockaddr *)&address->socket_address, address->bytes) != 0 &&
        errno != EINPROGRESS) {
        int cause = errno;
        close(fd);
        return error_set(ERR_IO, "cannot connect to %s: %s", address->text, strerror(cause));
    }
    *fd_out = fd;
    return OK;
}
