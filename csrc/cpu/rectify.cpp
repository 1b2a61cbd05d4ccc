// rectify: ReLU, ReLU6 or PReLU of x + add in place, and a bit a value of which side it was on; then a slope by those bits.
//
// x f32 or f64, channels last. Reads and writes x once, and a bit for each value: a copy in place, and 1/32 more. PyTorch
// reads and writes x three times, and keeps all of it for the slope. Threads share photos and runs of 512 values, so that
// each byte of bits has one writer; each value is computed on its own.
#include "rectify.h"

#include <vector>

#define VEILKERN_KERNELS "rectify.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

constexpr std::int64_t kRun = kValuesPerPart / 4;  // values, a multiple of 512

// A table repeated, so that four packs can be read from any place of the first period. It begins a line of memory (64
// bytes): a pack of channels that fill registers then lies in one line.
template <class T>
class Repeated {
 public:
  Repeated(const T* table, std::int64_t period) {
    if (table == nullptr) return;
    constexpr auto line = static_cast<std::int64_t>(64 / sizeof(T));
    made_.resize(static_cast<std::size_t>(period + 5 * line));
    T* const to = made_.data() + to_line(made_.data(), line);
    std::copy(table, table + period, to);
    for (std::int64_t i = period; i < period + 4 * line; ++i) to[i] = to[i - period];
    begin_ = to;
  }
  const T* begin() const { return begin_; }

 private:
  std::vector<T> made_;
  const T* begin_ = nullptr;
};

}  // namespace

template <class T>
void rectify(T* x, std::uint8_t* bits, std::int64_t count, std::int64_t pixels, const Gate<T>& gate, bool back, int threads) {
  const auto run = VEILKERN_CHOOSE(rectify_run<T>);
  const std::int64_t size = pixels * gate.channels, bytes = (size + 7) / 8;
  const Repeated<T> slope(gate.slope, gate.channels), add(gate.map ? nullptr : gate.add, gate.channels);
  const Gate<T> own{gate.map ? gate.add : add.begin(), gate.map, slope.begin(), gate.channels, gate.top};
  const auto part = [&](std::int64_t photo, std::int64_t begin, std::int64_t end) {
    run(x + photo * size, bits + photo * bytes, begin, end, own, back);
  };
  // Runs of a photo in turn; a part takes some, enough values that waking a thread for them pays.
  const std::int64_t runs = (size + kRun - 1) / kRun, all = count * runs;
  const auto parts = static_cast<int>(std::clamp<std::int64_t>(count * size / (kValuesPerPart / 2), 1, all));
  run_parts(parts, threads, [&](int k) {
    for (std::int64_t task = all * k / parts; task < all * (k + 1) / parts; ++task) {
      const std::int64_t begin = task % runs * kRun;
      part(task / runs, begin, std::min(size, begin + kRun));
    }
  });
}

template void rectify<float>(float*, std::uint8_t*, std::int64_t, std::int64_t, const Gate<float>&, bool, int);
template void rectify<double>(double*, std::uint8_t*, std::int64_t, std::int64_t, const Gate<double>&, bool, int);

}  // namespace veilkern
