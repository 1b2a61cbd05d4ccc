// recover (eq. 14, corrected) with its Gaussian filter, in integers: x = clamp(floor((2 t + a) / (2 a)), 0, 255), then
// (sum_ij w_i w_j x_ij + 2^23) div 2^24, w in 4096ths, borders reflected (t, and why it fits 32 bits: recover.py).
//
// protected u8 or u16 [N, 3, H, W], veils u8 [P, 3, H, W], rows i64 [N] -> out u8 [N, 3, H, W].
//
// Traffic: each photo is read once and written once, 2 bytes a value from u8 and 3 from u16, and the veil's byte, from
// L2 where many photos share it: 10 values a cycle and processor of an H200; 7 with veils from memory. Triton's version
// recovers 2 r + 1 values for each one it writes. Here a block recovers each value once (and 2 r rows more than it
// writes, if it takes but a band of a plane), keeps the bytes in shared memory, and filters along rows, then down
// columns.
//
// What counts is instructions: 128 a cycle and processor, 64 of them integer products. Of a value at r = 2, 19:
//   Recovered, 5.7: a dot product of two bytes with two factors (IDP.2A, and half a permutation) adds t to the bits of
//   a float; FFMA.SAT makes x / 255 of it, clamped, and FFMA rounds that into the lowest byte: exact, and at twice the
//   rate of integer products. Three permutations pack four.
//   Along the row, 3.5: r + 1 such dot products, with two weights each, on words as they lie in shared memory: pairs of
//   weights that begin one byte earlier serve every other column.
//   Down the column, 6.9: a thread has eight columns and walks down; the last 2 r + 1 rows' sums are a ring of
//   registers, r sums of two and r + 1 products a value, one byte permuted out of each total.
//   The rest: beginning, borders, the 2 r rows of sums before a thread's first one. So a thread should walk far: from 4
//   photos a processor on, a block takes all planes of one (42 KB at 112 x 112: five blocks a processor, 38 rows a
//   thread).
// That is 6.7 values a cycle and processor at best: all that memory brings if veils are read from it too, 65 % of a
// copy's speed if they come from L2; from u16 more than 90 % of either.
//
// Other radii: a loop instead of unrolled code, the sums of all rows in shared memory (50 KB at 112 x 112), and r + 1
// dot products and 2 r + 4 products a value.
// ACCESS recover_near<unsigned char, 2, true>: load 8, store 8
// ACCESS recover_near<unsigned short, 2, true>: load 16, store 8
// ACCESS recover_far<unsigned char, true>: load 8, store 8
#include "cuda/recover.h"

#include <algorithm>
#include <cmath>

#include "device.cuh"
#include "recovered.cuh"

namespace veilkern {
namespace {

constexpr int NEAR_BATCH = 4, FAR_BATCH = 2;  // and rows
constexpr unsigned NEAR_THREADS = 128, FAR_THREADS = 256;
constexpr int PIECE = 32;  // rows of bytes that the far kernel has at a time
constexpr int TILE = 4;    // columns and rows that a thread of it sums at once
constexpr std::int64_t FEW = 16;              // rows of a band, at least, where planes are few
constexpr unsigned HALF = 1u << 23;           // a level of the result is 2^24

// The near kernels' weights: from -r to r in pairs, which begin with the first one or before it, and from the centre
// outwards.
struct Taps {
  unsigned even[NEAR + 1], odd[NEAR + 1], down[NEAR + 1];
};

// EACH columns' sums along a row: RADIUS + 1 pairs each, whether its window begins at an even byte or at an odd one.
template <int RADIUS>
__device__ __forceinline__ void along(const unsigned char* place, const Taps& taps, unsigned (&sums)[EACH]) {
  const unsigned* words = reinterpret_cast<const unsigned*>(place);
  const Eight middle = read<2>(words);
  const unsigned window[4] = {words[-1], middle.of[0], middle.of[1], words[2]};
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int start = NEAR + i - RADIUS;
    sums[i] = 0;
#pragma unroll
    for (int m = 0; m <= RADIUS; ++m) {
      const int two = start / 2 + m;
      const unsigned pair = start % 2 ? taps.odd[m] : taps.even[m], word = window[two / 2];
      sums[i] = two % 2 ? dot<true>(pair, word, sums[i]) : dot<false>(pair, word, sums[i]);
    }
  }
}

// And down the columns, of the rows' sums in `ring` from `first` on.
template <int RADIUS>
__device__ __forceinline__ Eight down(const unsigned (&ring)[2 * RADIUS + 1][EACH], int first, const Taps& taps) {
  constexpr int ROWS = 2 * RADIUS + 1;
  unsigned totals[EACH];
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    totals[i] = HALF + taps.down[0] * ring[(first + RADIUS) % ROWS][i];
#pragma unroll
    for (int k = 1; k <= RADIUS; ++k)
      totals[i] += taps.down[k] * (ring[(first + RADIUS - k) % ROWS][i] + ring[(first + RADIUS + k) % ROWS][i]);
  }
  return {{bytes_of<3>(totals), bytes_of<3>(totals + 4)}};
}

