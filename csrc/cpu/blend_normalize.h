#pragma once
#include "bank.h"
#include "simd.h"

namespace veilkern {

enum class Number { f32, f64, bf16, f16 };

inline std::int64_t bytes_of_pixel(Number number) {
  return 3 * (number == Number::f64 ? 8 : number == Number::f32 ? 4 : 2);
}

// Per channel, in the order of the output: where it comes from, and x' = of_image x + of_veil v + constant.
struct Channels {
  int source[3];
  double of_image[3], of_veil[3], constant[3];
};

// Three channels of pixels, `step` values apart.
template <class T>
struct ThreeChannels {
  const T* data;
  std::int64_t step;
};

// n pixels of images and veils -> out, by the best instructions; seal_normalize has its own bytes mixed so.
template <class T>
using NormalizeRun = void (*)(ThreeChannels<std::uint8_t> image, ThreeChannels<T> veil, void* out, Number number,
                              std::int64_t n, const Channels& channels);
template <class T>
NormalizeRun<T> normalize_run();

// Calls use(veil, its plane, pixel, n) for one piece after another of pixels begin .. end - 1 of veil p, in planes.
template <class T, class Use>
void read_planes(const Bank<T>& veils, std::int64_t p, std::int64_t begin, std::int64_t end, const Use& use) {
  constexpr std::int64_t piece_pixels = 1024;  // three channels of floats, 12 KB, stay in the nearest cache
  const T* const veil = veils.veil(p);
  if (veils.in_planes()) return use(veil + begin, veils.plane(), begin, end - begin);
  const Shuffles by = shuffles();
  alignas(64) T piece[3 * piece_pixels];
  for (std::int64_t at = begin; at < end; at += piece_pixels) {
    const std::int64_t n = std::min(piece_pixels, end - at);
    for (int c = 0; c < 3; ++c) copy_channel(veils, veil, c, at, n, piece + c * piece_pixels, by);
    use(piece, piece_pixels, at, n);
  }
}

// images u8, planes of H W values, and veils T, photo i taking veil rows[i] -> out [N, H, W, 3] of the kind `number`.
template <class T>
void blend_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows, void* out,
                     Number number, std::int64_t count, const Channels& channels, int threads);

}  // namespace veilkern
