// The kernels of jboat/backend/cpu_ops on arrays of random shapes, which are exactly as large as they have to be, against plain loops in
// double precision. Where all numbers are small integers the results have to be equal, else within what rounding explains.
//
//   sanitize SHAPES SEED    ends with 1 and names the first shape that is wrong

#include <sys/mman.h>
#include <unistd.h>

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "convolution.h"
#include "cross_entropy.h"
#include "linear_algebra.h"
#include "product.h"
#include "rectify.h"
#include "scratch.h"
#include "sums.h"

using jboat::int64;
typedef std::vector<double> Doubles;

static std::mt19937 generator;

static int64 below(int64 limit) { return generator() % limit; }

static bool happens(int one_in) { return below(one_in) == 0; }

static const uint32_t untouched = 0x7fc0dead; // a NaN that no kernel makes

namespace jboat {

Scratch::Scratch(size_t wanted) : bytes(wanted), memory(malloc(wanted)) {
    for (size_t i = 0; i + 4 <= bytes; i += 4) memcpy((char*)memory + i, &untouched, 4);
}

Scratch::~Scratch() { free(memory); }

} // namespace jboat

// An array that nothing may touch beside: on the heap, where the sanitizer watches what is compiled with it, or before or
// behind a page that must not be touched, which oneDNN, and loads of part of a vector, run into as well.
template <class T>
class Array {
    char* pages = nullptr;
    size_t mapped = 0;
    T* start;

public:
    const int64 count;

