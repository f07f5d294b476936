/* http/head.h - the head of one request, checked byte by byte before anything believes it.
 *
 *     "POST /v1/completions?x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
 *      method target         version     headers (name: value)           end
 *
 * http-parser reads the request line and later cuts the body into pieces; it is lenient by design
 * (and Debian builds it so), and the rules on which request smuggling lives are checked here, on
 * the raw lines: see the list in http/server.h.
 *
 * Threads: any. Memory: the head's bytes are copied into the head, which is one piece (free it with
 *          http_head_close); names and values are strings inside it.
 */
#ifndef HTTP_HEAD_H
#define HTTP_HEAD_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/server.h"

struct http_head {
    enum http_method method;
    unsigned minor; /* 0 or 1 of HTTP/1.x */
    bool keep_alive;
    bool expects_continue;
    bool chunked;
    bool has_length;
    uint64_t length; /* Content-Length */
    const char *path;
    const char *query;
    uint32_t header_count;
    const struct http_header *headers;
};

/* Why a head was refused. */
struct http_refusal {
    unsigned code; /* 400, 414, 417, 431, 501, 505 */
    char why[200];
};

/* Bytes of a whole head at data (its empty line included), or 0 when it does not end within bytes.
 * *scanned_io: how far an earlier call with fewer bytes has looked; 0 at first. */
size_t http_head_find(const char *data, size_t bytes, size_t *scanned_io);

/* data holds one whole head. parser is initialised here and fed with it; it is then ready for the
 * body. NULL: refused (refusal_out says why) or no memory (code 503). */
struct http_head *http_head_open(const char *data, size_t bytes, uint32_t headers_max,
                                 size_t url_bytes_max, http_parser *parser,
                                 const http_parser_settings *settings,
                                 struct http_refusal *refusal_out);
void http_head_close(struct http_head *head);

/* The value of a header, name in any case; NULL when absent. */
const char *http_head_value(const struct http_head *head, const char *name);

#endif
