// Packs a matrix as the right factor of products: stage after stage, in the layout of shared memory.
#pragma once

#include "cuda/machine.h"
#include "cuda/stages.h"
#include "cuda/tiles.h"

namespace scvae::cuda {

struct PackArguments {
  Numbers matrix;  // (columns, depth): row j holds the factors for column j of a product
  std::int64_t column_stride = 0, depth_stride = 0;
  std::int64_t columns = 0, depth = 0;
  int warps = 0;              // of the multiplying block
  int passes = 0, steps = 0;  // of the packed matrix; padded with zeros
  void* packed = nullptr;     // passes * steps stages
};

template <typename E>
SCVAE_KERNEL void SCVAE_BOUNDS(256) pack(SCVAE_GRID_CONSTANT PackArguments a) {
  constexpr int elements = 16 / sizeof(E), chunks = kStepBytes / 16;
  const std::int64_t width = a.warps * kWarpColumns, all = width * chunks * a.steps * a.passes;
  const std::int64_t stride = static_cast<std::int64_t>(machine::blocks(0)) * machine::threads();
  for (std::int64_t at = static_cast<std::int64_t>(machine::block(0)) * machine::threads() + machine::thread();
       at < all; at += stride) {
    const std::int64_t chunk = at % chunks, column = at / chunks % width;
    const std::int64_t step = at / chunks / width % a.steps, pass = at / chunks / width / a.steps;
    E* const to = reinterpret_cast<E*>(static_cast<char*>(a.packed) + (pass * a.steps + step) * width * kStepBytes +
                                       swizzled(static_cast<int>(column), static_cast<int>(chunk)));
    const std::int64_t j = pass * width + column, first = step * (kStepBytes / sizeof(E)) + chunk * elements;
    for (int e = 0; e < elements; ++e) {
      const std::int64_t k = first + e;
      const bool there = j < a.columns && k < a.depth;
      to[e] = rounded<E>(there ? a.matrix[j * a.column_stride + k * a.depth_stride] : 0.0f);
    }
  }
}

}  // namespace scvae::cuda
