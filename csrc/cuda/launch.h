// How a CUDA kernel is launched: its shape, the stream, the error. (The emulation has a launch of its own.)
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace veilkern {

// blocks along x alone, whose limit is 2^31 - 1; cluster: how many of them share their memory (1: none); shared: bytes.
struct Grid {
  std::int64_t blocks;
  unsigned threads;
  unsigned cluster;
  std::size_t shared;
};

#if defined(__CUDACC__) || defined(VEILKERN_EMULATED)
// No kernel here allocates or waits; a launch that goes into a CUDA graph is as any other.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Grid& grid, cudaStream_t stream, Arguments... arguments) {
  if (grid.blocks == 0) return cudaSuccess;
  if (grid.blocks < 0 || grid.blocks >= (std::int64_t{1} << 31)) return cudaErrorInvalidValue;
  const dim3 blocks(static_cast<unsigned>(grid.blocks)), threads(grid.threads);
#ifdef __CUDACC__
  if (grid.shared > (48u << 10)) {  // more than that has to be asked for: always all there is, for graphs that want more
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = grid.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = grid.shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = grid.cluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#else
  (void)stream;
  return emulated::run(blocks, threads, grid.cluster, grid.shared, [&] { kernel(arguments...); });
#endif
}
#endif

}  // namespace veilkern
