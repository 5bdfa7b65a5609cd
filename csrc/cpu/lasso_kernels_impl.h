// The lasso's inner loops, compiled for each instruction set like kernels_impl.h, which must be included first.
#include <cstdint>

#include "cpu/lasso_kernels.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

template <typename T>
[[gnu::always_inline]] inline Vector<T> absolute(Vector<T> v) {
  return v < Vector<T>{} ? -v : v;
}

// Lane l of the result is lane l + H of v, of which lanes / 2 ... 1 in turn fold a vector into its first lane.
template <typename T, int H>
[[gnu::always_inline]] inline Vector<T> rotate(Vector<T> v) {
  typename VectorOf<T>::integer index = {};
  for (int l = 0; l < kLanes<T>; ++l) index[l] = (l + H) % kLanes<T>;
  return shuffle<T>(v, v, index);
}

template <typename T, int H = kLanes<T> / 2>
[[gnu::always_inline]] inline T largest_lane(Vector<T> v) {
  const Vector<T> other = rotate<T, H>(v);
  const Vector<T> larger = v > other ? v : other;
  if constexpr (H == 1)
    return larger[0];
  else
    return largest_lane<T, H / 2>(larger);
}

template <typename T, int H = kLanes<T> / 2>
[[gnu::always_inline]] inline T sum_of_lanes(Vector<T> v) {
  v += rotate<T, H>(v);
  if constexpr (H == 1)
    return v[0];
  else
    return sum_of_lanes<T, H / 2>(v);
}

template <typename T>
T largest(const T* x, std::int64_t size) {
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> of_lanes = {};
  std::int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const Vector<T> v = absolute<T>(load(x + i));
    of_lanes = v > of_lanes ? v : of_lanes;
  }
  T found = largest_lane<T>(of_lanes);
  for (; i < size; ++i) {
    const T v = x[i] < T(0) ? -x[i] : x[i];
    found = v > found ? v : found;
  }
  return found;
}

// Eight partial sums; compilers may not split one sum into them.
template <typename T>
double square(const T* x, double by, std::int64_t size) {
  constexpr std::int64_t sums = 8;
  double sum[sums] = {};
  std::int64_t i = 0;
  for (; i + sums <= size; i += sums)
    for (std::int64_t s = 0; s < sums; ++s) {
      const double value = by * static_cast<double>(x[i + s]);
      sum[s] += value * value;
    }
  for (std::int64_t s = 0; i + s < size; ++s) {
    const double value = by * static_cast<double>(x[i + s]);
    sum[s] += value * value;
  }
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

template <typename T>
void column_squares(const T* matrix, std::int64_t stride, std::int64_t rows, std::int64_t columns, double* out) {
  for (std::int64_t j = 0; j < columns; ++j) out[j] = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* row = matrix + i * stride;
    for (std::int64_t j = 0; j < columns; ++j) {
      const double value = static_cast<double>(row[j]);
      out[j] += value * value;
    }
  }
}

// Elements beyond the columns have an inverse of zero.
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
[[gnu::always_inline]] inline Vector<float> compressed(Vector<float> v, unsigned mask) {
  return reinterpret_cast<Vector<float>>(
      _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), reinterpret_cast<__m512>(v)));
}
[[gnu::always_inline]] inline Vector<double> compressed(Vector<double> v, unsigned mask) {
  return reinterpret_cast<Vector<double>>(
      _mm512_maskz_compress_pd(static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v)));
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

// y[0 ... columns) -= the sum over four x of by[i] x[i], `stride` apart
template <typename T>
[[gnu::always_inline]] inline void subtract_four(const T* x, std::int64_t stride, const T (&by)[4],
                                                 std::int64_t columns, T* y) {
  constexpr std::int64_t lanes = kLanes<T>;
  const Vector<T> zero = {};
  const Vector<T> a = by[0] - zero, b = by[1] - zero, c = by[2] - zero, d = by[3] - zero;
  for (std::int64_t j = 0; j < columns; j += lanes)
    store<T>(y + j, load(y + j) - a * load(x + j) - b * load(x + stride + j) - c * load(x + 2 * stride + j) -
                        d * load(x + 3 * stride + j));
}

