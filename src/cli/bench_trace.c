#include "cli/bench_trace.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

#define LINE_BYTES_MAX (4u << 20)

struct trace_reader {
    struct trace trace;
    size_t request_capacity, id_capacity;
    double first_ms; /* the first request's own time */
    double last_ms;
};

static status no_memory(void)
{
    return error_set(ERR_NO_MEMORY, "no memory for the trace");
}

static status add_request(struct trace_reader *reader, double at_ms, uint32_t input_tokens,
                          uint32_t output_tokens, uint32_t id_count)
{
    struct trace *trace = &reader->trace;
    if (trace->request_count == 0)
        reader->first_ms = at_ms;
    else if (at_ms < reader->last_ms)
        return error_set(ERR_BAD_INPUT,
                         "the time goes back by %.0f ms; expected a trace in order "
                         "of time",
                         reader->last_ms - at_ms);
    reader->last_ms = at_ms;
    if (trace->request_count == reader->request_capacity) {
        size_t capacity = reader->request_capacity > 0 ? reader->request_capacity * 2 : 1024;
        struct trace_request *more =
            reallocarray(trace->requests, capacity, sizeof(*trace->requests));
        if (more == NULL)
            return no_memory();
        trace->requests = more;
        reader->request_capacity = capacity;
    }
    trace->requests[trace->request_count++] = (struct trace_request){
        .at_ms = at_ms - reader->first_ms,
        .input_tokens = input_tokens,
        .output_tokens = output_tokens,
        .id_first = trace->id_count - id_count,
        .id_count = id_count,
    };
    return OK;
}

static status add_id(struct trace_reader *reader, uint64_t id)
{
    struct trace *trace = &reader->trace;
    if (trace->id_count == reader->id_capacity) {
        size_t capacity = reader->id_capacity > 0 ? reader->id_capacity * 2 : 4096;
        uint64_t *more = reallocarray(trace->ids, capacity, sizeof(*trace->ids));
        if (more == NULL)
            return no_memory();
        trace->ids = more;
        reader->id_capacity = capacity;
    }
    trace->ids[trace->id_count++] = id;
    return OK;
}

static bool token_count_ok(json_int_t count, json_int_t least)
{
    return count >= least && count <= (json_int_t)TRACE_TOKENS_MAX;
}

static status add_ids(struct trace_reader *reader, const json_t *ids, uint32_t input_tokens)
{
    size_t count = json_array_size(ids);
    if (count > (size_t)input_tokens / TRACE_BLOCK_TOKENS + 1)
        return error_set(ERR_BAD_INPUT, "%zu hash_ids are more than %u tokens have blocks of %d",
                         count, input_tokens, TRACE_BLOCK_TOKENS);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return error_set(ERR_BAD_INPUT, "expected hash_ids to be whole numbers from 0");
        status st = add_id(reader, (uint64_t)json_integer_value(id));
        if (st != OK)
            return st;
    }
    return OK;
}

static status read_mooncake(struct trace_reader *reader, const char *line)
{
    json_error_t why;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &why);
    if (object == NULL)
        return error_set(ERR_BAD_INPUT, "expected a JSON object: %s", why.text);
    const json_t *at = json_object_get(object, "timestamp");
    const json_t *input = json_object_get(object, "input_length");
    const json_t *output = json_object_get(object, "output_length");
    const json_t *ids = json_object_get(object, "hash_ids");
    status st;
    if (!json_is_number(at) || !json_is_integer(input) || !json_is_integer(output) ||
        !token_count_ok(json_integer_value(input), 1) ||
        !token_count_ok(json_integer_value(output), 0) || (ids != NULL && !json_is_array(ids))) {
        st = error_set(ERR_BAD_INPUT,
                       "expected the numbers timestamp, input_length (1 to %u) and output_length "
                       "(0 to %u), and perhaps a list hash_ids",
                       TRACE_TOKENS_MAX, TRACE_TOKENS_MAX);
    } else {
        uint32_t input_tokens = (uint32_t)json_integer_value(input);
        uint32_t output_tokens = (uint32_t)json_integer_value(output);
        st = add_ids(reader, ids, input_tokens);
        if (st == OK)
            st = add_request(reader, json_number_value(at), input_tokens, output_tokens,
                             (uint32_t)json_array_size(ids));
    }
    json_decref(object);
    return st;
}

