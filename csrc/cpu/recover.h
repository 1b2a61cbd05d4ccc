#pragma once
#include "bank.h"
#include "simd.h"

namespace veilkern {

// x = clamp(floor((2 t + a) / (2 a)), 0, 255) with t = 255 x' - (255 - a) v; photo i takes veil rows[i].
void recover_u8(Photos<const std::uint8_t> hidden, const Veils& veils, const std::int64_t* rows,
                Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

// The same from the lossless form, t = p - (255 - a) v.
void recover_u16(Photos<const std::uint16_t> hidden, const Veils& veils, const std::int64_t* rows,
                 Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

// A Gaussian filter in integers: weights[i] (in 4096ths) at distance i <= radius, height x width planes.
struct Gaussian {
  const std::uint32_t* weights;
  std::int64_t radius, channels, height, width;
};

// recover, then the filter, plane by plane: x = (sum_ij w_i w_j x_ij + 2^23) div 2^24, borders reflected.
void recover_gaussian_u8(Photos<const std::uint8_t> hidden, const Veils& veils, const std::int64_t* rows,
                         Photos<std::uint8_t> out, std::int64_t count, int a, const Gaussian& filter, int threads);
void recover_gaussian_u16(Photos<const std::uint16_t> hidden, const Veils& veils,
                          const std::int64_t* rows, Photos<std::uint8_t> out, std::int64_t count, int a,
                          const Gaussian& filter, int threads);

}  // namespace veilkern