// A coordinate's minimum is u less its clamp to +-alpha / gram[j][j], with u = code + correlation / gram[j][j]. Each
// coordinate waits for the one before, so what is on that path is kept short.
template <typename T>
T sweep(const WorkingSet<T>& given) {
  const WorkingSet<T> w = given;
  const std::int64_t columns = (w.size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  T largest = 0;
  T correlation = w.size > 0 ? w.correlations[0] : T(0);
  for (std::int64_t j = 0; j < w.size; ++j) {
    const T* row = w.gram + j * w.stride;
    const T code = w.codes[j], inverse = w.inverse[j], limit = w.alpha[j] * inverse;
    const T pull = correlation * inverse, u = code + correlation * inverse;
    const T below = u < limit ? u : limit;
    const T inside = !w.positive && below < -limit ? -limit : below;
    const T next = u - inside, change = next - code;
    if (change == T(0)) {
      correlation = w.correlations[j + 1];
      continue;
    }
    // Computed separately, so that the next code need not wait until the vectors are stored and loaded again; from the
    // change rounded in another way, so that it need not wait for `next` either.
    correlation = w.correlations[j + 1] - (pull - inside) * row[j + 1];
    w.codes[j] = next;
    subtract<T>(row, change, columns, w.correlations);
    const T size = change < T(0) ? -change : change;
    largest = size > largest ? size : largest;
  }
  return largest;
}

template <typename T>
constexpr T kEpsilon = sizeof(T) == 4 ? T(1.2e-7) : T(2.3e-16);

// Factorises a symmetric matrix (size, stride) in place, A = U^T E U with U in its upper triangle and the diagonal
// E[k][k] = 1 / U[k][k] in `inverse`; returns false where it is singular. Rows are padded; the part left of the
// diagonal is overwritten.
template <typename T>
bool factorise(T* A, std::int64_t stride, std::int64_t size, T* inverse) {
  constexpr std::int64_t lanes = kLanes<T>;
  const T least = kEpsilon<T> * static_cast<T>(size);  // atoms have norms near 1
  for (std::int64_t first = 0; first < size; first += 4) {
    const std::int64_t last = first + 4 < size ? first + 4 : size;
    for (std::int64_t k = first; k < last; ++k) {
      T* row = A + k * stride;
      if (!(row[k] > least)) return false;
      inverse[k] = T(1) / row[k];
      for (std::int64_t i = k + 1; i < last; ++i) {
        const std::int64_t at = i / lanes * lanes;
        subtract<T>(row + at, row[i] * inverse[k], size - at, A + i * stride + at);
      }
    }
    const T* rows = A + first * stride;
    for (std::int64_t i = last; i < size; ++i) {
      const std::int64_t at = i / lanes * lanes;
      const T* scale = inverse + first;
      const T by[4] = {rows[i] * scale[0], rows[stride + i] * scale[1], rows[2 * stride + i] * scale[2],
                       rows[3 * stride + i] * scale[3]};
      subtract_four<T>(rows + at, stride, by, size - at, A + i * stride + at);
    }
  }
  return true;
}

// The indices of the lanes.
template <typename T>
[[gnu::always_inline]] inline typename VectorOf<T>::integer lane_numbers() {
  typename VectorOf<T>::integer numbers = {};
  for (int l = 0; l < kLanes<T>; ++l) numbers[l] = l;
  return numbers;
}

// x becomes A^-1 x, of whole vectors. Scalars that are stored would have to reach memory before a vector of them can be
// loaded, so x stays in vectors.
template <typename T>
void solve(const T* U, std::int64_t stride, std::int64_t size, const T* inverse, T* x) {
  constexpr std::int64_t lanes = kLanes<T>;
  const typename VectorOf<T>::integer lane = lane_numbers<T>();
  const Vector<T> zero = {};
  for (std::int64_t k = 0; k < size; ++k) {
    const std::int64_t at = k / lanes * lanes;
    const int own = static_cast<int>(k - at);
    const T value = x[k] * inverse[k];
    const Vector<T> there = load(x + at), after = there - (value - zero) * load(U + k * stride + at);
    store<T>(x + at, lane > own ? after : there);
    if (at + lanes < size) subtract<T>(U + k * stride + at + lanes, value, size - at - lanes, x + at + lanes);
  }
  for (std::int64_t at = (size - 1) / lanes * lanes; at >= 0; at -= lanes) {
    const std::int64_t count = at + lanes < size ? lanes : size - at;
    Vector<T> column[lanes], done = load(x + at);
    if (at + lanes < size) {
      T sums[lanes] = {};
      for (std::int64_t l = 0; l < count; ++l) {
        Vector<T> sum = {};
        for (std::int64_t j = at + lanes; j < size; j += lanes) sum += load(U + (at + l) * stride + j) * load(x + j);
        sums[l] = sum_of_lanes<T>(sum);
      }
      done -= load(static_cast<const T*>(sums));
    }
    for (std::int64_t l = 0; l < lanes; ++l) column[l] = l < count ? load(U + (at + l) * stride + at) : zero;
    exchange_all<T, lanes / 2>(column);
#pragma GCC unroll 16
    for (int l = static_cast<int>(lanes) - 1; l >= 0; --l) {
      if (l >= count) continue;
      const Vector<T> value = done[l] * inverse[at + l] - zero;
      done = lane < l ? done - value * column[l] : (lane == l ? value : done);
    }
    store<T>(x + at, done);
  }
}

// This many roundings are added to the diagonal. The step is then a descent whatever the rank of the matrix, because
// the quadratic that it minimises lies above the objective; along a direction without curvature it is long, and ends
// where a code becomes zero.
constexpr int kRidge = 8;

// A step from the nonzero codes, in the order of `index`; vectors are padded with zeros to whole vectors.
template <typename T>
struct Step {
  std::int64_t size;
  T* by;  // the step
  T* code;
  T* alpha;
  T slope, curvature;  // of the objective without the absolute values, and with their present signs
};

// The change of the objective by this part of a step.
template <typename T>
T change_by(const Step<T>& s, T part) {
  Vector<T> sums = {};
  for (std::int64_t i = 0; i < s.size; i += kLanes<T>) {
    const Vector<T> code = load(s.code + i);
    sums += load(s.alpha + i) * (absolute<T>(code + part * load(s.by + i)) - absolute<T>(code));
  }
  return part * (s.slope + T(0.5) * part * s.curvature) + sum_of_lanes<T>(sums);
}

// Whether a nonzero code becomes zero or changes its sign.
template <typename T>
bool crosses(T code, T there) {
  return there == T(0) || (code > T(0)) != (there > T(0));
}

// The part of a step, at most 1, that minimises the objective: all of it, or up to where a code becomes zero, which is
// then the `first`. `change` is the change of the objective.
template <typename T>
T best_part(const Step<T>& s, bool positive, std::int64_t& first, T& change) {
  T best = 1;
  change = positive ? T(0) : change_by(s, T(1));
  for (std::int64_t i = 0; i < s.size; ++i) {
    if (!crosses(s.code[i], s.code[i] + s.by[i])) continue;
    const T until = -s.code[i] / s.by[i];
    if (positive && until > best) continue;  // no code may change its sign
    const T found = positive ? T(0) : change_by(s, until);
    if (found > change || (!positive && found == change)) continue;
    best = until;
    change = found;
    first = i;
  }
  if (positive) change = change_by(s, best);
  return best;
}

// Updates correlations for codes that become `there`.
template <typename T>
void move(const WorkingSet<T>& w, const Step<T>& s, const std::int32_t* index, const T* there) {
  for (std::int64_t i = 0; i < s.size; ++i)
    if (there[i] != s.code[i])
      subtract<T>(w.gram + index[i] * w.stride, there[i] - s.code[i], (w.size + kLanes<T> - 1) / kLanes<T> * kLanes<T>,
                  w.correlations);
}

// The whole step, but codes stop at zero. Returns whether that lowers the objective further than `change`; if not,
// nothing is changed. `before` is scratch.
template <typename T>
bool step_to_zeros(const WorkingSet<T>& w, const Step<T>& s, const std::int32_t* index, T change, T* there, T* before) {
  for (std::int64_t j = 0; j < w.size; ++j) before[j] = w.correlations[j];
  for (std::int64_t i = 0; i < s.size; ++i)
    there[i] = crosses(s.code[i], s.code[i] + s.by[i]) ? T(0) : s.code[i] + s.by[i];
  move(w, s, index, there);
  T found = 0;
  for (std::int64_t i = 0; i < s.size; ++i) {
    const T size = there[i] < T(0) ? -there[i] : there[i], was = s.code[i] < T(0) ? -s.code[i] : s.code[i];
    found +=
        s.alpha[i] * (size - was) - T(0.5) * (there[i] - s.code[i]) * (before[index[i]] + w.correlations[index[i]]);
  }
  if (found < change) return true;
  for (std::int64_t j = 0; j < w.size; ++j) w.correlations[j] = before[j];
  return false;
}

// out = the elements of a row whose codes are not zero; `index` are their numbers. A whole vector beyond them may be
// overwritten.
template <typename T>
[[gnu::always_inline]] inline void gather(const T* row, const T* codes, std::int64_t size, const std::int32_t* index,
                                          std::int64_t found, T* out) {
#if defined(__AVX512F__)
  for (std::int64_t j = 0; j < size; j += kLanes<T>) {
    const unsigned mask = not_zero(codes + j, first_lanes<T>(size - j));
    store<T>(out, compressed(load(row + j), mask));
    out += __builtin_popcount(mask);
  }
  (void)index, (void)found;
#else
  for (std::int64_t i = 0; i < found; ++i) out[i] = row[index[i]];
  (void)codes, (void)size;
#endif
}

template <typename T>
int jump(const WorkingSet<T>& given, T* scratch, std::int32_t* index) {
  const WorkingSet<T> w = given;
  constexpr std::int64_t lanes = kLanes<T>;
  const std::int64_t size = support<T>(w.codes, 0, 1, w.size, index);
  if (size == 0) return 2;
  const std::int64_t columns = (size + lanes - 1) / lanes * lanes;
  T* A = scratch;
  T* inverse = scratch + w.size * w.stride;
  Step<T> s = {size, inverse + w.stride, inverse + 2 * w.stride, inverse + 3 * w.stride, 0, 0};
  T *there = inverse + 4 * w.stride, *before = inverse + 5 * w.stride;
  const auto gather_all = [&](const T* row, T* out) __attribute__((always_inline)) {
    gather<T>(row, w.codes, w.size, index, size, out);
    for (std::int64_t j = size; j < columns; ++j) out[j] = T(0);
  };
  for (std::int64_t i = 0; i < size; ++i) {
    gather_all(w.gram + index[i] * w.stride, A + i * w.stride);
    A[i * w.stride + i] += kRidge * kEpsilon<T> * static_cast<T>(size);
  }
  gather_all(w.correlations, s.by);  // in this order: each may overwrite what lies behind it
  gather_all(w.codes, s.code);
  gather_all(w.alpha, s.alpha);
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const Vector<T> code = load(s.code + j), alpha = load(s.alpha + j);
    const Vector<T> slope = load(s.by + j) - (code < Vector<T>{} ? -alpha : alpha);
    store<T>(s.by + j, slope);
    store<T>(there + j, slope);
  }
  if (!factorise<T>(A, w.stride, size, inverse)) return 0;
  solve<T>(A, w.stride, size, inverse, s.by);
  bool kept = true;
  for (std::int64_t i = 0; i < size; ++i) {
    s.slope -= s.by[i] * w.correlations[index[i]];
    s.curvature += s.by[i] * there[i];
    kept = kept && !crosses(s.code[i], s.code[i] + s.by[i]);
  }
  std::int64_t first = -1;
  T change = 0;
  const T part = kept ? T(1) : best_part<T>(s, w.positive, first, change);
  if (kept || !step_to_zeros(w, s, index, change, there, before)) {
    for (std::int64_t i = 0; i < size; ++i) {
      there[i] = i == first ? T(0) : s.code[i] + part * s.by[i];
      if (w.positive && there[i] < T(0)) there[i] = T(0);  // by rounding
    }
    move(w, s, index, there);
  }
  for (std::int64_t i = 0; i < size; ++i) w.codes[index[i]] = there[i];
  return kept ? 2 : 1;
}

