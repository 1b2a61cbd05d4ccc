// The keystream that seals photos: ChaCha (RFC 8439), a stream of its own for each photo, its counter beginning at 0, a
// byte for each value: byte (c H + y) W + x for value (c, y, x), however the photo lies.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "bank.h"

namespace veilkern {

constexpr std::int64_t kKeyBytes = 32, kNonceBytes = 12, kBlock = 64;

// What a photo's stream follows from: the words of its person's key and of its own nonce.
struct Stream {
  std::uint32_t key[8], nonce[3];
};

// The streams of a batch, photo by photo: copies, since another thread may write to the caller's, or unseal write over
// the photos that carry the nonces. Wiped in the end.
class Streams {
 public:
  // keys u8 [people, 32], photo i taking rows[i], which must name one; nonces u8 [count, 12], or null: set_nonce follows.
  Streams(const std::uint8_t* keys, const std::int64_t* rows, const std::uint8_t* nonces, std::int64_t count);
  ~Streams();
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;

  const Stream& operator[](std::int64_t i) const { return all_[static_cast<std::size_t>(i)]; }
  void set_nonce(std::int64_t i, const std::uint8_t* nonce);

 private:
  std::vector<Stream> all_;
};

// Writes `blocks` blocks of 64 bytes, the first being number `block`, and up to kBlocksAtOnce - 1 behind them.
using WriteBlocks = void (*)(const Stream& stream, int rounds, std::uint32_t block, std::int64_t blocks, std::uint8_t* to);
constexpr std::int64_t kBlocksAtOnce = 32;
WriteBlocks write_blocks();

// Reads streams in the order of values in memory: planes, or channels side by side.
class Keystream {
 public:
  Keystream(std::int64_t plane, bool channels_last, int rounds)
      : write_(write_blocks()), by_(shuffles()), plane_(plane), rounds_(rounds), side_by_side_(channels_last) {}

  // Calls use(bytes, at, n) for one piece after another of those of values begin .. end - 1, in memory's order.
  template <class Use>
  void read(const Stream& stream, std::int64_t begin, std::int64_t end, const Use& use) const {
    alignas(64) std::uint8_t piece[kRoom];
    if (side_by_side_) return read_pixels(stream, begin, end, piece, use);
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t n = std::min(end, (at / kPiece + 1) * kPiece) - at;  // cut where blocks begin
      use(bytes(stream, at, n, piece), at, n);
      at += n;
    }
  }

  // Bytes begin .. begin + n - 1 of the stream itself, n up to kPixels, within a piece of kRoom bytes.
  const std::uint8_t* bytes(const Stream& stream, std::int64_t begin, std::int64_t n, std::uint8_t* piece) const {
    const std::int64_t block = begin / kBlock, skipped = begin - block * kBlock;
    write_(stream, rounds_, static_cast<std::uint32_t>(block), (skipped + n + kBlock - 1) / kBlock, piece);
    return piece + skipped;
  }

  static constexpr std::int64_t kPiece = 4096, kPixels = kPiece - kBlock, kRoom = kPiece + kBlocksAtOnce * kBlock;

 private:
  template <class Use>
  void read_pixels(const Stream& stream, std::int64_t begin, std::int64_t end, std::uint8_t* piece, const Use& use) const {
    alignas(64) std::uint8_t mixed[3 * kPixels];
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t pixel = at / 3, pixels = std::min(kPixels, (end + 2) / 3 - pixel);
      const std::int64_t n = std::min(end, 3 * (pixel + pixels)) - at;
      mix(stream, pixel, pixels, piece, mixed);
      use(mixed + (at - 3 * pixel), at, n);
      at += n;
    }
  }

  // Three channels' bytes of some pixels, side by side.
  void mix(const Stream& stream, std::int64_t pixel, std::int64_t pixels, std::uint8_t* piece, std::uint8_t* mixed) const;

  WriteBlocks write_;
  Shuffles by_;
  std::int64_t plane_;
  int rounds_;
  bool side_by_side_;
};

}  // namespace veilkern
