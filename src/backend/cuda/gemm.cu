/* backend/cuda/gemm.cu - y = W x for many rows, by cuBLASLt on the tensor cores.
 *
 * The algorithm of a shape is asked for once and kept. Its order of sums may depend on the number
 * of rows: with --deterministic stream.cu makes these products too.
 *
 * The library has another kernel for nearly every number of rows up to a thousand, and takes 2 to 4
 * ms to load one when it is launched first, which a prompt of a new length waits for, four times.
 * So before the first product of weights of a shape is made (by the steps that run when a worker
 * starts), those of some numbers of rows are loaded: what else comes in between still waits. */
#include <string.h>

#include "backend/cuda/state.cuh"

#define WORKSPACE_BYTES ((size_t)64 << 20)
#define LOADING_BYTES ((size_t)16 << 20) /* of it, for what is computed to load a kernel only */
#define LOADING_ROWS 16u
#define PLAN_LOOKS 8u /* places where a plan may be */

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

/* Of these rows the first proposal that does not split the columns is as fast as the first of all,
 * or 3 to 8 us faster where that one splits them (an H100); with 48, 96 and 192 it is slower. */
static bool columns_stay(uint32_t m)
{
    return m == 64 || m == 80 || m == 112 || m == 128;
}

static bool plan_propose(struct cuda_backend *cuda, const struct operand_set *set, bool split,
                         struct gemm_plan *plan, int *count)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t bytes = WORKSPACE_BYTES;
    uint32_t schemes = split ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE;
    bool good =
        lt_good(cuda, cublasLtMatmulPreferenceCreate(&preference), "preference") &&
        lt_good(cuda,
                cublasLtMatmulPreferenceSetAttribute(
                    preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)),
                "preference") &&
        lt_good(cuda,
                cublasLtMatmulPreferenceSetAttribute(
                    preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                    sizeof(schemes)),
                "preference");
    cublasStatus_t asked =
        good ? cublasLtMatmulAlgoGetHeuristic(cuda->lt, set->op, set->w, set->x, set->y, set->y,
                                              preference, 1, &result, count)
             : CUBLAS_STATUS_SUCCESS;
    if (asked != CUBLAS_STATUS_SUCCESS)
        *count = 0;
    if (preference != NULL)
        cublasLtMatmulPreferenceDestroy(preference);
    if (good && *count > 0)
        plan->algo = result.algo;
    return good;
}

static bool plan_make(struct cuda_backend *cuda, const struct operand_set *set, uint32_t m,
                      struct gemm_plan *plan)
{
    int count = 0;
    if (columns_stay(m) && !plan_propose(cuda, set, false, plan, &count))
        return false;
    if (count == 0 && !plan_propose(cuda, set, true, plan, &count))
        return false;
    return count > 0 || lt_good(cuda, CUBLAS_STATUS_NOT_SUPPORTED, "algorithm of a product");
}

struct gemm {
    const void *w, *x;
    void *y;
    uint32_t n, k, m, x_stride, y_stride, kind;
    bool halves, accumulate;
};

/* The next number of rows whose kernels are loaded beforehand. */
static uint32_t rows_after(uint32_t rows)
{
    return rows < 128 ? rows + 16 : rows < 256 ? rows + 32 : rows < 2048 ? rows + 64 : rows + 256;
}

/* The plan of so many rows, or the place for it. */
static struct gemm_plan *plan_find(struct cuda_backend *cuda, const struct gemm *gemm, uint32_t m)
{
    uint32_t mixed =
        gemm->n * 2654435761u ^ gemm->k * 2246822519u ^ m * 3266489917u ^ gemm->kind * 668265263u;
    uint32_t slot = (mixed ^ mixed >> 15) * 2654435769u >> 16;
    for (uint32_t i = 0;; i++) {
        struct gemm_plan *plan = &cuda->plans[(slot + i) % GEMM_PLANS];
        bool same =
            plan->n == gemm->n && plan->k == gemm->k && plan->m == m && plan->kind == gemm->kind;
        if (!plan->known || same || i == PLAN_LOOKS - 1) {
            plan->known = plan->known && same;
            return plan;
        }
    }
}

