// The lasso's inner loops, compiled for each instruction set like kernels_impl.h, which is to be included before.
#include <cstdint>

#include "cpu/lasso_kernels.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

template <typename T>
[[gnu::always_inline]] inline Vector<T> absolute(Vector<T> v) {
  return v < Vector<T>{} ? -v : v;
}

template <typename T>
[[gnu::always_inline]] inline T largest_lane(Vector<T> v) {
  T largest = v[0];
  for (std::int64_t l = 1; l < kLanes<T>; ++l) largest = v[l] > largest ? v[l] : largest;
  return largest;
}

template <typename T>
[[gnu::always_inline]] inline T sum_of_lanes(Vector<T> v) {
  T sum = 0;
  for (std::int64_t l = 0; l < kLanes<T>; ++l) sum += v[l];
  return sum;
}

// What is beyond the columns has an inverse of zero.
template <typename T>
T largest_ratio(const T* g, const T* inverse, std::int64_t columns, bool positive) {
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> even = {}, odd = {};
  const auto ratio = [&](std::int64_t j) __attribute__((always_inline)) {
    const Vector<T> v = load(g + j) * load(inverse + j);
    return positive ? v : absolute<T>(v);
  };
  std::int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    const Vector<T> a = ratio(j), b = ratio(j + lanes);
    even = a > even ? a : even;
    odd = b > odd ? b : odd;
  }
  for (; j < columns; j += lanes) {
    const Vector<T> a = ratio(j);
    even = a > even ? a : even;
  }
  return largest_lane<T>(even > odd ? even : odd);
}

#if defined(__AVX512F__)
[[gnu::always_inline]] inline unsigned lanes_above(Vector<float> a, Vector<float> b) {
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ);
}
[[gnu::always_inline]] inline unsigned lanes_above(Vector<double> a, Vector<double> b) {
  return _mm512_cmp_pd_mask(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), _CMP_GT_OQ);
}
#endif

template <typename T>
std::int64_t above(const T* g, const T* inverse, std::int64_t columns, bool positive, T bound, std::int32_t* index) {
  constexpr std::int64_t lanes = kLanes<T>;
  const Vector<T> limit = bound - Vector<T>{};
  std::int64_t found = 0;
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const Vector<T> v = load(g + j) * load(inverse + j);
    const Vector<T> ratio = positive ? v : absolute<T>(v);
#if defined(__AVX512F__)
    for (unsigned mask = lanes_above(ratio, limit); mask != 0; mask &= mask - 1)
      index[found++] = static_cast<std::int32_t>(j + __builtin_ctz(mask));
#else
    for (std::int64_t l = 0; l < lanes; ++l) {
      index[found] = static_cast<std::int32_t>(j + l);
      found += ratio[l] > limit[l];
    }
#endif
  }
  return found;
}

// y[0 ... columns) -= by x
template <typename T>
[[gnu::always_inline]] inline void subtract(const T* x, T by, std::int64_t columns, T* y) {
  constexpr std::int64_t lanes = kLanes<T>;
  const Vector<T> factor = by - Vector<T>{};
  for (std::int64_t j = 0; j < columns; j += lanes) store<T>(y + j, load(y + j) - factor * load(x + j));
}

