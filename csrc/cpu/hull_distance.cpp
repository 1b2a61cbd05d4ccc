// hull_distance (eq. 3-7): D_i = min_w ||Y^T w - f_i||^2 over the hull of the person's clean features Y.
//
// features [N, d], clean [M, d] f32 or f64 by people -> distance [N], weights [N, m], gradient [N, d] = 2 (f - Y^T w). One
// person's clean features (20 KB for ten of 512 dimensions) stay in the nearest cache through all of it: their Gram matrix
// once, the little quadratic programs, the residuals; features are read twice and gradients written once. People are
// shared out over threads and do not touch each other.
#include "hull_distance.h"

#include <stdexcept>

#include "offsets.h"
#include "scratch.h"
#define VEILKERN_KERNELS "hull_distance.inl"
#include "foreach_isa.h"

namespace veilkern {

template <class T>
void hull_distance(const Hulls<T>& hulls, Subspace subspace, const T* start, const std::int64_t* own, T* distance,
                   T* weights, std::int64_t width, T* gradient, int threads) {
  const auto person_hull = VEILKERN_CHOOSE(person_hull<T>);
  most_of("offsets", hulls.offsets, hulls.people, hulls.count);
  const std::int64_t most = most_of("clean_offsets", hulls.clean_offsets, hulls.people, hulls.clean_count);
  if (most > width) throw std::invalid_argument("weights must have room for the most clean features of a person");
  run_parts(static_cast<int>(hulls.people), threads, [&](int person) {
    const Scratch<T> scratch(baseline::hull_values<T>(most, hulls.dimensions));
    person_hull(hulls, person, subspace, start, own, distance, weights, width, gradient, scratch.data());
  });
}

template void hull_distance<float>(const Hulls<float>&, Subspace, const float*, const std::int64_t*, float*, float*,
                                   std::int64_t, float*, int);
template void hull_distance<double>(const Hulls<double>&, Subspace, const double*, const std::int64_t*, double*, double*,
                                    std::int64_t, double*, int);

}  // namespace veilkern
