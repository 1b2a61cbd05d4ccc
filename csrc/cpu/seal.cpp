// seal: x' = v + ((x div (256/M)) xor (k mod M)), the first 96 values by (c, y, x) carrying the nonce (docs: ops/seal.py).
//
// images u8 [N, 3HW], veils u8 [P, 3HW], rows i64 [N] -> out u8 or u16 [N, 3HW]. Reads N * 3HW bytes of photos and, mostly
// from cache, the veils; writes N * 3HW (or twice that) bytes. The keystream never leaves the nearest cache: it is made a
// few KiB at a time, used there, and takes longer than all else.
#include "seal.h"

#define VEILKERN_KERNELS "seal.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

template <class Out>
void seal(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows, const Streams& streams,
          Photos<Out> out, std::int64_t count, const Sealing& how, int threads) {
  const auto run = veilkern::streams(out, count, 3 * how.plane) ? VEILKERN_CHOOSE(seal_run<true, Out>) : VEILKERN_CHOOSE(seal_run<false, Out>);
  const auto run_carriers = VEILKERN_CHOOSE(seal_carriers<Out>);
  const Carriers carriers(how.plane, how.channels_last);
  for_each_piece(streams, veils, rows, count, how, carriers.count(), threads,
                 [&](std::int64_t i, const std::uint8_t* veil, const std::uint8_t* stream, std::int64_t at,
                     std::int64_t n, bool carrying) {
    const std::uint8_t* const x = images.photo(i) + at;
    Out* const to = out.photo(i) + at;
    if (!carrying) return run(x, veil, stream, to, n, how.bits);
    std::uint8_t nonce_bits[Carriers::kRoom];
    carriers.spread(streams[i].nonce, nonce_bits);
    run_carriers(x, veil, stream, carriers.less() + at, nonce_bits + at, to, n, how.bits);
  });
}

}  // namespace

void seal_u8(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows, const Streams& streams,
             Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads) {
  seal(images, veils, rows, streams, out, count, how, threads);
}

void seal_u16(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows, const Streams& streams,
              Photos<std::uint16_t> out, std::int64_t count, const Sealing& how, int threads) {
  seal(images, veils, rows, streams, out, count, how, threads);
}

SealRun seal_run() { return VEILKERN_CHOOSE(seal_run<false, std::uint8_t>); }

SealCarriers seal_carriers() { return VEILKERN_CHOOSE(seal_carriers<std::uint8_t>); }

}  // namespace veilkern
