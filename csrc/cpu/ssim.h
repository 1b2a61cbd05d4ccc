#pragma once
#include "planes.h"

namespace veilkern {

// The window (odd number of taps that sum to 1, symmetric), the borders and the constants of the formula.
struct Window {
  const double* taps;
  std::int64_t size;
  bool same;          // zeros around, else only where the window lies inside
  double data_range;  // C1 = (0.01 range)^2, C2 = (0.03 range)^2
};

// One plane of each of the two.
template <class T>
struct Pair {
  const T *x, *y;
  std::int64_t x_stride, y_stride, height, width;
  T middle, c1, c2;  // of the data range
};

// score[i]: mean SSIM of pair i; where a gradient's data is not null also dscore_i / dx_i or dy_i, times scale[i] if
// there is a scale.
template <class T>
void ssim(Planes<const T> x, Planes<const T> y, Planes<T> gradient_x, Planes<T> gradient_y, const T* scale, T* score,
          std::int64_t count, std::int64_t channels, std::int64_t height, std::int64_t width, Window window,
          int threads);

}  // namespace veilkern
