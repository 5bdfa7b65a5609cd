// The factored form over many atoms, of whose codes few are not zero. Lists of those stand for the codes, and W_e and D
// are packed slab by slab of atoms, for all rows at once. Beside arguments and results a call needs room for the lists
// of a chunk of rows, and for its residuals: not for copies of the matrices, nor for dense codes.
#pragma once

#include "lista.h"

namespace scvae::cpu {

// Whether wide_forward takes a problem: the factored form without momentum, from codes of zero, with finite arguments,
// and with so many atoms that packed copies of W_e and D would be too large.
template <typename T>
bool is_wide(const SparseCodeProblem<T>& p);

// Whether wide_backward does. It also runs smaller problems, if the codes z (M, K) are sparse.
template <typename T>
bool is_wide_backward(const SparseCodeProblem<T>& p, const T* z);

template <typename T>
void wide_forward(const SparseCodeProblem<T>& p, Codes<T> codes, T* x_hat, int threads);

// Returns false, with results half written, where something is not finite that zeros are multiplied with: then they may
// not be skipped.
template <typename T>
bool wide_backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                   const SparseCodeGradients<T>& out, int threads);

}  // namespace scvae::cpu
