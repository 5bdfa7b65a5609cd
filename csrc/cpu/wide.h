// The factored form over many atoms with few nonzero codes. Codes are stored as lists, and W_e and D are packed slab by
// slab of atoms, for all rows at once. Besides arguments and results a call needs memory for the lists of a chunk of
// rows and for its residuals, but not for copies of the matrices or for dense codes.
#pragma once

#include "lista.h"

namespace scvae::cpu {

// Whether wide_forward supports a problem: the factored form without momentum, starting from zero codes, with finite
// arguments, and with so many atoms that packed copies of W_e and D would be too large.
template <typename T>
bool is_wide(const SparseCodeProblem<T>& p);

// Whether wide_backward supports a problem. It also runs smaller problems, if the codes z (M, K) are sparse.
template <typename T>
bool is_wide_backward(const SparseCodeProblem<T>& p, const T* z);

template <typename T>
void wide_forward(const SparseCodeProblem<T>& p, Codes<T> codes, T* x_hat, int threads);

// Returns false, with partly written results, if a factor of skipped zeros is not finite: then they must not be
// skipped.
template <typename T>
bool wide_backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                   const SparseCodeGradients<T>& out, int threads);

}  // namespace scvae::cpu
