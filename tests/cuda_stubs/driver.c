/* A driver with one device of compute capability 9.0. STUB_VERSION is CUDA's, as in cuda.h. */
#include <string.h>

#include "stub.h"

enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

EXPORT int cuInit(unsigned flags) { return 0; }

EXPORT int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

EXPORT int cuDriverGetVersion(int *version) {
    *version = STUB_VERSION;
    return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == CAPABILITY_MAJOR ? 9 : attribute == CAPABILITY_MINOR ? 0 : 1;
    return 0;
}

EXPORT int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "stub", length);
    return 0;
}

EXPORT int cuGetErrorName(int error, const char **text) {
    *text = "stub";
    return 0;
}

EXPORT int cuGetErrorString(int error, const char **text) {
    *text = "stub";
    return 0;
}
