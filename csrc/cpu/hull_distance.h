#pragma once
#include <cstdint>

namespace veilkern {

enum class Subspace { convex, affine, span, centre, self };

// Features [N, d] of people by offsets [P + 1], their clean features [M, d] by clean_offsets; rows lie `dimensions` apart.
template <class T>
struct Hulls {
  const T *features, *clean;
  const std::int64_t *offsets, *clean_offsets;
  std::int64_t people, dimensions, count, clean_count;  // count = N, clean_count = M
};

// distance [N], weights [N, width] (zeros beyond a person's own), gradient [N, d]. start: weights to start from, or null;
// own: which clean feature of the person belongs to the photo (`self`), or null for its own place. std::invalid_argument,
// with nothing written, where offsets do not rise from 0 to N and M or a person has more than `width` clean features.
template <class T>
void hull_distance(const Hulls<T>& hulls, Subspace subspace, const T* start, const std::int64_t* own, T* distance,
                   T* weights, std::int64_t width, T* gradient, int threads);

}  // namespace veilkern
