// Prints how many billions of multiplications and additions all threads together do in a second, with data in registers.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#ifdef __AVX512F__
static const int lanes = 16;
#else
static const int lanes = 8;
#endif
static const int chains = 12; // enough of them that none waits for its last result
static const long steps = 20000000;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));

int main() {
    double most = 0;
    float kept = 0;
    for (int turn = 0; turn < 7; turn++) {
        auto begun = std::chrono::steady_clock::now();
        #pragma omp parallel reduction(+ : kept)
        {
            Vector sums[chains] = {}, factor = {}, added = {};
            for (int i = 0; i < lanes; i++) factor[i] = 0.5f, added[i] = 1e-3f;
            asm volatile("" : "+v"(factor), "+v"(added));
            for (long step = 0; step < steps; step++) {
                #pragma GCC unroll 12
                for (int i = 0; i < chains; i++) sums[i] = sums[i] * factor + added;
            }
            for (int i = 0; i < chains; i++) kept += sums[i][0];
        }
        double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        most = std::max(most, 2e-9 * omp_get_max_threads() * lanes * chains * steps / seconds);
    }
    std::printf("%.0f %d %g\n", most, omp_get_max_threads(), kept);
}
