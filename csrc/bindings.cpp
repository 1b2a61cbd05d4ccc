// Python's door to the C++ kernels: data pointers, sizes and strides come as integers, so that no torch header is
// needed and one build serves every torch version. veilkern/backends/cpu.py checks everything before it calls.
#include <pybind11/pybind11.h>

#include "cpu/blend.h"
#include "cpu/recover.h"

namespace py = pybind11;
using namespace veilkern;
using Address = std::uintptr_t;

namespace {

// (input, its stride), (veils, their stride), rows, (output, its stride), photos, values per photo, a, threads
template <class In, class Out, auto kernel>
void launch(Address input, std::int64_t input_stride, Address veils, std::int64_t veil_stride, Address rows,
            Address output, std::int64_t output_stride, std::int64_t count, std::int64_t pixels, int a, int threads) {
  if (a < 0 || a > 255 || count < 0 || pixels < 0 || threads < 1)
    throw std::invalid_argument("blend must lie in 0..255, sizes must not be negative, threads must be at least 1");
  const py::gil_scoped_release unlocked;
  kernel({reinterpret_cast<const In*>(input), input_stride}, {reinterpret_cast<const std::uint8_t*>(veils), veil_stride},
         reinterpret_cast<const std::int64_t*>(rows), {reinterpret_cast<Out*>(output), output_stride}, count, pixels, a,
         threads);
}

const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}

void set_isa(const std::string& wanted) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (wanted != name(isa)) continue;
    if (isa > best_isa()) throw std::invalid_argument("this processor has no " + wanted);
    return set_isa_limit(isa);
  }
  throw std::invalid_argument("isa must be baseline, avx2 or avx512, got " + wanted);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "C++ CPU kernels of veilkern; see veilkern.backends.cpu";
  m.def("blend_u8", launch<std::uint8_t, std::uint8_t, blend_u8>);
  m.def("blend_u16", launch<std::uint8_t, std::uint16_t, blend_u16>);
  m.def("recover_u8", launch<std::uint8_t, std::uint8_t, recover_u8>);
  m.def("recover_u16", launch<std::uint16_t, std::uint8_t, recover_u16>);
  m.def("isa", [] { return name(isa()); }, "The instruction set in use.");
  m.def("best_isa", [] { return name(best_isa()); }, "The best instruction set of this processor.");
  m.def("set_isa", set_isa, "Limit the instruction set: baseline, avx2 or avx512 (for tests).");
}
