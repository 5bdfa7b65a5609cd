// The kernels' arguments: plain pointers, sizes and strides, counted in elements. Nothing here knows Python or torch.
//
// M rows, K atoms, n features, T iterations. A matrix is given by its first element and the distance between its
// rows; elements of a row are adjacent. Without a given distance, rows are packed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace scvae {

template <typename T>
struct Rows {
  const T* data = nullptr;
  std::int64_t stride = 0;

  const T* operator[](std::int64_t row) const { return data + row * stride; }
};

// kappa = 0:  z_0 = h(gain b), or the given z0;  z_{t+1} = h(b + S_t z_t).
// kappa = 1:  z_0 = 0, or the given z0;  y_t = z_t + momentum_t (z_t - z_{t-1}), y_0 = z_0;
//             z_{t+1} = h(y_t + step_t (b + S_t y_t)).
// Anything with an `each` is shared by all iterations if that is 0; otherwise the iterations' copies lie this many
// elements apart. For kappa = 0, theta (and W_e below) then has an additional first one, which makes z_0.
template <typename T>
struct ListaProblem {
  std::int64_t rows = 0;   // M
  std::int64_t atoms = 0;  // K
  std::int64_t n_iter = 0;
  Rows<T> b;                 // (M, K)
  Rows<T> S;                 // (K, K)
  const T* theta = nullptr;  // (K,), or one value
  bool theta_per_atom = false;
  T gain = T(1);
  Rows<T> z0;  // (M, K); data is null if the start is h(gain b) or 0
  std::int64_t S_each = 0;
  std::int64_t theta_each = 0;
  const T* step = nullptr;  // null means 1
  std::int64_t step_each = 0;
  const T* momentum = nullptr;  // null means 0
  std::int64_t momentum_each = 0;
  bool kappa = false;
  bool factored = false;  // there is no S
  bool negated = false;   // S holds the negative
  bool positive = false;  // h(u) = max(u - theta, 0)

  std::int64_t row(std::int64_t t) const { return kappa ? t : t + 1; }  // of theta and W_e, in iteration t
};

// Gradients of a scalar with respect to the members of ListaProblem; null pointers are not computed.
template <typename T>
struct ListaGradients {
  T* b = nullptr;         // (M, K)
  T* S = nullptr;         // (K, K), or (T, K, K)
  T* theta = nullptr;     // like the problem's
  T* gain = nullptr;      // one value
  T* z0 = nullptr;        // (M, K)
  T* step = nullptr;      // one value, or (T,)
  T* momentum = nullptr;  // one value, or (T,)
};

// x_hat = D z for every row.
template <typename T>
struct DecodeProblem {
  std::int64_t rows = 0;      // M
  std::int64_t atoms = 0;     // K
  std::int64_t features = 0;  // n
  Rows<T> z;                  // (M, K)
  Rows<T> D;                  // (n, K)
};

// b_t = x W_e_t^T;  z = lista(b);  x_hat = D z. The b of `lista` is not read.
// In the factored form kappa is 1 and b + S_t y_t is replaced by W_e_t (x - D y_t).
template <typename T>
struct SparseCodeProblem {
  ListaProblem<T> lista;
  std::int64_t features = 0;  // n
  Rows<T> x;                  // (M, n)
  Rows<T> W_e;                // (K, n)
  Rows<T> D;                  // (n, K)
  std::int64_t W_e_each = 0;
};

// Like ListaGradients, whose b is not used.
template <typename T>
struct SparseCodeGradients {
  ListaGradients<T> lista;
  T* x = nullptr;    // (M, n)
  T* W_e = nullptr;  // (K, n), or one for each iteration
  T* D = nullptr;    // (n, K)
};

namespace cpu {

// The instruction set of the kernels in use: the best that this processor supports, or the one named by the environment
// variable SCVAE_FAST_ISA. Throws std::runtime_error if that is not in instruction_sets().
const char* instruction_set();

// Those that this processor supports, best first: of "avx512", "avx2" and "portable".
std::vector<std::string> instruction_sets();

// The destination of a problem's codes.
template <typename T>
struct Codes {
  T* z = nullptr;         // z_T: (M, K)
  T* iterates = nullptr;  // z_1 ... z_{T-1}: (M, T - 1, K); null if they are not kept
};

// Every function runs on at most `threads` threads; its result does not depend on their number.
template <typename T>
void lista_forward(const ListaProblem<T>& problem, Codes<T> codes, int threads);

// codes are those written by lista_forward for the same problem; grad: (M, K).
template <typename T>
void lista_backward(const ListaProblem<T>& problem, Codes<const T> codes, Rows<T> grad, const ListaGradients<T>& out,
                    int threads);

template <typename T>
void sparse_code_forward(const SparseCodeProblem<T>& problem, Codes<T> codes, T* x_hat, int threads);  // x_hat: (M, n)

// codes are those written by sparse_code_forward; grad_z: (M, K) and grad_x_hat: (M, n), with data null for zeros.
template <typename T>
void sparse_code_backward(const SparseCodeProblem<T>& problem, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                          const SparseCodeGradients<T>& out, int threads);

template <typename T>
void decode_forward(const DecodeProblem<T>& problem, T* x_hat, int threads);  // x_hat: (M, n)

// grad: (M, n); d_z: (M, K) and d_D: (n, K), each null if it is not wanted.
template <typename T>
void decode_backward(const DecodeProblem<T>& problem, Rows<T> grad, T* d_z, T* d_D, int threads);

}  // namespace cpu
}  // namespace scvae
