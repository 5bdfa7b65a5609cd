#include "cuda/launch.h"

namespace scvae::cuda {

Card card_of(int device) {
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    const cudaError_t status = cudaDeviceGetAttribute(&value, which, device);
    if (status != cudaSuccess)
      throw std::runtime_error("CUDA device " + std::to_string(device) + ": " + cudaGetErrorString(status));
    return value;
  };
  Card card;
  card.major = attribute(cudaDevAttrComputeCapabilityMajor);
  card.minor = attribute(cudaDevAttrComputeCapabilityMinor);
  card.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  card.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  card.hopper = kWithHopper && card.major == kHopperMajor && card.minor == 0;
  return card;
}

}  // namespace scvae::cuda
