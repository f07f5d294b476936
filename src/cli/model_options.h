/* cli/model_options.h - the option of every command that opens a MODEL.
 *
 * T: a struct with the field dummy_weights. The command's operands_instead is "dummy-weights".
 */
#ifndef CLI_MODEL_OPTIONS_H
#define CLI_MODEL_OPTIONS_H

#include "base/options.h"

#define MODEL_ROWS(T)                                                                              \
    {                                                                                              \
        "dummy-weights", OPTION_TEXT, "CONFIG", NULL, 0, 0, offsetof(T, dummy_weights),            \
            "random weights in the shape of a config.json, of a directory with one, or of a "      \
            "known "                                                                               \
            "model (llama-3.1-8b, ...), for measurements; MODEL then only has the tokenizer, and " \
            "may be left out"                                                                      \
    }

#define MODEL_INSTEAD "dummy-weights"

#endif
