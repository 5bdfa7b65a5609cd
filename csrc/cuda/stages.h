// Packed matrices, one after another, in the order of the products: pass after pass over the columns, and within a pass
// stage after stage.
#pragma once

#include "cuda/machine.h"
#include "cuda/tiles.h"

namespace scvae::cuda {

// Consecutive stages of a packed matrix, by number, which takes one register instead of an address's two.
struct Stages {
  int first = -1;  // none
  int count = 0;
};

struct Passes {
  int first = 0;  // stage
  int count = 0, steps = 0;

  SCVAE_DEVICE Stages operator[](int pass) const {
    if (pass >= count) return {};
    return {first + pass * steps, steps};
  }
  SCVAE_DEVICE int end() const { return first + count * steps; }
};

// Number of steps for a depth in elements.
template <typename E>
SCVAE_DEVICE int steps(int depth) {
  return depth * static_cast<int>(sizeof(E)) / kStepBytes;
}

// Position of a 16-byte chunk of a column in a stage: eight columns of one chunk are in different banks. The PTX manual
// calls this the 64-byte swizzle of a matrix with K-major rows.
SCVAE_HOST_DEVICE int swizzled(int column, int chunk) {
  return column * kStepBytes + ((chunk ^ ((column >> 1) & 3)) << 4);
}

}  // namespace scvae::cuda
