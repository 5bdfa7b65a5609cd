// The kernels themselves, written once with the compiler's vector types. A file that defines
//   SCVAE_ISA            the name of the instruction set, a namespace
//   SCVAE_VECTOR_BYTES   the size of a vector
//   SCVAE_WIDE           vectors per panel: R = 3 rows of them and a few more must fit into registers
// and includes this one contains the kernels for that instruction set.
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/kernels_support.h"
#include "cpu/vectors.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

template <typename T>
[[gnu::always_inline]] inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

template <typename T>
[[gnu::always_inline]] inline void store(T* p, Vector<T> v) {
  *reinterpret_cast<Vector<T>*>(p) = v;
}

// Keeps the compiler from reloading a vector at each use: a load costs as much as a multiply-add.
template <typename T>
[[gnu::always_inline]] inline void in_register(Vector<T>& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

// result[l] = index[l] < lanes ? a[index[l]] : b[index[l] - lanes], for an index known at compile time
template <typename T>
[[gnu::always_inline]] inline Vector<T> shuffle(Vector<T> a, Vector<T> b, typename VectorOf<T>::integer index) {
#if defined(__clang__)
  Vector<T> result;
  for (int l = 0; l < kLanes<T>; ++l) result[l] = index[l] < kLanes<T> ? a[index[l]] : b[index[l] - kLanes<T>];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// u - clamp(u, -theta, theta): rounds like sign(u) max(|u| - theta, 0), for theta >= 0.
template <typename T>
[[gnu::always_inline]] inline Vector<T> threshold(Vector<T> u, Vector<T> theta) {
  const Vector<T> above = u > -theta ? u : -theta;
  return u - (above < theta ? above : theta);
}

// 0 for NaN.
template <typename T>
[[gnu::always_inline]] inline Vector<T> sign(Vector<T> u) {
  const Vector<T> zero = {};
  const Vector<T> one = zero + T(1);
  return u > zero ? one : (u < zero ? -one : zero);
}

// The formula literally; 0 for u = 0 and every theta that is not NaN, including minus infinity.
template <typename T>
[[gnu::always_inline]] inline Vector<T> threshold_any(Vector<T> u, Vector<T> theta) {
  const Vector<T> zero = {};
  const Vector<T> excess = (u < zero ? -u : u) - theta;
  const Vector<T> size = excess < zero ? zero : excess;
  return u < zero ? -size : ((u > zero) | (size != size) ? size : zero);
}

// max(u - theta, 0)
template <typename T>
[[gnu::always_inline]] inline Vector<T> threshold_positive(Vector<T> u, Vector<T> theta) {
  const Vector<T> zero = {};
  const Vector<T> excess = u - theta;
  return excess < zero ? zero : excess;
}

template <typename T, Finish F, int R, int V>
[[gnu::always_inline]] inline void finish(const Combination<T>& c, Vector<T> (&u)[R][V]) {
  constexpr std::int64_t lanes = kLanes<T>;
  if (c.init != nullptr) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) u[r][v] += load(c.init + r * c.init_stride + v * lanes);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    Vector<T> theta = {}, d_theta = {};
    if (F == Finish::threshold || F == Finish::threshold_any || F == Finish::general) theta = load(c.theta + v * lanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      Vector<T> value = u[r][v];
      if (F == Finish::threshold) value = threshold<T>(value, theta);
      if (F == Finish::threshold_any) value = threshold_any<T>(value, theta);
      if (F == Finish::general) {
        if (c.scaled) value *= c.scale;
        if (c.prior != nullptr) value += load(c.prior + r * c.prior_stride + v * lanes);
        value = c.positive ? threshold_positive<T>(value, theta) : threshold_any<T>(value, theta);
      }
      if (F == Finish::adjoint) {
        const Vector<T> zero = {};
        const Vector<T> code = load(c.codes + r * c.codes_stride + v * lanes);
        value = code != zero ? value : zero;
        if (c.sum != nullptr) {
          T* sum = c.sum + r * c.sum_stride + v * lanes;
          store<T>(sum, load(sum) + value);
        }
        d_theta -= sign<T>(code) * value;
      }
      store<T>(c.out + r * c.out_stride + v * lanes, value);
    }
    if (F == Finish::adjoint && c.d_theta != nullptr) {
      T* sum = c.d_theta + v * lanes;
      store<T>(sum, load(sum) + d_theta);
    }
  }
}

