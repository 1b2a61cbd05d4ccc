#pragma once
#include "cuda/launch.h"

namespace veilkern {

constexpr int RECOVER_FARTHEST = 200;  // gaussian_sigma is at most 100

// protected photos T [N, C, H, W], veils u8 [P, C, H, W], rows i64 [N] -> out u8 [N, C, H, W]; strides in values. weights:
// of the filter, in 4096ths, from its centre outwards. band: how many rows of a plane a block writes, as `recover_rows`
// says; where out is the photos themselves, all of them.
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
  int a, radius, band;
  std::uint16_t weights[RECOVER_FARTHEST + 1];
};

template <class T>
cudaError_t recover(const Recover<T>& call, cudaStream_t stream);

// How many rows of a plane a block can write with so many bytes of shared memory, at most `height`; 0: not even one.
std::int64_t recover_rows(int radius, std::int64_t height, std::int64_t width, std::int64_t memory);

}  // namespace veilkern
