// Rows of the tables of cpu_kernels.py, which builds this, with a threads.h that shares every loop, and with rectify.cc once more as
// it would be if it did not keep NaN.

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "cross_entropy.h"
#include "linear_algebra.h"
#include "rectify.h"
#include "sums.h"
#include "thin_product.h"

namespace without_nan {

void rectify(const float* x, jboat::int64 n, float* result);
void rectify_backwards(const float* y, const float* const* terms, jboat::int64 number_of_terms, jboat::int64 n, float* result);

} // namespace without_nan

using jboat::int64;
typedef std::function<void()> Call;

static double microseconds(const Call& call, int64 repeat) {
    const auto begun = std::chrono::steady_clock::now();
    for (int64 i = 0; i < repeat; i++) call();
    return 1e6 * std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() / repeat;
}

// The least time of each, measured in turn.
static std::vector<double> in_turn(const std::vector<Call>& calls, int64 repeat) {
    std::vector<double> least(calls.size(), 1e9);
    for (int round = 0; round < 60; round++)
        for (size_t i = 0; i < calls.size(); i++) least[i] = std::min(least[i], microseconds(calls[i], repeat));
    return least;
}

static void on_one_and_two_cores(const char* kernel, const std::function<Call(int64)>& of_passes) {
    printf("| %s |", kernel);
    for (int power = 12; power <= 18; power++) {
        const Call call = of_passes((int64)1 << power);
        auto on = [&](int threads) {
            return [&, threads] {
                omp_set_num_threads(threads);
                call();
            };
        };
        const std::vector<double> us = in_turn({on(1), on(2)}, std::max<int64>(4, ((int64)1 << 18) >> power));
        printf(" %.1f, %.1f |", us[0], us[1]);
        fflush(stdout);
    }
    printf("\n");
}

int main() {
    static std::vector<float> a(1 << 21), b(1 << 21), to(1 << 21), scratch(1 << 21);
    for (size_t i = 0; i < a.size(); i++) a[i] = (int)(i * 7919 % 201) - 100, b[i] = (int)(i * 104729 % 101) - 50;
    std::vector<int> labels(1 << 18, 3);
    const jboat::Labels t{labels.data(), nullptr};
    const float *x = a.data(), *y = b.data();
    float* out = to.data();

    printf("| microseconds on one core, on two |");
    for (int power = 12; power <= 18; power++) printf(" 2^%d passes |", power);
    printf("\n|%s\n", " --- | --- | --- | --- | --- | --- | --- | --- |");
    on_one_and_two_cores("adding_rows_up", [=](int64 n) { return [=] { jboat::add_rows_up(x, n / 32, 32, out); }; });
    on_one_and_two_cores("channels_of_images", [=](int64 n) {
        return [=] { jboat::add_channels_up(x, 4, 32, n / 128, out); };
    });
    on_one_and_two_cores("rows_of_scores", [=](int64 n) { return [=] { jboat::losses(x, t, n / 16, 16, out); }; });
    on_one_and_two_cores("rectifying", [=](int64 n) { return [=] { jboat::rectify_backwards(y, &x, 1, n, out); }; });
    on_one_and_two_cores("linear_algebra", [=](int64 n) { return [=] { jboat::combined(x, 2.f, y, 3.f, n, out); }; });
    on_one_and_two_cores("thin_products", [=](int64 n) {
        return [=] { jboat::inner_product_with_few(x, n / 640, y, 10, 64, out, 10, 1); };
    });

    printf("\n| ReLU | before | now | derivative before | now |\n| --- | --- | --- | --- | --- |\n");
    omp_set_num_threads(1);
    for (int64 n : {1 << 12, 1 << 16, 1 << 20}) {
        const std::vector<double> us = in_turn(
            {
                [=] { without_nan::rectify(x, n, out); },
                [=] { jboat::rectify(x, n, out); },
                [=] { without_nan::rectify_backwards(y, &x, 1, n, out); },
                [=] { jboat::rectify_backwards(y, &x, 1, n, out); },
            },
            std::max<int64>(4, (1 << 20) / n)
        );
        printf("| %lld numbers | %.1f | %.1f | %.1f | %.1f |\n", n, us[0], us[1], us[2], us[3]);
    }
}
