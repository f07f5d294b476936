#include "cli/bench_logits.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

static const char magic[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};

#define HEAD_BYTES (sizeof(magic) + 12)
#define SPREAD_MAX 16.0f /* between the largest and the smallest that are told apart */
#define STEPS_MAX 65535.0f

static size_t row_bytes(const struct logits_file *file)
{
    return 8 + ((size_t)file->vocabulary + 1) / 2 * 4;
}

static status bytes_read(struct logits_file *file, void *to, size_t bytes, const char *what)
{
    if (fread(to, 1, bytes, file->file) == bytes)
        return OK;
    if (ferror(file->file))
        return error_set(ERR_IO, "%s: cannot read: %s", file->path, strerror(errno));
    return error_set(ERR_BAD_INPUT, "%s: expected %s, but it ends there", file->path, what);
}

static status tokens_read(struct logits_file *file)
{
    size_t count = (size_t)file->chunk_count * file->context_tokens;
    file->token_ids = reallocarray(NULL, count, sizeof(*file->token_ids));
    file->row = malloc(row_bytes(file));
    if (file->token_ids == NULL || file->row == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory for %zu tokens", file->path, count);
    for (size_t i = 0; i < count; i++) {
        uint8_t id[4];
        status code = bytes_read(file, id, sizeof(id), "token ids");
        if (code != OK)
            return code;
        file->token_ids[i] = load_u32(id);
    }
    return OK;
}

status logits_file_open(const char *path, uint32_t vocabulary, struct logits_file *file_out)
{
    uint8_t head[HEAD_BYTES];
    struct logits_file file = {.file = fopen(path, "rbe"), .path = path};
    if (file.file == NULL)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open: %s", path,
                         strerror(errno));
    status code = bytes_read(&file, head, sizeof(head), "a file of llama-perplexity");
    if (code != OK)
        goto err_file;
    file.context_tokens = load_u32(head + sizeof(magic));
    file.vocabulary = load_u32(head + sizeof(magic) + 4);
    file.chunk_count = load_u32(head + sizeof(magic) + 8);
    if (memcmp(head, magic, sizeof(magic)) != 0)
        code = error_set(ERR_BAD_INPUT,
                         "%s: expected what llama-perplexity --kl-divergence-base writes; it "
                         "begins otherwise",
                         path);
    else if (file.vocabulary != vocabulary)
        code = error_set(ERR_BAD_INPUT, "%s: expected the model's vocabulary of %u, found %u", path,
                         vocabulary, file.vocabulary);
    else if (file.context_tokens < 4 || file.context_tokens > LOGITS_CONTEXT_MAX ||
             file.chunk_count < 1 || file.chunk_count > LOGITS_CHUNKS_MAX)
        code = error_set(ERR_BAD_INPUT,
                         "%s: expected 4 to %u tokens of context and 1 to %u chunks, found %u and "
                         "%u",
                         path, LOGITS_CONTEXT_MAX, LOGITS_CHUNKS_MAX, file.context_tokens,
                         file.chunk_count);
    else
        code = tokens_read(&file);
    if (code != OK)
        goto err_file;
    *file_out = file;
    return OK;

err_file:
    logits_file_close(&file);
    return code;
}

status logits_file_next(struct logits_file *file, float *log_out)
{
    status code = bytes_read(file, file->row, row_bytes(file), "another position");
    if (code != OK)
        return code;
    struct reader r = reader_over(file->row, row_bytes(file));
    float scale = read_f32(&r);
    float least = read_f32(&r);
    if (!(scale >= 0 && scale <= 1) || !isfinite(least))
        return error_set(ERR_BAD_INPUT,
                         "%s: expected a scale of 0 to 1 and a finite least, found %g and %g",
                         file->path, (double)scale, (double)least);
    for (uint32_t i = 0; i < file->vocabulary; i++)
        log_out[i] = scale * (float)read_u16(&r) + least;
    return OK;
}

void logits_file_close(struct logits_file *file)
{
    if (file->file != NULL)
        (void)fclose(file->file);
    free(file->token_ids);
    free(file->row);
    *file = (struct logits_file){.file = NULL};
}

void logits_round(float *log_probabilities, uint32_t count)
{
    float most = log_probabilities[0], least = log_probabilities[0];
    for (uint32_t i = 1; i < count; i++) {
        most = fmaxf(most, log_probabilities[i]);
        least = fminf(least, log_probabilities[i]);
    }
    least = fmaxf(least, most - SPREAD_MAX);
    float scale = (most - least) / STEPS_MAX;
    for (uint32_t i = 0; i < count; i++) {
        float above = log_probabilities[i] - least;
        log_probabilities[i] = least + (above > 0 ? scale * rintf(above / scale) : 0);
    }
}
