#pragma once
#include "bank.h"
#include "simd.h"

namespace veilkern {

enum class Number { f32, f64, bf16, f16 };

// Per channel, in the order of the output: where it comes from, and x' = of_image x + of_veil v + constant.
struct Channels {
  int source[3];
  double of_image[3], of_veil[3], constant[3];
};

// Three channels of pixels, `step` values apart.
template <class T>
struct ThreeChannels {
  const T* data;
  std::int64_t step;
};

// images u8, planes of H W values, and veils T, photo i taking veil rows[i] -> out [N, H, W, 3] of the kind `number`.
template <class T>
void blend_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows, void* out,
                     Number number, std::int64_t count, const Channels& channels, int threads);

}  // namespace veilkern
