/* engine/warm.h - a device's first steps, before anybody waits for one.
 *
 * A GPU loads a kernel when it is launched first, and its library of products takes 0.1 to 0.2 s
 * for its first product, which decode needs when there are more than 32 sequences. So steps of one,
 * of a few and of many sequences and of a prompt run once, on blocks that nobody has yet: whatever
 * they leave there is written before it is read.
 *
 * Threads: the engine's. Memory: none is kept.
 */
#ifndef ENGINE_WARM_H
#define ENGINE_WARM_H

#include "engine/engine.h"

/* After open, before any block is taken. Errors: the backend's, ERR_NO_MEMORY. */
status engine_warm(struct engine *engine);

#endif