// Loops over R and V are unrolled so that `u` stays in registers from the first term to the last.
template <typename T, Finish F, int R, int V>
void combine(const Combination<T>& arguments) {
  const Combination<T> c = arguments;  // a local copy, which no store can change
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> u[R][V] = {};
  for (std::int64_t i = 0; i < c.terms; ++i) {
    const std::int64_t k = c.index[i];
    const T* source = c.source + k * c.source_stride;
    Vector<T> coefficient[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) coefficient[r] = c.coefficient[r * c.coefficient_stride + k] - Vector<T>{};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Vector<T> s = load(source + v * lanes);
      if (R > 1) in_register<T>(s);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) u[r][v] += coefficient[r] * s;
    }
  }
  finish<T, F, R, V>(c, u);
}

// Adds the terms of the rows in pattern P, and of the patterns after it.
template <typename T, int V, int P>
[[gnu::always_inline]] inline void add_patterns(const Combination<T>& c, Vector<T> (&u)[kMaxRows][V]) {
  constexpr std::int64_t lanes = kLanes<T>;
  const std::int32_t* end = c.index + c.bounds[P + 1];
  for (const std::int32_t* i = c.index + c.bounds[P]; i < end; ++i) {
    const std::int64_t k = *i;
    const T* source = c.source + k * c.source_stride;
    Vector<T> coefficient[kMaxRows];
#pragma GCC unroll 3
    for (int r = 0; r < kMaxRows; ++r)
      if ((P >> r & 1) != 0) coefficient[r] = c.coefficient[r * c.coefficient_stride + k] - Vector<T>{};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Vector<T> s = load(source + v * lanes);
      if ((P & (P - 1)) != 0) in_register<T>(s);
#pragma GCC unroll 3
      for (int r = 0; r < kMaxRows; ++r)
        if ((P >> r & 1) != 0) u[r][v] += coefficient[r] * s;
    }
  }
  if constexpr (P + 1 < kPatterns) add_patterns<T, V, P + 1>(c, u);
}

// Three rows with terms sorted by the rows that have them: nothing is multiplied by zero.
template <typename T, Finish F, int V>
void combine_three(const Combination<T>& arguments) {
  const Combination<T> c = arguments;  // a local copy, which no store can change
  Vector<T> u[kMaxRows][V] = {};
  add_patterns<T, V, 1>(c, u);
  finish<T, F, kMaxRows, V>(c, u);
}

// The part of a combination that starts at that vector.
template <typename T>
[[gnu::always_inline]] inline Combination<T> from_vector(const Combination<T>& whole, int vector) {
  Combination<T> c = whole;
  const std::int64_t by = vector * kLanes<T>;
  c.source += by;
  c.out += by;
  if (c.init != nullptr) c.init += by;
  if (c.theta != nullptr) c.theta += by;
  if (c.prior != nullptr) c.prior += by;
  if (c.codes != nullptr) c.codes += by;
  if (c.sum != nullptr) c.sum += by;
  if (c.d_theta != nullptr) c.d_theta += by;
  return c;
}

template <typename T, Finish F, int V>
[[gnu::always_inline]] inline void combine_all(const Combination<T>& c) {
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> u[kDenseRows][V] = {};
  for (std::int64_t k = 0; k < c.terms; ++k) {
    const T* source = c.source + k * c.source_stride;
    Vector<T> s[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      s[v] = load(source + v * lanes);
      in_register<T>(s[v]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kDenseRows; ++r) {
      const Vector<T> coefficient = c.coefficient[r * c.coefficient_stride + k] - Vector<T>{};
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) u[r][v] += coefficient * s[v];
    }
  }
  finish<T, F, kDenseRows, V>(c, u);
}

// Rows that have nearly all terms: half of the vectors at a time, so that each load serves twice as many rows as in
// combine_three.
template <typename T, Finish F, int V>
void combine_dense(const Combination<T>& arguments) {
  constexpr int half = (V + 1) / 2;
  combine_all<T, F, half>(from_vector(arguments, 0));
  if constexpr (V > 1) combine_all<T, F, V - half>(from_vector(arguments, half));
}

