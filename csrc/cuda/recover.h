#pragma once
#include <array>
#include <utility>

#include "cuda/launch.h"

namespace veilkern {

constexpr int RECOVER_FARTHEST = 200;  // gaussian_sigma is at most 100

// protected photos T [N, C, H, W], veils u8 [P, C, H, W], rows i64 [N] -> out u8 [N, C, H, W]; strides in values.
// weights: of the filter, in 4096ths, from its centre outwards. planes, band: what a block writes, as `recover_share`
// says; where out is the photos themselves, all rows of its planes.
template <class T>
struct Recover {
  const T* photos;
  std::int64_t photos_n, photos_c, photos_h, photos_w;
  const std::uint8_t* veils;
  std::int64_t veils_n, veils_c, veils_h, veils_w;
  std::uint8_t* out;
  std::int64_t out_n, out_c, out_h, out_w;
  const std::int64_t* rows;
  std::int64_t people, count;
  int channels, height, width;
  int a, radius, planes, band;
  std::uint16_t weights[RECOVER_FARTHEST + 1];
};

template <class T>
cudaError_t recover(const Recover<T>& call, cudaStream_t stream);

// Of how many planes of a photo a block should write how many rows, for photos of this shape on a device that has so
// much shared memory for a block; 0: too few fit, and the rows that the filter takes from beyond them would be most of
// the work. whole: all rows of a plane, where they fit.
std::pair<int, int> recover_share(int radius, const std::array<std::int64_t, 4>& shape, std::int64_t memory,
                                  std::int64_t processors, bool whole);

}  // namespace veilkern