// EACH columns of `rows` rows. Where in the ring a row's sums lie is known when this is compiled: it is all registers.
template <int RADIUS, bool WHOLE>
__device__ __forceinline__ void walk(const unsigned char* row, int pitch, std::uint8_t* out, std::int64_t step_h,
                                     std::int64_t step_w, int there, int rows, const Taps& taps) {
  constexpr int ROWS = 2 * RADIUS + 1;
  unsigned ring[ROWS][EACH];
#pragma unroll
  for (int k = 0; k < ROWS - 1; ++k, row += pitch) along<RADIUS>(row, taps, ring[k]);
  for (; rows > 0; rows -= ROWS) {
#pragma unroll
    for (int k = 0; k < ROWS; ++k, row += pitch, out += step_h) {
      if (k >= rows) return;
      along<RADIUS>(row, taps, ring[(k + ROWS - 1) % ROWS]);
      put<WHOLE>(out, step_w, there, down<RADIUS>(ring, k, taps));
    }
  }
}

// Blocks a processor for which there are registers.
constexpr int near_blocks(int radius, bool whole) { return !whole ? 3 : radius < 3 ? 6 : 8 - radius; }

template <class T, int RADIUS, bool WHOLE>
__global__ void __launch_bounds__(NEAR_THREADS, near_blocks(RADIUS, WHOLE))
    recover_near(const __grid_constant__ Recover<T> call, const __grid_constant__ Plan plan,
                 const __grid_constant__ Taps taps) {
  Plane<T> plane(call, plan);
  const Place at(plan.eights, call.width);
  if (!plane.veiled) return blacken<WHOLE>(call, plane, at);
  unsigned char* kept = block_memory() + plan.lines.before;
  const int pitch = plan.lines.pitch, rows = plane.rows + 2 * RADIUS, top = plane.first - RADIUS;
  const int low = top > 0 ? top : 0, high = top + rows < call.height ? top + rows : call.height;
  const int mine = int(unsigned(at.y) / unsigned(plan.slots)), begin = (at.y - mine * plan.slots) * plan.deep;
  const int left = plane.rows - begin;
  std::uint8_t* out = plane.out + mine * call.out_c + begin * call.out_h;
  for (int i = 0; i < call.planes; ++i, plane.advance(call))
    fetch<WHOLE, NEAR_BATCH>(call, plan, plane, low, high - low, kept + (i * rows + low - top) * pitch, at);
  __syncthreads();
  for (int i = 0; i < call.planes; ++i)
    reflect_rows(kept + i * rows * pitch, pitch, top, rows, call.height, call.width, RADIUS, at);
  __syncthreads();
  reflect_ends<1>(kept, pitch, call.planes * rows, call.width, RADIUS);
  __syncthreads();
  if (mine >= call.planes || left <= 0) return;
  for (int x = at.x; x < call.width; x += at.columns)
    walk<RADIUS, WHOLE>(kept + (mine * rows + begin) * pitch + x, pitch, out + x * across<WHOLE>(call.out_w),
                        call.out_h, call.out_w, call.width - x, left < plan.deep ? left : plan.deep, taps);
}

