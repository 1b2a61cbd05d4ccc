// Rows of recovered bytes in shared memory: what recover.cu's filters begin with. Its opening comment says how and why.
#pragma once

#include <cstdint>

#include "cuda/recover.h"
#include "device.cuh"

namespace veilkern {
namespace {

constexpr int NEAR = 4;                       // radii up to this have a kernel each; any other is far
constexpr int EACH = 8;                       // columns that a thread reads at once
constexpr unsigned FLOAT_UNITS = 0x4B000000;  // the bits of 2^23 as a float: the last one is worth 1

using Eight = Several<unsigned, 2>;  // EACH bytes

// Step from column to column.
template <bool WHOLE>
__device__ __forceinline__ std::int64_t across(std::int64_t step_w) {
  return WHOLE ? 1 : step_w;
}

// Index of a row that may lie up to size - 1 beyond either border.
__device__ __forceinline__ int reflected(int place, int size) {
  const int there = place < 0 ? -place : place, other = 2 * (size - 1) - there;
  return there < other ? there : other;
}

__host__ __device__ inline std::int64_t up_to(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Rows of recovered bytes in shared memory: where the first begins, and how far on the next one does. On either side of
// a row is room for `radius` more; near rows share what lies between them, of which each needs no more than half.
struct Lines {
  int before, pitch;
};
__host__ __device__ inline Lines lines_of(int radius, std::int64_t width) {
  const int before = int(up_to(radius, EACH));
  return {before, int(up_to(width, EACH)) + (radius <= NEAR ? before : 2 * before)};
}

// A block's threads as rows of `across`; a thread has `wide` columns at once.
struct Spread {
  int across, rows, wide, inverse;  // inverse: 2^16 / across and a little, exact for any thread's number
};
__host__ __device__ inline Spread spread_of(unsigned threads, int wide, int width) {
  const int needed = (width + wide - 1) / wide, across = needed < int(threads) ? needed : int(threads);
  return {across, int(threads) / across, wide, 65536 / across + 1};
}

// A thread's first column and row, and how far on the next ones are.
struct Place {
  int x, columns, y, rows;

  __device__ __forceinline__ Place(const Spread& spread, int width) {
    y = int(threadIdx.x) * spread.inverse >> 16;
    x = (int(threadIdx.x) - y * spread.across) * spread.wide;
    columns = spread.across * spread.wide;
    rows = spread.rows;
    if (y >= rows) x = width;  // a thread too many
  }
};

// sum + two signed numbers of `pair` times bytes 0 and 1 of `four` (HIGH: 2 and 3).
template <bool HIGH>
__device__ __forceinline__ unsigned signed_dot(unsigned pair, unsigned four, unsigned sum) {
#ifdef __CUDACC__
  unsigned found;
  if constexpr (HIGH)
    asm("dp2a.hi.s32.u32 %0, %1, %2, %3;" : "=r"(found) : "r"(pair), "r"(four), "r"(sum));
  else
    asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(found) : "r"(pair), "r"(four), "r"(sum));
  return found;
#else
  const auto whole = [](unsigned half) { return half < 0x8000 ? half : half | 0xFFFF0000; };
  const unsigned two = HIGH ? four >> 16 : four;
  return sum + whole(pair & 0xFFFF) * (two & 255) + whole(pair >> 16) * (two >> 8 & 255);
#endif
}

// The same of two numbers without signs.
template <bool HIGH>
__device__ __forceinline__ unsigned dot(unsigned pair, unsigned four, unsigned sum) {
  return HIGH ? __dp2a_hi(pair, four, sum) : __dp2a_lo(pair, four, sum);
}

// Byte WHICH of each of four numbers.
template <int WHICH>
__device__ __forceinline__ unsigned bytes_of(const unsigned* numbers) {
  constexpr unsigned two = WHICH | (4 + WHICH) << 4;
  return __byte_perm(__byte_perm(numbers[0], numbers[1], two), __byte_perm(numbers[2], numbers[3], two), 0x5410);
}

// What values are recovered with: the factors of x' (for p 0) and v in t; a little more than 1 / (255 a), and -2^23
// times that.
struct Inverse {
  unsigned factors;
  float scale, offset;
};

// What the host works out of a call.
struct Plan {
  Inverse by;
  Spread eights;
  std::int64_t photo_step, veil_step;  // from one row of a thread to its next one
  Lines lines;
  int bands, groups;  // blocks a plane, and in how many groups of planes a photo is taken
  int slots, deep;    // near: how many threads walk down a column of a plane, and how many rows each has
};

// x of four values from t + FLOAT_UNITS, which as a float is 2^23 + t, and less than 2^23 where t is negative.
__device__ __forceinline__ unsigned quotients(unsigned (&t)[4], const Inverse& by) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float part = __saturatef(__fmaf_rn(__uint_as_float(t[i]), by.scale, by.offset));
    t[i] = __float_as_uint(__fmaf_rn(part, 255.0f, 8388608.0f));
  }
  return bytes_of<0>(t);
}

