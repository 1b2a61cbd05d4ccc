// ssim (Wang et al. 2004): mean over channels and places of (2 mx my + C1)(2 cov + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)).
//
// x, y f32 or f64 [N, C, H, W] -> score [N] and, in the same go, the gradients with respect to x, to y or to both. Each
// plane goes by once; what the window needs of it stays in the nearest cache: four maps of size + 1 rows (21 KB at 112
// columns of f32) and, for gradients, three or four of slopes. PyTorch moves five filtered maps and a dozen of their
// products through memory. The arithmetic is the limit: 4 maps, and 3 back for one gradient, x 2 directions x
// (size + 1) / 2 taps. Planes are shared out over threads, their scores added in the order of channels.
#include "ssim.h"

#include <algorithm>
#include <vector>

#include "scratch.h"
#define VEILKERN_KERNELS "ssim.inl"
#include "foreach_isa.h"

namespace veilkern {

template <class T>
void ssim(Planes<const T> x, Planes<const T> y, Planes<T> gradient_x, Planes<T> gradient_y, const T* scale, T* score,
          std::int64_t count, std::int64_t channels, std::int64_t height, std::int64_t width, Window window,
          int threads) {
  const auto plane_ssim = VEILKERN_CHOOSE(plane_ssim<T>);
  const bool gradient = gradient_x.data != nullptr || gradient_y.data != nullptr;
  const std::int64_t edge = window.same ? 0 : window.size - 1, places = channels * (height - edge) * (width - edge);
  const double range = window.data_range, c1 = 0.01 * range * (0.01 * range), c2 = 0.03 * range * (0.03 * range);
  const std::int64_t values = VEILKERN_CHOOSE(plane_values<T>)(window.size, window.same, height, width, gradient);
  std::vector<double> totals(static_cast<std::size_t>(count * channels));
  for_each_part(count * channels, 4 * height * width, threads, [&](std::int64_t begin, std::int64_t end) {
    const Scratch<T> scratch(values);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / channels, channel = i % channels;
      const double weight = (scale ? static_cast<double>(scale[image]) : 1.0) / static_cast<double>(places);
      totals[static_cast<std::size_t>(i)] =
          plane_ssim({x.plane(image, channel), y.plane(image, channel), x.row, y.row, height, width,
                      static_cast<T>(range / 2), static_cast<T>(c1), static_cast<T>(c2)},
                     window.taps, window.size, window.same, static_cast<T>(weight), gradient_x.plane(image, channel),
                     gradient_x.row, gradient_y.plane(image, channel), gradient_y.row, scratch.data());
    }
  });
  for (std::int64_t i = 0; i < count; ++i) {
    double total = 0;
    for (std::int64_t c = 0; c < channels; ++c) total += totals[static_cast<std::size_t>(i * channels + c)];
    score[i] = static_cast<T>(total / static_cast<double>(places));
  }
}

template void ssim<float>(Planes<const float>, Planes<const float>, Planes<float>, Planes<float>, const float*, float*,
                          std::int64_t, std::int64_t, std::int64_t, std::int64_t, Window, int);
template void ssim<double>(Planes<const double>, Planes<const double>, Planes<double>, Planes<double>, const double*,
                           double*, std::int64_t, std::int64_t, std::int64_t, std::int64_t, Window, int);

}  // namespace veilkern
