// Pairs of elements, and their positions in a thread.
#pragma once

#include "cuda/machine.h"
#include "cuda/tiles.h"

namespace scvae::cuda {

// Two columns of a row of a product.
struct Place {
  int row, column;
  int index;  // among the thread's pairs: known at compile time
};

// Threads compute pairs of columns, so that rows with an even number of elements are read and written two at a time.
template <typename E>
SCVAE_DEVICE void store_pair(E* to, float first, float second) {
  *reinterpret_cast<Pair<E>*>(to) = rounded_pair<E>(first, second);
}

template <typename E>
SCVAE_DEVICE void load_pair(const E* from, float& first, float& second) {
  const Pair<E> pair = *reinterpret_cast<const Pair<E>*>(from);
  first = to_float(pair.first);
  second = to_float(pair.second);
}

// The same for rows that may end between the two, or before.
template <typename E>
SCVAE_DEVICE void store_within(E* row, int column, int columns, float first, float second) {
  if (column < columns) row[column] = rounded<E>(first);
  if (column + 1 < columns) row[column + 1] = rounded<E>(second);
}

template <typename E>
SCVAE_DEVICE void load_within(const E* row, int column, int columns, float& first, float& second) {
  first = column < columns ? to_float(row[column]) : 0.0f;
  second = column + 1 < columns ? to_float(row[column + 1]) : 0.0f;
}

// Calls body(row, column) for all elements, in the computing threads of a block of type B.
template <typename B, typename Body>
SCVAE_DEVICE void each_element(int rows, int columns, const Body& body) {
  for (int row = machine::thread() / 32; row < rows; row += B::threads() / 32)
    for (int column = machine::thread() % 32; column < columns; column += 32) body(row, column);
}

}  // namespace scvae::cuda