__device__ __forceinline__ unsigned recovered(const std::uint8_t*, const unsigned* photo, unsigned veil,
                                              const Inverse& by) {
  const unsigned low = __byte_perm(photo[0], veil, 0x5140), high = __byte_perm(photo[0], veil, 0x7362);
  unsigned t[4] = {signed_dot<false>(by.factors, low, FLOAT_UNITS), signed_dot<true>(by.factors, low, FLOAT_UNITS),
                   signed_dot<false>(by.factors, high, FLOAT_UNITS), signed_dot<true>(by.factors, high, FLOAT_UNITS)};
  return quotients(t, by);
}

__device__ __forceinline__ unsigned recovered(const std::uint16_t*, const unsigned* photo, unsigned veil,
                                              const Inverse& by) {
  constexpr unsigned units = FLOAT_UNITS >> 16;
  const unsigned first = by.factors >> 16, second = by.factors & 0xFFFF0000;
  unsigned t[4] = {signed_dot<false>(first, veil, __byte_perm(photo[0], units, 0x5410)),
                   signed_dot<false>(second, veil, __byte_perm(photo[0], units, 0x5432)),
                   signed_dot<true>(first, veil, __byte_perm(photo[1], units, 0x5410)),
                   signed_dot<true>(second, veil, __byte_perm(photo[1], units, 0x5432))};
  return quotients(t, by);
}

// EACH values of a row, as words; those beyond its end are 0.
template <bool WHOLE, class T>
__device__ __forceinline__ Several<unsigned, 2 * sizeof(T)> words_of(const T* place, std::int64_t step, int there) {
  if constexpr (WHOLE) {
    return read<2 * sizeof(T)>(reinterpret_cast<const unsigned*>(place));
  } else {
    constexpr int in_word = 4 / sizeof(T), bits = 8 * sizeof(T);
    Several<unsigned, 2 * sizeof(T)> words{};
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (i < there) words.of[i / in_word] |= unsigned(place[i * step]) << i % in_word * bits;
    return words;
  }
}

// The bytes of WORDS words into a row, as far as it goes.
template <bool WHOLE, int WORDS>
__device__ __forceinline__ void put(std::uint8_t* place, std::int64_t step, int there,
                                    const Several<unsigned, WORDS>& words) {
  if constexpr (WHOLE) {
    write(reinterpret_cast<unsigned*>(place), words);
  } else {
#pragma unroll
    for (int i = 0; i < 4 * WORDS; ++i)
      if (i < there) place[i * step] = std::uint8_t(words.of[i / 4] >> i % 4 * 8);
  }
}

// One plane of a photo, of its veil and of the result; at first the first one of a block.
template <class T>
struct Plane {
  const T* photo;
  const std::uint8_t* veil;
  std::uint8_t* out;
  int first, rows;  // those to write; `out` begins there
  bool veiled;

  __device__ __forceinline__ Plane(const Recover<T>& call, const Plan& plan) {
    const unsigned bands = unsigned(plan.bands), groups = unsigned(plan.groups), group = blockIdx.x / bands;
    const std::int64_t number = group / groups, channel = group % groups * unsigned(call.planes);
    const std::int64_t person = call.rows[number];
    first = int(blockIdx.x % bands) * call.band;
    rows = call.height - first < call.band ? call.height - first : call.band;
    veiled = person >= 0 && person < call.people;
    photo = call.photos + number * call.photos_n + channel * call.photos_c;
    veil = call.veils + (veiled ? person : 0) * call.veils_n + channel * call.veils_c;
    out = call.out + number * call.out_n + channel * call.out_c + first * call.out_h;
  }

