// Launches kernels; without nvcc, hands them to an emulator.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "cuda/tiles.h"

namespace scvae::cuda {

// The device and a stream on it.
struct Where {
  int device = 0;
  void* stream = nullptr;
};

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

[[noreturn]] inline void fail(const std::string& kernel, const Grid& grid, int threads, std::int64_t shared_bytes,
                              const std::string& cause) {
  throw std::runtime_error("CUDA kernel '" + kernel + "' on a grid of " + std::to_string(grid.x) + " x " +
                           std::to_string(grid.y) + " x " + std::to_string(grid.z) + " blocks of " +
                           std::to_string(threads) + " threads with " + std::to_string(shared_bytes) +
                           " bytes of shared memory: " + cause);
}

// The shape of a launch.
struct Extent {
  Grid grid;
  int threads = 0;  // per block
  std::int64_t shared_bytes = 0;
  int cluster = 1;  // blocks side by side along x
};

#if defined(__CUDACC__)

template <typename Arguments>
void launch(const std::string& name, void (*kernel)(Arguments), const Where& where, const Extent& extent,
            const Arguments& arguments) {
  const auto check = [&](cudaError_t status) {
    if (status != cudaSuccess) fail(name, extent.grid, extent.threads, extent.shared_bytes, cudaGetErrorString(status));
  };
  check(cudaSetDevice(where.device));
  if (extent.shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(extent.shared_bytes)));
  const auto size = [](std::int64_t value) { return static_cast<unsigned>(value); };
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {size(extent.cluster), 1, 1};
  cudaLaunchConfig_t how = {};
  how.gridDim = dim3(size(extent.grid.x), size(extent.grid.y), size(extent.grid.z));
  how.blockDim = dim3(size(extent.threads));
  how.dynamicSmemBytes = static_cast<std::size_t>(extent.shared_bytes);
  how.stream = static_cast<cudaStream_t>(where.stream);
  how.attrs = &cluster;
  how.numAttrs = extent.cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&how, kernel, arguments));
}

#else

void emulate(const Extent& extent, const std::function<void()>& thread);

template <typename Arguments>
void launch(const std::string&, void (*kernel)(Arguments), const Where&, const Extent& extent,
            const Arguments& arguments) {
  emulate(extent, [&] { kernel(arguments); });
}

#endif

}  // namespace scvae::cuda
