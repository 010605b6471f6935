#pragma once
#include <sys/sysinfo.h>

#include <algorithm>
#include <initializer_list>
#include <new>
#include <sstream>
#include <stdexcept>

#include "op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

// What an operation takes for granted where it computes is checked here, when it is made: later, what is wrong gives
// numbers without a meaning, or ends the process.

// More are a slip, such as a padding of 2 ** 31 - 1: the machine's memory does not hold them.
inline int64 most_numbers() {
    struct sysinfo machine;
    if (sysinfo(&machine)) return (int64)1 << 40;
    return (machine.totalram + machine.totalswap) * (int64)machine.mem_unit / (int64)sizeof(float);
}

static const int64 any = -1; // a size that is not checked

template <class... Words>
[[noreturn]] inline void refuse(const Words&... words) {
    std::ostringstream message;
    (void)std::initializer_list<int>{(message << words, 0)...};
    throw std::invalid_argument(message.str());
}

// What follows the condition is the message, of which nothing is computed unless it is needed.
#define REQUIRE(holds, ...)                \
    do {                                   \
        if (!(holds)) refuse(__VA_ARGS__); \
    } while (0)

template <class Sizes>
inline std::string in_words(Sizes sizes) {
    std::ostringstream words;
    const char* before = "[";
    for (int64 size : sizes) {
        words << before;
        if (size == any) words << "any";
        else words << size;
        before = ", ";
    }
    return (sizes.size() ? words.str() : "[") + "]";
}

// The messages say which input (what) of which operation is meant.
inline void check_float32(Var* v, const char* operation, const char* what) {
    REQUIRE(v->dtype() == ns_float32, operation, ": ", what, " must be float32, but is ", v->dtype().to_cstring());
}

inline void check_shape(Var* v, const char* operation, const char* what, std::initializer_list<int64> wanted) {
    bool fits = v->shape.size() == (int)wanted.size();
    int axis = 0;
    for (int64 size : wanted) {
        fits = fits && (size == any || v->shape[axis] == size);
        axis++;
    }
    REQUIRE(fits, operation, ": ", what, " must have the shape ", in_words(wanted), ", but has ", in_words(v->shape));
}

inline void check_array(Var* v, const char* operation, const char* what, std::initializer_list<int64> wanted) {
    check_float32(v, operation, what);
    check_shape(v, operation, what, wanted);
}

inline void check_same_shape(Var* a, Var* b, const char* operation) {
    REQUIRE(
        a->shape == b->shape, operation, ": inputs that belong together must have the same shape, but have ",
        in_words(a->shape), " and ", in_words(b->shape)
    );
}

// Whether an array may have these sizes.
inline void check_sizes(const char* operation, std::initializer_list<int64> sizes) {
    static const int64 most = most_numbers();
    int64 count = 1;
    for (int64 size : sizes) {
        REQUIRE(size >= 0, operation, ": sizes of arrays are not negative, but one is ", size);
        count = size && count > most / size ? most + 1 : count * std::max<int64>(size, 1);
        REQUIRE(count <= most, operation, ": an array of the shape ", in_words(sizes), " is too large for this machine");
    }
}

// Where the numbers of an array lie, or those of a result are written. Jittor does not look whether it got memory for them.
inline float* numbers_of(Var* v) {
    if (v->num && !v->mem_ptr) throw std::bad_alloc();
    return v->ptr<float>();
}

// The part of an operation that a name stands for.
template <class Part, size_t count>
inline Part part_named(const string& name, const char* operation, const char* const (&names)[count]) {
    for (size_t i = 0; i < count; i++)
        if (name == names[i]) return (Part)i;
    string all;
    for (const char* other : names) all += (all.size() ? ", " : "") + string(other);
    refuse(operation, ": there is no part \"", name, "\"; there are ", all);
}

// What reaches the derivative by an output, in the output's own type and shape. Where it met a Var of another type, such
// as float64, it comes in that one's. Nothing stays nothing.
inline VarPtr cotangent(Var* dout, Var* out) {
    static auto converted = get_op_info("unary").get_constructor<VarPtr, Var*, NanoString>();
    static auto reshape = get_op_info("reshape").get_constructor<VarPtr, Var*, NanoVector>();
    if (!dout) return nullptr;
    VarPtr found(dout);
    if (found->dtype() != out->dtype()) found = converted(found, out->dtype());
    if (found->shape != out->shape) found = reshape(found, out->shape);
    return found;
}

} // namespace jittor
