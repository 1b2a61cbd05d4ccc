// Which instruction set the kernels use, chosen at run time, and the even split of a batch over threads.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "pool.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define VEILKERN_X86 1
#include <immintrin.h>
#define VEILKERN_AVX2 __attribute__((target("avx2")))
#define VEILKERN_AVX512 __attribute__((target("avx512f,avx512bw")))
#endif

namespace veilkern {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best the processor offers, or less when `limit` (set by tests through set_isa) says so.
Isa isa();
void set_isa_limit(Isa limit);
Isa best_isa();

// The bytes from which results are written past the caches: 12 MiB, or what set_stream_from (called by tests) says.
constexpr std::int64_t kStreamFrom = std::int64_t{12} << 20;
std::int64_t stream_from();
void set_stream_from(std::int64_t bytes);

// One photo batch: `count` photos of `pixels` values; consecutive photos lie `stride` values apart.
template <class T>
struct Photos {
  T* data;
  std::int64_t stride;
  T* photo(std::int64_t i) const { return data + i * stride; }
};

// Work is handed out in parts of this many values: large beside the cost of handing one out, small enough that a thread
// that wakes late leaves the rest to the others.
constexpr std::int64_t kValuesPerPart = 1 << 18;

// Whether to write past the caches: results of a batch this large do not stay there anyway, and a store that goes straight
// to memory saves reading the line first. Such stores need whole lines (64 bytes), which each run finds for itself (see
// to_line), and runs long enough to pay for the fence behind them: photos from 8 KiB on at the usual 12 MiB.
template <class T>
bool streams(Photos<T> out, std::int64_t count, std::int64_t pixels) {
  const std::int64_t photo = pixels * static_cast<std::int64_t>(sizeof(T)), large = stream_from();
  return count * photo >= large && photo >= large / 1536 && reinterpret_cast<std::uintptr_t>(out.data) % sizeof(T) == 0;
}

// How many of n values come before the first that begins a line of memory (64 bytes).
template <class T>
std::int64_t to_line(const T* out, std::int64_t n) {
  const auto bytes = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(out) % 64);
  return std::min(n, bytes / static_cast<std::int64_t>(sizeof(T)));
}

#ifdef VEILKERN_X86
template <bool stream>
VEILKERN_AVX512 inline void put(void* to, __m512i value) {
  if constexpr (stream) _mm512_stream_si512(static_cast<__m512i*>(to), value);
  else _mm512_storeu_si512(to, value);
}

template <bool stream>
VEILKERN_AVX2 inline void put(void* to, __m256i value) {
  if constexpr (stream) _mm256_stream_si256(static_cast<__m256i*>(to), value);
  else _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
#endif

// Calls body(photo, begin, end) so that every value of every photo is covered once. The split is by values, not by
// photos, in multiples of 64, so that threads share the work evenly and each line of memory has one writer. Which
// thread does what changes no bit of the result: every value is computed on its own. Photos are taken as they lie: going by
// veil instead would find more veils in the nearest cache, but jump through the photos, which costs more (measured).
template <class Body>
void for_each_run(std::int64_t count, std::int64_t pixels, int threads, const Body& body) {
  const std::int64_t total = count * pixels;
  if (total == 0) return;
  const auto parts = static_cast<int>(std::max<std::int64_t>(1, total / kValuesPerPart));
  const auto cut = [&](int k) { return k == parts ? total : total / parts * k / 64 * 64; };
  run_parts(parts, threads, [&](int part) {
    for (std::int64_t at = cut(part), end = cut(part + 1); at < end;) {
      const std::int64_t photo = at / pixels, begin = at - photo * pixels;
      const std::int64_t stop = std::min(pixels, begin + (end - at));
      body(photo, begin, stop);
      at += stop - begin;
    }
  });
}

// Calls body(begin, end) so that 0 .. count - 1 is covered once, in runs of items of `size` values each.
template <class Body>
void for_each_part(std::int64_t count, std::int64_t size, int threads, const Body& body) {
  if (count == 0) return;
  const std::int64_t items = std::max<std::int64_t>(1, kValuesPerPart / 4 / std::max<std::int64_t>(1, size));
  const auto parts = static_cast<int>((count + items - 1) / items);
  run_parts(parts, threads, [&](int part) {
    const std::int64_t begin = part * items;
    body(begin, std::min(count, begin + items));
  });
}

}  // namespace veilkern
