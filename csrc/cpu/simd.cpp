#include "simd.h"

#include <atomic>
#include <numeric>

namespace veilkern {

namespace {
std::atomic<int> limit{static_cast<int>(Isa::avx512)};
}

Isa best_isa() {
#ifdef VEILKERN_X86
  static const Isa best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return Isa::avx512;
    if (__builtin_cpu_supports("avx2")) return Isa::avx2;
    return Isa::baseline;
  }();
  return best;
#else
  return Isa::baseline;
#endif
}

Isa isa() { return static_cast<Isa>(std::min(limit.load(), static_cast<int>(best_isa()))); }

void set_isa_limit(Isa value) { limit = static_cast<int>(value); }

std::vector<std::int64_t> by_row(const std::int64_t* rows, std::int64_t count) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (!std::is_sorted(rows, rows + count))
    std::stable_sort(order.begin(), order.end(), [rows](std::int64_t i, std::int64_t j) { return rows[i] < rows[j]; });
  return order;
}

}  // namespace veilkern
