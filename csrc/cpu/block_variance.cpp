// block_variance (eq. 9-11): loss_i = sum_c (1 + 1 / (hw)^2) Var(S_c) [+ ((hw - 1) / (hw))^2 mean(S_c)^2], S the box sums.
//
// images f32 or f64 [N, C, H, W] -> loss [N] and, in the same go, the gradient [N, C, H, W]. Reads each plane twice (the
// second time from the nearest caches: a plane of 112 x 112 f32 is 50 KB) and writes the gradient once, where a chain of
// PyTorch ops moves about fifteen planes through memory. Planes are shared out over threads; the losses of an image's
// planes are added in the order of the channels, so the number of threads changes nothing.
#include "block_variance.h"

#include <algorithm>
#include <vector>

#include "scratch.h"
#define VEILKERN_KERNELS "block_variance.inl"
#include "foreach_isa.h"

namespace veilkern {

template <class T>
void block_variance(Planes<const T> images, Planes<T> gradient, const T* scale, T* loss, std::int64_t count,
                    std::int64_t channels, std::int64_t height, std::int64_t width, Boxes boxes, int threads) {
  const auto plane_variance = VEILKERN_CHOOSE(plane_variance<T>);
  const std::int64_t planes = count * channels, size = height * width;
  std::vector<double> losses(static_cast<std::size_t>(planes));
  for_each_part(planes, size, threads, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch(width + size + 2 * 64);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / channels, channel = i % channels;
      losses[static_cast<std::size_t>(i)] =
          plane_variance(images.plane(image, channel), images.row, height, width, boxes, gradient.plane(image, channel),
                         gradient.row, scale ? static_cast<double>(scale[image]) : 1.0, scratch.data());
    }
  });
  for (std::int64_t i = 0; i < count; ++i) {
    double total = 0;
    for (std::int64_t c = 0; c < channels; ++c) total += losses[static_cast<std::size_t>(i * channels + c)];
    loss[i] = static_cast<T>(total);
  }
}

template void block_variance<float>(Planes<const float>, Planes<float>, const float*, float*, std::int64_t,
                                    std::int64_t, std::int64_t, std::int64_t, Boxes, int);
template void block_variance<double>(Planes<const double>, Planes<double>, const double*, double*, std::int64_t,
                                     std::int64_t, std::int64_t, std::int64_t, Boxes, int);

}  // namespace veilkern
