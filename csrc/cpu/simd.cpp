#include "simd.h"

#include <atomic>

namespace veilkern {

namespace {
std::atomic<int> limit{static_cast<int>(Isa::avx512)};
std::atomic<std::int64_t> large{kStreamFrom};
}

Isa best_isa() {
#ifdef VEILKERN_X86
  static const Isa best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return Isa::avx512;
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

std::int64_t stream_from() { return large.load(std::memory_order_relaxed); }

void set_stream_from(std::int64_t bytes) { large = bytes; }

}  // namespace veilkern
