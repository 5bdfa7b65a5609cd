#include "cpu/product.h"

#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kSlack = 16;  // entries that the support kernel may write beyond its result

// From this mean density of the union of two rows in a unit, three rows are multiplied by pattern.
constexpr double kSparse = 0.28;
// From this one, six rows are multiplied with all terms.
constexpr double kDense = 0.9;

template <typename T>
Panelling panelling(std::int64_t columns) {
  const Kernels<T>& k = kernels<T>();
  return {columns, k.lanes, k.wide};
}

}  // namespace

template <typename T>
Packed<T>::Packed(std::int64_t terms, std::int64_t columns)
    : terms_(terms), columns_(columns), by_(panelling<T>(columns)), buffer_(terms * by_.vectors * by_.lanes) {}

template <typename T>
T* Packed<T>::tile(std::int64_t first_term, std::int64_t panel) {
  return const_cast<T*>(factor().tile(first_term, by_, panel));
}

template <typename T>
void Packed<T>::pack(Rows<T> source, std::int64_t rows, int threads) {
  constexpr std::int64_t rows_per_task = 64;  // within one tile
  terms_ = rows;
  const std::int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  parallel_for(tasks, team_size(threads, tasks), [&](std::int64_t task, int) {
    pack_rows(task * rows_per_task, std::min(rows, (task + 1) * rows_per_task),
              [&](std::int64_t i, std::int64_t begin, std::int64_t live, T* target) {
                std::copy(source[i] + begin, source[i] + begin + live, target);
              });
  });
}

template <typename T>
void Packed<T>::pack(Rows<T> source, std::int64_t rows, std::int64_t columns) {
  columns_ = columns;
  by_ = panelling<T>(columns);
  pack(source, rows, 1);
}

template <typename T>
void Packed<T>::pack_part(Rows<T> source, const std::int32_t* index, std::int64_t size) {
  terms_ = columns_ = size;
  by_ = panelling<T>(size);
  pack_rows(0, size, [&](std::int64_t i, std::int64_t begin, std::int64_t live, T* target) {
    const T* row = source[index[i]];
    for (std::int64_t k = 0; k < live; ++k) target[k] = row[index[begin + k]];
  });
}

// copy(i, begin, live, target) writes the elements begin ... begin + live of row i to target.
template <typename T>
template <typename Copy>
void Packed<T>::pack_rows(std::int64_t first, std::int64_t end, const Copy& copy) {
  for (std::int64_t panel = 0; panel < by_.panels; ++panel) {
    const std::int64_t begin = by_.begin(panel), width = by_.width(panel), live = std::min(width, columns_ - begin);
    for (std::int64_t i = first; i < end; ++i) {
      T* target = tile(i / kDepth * kDepth, panel) + i % kDepth * width;
      copy(i, begin, live, target);
      std::fill(target + live, target + width, T(0));
    }
  }
}

template <typename T>
Packed<T> Packed<T>::straight(Rows<T> source, std::int64_t rows, std::int64_t columns, int threads) {
  Packed out(rows, columns);
  out.pack(source, rows, threads);
  out.finite_ = kernels<T>().all_finite(out.buffer_.data(), out.buffer_.size());
  return out;
}

template <typename T>
Packed<T> Packed<T>::transposed(Rows<T> source, std::int64_t rows, std::int64_t columns, int threads) {
  Packed out(columns, rows);
  const Panelling& by = out.by_;
  parallel_for(by.panels, team_size(threads, by.panels), [&](std::int64_t panel, int) {
    const std::int64_t begin = by.begin(panel), width = by.width(panel), live = std::min(width, rows - begin);
    for (std::int64_t k = 0; k < columns; k += kDepth) {
      T* target = out.tile(k, panel);
      const std::int64_t depth = std::min(kDepth, columns - k);
      kernels<T>().transpose(source[begin] + k, source.stride, live, depth, target, width);
      for (std::int64_t i = 0; live < width && i < depth; ++i)
        std::fill(target + i * width + live, target + (i + 1) * width, T(0));
    }
  });
  out.finite_ = kernels<T>().all_finite(out.buffer_.data(), out.buffer_.size());
  return out;
}

template <typename T>
void Packed<T>::negate() {
  kernels<T>().scale(buffer_.data(), T(-1), buffer_.size(), buffer_.data());
}

Supports::Supports(std::int64_t rows)
    : groups_(static_cast<std::size_t>((rows + kUnit - 1) / kUnit)),
      index_((rows + 1) / 2 * (kDepth + kSlack)),
      bounds_(static_cast<std::size_t>((rows + 1) / 2 * (kPatterns + 1))),
      terms_(static_cast<std::size_t>((rows + 1) / 2)) {}

const std::int32_t* Supports::index(std::int64_t row) const {
  return index_.data() + (all_ ? 0 : row / 2 * (kDepth + kSlack));
}

