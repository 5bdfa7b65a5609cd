// Definitions of HopperLauncher, for a source file that instantiates it for one element type.
#pragma once

#include "cuda/by_rows.h"
#include "cuda/hopper/block.h"
#include "cuda/launch.h"

namespace scvae::cuda {

template <typename E>
void HopperLauncher<E>::forward(const Where& where, const Plan& plan, const ForwardArguments& a) {
  const auto kernel = a.is_plain() ? by_rows<Forward, WgmmaBlock<E>, kHopperThreads, ForwardArguments>
                                   : by_rows<FamilyForward, WgmmaBlock<E>, kHopperThreads, ForwardArguments>;
  launch("forward for Hopper", kernel, where, extent(plan), a);
}

template <typename E>
void HopperLauncher<E>::adjoint(const Where& where, const Plan& plan, const AdjointArguments& a) {
  const auto kernel = a.family.is_plain() ? by_rows<Adjoint, WgmmaBlock<E>, kHopperThreads, AdjointArguments>
                                          : by_rows<FamilyAdjoint, WgmmaBlock<E>, kHopperThreads, AdjointArguments>;
  launch("adjoint for Hopper", kernel, where, extent(plan), a);
}

}  // namespace scvae::cuda
