// CUDA on the CPU, for tests: what the .cu files of kernels/ use, with the meaning that CUDA gives it. It stands in for
// NVIDIA's header where this folder comes first among the include paths (make emulate), and is in no wheel.
//
// The threads of a block are fibers of one OS thread, switched where they wait at a barrier or shuffle; the blocks of a
// cluster run together, each as far as it can before the next one moves; clusters one after another. VEILKERN_CUDA_EMULATE=<seed> orders clusters, blocks and threads and says what
// lies in shared memory at first (1: in order, every byte 255): a kernel without a fault gives the same bits for any
// seed; one that lacks a barrier or reads what nobody wrote does not. A barrier that some threads never reach is an error,
// not a hang. It proves arithmetic, indices and barriers: not the order of memory on a GPU, and no speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define VEILKERN_EMULATED
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = void*;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 227 << 10, cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error);

namespace emulated {

constexpr unsigned WARP = 32;

// The thread that runs now.
struct Here {
  dim3 thread, block, threads, blocks;
  unsigned rank, cluster;   // of the block in its cluster, and how many blocks that has
  unsigned char* memory;    // the block's shared memory
};
const Here& here();

void sync_threads();
void sync_cluster();
void sync_warp();
unsigned char* memory_of(unsigned rank);  // another block's shared memory

// A GPU reads several values at once only where they begin at a multiple of their size: else the launch fails.
void require_aligned(const void* place, std::size_t bytes);

// Runs body in every thread of the grid; cudaErrorLaunchFailure, and the reason in cudaGetErrorString, where threads wait
// at a barrier that others do not reach.
cudaError_t run(dim3 blocks, dim3 threads, unsigned cluster, std::size_t shared, const std::function<void()>& body);

// One warp's values, by lane, as it exchanges them.
std::uint64_t exchange(std::uint64_t mine, unsigned lane);

template <class T>
T exchanged(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulated

#define threadIdx (::emulated::here().thread)
#define blockIdx (::emulated::here().block)
#define blockDim (::emulated::here().threads)
#define gridDim (::emulated::here().blocks)

inline void __syncthreads() { ::emulated::sync_threads(); }
inline void __syncwarp(unsigned = 0xFFFFFFFFu) { ::emulated::sync_warp(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ::emulated::exchanged(value, (threadIdx.x % ::emulated::WARP) ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return ::emulated::exchanged(value, static_cast<unsigned>(lane) % ::emulated::WARP);
}
template <class T>
T __ldg(const T* place) { return *place; }
template <class T>
T __ldcs(const T* place) { return *place; }
template <class T>
void __stcs(T* place, T value) { *place = value; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>(((static_cast<std::uint64_t>(high) << 32) | low) >> (by & 31));
}
// Bytes picked by the four selectors of `which` (three bits each) from low (0 to 3) and high (4 to 7).
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned which) {
  const std::uint64_t all = (static_cast<std::uint64_t>(high) << 32) | low;
  unsigned found = 0;
  for (unsigned i = 0; i < 4; ++i) found |= static_cast<unsigned>(all >> (8 * (which >> 4 * i & 7)) & 255) << 8 * i;
  return found;
}
// Two 16-bit numbers of `pair` times bytes 0 and 1 (lo) or 2 and 3 (hi) of `four`, added to `sum`.
inline unsigned __dp2a_lo(unsigned pair, unsigned four, unsigned sum) {
  return sum + (pair & 0xFFFF) * (four & 255) + (pair >> 16) * (four >> 8 & 255);
}
inline unsigned __dp2a_hi(unsigned pair, unsigned four, unsigned sum) { return __dp2a_lo(pair, four >> 16, sum); }
// Bits of a float, one rounding for a product and a sum, and 0 to 1 alone (NaN: 0).
inline float __uint_as_float(unsigned bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float value) { return value > 0 ? value < 1 ? value : 1 : 0; }
