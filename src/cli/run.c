/* baton run: a prompt and its answer on the terminal, in one process. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/device.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "engine/engine.h"
#include "model/chat_template.h"
#include "model/detokenizer.h"
#include "model/tokenizer.h"

#define PROMPT_BYTES_MAX (64u << 20)

struct run_options {
    const char *prompt;
    const char *system;
    const char *kernels, *dummy_weights, *device, *cuda_plugin;
    double temperature, top_p, min_p, repetition_penalty;
    uint64_t kv_bytes;
    uint32_t max_tokens, top_k, seed, threads, ctx, block_tokens, prefill_chunk;
    bool raw, ignore_eos, stats, deterministic;
};

static const struct option_spec run_specs[] = {
    MODEL_ROWS(struct run_options),
    {"prompt", OPTION_TEXT, "TEXT", NULL, 0, 0, offsetof(struct run_options, prompt),
     "what to answer; without it, all of standard input"},
    {"system", OPTION_TEXT, "TEXT", NULL, 0, 0, offsetof(struct run_options, system),
     "system message of the chat"},
    {"raw", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(struct run_options, raw),
     "continue the prompt as it is, without the model's chat template"},
    {"max-tokens", OPTION_UINT, "N", "256", 1, 1u << 30, offsetof(struct run_options, max_tokens),
     "most tokens to generate"},
    {"temperature", OPTION_REAL, "T", "0", 0, 100, offsetof(struct run_options, temperature),
     "0 takes the likeliest token each time; higher is more random"},
    {"top-k", OPTION_UINT, "K", "0", 0, 1u << 30, offsetof(struct run_options, top_k),
     "draw from the K likeliest tokens; 0 for all"},
    {"top-p", OPTION_REAL, "P", "1", 1e-6, 1, offsetof(struct run_options, top_p),
     "draw from the likeliest tokens that together have probability P"},
    {"min-p", OPTION_REAL, "P", "0", 0, 1, offsetof(struct run_options, min_p),
     "draw from tokens at least P times as likely as the likeliest"},
    {"repetition-penalty", OPTION_REAL, "R", "1", 1e-6, 100,
     offsetof(struct run_options, repetition_penalty),
     "make tokens that were there before less likely; 1 for no penalty"},
    {"seed", OPTION_UINT, "N", "0", 0, 0, offsetof(struct run_options, seed),
     "seed of the random numbers; the same seed gives the same answer"},
    {"ignore-eos", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(struct run_options, ignore_eos),
     "go on after the model's end token"},
    {"threads", OPTION_UINT, "N", "0", 0, CPU_THREADS_MAX, offsetof(struct run_options, threads),
     "cores to compute with; 0 for all that the process may use"},
    {"kernels", OPTION_TEXT, "CLASS", "auto", 0, 0, offsetof(struct run_options, kernels),
     "arithmetic: float (reference, with an f32 KV pool), int8 (faster), bf16 (BF16 weights too) "
     "or auto (int8)"},
    {"device", OPTION_TEXT, "NAME", "cpu", 0, 0, offsetof(struct run_options, device),
     "what computes: cpu, cuda (the first GPU) or cuda:N"},
    {"cuda-plugin", OPTION_TEXT, "PATH", NULL, 0, 0, offsetof(struct run_options, cuda_plugin),
     "the backend for cuda; unset: baton-cuda.so beside the binary or in ../lib/baton"},
    {"deterministic", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(struct run_options, deterministic),
     "on a GPU: the same bits for any batch and chunks"},
    {"ctx", OPTION_UINT, "TOKENS", "0", 0, 0, offsetof(struct run_options, ctx),
     "most tokens of prompt and answer; 0 for what the model was trained for"},
    {"kv-bytes", OPTION_BYTES, "BYTES", "0", 0, 0, offsetof(struct run_options, kv_bytes),
     "size of the KV pool; 0 for one context"},
    {"block-tokens", OPTION_UINT, "TOKENS", "16", 1, KV_BLOCK_TOKENS_MAX,
     offsetof(struct run_options, block_tokens), "tokens of a KV block"},
    {"prefill-chunk", OPTION_UINT, "TOKENS", "512", 1, 65536,
     offsetof(struct run_options, prefill_chunk), "tokens of the prompt in one step"},
    {"stats", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(struct run_options, stats),
     "say at the end, on standard error, how fast it was"},
};

/* All that one run has open; closed in one place. */
struct session {
    const struct run_options *options;
    struct model *model;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct prefix_tree *tree;
    struct token_list tokens; /* the prompt, then the answer */
    size_t prompt_count;
    struct block_table table;
    struct sampling sampling;
    uint64_t prompt_ns, answer_ns;
};

