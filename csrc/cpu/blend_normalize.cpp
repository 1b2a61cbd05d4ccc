// blend_normalize: ((alpha x / 255 + (1 - alpha) v) - mean) / std as the network's first layer reads it, channels last.
//
// images u8 [N, 3, H, W], veils f32 or f64 [P, 3, H, W] -> out [N, H, W, 3] in f32, f64, bf16 or f16. Three numbers a
// channel hold alpha, mean and std, so each value takes two multiplications; reads a byte a value and (mostly from cache)
// the veils, writes the output once. PyTorch makes five passes and a transposition of it.
#include "blend_normalize.h"

#define VEILKERN_KERNELS "blend_normalize.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

constexpr std::int64_t kPiece = 1024;  // pixels: three channels of floats, 12 KB, stay in the nearest cache

// Calls use(veil, its plane, pixel, n) for one piece after another of pixels begin .. end - 1 of veil p, in planes.
template <class T, class Use>
void read_planes(const Bank<T>& veils, std::int64_t p, std::int64_t begin, std::int64_t end, const Use& use) {
  const T* const veil = veils.veil(p);
  if (veils.in_planes()) return use(veil + begin, veils.plane(), begin, end - begin);
  const Shuffles by = shuffles();
  alignas(64) T piece[3 * kPiece];
  for (std::int64_t at = begin; at < end; at += kPiece) {
    const std::int64_t n = std::min(kPiece, end - at);
    for (int c = 0; c < 3; ++c) copy_channel(veils, veil, c, at, n, piece + c * kPiece, by);
    use(piece, kPiece, at, n);
  }
}

}  // namespace

template <class T>
void blend_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows, void* out,
                     Number number, std::int64_t count, const Channels& channels, int threads) {
  const auto run = VEILKERN_CHOOSE(normalize_run<T>);
  const std::int64_t plane = veils.plane(), pixel = 3 * (number == Number::f64 ? 8 : number == Number::f32 ? 4 : 2);
  for_each_run(count, plane, threads, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    read_planes(veils, rows[i], begin, end, [&](const T* veil, std::int64_t step, std::int64_t at, std::int64_t n) {
      run({images.photo(i) + at, plane}, {veil, step}, static_cast<char*>(out) + (i * plane + at) * pixel, number, n,
          channels);
    });
  });
}

template void blend_normalize<float>(Photos<const std::uint8_t>, const Bank<float>&, const std::int64_t*, void*, Number,
                                     std::int64_t, const Channels&, int);
template void blend_normalize<double>(Photos<const std::uint8_t>, const Bank<double>&, const std::int64_t*, void*, Number,
                                      std::int64_t, const Channels&, int);

}  // namespace veilkern