template <typename T, int R>
[[gnu::always_inline]] inline void dots_of(const T* matrix, std::int64_t stride, std::int64_t columns, const T* z,
                                           const T* init, T* out) {
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> even[R] = {}, odd[R] = {};
  std::int64_t k = 0;
  for (; k + 2 * lanes <= columns; k += 2 * lanes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      even[r] += load(matrix + r * stride + k) * load(z + k);
      odd[r] += load(matrix + r * stride + k + lanes) * load(z + k + lanes);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    T sum = 0;
    for (std::int64_t l = 0; l < lanes; ++l) sum += even[r][l] + odd[r][l];
    for (std::int64_t rest = k; rest < columns; ++rest) sum += matrix[r * stride + rest] * z[rest];
    out[r] = init != nullptr ? init[r] + sum : sum;
  }
}

template <typename T>
void dots(const T* matrix, std::int64_t stride, std::int64_t rows, std::int64_t columns, const T* z, const T* init,
          T* out) {
  std::int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
    dots_of<T, 4>(matrix + i * stride, stride, columns, z, init != nullptr ? init + i : nullptr, out + i);
  for (; i < rows; ++i)
    dots_of<T, 1>(matrix + i * stride, stride, columns, z, init != nullptr ? init + i : nullptr, out + i);
}

template <typename T>
void start(const T* b, T gain, const T* theta, bool positive, std::int64_t columns, T* out) {
  constexpr std::int64_t lanes = kLanes<T>;
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const Vector<T> u = gain * load(b + j), level = load(theta + j);
    store<T>(out + j, positive ? threshold_positive<T>(u, level) : threshold_any<T>(u, level));
  }
}

// The following functions work on whole vectors.

template <typename T>
void extrapolate(const T* z, const T* before, T momentum, std::int64_t columns, T* out) {
  for (std::int64_t j = 0; j < columns; j += kLanes<T>) {
    const Vector<T> here = load(z + j);
    store<T>(out + j, here + momentum * (here - load(before + j)));
  }
}

template <typename T>
void gate(const T* g, const T* codes, std::int64_t columns, T* out, T* d_theta) {
  const Vector<T> zero = {};
  for (std::int64_t j = 0; j < columns; j += kLanes<T>) {
    const Vector<T> code = load(codes + j), through = load(g + j);
    const Vector<T> value = code != zero ? through : zero;
    store<T>(out + j, value);
    if (d_theta != nullptr) store<T>(d_theta + j, load(d_theta + j) - sign<T>(code) * value);
  }
}

template <typename T>
void scale(const T* in, T factor, std::int64_t columns, T* out) {
  for (std::int64_t j = 0; j < columns; j += kLanes<T>) store<T>(out + j, factor * load(in + j));
}

template <typename T>
void add(const T* in, std::int64_t columns, T* out) {
  for (std::int64_t j = 0; j < columns; j += kLanes<T>) store<T>(out + j, load(out + j) + load(in + j));
}

template <typename T>
void pull(T* q, const T* momentum, std::int64_t columns, T* g, T* carried) {
  for (std::int64_t j = 0; j < columns; j += kLanes<T>) {
    const Vector<T> all = load(q + j) + load(g + j);
    const Vector<T> by_momentum = momentum != nullptr ? *momentum * all : Vector<T>{};
    store<T>(q + j, all);
    store<T>(g + j, load(carried + j) + all + by_momentum);
    store<T>(carried + j, -by_momentum);
  }
}

template <typename T>
double dot(const T* a, const T* b, const T* c, std::int64_t columns) {
  Vector<T> sum = {};
  for (std::int64_t j = 0; j < columns; j += kLanes<T>)
    sum += load(a + j) * (c != nullptr ? load(b + j) - load(c + j) : load(b + j));
  double total = 0;
  for (std::int64_t lane = 0; lane < kLanes<T>; ++lane) total += static_cast<double>(sum[lane]);
  return total;
}

// Swaps the off-diagonal H x H blocks in pairs of rows that are H rows apart.
template <typename T, int H>
[[gnu::always_inline]] inline void exchange(Vector<T>& a, Vector<T>& b) {
  using Index = typename VectorOf<T>::integer;
  constexpr int lanes = kLanes<T>;
  Index upper = {}, lower = {};
  for (int l = 0; l < lanes; ++l) {
    upper[l] = (l & H) == 0 ? l : lanes + l - H;
    lower[l] = (l & H) == 0 ? l + H : lanes + l;
  }
  const Vector<T> first = shuffle<T>(a, b, upper);
  b = shuffle<T>(a, b, lower);
  a = first;
}

