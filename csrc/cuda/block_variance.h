#pragma once
#include "cuda/launch.h"

namespace veilkern {

// images [N, C, H, W]; gradient like it, or null; strides in values. scale [N] or null; loss [N, C].
template <class T>
struct BlockVariance {
  const T* images;
  std::int64_t images_n, images_c, images_h, images_w;
  T* gradient;
  std::int64_t gradient_n, gradient_c, gradient_h, gradient_w;
  const T* scale;
  T* loss;
  std::int64_t count;
  int channels, height, width;
  int block_h, block_w, stride;
  bool literal;
};

template <class T>
cudaError_t block_variance(const BlockVariance<T>& call, cudaStream_t stream);

// Bytes of shared memory that a block takes, for the caller to see whether the device has them.
template <class T>
std::size_t block_variance_memory(int height, int width, bool plain);

}  // namespace veilkern
