#pragma once
#include "bank.h"
#include "simd.h"

namespace veilkern {

// x' = (a x + (255 - a) v + 127) div 255 per value; photo i takes veil rows[i], read in the order of the photos.
void blend_u8(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows,
              Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

// p = a x + (255 - a) v, kept whole (0..65025).
void blend_u16(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows,
               Photos<std::uint16_t> out, std::int64_t count, std::int64_t pixels, int a, int threads);

}  // namespace veilkern
