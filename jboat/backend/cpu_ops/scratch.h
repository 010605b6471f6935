#pragma once
#include <cstddef>

namespace jboat {

// Memory for the time of a call. Where it comes from is up to the program: scratch.cc asks Jittor, a program that checks the
// kernels takes exactly as much as they ask for.
class Scratch {
    const size_t bytes;
    size_t owners_number; // by which the owner of the memory knows it

public:
    void* const memory;

    explicit Scratch(size_t bytes);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    float* numbers() const { return (float*)memory; }
};

} // namespace jboat