/* For a product of m rows. */
static bool plan_fill(struct cuda_backend *cuda, const struct gemm *gemm, uint32_t m,
                      struct gemm_plan *plan)
{
    struct operand_set set;
    plan->known = operands_open(cuda, gemm->n, gemm->k, m, gemm->x_stride, gemm->y_stride,
                                gemm->halves, &set) &&
                  plan_make(cuda, &set, m, plan);
    operands_close(&set);
    plan->n = gemm->n;
    plan->k = gemm->k;
    plan->m = m;
    plan->kind = gemm->kind;
    return plan->known;
}

static cublasStatus_t plan_run(struct cuda_backend *cuda, const struct gemm *gemm,
                               const struct gemm_plan *plan, size_t workspace_bytes)
{
    struct operand_set set;
    float one = 1, beta = gemm->accumulate ? 1 : 0;
    cublasStatus_t code = CUBLAS_STATUS_ALLOC_FAILED;
    if (operands_open(cuda, gemm->n, gemm->k, gemm->m, gemm->x_stride, gemm->y_stride, gemm->halves,
                      &set))
        code = cublasLtMatmul(cuda->lt, set.op, &one, gemm->w, set.w, gemm->x, set.x, &beta,
                              gemm->y, set.y, gemm->y, set.y, &plan->algo, cuda->workspace,
                              workspace_bytes, cuda->stream);
    operands_close(&set);
    return code;
}

/* Another product of this kind has the same algorithm, so the same kernel. */
static bool plan_is_loaded(const struct cuda_backend *cuda, const struct gemm_plan *plan)
{
    for (const struct gemm_plan *other = cuda->plans; other < cuda->plans + GEMM_PLANS; other++)
        if (other != plan && other->known && other->kind % 4 == plan->kind % 4 &&
            memcmp(&other->algo, &plan->algo, sizeof(plan->algo)) == 0)
            return true;
    return false;
}

static bool shape_is_met(const struct cuda_backend *cuda, const struct gemm *gemm)
{
    for (const struct gemm_plan *plan = cuda->plans; plan < cuda->plans + GEMM_PLANS; plan++)
        if (plan->known && plan->n == gemm->n && plan->k == gemm->k && plan->kind == gemm->kind)
            return true;
    return false;
}

/* Plans of these numbers of rows, and one small product by each kernel; its result is nobody's. A
 * kernel that refuses so few rows is loaded when it is wanted. */
static void plans_load(struct cuda_backend *cuda, const struct gemm *gemm, uint32_t rows_max)
{
    struct gemm small = *gemm;
    small.m = rows_max < LOADING_ROWS ? rows_max : LOADING_ROWS;
    small.y = (char *)cuda->workspace + WORKSPACE_BYTES - LOADING_BYTES;
    if ((size_t)small.m * small.y_stride * sizeof(float) > LOADING_BYTES)
        return;
    for (uint32_t m = 32; m <= rows_max && cuda->failed == OK; m = rows_after(m)) {
        struct gemm_plan *plan = plan_find(cuda, gemm, m);
        if (!plan->known && plan_fill(cuda, gemm, m, plan) && !plan_is_loaded(cuda, plan))
            (void)plan_run(cuda, &small, plan, WORKSPACE_BYTES - LOADING_BYTES);
    }
}

static void gemm_run(struct cuda_backend *cuda, const void *w, uint32_t n, uint32_t k,
                     const struct backend_buffer *x, uint32_t m, struct backend_buffer *y,
                     bool accumulate)
{
    uint32_t kind = (accumulate ? 1u : 0u) | (y->halves ? 2u : 0u) | (x->stride << 2);
    const struct gemm gemm = {w,         x->data,   y->data, n,         k,         m,
                              x->stride, y->stride, kind,    y->halves, accumulate};
    struct gemm_plan *plan = plan_find(cuda, &gemm, m);
    if (!plan->known && cuda->mode == STEP_EAGER && !x->outputs && !shape_is_met(cuda, &gemm)) {
        plans_load(cuda, &gemm, x->rows);
        plan = plan_find(cuda, &gemm, m);
    }
    if (plan->known || plan_fill(cuda, &gemm, m, plan))
        lt_good(cuda, plan_run(cuda, &gemm, plan, WORKSPACE_BYTES), "product of many rows");
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
