// seal_normalize: ((w (256 - M) + u) / 255 - mean) / std as the network's first layer reads it, channels last; u is what
// seal adds to a veil.
//
// images u8 [N, 3, H, W], veils f32 or f64 [P, 3, H, W] -> out [N, H, W, 3] in f32, f64, bf16 or f16. u of some pixels is
// made in the nearest cache (seal, over a veil of zeros), then the arithmetic is blend_normalize's, with u for its image.
#include "seal_normalize.h"

#include "seal.h"

namespace veilkern {
namespace {

constexpr std::int64_t kPixels = 1024;  // a channel's u and keystream, three of the former: 5 KB
alignas(64) constexpr std::uint8_t kNoVeil[kPixels] = {};

// What seal adds to a veil, of pixels in planes.
class Added {
 public:
  Added(Photos<const std::uint8_t> images, const Streams& streams, const Sealing& how)
      : images_(images), streams_(streams), how_(how), keystream_(how.plane, false, how.rounds),
        carriers_(how.plane, false), run_(seal_run()), run_carriers_(seal_carriers()) {}

  // Values begin .. begin + n - 1 of photo i, n up to kPixels.
  void write(std::int64_t i, std::int64_t begin, std::int64_t n, std::uint8_t* to) const {
    alignas(64) std::uint8_t room[Keystream::kRoom];
    const std::uint8_t* const stream = keystream_.bytes(streams_[i], begin, n, room);
    const std::uint8_t* const x = images_.photo(i) + begin;
    const std::int64_t first = std::clamp<std::int64_t>(carriers_.count() - begin, 0, n);
    run_(x + first, kNoVeil, stream + first, to + first, n - first, how_.bits);
    if (first == 0) return;
    std::uint8_t nonce_bits[Carriers::kRoom];
    carriers_.spread(streams_[i].nonce, nonce_bits);
    run_carriers_(x, kNoVeil, stream, carriers_.less() + begin, nonce_bits + begin, to, first, how_.bits);
  }

 private:
  Photos<const std::uint8_t> images_;
  const Streams& streams_;
  const Sealing& how_;
  Keystream keystream_;
  Carriers carriers_;
  SealRun run_;
  SealCarriers run_carriers_;
};

}  // namespace

template <class T>
void seal_normalize(Photos<const std::uint8_t> images, const Bank<T>& veils, const std::int64_t* rows,
                    const Streams& streams, void* out, Number number, std::int64_t count, const Channels& channels,
                    const Sealing& how, int threads) {
  const auto run = normalize_run<T>();
  const Added added(images, streams, how);
  for_each_run(count, how.plane, threads, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    read_planes(veils, rows[i], begin, end, [&](const T* veil, std::int64_t step, std::int64_t from, std::int64_t size) {
      alignas(64) std::uint8_t u[3 * kPixels];
      for (std::int64_t done = 0; done < size; done += kPixels) {
        const std::int64_t at = from + done, n = std::min(kPixels, size - done);
        for (std::int64_t c = 0; c < 3; ++c) added.write(i, c * how.plane + at, n, u + c * kPixels);
        run({u, kPixels}, {veil + done, step}, static_cast<char*>(out) + (i * how.plane + at) * bytes_of_pixel(number),
            number, n, channels);
      }
    });
  });
}

template void seal_normalize<float>(Photos<const std::uint8_t>, const Bank<float>&, const std::int64_t*, const Streams&,
                                    void*, Number, std::int64_t, const Channels&, const Sealing&, int);
template void seal_normalize<double>(Photos<const std::uint8_t>, const Bank<double>&, const std::int64_t*, const Streams&,
                                     void*, Number, std::int64_t, const Channels&, const Sealing&, int);

}  // namespace veilkern
