/* model/dummy_shapes.h - shapes of known models, for --dummy-weights NAME.
 *
 * A shape is the part of a published config.json that sizes and rotation come from.
 *
 * Threads: any. Source: the models' config.json.
 */
#ifndef MODEL_DUMMY_SHAPES_H
#define MODEL_DUMMY_SHAPES_H

/* JSON text, or NULL when there is no such name. */
const char *dummy_shape_find(const char *name);

/* "llama-3.1-8b, ...", for messages. */
extern const char *const dummy_shape_names;

#endif
