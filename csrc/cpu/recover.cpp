// recover: x = clamp(floor((2 t + a) / (2 a)), 0, 255), t = 255 x' - (255 - a) v (uint8) or p - (255 - a) v (uint16).
//
// hidden u8 or u16 [N, 3HW], veils u8 [P, 3HW], rows i64 [N] -> out u8 [N, 3HW]. Reads the hidden photos and, mostly
// from cache, the veils; writes N * 3HW bytes. The memory is the limit.
//
// All in unsigned 16 bits: t is an integer, so floor((2 t + a) / (2 a)) = floor((t + a div 2) / a); below zero the
// result clamps to 0 and above t = 255 a to 255, so d = min(max(t, 0), 255 a) gives the same x = (d + a div 2) div a,
// and d + a div 2 <= 65152. The division by the run-time constant a is a multiplication (see Divider). The vector code
// leaves the upper bound to the narrowing at the end: the multiplication grows with d, so d > 255 a gives 255 or more,
// and for a > 1 less than 2^15, which saturates to 255 (a = 1 takes the plain loop).
#include "recover.h"

#include "scratch.h"
#define VEILKERN_KERNELS "recover.inl"
#include "foreach_isa.h"

namespace veilkern {
namespace {

// n div a = (n + bias) * factor >> (16 + shift) for every n <= 255 a + a div 2, with a 16-bit factor.
// Rounding the factor up is exact while n * excess < 2^k; where no such factor fits 16 bits, rounding it down and
// adding 1 to n is. tests/test_recover.py goes through every (a, n).
struct Divider {
  std::uint16_t factor, bias;
  int shift;

  explicit Divider(int a) {
    const std::uint64_t top = 255u * static_cast<unsigned>(a) + static_cast<unsigned>(a) / 2;
    const std::uint64_t divisor = static_cast<std::uint64_t>(a);
    for (shift = 7; shift >= 0; --shift) {
      const std::uint64_t power = std::uint64_t{1} << (16 + shift), up = (power + divisor - 1) / divisor;
      if (up < 65536 && top * (up * divisor - power) < power) {
        factor = static_cast<std::uint16_t>(up);
        bias = 0;
        return;
      }
      const std::uint64_t down = power / divisor, missing = power - down * divisor;
      if (down < 65536 && missing > 0 && (top + 1) * missing < power) {
        factor = static_cast<std::uint16_t>(down);
        bias = 1;
        return;
      }
    }
    // a = 1: n itself, as (n + 1) * 65535 >> 16.
    factor = 65535;
    bias = 1;
    shift = 0;
  }
};

struct Plan {
  Divider divide;
  int a, veil_weight, top, half;
  explicit Plan(int blend) : divide(blend), a(blend), veil_weight(255 - blend), top(255 * blend), half(blend / 2) {}
};

template <class In>
void run_baseline(const In* hidden, const std::uint8_t* v, std::uint8_t* out, std::int64_t n, const Plan& plan) {
  const std::uint32_t factor = plan.divide.factor, add = static_cast<std::uint32_t>(plan.half + plan.divide.bias);
  for (std::int64_t i = 0; i < n; ++i) {
    const int t = (sizeof(In) == 1 ? 255 * hidden[i] : hidden[i]) - plan.veil_weight * v[i];
    const std::uint32_t d = static_cast<std::uint32_t>(std::min(std::max(t, 0), plan.top));
    out[i] = static_cast<std::uint8_t>((d + add) * factor >> 16 >> plan.divide.shift);
  }
}

#ifdef VEILKERN_X86
struct Wide256 {
  __m256i weight, add, factor;
  __m128i shift;
  VEILKERN_AVX2 explicit Wide256(const Plan& plan)
      : weight(_mm256_set1_epi16(short(plan.veil_weight))),
        add(_mm256_set1_epi16(short(plan.half + plan.divide.bias))),
        factor(_mm256_set1_epi16(short(plan.divide.factor))), shift(_mm_cvtsi32_si128(plan.divide.shift)) {}
  VEILKERN_AVX2 __m256i operator()(__m256i p, __m256i v) const {
    const __m256i d = _mm256_subs_epu16(p, _mm256_mullo_epi16(v, weight));
    return _mm256_srl_epi16(_mm256_mulhi_epu16(_mm256_adds_epu16(d, add), factor), shift);
  }
};

template <bool stream>
VEILKERN_AVX2 void run_avx2(const std::uint8_t* hidden, const std::uint8_t* v, std::uint8_t* out, std::int64_t n,
                            const Plan& plan) {
  const Wide256 back(plan);
  const __m256i zero = _mm256_setzero_si256();
  const auto times255 = [](__m256i x) VEILKERN_AVX2 { return _mm256_sub_epi16(_mm256_slli_epi16(x, 8), x); };
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(hidden, v, out, i, plan);
  for (; i + 32 <= n; i += 32) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(hidden + i));
    const __m256i vs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i));
    const __m256i low = back(times255(_mm256_unpacklo_epi8(h, zero)), _mm256_unpacklo_epi8(vs, zero));
    const __m256i high = back(times255(_mm256_unpackhi_epi8(h, zero)), _mm256_unpackhi_epi8(vs, zero));
    put<stream>(out + i, _mm256_packus_epi16(low, high));
  }
  if (stream) _mm_sfence();
  run_baseline(hidden + i, v + i, out + i, n - i, plan);
}

