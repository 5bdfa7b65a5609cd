// A single product of two matrices.
#pragma once

#include "cuda/block.h"
#include "cuda/forward.h"

namespace scvae::cuda {

struct ProductArguments {
  const void* left = nullptr;   // (rows, depth), rows left_stride elements apart
  const void* right = nullptr;  // (columns, depth), packed
  void* out = nullptr;          // (rows, columns)
  std::int64_t rows = 0, left_stride = 0;
  int depth = 0, columns = 0;
  int padded_depth = 0;  // rounded up to whole steps
  int passes = 0;
};

// left · rightᵀ.
template <typename B>
class Product {
 public:
  using E = typename B::E;

  SCVAE_DEVICE explicit Product(const ProductArguments& a) : a_(a), block_(a.right, a.padded_depth, 1) {}

  SCVAE_DEVICE void run() {
    Turns<B> turn(a_.rows);
    if (turn.any()) block_.begin(right()[0]);
    for (; turn.any(); turn.next()) {
      const std::int64_t first = turn.first_row();
      const int live = turn.live();
      block_.read(static_cast<const E*>(a_.left) + first * a_.left_stride, a_.left_stride, live, a_.depth,
                  a_.padded_depth);
      for (int pass = 0; pass < a_.passes; ++pass) {
        typename B::Sums sums;
        sums.clear();
        block_.multiply(sums, right()[pass],
                        pass + 1 < a_.passes ? right()[pass + 1]
                        : turn.last()        ? Stages{}
                                             : right()[0]);
        sums.each_pair([&](const Place& at, float u0, float u1) {
          E* const to = static_cast<E*>(a_.out) + (first + at.row) * a_.columns;
          if (at.row < live) store_within(to, at.column + pass * B::columns(), a_.columns, u0, u1);
        });
      }
    }
  }

 private:
  SCVAE_DEVICE Passes right() const { return {0, a_.passes, steps<E>(a_.padded_depth)}; }

  const ProductArguments& a_;
  B block_;
};

}  // namespace scvae::cuda
