#include "scratch.h"

#include <new>

#include "executor.h"

namespace jboat {

Scratch::Scratch(size_t wanted) : bytes(wanted ? wanted : 1), memory(jittor::exe.temp_allocator->alloc(bytes, owners_number)) {
    if (!memory) throw std::bad_alloc(); // Jittor does not look
}

Scratch::~Scratch() { jittor::exe.temp_allocator->free(memory, bytes, owners_number); }

} // namespace jboat