template <bool stream>
VEILKERN_AVX2 void run_avx2(const std::uint16_t* hidden, const std::uint8_t* v, std::uint8_t* out, std::int64_t n,
                            const Plan& plan) {
  const Wide256 back(plan);
  const auto half = [&](std::int64_t at) VEILKERN_AVX2 {
    return back(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(hidden + at)),
                _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v + at))));
  };
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(hidden, v, out, i, plan);
  for (; i + 32 <= n; i += 32) {
    const __m256i packed = _mm256_packus_epi16(half(i), half(i + 16));  // lanes come out as 0 2 1 3
    put<stream>(out + i, _mm256_permute4x64_epi64(packed, 0xD8));
  }
  if (stream) _mm_sfence();
  run_baseline(hidden + i, v + i, out + i, n - i, plan);
}

struct Wide512 {
  __m512i weight, add, factor, shift;
  VEILKERN_AVX512 explicit Wide512(const Plan& plan)
      : weight(_mm512_set1_epi16(short(plan.veil_weight))),
        add(_mm512_set1_epi16(short(plan.half + plan.divide.bias))),
        factor(_mm512_set1_epi16(short(plan.divide.factor))), shift(_mm512_set1_epi16(short(plan.divide.shift))) {}
  VEILKERN_AVX512 __m512i operator()(__m512i p, __m512i v) const {
    const __m512i d = _mm512_subs_epu16(p, _mm512_mullo_epi16(v, weight));
    return _mm512_srlv_epi16(_mm512_mulhi_epu16(_mm512_adds_epu16(d, add), factor), shift);
  }
};

template <bool stream>
VEILKERN_AVX512 void run_avx512(const std::uint8_t* hidden, const std::uint8_t* v, std::uint8_t* out, std::int64_t n,
                                const Plan& plan) {
  const Wide512 back(plan);
  const __m512i zero = _mm512_setzero_si512();
  const auto times255 = [](__m512i x) VEILKERN_AVX512 { return _mm512_sub_epi16(_mm512_slli_epi16(x, 8), x); };
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(hidden, v, out, i, plan);
  for (; i + 64 <= n; i += 64) {
    const __m512i h = _mm512_loadu_si512(hidden + i), vs = _mm512_loadu_si512(v + i);
    const __m512i low = back(times255(_mm512_unpacklo_epi8(h, zero)), _mm512_unpacklo_epi8(vs, zero));
    const __m512i high = back(times255(_mm512_unpackhi_epi8(h, zero)), _mm512_unpackhi_epi8(vs, zero));
    put<stream>(out + i, _mm512_packus_epi16(low, high));
  }
  if (stream) _mm_sfence();
  run_baseline(hidden + i, v + i, out + i, n - i, plan);
}

