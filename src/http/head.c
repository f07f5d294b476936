#include "http/head.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* One piece: this, the headers' table, the text. */
struct head_piece {
    struct http_head head;
    struct http_header headers[];
};

/* What the headers say of the message's framing, each with its count. */
struct head_framing {
    uint32_t hosts, lengths, codings;
    const char *length;
    const char *coding;
    const char *expect;
};

static bool refuse(struct http_refusal *refusal, unsigned code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool refuse(struct http_refusal *refusal, unsigned code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(refusal->why, sizeof(refusal->why), format, args);
    va_end(args);
    refusal->code = code;
    return false;
}

size_t http_head_find(const char *data, size_t bytes, size_t *scanned_io)
{
    size_t at = *scanned_io > 3 ? *scanned_io - 3 : 0;
    const char *end = bytes > at ? memmem(data + at, bytes - at, "\r\n\r\n", 4) : NULL;
    *scanned_io = bytes;
    return end != NULL ? (size_t)(end - data) + 4 : 0;
}

/* The characters of a token, RFC 9110 section 5.6.2. */
static bool head_is_token(char c)
{
    return isalnum((unsigned char)c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* METHOD SP target SP HTTP/x.y, visible ASCII only, single spaces. Cuts target out. */
static bool head_request_line(char *line, size_t bytes, size_t url_bytes_max, char **target_out,
                              struct http_refusal *refusal)
{
    uint32_t spaces = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] == ' ')
            spaces++;
        else if (line[i] < 0x21 || line[i] > 0x7e)
            return refuse(refusal, 400, "request line: byte 0x%02x at %zu, expected visible ASCII",
                          (unsigned char)line[i], i);
    }
    if (spaces != 2)
        return refuse(refusal, 400, "request line: expected \"METHOD /path HTTP/1.1\"");
    char *target = memchr(line, ' ', bytes);
    *target++ = '\0';
    char *target_end = memchr(target, ' ', bytes - (size_t)(target - line));
    *target_end = '\0';
    if ((size_t)(target_end - target) > url_bytes_max)
        return refuse(refusal, 414, "the request's URL has %zu bytes, at most %zu are taken",
                      (size_t)(target_end - target), url_bytes_max);
    *target_out = target;
    return true;
}

/* name ":" OWS value OWS; cuts both out. */
static bool head_header_line(char *line, size_t bytes, struct http_header *header_out,
                             struct http_refusal *refusal)
{
    size_t name = 0;
    while (name < bytes && head_is_token(line[name]))
        name++;
    if (name == 0 && bytes > 0 && (line[0] == ' ' || line[0] == '\t'))
        return refuse(refusal, 400,
                      "a header line begins with a space: folded headers are refused");
    if (name == 0 || name == bytes || line[name] != ':')
        return refuse(refusal, 400,
                      "header line: expected \"Name: value\" with no space before the colon");
    for (size_t i = name + 1; i < bytes; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return refuse(refusal, 400, "header %.*s: control character 0x%02x in its value",
                          name < 40 ? (int)name : 40, line, c);
    }
    size_t from = name + 1;
    size_t to = bytes;
    while (from < to && (line[from] == ' ' || line[from] == '\t'))
        from++;
    while (to > from && (line[to - 1] == ' ' || line[to - 1] == '\t'))
        to--;
    line[name] = '\0';
    line[to] = '\0'; /* at bytes: the line's own CR */
    header_out->name = line;
    header_out->value = line + from;
    return true;
}

/* All header lines after the first; text ends in CR LF CR LF. */
static bool head_header_lines(char *at, char *end, struct head_piece *piece, uint32_t headers_max,
                              struct http_refusal *refusal)
{
    while (at < end - 2) {
        char *cr = memchr(at, '\r', (size_t)(end - at));
        char *lf = memchr(at, '\n', (size_t)(end - at));
        assert(cr != NULL && lf != NULL); /* the head ends in CR LF CR LF */
        if (lf != cr + 1)
            return refuse(refusal, 400, "a header line does not end in CR LF");
        if (piece->head.header_count == headers_max)
            return refuse(refusal, 431, "more than %u headers", headers_max);
        if (!head_header_line(at, (size_t)(cr - at), &piece->headers[piece->head.header_count],
                              refusal))
            return false;
        piece->head.header_count++;
        at = lf + 1;
    }
    return true;
}

static void head_framing_collect(const struct http_head *head, struct head_framing *framing)
{
    memset(framing, 0, sizeof(*framing));
    for (uint32_t i = 0; i < head->header_count; i++) {
        const char *name = head->headers[i].name;
        const char *value = head->headers[i].value;
        if (strcasecmp(name, "host") == 0) {
            framing->hosts++;
        } else if (strcasecmp(name, "content-length") == 0) {
            framing->lengths++;
            framing->length = value;
        } else if (strcasecmp(name, "transfer-encoding") == 0) {
            framing->codings++;
            framing->coding = value;
        } else if (strcasecmp(name, "expect") == 0) {
            framing->expect = value;
        }
    }
}

static bool head_length(struct http_head *head, const char *digits, struct http_refusal *refusal)
{
    size_t count = strlen(digits);
    if (count == 0 || strspn(digits, "0123456789") != count)
        return refuse(refusal, 400, "Content-Length: expected digits only, found \"%.40s\"",
                      digits);
    if (count > 18)
        return refuse(refusal, 413, "Content-Length of %zu digits", count);
    head->has_length = true;
    head->length = strtoull(digits, NULL, 10);
    return true;
}