// The far kernel has in shared memory the rows' sums, the weights, and PIECE rows of bytes. span: the radius up to a
// multiple of 4, so that a window begins with a word; pitch, rows: of the sums.
struct Far {
  int span, pitch, rows;
};

// The weights as pairs, of bytes i - 5 and i - 4 of a window the i-th; 0 beyond the radius.
__host__ __device__ inline int pairs_of(int span) { return 2 * span + 12; }

template <class T>
__device__ __forceinline__ void lay_out(const Recover<T>& call, unsigned* pairs, int span) {
  const auto weight = [&](int place) {
    const int away = place < span ? span - place : place - span;
    return away <= call.radius ? unsigned(call.weights[away]) : 0u;
  };
  for (int i = threadIdx.x; i < pairs_of(span); i += FAR_THREADS) pairs[i] = weight(i - 5) | weight(i - 4) << 16;
}

// TILE columns' sums along each row. Each word of their windows is read once, and of the six pairs that meet it four:
// two have met the word before.
__device__ __forceinline__ void sum_along(const unsigned char* kept, int pitch, const unsigned* pairs, int span,
                                          unsigned* sums, int sums_pitch, int rows, int width, const Place& at) {
  for (int y = at.y; y < rows; y += at.rows)
    for (int x = at.x; x < width; x += at.columns) {
      const unsigned* words = reinterpret_cast<const unsigned*>(kept + y * pitch + x - span);
      Several<unsigned, TILE> found{};
      unsigned six[6] = {0, 0, 0, 0, pairs[2], pairs[3]};
      for (int k = 0; k <= span / 2; ++k) {
        const unsigned word = words[k];
        const Several<unsigned, 4> next = read<4>(pairs + 4 * k + 4);
        six[0] = six[4], six[1] = six[5];
#pragma unroll
        for (int i = 0; i < 4; ++i) six[2 + i] = next.of[i];
#pragma unroll
        for (int i = 0; i < TILE; ++i)
          found.of[i] = dot<true>(six[5 - i], word, dot<false>(six[3 - i], word, found.of[i]));
      }
      write(sums + y * sums_pitch + x, found);
    }
}

// And down the columns, TILE by TILE values a thread: each sum is read once for all of these rows. `low`: the first row
// that has sums.
template <bool WHOLE, class T>
__device__ __forceinline__ void sum_down(const Recover<T>& call, const Plane<T>& plane, const unsigned* sums,
                                         int sums_pitch, int low, const unsigned* pairs, int span, const Place& at) {
  for (int y = TILE * at.y; y < plane.rows; y += TILE * at.rows)
    for (int x = at.x; x < call.width; x += at.columns) {
      const int tall = plane.rows - y < TILE ? plane.rows - y : TILE;
      unsigned totals[TILE][TILE], taps[TILE] = {};
#pragma unroll
      for (int t = 0; t < TILE; ++t)
#pragma unroll
        for (int i = 0; i < TILE; ++i) totals[t][i] = HALF;
#pragma unroll 4
      for (int away = -call.radius; away < call.radius + tall; ++away) {
        const int source = reflected(plane.first + y + away, call.height) - low;
        const Several<unsigned, TILE> row = read<TILE>(sums + source * sums_pitch + x);
#pragma unroll
        for (int t = TILE - 1; t > 0; --t) taps[t] = taps[t - 1];
        taps[0] = pairs[span + away + 5] & 0xFFFF;
#pragma unroll
        for (int t = 0; t < TILE; ++t)
#pragma unroll
          for (int i = 0; i < TILE; ++i) totals[t][i] += taps[t] * row.of[i];
      }
#pragma unroll
      for (int t = 0; t < TILE; ++t)
        if (t < tall)
          put<WHOLE>(plane.out + (y + t) * call.out_h + x * across<WHOLE>(call.out_w), call.out_w, call.width - x,
                     Several<unsigned, 1>{{bytes_of<3>(totals[t])}});
    }
}