template <typename T>
Swept<T> sweep(const WorkingSet<T>& given) {
  const WorkingSet<T> w = given;
  const std::int64_t columns = (w.size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  Swept<T> done = {0, false};
  for (std::int64_t j = 0; j < w.size; ++j) {
    const T* row = w.gram + j * w.stride;
    const T code = w.codes[j], alpha = w.alpha[j];
    const T drive = w.correlations[j] + code * row[j];
    T next = 0;
    if (drive > alpha)
      next = (drive - alpha) * w.inverse[j];
    else if (!w.positive && drive < -alpha)
      next = (drive + alpha) * w.inverse[j];
    const T change = next - code;
    if (change == T(0)) continue;
    w.codes[j] = next;
    subtract<T>(row, change, columns, w.correlations);
    const T size = change < T(0) ? -change : change;
    done.largest = size > done.largest ? size : done.largest;
    done.entered = done.entered || next == T(0) || code == T(0);
  }
  return done;
}

template <typename T>
constexpr T kEpsilon = sizeof(T) == 4 ? T(1.2e-7) : T(2.3e-16);

// Factorises a symmetric matrix (size, stride) in place, A = U^T U with U in its upper triangle and 1 / U[k][k] in
// `inverse`; returns false where it is singular. Rows are padded; what is left of the diagonal is overwritten.
template <typename T>
bool factorise(T* A, std::int64_t stride, std::int64_t size, T* inverse) {
  constexpr std::int64_t lanes = kLanes<T>;
  const T least = kEpsilon<T> * static_cast<T>(size);  // atoms have norms near 1
  for (std::int64_t k = 0; k < size; ++k) {
    T* row = A + k * stride;
    if (!(row[k] > least)) return false;
    const T by = T(1) / __builtin_sqrt(row[k]);
    inverse[k] = by;
    const Vector<T> factor = by - Vector<T>{};
    for (std::int64_t j = k / lanes * lanes; j < size; j += lanes) store<T>(row + j, load(row + j) * factor);
    for (std::int64_t i = k + 1; i < size; ++i) {
      const std::int64_t first = i / lanes * lanes;
      subtract<T>(row + first, row[i], size - first, A + i * stride + first);
    }
  }
  return true;
}

// x becomes A^-1 x.
template <typename T>
void solve(const T* U, std::int64_t stride, std::int64_t size, const T* inverse, T* x) {
  constexpr std::int64_t lanes = kLanes<T>;
  for (std::int64_t k = 0; k < size; ++k) {
    const T value = x[k] * inverse[k];
    const std::int64_t first = (k + 1) / lanes * lanes;
    // The vector that holds x[k] itself and what is before it has to stay as it is.
    for (std::int64_t j = k + 1; j < size && j < first + lanes; ++j) x[j] -= value * U[k * stride + j];
    if (first + lanes < size)
      subtract<T>(U + k * stride + first + lanes, value, size - first - lanes, x + first + lanes);
    x[k] = value;
  }
  for (std::int64_t k = size - 1; k >= 0; --k) {
    const T* row = U + k * stride;
    Vector<T> sums = {};
    T sum = x[k];
    std::int64_t j = k + 1;
    for (; j < size && j % lanes != 0; ++j) sum -= row[j] * x[j];
    for (; j < size; j += lanes) sums += load(row + j) * load(x + j);
    x[k] = (sum - sum_of_lanes<T>(sums)) * inverse[k];
  }
}

// What is added to the diagonal, in roundings. The step is then a descent whatever the rank of the matrix, for the
// quadratic that it minimises lies above the objective; along a direction that costs nothing it is long, and ends where
// a code becomes zero.
constexpr int kRidge = 8;

// The part of a step, at most 1, that makes the objective smallest: all of it, or as far as a code becomes zero, which
// is then the `first`.
template <typename T>
T best_part(const WorkingSet<T>& w, const T* step, std::int64_t size, const std::int32_t* index, std::int64_t& first) {
  const auto absolute = [](T value) { return value < T(0) ? -value : value; };
  T slope = 0, curvature = 0;  // of the objective without the absolute values, and with their present signs
  for (std::int64_t i = 0; i < size; ++i) {
    const T correlation = w.correlations[index[i]], alpha = w.alpha[index[i]];
    slope -= step[i] * correlation;
    curvature += step[i] * (correlation - (w.codes[index[i]] > T(0) ? alpha : -alpha));
  }
  T best = 1;
  if (w.positive) {  // no code may change its sign
    for (std::int64_t i = 0; i < size; ++i) {
      const T code = w.codes[index[i]];
      if (code + step[i] > T(0) || -code / step[i] > best) continue;
      best = -code / step[i];
      first = i;
    }
    return best;
  }
  const auto change = [&](T part) {
    T sum = part * (slope + T(0.5) * part * curvature);
    for (std::int64_t i = 0; i < size; ++i) {
      const T code = w.codes[index[i]];
      sum += w.alpha[index[i]] * (absolute(code + part * step[i]) - absolute(code));
    }
    return sum;
  };
  T least = change(T(1));
  for (std::int64_t i = 0; i < size; ++i) {
    const T code = w.codes[index[i]], there = code + step[i];
    if ((code > T(0)) == (there > T(0)) && there != T(0)) continue;
    const T until = -code / step[i], found = change(until);
    if (found >= least) continue;
    best = until;
    least = found;
    first = i;
  }
  return best;
}

template <typename T>
int jump(const WorkingSet<T>& given, T* scratch, std::int32_t* index) {
  const WorkingSet<T> w = given;
  constexpr std::int64_t lanes = kLanes<T>;
  std::int64_t size = 0;
  for (std::int64_t j = 0; j < w.size; ++j)
    if (w.codes[j] != T(0)) index[size++] = static_cast<std::int32_t>(j);
  if (size == 0) return 2;
  const std::int64_t columns = (size + lanes - 1) / lanes * lanes;
  T* A = scratch;
  T* inverse = scratch + w.size * w.stride;
  T* step = inverse + w.stride;
  for (std::int64_t i = 0; i < size; ++i) {
    const T* row = w.gram + index[i] * w.stride;
    for (std::int64_t j = i; j < size; ++j) A[i * w.stride + j] = row[index[j]];
    for (std::int64_t j = i / lanes * lanes; j < i; ++j) A[i * w.stride + j] = T(0);
    for (std::int64_t j = size; j < columns; ++j) A[i * w.stride + j] = T(0);
    A[i * w.stride + i] += kRidge * kEpsilon<T> * static_cast<T>(size);
    const T sign = w.codes[index[i]] > T(0) ? T(1) : T(-1);
    step[i] = w.correlations[index[i]] - sign * w.alpha[index[i]];
  }
  for (std::int64_t j = size; j < columns; ++j) step[j] = T(0);
  if (!factorise<T>(A, w.stride, size, inverse)) return 0;
  solve<T>(A, w.stride, size, inverse, step);
  std::int64_t first = -1;
  const T part = best_part<T>(w, step, size, index, first);
  const std::int64_t all = (w.size + lanes - 1) / lanes * lanes;
  bool kept = first < 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const T code = w.codes[index[i]];
    T there = i == first ? T(0) : code + part * step[i];
    if (w.positive && there < T(0)) there = T(0);  // by rounding
    kept = kept && (there > T(0)) == (code > T(0)) && there != T(0);
    w.codes[index[i]] = there;
    subtract<T>(w.gram + index[i] * w.stride, there - code, all, w.correlations);
  }
  return kept ? 2 : 1;
}

