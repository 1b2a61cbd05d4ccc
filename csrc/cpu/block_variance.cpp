// block_variance (eq. 9-11): loss_i = sum_c (1 + 1 / (hw)^2) Var(S_c) [+ ((hw - 1) / (hw))^2 mean(S_c)^2], S the box sums.
//
// images f32 or f64 [N, C, H, W] -> loss [N], the gradient [N, C, H, W], or both in one go. The loss alone reads each plane
// once, the gradient twice (the second time from the nearest caches: a plane of 112 x 112 f32 is 50 KB, and the next one
// comes there meanwhile) and is written once, where a chain of PyTorch ops moves about fifteen planes through memory. Planes
// are shared out over threads; the losses of an image's planes are added in the order of the channels, so the number of
// threads changes nothing.
#include "block_variance.h"

#include <algorithm>
#include <vector>

#include "scratch.h"
#define VEILKERN_KERNELS "block_variance.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

// Whether to write the gradient past the caches (see streams in simd.h): here every row has to be whole lines of memory.
template <class T>
bool past_caches(const Planes<T>& gradient, std::int64_t planes, std::int64_t size, std::int64_t width) {
  constexpr auto line = static_cast<std::int64_t>(64 / sizeof(T));
  const std::int64_t bytes = size * static_cast<std::int64_t>(sizeof(T)), large = stream_from();
  const auto whole = [&](std::int64_t values) { return values % line == 0; };
  return gradient.data != nullptr && planes * bytes >= large && bytes >= large / 1536 &&
         reinterpret_cast<std::uintptr_t>(gradient.data) % 64 == 0 && whole(width) && whole(gradient.row) &&
         whole(gradient.channel) && whole(gradient.image);
}

}  // namespace

template <class T>
void block_variance(Planes<const T> images, Planes<T> gradient, const T* scale, T* loss, std::int64_t count,
                    std::int64_t channels, std::int64_t height, std::int64_t width, Boxes boxes, int threads) {
  const auto plane_variance = VEILKERN_CHOOSE(plane_variance<T>);
  const std::int64_t planes = count * channels, size = height * width;
  const bool past = past_caches(gradient, planes, size, width);
  std::vector<double> losses(static_cast<std::size_t>(planes));
  const auto at = [&](std::int64_t i) { return images.plane(i / channels, i % channels); };
  for_each_part(planes, size, threads, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch(width + size + 2 * 64);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / channels, channel = i % channels;
      const Plane<T> plane{at(i), images.row, height, width, gradient.plane(image, channel), gradient.row,
                           i + 1 < end ? at(i + 1) - at(i) : 0, scale ? static_cast<double>(scale[image]) : 1.0,
                           loss != nullptr, past};
      losses[static_cast<std::size_t>(i)] = plane_variance(plane, boxes, scratch.data());
    }
  });
  if (loss == nullptr) return;
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
