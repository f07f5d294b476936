/* model/hf_text.h - the text side of a Hugging Face directory: tokenizer and chat template.
 *
 *     tokenizer.json          vocabulary, merges, how text is cut (tokenizer_json.h)
 *     tokenizer_config.json   which tokens are bos, eos, unknown, padding; the chat template
 *     chat_template.jinja     the chat template, before the one of tokenizer_config.json
 *     generation_config.json  which tokens end a generation
 *     config.json             the same, where there is no generation_config.json
 *
 * Threads: any. Memory: nothing of the files stays.
 */
#ifndef MODEL_HF_TEXT_H
#define MODEL_HF_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define HF_TOKENIZER_NAME "tokenizer.json"

struct tokenizer;

/* Ids from the last token to vocabulary - 1, which an embedding may have rows for, become unused
 * tokens "[PAD<id>]". Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT, ERR_UNSUPPORTED, ERR_NO_MEMORY.
 */
status hf_tokenizer_open(const char *folder, uint32_t vocabulary, struct tokenizer **tokenizer_out);

/* From malloc, NUL-terminated. Errors: ERR_NOT_FOUND (none; no message), ERR_IO, ERR_BAD_INPUT. */
status hf_chat_template(const char *folder, char **text_out, size_t *bytes_out);

#endif
