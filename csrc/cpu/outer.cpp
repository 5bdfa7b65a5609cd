#include "cpu/outer.h"

#include "cpu/blocks.h"
#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

// Number of rows that are summed before the sum goes to memory. Fewer rows mean smaller rounding errors; but if few
// rows have a term, a kernel call would hardly have any.
constexpr std::int64_t kDenseDepth = 128;

template <typename T>
std::int64_t depth(Rows<T> left, std::int64_t rows, std::int64_t columns) {
  constexpr double dense = 0.2;
  return density(left, std::min(rows, kDepth), columns) > dense ? kDenseDepth : kDepth;
}

}  // namespace

template <typename T>
OuterSum<T>::OuterSum(std::int64_t left, std::int64_t right, bool wanted)
    : left_(left), sum_(wanted ? left : 0, right), packed_(wanted ? kDepth : 0, right) {
  sum_.zero();
}

template <typename T>
void OuterSum<T>::add(Rows<T> left, Rows<T> right, std::int64_t rows, Zeros zeros, int threads) {
  std::int64_t count;
  for (std::int64_t begin = 0; begin < rows; begin += count) {
    const Rows<T> next{left[begin], left.stride};
    count = std::min(depth(next, rows - begin, left_), rows - begin);
    packed_.pack({right[begin], right.stride}, count, threads);
    add_packed(next, zeros, threads);
  }
}

template <typename T>
void OuterSum<T>::add_packed(Rows<T> left, Zeros zeros, int threads) {
  const Blocks blocks(left_, kRowsPerBlock, threads);
  const int team = team_size(threads, blocks.count);
  while (static_cast<int>(workers_.size()) < team) workers_.emplace_back(blocks.size);
  parallel_for(blocks.count, team, [&](std::int64_t block, int thread) {
    Worker& own = workers_[static_cast<std::size_t>(thread)];
    const std::int64_t column = block * blocks.size, columns = std::min(blocks.size, left_ - column);
    Product<T> product;
    product.coefficients = own.coefficients.rows();
    product.rows = columns;
    product.zeros = zeros;
    product.init = sum_.rows(column);
    product.out = sum_.row(column);
    product.out_stride = sum_.stride();
    product.factor = packed_.factor();
    kernels<T>().transpose(left[0] + column, left.stride, product.factor.terms, columns, own.coefficients.row(0),
                           own.coefficients.stride());
    multiply(product, own.supports);
  });
}

template <typename T>
void OuterSum<T>::write(T* out) const {
  for (std::int64_t i = 0; i < left_; ++i) sum_.get_row(i, out + i * sum_.columns());
}

template <typename T>
void OuterSum<T>::write_transposed(T* out) const {
  kernels<T>().transpose(sum_.row(0), sum_.stride(), left_, sum_.columns(), out, left_);
}

template class OuterSum<float>;
template class OuterSum<double>;

}  // namespace scvae::cpu