template <typename T>
GapTerms<T> gap_terms(const WorkingSet<T>& given) {
  const WorkingSet<T> w = given;
  GapTerms<T> terms = {0, 0, 0, 0};
  for (std::int64_t j = 0; j < w.size; ++j) {
    const T code = w.codes[j] < T(0) ? -w.codes[j] : w.codes[j];
    const T correlation = w.correlations[j] < T(0) && !w.positive ? -w.correlations[j] : w.correlations[j];
    const T ratio = correlation / w.alpha[j];
    terms.ratio = ratio > terms.ratio ? ratio : terms.ratio;
    terms.absolute += w.alpha[j] * code;
    terms.product += w.codes[j] * w.correlations[j];
    terms.size = code > terms.size ? code : terms.size;
  }
  return terms;
}

template <typename T>
void residual(const T* x, double scale, const T* atoms, std::int64_t stride, const std::int32_t* index, const T* codes,
              std::int64_t terms, std::int64_t features, double* out) {
  for (std::int64_t i = 0; i < features; ++i) out[i] = static_cast<double>(x[i]) * scale;
  for (std::int64_t t = 0; t < terms; ++t) {
    const T* atom = atoms + index[t] * stride;
    const double code = static_cast<double>(codes[t]);
    for (std::int64_t i = 0; i < features; ++i) out[i] -= code * static_cast<double>(atom[i]);
  }
}

template <typename T>
LassoKernels<T> lasso_table() {
  return {&largest_ratio<T>, &above<T>, &sweep<T>, &jump<T>, &gap_terms<T>, &residual<T>};
}

}  // namespace

LassoKernels<float> float_lasso_kernels() { return lasso_table<float>(); }
LassoKernels<double> double_lasso_kernels() { return lasso_table<double>(); }

}  // namespace scvae::cpu::SCVAE_ISA
