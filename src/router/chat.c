#include "router/chat.h"

#include "base/error.h"
#include "router/request.h"

status chat_render(const struct router *router, json_t *messages, json_t *more,
                   bool add_generation_prompt, char **text_out, size_t *bytes_out)
{
    if (router->chat_template == NULL)
        return error_set(ERR_UNSUPPORTED, "this model has no chat template that can be used here");
    json_t *variables = more != NULL ? json_copy(more) : json_object();
    bool made = variables != NULL && json_object_set(variables, "messages", messages) == 0 &&
                json_object_set_new(variables, "add_generation_prompt",
                                    json_boolean(add_generation_prompt)) == 0 &&
                json_object_set_new(variables, "bos_token", json_string(router->bos_text)) == 0 &&
                json_object_set_new(variables, "eos_token", json_string(router->eos_text)) == 0;
    status st = made ? chat_template_render(router->chat_template, variables, NULL, NULL, text_out,
                                            bytes_out)
                     : error_set(ERR_NO_MEMORY, "no memory for a chat");
    json_decref(variables);
    return st;
}
