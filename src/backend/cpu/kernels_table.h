/* backend/cpu/kernels_table.h - the table of what kernels_lanes.h and an int8_*.h file have just
 * defined. TABLE and TABLE_NAME say whose.
 */
const struct kernels TABLE = {
    .name = TABLE_NAME,
    .peak_float = lanes_peak_float,
#if defined(TABLE_AMX)
    .peak_int8 = amx_peak,
#else
    .peak_int8 = int8_peak,
#endif
    .peak_bf16 = bf16_peak,
    .peak_read = lanes_peak_read,
    .unpack = {[DTYPE_F32] = lanes_unpack_f32,
               [DTYPE_F16] = lanes_unpack_f16,
               [DTYPE_BF16] = lanes_unpack_bf16,
               [DTYPE_Q8_0] = lanes_unpack_q8_0,
               [DTYPE_Q4_0] = lanes_unpack_q4_0,
               [DTYPE_Q4_1] = lanes_unpack_q4_1,
               [DTYPE_Q4_K] = lanes_unpack_q4_k,
               [DTYPE_Q5_K] = lanes_unpack_q5_k,
               [DTYPE_Q6_K] = lanes_unpack_q6_k},
    .product = lanes_product,
    .few_product = {[DTYPE_F16] = lanes_few_f16, [DTYPE_BF16] = lanes_few_bf16},
    .quantize = int8_quantize,
#if defined(TABLE_AMX)
    .int8_product = {[DTYPE_Q8_0] = amx_int8_product_q8_0,
                     [DTYPE_Q4_0] = amx_int8_product_q4_0,
                     [DTYPE_Q4_1] = amx_int8_product_q4_1,
                     [DTYPE_Q4_K] = amx_int8_product_q4_k,
                     [DTYPE_Q5_K] = amx_int8_product_q5_k,
#else
    .int8_product = {[DTYPE_Q8_0] = int8_product_q8_0,
                     [DTYPE_Q4_0] = int8_product_q4_0,
                     [DTYPE_Q4_1] = int8_product_q4_1,
                     [DTYPE_Q4_K] = int8_product_q4_k,
                     [DTYPE_Q5_K] = int8_product_q5_k,
#endif
                     [DTYPE_Q6_K] = int8_product_q6_k},
    .bf16_round = bf16_round,
    .bf16_product = bf16_product,
    .square_sum = lanes_square_sum,
    .gate = lanes_gate,
    .softmax = lanes_softmax,
    .merge = lanes_merge,
    .half_store = lanes_half_store,
    .kv = {[DTYPE_F16] = {lanes_key_tile_f16, lanes_key_product_f16, lanes_value_product_f16,
                          lanes_value_rows_f16},
           [DTYPE_Q8_0] = {lanes_key_tile_q8_0, lanes_key_product_q8_0, lanes_value_product_q8_0,
                           lanes_value_rows_q8_0}},
};
