/*
 * CUDA's runtime without a GPU: memory is the host's and starts as zeros, copies are copies, and a launch is counted
 * and launches nothing. Whatever a kernel should have written keeps its old value.
 *
 * CUDA_STUB_LOG=FILE gets a report at the end of the process, one line each: "launched COUNT KERNEL", "called COUNT
 * FUNCTION", and at once "bad launch: ..." for a grid or a block that a device would have refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_runtime_api.h"
#include "stub.h"
#undef cudaGetDeviceProperties

enum { KERNELS = 1 << 16, FUNCTIONS = 1 << 12, NESTED = 64 };
enum { THREADS = 1024, THREADS_Z = 64, BLOCKS_YZ = 65535, SHARED = 49152, SHARED_AT_MOST = 232448, ALIGNMENT = 512 };
static const size_t MEMORY = (size_t)80 << 30;

/* the report */

static struct {
    const void *function;
    const char *name;
    long count;
} kernels[KERNELS];
static int kernels_known;

static struct {
    const char *name;
    long count;
} functions[FUNCTIONS];
static int functions_known;

static FILE *log_file(void) {
    const char *path = getenv("CUDA_STUB_LOG");
    return path && *path ? fopen(path, "a") : NULL;
}

static void report(void) {
    FILE *log = log_file();
    if (!log) return;
    for (int i = 0; i < kernels_known; i++)
        if (kernels[i].count) fprintf(log, "launched %ld %s\n", kernels[i].count, kernels[i].name);
    for (int i = 0; i < functions_known; i++) fprintf(log, "called %ld %s\n", functions[i].count, functions[i].name);
    fclose(log);
}

__attribute__((constructor)) static void report_at_the_end(void) { atexit(report); }

EXPORT void stub_note(const char *name) {
    for (int i = 0; i < functions_known; i++)
        if (functions[i].name == name) {
            functions[i].count++;
            return;
        }
    if (functions_known < FUNCTIONS) {
        functions[functions_known].name = name;
        functions[functions_known++].count = 1;
    }
}

/* memory */

static void *zeros(size_t size) {
    void *place = NULL;
    size = size ? size : ALIGNMENT;
    if (posix_memalign(&place, ALIGNMENT, size)) return NULL;
    return memset(place, 0, size);
}

static cudaError_t give(void **place, size_t size, const char *caller) {
    stub_note(caller);
    *place = zeros(size);
    return *place ? cudaSuccess : cudaErrorMemoryAllocation;
}

EXPORT cudaError_t cudaMalloc(void **p, size_t size) { return give(p, size, "cudaMalloc"); }
EXPORT cudaError_t cudaMallocAsync(void **p, size_t size, cudaStream_t s) { return give(p, size, "cudaMallocAsync"); }
EXPORT cudaError_t cudaMallocManaged(void **p, size_t size, unsigned f) { return give(p, size, "cudaMallocManaged"); }
EXPORT cudaError_t cudaMallocHost(void **p, size_t size) { return give(p, size, "cudaMallocHost"); }
EXPORT cudaError_t cudaHostAlloc(void **p, size_t size, unsigned f) { return give(p, size, "cudaHostAlloc"); }
EXPORT cudaError_t cudaGetSymbolAddress(void **p, const void *symbol) { return give(p, 1 << 16, "symbol's address"); }

static cudaError_t take(void *place, const char *caller) {
    stub_note(caller);
    free(place);
    return cudaSuccess;
}

EXPORT cudaError_t cudaFree(void *p) { return take(p, "cudaFree"); }
EXPORT cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { return take(p, "cudaFreeAsync"); }
EXPORT cudaError_t cudaFreeHost(void *p) { return take(p, "cudaFreeHost"); }

EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    stub_note("cudaMemcpy");
    memmove(to, from, size);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind k, cudaStream_t s) {
    stub_note("cudaMemcpyAsync");
    memmove(to, from, size);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemset(void *place, int value, size_t size) {
    stub_note("cudaMemset");
    memset(place, value, size);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemsetAsync(void *place, int value, size_t size, cudaStream_t s) {
    stub_note("cudaMemsetAsync");
    memset(place, value, size);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = MEMORY;
    return cudaSuccess;
}

EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *p) {
    memset(attributes, 0, sizeof *attributes);
    return cudaSuccess;
}

/* the device */

static cudaError_t give_int(int *place, int value) {
    *place = value;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDeviceCount(int *count) { return give_int(count, 1); }
EXPORT cudaError_t cudaGetDevice(int *device) { return give_int(device, 0); }
EXPORT cudaError_t cudaSetDevice(int device) { return cudaSuccess; }
EXPORT cudaError_t cudaDriverGetVersion(int *version) { return give_int(version, STUB_VERSION); }
EXPORT cudaError_t cudaRuntimeGetVersion(int *version) { return give_int(version, STUB_VERSION); }

static cudaError_t describe(struct cudaDeviceProp *device) {
    memset(device, 0, sizeof *device);
    strcpy(device->name, "stub");
    device->major = 9;
    device->multiProcessorCount = 132;
    device->warpSize = 32;
    device->totalGlobalMem = MEMORY;
    device->sharedMemPerBlock = SHARED;
    device->regsPerBlock = 65536;
    device->maxThreadsPerBlock = device->maxThreadsDim[0] = device->maxThreadsDim[1] = THREADS;
    device->maxThreadsDim[2] = THREADS_Z;
    device->maxGridSize[0] = 2147483647;
    device->maxGridSize[1] = device->maxGridSize[2] = BLOCKS_YZ;
    device->maxThreadsPerMultiProcessor = 2048;
    device->sharedMemPerMultiprocessor = 233472;
    device->managedMemory = device->concurrentManagedAccess = device->unifiedAddressing = 1;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *device, int d) { return describe(device); }
EXPORT cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *device, int d) { return describe(device); }

EXPORT cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: return give_int(value, THREADS);
        case cudaDevAttrMaxBlockDimZ: return give_int(value, THREADS_Z);
        case cudaDevAttrMaxGridDimX: return give_int(value, 2147483647);
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: return give_int(value, BLOCKS_YZ);
        case cudaDevAttrMaxSharedMemoryPerBlock: return give_int(value, SHARED);
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return give_int(value, SHARED_AT_MOST);
        case cudaDevAttrWarpSize: return give_int(value, 32);
        case cudaDevAttrMultiProcessorCount: return give_int(value, 132);
        case cudaDevAttrMaxThreadsPerMultiProcessor: return give_int(value, 2048);
        case cudaDevAttrComputeCapabilityMajor: return give_int(value, 9);
        case cudaDevAttrComputeCapabilityMinor: return give_int(value, 0);
        default: return give_int(value, 1);
    }
}