const std::int32_t* Supports::bounds(std::int64_t row) const { return bounds_.data() + row / 2 * (kPatterns + 1); }

// The union of the supports in each group of rows; returns their total number of terms.
template <typename T>
std::int64_t Supports::plain(const Kernels<T>& k, Rows<T> coefficients, std::int64_t begin, std::int64_t end,
                             std::int64_t terms, int rows_per_group) {
  std::int64_t total = 0;
  for (std::int64_t row = begin; row < end; row += rows_per_group) {
    const int count = static_cast<int>(std::min<std::int64_t>(rows_per_group, end - row));
    std::int32_t* index = index_.data() + row / 2 * (kDepth + kSlack);
    total += terms_[static_cast<std::size_t>(row / 2)] =
        k.support(coefficients[row], coefficients.stride, count, terms, index);
  }
  return total;
}

// Groups of three rows; a remainder of fewer rows is grouped as in `plain`.
template <typename T>
void Supports::by_pattern(const Kernels<T>& k, Rows<T> coefficients, std::int64_t begin, std::int64_t end,
                          std::int64_t terms) {
  std::int64_t row = begin;
  for (; row + kMaxRows <= end; row += kMaxRows)
    k.patterns(coefficients[row], coefficients.stride, terms, index_.data() + row / 2 * (kDepth + kSlack),
               bounds_.data() + row / 2 * (kPatterns + 1));
  if (row < end) plain(k, coefficients, row, end, terms, 2);
}

// All terms are in the lists of pairs from `plain`: groups of three rows reuse them.
void Supports::all_rows(std::int64_t begin, std::int64_t end, std::int64_t terms) {
  for (std::int64_t row = begin; row < end; row += kMaxRows) {
    std::int32_t* bounds = bounds_.data() + row / 2 * (kPatterns + 1);
    std::fill(bounds, bounds + kPatterns, 0);
    bounds[kPatterns] = static_cast<std::int32_t>(terms);
  }
}

template <typename T>
void Supports::find(const Kernels<T>& k, Rows<T> coefficients, std::int64_t rows, std::int64_t terms, Zeros zeros) {
  all_ = zeros == Zeros::keep;
  if (all_) {
    std::fill(groups_.begin(), groups_.end(), 2);
    std::fill(terms_.begin(), terms_.end(), terms);
    for (std::int64_t i = 0; i < terms; ++i) index_.data()[i] = static_cast<std::int32_t>(i);
    return;
  }
  for (std::int64_t begin = 0; begin < rows; begin += kUnit) {
    const std::int64_t end = std::min(rows, begin + kUnit);
    const std::int64_t pairs = (end - begin + 1) / 2;
    const std::int64_t total = plain(k, coefficients, begin, end, terms, 2);
    int& group = groups_[static_cast<std::size_t>(begin / kUnit)];
    group = 2;
    if (static_cast<double>(total) < kSparse * static_cast<double>(pairs * terms)) continue;
    group = kMaxRows;
    if (end - begin == kUnit && static_cast<double>(total) >= kDense * static_cast<double>(pairs * terms))
      group = kDenseRows;
    else if (total == pairs * terms)
      all_rows(begin, end, terms);
    else
      by_pattern(k, coefficients, begin, end, terms);
  }
}

namespace {

template <typename T>
T* offset(T* data, std::int64_t by) {
  return data != nullptr ? data + by : nullptr;
}

// One tile of the factor: `depth` terms from `first` on.
template <typename T>
class Tile {
 public:
  Tile(const Product<T>& product, const Panelling& by, std::int64_t first, std::int64_t depth, const Supports& supports)
      : k_(kernels<T>()),
        p_(product),
        by_(by),
        first_(first),
        depth_(depth),
        finish_(static_cast<int>(first + depth == product.factor.terms ? product.finish : Finish::store)),
        init_(first == 0 ? product.init : Rows<T>{product.out, product.out_stride}),
        supports_(supports) {}

  void multiply(std::int64_t panel) {
    for (std::int64_t begin = 0; begin < p_.rows; begin += Supports::kUnit) {
      const std::int64_t end = std::min(p_.rows, begin + Supports::kUnit);
      const int group = supports_.rows_per_group(begin / Supports::kUnit);
      for (std::int64_t row = begin; row < end; row += group)
        this->group(panel, row, static_cast<int>(std::min<std::int64_t>(group, end - row)));
    }
  }

 private:
  void group(std::int64_t panel, std::int64_t row, int rows) {
    const std::int64_t vectors = by_.width(panel) / by_.lanes;
    const Combination<T> c = combination(panel, row, rows);
    const auto v = static_cast<std::size_t>(vectors - 1);
    if (rows == kDenseRows) return k_.combine_dense[finish_][v](c);
    (rows == kMaxRows ? k_.combine_three[finish_][v] : k_.combine[finish_][rows - 1][v])(c);
  }

