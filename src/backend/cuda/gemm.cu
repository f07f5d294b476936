/* backend/cuda/gemm.cu - y = W x for many rows, by cuBLASLt on the tensor cores.
 *
 * The algorithm of a shape is asked for once and kept. Its order of sums may depend on the number
 * of rows: with --deterministic stream.cu makes these products too. */
#include "backend/cuda/state.cuh"

#define WORKSPACE_BYTES ((size_t)64 << 20)

struct operand_set {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
};

static bool operands_open(struct cuda_backend *cuda, uint32_t n, uint32_t k, uint32_t m,
                          uint32_t x_stride, uint32_t y_stride, bool halves,
                          struct operand_set *set)
{
    cudaDataType_t type = cuda->bf16 ? CUDA_R_16BF : CUDA_R_16F;
    cublasOperation_t transposed = CUBLAS_OP_T;
    *set = {};
    return lt_good(cuda, cublasLtMatmulDescCreate(&set->op, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                   "product") &&
           lt_good(cuda,
                   cublasLtMatmulDescSetAttribute(set->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                  sizeof(transposed)),
                   "product") &&
           lt_good(cuda, cublasLtMatrixLayoutCreate(&set->w, type, k, n, k), "weights") &&
           lt_good(cuda, cublasLtMatrixLayoutCreate(&set->x, type, k, m, x_stride), "inputs") &&
           lt_good(cuda,
                   cublasLtMatrixLayoutCreate(&set->y, halves ? type : CUDA_R_32F, n, m, y_stride),
                   "outputs");
}

static void operands_close(struct operand_set *set)
{
    if (set->y != NULL)
        cublasLtMatrixLayoutDestroy(set->y);
    if (set->x != NULL)
        cublasLtMatrixLayoutDestroy(set->x);
    if (set->w != NULL)
        cublasLtMatrixLayoutDestroy(set->w);
    if (set->op != NULL)
        cublasLtMatmulDescDestroy(set->op);
}

static bool plan_make(struct cuda_backend *cuda, const struct operand_set *set,
                      struct gemm_plan *plan)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t bytes = WORKSPACE_BYTES;
    int count = 0;
    bool good =
        lt_good(cuda, cublasLtMatmulPreferenceCreate(&preference), "preference") &&
        lt_good(cuda,
                cublasLtMatmulPreferenceSetAttribute(
                    preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)),
                "preference") &&
        lt_good(cuda,
                cublasLtMatmulAlgoGetHeuristic(cuda->lt, set->op, set->w, set->x, set->y, set->y,
                                               preference, 1, &result, &count),
                "algorithm of a product");
    if (good && count == 0)
        good = lt_good(cuda, CUBLAS_STATUS_NOT_SUPPORTED, "algorithm of a product");
    if (preference != NULL)
        cublasLtMatmulPreferenceDestroy(preference);
    if (good)
        plan->algo = result.algo;
    return good;
}

static void gemm_run(struct cuda_backend *cuda, const void *w, uint32_t n, uint32_t k,
                     const struct backend_buffer *x, uint32_t m, struct backend_buffer *y,
                     bool accumulate)
{
    struct operand_set set;
    float one = 1, beta = accumulate ? 1 : 0;
    uint32_t kind = (accumulate ? 1u : 0u) | (y->halves ? 2u : 0u) | (x->stride << 2);
    uint32_t slot = (n * 2654435761u ^ k * 40503u ^ m * 69069u ^ kind * 7919u) % GEMM_PLANS;
    struct gemm_plan *plan = &cuda->plans[slot];
    bool good = operands_open(cuda, n, k, m, x->stride, y->stride, y->halves, &set);
    if (good && (!plan->known || plan->n != n || plan->k != k || plan->m != m ||
                 plan->kind != kind)) {
        good = plan_make(cuda, &set, plan);
        plan->known = good;
        plan->n = n;
        plan->k = k;
        plan->m = m;
        plan->kind = kind;
    }
    if (good)
        lt_good(cuda,
                cublasLtMatmul(cuda->lt, set.op, &one, w, set.w, x->data, set.x, &beta, y->data,
                               set.y, y->data, set.y, &plan->algo, cuda->workspace,
                               WORKSPACE_BYTES, cuda->stream),
                "product of many rows");
    operands_close(&set);
}

/* Weights that lie one behind the other, into columns of one buffer: one product. */
bool product_joint(const struct product *product)
{
    const struct backend_tensor *const *w = product->weights;
    for (uint32_t i = 1; i < product->count; i++)
        if ((const char *)w[i]->data !=
                (const char *)w[i - 1]->data + (size_t)w[i - 1]->rows * w[i - 1]->columns * 2 ||
            product->ys[i]->data != product->ys[i - 1]->data + w[i - 1]->rows * 2 ||
            product->ys[i]->stride != product->ys[0]->stride)
            return false;
    return product->count > 1 && product->ys[0]->halves;
}

void gemm_product(struct cuda_backend *cuda, const struct product *product)
{
    uint32_t k = product->weights[0]->columns;
    bool quantised = product->weights[0]->quantised;
    if (!quantised && product_joint(product)) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < product->count; i++)
            n += product->weights[i]->rows;
        gemm_run(cuda, product->weights[0]->data, n, k, product->x, product->rows, product->ys[0],
                 product->accumulate);
    } else {
        for (uint32_t i = 0; i < product->count; i++) {
            const struct backend_tensor *w = product->weights[i];
            const void *data = w->data;
            if (w->quantised) {
                tensor_unpack(cuda, w, cuda->scratch);
                data = cuda->scratch;
            }
            gemm_run(cuda, data, w->rows, k, product->x, product->rows, product->ys[i],
                     product->accumulate);
        }
    }
    for (uint32_t i = 0; i < product->count; i++)
        if (product->biases[i] != NULL)
            rows_bias(cuda, product->biases[i], product->ys[i]);
}
