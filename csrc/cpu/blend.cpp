// blend: x' = (a x + (255 - a) v + 127) div 255 (uint8), or p = a x + (255 - a) v (uint16, lossless).
//
// images u8 [N, 3HW], veils u8 [P, 3HW], rows i64 [N] -> out u8 or u16 [N, 3HW]. Reads N * 3HW bytes of photos and, as
// often from cache as from memory, the veils; writes N * 3HW (or twice that) bytes. Nothing else is touched, so the
// memory is the limit and the arithmetic only has to keep up: (p + 127) div 255 = (p + 128) * 257 >> 16 for every p
// there is, one 16-bit high multiplication (tests/test_blend.py goes through all p).
#include "blend.h"

namespace veilkern {
namespace {

template <class Out>
void run_baseline(const std::uint8_t* x, const std::uint8_t* v, Out* out, std::int64_t n, int a) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t p = static_cast<std::uint32_t>(a * x[i] + (255 - a) * v[i]);
    out[i] = static_cast<Out>(sizeof(Out) == 1 ? (p + 128) * 257u >> 16 : p);
  }
}

#ifdef VEILKERN_X86
template <bool stream>
VEILKERN_AVX2 void run_avx2(const std::uint8_t* x, const std::uint8_t* v, std::uint8_t* out, std::int64_t n, int a) {
  const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi16(128), inverse = _mm256_set1_epi16(257);
  const __m256i wx = _mm256_set1_epi16(short(a)), wv = _mm256_set1_epi16(short(255 - a));
  const auto mix = [&](__m256i x16, __m256i v16) VEILKERN_AVX2 {
    const __m256i p = _mm256_add_epi16(_mm256_mullo_epi16(x16, wx), _mm256_mullo_epi16(v16, wv));
    return _mm256_mulhi_epu16(_mm256_add_epi16(p, half), inverse);
  };
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(x, v, out, i, a);
  for (; i + 32 <= n; i += 32) {
    const __m256i xs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    const __m256i vs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i));
    // unpack and pack work within 128-bit lanes, so the order comes back by itself.
    const __m256i low = mix(_mm256_unpacklo_epi8(xs, zero), _mm256_unpacklo_epi8(vs, zero));
    const __m256i high = mix(_mm256_unpackhi_epi8(xs, zero), _mm256_unpackhi_epi8(vs, zero));
    put<stream>(out + i, _mm256_packus_epi16(low, high));
  }
  if (stream) _mm_sfence();
  run_baseline(x + i, v + i, out + i, n - i, a);
}

template <bool stream>
VEILKERN_AVX2 void run_avx2(const std::uint8_t* x, const std::uint8_t* v, std::uint16_t* out, std::int64_t n, int a) {
  const __m256i wx = _mm256_set1_epi16(short(a)), wv = _mm256_set1_epi16(short(255 - a));
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(x, v, out, i, a);
  for (; i + 16 <= n; i += 16) {
    const __m256i xs = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
    const __m256i vs = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v + i)));
    const __m256i p = _mm256_add_epi16(_mm256_mullo_epi16(xs, wx), _mm256_mullo_epi16(vs, wv));
    put<stream>(out + i, p);
  }
  if (stream) _mm_sfence();
  run_baseline(x + i, v + i, out + i, n - i, a);
}

template <bool stream>
VEILKERN_AVX512 void run_avx512(const std::uint8_t* x, const std::uint8_t* v, std::uint8_t* out, std::int64_t n,
                                int a) {
  const __m512i zero = _mm512_setzero_si512(), half = _mm512_set1_epi16(128), inverse = _mm512_set1_epi16(257);
  const __m512i wx = _mm512_set1_epi16(short(a)), wv = _mm512_set1_epi16(short(255 - a));
  const auto mix = [&](__m512i x16, __m512i v16) VEILKERN_AVX512 {
    const __m512i p = _mm512_add_epi16(_mm512_mullo_epi16(x16, wx), _mm512_mullo_epi16(v16, wv));
    return _mm512_mulhi_epu16(_mm512_add_epi16(p, half), inverse);
  };
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(x, v, out, i, a);
  for (; i + 64 <= n; i += 64) {
    const __m512i xs = _mm512_loadu_si512(x + i), vs = _mm512_loadu_si512(v + i);
    const __m512i low = mix(_mm512_unpacklo_epi8(xs, zero), _mm512_unpacklo_epi8(vs, zero));
    const __m512i high = mix(_mm512_unpackhi_epi8(xs, zero), _mm512_unpackhi_epi8(vs, zero));
    put<stream>(out + i, _mm512_packus_epi16(low, high));
  }
  if (stream) _mm_sfence();
  run_baseline(x + i, v + i, out + i, n - i, a);
}

template <bool stream>
VEILKERN_AVX512 void run_avx512(const std::uint8_t* x, const std::uint8_t* v, std::uint16_t* out, std::int64_t n,
                                int a) {
  const __m512i wx = _mm512_set1_epi16(short(a)), wv = _mm512_set1_epi16(short(255 - a));
  std::int64_t i = stream ? to_line(out, n) : 0;
  run_baseline(x, v, out, i, a);
  for (; i + 32 <= n; i += 32) {
    const __m512i xs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
    const __m512i vs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i)));
    put<stream>(out + i, _mm512_add_epi16(_mm512_mullo_epi16(xs, wx), _mm512_mullo_epi16(vs, wv)));
  }
  if (stream) _mm_sfence();
  run_baseline(x + i, v + i, out + i, n - i, a);
}
#endif

template <class Out>
void blend(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows,
           Photos<Out> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  auto run = run_baseline<Out>;
#ifdef VEILKERN_X86
  const bool stream = streams(out, count, pixels);
  if (isa() == Isa::avx512 && stream) run = run_avx512<true>;
  if (isa() == Isa::avx512 && !stream) run = run_avx512<false>;
  if (isa() == Isa::avx2 && stream) run = run_avx2<true>;
  if (isa() == Isa::avx2 && !stream) run = run_avx2<false>;
#endif
  for_each_run(count, pixels, threads, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    veils.read(rows[i], begin, end, [&](const std::uint8_t* veil, std::int64_t at, std::int64_t n) {
      run(images.photo(i) + at, veil, out.photo(i) + at, n, a);
    });
  });
}

}  // namespace

void blend_u8(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows,
              Photos<std::uint8_t> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  blend(images, veils, rows, out, count, pixels, a, threads);
}

void blend_u16(Photos<const std::uint8_t> images, const Veils& veils, const std::int64_t* rows,
               Photos<std::uint16_t> out, std::int64_t count, std::int64_t pixels, int a, int threads) {
  blend(images, veils, rows, out, count, pixels, a, threads);
}

}  // namespace veilkern
