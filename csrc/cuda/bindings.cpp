// Python's door to the CUDA kernels: data pointers, sizes, strides and the stream come as integers, so that no torch header
// is needed and one build serves every torch version. veilkern/backends/cuda checks everything before it calls, and has
// made the tensors' device the current one. Compiled once more with the emulation (make emulate), as a module of another name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/block_variance.h"
#include "cuda/recover.h"
#include "cuda/ssim.h"
#include "cuda/veil_step.h"

#ifndef VEILKERN_CUDA_MODULE
#define VEILKERN_CUDA_MODULE _cuda
#endif
#ifndef VEILKERN_CUDA_ARCHITECTURES
#define VEILKERN_CUDA_ARCHITECTURES "none: emulated"
#endif

namespace py = pybind11;
using namespace veilkern;

namespace {

using Address = std::uintptr_t;
using Tensor = std::pair<Address, std::array<std::int64_t, 4>>;  // data pointer (0: none) and strides in values

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

[[noreturn]] void fail(const char* op, cudaError_t error) {
  throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
}

template <class Kernel, class Call>
void run(const char* op, Address stream, const Kernel& kernel, const Call& call) {
  if (const cudaError_t error = kernel(call, reinterpret_cast<cudaStream_t>(stream)); error != cudaSuccess) {
    (void)cudaGetLastError();  // told once: what torch launches next is not to blame
    fail(op, error);
  }
}

// Bytes of shared memory that a block may ask for.
int shared_memory(int device) {
  int found = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) fail("shared_memory", error);
  return found;
}

template <class T>
void block_variance_of(Address stream, Tensor images, Tensor gradient, Address scale, Address loss,
                       std::tuple<std::int64_t, int, int, int> sizes, std::tuple<int, int, int> block, bool literal) {
  const auto [n, c, h, w] = images.second;
  const auto [gn, gc, gh, gw] = gradient.second;
  const auto [count, channels, height, width] = sizes;
  const auto [block_h, block_w, stride] = block;
  run("block_variance", stream, block_variance<T>,
      BlockVariance<T>{at<const T>(images.first), n, c, h, w, at<T>(gradient.first), gn, gc, gh, gw, at<const T>(scale),
                       at<T>(loss), count, channels, height, width, block_h, block_w, stride, literal});
}

template <class T>
Photos<T> photos(const Tensor& tensor) {
  const auto [n, c, h, w] = tensor.second;
  return {at<T>(tensor.first), n, c, h, w};
}

// sizes: C, H, W; taps: of the longest window, from the middle outwards; window: its side, and whether zeros surround.
template <class T>
void ssim_of(Address stream, Tensor x, Tensor y, std::pair<Address, Address> gradients, Address scale, Address scores,
             std::int64_t planes, std::array<int, 3> sizes, std::array<double, SSIM_TAPS> taps,
             std::pair<int, bool> window, double range, std::array<int, 6> pieces) {
  const auto [xn, xc, xh, xw] = x.second;
  const auto [yn, yc, yh, yw] = y.second;
  const auto [channels, height, width] = sizes;
  const auto [together, wide, bands, rows, strips, columns] = pieces;
  const int border = window.second ? 0 : window.first / 2;
  const double places = double(channels) * (height - 2 * border) * (width - 2 * border);
  Ssim<T> call{at<const T>(x.first), xn, xc, xh, xw, at<const T>(y.first), yn, yc, yh, yw, at<T>(gradients.first),
               at<T>(gradients.second), at<const T>(scale), at<T>(scores), planes, channels, height, width,
               window.first, border, {}, T(range / 2), T(0.01 * range * (0.01 * range)), T(0.03 * range * (0.03 * range)),
               T(2 / places), {together, wide, bands, rows, strips, columns}};
  std::copy(taps.begin(), taps.end(), call.taps);
  run("ssim", stream, ssim<T>, call);
}

using RateAt = std::pair<Address, double>;  // of float64 [P] (0: none), and the number for all

