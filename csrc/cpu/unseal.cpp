// unseal: x = (256/M) (((x' - v) mod M) xor (k mod M)) + 128/M, exact from 16 bits; photos bring their nonces.
//
// sealed u8 or u16 [N, 3HW], veils u8 [P, 3HW], rows i64 [N] -> out u8 [N, 3HW]. First the nonces, from the first values of
// each photo; then, once they are all there, the photos: reads them and, mostly from cache, the veils, and writes N * 3HW
// bytes. As in seal the keystream is made and used in the nearest cache, and takes longer than all else.
#include "unseal.h"

#define VEILKERN_KERNELS "unseal.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

template <class In>
void read_nonces(Photos<const In> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
                 std::int64_t count, const Carriers& carriers, int threads) {
  for_each_part(count, Carriers::kRoom, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const In* const photo = sealed.photo(i);
      std::uint8_t bits[Carriers::kRoom], nonce[kNonceBytes];
      veils.read(rows[i], 0, carriers.count(), [&](const std::uint8_t* veil, std::int64_t at, std::int64_t n) {
        for (std::int64_t k = 0; k < n; ++k)
          bits[at + k] = static_cast<std::uint8_t>((photo[at + k] >> 8 * (sizeof(In) - 1)) - veil[k]);
      });
      carriers.gather(bits, nonce);
      streams.set_nonce(i, nonce);
    }
  });
}

template <class In>
void unseal(Photos<const In> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
            Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads) {
  const auto run = veilkern::streams(out, count, 3 * how.plane) ? VEILKERN_CHOOSE(unseal_run<true, In>)
                                                                : VEILKERN_CHOOSE(unseal_run<false, In>);
  const auto run_carriers = VEILKERN_CHOOSE(unseal_carriers<In>);
  const Carriers carriers(how.plane, how.channels_last);
  read_nonces(sealed, veils, rows, streams, count, carriers, threads);
  for_each_piece(streams, veils, rows, count, how, carriers.count(), threads,
                 [&](std::int64_t i, const std::uint8_t* veil, const std::uint8_t* stream, std::int64_t at,
                     std::int64_t n, bool carrying) {
    const In* const hidden = sealed.photo(i) + at;
    std::uint8_t* const to = out.photo(i) + at;
    if (!carrying) return run(hidden, veil, stream, to, n, how.bits);
    run_carriers(hidden, veil, stream, carriers.less() + at, to, n, how.bits);
  });
}

}  // namespace

void unseal_u8(Photos<const std::uint8_t> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
               Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads) {
  unseal(sealed, veils, rows, streams, out, count, how, threads);
}

void unseal_u16(Photos<const std::uint16_t> sealed, const Veils& veils, const std::int64_t* rows, Streams& streams,
                Photos<std::uint8_t> out, std::int64_t count, const Sealing& how, int threads) {
  unseal(sealed, veils, rows, streams, out, count, how, threads);
}

}  // namespace veilkern
