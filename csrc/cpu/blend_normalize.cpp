// blend_normalize: ((alpha x / 255 + (1 - alpha) v) - mean) / std as the network's first layer reads it, channels last.
//
// images u8 [N, 3, H, W], veils f32 or f64 [P, 3, H, W] -> out [N, H, W, 3] in f32, f64, bf16 or f16. Three numbers a
// channel hold alpha, mean and std, so each value takes two multiplications; reads a byte a value and (mostly from cache)
// the veils, writes the output once. PyTorch makes five passes and a transposition of it.
#include "blend_normalize.h"

#define VEILKERN_KERNELS "blend_normalize.inl"
#include "foreach_isa.h"

namespace veilkern {

template <class T>
NormalizeRun<T> normalize_run() {
  return VEILKERN_CHOOSE(normalize_run<T>);
}

template NormalizeRun<float> normalize_run<float>();
template NormalizeRun<double> normalize_run<double>();

template <class T>
void blend_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows, void* out,
                     Number number, std::int64_t count, const Channels& channels, int threads) {
  const auto run = normalize_run<T>();
  const std::int64_t plane = veils.plane(), pixel = bytes_of_pixel(number);
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