/* "2023-11-16 18:15:46.6805900" to milliseconds of UTC. */
static const char *parse_time(const char *text, double *ms_out)
{
    struct tm parts = {0};
    const char *rest = strptime(text, "%Y-%m-%d %H:%M:%S", &parts);
    if (rest == NULL)
        return NULL;
    double fraction = 0;
    if (*rest == '.') {
        double unit = 0.1;
        for (rest++; *rest >= '0' && *rest <= '9'; rest++, unit /= 10)
            fraction += unit * (*rest - '0');
    }
    *ms_out = ((double)timegm(&parts) + fraction) * 1000;
    return rest;
}

/* ",NUMBER" */
static const char *parse_count(const char *text, uint32_t *count_out)
{
    if (text == NULL || text[0] != ',' || text[1] < '0' || text[1] > '9')
        return NULL;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text + 1, &end, 10);
    if (errno != 0 || value > TRACE_TOKENS_MAX)
        return NULL;
    *count_out = (uint32_t)value;
    return end;
}

static status read_azure(struct trace_reader *reader, const char *line)
{
    double at_ms = 0;
    uint32_t input_tokens = 0;
    uint32_t output_tokens = 0;
    const char *rest = parse_time(line, &at_ms);
    rest = parse_count(rest, &input_tokens);
    rest = parse_count(rest, &output_tokens);
    if (rest == NULL || *rest != '\0' || input_tokens == 0)
        return error_set(ERR_BAD_INPUT,
                         "expected DATE TIME,PROMPT_TOKENS,ANSWER_TOKENS (1 and 0 to "
                         "%u), found \"%.80s\"",
                         TRACE_TOKENS_MAX, line);
    return add_request(reader, at_ms, input_tokens, output_tokens, 0);
}

static status read_lines(struct trace_reader *reader, FILE *file, size_t limit)
{
    char *line = NULL;
    size_t capacity = 0;
    size_t number = 0;
    bool azure = false;
    status st = OK;
    ssize_t bytes;
    while (st == OK && (limit == 0 || reader->trace.request_count < limit) &&
           (bytes = getline(&line, &capacity, file)) >= 0) {
        number++;
        while (bytes > 0 && strchr("\r\n", line[bytes - 1]) != NULL)
            line[--bytes] = '\0';
        if (bytes == 0)
            continue;
        if ((size_t)bytes > LINE_BYTES_MAX)
            st = error_set(ERR_BAD_INPUT, "a line has at most %u bytes", LINE_BYTES_MAX);
        else if (strlen(line) != (size_t)bytes)
            st = error_set(ERR_BAD_INPUT, "expected text, found a NUL byte");
        else if (number == 1 && strncmp(line, "TIMESTAMP,", 10) == 0)
            azure = true;
        else
            st = azure ? read_azure(reader, line) : read_mooncake(reader, line);
    }
    if (st == OK && ferror(file))
        st = error_set(ERR_IO, "cannot read: %s", strerror(errno));
    free(line);
    return st == OK ? OK : error_prefix(st, "line %zu", number);
}

status trace_open(const char *path, size_t limit, struct trace *trace_out)
{
    struct trace_reader reader = {0};
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open the trace %s: %s",
                         path, strerror(errno));
    status st = read_lines(&reader, file, limit);
    fclose(file);
    if (st == OK && reader.trace.request_count == 0)
        st = error_set(ERR_BAD_INPUT, "no requests in it");
    if (st != OK) {
        trace_close(&reader.trace);
        return error_prefix(st, "trace %s", path);
    }
    *trace_out = reader.trace;
    return OK;
}

void trace_close(struct trace *trace)
{
    free(trace->requests);
    free(trace->ids);
    *trace = (struct trace){0};
}