template <class T, bool WHOLE>
__global__ void __launch_bounds__(FAR_THREADS, WHOLE ? 3 : 1)
    recover_far(const __grid_constant__ Recover<T> call, const __grid_constant__ Plan plan,
                const __grid_constant__ Far of) {
  const Plane<T> plane(call, plan);
  const Place eights(plan.eights, call.width), tiles(spread_of(FAR_THREADS, TILE, call.width), call.width);
  if (!plane.veiled) return blacken<WHOLE>(call, plane, eights);
  unsigned* sums = reinterpret_cast<unsigned*>(block_memory());
  unsigned* pairs = sums + of.rows * of.pitch;
  unsigned char* kept = reinterpret_cast<unsigned char*>(pairs + pairs_of(of.span)) + plan.lines.before;
  const int pitch = plan.lines.pitch, before = plane.first - call.radius, past = plane.first + plane.rows + call.radius;
  const int low = before > 0 ? before : 0, high = past < call.height ? past : call.height;
  lay_out(call, pairs, of.span);
  for (int y = low; y < high; y += PIECE) {
    const int rows = high - y < PIECE ? high - y : PIECE;
    fetch<WHOLE, FAR_BATCH>(call, plan, plane, y, rows, kept, eights);
    __syncthreads();
    reflect_ends<WARP>(kept, pitch, rows, call.width, call.radius);
    __syncthreads();
    sum_along(kept, pitch, pairs, of.span, sums + (y - low) * of.pitch, of.pitch, rows, call.width, tiles);
    __syncthreads();
  }
  sum_down<WHOLE>(call, plane, sums, of.pitch, low, pairs, of.span, tiles);
}

// Whether EACH values of each row of each plane can be read and written at once.
template <class T>
bool in_eights(const Recover<T>& call) {
  const auto whole = [](const auto* data, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    return reinterpret_cast<std::uintptr_t>(data) % (EACH * sizeof(*data)) == 0 && w == 1 && n % EACH == 0 &&
           c % EACH == 0 && h % EACH == 0;
  };
  return call.width % EACH == 0 && whole(call.photos, call.photos_n, call.photos_c, call.photos_h, call.photos_w) &&
         whole(call.veils, call.veils_n, call.veils_c, call.veils_h, call.veils_w) &&
         whole(call.out, call.out_n, call.out_c, call.out_h, call.out_w);
}

template <class T>
Inverse inverse_of(int a) {
  const unsigned photo = sizeof(T) == 1 ? 255 : 0, veil = unsigned(a - 255) & 0xFFFF;
  // More by 2^-20 than 1 / (255 a): halves, which only an even a has, then go up, as they should, and for all the
  // roundings that follow no other value passes a half: it is 1 / (2 a) away at least (tested for every a and t).
  const float scale = float((1 + std::ldexp(1.0, -20)) / (255 * a));
  return {photo | veil << 16, scale, -std::ldexp(scale, 23)};
}

Taps taps_of(int radius, const std::uint16_t* weights) {
  const auto weight = [=](int place) {
    const int away = place < radius ? radius - place : place - radius;
    return away <= radius ? unsigned(weights[away]) : 0u;
  };
  Taps taps{};
  for (int m = 0; m <= radius; ++m) {
    taps.even[m] = weight(2 * m) | weight(2 * m + 1) << 16;
    taps.odd[m] = weight(2 * m - 1) | weight(2 * m) << 16;
    taps.down[m] = weights[m];
  }
  return taps;
}

// Bytes of shared memory: those that do not depend on the rows, and a row's.
struct Needed {
  std::int64_t always, row;
};
Needed needed_of(int radius, std::int64_t width) {
  const Lines lines = lines_of(radius, width);
  if (radius <= NEAR) return {lines.before, lines.pitch};
  return {std::int64_t{PIECE} * lines.pitch + 4 * pairs_of(int(up_to(radius, 4))), 4 * up_to(width, TILE)};
}

