#pragma once
#include "planes.h"

namespace veilkern {

// Boxes of `high` x `wide` pixels every `stride` pixels; `literal`: the second term as the paper prints it.
struct Boxes {
  std::int64_t high, wide, stride;
  bool literal;
};

// What is to be done with one plane; strides in values. gradient may be null; past: it is written past the caches.
template <class T>
struct Plane {
  const T* x;
  std::int64_t stride, height, width;
  T* gradient;
  std::int64_t gradient_stride, ahead;  // ahead: from here to the plane that comes next, which is fetched meanwhile
  double scale;
  bool loss, past;
};

// loss[i] of image i, unless loss is null; where gradient.data is not null also dloss_i / dimage_i, times scale[i] if
// there is a scale.
template <class T>
void block_variance(Planes<const T> images, Planes<T> gradient, const T* scale, T* loss, std::int64_t count,
                    std::int64_t channels, std::int64_t height, std::int64_t width, Boxes boxes, int threads);

}  // namespace veilkern
