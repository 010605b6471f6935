#pragma once
#include "int64.h"

namespace jboat {

// A loop is shared among the processor's cores where it has work for more than one: below, waking the other cores and waiting
// for them costs more than they save. Work is counted in passes of the innermost loop, each of which reads, adds or multiplies
// one number.
//
// Behind each threshold stand the microseconds on one core and on two, as benchmarks/cpu_kernels.py measured them on a Xeon that
// other programs used as well, with both cores awake. In a step the other core may sleep, and waking it costs more: the
// thresholds of the quickest loops lie above the point where two cores are as fast as one.
enum Work : int64 {
    adding_rows_up = 1 << 14,     // 2^14 passes 2.7 and 3.3, 2^15 6.6 and 6.2: about as fast either way, in 32 columns
    channels_of_images = 1 << 14, // 2^14 passes 1.4 and 1.6, 2^15 2.8 and 2.6, 2^16 5.0 and 3.8
    rows_of_scores = 1 << 14,     // 2^14 passes 73 and 39; one core for 20,000 scores made a step of VFO 1 to 2% slower
    rectifying = 1 << 15,         // 2^14 passes 3.2 and 2.9, 2^15 6.3 and 4.5, 2^16 14.5 and 10.3
    linear_algebra = 1 << 16,     // 2^15 passes 7.2 and 4.8, 2^16 12.7 and 9.0, 2^17 31.8 and 17.1
    thin_products = 1 << 17,      // 2^16 passes 4.0 and 3.5, 2^17 7.5 and 5.4, 2^18 14.9 and 9.2
    transposing = 1 << 14,        // not measured alone; as what adds rows up
    adding_bias = 1 << 14,        // the same
};

inline bool worth_two_threads(int64 passes, Work enough) { return passes > enough; }

} // namespace jboat
