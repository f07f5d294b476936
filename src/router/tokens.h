/* router/tokens.h - /tokenize, /detokenize and /tokenizer_info. Internal to router/. */
#ifndef ROUTER_TOKENS_H
#define ROUTER_TOKENS_H

#include "http/server.h"
#include "router/request.h"

#define TOKENS_TASK 7 /* mail.kind of their tasks; an answer's is 0 */

void on_tokenize(void *ctx, struct http_request *http);
void on_detokenize(void *ctx, struct http_request *http);
void on_tokenizer_info(void *ctx, struct http_request *http);

/* A task came back from the pool. */
void tokens_done(struct router *router, struct mail *mail);

#endif
