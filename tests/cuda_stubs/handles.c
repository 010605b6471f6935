/* The functions of cuBLAS, cuDNN, cuRAND and cuSPARSE that give something back which Jittor goes on with. */
#include <stddef.h>
#include <string.h>

#include "stub.h"

enum { SIZE_OF_A_RESULT = 40 }; /* at most, of cudnnConvolution...AlgoPerf_t up to its workspace's size */

static long object[64];

#define GIVES_AN_OBJECT(function) \
    EXPORT int function(void **handle) { \
        *handle = object; \
        return 0; \
    }
GIVES_AN_OBJECT(cublasCreate_v2)
GIVES_AN_OBJECT(cudnnCreate)
GIVES_AN_OBJECT(cudnnCreateTensorDescriptor)
GIVES_AN_OBJECT(cudnnCreateFilterDescriptor)
GIVES_AN_OBJECT(cudnnCreateConvolutionDescriptor)
GIVES_AN_OBJECT(cusparseCreate)

EXPORT int curandCreateGenerator(void **generator, int kind) {
    *generator = object;
    return 0;
}

/* One algorithm is found, the first, which succeeds and needs no workspace. */
#define FINDS_AN_ALGORITHM(function) \
    EXPORT int function(void *handle, void *a, void *in, void *b, void *other, void *convolution, void *c, void *out, \
                        int wanted, int *found, void *results, void *workspace, size_t size) { \
        *found = 1; \
        memset(results, 0, SIZE_OF_A_RESULT); \
        return 0; \
    }
FINDS_AN_ALGORITHM(cudnnFindConvolutionForwardAlgorithmEx)
FINDS_AN_ALGORITHM(cudnnFindConvolutionBackwardDataAlgorithmEx)
FINDS_AN_ALGORITHM(cudnnFindConvolutionBackwardFilterAlgorithmEx)

#define NEEDS_NO_WORKSPACE(function) \
    EXPORT int function(void *handle, void *a, void *b, void *convolution, void *c, int algorithm, size_t *size) { \
        *size = 0; \
        return 0; \
    }
NEEDS_NO_WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize)
NEEDS_NO_WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
NEEDS_NO_WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)
