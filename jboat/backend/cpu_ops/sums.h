#pragma once
#include "int64.h"

namespace jboat {

// result[j] = sum over i of from[i, j]
void add_rows_up(const float* from, int64 rows, int64 columns, float* result);

// result[c] = sum over i and j of from[i, c, j]
void add_channels_up(const float* from, int64 images, int64 channels, int64 places, float* result);

// result[i, c, j] = from[c]
void spread_channels(const float* from, int64 images, int64 channels, int64 places, float* result);

} // namespace jboat
