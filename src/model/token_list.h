/* model/token_list.h - appending to the list that an encode fills (struct in tokenizer.h).
 *
 * Threads: one for a list. Memory: grows by doubling; token_list_close frees.
 */
#ifndef MODEL_TOKEN_LIST_H
#define MODEL_TOKEN_LIST_H

#include "model/tokenizer.h"

/* Errors: ERR_FULL (the list has limit_tokens already), ERR_NO_MEMORY. */
status token_list_push(struct token_list *list, size_t limit_tokens, uint32_t id);

#endif
