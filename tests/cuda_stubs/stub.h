/* What the stub libraries share. */
#pragma once
#define EXPORT __attribute__((visibility("default")))

/* Counts a call, for the report that CUDA_STUB_LOG asks for. The name must outlive the process. */
EXPORT void stub_note(const char *name);
