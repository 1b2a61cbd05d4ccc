// What the CUDA kernels of this folder share: shared memory, clusters, several values at once, sums in a fixed
// order. Plain CUDA C++; what only Hopper has is behind small functions that do without it elsewhere, and the whole
// compiles for the CPU too (csrc/cuda/emulated).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace veilkern {

constexpr unsigned WARP = 32;
constexpr unsigned WARPS = 32;  // of a block, at most

// The block's shared memory: all of it is asked for at the launch, and laid out by the kernel.
__device__ __forceinline__ unsigned char* block_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
#else
  return emulated::here().memory;
#endif
}

// Clusters: blocks that run at the same time and reach each other's shared memory. Before Hopper a block is alone.

__device__ __forceinline__ void cluster_sync() {
#ifndef __CUDACC__
  emulated::sync_cluster();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// Where `mine`, in this block's shared memory, lies in that of the cluster's block `rank`.
template <class T>
__device__ __forceinline__ T* of_rank(T* mine, int rank) {
#ifndef __CUDACC__
  using Byte = std::conditional_t<std::is_const_v<T>, const unsigned char, unsigned char>;
  const auto offset = reinterpret_cast<Byte*>(mine) - emulated::here().memory;
  return reinterpret_cast<T*>(emulated::memory_of(unsigned(rank)) + offset);
#elif __CUDA_ARCH__ >= 900
  std::uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<std::uint64_t>(mine)), "r"(rank));
  return reinterpret_cast<T*>(there);
#else
  return mine;
#endif
}

// Asks for the LINE bytes around a place, which are read soon, into L2.
constexpr int LINE = 128;

__device__ __forceinline__ void soon(const void* place) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(place));
#else
  (void)place;
#endif
}

// N values that lie side by side, read and written at once: 16 bytes an access where there are as many.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Several {
  T of[N];
};

template <int N, class T>
__device__ __forceinline__ Several<T, N> read(const T* place) {
#ifndef __CUDACC__
  emulated::require_aligned(place, alignof(Several<T, N>));
#endif
  return *reinterpret_cast<const Several<T, N>*>(place);
}

template <class T, int N>
__device__ __forceinline__ void write(T* place, const Several<T, N>& values) {
#ifndef __CUDACC__
  emulated::require_aligned(place, alignof(Several<T, N>));
#endif
  *reinterpret_cast<Several<T, N>*>(place) = values;
}

// The sum of a block's values, in the same order each time; in every thread. scratch: WARPS values of shared memory,
// which may be used again after the next barrier. All threads of all warps take part.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int apart = WARP / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, apart);
  return value;
}

template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  const T of_warp = warp_sum(value);
  const unsigned warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  if (threadIdx.x % WARP == 0) scratch[warp] = of_warp;
  __syncthreads();
  T total = 0;
  for (unsigned i = 0; i < warps; ++i) total += scratch[i];
  return total;
}

}  // namespace veilkern
