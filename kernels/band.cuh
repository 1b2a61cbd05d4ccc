// A block's part of a person's photo, and how it reads photos: what veil_step.cu is written in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/veil_step.h"
#include "device.cuh"

namespace veilkern {

constexpr int CHANNELS = 3;

// A block's part of a person.
template <class T>
struct Band {
  std::int64_t person;
  int rank, rows, first, height, width;  // rows of a band, the last may have fewer; the first of this one
  T* arrays;                             // three of [3, rows, width]
  bool shared;
  std::int64_t apart;                    // from a rank's arrays to the next one's, where they are not in shared memory

  __device__ __forceinline__ int own() const {
    const int left = height - first;
    return left < 0 ? 0 : left < rows ? left : rows;
  }
  __device__ __forceinline__ int plane() const { return rows * width; }

  __device__ __forceinline__ T* mixed() const { return arrays; }  // the mean protected photo
  __device__ __forceinline__ T* lines() const { return arrays + CHANNELS * plane(); }  // its sums of boxes along rows
  __device__ __forceinline__ T* slopes() const { return arrays + 2 * CHANNELS * plane(); }

  // Row y of a channel's `lines`, whichever block of the cluster has it.
  __device__ __forceinline__ const T* line(int channel, int y) const {
    int owner = rank;
    if (unsigned(y - first) >= unsigned(rows)) owner = y / rows;  // seldom: a division is twenty instructions
    const T* here = lines() + channel * plane() + (y - owner * rows) * width;
    return shared ? of_rank(here, owner) : here + (owner - rank) * apart;
  }
};

// A thread's pixels: VEC of a row at a time, all channels.
template <class T, int VEC>
struct Pixels {
  int y, x;            // in the photo
  int place;           // in a channel of the block's arrays
};

template <class T, int VEC>
__device__ __forceinline__ Pixels<T, VEC> pixels(const Band<T>& band, int unit) {
  const int across = band.width / VEC, row = unit / across, x = (unit - row * across) * VEC;
  return {band.first + row, x, row * band.width + x};
}

template <class T, int VEC>
struct Values {
  T of[CHANNELS][VEC];
};

template <class T, int VEC>
__device__ __forceinline__ Values<T, VEC> kept(const T* array, int plane, int place) {
  Values<T, VEC> found;
#pragma unroll
  for (int c = 0; c < CHANNELS; ++c) {
    const Several<T, VEC> values = read<VEC>(array + c * plane + place);
#pragma unroll
    for (int i = 0; i < VEC; ++i) found.of[c][i] = values.of[i];
  }
  return found;
}

template <class T, int VEC>
__device__ __forceinline__ void keep(T* array, int plane, int place, const Values<T, VEC>& values) {
#pragma unroll
  for (int c = 0; c < CHANNELS; ++c) {
    Several<T, VEC> some;
#pragma unroll
    for (int i = 0; i < VEC; ++i) some.of[i] = values.of[c][i];
    write(array + c * plane + place, some);
  }
}

// Pixels of one channel of photo n.
template <class T, class S, int VEC>
__device__ __forceinline__ Several<T, VEC> of_channel(const Photos<S>& photos, std::int64_t n, int c, const Pixels<T, VEC>& at) {
  return read<VEC>(static_cast<const T*>(photos.data) + n * photos.n + c * photos.c + at.y * photos.h + at.x * photos.w);
}

// Values of photo n. LAST: the channels lie side by side, and VEC pixels of them one after another.
template <bool LAST, class T, class S, int VEC>
__device__ __forceinline__ Values<T, VEC> of_photo(const Photos<S>& photos, std::int64_t n, const Pixels<T, VEC>& at) {
  Values<T, VEC> found;
  const auto* place = photos.data + n * photos.n + at.y * photos.h + at.x * photos.w;
  using Value = std::remove_const_t<S>;
  if (LAST) {
    Several<Value, VEC> some[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) some[c] = read<VEC>(place + c * VEC);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
      for (int i = 0; i < VEC; ++i) found.of[c][i] = T(some[(CHANNELS * i + c) / VEC].of[(CHANNELS * i + c) % VEC]);
  } else {
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      const Several<Value, VEC> some = read<VEC>(place + c * photos.c);
#pragma unroll
      for (int i = 0; i < VEC; ++i) found.of[c][i] = T(some.of[i]);
    }
  }
  return found;
}

// Several photos' pixels, as bytes: all are asked for before any is used, so that their reads are on their way together.
template <int VEC>
struct Bytes {
  Several<std::uint8_t, VEC> of[CHANNELS];
};

template <int COUNT, class T, int VEC>
__device__ __forceinline__ void fetch(const Photos<const std::uint8_t>& photos, std::int64_t n, int count,
                                      const Pixels<T, VEC>& at, Bytes<VEC> (&found)[COUNT]) {
  const std::uint8_t* place = photos.data + n * photos.n + at.y * photos.h + at.x * photos.w;
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) found[k].of[c] = read<VEC>(place + c * photos.c);
    if (k + 1 < count) place += photos.n;  // beyond the last one that again: no branch comes between the reads
  }
}

struct Span {
  std::int64_t begin, end;
};

// Where a person's rows of `total` begin and end. Nobody has checked the offsets (the host would wait): a pair that does
// not lie in order within 0..total is none, so that nothing is read beyond.
__device__ __forceinline__ Span span_of(const std::int64_t* offsets, std::int64_t person, std::int64_t total) {
  const std::int64_t begin = offsets[person], end = offsets[person + 1];
  return begin >= 0 && begin <= end && end <= total ? Span{begin, end} : Span{0, 0};
}

}  // namespace veilkern