    explicit Array(int64 count) : count(count) {
        const size_t bytes = count * sizeof(T), page = sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
        if (happens(2)) {
            start = (T*)malloc(bytes);
        } else {
            const bool at_end = happens(2);
            mapped = whole + page;
            pages = (char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (pages == MAP_FAILED || mprotect(at_end ? pages + whole : pages, page, PROT_NONE)) abort();
            start = (T*)(at_end ? pages + whole - bytes : pages + page);
        }
    }
    ~Array() {
        if (pages) munmap(pages, mapped);
        else free(start);
    }
    Array(const Array&) = delete;

    operator T*() { return start; }
};

struct Numbers : Array<float> {
    // small integers, of which no sum here is rounded; or numbers of a normal distribution
    Numbers(int64 count, bool integers) : Array(count) {
        std::normal_distribution<float> normal;
        for (int64 i = 0; i < count; i++) (*this)[i] = integers ? (float)(below(9) - 4) : normal(generator);
    }
    explicit Numbers(int64 count) : Array(count) {
        for (int64 i = 0; i < count; i++) memcpy(*this + i, &untouched, 4);
    }
};

static std::string shape; // that is tried now
static int64 compared = 0, compared_numbers = 0;

static bool same(double got, double wanted, double tolerance) {
    if (std::isnan(wanted)) return std::isnan(got);
    return got == wanted || std::fabs(got - wanted) <= tolerance * std::max(1., std::fabs(wanted));
}

static void compare(const char* kernel, Numbers& got, const Doubles& wanted, double tolerance = 0) {
    compared++;
    compared_numbers += got.count;
    if (got.count != (int64)wanted.size()) abort();
    for (int64 i = 0; i < got.count; i++) {
        uint32_t bits;
        memcpy(&bits, got + i, 4);
        if (bits != untouched && same(got[i], wanted[i], tolerance)) continue;
        printf("%s, %s: number %lld is %.9g instead of %.9g\n", kernel, shape.c_str(), i, got[i], wanted[i]);
        exit(1);
    }
}

static void say(const char* names, std::initializer_list<int64> sizes) {
    shape = names;
    for (int64 size : sizes) shape += " " + std::to_string(size);
    shape += " on " + std::to_string(omp_get_max_threads()) + " threads";
}

// Zero, one, primes, sizes at the edges of vectors and blocks, and any others.
static int64 some_size(int64 most) {
    static const int64 edges[] = {0,  1,  2,  3,  5,  7,  8,  9,  11, 13, 15,  16,  17,
                                  23, 24, 25, 31, 32, 33, 61, 63, 64, 65, 127, 128, 129};
    const int64 size = happens(2) ? edges[below(sizeof(edges) / sizeof(*edges))] : below(most + 1);
    return std::min(size, most);
}

// One that is large, n x 1 or 1 x n, among sizes.
static void stretch(std::vector<int64*> sizes, int64 most) {
    if (!happens(8)) return;
    for (int64* size : sizes) *size = std::min<int64>(*size, 3);
    *sizes[below(sizes.size())] = below(most);
}

static void products() {
    int64 n = some_size(120), m = some_size(120), k = some_size(happens(2) ? 120 : 25);
    stretch({&n, &m, &k}, 40000);
    const bool trans_a = happens(2), trans_b = happens(2), with_bias = happens(2);
    say(trans_a ? (trans_b ? "a' b'" : "a' b") : trans_b ? "a b'" : "a b", {n, m, k});
    Numbers a(n * m, true), b(m * k, true), bias(k, true), result(n * k);
    Doubles wanted(n * k);
    for (int64 i = 0; i < n; i++)
        for (int64 j = 0; j < k; j++) {
            double sum = with_bias ? bias[j] : 0.;
            for (int64 l = 0; l < m; l++)
                sum += (double)a[trans_a ? l * n + i : i * m + l] * (double)b[trans_b ? j * m + l : l * k + j];
            wanted[i * k + j] = sum;
        }
    jboat::multiply(a, b, with_bias ? (float*)bias : nullptr, trans_a, trans_b, n, k, m, result);
    compare("multiply", result, wanted);
}

static void sums_of_rows_and_channels() {
    int64 n = some_size(300), k = some_size(200);
    stretch({&n, &k}, 60000);
    say("[n, k]", {n, k});
    Numbers from(n * k, true), by_column(k);
    Doubles wanted(k);
    for (int64 i = 0; i < n; i++)
        for (int64 j = 0; j < k; j++) wanted[j] += from[i * k + j];
    jboat::add_rows_up(from, n, k, by_column);
    compare("add_rows_up", by_column, wanted);

    int64 images = some_size(20), channels = some_size(40), places = some_size(300);
    stretch({&images, &channels, &places}, 40000);
    say("[images, channels, places]", {images, channels, places});
    Numbers x(images * channels * places, true), of_channels(channels), spread(images * channels * places);
    Doubles sums(channels), everywhere(images * channels * places);
    for (int64 i = 0; i < images; i++)
        for (int64 c = 0; c < channels; c++)
            for (int64 j = 0; j < places; j++) sums[c] += x[(i * channels + c) * places + j];
    jboat::add_channels_up(x, images, channels, places, of_channels);
    compare("add_channels_up", of_channels, sums);
    for (int64 i = 0; i < images; i++)
        for (int64 c = 0; c < channels; c++)
            for (int64 j = 0; j < places; j++) everywhere[(i * channels + c) * places + j] = of_channels[c];
    jboat::spread_channels(of_channels, images, channels, places, spread);
    compare("spread_channels", spread, everywhere);
}

static void rectified() {
    const int64 n = happens(10) ? below(80000) : some_size(3000), terms = 1 + below(4);
    say("numbers, terms", {n, terms});
    Numbers x(n, true), y(n), result(n);
    if (n && happens(3)) x[below(n)] = NAN;
    Doubles values(n), slopes(n);
    for (int64 i = 0; i < n; i++) values[i] = std::isnan(x[i]) ? NAN : std::max(x[i], 0.f);
    jboat::rectify(x, n, y);
    compare("rectify", y, values);
    std::vector<Numbers*> arrays;
    std::vector<const float*> places;
    for (int64 t = 0; t < terms; t++) {
        arrays.push_back(new Numbers(n, true));
        places.push_back(*arrays.back());
        for (int64 i = 0; i < n; i++) slopes[i] += std::isnan(x[i]) ? NAN : x[i] > 0 ? places[t][i] : 0.;
    }
    jboat::rectify_backwards(y, places.data(), terms, n, result);
    compare("rectify_backwards", result, slopes);
    for (Numbers* array : arrays) delete array;
}

static void linear_algebra() {
    const int64 n = happens(10) ? below(150000) : some_size(9000);
    say("numbers", {n});
    Numbers a(n, true), b(n, true), of_one(n), of_two(n), square(1);
    Doubles wanted_one(n), wanted_two(n), wanted_square{0.5};
    for (int64 i = 0; i < n; i++) {
        wanted_one[i] = -1.5 * a[i];
        wanted_two[i] = -1.5 * a[i] + 0.25 * b[i];
        wanted_square[0] += (double)a[i] * b[i];
    }
    jboat::scaled(a, -1.5f, n, of_one);
    compare("scaled", of_one, wanted_one);
    jboat::combined(a, -1.5f, b, 0.25f, n, of_two);
    compare("combined", of_two, wanted_two);
    square[0] = jboat::inner_product(a, b, n, 0.5);
    compare("inner_product", square, wanted_square);
}

// The loss of a row, and in p its softmax.
static double loss_of(const float* z, int64 k, int64 label, double* p) {
    double most = -INFINITY, sum = 0;
    for (int64 j = 0; j < k; j++) most = std::max<double>(most, z[j]);
    for (int64 j = 0; j < k; j++) sum += p[j] = std::exp(z[j] - most);
    for (int64 j = 0; j < k; j++) p[j] = label == -1 ? 0. : p[j] / sum;
    if (!k) return NAN;
    return label == -1 ? 0. : std::log(sum) + most - z[label];
}

template <class Integer>
static void cross_entropy() {
    int64 n = some_size(200), k = some_size(happens(2) ? 12 : 150);
    stretch({&n, &k}, 30000);
    say(sizeof(Integer) == 4 ? "[n, k], labels of 32 bits" : "[n, k], labels of 64 bits", {n, k});
    Array<Integer> labels(n);
    for (int64 i = 0; i < n; i++) labels[i] = happens(9) ? below(5) * 1000000007 - 2000000000 : below(k + 1);
    std::vector<int64> label(n); // or -1
    int64 counting = 0;
    for (int64 i = 0; i < n; i++) {
        label[i] = labels[i] >= 0 && labels[i] < k ? (int64)labels[i] : -1;
        counting += label[i] >= 0;
    }
    jboat::Labels t{};
    const void* const place = (const Integer*)labels;
    if (sizeof(Integer) == 4) t.narrow = (const int*)place;
    else t.wide = (const int64*)place;

    Numbers z(n * k, false), losses(n), p(n * k), all(n * k);
    Doubles wanted_losses(n), wanted_p(n * k), wanted_all(n * k);
    for (int64 i = 0; i < n; i++) {
        loss_of(z + i * k, k, 0, wanted_all.data() + i * k);
        wanted_losses[i] = loss_of(z + i * k, k, label[i], wanted_p.data() + i * k);
    }
    jboat::losses(z, t, n, k, losses);
    compare("losses", losses, wanted_losses, 2e-6);
    jboat::softmax(z, t, n, k, p);
    compare("softmax", p, wanted_p, 1e-6);
    jboat::softmax(z, jboat::Labels{}, n, k, all);
    compare("softmax of all rows", all, wanted_all, 1e-6);

    Numbers q(n * k, true), u(n * k, true), s(n, true), one(1, true);
    Numbers by_scores(n * k), by_losses(n * k), along(n), spread(n), scaled_rows(n * k), row_products(n), mean(1);
    Doubles wanted_by_scores(n * k), wanted_by_losses(n * k), wanted_along(n), wanted_spread(n), wanted_scaled(n * k);
    Doubles wanted_products(n), wanted_mean{0.};
    double largest = 1;
    for (int64 i = 0; i < n; i++) {
        for (int64 j = 0; j < k; j++) wanted_products[i] += (double)q[i * k + j] * u[i * k + j];
        largest = std::max(largest, std::fabs(wanted_products[i]));
        for (int64 j = 0; j < k; j++) {
            const double e = label[i] == j;
            wanted_by_scores[i * k + j] = u[i * k + j] * (q[i * k + j] - wanted_products[i]);
            wanted_by_losses[i * k + j] = s[i] * (u[i * k + j] - e);
            wanted_along[i] += q[i * k + j] * (u[i * k + j] - e);
            wanted_scaled[i * k + j] = s[i] * q[i * k + j];
        }
        wanted_spread[i] = label[i] == -1 ? (counting ? 0. : 0. * one[0] / 0.) : one[0] / (double)counting;
        wanted_mean[0] += label[i] == -1 ? 0. : s[i];
    }
    wanted_mean[0] /= (double)counting;
    jboat::by_scores(u, q, n, k, by_scores);
    compare("by_scores", by_scores, wanted_by_scores);
    jboat::by_losses(u, t, s, n, k, by_losses);
    compare("by_losses", by_losses, wanted_by_losses);
    jboat::along(q, u, t, n, k, along);
    compare("along", along, wanted_along);
    jboat::scaled_rows(q, s, n, k, scaled_rows);
    compare("scaled_rows", scaled_rows, wanted_scaled);
    jboat::row_products(q, u, n, k, row_products);
    compare("row_products", row_products, wanted_products);
    jboat::spread(one[0], t, n, k, spread);
    compare("spread", spread, wanted_spread, 1e-6);
    jboat::mean(s, t, n, k, mean);
    compare("mean", mean, wanted_mean, 1e-6);
}

static void convolutions() {
    jboat::Window window;
    const int64 n = some_size(4), i = some_size(happens(3) ? 20 : 6), o = some_size(happens(3) ? 20 : 6);
    for (int axis = 0; axis < 2; axis++) {
        do {
            window.image[axis] = some_size(12);
            window.kernel[axis] = below(happens(8) ? 6 : 4);
            window.stride[axis] = 1 + below(3);
            window.padding[axis] = below(3);
            window.dilation[axis] = 1 + below(2);
        } while (window.reach(axis) > window.padded(axis));
    }
    const int64 h = window.image[0], w = window.image[1], a = window.kernel[0], b = window.kernel[1];
    const int64 rows = window.places(0), columns = window.places(1);
    say("n, i, o, h, w, a, b, strides, padding, dilation",
        {n, i, o, h, w, a, b, window.stride[0], window.stride[1], window.padding[0], window.padding[1], window.dilation[0],
         window.dilation[1]});
    const bool with_bias = happens(2);
    Numbers x(n * i * h * w, true), k(o * i * a * b, true), bias(o, true), dy(n * o * rows * columns, true);
    Numbers y(n * o * rows * columns), by_x(n * i * h * w), by_k(o * i * a * b);
    Doubles wanted(y.count), wanted_by_x(by_x.count), wanted_by_k(by_k.count);
    for (int64 image = 0; image < n; image++)
        for (int64 out = 0; out < o; out++)
            for (int64 r = 0; r < rows; r++)
                for (int64 c = 0; c < columns; c++) {
                    const int64 place = ((image * o + out) * rows + r) * columns + c;
                    wanted[place] = with_bias ? bias[out] : 0.;
                    for (int64 in = 0; in < i; in++)
                        for (int64 p = 0; p < a; p++)
                            for (int64 q = 0; q < b; q++) {
                                const int64 row = r * window.stride[0] + p * window.dilation[0] - window.padding[0];
                                const int64 column = c * window.stride[1] + q * window.dilation[1] - window.padding[1];
                                if (row < 0 || row >= h || column < 0 || column >= w) continue;
                                const int64 of_x = ((image * i + in) * h + row) * w + column;
                                const int64 of_k = ((out * i + in) * a + p) * b + q;
                                wanted[place] += (double)x[of_x] * k[of_k];
                                wanted_by_x[of_x] += (double)dy[place] * k[of_k];
                                wanted_by_k[of_k] += (double)dy[place] * x[of_x];
                            }
                }
    // Winograd's algorithm rounds
    const double tolerance = 1e-4;
    float* const added = with_bias ? (float*)bias : nullptr;
    jboat::convolve(jboat::ConvolutionPart::convolved, window, n, i, o, x, k, added, y);
    compare("convolved", y, wanted, tolerance);
    jboat::convolve(jboat::ConvolutionPart::by_x, window, n, i, o, k, dy, nullptr, by_x);
    compare("by_x", by_x, wanted_by_x, tolerance);
    jboat::convolve(jboat::ConvolutionPart::by_k, window, n, i, o, x, dy, nullptr, by_k);
    compare("by_k", by_k, wanted_by_k, tolerance);
}

int main(int, char** arguments) {
    const int64 shapes = atoll(arguments[1]);
    generator.seed(atoll(arguments[2]));
    void (*const all[])() = {
        products, sums_of_rows_and_channels, rectified, linear_algebra, cross_entropy<int>, cross_entropy<int64>, convolutions,
    };
    const int64 kinds = sizeof(all) / sizeof(*all);
    for (int64 i = 0; i < shapes; i++) {
        omp_set_num_threads(1 + below(happens(4) ? 7 : 2));
        all[i % kinds < 3 && happens(2) ? 0 : i % kinds](); // products have the most cases
    }
    printf("%lld shapes, %lld results of %lld numbers\n", shapes, compared, compared_numbers);
}
