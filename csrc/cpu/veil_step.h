#pragma once
#include "block_variance.h"

namespace veilkern {

// Everything of one step; photos of `channels` x `height` x `width` values lie dense, one after the other.
template <class T>
struct VeilStep {
  T *veils, *momentum;                                   // [P, ..], changed in place
  const T* gradients;                                    // [M, ..] by gradient_offsets
  const std::uint8_t* images;                            // [N, ..] by offsets
  const T* mean_images;                                  // [P, ..] in [0, 1], or null: made from the images
  const std::int64_t *offsets, *gradient_offsets;        // [P + 1]
  const double *lam, *mu, *step, *decay;                 // [P]
  const std::uint8_t* active;                            // [P], or null: everybody
  std::int64_t people, channels, height, width;
  std::int64_t photos, slopes;                           // N, M
  double alpha;
  bool norm;                                             // L_vis is the norm, else the mean square
  Boxes boxes;
};

// statistics [P, 3]: mean|g|, L_vis, L_var at the mean photo; see veilkern/ops/veil_step.py. std::invalid_argument, with
// nothing written, where offsets do not rise from 0 to N and M.
template <class T>
void veil_step(const VeilStep<T>& all, T* statistics, int threads);

}  // namespace veilkern
