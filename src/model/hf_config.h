/* model/hf_config.h - config.json of a Hugging Face checkpoint: numbers of the shape, rotation, and
 * what it asks for that is not built.
 *
 * Both sources that have a config.json read it through these: the directory and the dummy weights.
 *
 * Threads: any. Memory: config is the caller's.
 * Source:  transformers 5, LlamaConfig, Qwen2Config, Qwen3Config, and the names that version 4 had.
 */
#ifndef MODEL_HF_CONFIG_H
#define MODEL_HF_CONFIG_H

#include <jansson.h>

#include "model/source.h"

/* The calls of a source that config.json answers alone; source is for messages. */

/* model_type. Refuses quantised checkpoints first. */
status hf_config_architecture(const struct source *source, const json_t *config,
                              char word_out[SOURCE_WORD_BYTES]);
void hf_config_number_name(enum source_number number, char name_out[SOURCE_NAME_BYTES]);
status hf_config_u32(const struct source *source, const json_t *config, enum source_number number,
                     uint32_t *value_out);
status hf_config_f32(const struct source *source, const json_t *config, enum source_number number,
                     float *value_out);
status hf_config_refuse_unbuilt(const struct source *source, const json_t *config,
                                const struct model *model);
/* rope_parameters, or rope_scaling: default, linear, llama3. */
status hf_config_scale_rope(const struct source *source, const json_t *config,
                            const struct model *model, float *divisors);

/* Whether the output head is the embedding. */
bool hf_config_tied(const json_t *config);

/* "model.layers.3.self_attn.q_proj.weight" */
void hf_config_tensor_name(enum source_role role, uint32_t layer, char name_out[SOURCE_NAME_BYTES]);

#endif