static bool head_framing_check(struct http_head *head, struct http_refusal *refusal)
{
    struct head_framing framing;
    head_framing_collect(head, &framing);
    if (framing.hosts > 1 || (framing.hosts == 0 && head->minor >= 1))
        return refuse(refusal, 400, "expected one Host header, found %u", framing.hosts);
    if (framing.lengths > 1)
        return refuse(refusal, 400, "expected one Content-Length header, found %u",
                      framing.lengths);
    if (framing.codings > 0 && framing.lengths > 0)
        return refuse(refusal, 400, "Content-Length and Transfer-Encoding in one request");
    if (framing.codings > 1 || (framing.codings == 1 && head->minor == 0))
        return refuse(refusal, 400, "Transfer-Encoding twice, or on HTTP/1.0");
    if (framing.codings == 1) {
        if (strcasecmp(framing.coding, "chunked") != 0)
            return refuse(refusal, 501,
                          "Transfer-Encoding: only \"chunked\" is known, found "
                          "\"%.40s\"",
                          framing.coding);
        head->chunked = true;
    }
    if (framing.lengths == 1 && !head_length(head, framing.length, refusal))
        return false;
    if (framing.expect != NULL && head->minor >= 1) {
        if (strcasecmp(framing.expect, "100-continue") != 0)
            return refuse(refusal, 417, "Expect: only \"100-continue\" is known");
        head->expects_continue = true;
    }
    return true;
}

/* "/path?query" or "http://host/path?query" into path and query. */
static bool head_target(struct http_head *head, char *target, struct http_refusal *refusal)
{
    if (strchr(target, '#') != NULL)
        return refuse(refusal, 400, "the request's URL has a fragment ('#')");
    char *path = target;
    if (target[0] != '/' && strcmp(target, "*") != 0) {
        if (strncasecmp(target, "http://", 7) != 0 && strncasecmp(target, "https://", 8) != 0)
            return refuse(refusal, 400, "request URL: expected a path that begins with '/'");
        path = strchr(strstr(target, "//") + 2, '/');
        if (path == NULL)
            return refuse(refusal, 400, "request URL: expected a path after the host");
    }
    char *mark = strchr(path, '?');
    head->path = path;
    head->query = mark != NULL ? mark + 1 : path + strlen(path);
    if (mark != NULL)
        *mark = '\0';
    return true;
}

/* Feed the head's own bytes: request line and framing as http-parser understands them. */
static bool head_feed(struct http_head *head, const char *data, size_t bytes, http_parser *parser,
                      const http_parser_settings *settings, struct http_refusal *refusal)
{
    void *owner = parser->data;
    http_parser_init(parser, HTTP_REQUEST);
    parser->data = owner;
    size_t fed = http_parser_execute(parser, settings, data, bytes);
    enum http_errno error = HTTP_PARSER_ERRNO(parser);
    if (error != HPE_OK && error != HPE_PAUSED)
        return refuse(refusal, error == HPE_HEADER_OVERFLOW ? 431 : 400, "malformed request: %s",
                      http_errno_description(error));
    if (fed != bytes)
        return refuse(refusal, 400, "malformed request");
    if (parser->http_major != 1 || parser->http_minor > 1)
        return refuse(refusal, 505, "HTTP/%u.%u: expected HTTP/1.1 or HTTP/1.0", parser->http_major,
                      parser->http_minor);
    head->method = (enum http_method)parser->method;
    head->minor = parser->http_minor;
    head->keep_alive = http_should_keep_alive(parser) != 0;
    return true;
}

struct http_head *http_head_open(const char *data, size_t bytes, uint32_t headers_max,
                                 size_t url_bytes_max, http_parser *parser,
                                 const http_parser_settings *settings,
                                 struct http_refusal *refusal_out)
{
    assert(bytes >= 4);
    size_t table_bytes = headers_max * sizeof(struct http_header);
    struct head_piece *piece = calloc(1, sizeof(*piece) + table_bytes + bytes + 1);
    if (piece == NULL) {
        refuse(refusal_out, 503, "no memory for the request");
        return NULL;
    }
    char *text = (char *)piece + sizeof(*piece) + table_bytes;
    memcpy(text, data, bytes);
    piece->head.headers = piece->headers;

    char *cr = memchr(text, '\r', bytes);
    char *lf = memchr(text, '\n', bytes);
    char *target = NULL;
    bool well;
    if (lf != cr + 1)
        well = refuse(refusal_out, 400, "the request line does not end in CR LF");
    else
        well = head_request_line(text, (size_t)(cr - text), url_bytes_max, &target, refusal_out) &&
               head_header_lines(lf + 1, text + bytes, piece, headers_max, refusal_out) &&
               head_feed(&piece->head, data, bytes, parser, settings, refusal_out) &&
               head_framing_check(&piece->head, refusal_out) &&
               head_target(&piece->head, target, refusal_out);
    if (!well) {
        free(piece);
        return NULL;
    }
    return &piece->head;
}

void http_head_close(struct http_head *head)
{
    free(head); /* the first member of its piece */
}

const char *http_head_value(const struct http_head *head, const char *name)
{
    for (uint32_t i = 0; i < head->header_count; i++) {
        if (strcasecmp(head->headers[i].name, name) == 0)
            return head->headers[i].value;
    }
    return NULL;
}