static uint32_t threads_default(void)
{
    struct cpus cpus;
    cpus_allowed(&cpus);
    return cpus.count > CPU_THREADS_MAX ? CPU_THREADS_MAX : cpus.count;
}

static status engine_start(struct session *session, const char *path)
{
    const struct run_options *options = session->options;
    struct engine_plan plan;
    struct backend *backend;
    status code = weights_choose(path, options->dummy_weights, &session->model);
    if (code != OK)
        return code;
    code = model_tokenizer_open(session->model, &session->tokenizer);
    if (code != OK)
        return code;

    struct engine_config config = {
        .context_tokens = options->ctx,
        .block_tokens = options->block_tokens,
        .rows_max = options->prefill_chunk,
        .sequences_max = 1,
        .kv_bytes = options->kv_bytes,
        .kv = engine_kv_choose("auto", options->kernels),
    };
    struct device device;
    code = device_find(options->device, options->cuda_plugin, &device);
    if (code == OK)
        code = device_memory(&device, &config.available_bytes);
    if (code == OK)
        code = engine_plan(session->model, &config, &plan);
    if (code != OK)
        return code;
    if (options->kv_bytes == 0) { /* one sequence needs no more than one context */
        uint64_t one = plan.limits.table_blocks_max * (uint64_t)plan.layout->block_bytes;
        engine_plan_close(&plan);
        config.kv_bytes = one;
        code = engine_plan(session->model, &config, &plan);
        if (code != OK)
            return code;
    }
    const struct device_options opening = {
        .cpu = {.threads = options->threads != 0 ? options->threads : threads_default(),
                .kernels = options->kernels},
        .deterministic = options->deterministic,
    };
    code = device_open(&device, &plan.shape, &plan.limits, &opening, &backend);
    if (code != OK) {
        engine_plan_close(&plan);
        return code;
    }
    uint32_t block_count = plan.block_count, capacity = plan.limits.table_blocks_max;
    code = engine_open(session->model, &plan, backend, &session->engine);
    if (code != OK)
        return code;
    code = prefix_tree_open(block_count, 0, &session->tree);
    if (code != OK)
        return code;
    block_id *ids = calloc(capacity, sizeof(*ids));
    if (ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a table of %u blocks", capacity);
    block_table_open(&session->table, ids, capacity, options->block_tokens);
    return OK;
}

static void session_close(struct session *session)
{
    if (session->tree != NULL)
        block_table_drop(&session->table, session->tree);
    free(session->table.ids);
    prefix_tree_close(session->tree);
    engine_close(session->engine);
    token_list_close(&session->tokens);
    tokenizer_close(session->tokenizer);
    if (session->model != NULL)
        weights_close(session->model);
}

/* ---- the prompt ---- */

static status stdin_read(char **text_out, size_t *bytes_out)
{
    size_t used = 0, room = 65536;
    char *text = malloc(room);
    while (text != NULL) {
        size_t got = fread(text + used, 1, room - used, stdin);
        used += got;
        if (got == 0)
            break;
        if (used < room)
            continue;
        if (room >= PROMPT_BYTES_MAX) {
            free(text);
            return error_set(ERR_BAD_INPUT, "standard input: expected a prompt of at most %u bytes",
                             PROMPT_BYTES_MAX);
        }
        room *= 2;
        char *more = realloc(text, room);
        if (more == NULL)
            free(text);
        text = more;
    }
    if (text == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the prompt");
    if (ferror(stdin)) {
        free(text);
        return error_set(ERR_IO, "cannot read standard input: %s", strerror(errno));
    }
    *text_out = text;
    *bytes_out = used;
    return OK;
}

static json_t *token_json(const struct tokenizer *tokenizer, uint32_t id)
{
    size_t bytes = 0;
    if (id == TOKEN_NONE)
        return json_string("");
    const char *text = tokenizer_token_text(tokenizer, id, &bytes);
    return json_stringn(text, bytes);
}

/* NULL when a text is not UTF-8. */
static json_t *variables_make(const struct session *session, const char *prompt, size_t bytes)
{
    const struct tokenizer_facts *facts = tokenizer_facts(session->tokenizer);
    const char *system = session->options->system;
    json_t *messages = json_array();
    int failed = 0;
    if (system != NULL)
        failed |= json_array_append_new(messages,
                                        json_pack("{ss ss}", "role", "system", "content", system));
    failed |= json_array_append_new(
        messages, json_pack("{ss ss%}", "role", "user", "content", prompt, bytes));
    if (failed != 0) {
        json_decref(messages);
        return NULL;
    }
    return json_pack("{so sb so so}", "messages", messages, "add_generation_prompt", 1, "bos_token",
                     token_json(session->tokenizer, facts->bos_id), "eos_token",
                     token_json(session->tokenizer, facts->eos_id));
}

/* The prompt in the model's chat template. ERR_NOT_FOUND: the model has none. */
static status chat_render(const struct session *session, const char *prompt, size_t bytes,
                          char **text_out, size_t *bytes_out)
{
    struct chat_template *tmpl;
    char *source = NULL;
    size_t source_bytes = 0;
    status code = model_chat_template(session->model, &source, &source_bytes);
    if (code != OK)
        return code;
    code = chat_template_open(source, source_bytes, &tmpl);
    free(source);
    if (code != OK)
        return error_prefix(code, "the model's chat template (--raw does without it)");
    json_t *variables = variables_make(session, prompt, bytes);
    if (variables == NULL)
        code = error_set(ERR_BAD_INPUT, "the prompt: expected text in UTF-8");
    else
        code = chat_template_render(tmpl, variables, NULL, NULL, text_out, bytes_out);
    json_decref(variables);
    chat_template_close(tmpl);
    return code;
}

static status prompt_encode(struct session *session, const char *prompt, size_t bytes)
{
    uint32_t context = engine_context_tokens(session->engine);
    char *text = NULL;
    size_t text_bytes = 0;
    status code = ERR_NOT_FOUND;
    if (!session->options->raw)
        code = chat_render(session, prompt, bytes, &text, &text_bytes);
    if (code == OK)
        code = tokenizer_encode(session->tokenizer, text, text_bytes, TOKENIZER_PARSE_SPECIAL,
                                context, &session->tokens);
    else if (code == ERR_NOT_FOUND)
        code = tokenizer_encode(session->tokenizer, prompt, bytes, TOKENIZER_ADD_BOS, context,
                                &session->tokens);
    free(text);
    if (code == ERR_FULL)
        return error_set(ERR_BAD_INPUT, "the prompt: expected at most %u tokens (--ctx)", context);
    if (code == OK && session->tokens.count == 0)
        return error_set(ERR_BAD_INPUT, "the prompt: expected some text, found none");
    session->prompt_count = session->tokens.count;
    return code;
}

static status prompt_take(struct session *session)
{
    const char *prompt = session->options->prompt;
    if (prompt != NULL)
        return prompt_encode(session, prompt, strlen(prompt));
    char *text = NULL;
    size_t bytes = 0;
    status code = stdin_read(&text, &bytes);
    if (code != OK)
        return code;
    code = prompt_encode(session, text, bytes);
    free(text);
    return code;
}

/* ---- the answer ---- */

/* Run tokens[first, first + count); with sample, pick what follows. */
static status tokens_run(struct session *session, size_t first, uint32_t count,
                         struct engine_sample *sample)
{
    struct block_copy copy;
    status code = block_table_reserve(&session->table, session->tree, count, &copy);
    if (code != OK)
        return error_set(code, "the KV pool has no room for %zu tokens", first + count);
    struct engine_sequence sequence = {
        .token_ids = session->tokens.ids + first,
        .token_count = count,
        .start_position = (uint32_t)first,
        .table = &session->table,
        .sample_count = sample != NULL ? 1 : 0,
        .samples = sample,
    };
    code = engine_step(session->engine, &sequence, 1, NULL, NULL);
    if (code == OK)
        block_table_advance(&session->table, count);
    return code;
}

static status prompt_run(struct session *session, struct engine_sample *sample)
{
    uint64_t begin_ns = clock_ns();
    status code = OK;
    for (size_t at = 0; at < session->prompt_count && code == OK;) {
        size_t left = session->prompt_count - at;
        uint32_t chunk = session->options->prefill_chunk;
        uint32_t count = left < chunk ? (uint32_t)left : chunk;
        code = tokens_run(session, at, count, count == left ? sample : NULL);
        at += count;
    }
    session->prompt_ns = clock_ns() - begin_ns;
    return code;
}

static status text_write(const char *text, size_t bytes)
{
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
        return error_set(ERR_IO, "cannot write the answer: %s", strerror(errno));
    return OK;
}

/* Room for the whole answer, so that the history never moves. */
static status tokens_reserve(struct session *session, size_t *limit_out)
{
    size_t limit = session->prompt_count + session->options->max_tokens;
    uint32_t context = engine_context_tokens(session->engine);
    if (limit > context)
        limit = context;
    uint32_t *ids = realloc(session->tokens.ids, (limit + 1) * sizeof(*ids));
    if (ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu tokens", limit);
    session->tokens.ids = ids;
    session->tokens.capacity = limit + 1;
    *limit_out = limit;
    return OK;
}

static status answer(struct session *session)
{
    struct token_list *tokens = &session->tokens;
    struct detokenizer detokenizer;
    char piece[DETOKENIZER_PIECE_BYTES_MAX];
    size_t bytes = 0, limit = 0;
    status code = tokens_reserve(session, &limit);
    if (code != OK)
        return code;
    struct engine_sample sample = {
        .sampling = &session->sampling,
        .prompt_ids = tokens->ids,
        .prompt_count = (uint32_t)session->prompt_count,
        .output_ids = tokens->ids + session->prompt_count,
    };
    code = prompt_run(session, &sample);
    uint64_t begin_ns = clock_ns();
    detokenizer_open(session->tokenizer, DETOKENIZER_SKIP_SPECIAL, &detokenizer);
    while (code == OK) {
        uint32_t id = sample.result.token_id;
        if (tokenizer_is_end(session->tokenizer, id) && !session->options->ignore_eos)
            break;
        tokens->ids[tokens->count++] = id;
        code = detokenizer_push(&detokenizer, id, piece, &bytes);
        if (code == OK)
            code = text_write(piece, bytes);
        if (code != OK || tokens->count >= limit)
            break;
        sample.output_count = (uint32_t)(tokens->count - session->prompt_count);
        code = tokens_run(session, tokens->count - 1, 1, &sample);
    }
    session->answer_ns = clock_ns() - begin_ns;
    detokenizer_flush(&detokenizer, piece, &bytes);
    if (code == OK)
        code = text_write(piece, bytes);
    return code == OK ? text_write("\n", 1) : code;
}

static void stats_print(const struct session *session)
{
    size_t answer_count = session->tokens.count - session->prompt_count;
    size_t steps = answer_count > 0 ? answer_count - 1 : 0; /* the first token is the prompt's */
    double prompt_s = (double)session->prompt_ns / 1e9, answer_s = (double)session->answer_ns / 1e9;
    fprintf(stderr,
            "prompt: %zu tokens in %.3f s, %.1f tokens/s\n"
            "answer: %zu tokens, %zu steps in %.3f s, %.1f tokens/s (%s)\n",
            session->prompt_count, prompt_s, (double)session->prompt_count / prompt_s, answer_count,
            steps, answer_s, steps > 0 ? (double)steps / answer_s : 0.0,
            engine_numerics_class(session->engine));
}

static status session_run(struct session *session, const char *path)
{
    const struct run_options *options = session->options;
    sampling_defaults(&session->sampling);
    session->sampling.temperature = (float)options->temperature;
    session->sampling.top_p = (float)options->top_p;
    session->sampling.min_p = (float)options->min_p;
    session->sampling.top_k = options->top_k;
    session->sampling.repetition_penalty = (float)options->repetition_penalty;
    session->sampling.seed = options->seed;
    status code = engine_start(session, path);
    if (code == OK)
        code = sampling_check(&session->sampling, session->model->vocabulary);
    if (code == OK)
        code = prompt_take(session);
    if (code == OK)
        code = answer(session);
    if (code == OK && options->stats)
        stats_print(session);
    return code;
}

static int run_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct session session = {.options = options};
    (void)operand_count;
    status code = session_run(&session, operands[0]);
    session_close(&session);
    if (code == OK)
        return EXIT_OK;
    fprintf(stderr, "baton run: %s\n", error_text());
    return EXIT_FAILED;
}

extern const struct command_spec run_command;
const struct command_spec run_command = {
    .name = "run",
    .operands = "MODEL",
    .summary = "answer a prompt on the terminal, in one process",
    .details = "Loads MODEL (a GGUF file, or a Hugging Face directory), answers the prompt and "
               "ends. The prompt goes through the "
               "model's chat template when it has one; --raw continues it as it is.",
    .options = run_specs,
    .option_count = sizeof(run_specs) / sizeof(run_specs[0]),
    .options_bytes = sizeof(struct run_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = run_run,
};
