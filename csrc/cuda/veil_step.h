#pragma once
#include "cuda/launch.h"

namespace veilkern {

// A tensor [N, 3, H, W] by its address and strides in values.
template <class T>
struct Photos {
  T* data;
  std::int64_t n, c, h, w;
};

// A number for each person, or one for all where there is no table.
struct Rate {
  const double* table;
  double number;
};

template <class T>
struct VeilStep {
  Photos<T> veils, momentum;
  Photos<const T> gradients;
  Photos<const std::uint8_t> images;
  Photos<const T> mean_images;  // data null: the mean of the images
  const std::int64_t *offsets, *gradient_offsets;
  const bool* active;  // null: everybody
  Rate lam, mu, step, decay;
  std::int64_t people, photos, slopes;  // P, N, M
  int height, width, a, block_h, block_w, stride;
  bool norm, literal;
  T *squares, *arrays;  // N x cluster; P x veil_step_array x 3, or null: they fit into shared memory
  T* statistics;        // [P, 3]
  int shift, rows;      // set by veil_step: the cluster's size is 2^shift, a block has so many rows
};

// cluster: blocks a person, 1, 2, 4 or 8; more than one on compute capability 9.0 and later.
template <class T>
cudaError_t veil_step(VeilStep<T> call, int cluster, cudaStream_t stream);

// Values of each of a block's three arrays, and bytes of shared memory that a block takes with them and without.
std::size_t veil_step_array(int height, int width, int cluster);
template <class T>
std::size_t veil_step_memory(int height, int width, int cluster, bool arrays);

}  // namespace veilkern
