#pragma once
#include "simd.h"

namespace veilkern {

// x = clamp(floor((2 t + a) / (2 a)), 0, 255) with t = 255 x' - (255 - a) v; photo i takes veil rows[i].
void recover_u8(Photos<const std::uint8_t> hidden, Photos<const std::uint8_t> veils, const std::int64_t* rows,
                Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

// The same from the lossless form, t = p - (255 - a) v.
void recover_u16(Photos<const std::uint16_t> hidden, Photos<const std::uint8_t> veils, const std::int64_t* rows,
                 Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

}  // namespace veilkern
