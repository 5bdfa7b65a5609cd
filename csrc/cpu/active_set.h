// The last iterations of sparse rows, backward. From some t on, the support of a row's codes hardly changes: the union
// of the supports of z_t ... z_T, the row's active set, has few more atoms than the support of z_T. All later adjoints
// are zero elsewhere, so the backward pass of these iterations works only on the active set: the recurrence with a
// small part of S, and a small part of the gradient of S.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/memory.h"
#include "cpu/product.h"

namespace scvae::cpu {

// Codes and adjoints of a chunk of rows for t = 0 ... T, one after the other. On the active set a row is compressed:
// element k is that of atom k of the set.
template <typename T>
struct Trajectory {
  Matrix<T>& codes;
  Matrix<T>& adjoints;
  std::int64_t chunk;  // rows per t

  std::int64_t at(std::int64_t t, std::int64_t r) const { return t * chunk + r; }
};

template <typename T>
class ActiveSets {
 public:
  // Scratch of one thread.
  struct Worker {
    Worker(std::int64_t rows, std::int64_t atoms);
    std::vector<std::uint64_t> masks;  // of a block's rows
    Packed<T> S;                       // restricted to the atoms of a set
    Packed<T> codes;                   // of a row, on its set
    Matrix<T> coefficients;
    Matrix<T> block;
    Matrix<T> sums;  // for b and for theta
    Supports supports;
  };

  ActiveSets(Trajectory<T> trajectory, std::int64_t n_iter);

  // For a block of rows with known codes, chooses the t from which they are treated on their active sets,
  // least <= t <= T, so that it saves most work. T stands for never, if nothing saves work.
  void choose(std::int64_t first, std::int64_t count, std::int64_t least, Worker& own);

  // Never, for this many rows.
  void leave_out(std::int64_t first, std::int64_t count);

  std::int64_t begin(std::int64_t r) const { return begins_[static_cast<std::size_t>(r)]; }

  // From adjoint T to adjoint begin(r), which becomes a dense row again. Adds the contributions of these iterations to
  // the gradients of b and theta to d_b and d_theta.
  void step_back(std::int64_t r, Rows<T> S, T* d_b, double* d_theta, Worker& own);

  // sum += the outer products of adjoint t + 1 and codes t of a number of consecutive rows r, for
  // t = begin(r) ... T - 1; only for a number of rows of sum, from first_atom on.
  void add_products(std::int64_t rows, std::int64_t first_atom, std::int64_t count, Matrix<T>& sum, Worker& own) const;

 private:
  void keep(std::int64_t r, const std::uint64_t* mask);
  const std::int32_t* atoms(std::int64_t r) const { return atoms_.data() + r * most_; }

  Trajectory<T> trajectory_;
  std::int64_t n_iter_;
  std::int64_t most_;                 // largest number of atoms in a set
  std::vector<std::int64_t> begins_;  // for the chunk's rows
  std::vector<std::int64_t> sizes_;
  Buffer<std::int32_t> atoms_;
};

}  // namespace scvae::cpu