template <typename T>
GapTerms<T> gap_terms(const WorkingSet<T>& given) {
  const WorkingSet<T> w = given;
  Vector<T> ratio = {}, absolutes = {}, product = {}, size = {};
  for (std::int64_t j = 0; j < w.size; j += kLanes<T>) {
    const Vector<T> code = load(w.codes + j), correlation = load(w.correlations + j), alpha = load(w.alpha + j);
    const Vector<T> found = (w.positive ? correlation : absolute<T>(correlation)) / alpha, of = absolute<T>(code);
    ratio = found > ratio ? found : ratio;
    absolutes += alpha * of;
    product += code * correlation;
    size = of > size ? of : size;
  }
  return {largest_lane<T>(ratio), sum_of_lanes<T>(absolutes), sum_of_lanes<T>(product), largest_lane<T>(size)};
}

template <typename T>
void residual(const T* x, double scale, const T* atoms, std::int64_t stride, const std::int32_t* index, const T* codes,
              std::int64_t terms, std::int64_t features, double* out) {
  for (std::int64_t i = 0; i < features; ++i) out[i] = static_cast<double>(x[i]) / scale;
  std::int64_t t = 0;
  for (; t + 4 <= terms; t += 4) {
    const T *a = atoms + index[t] * stride, *b = atoms + index[t + 1] * stride, *c = atoms + index[t + 2] * stride,
            *d = atoms + index[t + 3] * stride;
    const double by[4] = {static_cast<double>(codes[t]), static_cast<double>(codes[t + 1]),
                          static_cast<double>(codes[t + 2]), static_cast<double>(codes[t + 3])};
    for (std::int64_t i = 0; i < features; ++i)
      out[i] = out[i] - by[0] * static_cast<double>(a[i]) - by[1] * static_cast<double>(b[i]) -
               by[2] * static_cast<double>(c[i]) - by[3] * static_cast<double>(d[i]);
  }
  for (; t < terms; ++t) {
    const T* atom = atoms + index[t] * stride;
    const double code = static_cast<double>(codes[t]);
    for (std::int64_t i = 0; i < features; ++i) out[i] -= code * static_cast<double>(atom[i]);
  }
}

template <typename T>
LassoKernels<T> lasso_table() {
  return {&largest<T>, &square<T>, &column_squares<T>, &largest_ratio<T>, &above<T>,
          &sweep<T>,   &jump<T>,   &gap_terms<T>,      &residual<T>};
}

}  // namespace

LassoKernels<float> float_lasso_kernels() { return lasso_table<float>(); }
LassoKernels<double> double_lasso_kernels() { return lasso_table<double>(); }

}  // namespace scvae::cpu::SCVAE_ISA