template <class T, bool WHOLE>
cudaError_t launched(const Recover<T>& call, cudaStream_t stream) {
  const int radius = call.radius, bands = (call.height + call.band - 1) / call.band;
  const int groups = call.channels / call.planes, all = call.band + 2 * radius;
  const bool near = radius <= NEAR;
  const int rows = near ? all : std::min(all, call.height);  // near: with those beyond the border
  const Needed needed = needed_of(radius, call.width);
  const Grid grid{call.count * groups * bands, near ? NEAR_THREADS : FAR_THREADS, 1,
                  std::size_t(needed.always + call.planes * rows * needed.row)};
  const Spread eights = spread_of(grid.threads, EACH, call.width);
  const int slots = eights.rows / call.planes;
  const Plan plan{inverse_of<T>(call.a), eights, eights.rows * call.photos_h, eights.rows * call.veils_h,
                  lines_of(radius, call.width), bands, groups, slots, (call.band + slots - 1) / slots};
  const Far far{int(up_to(radius, 4)), int(up_to(call.width, TILE)), rows};
  if (!near) return launch(recover_far<T, WHOLE>, grid, stream, call, plan, far);
  const Taps taps = taps_of(radius, call.weights);
  switch (radius) {
    case 1: return launch(recover_near<T, 1, WHOLE>, grid, stream, call, plan, taps);
    case 2: return launch(recover_near<T, 2, WHOLE>, grid, stream, call, plan, taps);
    case 3: return launch(recover_near<T, 3, WHOLE>, grid, stream, call, plan, taps);
    default: return launch(recover_near<T, 4, WHOLE>, grid, stream, call, plan, taps);
  }
}

// How many rows of a plane a block can write with so many bytes; 0: not even one.
std::int64_t rows_that_fit(int radius, std::int64_t height, std::int64_t width, std::int64_t memory) {
  const Needed needed = needed_of(radius, width);
  const std::int64_t there = memory < needed.always ? 0 : (memory - needed.always) / needed.row;
  if (radius > NEAR && there >= height) return height;
  return std::min(height, std::max(there - 2 * radius, std::int64_t{0}));
}

// Whether a block should take all planes of a photo: its threads then walk further, and begin less often.
bool all_planes(int radius, std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t memory) {
  const Needed needed = needed_of(radius, width);
  const Spread eights = spread_of(NEAR_THREADS, EACH, int(width));
  const std::int64_t walking = eights.rows / channels * channels * eights.across;
  return radius <= NEAR && 10 * walking >= 9 * std::int64_t{NEAR_THREADS} &&
         needed.always + channels * (height + 2 * radius) * needed.row <= memory;
}

}  // namespace

template <class T>
cudaError_t recover(const Recover<T>& call, cudaStream_t stream) {
  const bool possible = call.radius >= 1 && call.radius <= RECOVER_FARTHEST && call.band >= 1 && call.planes >= 1;
  if (!possible || call.channels % call.planes != 0 || (call.radius > NEAR && call.planes > 1))
    return cudaErrorInvalidValue;
  return in_eights(call) ? launched<T, true>(call, stream) : launched<T, false>(call, stream);
}

std::pair<int, int> recover_share(int radius, const std::array<std::int64_t, 4>& shape, std::int64_t memory,
                                  std::int64_t processors, bool whole) {
  const auto [count, channels, height, width] = shape;
  const std::int64_t least = std::min<std::int64_t>(height, std::max(8, radius / 4));
  const std::int64_t enough = std::min<std::int64_t>(height, std::max(32, 4 * radius));
  std::int64_t rows = 0;
  for (const int blocks : {6, 3, 2, 1})  // a processor: as many as leave a band enough rows, and have registers
    if (rows < enough && (blocks <= 3 || radius <= NEAR)) rows = rows_that_fit(radius, height, width, memory / blocks);
  if (rows == 0 || rows < least) return {0, 0};
  if (rows == height && count >= 4 * processors && all_planes(radius, channels, height, width, memory / 5))
    return {int(channels), int(height)};
  const std::int64_t parts = 2 * processors / std::max<std::int64_t>(1, count * channels) + 1;  // two a processor
  if (!whole) rows = std::min(rows, std::max(FEW, (height + parts - 1) / parts));
  const std::int64_t bands = (height + rows - 1) / rows;
  return {1, int((height + bands - 1) / bands)};
}

template cudaError_t recover(const Recover<std::uint8_t>&, cudaStream_t);
template cudaError_t recover(const Recover<std::uint16_t>&, cudaStream_t);

}  // namespace veilkern
