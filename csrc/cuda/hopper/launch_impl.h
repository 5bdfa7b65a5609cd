// Definitions of HopperLauncher, for a source file that instantiates it for one type of element.
#pragma once

#include "cuda/by_rows.h"
#include "cuda/hopper/block.h"
#include "cuda/launch.h"

namespace scvae::cuda {

template <typename E>
void HopperLauncher<E>::forward(const Where& where, const Plan& plan, const ForwardArguments& a) {
  launch("forward for Hopper", by_rows<Forward, WgmmaBlock<E>, kHopperThreads, ForwardArguments>, where, extent(plan),
         a);
}

template <typename E>
void HopperLauncher<E>::adjoint(const Where& where, const Plan& plan, const AdjointArguments& a) {
  launch("adjoint for Hopper", by_rows<Adjoint, WgmmaBlock<E>, kHopperThreads, AdjointArguments>, where, extent(plan),
         a);
}

}  // namespace scvae::cuda
