// veil_step_ (eq. 13, MI-FGSM): g = dL/dv; g /= mean|g|; m = decay m + g; v = clamp(v - step sign(m), 0, 1).
//
// L = mean over the person's photos of L_fea - lam L_vis + mu L_var. Reads the network's gradients once (four or eight
// bytes a value, most of the traffic), the photos twice (a byte a value, the second time from cache), veil and momentum
// once, and writes both; everything between stays in cache. One person is one piece of work: people are shared out over
// threads and do not touch each other, so the number of threads changes nothing.
#include "veil_step.h"

#include "offsets.h"
#include "scratch.h"
#define VEILKERN_KERNELS "veil_step.inl"
#include "foreach_isa.h"

namespace veilkern {

template <class T>
void veil_step(const VeilStep<T>& all, T* statistics, int threads) {
  const auto person_step = VEILKERN_CHOOSE(person_step<T>);
  const std::int64_t plane = all.height * all.width, size = all.channels * plane;
  const std::int64_t most = most_of("offsets", all.offsets, all.people, all.photos);
  most_of("gradient_offsets", all.gradient_offsets, all.people, all.slopes);
  const std::int64_t values = baseline::person_values<T>(size, plane, all.width, most);
  run_parts(static_cast<int>(all.people), threads, [&](int person) {
    const Scratch<T> scratch(values);
    person_step(all, person, statistics + 3 * person, most, scratch.data());
  });
}

template void veil_step<float>(const VeilStep<float>&, float*, int);
template void veil_step<double>(const VeilStep<double>&, double*, int);

}  // namespace veilkern
