/* tests/backend_rig.h - the smallest backend that tests open: its shape and its limits. */
#ifndef TESTS_BACKEND_RIG_H
#define TESTS_BACKEND_RIG_H

#include "backend/backend.h"

static inline struct backend_shape rig_small_shape(void)
{
    return (struct backend_shape){.layer_count = 2,
                                  .head_count = 4,
                                  .kv_head_count = 2,
                                  .head_dim = 8,
                                  .block_tokens = 4,
                                  .kv_dtype = DTYPE_F16,
                                  .layer_bytes = 2 * 2 * 4 * 8 * 2,
                                  .block_bytes = 2 * 2 * 2 * 4 * 8 * 2,
                                  .rope_dims = 8,
                                  .rope_theta = 10000,
                                  .norm_epsilon = 1e-5f};
}

static const struct backend_limits rig_small_limits = {8, 2, 4, 16};

#endif
