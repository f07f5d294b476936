/* baton bench accuracy: what a numerics class costs, over a real text.
 *
 *     text -> tokens -> chunks of --ctx, each with the model's bos first, if it wants one
 *         reference   cpu-float, an f32 pool       log p  \
 *         the class   --kernels, --kv-dtype ...    log q  --> KL(p || q), same top, perplexity
 *         --logits    of llama-perplexity          log q  /
 *
 * Positions of a chunk's second half count, as in llama-perplexity: they have half a context at
 * least. All that are compared see the same tokens at the same positions.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/device.h"
#include "base/error.h"
#include "cli/bench_divergence.h"
#include "cli/bench_floor.h"
#include "cli/bench_logits.h"
#include "cli/commands.h"
#include "engine/engine.h"
#include "model/tokenizer.h"

struct accuracy_options {
    const char *text, *logits, *kernels, *variant, *device, *cuda_plugin, *json;
    bool deterministic;
    uint32_t tokens, ctx, threads;
    uint32_t kv; /* 0: auto, else 1 + enum engine_kv */
};

#define FIELD(name) offsetof(struct accuracy_options, name)

static const struct option_spec specs[] = {
    {"text", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(text), "the text; must be given"},
    {"tokens", OPTION_UINT, "N", "20480", 4, 1u << 24, FIELD(tokens),
     "most tokens of it to run; whole chunks count"},
    {"ctx", OPTION_UINT, "TOKENS", "512", 4, LOGITS_CONTEXT_MAX, FIELD(ctx),
     "tokens of a chunk; the positions of its second half are compared"},
    {"logits", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(logits),
     "compare this too: what llama-perplexity --kl-divergence-base wrote over the same text, model "
     "and context; a pipe will do"},
    {"kernels", OPTION_TEXT, "CLASS", "auto", 0, 0, FIELD(kernels),
     "the class to compare with the reference: float, int8, bf16 or auto"},
    {"kv-dtype", OPTION_CHOICE, "auto|f16|f32|q8_0", "auto", 0, 0, FIELD(kv),
     "what it stores keys and values in; auto is f32 for float, else f16"},
    {"variant", OPTION_TEXT, "NAME", "auto", 0, 0, FIELD(variant),
     "instructions: scalar, avx2, avx512, vnni, bf16, amx, neon, dotprod, or auto, the best that "
     "there are"},
    {"device", OPTION_TEXT, "NAME", "cpu", 0, 0, FIELD(device),
     "what computes the class: cpu, cuda (the first GPU) or cuda:N; the reference is the CPU's"},
    {"cuda-plugin", OPTION_TEXT, "PATH", NULL, 0, 0, FIELD(cuda_plugin),
     "the backend for cuda; unset: baton-cuda.so beside the binary or in ../lib/baton"},
    {"deterministic", OPTION_FLAG, NULL, NULL, 0, 0, FIELD(deterministic),
     "on a GPU: the same bits for any batch and chunks"},
    {"threads", OPTION_UINT, "N", "0", 0, CPU_THREADS_MAX, FIELD(threads),
     "cores to compute with; 0 for all that the process may use"},
    {"json", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(json),
     "also write the result as JSON; - writes it to standard output instead of the table"},
};

/* An engine with room for one chunk. */
struct side {
    char name[64]; /* "cpu-int8, KV f16" */
    struct engine *engine;
    struct prefix_tree *tree;
    struct block_table table;
    float *log; /* [vocabulary] of the position */
};

/* What is compared with the reference. */
enum { BY_CLASS, BY_FILE, BY_CLASS_ROUNDED, BY_REFERENCE_ROUNDED, COMPARED };

struct accuracy {
    const struct accuracy_options *options;
    struct model *model;
    struct tokenizer *tokenizer;
    struct token_list tokens;
    uint32_t bos_id; /* TOKEN_NONE: a chunk begins with its own first token */
    uint32_t chunk_count;
    struct device device;
    struct side reference, class;
    struct sampled *scores; /* [positions of a chunk] */
    struct logits_file file;
    float *log_file;                             /* [vocabulary] */
    struct divergence plain, compared[COMPARED]; /* plain: the reference with itself */
};

