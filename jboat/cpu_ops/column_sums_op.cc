#include <omp.h>

#include <algorithm>
#include <vector>

#include "column_sums_op.h"
#include "ops/op_register.h"
#include "var.h"

namespace jittor {

static const int64 worth_two_threads = 1 << 14;
static const int64 rows_at_once = 64; // whose sum single precision holds well

ColumnSumsOp::ColumnSumsOp(Var* x) : x(x) {
    flags.set(NodeFlags::_cpu);
    flags.set(NodeFlags::_manual_set_vnbb);
    out = create_output(nullptr, x->dtype());
}

void ColumnSumsOp::infer_shape() {
    out->set_shape({x->shape[1]});
}

VarPtr ColumnSumsOp::grad(Var* out, Var* dout, Var* v, int v_index) {
    // Jittor's own, which it fuses with whatever reads it
    static auto broadcast = get_op_info("broadcast_to").get_constructor<VarPtr, Var*, NanoVector, NanoVector>();
    return broadcast(dout, x->shape, {0});
}

void ColumnSumsOp::run() {
    const int64 rows = x->shape[0], columns = x->shape[1];
    const float* from = x->ptr<float>();
    float* to = out->ptr<float>();
    #pragma omp parallel if (rows * columns > worth_two_threads)
    {
        const int64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64 begin = columns * thread / threads, count = columns * (thread + 1) / threads - begin;
        std::vector<double> total(count);
        std::vector<float> part(count);
        for (int64 start = 0; start < rows; start += rows_at_once) {
            std::fill(part.begin(), part.end(), 0.f);
            for (int64 i = start; i < std::min(rows, start + rows_at_once); i++)
                for (int64 j = 0; j < count; j++) part[j] += from[i * columns + begin + j];
            for (int64 j = 0; j < count; j++) total[j] += part[j];
        }
        std::copy(total.begin(), total.end(), to + begin);
    }
}

} // jittor
