// The veils of all people where they lie, in any layout: a kernel reads the one that a photo needs, in the order in which
// its output lies, and never another. Where that is not the veil's own order, values are put in order a piece at a time
// in the nearest cache.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace veilkern {

// n pixels of three planes to side by side (3 n bytes), and every third byte (n of them), by the best instructions.
struct Shuffles {
  void (*side_by_side)(const std::uint8_t* const* planes, std::int64_t n, std::uint8_t* to);
  void (*every_third)(const std::uint8_t* from, std::int64_t n, std::uint8_t* to);
};
Shuffles shuffles();

// Value (c, y, x) of veil p, [people, 3, height, width], is data[p photo + c channel + y row + x column].
template <class T>
struct Bank {
  const T* data;
  std::int64_t people, photo, channel, row, column, height, width;

  const T* veil(std::int64_t p) const { return data + p * photo; }
  std::int64_t plane() const { return height * width; }

  // Whether a veil lies whole in memory, plane after plane or channels side by side.
  bool in_planes() const { return row_after_row(1) && channel == plane(); }
  bool in_pixels() const { return row_after_row(3) && channel == 1; }

 private:
  bool row_after_row(std::int64_t step) const {
    return (width == 1 || column == step) && (height == 1 || row == width * step);
  }
};

// Copies pixels begin .. begin + n - 1 of channel c of a veil.
template <class T>
void copy_channel(const Bank<T>& bank, const T* veil, std::int64_t c, std::int64_t begin, std::int64_t n, T* to,
                  const Shuffles& by);

// Copies pixels begin .. begin + n - 1 of a veil, its channels side by side: 3 n values.
template <class T>
void copy_pixels(const Bank<T>& bank, const T* veil, std::int64_t begin, std::int64_t n, T* to, const Shuffles& by);

// Veils of bytes in the order of the output: planes, or channels side by side.
class Veils {
 public:
  Veils(const Bank<std::uint8_t>& bank, bool channels_last)
      : bank_(bank), by_(shuffles()), side_by_side_(channels_last),
        as_they_lie_(channels_last ? bank.in_pixels() : bank.in_planes()) {}

  // Calls use(values, at, n) for one piece after another of values begin .. end - 1 of veil p.
  template <class Use>
  void read(std::int64_t p, std::int64_t begin, std::int64_t end, const Use& use) const {
    const std::uint8_t* const veil = bank_.veil(p);
    if (as_they_lie_) return use(veil + begin, begin, end - begin);
    alignas(64) std::uint8_t piece[kPiece + 6];  // up to two values of a pixel that begins earlier or ends later
    for (std::int64_t at = begin; at < end; at += kPiece) {
      const std::int64_t n = std::min(kPiece, end - at);
      use(in_order(veil, at, n, piece), at, n);
    }
  }

 private:
  static constexpr std::int64_t kPiece = 6144;

  const std::uint8_t* in_order(const std::uint8_t* veil, std::int64_t at, std::int64_t n, std::uint8_t* piece) const;

  Bank<std::uint8_t> bank_;
  Shuffles by_;
  bool side_by_side_, as_they_lie_;
};

}  // namespace veilkern