// offsets: of the images and of the gradients; counts: P, N, M; workspace: squares and arrays (0: none).
template <class T>
void veil_step_of(Address stream, Tensor veils, Tensor momentum, Tensor gradients, Tensor images, Tensor mean_images,
                  std::pair<Address, Address> offsets, Address active, std::array<RateAt, 4> rates,
                  std::tuple<std::int64_t, std::int64_t, std::int64_t> counts, std::pair<int, int> sizes, int a,
                  std::tuple<int, int, int> block, bool norm, bool literal, std::pair<Address, Address> workspace,
                  Address statistics, int cluster) {
  const auto rate = [](const RateAt& given) { return Rate{at<const double>(given.first), given.second}; };
  const auto [people, number, slopes] = counts;
  const auto [block_h, block_w, stride] = block;
  const VeilStep<T> call{photos<T>(veils), photos<T>(momentum), photos<const T>(gradients),
                         photos<const std::uint8_t>(images), photos<const T>(mean_images),
                         at<const std::int64_t>(offsets.first), at<const std::int64_t>(offsets.second),
                         at<const bool>(active), rate(rates[0]), rate(rates[1]), rate(rates[2]), rate(rates[3]), people,
                         number, slopes, sizes.first, sizes.second, a, block_h, block_w, stride, norm, literal,
                         at<T>(workspace.first), at<T>(workspace.second), at<T>(statistics), 0, 0};
  const auto kernel = [cluster](const VeilStep<T>& given, cudaStream_t there) { return veil_step(given, cluster, there); };
  run("veil_step_", stream, kernel, call);
}

template <class T>
void recover_of(Address stream, Tensor protected_, Tensor veils, Tensor out, Address rows,
                std::tuple<std::int64_t, int, int, int> sizes, std::int64_t people, int a,
                const std::vector<std::uint16_t>& weights, std::pair<int, int> share) {
  const auto [n, c, h, w] = protected_.second;
  const auto [vn, vc, vh, vw] = veils.second;
  const auto [on, oc, oh, ow] = out.second;
  const auto [count, channels, height, width] = sizes;
  Recover<T> call{at<const T>(protected_.first), n, c, h, w, at<const std::uint8_t>(veils.first), vn, vc, vh, vw,
                  at<std::uint8_t>(out.first), on, oc, oh, ow, at<const std::int64_t>(rows), people, count,
                  channels, height, width, a, static_cast<int>(weights.size()) - 1, share.first, share.second, {}};
  std::copy_n(weights.begin(), std::min<std::size_t>(weights.size(), RECOVER_FARTHEST + 1), call.weights);
  run("recover", stream, recover<T>, call);
}

}  // namespace

PYBIND11_MODULE(VEILKERN_CUDA_MODULE, module) {
  module.doc() = "CUDA kernels of veilkern; called by veilkern.backends.cuda, which checks the arguments.";
  module.attr("ARCHITECTURES") = VEILKERN_CUDA_ARCHITECTURES;
  module.def("shared_memory", &shared_memory);
  module.def("block_variance_f32", &block_variance_of<float>);
  module.def("block_variance_f64", &block_variance_of<double>);
  module.def("block_variance_memory_f32", &block_variance_memory<float>);
  module.def("block_variance_memory_f64", &block_variance_memory<double>);
  module.def("recover_u8", &recover_of<std::uint8_t>);
  module.def("recover_u16", &recover_of<std::uint16_t>);
  module.def("recover_share", &recover_share);
  module.def("ssim_f32", &ssim_of<float>);
  module.def("ssim_f64", &ssim_of<double>);
  module.def("ssim_memory_f32", &ssim_memory<float>);
  module.def("ssim_memory_f64", &ssim_memory<double>);
  module.def("veil_step_f32", &veil_step_of<float>);
  module.def("veil_step_f64", &veil_step_of<double>);
  module.def("veil_step_array", &veil_step_array);
  module.def("veil_step_memory_f32", &veil_step_memory<float>);
  module.def("veil_step_memory_f64", &veil_step_memory<double>);
}
