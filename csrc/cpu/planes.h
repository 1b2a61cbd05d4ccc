#pragma once
#include <cstdint>

namespace veilkern {

// Images of several planes; within a row values lie side by side, the rest as the strides (in values) say.
template <class T>
struct Planes {
  T* data;
  std::int64_t image, channel, row;
  T* plane(std::int64_t i, std::int64_t c) const { return data ? data + i * image + c * channel : nullptr; }
};

}  // namespace veilkern