template <bool stream>
VEILKERN_AVX512 void run_avx512(const std::uint16_t* hidden, const std::uint8_t* v, std::uint8_t* out, std::int64_t n,
                                const Plan& plan) {
  const Wide512 back(plan);
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(hidden, v, out, i, plan);
  for (; i + 32 <= n; i += 32) {
    const __m512i vs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i)));
    const __m512i x = back(_mm512_loadu_si512(hidden + i), vs);
    put<stream>(out + i, _mm512_cvtusepi16_epi8(x));
  }
  if (stream) _mm_sfence();
  run_baseline(hidden + i, v + i, out + i, n - i, plan);
}
#endif

template <class In>
using Run = void (*)(const In*, const std::uint8_t*, std::uint8_t*, std::int64_t, const Plan&);

template <class In>
Run<In> choose_run([[maybe_unused]] int a, [[maybe_unused]] bool stream) {
  Run<In> run = run_baseline<In>;
#ifdef VEILKERN_X86
  if (isa() == Isa::avx512 && a > 1 && stream) run = run_avx512<true>;
  if (isa() == Isa::avx512 && a > 1 && !stream) run = run_avx512<false>;
  if (isa() == Isa::avx2 && a > 1 && stream) run = run_avx2<true>;
  if (isa() == Isa::avx2 && a > 1 && !stream) run = run_avx2<false>;
#endif
  return run;
}

template <class In>
void recover(Photos<const In> hidden, const Veils& veils, const std::int64_t* rows,
             Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  const Plan plan(a);
  const auto run = choose_run<In>(a, streams(out, count, pixels));
  for_each_run(count, pixels, threads, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    veils.read(rows[i], begin, end, [&](const std::uint8_t* veil, std::int64_t at, std::int64_t n) {
      run(hidden.photo(i) + at, veil, out.photo(i) + at, n, plan);
    });
  });
}

// Each plane is recovered into the nearest cache and filtered from there, so memory sees it once.
template <class In>
void recover_gaussian(Photos<const In> hidden, const Veils& veils, const std::int64_t* rows,
                      Photos<std::uint8_t> out, std::int64_t count, int a, const Gaussian& filter, int threads) {
  const Plan plan(a);
  const auto run = choose_run<In>(a, false);
  const auto gaussian_plane = VEILKERN_CHOOSE(gaussian_plane);
  const std::int64_t size = filter.height * filter.width, line = filter.width + 2 * filter.radius;
  for_each_part(count * filter.channels, size, threads, [&](std::int64_t begin, std::int64_t end) {
    const Scratch<std::uint32_t> scratch(line + filter.width + (size + 3) / 4);
    auto* const plane = reinterpret_cast<std::uint8_t*>(scratch.data() + line + filter.width);
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t i = k / filter.channels, at = k % filter.channels * size;
      veils.read(rows[i], at, at + size, [&](const std::uint8_t* veil, std::int64_t from, std::int64_t n) {
        run(hidden.photo(i) + from, veil, plane + (from - at), n, plan);
      });
      gaussian_plane(plane, out.photo(i) + at, filter.height, filter.width, filter.weights, filter.radius,
                     scratch.data(), scratch.data() + line);
    }
  });
}

}  // namespace

void recover_u8(Photos<const std::uint8_t> hidden, const Veils& veils, const std::int64_t* rows,
                Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  recover(hidden, veils, rows, out, count, pixels, a, threads);
}

void recover_u16(Photos<const std::uint16_t> hidden, const Veils& veils, const std::int64_t* rows,
                 Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  recover(hidden, veils, rows, out, count, pixels, a, threads);
}

void recover_gaussian_u8(Photos<const std::uint8_t> hidden, const Veils& veils, const std::int64_t* rows,
                         Photos<std::uint8_t> out, std::int64_t count, int a, const Gaussian& filter, int threads) {
  recover_gaussian(hidden, veils, rows, out, count, a, filter, threads);
}

void recover_gaussian_u16(Photos<const std::uint16_t> hidden, const Veils& veils,
                          const std::int64_t* rows, Photos<std::uint8_t> out, std::int64_t count, int a,
                          const Gaussian& filter, int threads) {
  recover_gaussian(hidden, veils, rows, out, count, a, filter, threads);
}

}  // namespace veilkern
