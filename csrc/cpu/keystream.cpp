#include "keystream.h"

#define VEILKERN_KERNELS "keystream.inl"
#include "foreach_isa.h"

namespace veilkern {

Streams::Streams(const std::uint8_t* keys, const std::int64_t* rows, const std::uint8_t* nonces, std::int64_t count)
    : all_(static_cast<std::size_t>(count)) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(all_[static_cast<std::size_t>(i)].key, keys + rows[i] * kKeyBytes, kKeyBytes);
    if (nonces != nullptr) set_nonce(i, nonces + i * kNonceBytes);
  }
}

Streams::~Streams() {
  if (all_.empty()) return;
  std::memset(static_cast<void*>(all_.data()), 0, all_.size() * sizeof(Stream));
  __asm__ volatile("" : : "r"(all_.data()) : "memory");  // somebody may look: the compiler keeps the line above
}

void Streams::set_nonce(std::int64_t i, const std::uint8_t* nonce) {
  std::memcpy(all_[static_cast<std::size_t>(i)].nonce, nonce, kNonceBytes);
}

WriteBlocks write_blocks() { return VEILKERN_CHOOSE(write_blocks); }

void Keystream::mix(const Stream& stream, std::int64_t pixel, std::int64_t pixels, std::uint8_t* piece,
                    std::uint8_t* mixed) const {
  alignas(64) std::uint8_t channels[2][kRoom];
  const std::uint8_t* const planes[3] = {bytes(stream, pixel, pixels, channels[0]),
                                         bytes(stream, plane_ + pixel, pixels, channels[1]),
                                         bytes(stream, 2 * plane_ + pixel, pixels, piece)};
  by_.side_by_side(planes, pixels, mixed);
}

}  // namespace veilkern
