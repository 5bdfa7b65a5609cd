#include "cpu/matrix.h"

#include <limits>

// One copy of the inner loop for each level of the instruction set, chosen when the module is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define SCVAE_EVERY_ISA __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SCVAE_EVERY_ISA
#endif

namespace scvae::cpu {
namespace {

// A partial sum of this many terms is kept apart, so that rounding errors don't grow with the number of atoms.
constexpr std::int64_t kPartial = 256;

template <typename T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(kAlignment), may_alias));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(kAlignment), may_alias));
};

// out[0 … N vectors) += the combination of the same columns of `matrix`, the sums staying in registers.
template <int N, typename T>
[[gnu::always_inline]] inline void accumulate_panel(T* out, const T* matrix, std::int64_t stride,
                                                    const std::int32_t* row, const T* coefficient, std::int64_t terms) {
  using V = typename Vector<T>::type;
  for (std::int64_t begin = 0; begin < terms; begin += kPartial) {
    const std::int64_t end = begin + kPartial < terms ? begin + kPartial : terms;
    V sum[N] = {};
    for (std::int64_t i = begin; i < end; ++i) {
      const V* source = reinterpret_cast<const V*>(matrix + row[i] * stride);
      for (int v = 0; v < N; ++v) sum[v] += coefficient[i] * source[v];
    }
    V* target = reinterpret_cast<V*>(out);
    for (int v = 0; v < N; ++v) target[v] += sum[v];
  }
}

template <typename T>
[[gnu::always_inline]] inline void accumulate_row(T* out, const T* matrix, std::int64_t stride, const std::int32_t* row,
                                                  const T* coefficient, std::int64_t terms) {
  constexpr std::int64_t lanes = kAlignment / sizeof(T);
  constexpr int wide = 8;
  std::int64_t column = 0;
  for (; column + wide * lanes <= stride; column += wide * lanes)
    accumulate_panel<wide>(out + column, matrix + column, stride, row, coefficient, terms);
  for (; column < stride; column += lanes)
    accumulate_panel<1>(out + column, matrix + column, stride, row, coefficient, terms);
}

// target_clones applies to functions, not to templates: one for each type.
SCVAE_EVERY_ISA void dispatch(float* out, const float* matrix, std::int64_t stride, const std::int32_t* row,
                              const float* coefficient, std::int64_t terms) {
  accumulate_row(out, matrix, stride, row, coefficient, terms);
}

SCVAE_EVERY_ISA void dispatch(double* out, const double* matrix, std::int64_t stride, const std::int32_t* row,
                              const double* coefficient, std::int64_t terms) {
  accumulate_row(out, matrix, stride, row, coefficient, terms);
}

}  // namespace

template <typename T>
void accumulate(T* out, const Matrix<T>& matrix, const Terms<T>& terms) {
  dispatch(out, matrix.data(), matrix.stride(), terms.row.data(), terms.coefficient.data(),
           static_cast<std::int64_t>(terms.row.size()));
}

template <typename T>
bool all_finite(Rows<T> values, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t i = 0; i < rows; ++i) {
    bool finite = true;
    for (std::int64_t j = 0; j < columns; ++j)
      finite &= values[i][j] >= -std::numeric_limits<T>::max() && values[i][j] <= std::numeric_limits<T>::max();
    if (!finite) return false;
  }
  return true;
}

template void accumulate(float*, const Matrix<float>&, const Terms<float>&);
template void accumulate(double*, const Matrix<double>&, const Terms<double>&);
template bool all_finite(Rows<float>, std::int64_t, std::int64_t);
template bool all_finite(Rows<double>, std::int64_t, std::int64_t);

}  // namespace scvae::cpu