template <typename T, int H>
[[gnu::always_inline]] inline void exchange_all(Vector<T> (&row)[kLanes<T>]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i)
    if ((i & H) == 0) exchange<T, H>(row[i], row[i + H]);
  if constexpr (H > 1) exchange_all<T, H / 2>(row);
}

template <typename T>
void transpose(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, T* out,
               std::int64_t out_stride) {
  constexpr std::int64_t lanes = kLanes<T>;
  const std::int64_t whole_rows = rows / lanes * lanes, whole_columns = columns / lanes * lanes;
  for (std::int64_t i = 0; i < whole_rows; i += lanes)
    for (std::int64_t j = 0; j < whole_columns; j += lanes) {
      Vector<T> tile[lanes];
#pragma GCC unroll 16
      for (std::int64_t l = 0; l < lanes; ++l) tile[l] = load(in + (i + l) * in_stride + j);
      exchange_all<T, lanes / 2>(tile);
#pragma GCC unroll 16
      for (std::int64_t l = 0; l < lanes; ++l) store<T>(out + (j + l) * out_stride + i, tile[l]);
    }
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
      out[j * out_stride + i] = in[i * in_stride + j];
}

// 0 * x is 0, unless x is infinite or NaN.
template <typename T>
bool all_finite(const T* values, std::int64_t size) {
  constexpr std::int64_t lanes = kLanes<T>;
  Vector<T> sum = {};
  std::int64_t i = 0;
  for (; i + lanes <= size; i += lanes) sum += T(0) * load(values + i);
  T rest = 0;
  for (; i < size; ++i) rest += T(0) * values[i];
  for (std::int64_t lane = 0; lane < lanes; ++lane) rest += sum[lane];
  return rest == T(0);
}

// R = 3 stands for combine_three, 6 for combine_dense.
template <typename T, Finish F, int R, int V>
constexpr typename Kernels<T>::Combine entry() {
  if constexpr (V > SCVAE_WIDE)
    return nullptr;
  else if constexpr (R == kMaxRows)
    return &combine_three<T, F, V>;
  else if constexpr (R == kDenseRows)
    return &combine_dense<T, F, V>;
  else
    return &combine<T, F, R, V>;
}

template <typename T, Finish F, int R>
void fill_row(typename Kernels<T>::Combine (&row)[kMaxVectors]) {
  row[0] = entry<T, F, R, 1>();
  row[1] = entry<T, F, R, 2>();
  row[2] = entry<T, F, R, 3>();
  row[3] = entry<T, F, R, 4>();
  row[4] = entry<T, F, R, 5>();
  row[5] = entry<T, F, R, 6>();
  row[6] = entry<T, F, R, 7>();
  row[7] = entry<T, F, R, 8>();
}

template <typename T, Finish F>
void fill(Kernels<T>& k) {
  constexpr auto finish = static_cast<int>(F);
  fill_row<T, F, 1>(k.combine[finish][0]);
  fill_row<T, F, 2>(k.combine[finish][1]);
  fill_row<T, F, 3>(k.combine_three[finish]);
  fill_row<T, F, 6>(k.combine_dense[finish]);
}

template <typename T>
Kernels<T> table() {
  Kernels<T> k = {};
  k.lanes = kLanes<T>;
  k.wide = SCVAE_WIDE;
  fill<T, Finish::store>(k);
  fill<T, Finish::threshold>(k);
  fill<T, Finish::threshold_any>(k);
  fill<T, Finish::general>(k);
  fill<T, Finish::adjoint>(k);
  k.support = &support<T>;
  k.patterns = &patterns<T>;
  k.mark = &mark<T>;
  k.dots = &dots<T>;
  k.start = &start<T>;
  k.extrapolate = &extrapolate<T>;
  k.gate = &gate<T>;
  k.scale = &scale<T>;
  k.add = &add<T>;
  k.pull = &pull<T>;
  k.dot = &dot<T>;
  k.transpose = &transpose<T>;
  k.all_finite = &all_finite<T>;
  return k;
}

}  // namespace

Kernels<float> float_kernels() { return table<float>(); }
Kernels<double> double_kernels() { return table<double>(); }

}  // namespace scvae::cpu::SCVAE_ISA