  __device__ __forceinline__ void advance(const Recover<T>& call) {
    photo += call.photos_c, veil += call.veils_c, out += call.out_c;
  }
};

// A row that names no veil reads nothing: a black photo, never an unveiled one.
template <bool WHOLE, class T>
__device__ __forceinline__ void blacken(const Recover<T>& call, Plane<T> plane, const Place& at) {
  for (int i = 0; i < call.planes; ++i, plane.advance(call))
    for (int y = at.y; y < plane.rows; y += at.rows)
#pragma unroll 1
      for (int x = at.x; x < call.width; x += at.columns)
        put<WHOLE>(plane.out + y * call.out_h + x * across<WHOLE>(call.out_w), call.out_w, call.width - x, Eight{});
}

// A thread's way down the rows of a plane: where it reads next, and where in shared memory the recovered bytes go.
template <class T>
struct Way {
  const T* photo;
  const std::uint8_t* veil;
  unsigned char* kept;
};

// EACH columns of the next ROWS rows.
template <bool WHOLE, int ROWS, class T>
__device__ __forceinline__ void fetch_rows(const Recover<T>& call, const Plan& plan, Way<T>& way, int there) {
  Several<unsigned, 2 * sizeof(T)> hidden[ROWS];
  Eight v[ROWS];
#pragma unroll
  for (int k = 0; k < ROWS; ++k, way.photo += plan.photo_step, way.veil += plan.veil_step) {
    hidden[k] = words_of<WHOLE>(way.photo, call.photos_w, there);
    v[k] = words_of<WHOLE>(way.veil, call.veils_w, there);
  }
#pragma unroll
  for (int k = 0; k < ROWS; ++k, way.kept += plan.eights.rows * plan.lines.pitch) {
    const Eight found{{recovered(way.photo, hidden[k].of, v[k].of[0], plan.by),
                       recovered(way.photo, hidden[k].of + sizeof(T), v[k].of[1], plan.by)}};
    write(reinterpret_cast<unsigned*>(way.kept), found);
  }
}

// Rows first, first + 1, .. of a plane into shared memory, recovered.
template <bool WHOLE, int BATCH, class T>
__device__ __forceinline__ void fetch(const Recover<T>& call, const Plan& plan, const Plane<T>& plane, int first,
                                      int rows, unsigned char* kept, const Place& at) {
  const int y = first + at.y;
  for (int x = at.x; x < call.width; x += at.columns) {
    Way<T> way{plane.photo + y * call.photos_h + x * across<WHOLE>(call.photos_w),
               plane.veil + y * call.veils_h + x * across<WHOLE>(call.veils_w), kept + at.y * plan.lines.pitch + x};
    int left = rows - at.y;
    for (; left > (BATCH - 1) * at.rows; left -= BATCH * at.rows)
      fetch_rows<WHOLE, BATCH>(call, plan, way, call.width - x);
    for (; left > 0; left -= at.rows) fetch_rows<WHOLE, 1>(call, plan, way, call.width - x);
  }
}

// The first and last `radius` of `rows` rows, where they lie beyond the plane; they begin with its row `top`.
__device__ __forceinline__ void reflect_rows(unsigned char* kept, int pitch, int top, int rows, int height, int width,
                                             int radius, const Place& at) {
  const auto words_at = [=](int y, int x) { return reinterpret_cast<unsigned*>(kept + y * pitch + x); };
#pragma unroll 1
  for (int i = at.y; i < 2 * radius; i += at.rows) {
    const int y = i < radius ? i : rows - 2 * radius + i, source = reflected(top + y, height) - top;
    if (source == y) continue;
#pragma unroll 1
    for (int x = at.x; x < width; x += at.columns) write(words_at(y, x), read<2>(words_at(source, x)));
  }
}

// What lies beyond either end of each row: LANES threads a row.
template <unsigned LANES>
__device__ __forceinline__ void reflect_ends(unsigned char* kept, int pitch, int rows, int width, int radius) {
#pragma unroll 1
  for (int y = threadIdx.x / LANES; y < rows; y += int(blockDim.x / LANES)) {
    unsigned char *left = kept + y * pitch, *right = left + width - 1;
#pragma unroll
    for (int i = 1 + int(threadIdx.x % LANES); i <= radius; i += int(LANES)) left[-i] = left[i], right[i] = right[-i];
  }
}

}  // namespace
}  // namespace veilkern
