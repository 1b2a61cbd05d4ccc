#pragma once
#include "simd.h"

namespace veilkern {

// What is added to each value, and what values not above zero are multiplied with. add: none, one a channel, or one a
// value of a photo (`map`), in the order of the photo's values; slope: none (0), or one a channel. top: infinity for none.
template <class T>
struct Gate {
  const T* add;
  bool map;
  const T* slope;
  std::int64_t channels;
  T top;
};

// x [count, pixels, channels] in place; bits [count, (pixels channels + 7) / 8], written, or where `back` read: x is then
// a slope that is multiplied.
template <class T>
void rectify(T* x, std::uint8_t* bits, std::int64_t count, std::int64_t pixels, const Gate<T>& gate, bool back, int threads);

}  // namespace veilkern
