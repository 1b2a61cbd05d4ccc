// Which instruction set the kernels use, chosen once at run time, and the even split of a batch over threads.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

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

// One photo batch: `count` photos of `pixels` values; consecutive photos lie `stride` values apart.
template <class T>
struct Photos {
  T* data;
  std::int64_t stride;
  T* photo(std::int64_t i) const { return data + i * stride; }
};

// Threads are started per call, not kept: a pool does not survive the fork of a serving process, and starting one
// costs about 20 microseconds, little beside the 1 MiB of work that each is given at least.
constexpr std::int64_t kValuesPerThread = 1 << 20;

// Calls body(photo, begin, end) so that every value of every photo is covered once. The split is by values, not by
// photos, in multiples of 64, so that two threads share the work evenly and each line of memory has one writer.
template <class Body>
void for_each_run(std::int64_t count, std::int64_t pixels, int threads, const Body& body) {
  const std::int64_t total = count * pixels;
  const std::int64_t parts = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, total / kValuesPerThread));
  const auto work = [&](std::int64_t part) {
    const auto cut = [&](std::int64_t k) { return k == parts ? total : total / parts * k / 64 * 64; };
    for (std::int64_t at = cut(part), end = cut(part + 1); at < end;) {
      const std::int64_t photo = at / pixels, begin = at - photo * pixels;
      const std::int64_t stop = std::min(pixels, begin + (end - at));
      body(photo, begin, stop);
      at += stop - begin;
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(parts - 1));
  for (std::int64_t part = 1; part < parts; ++part) {
    try {
      others.emplace_back(work, part);
    } catch (const std::system_error&) {  // no more threads to be had: do the work here
      work(part);
    }
  }
  work(0);
  for (auto& thread : others) thread.join();
}

}  // namespace veilkern
