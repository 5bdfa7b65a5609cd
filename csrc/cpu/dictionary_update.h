// One round over the atoms of a dictionary, as online dictionary learning makes after each batch.
#pragma once

#include <cstdint>

#include "lista.h"

namespace scvae::cpu {

// D (K, n), an atom a row, changed in place, one after the other: d_j becomes u / |u| with u = d_j + (b_j - the sum of
// A[j][k] d_k) / A[j][j], or the positive part of that. Atoms with A[j][j] = 0 or u = 0 stay. A is (K, K), B (K, n).
template <typename T>
void update_atoms(std::int64_t atoms, std::int64_t features, T* D, Rows<T> A, Rows<T> B, bool positive);

}  // namespace scvae::cpu
