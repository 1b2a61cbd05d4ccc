// What seal, unseal and seal_normalize share: how photos are sealed, which values carry the nonce, the walk over a batch.
#pragma once
#include <algorithm>
#include <cstdint>

#include "bank.h"
#include "keystream.h"
#include "simd.h"

namespace veilkern {

// 2^bits levels; photos of 3 planes, one after another or channels side by side.
struct Sealing {
  int bits, rounds;
  std::int64_t plane;
  bool channels_last;
};

constexpr std::int64_t kCarriers = 96;  // a photo's first values by (c, y, x) carry a bit of its nonce each

// Where a photo's carriers lie in memory: they are among its first count() values.
class Carriers {
 public:
  static constexpr std::int64_t kRoom = 3 * kCarriers;

  Carriers(std::int64_t plane, bool channels_last) {
    for (std::int64_t i = 0; i < kCarriers; ++i) {
      const std::int64_t place = channels_last ? 3 * (i % plane) + i / plane : i;
      place_[i] = static_cast<std::int16_t>(place);
      less_[place] = 1;
      count_ = std::max(count_, place + 1);
    }
  }

  std::int64_t count() const { return count_; }

  // By place: 1 for a carrier, which keeps that many bits less of the photo, else 0.
  const std::uint8_t* less() const { return less_; }

  // The nonce's bits in their places, zeros between them.
  void spread(const std::uint32_t* nonce, std::uint8_t* bits) const {
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(nonce);
    std::fill(bits, bits + count_, std::uint8_t{0});
    for (std::int64_t i = 0; i < kCarriers; ++i) bits[place_[i]] = bytes[i / 8] >> (i % 8) & 1;
  }

  // The nonce whose bits are the lowest of these.
  void gather(const std::uint8_t* bits, std::uint8_t* nonce) const {
    std::fill(nonce, nonce + kNonceBytes, std::uint8_t{0});
    for (std::int64_t i = 0; i < kCarriers; ++i)
      nonce[i / 8] = static_cast<std::uint8_t>(nonce[i / 8] | (bits[place_[i]] & 1) << (i % 8));
  }

 private:
  std::int16_t place_[kCarriers];
  std::uint8_t less_[kRoom] = {};
  std::int64_t count_ = 0;
};

// Calls use(photo, veil, keystream, at, n, carrying) for one piece after another of every photo, values at .. at + n - 1;
// whether carriers are among them.
template <class Use>
void for_each_piece(const Streams& streams, const Veils& veils, const std::int64_t* rows, std::int64_t count,
                    const Sealing& how, std::int64_t carriers, int threads, const Use& use) {
  const Keystream keystream(how.plane, how.channels_last, how.rounds);
  for_each_run(count, 3 * how.plane, threads, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    keystream.read(streams[i], begin, end, [&](const std::uint8_t* stream, std::int64_t from, std::int64_t size) {
      veils.read(rows[i], from, from + size, [&](const std::uint8_t* veil, std::int64_t at, std::int64_t n) {
        const std::int64_t first = std::clamp<std::int64_t>(carriers - at, 0, n);
        const std::uint8_t* const k = stream + (at - from);
        if (first > 0) use(i, veil, k, at, first, true);
        if (first < n) use(i, veil + first, k + first, at + first, n - first, false);
      });
    });
  });
}

}  // namespace veilkern
