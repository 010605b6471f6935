#pragma once

namespace jboat {

typedef long long int64; // what sizes and places are counted in, as in Jittor

} // namespace jboat
