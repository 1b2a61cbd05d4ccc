// Sliding boxes along rows and columns: what block_variance and veil_step_ share. B is the box sum; B^T B is a stencil, of
// a row's and a column's one.
#pragma once

#include "device.cuh"

namespace veilkern {

// Boxes of `block` values, one each `stride`, `boxes` of them in all: how many hold both `place` and `other`.
struct Boxes {
  int block, stride, boxes;

  __device__ __forceinline__ int covering(int place, int other) const {
    const int upper = place > other ? place : other, lower = place < other ? place : other;
    int first = upper - block + 1, last = lower;
    first = first > 0 ? first : 0;
    if (stride != 1) {
      first = first > 0 ? (first - 1) / stride + 1 : 0;  // rounded up, whatever the stride
      last = lower / stride;
    }
    last = last < boxes - 1 ? last : boxes - 1;
    return last >= first ? last - first + 1 : 0;
  }

  // The first and one past the last of `size` places that share a box with `place`, at stride 1 (others: some more).
  __device__ __forceinline__ int first(int place) const { return place - block + 1 > 0 ? place - block + 1 : 0; }
  __device__ __forceinline__ int past(int place, int size) const { return place + block < size ? place + block : size; }
};

// B^T B (x - centre) along one row, for 3-wide boxes at stride 1: VEC columns from x on. row: its first value.
template <class T, int VEC>
__device__ __forceinline__ void along_three(const T* row, int x, int width, T centre, T (&sums)[VEC], T (&z)[VEC]) {
  T near[VEC + 4];
  if (VEC > 1) {  // x and the width are multiples of VEC
    const bool before = x > 0, after = x + VEC < width;
    Several<T, 2> left = {}, right = {};
    if (before) left = read<2>(row + x - 2);
    if (after) right = read<2>(row + x + VEC);
    const Several<T, VEC> here = read<VEC>(row + x);
    near[0] = before ? left.of[0] - centre : T(0);
    near[1] = before ? left.of[1] - centre : T(0);
#pragma unroll
    for (int i = 0; i < VEC; ++i) near[2 + i] = here.of[i] - centre;
    near[VEC + 2] = after ? right.of[0] - centre : T(0);
    near[VEC + 3] = after ? right.of[1] - centre : T(0);
  } else {
#pragma unroll
    for (int i = 0; i < VEC + 4; ++i) {
      const int place = x + i - 2;
      near[i] = place >= 0 && place < width ? row[place] - centre : T(0);
    }
  }
  T boxes[VEC + 2];  // those that begin at x - 2, x - 1, ..
#pragma unroll
  for (int i = 0; i < VEC + 2; ++i) {
    const int begin = x + i - 2;
    boxes[i] = begin >= 0 && begin + 2 < width ? near[i] + near[i + 1] + near[i + 2] : T(0);
  }
#pragma unroll
  for (int i = 0; i < VEC; ++i) {
    sums[i] = boxes[i] + boxes[i + 1] + boxes[i + 2];
    z[i] = near[i + 2];
  }
}

// The same for one column and any boxes.
template <class T>
__device__ __forceinline__ T along_any(const T* row, int x, int width, T centre, const Boxes& along) {
  T sum = 0;
  for (int other = along.first(x); other < along.past(x, width); ++other)
    sum += T(along.covering(x, other)) * (row[other] - centre);
  return sum;
}

}  // namespace veilkern
