#pragma once
#include "cuda/launch.h"

namespace veilkern {

constexpr int SSIM_TAPS = 6;            // from the middle of the longest window outwards: 11 x 11
constexpr unsigned SSIM_THREADS = 256;  // of a block, at most

// What a block takes: `together` planes, `wide` threads each (a multiple of 4), and of each of them the same piece: one
// of `bands` bands of `rows` rows and `strips` strips of `columns` columns (multiples of 4; the last may have fewer).
struct SsimPieces {
  int together, wide;
  int bands, rows;
  int strips, columns;
};

// x, y [N, C, H, W], strides in values; the gradients dense, or null (gradient_y where gradient_x is, too);
// scale [N] or null; scores [N C, bands strips]: sums of S. taps: from the middle outwards, zeros beyond the window;
// border: the first row and the first column that have an S; middle: of the range of values; weight: of an S in the
// gradients, twice.
template <class T>
struct Ssim {
  const T* x;
  std::int64_t x_n, x_c, x_h, x_w;
  const T* y;
  std::int64_t y_n, y_c, y_h, y_w;
  T* gradient_x;
  T* gradient_y;
  const T* scale;
  T* scores;
  std::int64_t planes;
  int channels, height, width;
  int window, border;
  T taps[SSIM_TAPS];
  T middle, c1, c2, weight;
  SsimPieces pieces;
};

template <class T>
cudaError_t ssim(const Ssim<T>& call, cudaStream_t stream);

// Bytes of shared memory that each plane of a block takes, for the caller to see how many the device has room for.
template <class T>
std::size_t ssim_memory(int wide, int window, bool gradients);

}  // namespace veilkern
