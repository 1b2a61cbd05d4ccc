#include "bank.h"

#define VEILKERN_KERNELS "bank.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

// Calls part(place, n, done) for each stretch of pixels begin .. begin + n - 1 that lies evenly: `place` values after the
// first pixel of the plane, `column` apart, after `done` others.
template <class T, class Part>
void along_rows(const Bank<T>& bank, std::int64_t begin, std::int64_t n, const Part& part) {
  if (bank.height > 1 && bank.row == bank.width * bank.column) return part(begin * bank.column, n, 0);
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t y = (begin + done) / bank.width, x = begin + done - y * bank.width;
    const std::int64_t here = std::min(n - done, bank.width - x);
    part(y * bank.row + x * bank.column, here, done);
    done += here;
  }
}

}  // namespace

Shuffles shuffles() { return {VEILKERN_CHOOSE(side_by_side), VEILKERN_CHOOSE(every_third)}; }

template <class T>
void copy_channel(const Bank<T>& bank, const T* veil, std::int64_t c, std::int64_t begin, std::int64_t n, T* to,
                  [[maybe_unused]] const Shuffles& by) {
  const T* const plane = veil + c * bank.channel;
  const std::int64_t step = bank.column;
  along_rows(bank, begin, n, [&](std::int64_t place, std::int64_t here, std::int64_t done) {
    const T* const from = plane + place;
    if (step == 1) return void(std::memcpy(to + done, from, static_cast<std::size_t>(here) * sizeof(T)));
    if constexpr (sizeof(T) == 1)
      if (step == 3) return by.every_third(from, here, to + done);
    for (std::int64_t i = 0; i < here; ++i) to[done + i] = from[i * step];
  });
}

template <class T>
void copy_pixels(const Bank<T>& bank, const T* veil, std::int64_t begin, std::int64_t n, T* to,
                 [[maybe_unused]] const Shuffles& by) {
  const std::int64_t step = bank.column;
  along_rows(bank, begin, n, [&](std::int64_t place, std::int64_t here, std::int64_t done) {
    const T* const planes[3] = {veil + place, veil + bank.channel + place, veil + 2 * bank.channel + place};
    if constexpr (sizeof(T) == 1)
      if (step == 1) return by.side_by_side(planes, here, to + 3 * done);
    for (std::int64_t i = 0; i < here; ++i)
      for (int c = 0; c < 3; ++c) to[3 * (done + i) + c] = planes[c][i * step];
  });
}

const std::uint8_t* Veils::in_order(const std::uint8_t* veil, std::int64_t at, std::int64_t n,
                                    std::uint8_t* piece) const {
  if (side_by_side_) {
    const std::int64_t pixel = at / 3, end = (at + n + 2) / 3;
    copy_pixels(bank_, veil, pixel, end - pixel, piece, by_);
    return piece + (at - 3 * pixel);
  }
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t c = (at + done) / bank_.plane(), pixel = at + done - c * bank_.plane();
    const std::int64_t here = std::min(n - done, bank_.plane() - pixel);
    copy_channel(bank_, veil, c, pixel, here, piece + done, by_);
    done += here;
  }
  return piece;
}

template void copy_channel<float>(const Bank<float>&, const float*, std::int64_t, std::int64_t, std::int64_t, float*,
                                  const Shuffles&);
template void copy_channel<double>(const Bank<double>&, const double*, std::int64_t, std::int64_t, std::int64_t, double*,
                                   const Shuffles&);

}  // namespace veilkern
