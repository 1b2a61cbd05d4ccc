// The windows of ssim.cu: down a column by sums that wait for rows to come, along a row from shared memory; and the score.
#pragma once

#include "cuda/ssim.h"
#include "device.cuh"

namespace veilkern {
namespace {

constexpr int ROWS = 4;     // that go through together
constexpr int COLUMNS = 4;  // that a thread filters along a row: four neighbours have a tile of 4 x 4, down and along
static_assert(ROWS == COLUMNS);

__device__ __forceinline__ float inverse(float value) {
#ifdef __CUDACC__
  float found;  // within a unit of the last place, in one instruction: exact division takes ten
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(value));
  return found;
#else
  return 1 / value;
#endif
}
__device__ __forceinline__ double inverse(double value) { return 1 / value; }

// Four values of one row: a unit each ROWS units.
template <class T>
__device__ __forceinline__ void put(T* place, const T (&values)[4]) {
  constexpr int UNIT = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < 4; i += UNIT) {
    Several<T, UNIT> unit;
#pragma unroll
    for (int k = 0; k < UNIT; ++k) unit.of[k] = values[i + k];
    write(place + i * ROWS, unit);
  }
}

template <class T>
__device__ __forceinline__ void get(const T* place, T (&values)[4]) {
  constexpr int UNIT = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < 4; i += UNIT) {
    const Several<T, UNIT> unit = read<UNIT>(place + i * ROWS);
#pragma unroll
    for (int k = 0; k < UNIT; ++k) values[i + k] = unit.of[k];
  }
}

// The window down a column. A row's value goes at once to all sums that hold it, and each sum takes the register of the
// one before it: nothing is moved. sums[k] is that of the row HALF - 1 - k above the last one that came.
template <class T, int HALF, int MANY>
struct Down {
  T sums[2 * HALF][MANY];

  // Turns the values of a row into the filtered ones of the row HALF above.
  __device__ __forceinline__ void operator()(T (&values)[4], const T* taps) {
#pragma unroll
    for (int q = 0; q < MANY; ++q) {
      const T value = values[q];
      values[q] = sums[0][q] + taps[HALF] * value;
#pragma unroll
      for (int k = 0; k < 2 * HALF - 1; ++k) {
        const int away = HALF - 1 - k;
        sums[k][q] = sums[k + 1][q] + taps[away < 0 ? -away : away] * value;
      }
      sums[2 * HALF - 1][q] = taps[HALF] * value;
    }
  }
};

// The window along a row for COLUMNS columns; place: HALF columns before the first.
template <class T, int HALF, int MANY, int SIZE>
__device__ __forceinline__ void along(const T* place, const T* taps, T (&sums)[COLUMNS][4]) {
#pragma unroll
  for (int k = 0; k < COLUMNS + 2 * HALF; ++k) {
    T values[4];
    get(place + k * SIZE, values);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int away = k - c - HALF;
      if (away < -HALF || away > HALF) continue;
      const T tap = taps[away < 0 ? -away : away];
#pragma unroll
      for (int q = 0; q < MANY; ++q) sums[c][q] = away == -HALF ? tap * values[q] : sums[c][q] + tap * values[q];
    }
  }
}

// S of one place from the blurred x, y, x^2 + y^2 and x y, and its slopes times weight: 2 q, r, px and py.
template <class T, int GRADIENTS>
__device__ __forceinline__ T score(const T (&blurred)[4], const Ssim<T>& call, T weight, T (&slopes)[4]) {
  const T ux = blurred[0], uy = blurred[1], mx = ux + call.middle, my = uy + call.middle;
  const T above1 = 2 * (mx * my) + call.c1, above2 = 2 * (blurred[3] - ux * uy) + call.c2;
  const T below1 = mx * mx + (my * my + call.c1), below2 = (blurred[2] - ux * ux - uy * uy) + call.c2;
  const T one1 = inverse(below1), one2 = inverse(below2);
  // contrast: exactly 1 where nothing varies, so that there no gradient is left of two large terms.
  const T light = above1 * one1, contrast = 1 + (above2 - below2) * one2, found = light * contrast;
  if (GRADIENTS > 0) {
    const T slope1 = one1 * weight, slope2 = one2 * weight;
    slopes[0] = -found * slope2;
    slopes[1] = light * slope2;
    slopes[2] = (my * contrast - mx * found) * slope1 - ux * slopes[0] - uy * slopes[1];
    slopes[3] = GRADIENTS > 1 ? (mx * contrast - my * found) * slope1 - uy * slopes[0] - ux * slopes[1] : T(0);
  }
  return found;
}

}  // namespace
}  // namespace veilkern