EXPORT const char *cudaGetErrorString(cudaError_t error) { return error ? "error of the stub library" : "no error"; }
EXPORT const char *cudaGetErrorName(cudaError_t error) { return error ? "cudaErrorStub" : "cudaSuccess"; }

/* streams and events */

EXPORT cudaError_t cudaStreamCreate(cudaStream_t *s) { return give((void **)s, 64, "cudaStreamCreate"); }
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return cudaStreamCreate(s); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { return cudaStreamCreate(s); }
EXPORT cudaError_t cudaEventCreate(cudaEvent_t *e) { return give((void **)e, 64, "cudaEventCreate"); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { return cudaEventCreate(e); }

EXPORT cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = 1;
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *data) {
    stub_note("cudaLaunchHostFunc");
    function(data);
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t function, void *data, unsigned flags) {
    stub_note("cudaStreamAddCallback");
    function(s, cudaSuccess, data);
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

/* kernels */

EXPORT cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->maxThreadsPerBlock = THREADS;
    attributes->numRegs = 32;
    attributes->maxDynamicSharedSizeBytes = SHARED;
    return cudaSuccess;
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *f, int block, size_t shared) {
    return give_int(count, 2);
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *f, int block,
                                                                          size_t shared, unsigned flags) {
    return give_int(count, 2);
}

EXPORT void **__cudaRegisterFatBinary(void *binary) { return zeros(64); }
EXPORT void __cudaRegisterFatBinaryEnd(void **binary) {}
EXPORT void __cudaUnregisterFatBinary(void **binary) {}
EXPORT void __cudaRegisterVar(void **b, char *host, char *device, const char *name, int e, size_t s, int c, int g) {}
EXPORT char __cudaInitModule(void **binary) { return 1; }

EXPORT void __cudaRegisterFunction(void **binary, const char *function, char *device, const char *name, int threads,
                                   void *tid, void *bid, void *block, void *grid, int *size) {
    if (kernels_known < KERNELS) {
        kernels[kernels_known].function = function;
        kernels[kernels_known++].name = strdup(name);
    }
}

/* f<<<grid, block, shared, stream>>> is a push, and a pop in the function that then calls cudaLaunchKernel */
static struct {
    dim3 grid, block;
    size_t shared;
    struct CUstream_st *stream;
} pushed[NESTED];
static int pushed_count;

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    if (pushed_count == NESTED) return 1;
    pushed[pushed_count].grid = grid;
    pushed[pushed_count].block = block;
    pushed[pushed_count].shared = shared;
    pushed[pushed_count++].stream = stream;
    return 0;
}

EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (!pushed_count) return cudaErrorMissingConfiguration;
    pushed_count--;
    *grid = pushed[pushed_count].grid;
    *block = pushed[pushed_count].block;
    *shared = pushed[pushed_count].shared;
    *(struct CUstream_st **)stream = pushed[pushed_count].stream;
    return cudaSuccess;
}

static int would_be_refused(dim3 grid, dim3 block, size_t shared) {
    size_t threads = (size_t)block.x * block.y * block.z;
    return !threads || threads > THREADS || block.z > THREADS_Z || !grid.x || grid.x > 2147483647u || !grid.y ||
           grid.y > BLOCKS_YZ || !grid.z || grid.z > BLOCKS_YZ || shared > SHARED_AT_MOST;
}

static cudaError_t launch(const void *function, dim3 grid, dim3 block, size_t shared) {
    int i = kernels_known - 1;
    while (i >= 0 && kernels[i].function != function) i--;
    const char *name = i >= 0 ? kernels[i].name : "a kernel that was never registered";
    if (i >= 0) kernels[i].count++;
    if (i < 0 || would_be_refused(grid, block, shared)) {
        FILE *log = log_file();
        if (log) {
            fprintf(log, "bad launch: grid %u %u %u, block %u %u %u, %zu bytes shared, %s\n", grid.x, grid.y, grid.z,
                    block.x, block.y, block.z, shared, name);
            fclose(log);
        }
    }
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s) {
    return launch(f, grid, block, shared);
}

EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **arguments) {
    return launch(function, config->gridDim, config->blockDim, config->dynamicSmemBytes);
}

/* a kernel's handle is its function here */
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **args, size_t shared,
                                      cudaStream_t s) {
    return launch((const void *)f, grid, block, shared);
}
