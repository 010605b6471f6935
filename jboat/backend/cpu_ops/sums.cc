#include "sums.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "threads.h"

namespace jboat {

static const int64 rows_at_once = 64; // whose sum single precision holds well

void add_rows_up(const float* from, int64 rows, int64 columns, float* result) {
    #pragma omp parallel if (worth_two_threads(rows * columns, adding_rows_up))
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
        std::copy(total.begin(), total.end(), result + begin);
    }
}

void add_channels_up(const float* from, int64 images, int64 channels, int64 places, float* result) {
    #pragma omp parallel for if (worth_two_threads(images * channels * places, channels_of_images))
    for (int64 c = 0; c < channels; c++) {
        double total = 0;
        for (int64 i = 0; i < images; i++) {
            const float* image = from + (i * channels + c) * places;
            float sum = 0;
            for (int64 j = 0; j < places; j++) sum += image[j];
            total += sum;
        }
        result[c] = total;
    }
}

void spread_channels(const float* from, int64 images, int64 channels, int64 places, float* result) {
    #pragma omp parallel for if (worth_two_threads(images * channels * places, channels_of_images))
    for (int64 i = 0; i < images; i++)
        for (int64 c = 0; c < channels; c++)
            for (int64 j = 0; j < places; j++) result[(i * channels + c) * places + j] = from[c];
}

} // namespace jboat