  Combination<T> combination(std::int64_t panel, std::int64_t row, int rows) const {
    const std::int64_t column = by_.begin(panel);
    Combination<T> c;
    c.index = supports_.index(row);
    c.terms = rows == kDenseRows ? depth_ : supports_.terms(row);
    c.bounds = supports_.bounds(row);
    c.coefficient = p_.coefficients[row] + first_;
    c.coefficient_stride = p_.coefficients.stride;
    c.source = p_.factor.tile(first_, by_, panel);
    c.source_stride = by_.width(panel);
    c.init = offset(init_.data, row * init_.stride + column);
    c.init_stride = init_.stride;
    c.out = p_.out + row * p_.out_stride + column;
    c.out_stride = p_.out_stride;
    c.theta = offset(p_.theta, column);
    c.prior = offset(p_.prior.data, row * p_.prior.stride + column);
    c.prior_stride = p_.prior.stride;
    c.scaled = p_.scale != nullptr;
    c.scale = c.scaled ? *p_.scale : T(1);
    c.positive = p_.positive;
    c.codes = offset(p_.codes.data, row * p_.codes.stride + column);
    c.codes_stride = p_.codes.stride;
    c.sum = offset(p_.sum, row * p_.sum_stride + column);
    c.sum_stride = p_.sum_stride;
    c.d_theta = offset(p_.d_theta, row / 2 % kThetaSums * p_.d_theta_stride + column);
    return c;
  }

  const Kernels<T>& k_;
  const Product<T>& p_;
  const Panelling& by_;
  std::int64_t first_;
  std::int64_t depth_;
  int finish_;
  Rows<T> init_;
  const Supports& supports_;
};

}  // namespace

template <typename T>
void multiply(const Product<T>& p, Supports& supports) {
  const Panelling by = panelling<T>(p.factor.columns);
  std::int64_t first = 0;
  do {
    const std::int64_t depth = std::min(kDepth, p.factor.terms - first);
    const Rows<T> coefficients{offset(p.coefficients.data, first), p.coefficients.stride};
    supports.find(kernels<T>(), coefficients, p.rows, depth, p.zeros);
    Tile<T> tile(p, by, first, depth, supports);
    for (std::int64_t panel = 0; panel < by.panels; ++panel) tile.multiply(panel);
    first += depth;
  } while (first < p.factor.terms);
}

template <typename T>
void multiply_by_dots(const Plain<T>& matrix, Rows<T> vectors, Rows<T> init, std::int64_t count, T* out,
                      std::int64_t out_stride, int threads) {
  constexpr std::int64_t rows_per_task = 64;
  const std::int64_t tasks = (matrix.rows + rows_per_task - 1) / rows_per_task;
  // Waking a thread takes longer than a few products with a small matrix.
  const int team = matrix.rows < 256 ? 1 : team_size(threads, tasks);
  parallel_for(tasks, team, [&](std::int64_t task, int) {
    const std::int64_t begin = task * rows_per_task, rows = std::min(rows_per_task, matrix.rows - begin);
    for (std::int64_t r = 0; r < count; ++r)
      kernels<T>().dots(matrix.data[begin], matrix.data.stride, rows, matrix.columns, vectors[r],
                        offset(init.data, r * init.stride + begin), out + r * out_stride + begin);
  });
  for (std::int64_t r = 0; r < count; ++r)
    std::fill(out + r * out_stride + matrix.rows, out + r * out_stride + padded<T>(matrix.rows), T(0));
}

template <typename T>
bool all_finite(Rows<T> matrix, std::int64_t rows, std::int64_t columns) {
  bool finite = true;
  for (std::int64_t r = 0; finite && r < rows; ++r) finite = kernels<T>().all_finite(matrix[r], columns);
  return finite;
}

template <typename T>
double density(Rows<T> matrix, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t every = 16;
  std::int64_t live = 0, seen = 0;
  std::vector<std::uint64_t> mask(static_cast<std::size_t>((columns + 63) / 64));
  for (std::int64_t r = 0; r < rows; r += every, seen += columns)
    live += kernels<T>().mark(matrix[r], columns, mask.data());
  return seen > 0 ? static_cast<double>(live) / static_cast<double>(seen) : 0.0;
}

template class Packed<float>;
template class Packed<double>;
template bool all_finite(Rows<float>, std::int64_t, std::int64_t);
template bool all_finite(Rows<double>, std::int64_t, std::int64_t);
template double density(Rows<float>, std::int64_t, std::int64_t);
template double density(Rows<double>, std::int64_t, std::int64_t);
template void multiply(const Product<float>&, Supports&);
template void multiply(const Product<double>&, Supports&);
template void multiply_by_dots(const Plain<float>&, Rows<float>, Rows<float>, std::int64_t, float*, std::int64_t, int);
template void multiply_by_dots(const Plain<double>&, Rows<double>, Rows<double>, std::int64_t, double*, std::int64_t,
                               int);

}  // namespace scvae::cpu
