/* cli/bench_trace.h - request traces: when requests came, and how long they were.
 *
 * Two formats, told apart by their first line:
 *     Mooncake JSONL   {"timestamp": 27, "input_length": 900, "output_length": 52, "hash_ids": [3,
 * 9]} milliseconds; one id for each 512 tokens of the prompt, equal ids where prompts share a
 * prefix Azure CSV        TIMESTAMP,ContextTokens,GeneratedTokens 2023-11-16
 * 18:15:46.6805900,374,44
 *
 * Threads: one at a time. Memory: trace_open takes one array of requests and one of ids;
 * trace_close frees both.
 * Source: Mooncake (FAST'25 traces); AzurePublicDataset (AzureLLMInferenceDataset2023).
 */
#ifndef CLI_BENCH_TRACE_H
#define CLI_BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define TRACE_BLOCK_TOKENS 512
#define TRACE_TOKENS_MAX 10000000u /* no prompt or answer is longer: the line is wrong */

struct trace_request {
    double at_ms; /* since the first request */
    uint32_t input_tokens, output_tokens;
    size_t id_first; /* into ids; id_count of them, 0 in a trace without ids */
    uint32_t id_count;
};

struct trace {
    struct trace_request *requests;
    size_t request_count;
    uint64_t *ids;
    size_t id_count;
};

/* Read at most limit requests (0: all). Errors: ERR_NOT_FOUND, ERR_IO, ERR_NO_MEMORY,
 * ERR_BAD_INPUT (names the line). */
status trace_open(const char *path, size_t limit, struct trace *trace_out);
void trace_close(struct trace *trace);

#endif
