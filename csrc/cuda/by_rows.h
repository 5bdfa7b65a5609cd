// The kernel of everything that works on blocks of rows.
#pragma once

#include "cuda/machine.h"
#include "cuda/runtime.h"

namespace scvae::cuda {

// Runs `Work` with its arguments and a block of type B.
template <template <typename> class Work, typename B, int THREADS, typename Arguments>
SCVAE_KERNEL void SCVAE_BOUNDS(THREADS) by_rows(SCVAE_GRID_CONSTANT Arguments a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
  if constexpr (!B::kOnHopper) return;  // planned() never requests it there
#endif
  Work<B>(a).run();
}

inline Extent extent(const Plan& plan) { return {{plan.blocks}, plan.threads, plan.shared_bytes, plan.cluster}; }

}  // namespace scvae::cuda