/* ---- the two engines ---- */

static status side_open(struct accuracy *accuracy, const struct device *device, const char *kernels,
                        const char *variant, enum engine_kv kv, struct side *side)
{
    const struct accuracy_options *options = accuracy->options;
    struct engine_config config = {
        .context_tokens = options->ctx,
        .rows_max = options->ctx - logits_first(options->ctx),
        .sequences_max = 1,
        .outputs_max = logits_count(options->ctx),
        .kv = kv,
    };
    const struct device_options opening = {
        .cpu = {.threads = bench_threads(options->threads), .kernels = kernels, .variant = variant},
        .deterministic = options->deterministic};
    struct engine_plan plan;
    struct backend *backend;
    status code = device_memory(device, &config.available_bytes);
    if (code == OK)
        code = engine_plan(accuracy->model, &config, &plan);
    if (code != OK)
        return code;
    code = device_open(device, &plan.shape, &plan.limits, &opening, &backend);
    if (code != OK) {
        engine_plan_close(&plan);
        return code;
    }
    uint32_t block_count = plan.block_count;
    uint32_t table_blocks = plan.limits.table_blocks_max;
    uint32_t block_tokens = plan.shape.block_tokens;
    (void)snprintf(side->name, sizeof(side->name), "%s, KV %s", backend->numerics_class,
                   dtype_name(plan.shape.kv_dtype));
    code = engine_open(accuracy->model, &plan, backend, &side->engine);
    if (code == OK)
        code = prefix_tree_open(block_count, 0, &side->tree);
    if (code != OK)
        return code;
    block_id *blocks = calloc(table_blocks, sizeof(*blocks));
    side->log = calloc(accuracy->model->vocabulary, sizeof(*side->log));
    block_table_open(&side->table, blocks, blocks != NULL ? table_blocks : 0, block_tokens);
    if (blocks == NULL || side->log == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for one position's logits");
    return OK;
}

static void side_close(struct side *side)
{
    if (side->table.block_count > 0)
        block_table_drop(&side->table, side->tree);
    free(side->table.ids);
    free(side->log);
    prefix_tree_close(side->tree);
    engine_close(side->engine);
}

/* The next count tokens of the chunk; scores NULL: no logits of them are wanted. */
static status side_step(struct side *side, const uint32_t *token_ids, uint32_t count,
                        struct engine_score *score)
{
    struct block_copy copy;
    struct engine_sequence sequence = {
        .token_ids = token_ids,
        .token_count = count,
        .start_position = side->table.token_count,
        .table = &side->table,
        .score = score,
    };
    status code = block_table_reserve(&side->table, side->tree, count, &copy);
    if (code == OK)
        code = engine_step(side->engine, &sequence, 1, NULL, NULL);
    if (code == OK)
        block_table_advance(&side->table, count);
    return code;
}

/* The logits of the chunk's second half are the engine's outputs after it. */
static status side_run(struct accuracy *accuracy, struct side *side, const uint32_t *token_ids)
{
    uint32_t ctx = accuracy->options->ctx;
    uint32_t first = logits_first(ctx);
    struct engine_score score = {.next_token_id = token_ids[ctx - 1], .results = accuracy->scores};
    if (side->table.block_count > 0)
        block_table_drop(&side->table, side->tree);
    status code = side_step(side, token_ids, first, NULL);
    return code == OK ? side_step(side, token_ids + first, ctx - 1 - first, &score) : code;
}

/* ---- a chunk ---- */

static bool compare(struct accuracy *accuracy, int which, const float *log_q, uint32_t token_id)
{
    return divergence_add(&accuracy->compared[which], accuracy->reference.log, log_q,
                          accuracy->model->vocabulary, token_id);
}

/* output: of both engines. token_id: the one that came. */
static status position_compare(struct accuracy *accuracy, uint32_t output, uint32_t token_id)
{
    struct side *reference = &accuracy->reference, *class = &accuracy->class;
    uint32_t vocabulary = accuracy->model->vocabulary;
    divergence_log_softmax(engine_logits(reference->engine, output), vocabulary, reference->log);
    divergence_log_softmax(engine_logits(class->engine, output), vocabulary, class->log);
    bool kept =
        divergence_add(&accuracy->plain, reference->log, reference->log, vocabulary, token_id) &&
        compare(accuracy, BY_CLASS, class->log, token_id);
    if (accuracy->options->logits != NULL) {
        status code = logits_file_next(&accuracy->file, accuracy->log_file);
        if (code != OK)
            return code;
        logits_round(class->log, vocabulary);
        kept = kept && compare(accuracy, BY_FILE, accuracy->log_file, token_id) &&
               compare(accuracy, BY_CLASS_ROUNDED, class->log, token_id);
        memcpy(class->log, reference->log, vocabulary * sizeof(*class->log));
        logits_round(class->log, vocabulary);
        kept = kept && compare(accuracy, BY_REFERENCE_ROUNDED, class->log, token_id);
    }
    return kept ? OK : error_set(ERR_NO_MEMORY, "no memory for another position");
}

static status chunk_run(struct accuracy *accuracy, uint32_t chunk)
{
    uint32_t ctx = accuracy->options->ctx;
    uint32_t *token_ids = accuracy->tokens.ids + (size_t)chunk * ctx;
    uint32_t first = logits_first(ctx);
    if (accuracy->options->logits != NULL && memcmp(accuracy->file.token_ids + (size_t)chunk * ctx,
                                                    token_ids, ctx * sizeof(*token_ids)) != 0)
        return error_set(ERR_BAD_INPUT,
                         "%s: expected the token ids of the same text; chunk %u has others "
                         "(llama-perplexity wants --no-escape)",
                         accuracy->options->logits, chunk);
    if (accuracy->bos_id != TOKEN_NONE)
        token_ids[0] = accuracy->bos_id;
    status code = side_run(accuracy, &accuracy->reference, token_ids);
    if (code == OK)
        code = side_run(accuracy, &accuracy->class, token_ids);
    for (uint32_t i = 0; code == OK && i < logits_count(ctx); i++)
        code = position_compare(accuracy, i, token_ids[first + i + 1]);
    return code;
}

/* ---- the text ---- */

static status text_read(const char *path, char **text_out, size_t *bytes_out)
{
    FILE *file = fopen(path, "rbe");
    char *text = malloc(TOKENIZER_TEXT_BYTES_MAX);
    status code = OK;
    if (file == NULL)
        code = error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open: %s", path,
                         strerror(errno));
    else if (text == NULL)
        code = error_set(ERR_NO_MEMORY, "no memory for %s", path);
    if (code == OK) {
        *bytes_out = fread(text, 1, TOKENIZER_TEXT_BYTES_MAX, file);
        if (ferror(file))
            code = error_set(ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    }
    if (file != NULL)
        (void)fclose(file);
    if (code != OK)
        free(text);
    else
        *text_out = text;
    return code;
}

static status tokens_read(struct accuracy *accuracy)
{
    const struct accuracy_options *options = accuracy->options;
    char *text;
    size_t bytes;
    status code = text_read(options->text, &text, &bytes);
    if (code != OK)
        return code;
    code = tokenizer_encode(accuracy->tokenizer, text, bytes, TOKENIZER_ADD_BOS, SIZE_MAX,
                            &accuracy->tokens);
    free(text);
    if (code != OK)
        return code;
    size_t most =
        accuracy->tokens.count < options->tokens ? accuracy->tokens.count : options->tokens;
    accuracy->chunk_count = (uint32_t)(most / options->ctx);
    if (accuracy->chunk_count == 0)
        return error_set(ERR_BAD_INPUT, "%s: expected at least %u tokens, found %zu", options->text,
                         options->ctx, most);
    const struct tokenizer_facts *facts = tokenizer_facts(accuracy->tokenizer);
    accuracy->bos_id = facts->add_bos ? facts->bos_id : TOKEN_NONE;
    return OK;
}

static status file_open(struct accuracy *accuracy)
{
    const struct accuracy_options *options = accuracy->options;
    uint32_t vocabulary = accuracy->model->vocabulary;
    if (options->logits == NULL)
        return OK;
    accuracy->log_file = calloc(vocabulary, sizeof(*accuracy->log_file));
    if (accuracy->log_file == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for one position's logits");
    status code = logits_file_open(options->logits, vocabulary, &accuracy->file);
    if (code != OK)
        return code;
    if (accuracy->file.context_tokens != options->ctx)
        return error_set(ERR_BAD_INPUT, "%s: expected chunks of %u tokens (--ctx), found %u",
                         options->logits, options->ctx, accuracy->file.context_tokens);
    if (accuracy->file.chunk_count < accuracy->chunk_count)
        accuracy->chunk_count = accuracy->file.chunk_count;
    return OK;
}

/* ---- the report ---- */

static const char *compared_name(const struct accuracy *accuracy, int which, char name_out[128])
{
    const struct side *side =
        which == BY_REFERENCE_ROUNDED ? &accuracy->reference : &accuracy->class;
    if (which == BY_FILE)
        (void)snprintf(name_out, 128, "%s", accuracy->options->logits);
    else
        (void)snprintf(name_out, 128, "%s%s", side->name,
                       which == BY_CLASS ? "" : ", rounded as the file");
    return name_out;
}

static json_t *compared_report(struct accuracy *accuracy, int which, bool table)
{
    struct divergence *divergence = &accuracy->compared[which];
    struct samples_summary kl = samples_summarize(&divergence->kl);
    double same = (double)divergence->same_top / (double)divergence->kl.count;
    double perplexity = divergence_perplexity(divergence);
    char name[128];
    compared_name(accuracy, which, name);
    if (table)
        printf("%-40s %10.6f %10.6f %10.6f %10.6f %9.4f %10.4f\n", name, kl.mean, kl.median, kl.p99,
               kl.max, same, perplexity);
    return json_pack("{ss sf sf sf sf sf sf}", "name", name, "kl_mean", kl.mean, "kl_median",
                     kl.median, "kl_p99", kl.p99, "kl_max", kl.max, "same_top", same, "perplexity",
                     perplexity);
}

static status report(struct accuracy *accuracy)
{
    const struct accuracy_options *options = accuracy->options;
    bool table = options->json == NULL || strcmp(options->json, "-") != 0;
    double perplexity = divergence_perplexity(&accuracy->plain);
    size_t positions = accuracy->plain.kl.count;
    json_t *results = json_array(), *nearer = json_null();
    if (table)
        printf("%s, %s: %zu positions of %u chunks of %u tokens\n"
               "reference %s: perplexity %.4f\n%-40s %10s %10s %10s %10s %9s %10s\n",
               accuracy->model->name, options->text, positions, accuracy->chunk_count, options->ctx,
               accuracy->reference.name, perplexity, "KL from it, nats", "mean", "median", "99 %",
               "max", "same top", "perplexity");
    if (options->logits != NULL) {
        double mean, error;
        divergence_compare(&accuracy->compared[BY_CLASS_ROUNDED], &accuracy->compared[BY_FILE],
                           &mean, &error);
        nearer = json_pack("{sf sf}", "kl_difference", mean, "standard_error", error);
        if (table)
            printf("the class less the file, both rounded: %.6f +- %.6f\n", mean, error);
    }
    for (int which = 0; which < COMPARED; which++)
        if (accuracy->compared[which].kl.count > 0)
            (void)json_array_append_new(results, compared_report(accuracy, which, table));
    json_t *root =
        json_pack("{ss ss si si si s{ss sf} so so}", "model", accuracy->model->name, "text",
                  options->text, "positions", (int)positions, "chunks", (int)accuracy->chunk_count,
                  "context", (int)options->ctx, "reference", "name", accuracy->reference.name,
                  "perplexity", perplexity, "results", results, "beside_logits", nearer);
    if (options->json != NULL)
        return bench_json_write(root, options->json);
    json_decref(root);
    return OK;
}

static status accuracy_run(struct accuracy *accuracy, const char *path)
{
    const struct accuracy_options *options = accuracy->options;
    const struct device cpu = {.plugin = NULL};
    if (options->text == NULL)
        return error_set(ERR_BAD_INPUT, "expected --text FILE, found none");
    status code = device_find(options->device, options->cuda_plugin, &accuracy->device);
    if (code == OK)
        code = weights_open(path, &accuracy->model);
    if (code == OK)
        code = model_tokenizer_open(accuracy->model, &accuracy->tokenizer);
    if (code == OK)
        code = tokens_read(accuracy);
    if (code == OK)
        code = side_open(accuracy, &cpu, "float", "auto", ENGINE_KV_F32, &accuracy->reference);
    if (code == OK)
        code = side_open(accuracy, &accuracy->device, options->kernels, options->variant,
                         options->kv == 0 ? engine_kv_choose("auto", options->kernels)
                                          : (enum engine_kv)(options->kv - 1),
                         &accuracy->class);
    if (code == OK)
        code = file_open(accuracy);
    accuracy->scores = calloc(options->ctx, sizeof(*accuracy->scores));
    if (code == OK && accuracy->scores == NULL)
        code = error_set(ERR_NO_MEMORY, "no memory for %u positions", options->ctx);
    bool terminal = isatty(STDERR_FILENO);
    for (uint32_t chunk = 0; code == OK && chunk < accuracy->chunk_count; chunk++) {
        code = chunk_run(accuracy, chunk);
        if (terminal)
            fprintf(stderr, "\r%u of %u chunks%s", chunk + 1, accuracy->chunk_count,
                    chunk + 1 == accuracy->chunk_count || code != OK ? "\n" : "");
    }
    return code == OK ? report(accuracy) : code;
}

static int accuracy_main(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct accuracy accuracy = {.options = options};
    (void)operand_count;
    status code = accuracy_run(&accuracy, operands[0]);
    side_close(&accuracy.reference);
    side_close(&accuracy.class);
    logits_file_close(&accuracy.file);
    for (int which = 0; which < COMPARED; which++)
        divergence_close(&accuracy.compared[which]);
    divergence_close(&accuracy.plain);
    free(accuracy.scores);
    free(accuracy.log_file);
    token_list_close(&accuracy.tokens);
    tokenizer_close(accuracy.tokenizer);
    if (accuracy.model != NULL)
        weights_close(accuracy.model);
    if (code == OK)
        return EXIT_OK;
    fprintf(stderr, "baton bench accuracy: %s\n", error_text());
    return EXIT_FAILED;
}

extern const struct command_spec bench_accuracy_command;
const struct command_spec bench_accuracy_command = {
    .name = "bench accuracy",
    .operands = "MODEL",
    .summary = "measure how far a class of arithmetic is from the reference, on a text",
    .details =
        "Runs a text through MODEL (a GGUF file or a directory) twice: with the reference "
        "(--kernels float, keys and values as f32) and with the class that the options name. For "
        "each position of the second half of a chunk it takes the Kullback-Leibler divergence of "
        "the class's distribution from the reference's, and says mean, median, 99th percentile and "
        "maximum, how often both find the same token likeliest, and the perplexities. With "
        "--logits the log-probabilities that llama-perplexity wrote are compared in the same way. "
        "Its file has 16 bits for each; two more lines say what that alone costs.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct accuracy_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = accuracy_main,
};
