/* base/address.h - where a process can be reached, and sockets made from that.
 *
 *     unix:/run/baton/router.sock     a Unix socket of this host
 *     127.0.0.1:8000, [::1]:8000, host.example:8000
 *
 * Threads: any. address_parse may ask the resolver and block: call it at start, not in a loop.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/status.h"

#define ADDRESS_TEXT_BYTES 128

struct address {
    struct sockaddr_storage socket_address;
    socklen_t bytes;
    char text[ADDRESS_TEXT_BYTES]; /* as it was written, for messages */
};

/* default_port is used when text has none; 0: a port is required. Errors: ERR_BAD_INPUT. */
status address_parse(const char *text, unsigned default_port, struct address *address_out);

/* The same for an address from another process: never asks the resolver, so never waits. */
status address_parse_numeric(const char *text, struct address *address_out);

bool address_is_unix(const struct address *address);

/* Unix, or 127.0.0.0/8, or ::1: nobody else can reach it. */
bool address_is_loopback(const struct address *address);

/* 0.0.0.0 or [::]: good to listen on, no place to connect to. */
bool address_is_wildcard(const struct address *address);

/* 0 for a Unix socket. */
unsigned address_port(const struct address *address);

/* Rewrite text with numbers, which address_parse_numeric reads without asking a resolver. Errors:
 * ERR_IO. */
status address_write_numeric(struct address *address);

/* The address with port; text is rewritten. For port 0 after a bind. */
status address_of_socket(int fd, struct address *address_out);

/* A listening non-blocking close-on-exec socket. An old Unix socket file that nobody listens on is
 * replaced. Errors: ERR_IO with "address in use" and what to do. */
status address_listen(const struct address *address, int *fd_out);

/* A non-blocking socket whose connect has begun (it is writable when it is done; check SO_ERROR).
 */
status address_connect(const struct address *address, int *fd_out);

#endif
