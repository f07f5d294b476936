/* backend/cpu/attend.h - what attention of prompts (attend.c) and of decode (attend_decode.c)
 * share.
 *
 * Threads: the compute thread; what runs on the team is theirs.
 */
#ifndef BACKEND_CPU_ATTEND_H
#define BACKEND_CPU_ATTEND_H

#include "backend/cpu/cpu_state.h"

#define ATTEND_PARTITION 256u
#define ATTEND_SCORE_STRIDE (ATTEND_PARTITION + 16) /* rows not a power of two apart */

/* Take a partition's part of a query (the sum of its values, the largest of its scores, the sum of
 * its weights) into what the query has so far. first: it has nothing. */
void attend_merge(const struct cpu_backend *cpu, float *output, float *largest, float *sum,
                  const float *part, float part_largest, float part_sum, bool first);

/* Memory for the units of a step; false when there is none. */
bool attend_decode_open(struct cpu_backend *cpu);
size_t attend_decode_scratch_bytes(const struct backend_shape *shape);

/* The step has a sequence with one row and so many keys. */
void attend_decode_append(struct cpu_backend *cpu, uint32_t sequence, uint32_t keys);

/* Attention of all that were appended. */
void attend_decode(struct cpu_backend *cpu, uint32_t layer, const struct backend_buffer *q,
                   struct backend_buffer *o);

#endif
