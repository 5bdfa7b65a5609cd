// Packed matrices, one after another, as the products take them: pass after pass over its columns, each of them stage
// after stage.
#pragma once

#include "cuda/machine.h"
#include "cuda/tiles.h"

namespace scvae::cuda {

// Consecutive stages of what was packed, by number: that takes one register, an address two.
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

// Steps of so many elements of depth.
template <typename E>
SCVAE_DEVICE int steps(int depth) {
  return depth * static_cast<int>(sizeof(E)) / kStepBytes;
}

// Where a 16-byte chunk of a column lies in a stage: eight columns of one chunk are in different banks. It is what the
// PTX manual calls the 64-byte swizzle of a matrix whose rows are K-major.
SCVAE_HOST_DEVICE int swizzled(int column, int chunk) {
  return column * kStepBytes + ((chunk ^ ((column >> 1) & 3)) << 4);
}

}  // namespace scvae::cuda
