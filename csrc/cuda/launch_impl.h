// Definitions of launch.h, for a source file that instantiates them for one element type.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/block.h"
#include "cuda/by_rows.h"
#include "cuda/launch.h"

namespace scvae::cuda {

// Launches the kernel for the rows of a plan.
template <template <typename> class Work, typename E, bool THREE, typename Arguments>
void launch_by_rows(const char* name, const Where& where, const Plan& plan, const Arguments& a) {
  const auto run = [&](void (*kernel)(Arguments)) { launch(name, kernel, where, extent(plan), a); };
  constexpr int threads = 32 * kMostWarps;
  if constexpr (sizeof(E) == 2) {
    if (plan.rows == 64) return run(by_rows<Work, MmaBlock<E, 64, THREE>, threads, Arguments>);
    if (plan.rows == 32) return run(by_rows<Work, MmaBlock<E, 32, THREE>, threads, Arguments>);
  }
  if (plan.rows == 16) return run(by_rows<Work, MmaBlock<E, 16, THREE>, threads, Arguments>);
  throw std::logic_error(std::string("CUDA kernel '") + name + "': none for " + std::to_string(plan.rows) + " rows");
}

template <typename E, bool THREE>
void Launcher<E, THREE>::pack(const Where& where, const PackArguments& a) {
  const std::int64_t chunks =
      static_cast<std::int64_t>(a.warps) * kWarpColumns * (kStepBytes / 16) * a.steps * a.passes;
  launch("pack", cuda::pack<E>, where, {{divided_up(chunks, 256)}, 256, 0}, a);
}

template <typename E, bool THREE>
void Launcher<E, THREE>::forward(const Where& where, const Plan& plan, const ForwardArguments& a) {
  if constexpr (kWithHopper && sizeof(E) == 2)
    if (plan.cluster > 1) return HopperLauncher<E>::forward(where, plan, a);
  if (a.is_plain()) return launch_by_rows<Forward, E, THREE>("forward", where, plan, a);
  launch_by_rows<FamilyForward, E, THREE>("forward of the family", where, plan, a);
}

template <typename E, bool THREE>
void Launcher<E, THREE>::adjoint(const Where& where, const Plan& plan, const AdjointArguments& a) {
  if constexpr (kWithHopper && sizeof(E) == 2)
    if (plan.cluster > 1) return HopperLauncher<E>::adjoint(where, plan, a);
  if (a.family.is_plain()) return launch_by_rows<Adjoint, E, THREE>("adjoint", where, plan, a);
  launch_by_rows<FamilyAdjoint, E, THREE>("adjoint of the family", where, plan, a);
}

template <typename E, bool THREE>
void Launcher<E, THREE>::product(const Where& where, const Plan& plan, const ProductArguments& a) {
  launch_by_rows<Product, E, THREE>("product", where, plan, a);
}

template <typename E, bool THREE>
void Launcher<E, THREE>::collect(const Where& where, const CollectArguments& a) {
  const Grid grid{divided_up(a.rows, kCollectRows), divided_up(a.KP, 2 * kCollectThreads)};
  launch("collect", cuda::collect<E>, where, {grid, kCollectThreads, 0}, a);
}

template <typename E, bool THREE>
void Launcher<E, THREE>::outer(const Where& where, const OuterArguments& a) {
  const Grid grid{divided_up(a.left_columns, kSumSide), divided_up(a.right_columns, kSumSide),
                  splits(a.rows, a.left_columns, a.right_columns)};
  launch("outer", cuda::outer<E, THREE>, where, {grid, kSumThreads, kStages * Outer<E, THREE>::kStageBytes}, a);
}

}  // namespace scvae::cuda
