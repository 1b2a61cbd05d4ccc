#pragma once
#include "simd.h"

namespace veilkern {

enum class Number { f32, f64, bf16, f16 };

// Per channel, in the order of the output: where it comes from, and x' = of_image x + of_veil v + constant.
struct Channels {
  int source[3];
  double of_image[3], of_veil[3], constant[3];
};

// images u8 and veils T, planes of `plane` values, photo i taking veil rows[i] -> out [N, plane, 3] of the kind `number`.
template <class T>
void blend_normalize(Photos<const std::uint8_t> images, Photos<const T> veils, const std::int64_t* rows, void* out,
                     Number number, std::int64_t count, std::int64_t plane, const Channels& channels, int threads);

}  // namespace veilkern
