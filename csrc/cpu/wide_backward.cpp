// The backward pass of the factored form over many atoms, one chunk of rows at a time: lists of the codes, the adjoints
// on their supports, then the chunk's share of the gradients of W_e and D.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/backward_parts.h"
#include "cpu/outer.h"
#include "cpu/slabs.h"
#include "cpu/wide.h"

namespace scvae::cpu {
namespace {

// Limits of a chunk: rows, and bytes of its residuals, of their gradients, and of its lists.
constexpr std::int64_t kMostRows = 1024;
constexpr std::int64_t kMostResiduals = 48 << 20;
constexpr std::size_t kMostEntries = 96 << 20;

template <typename T>
class Backward {
 public:
  Backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
           const SparseCodeGradients<T>& out, std::int64_t chunk, int threads)
      : p_(p),
        codes_(codes),
        grad_z_(grad_z),
        grad_x_hat_(grad_x_hat),
        out_(out),
        chunk_(chunk),
        T_(p.lista.n_iter),
        slabs_(p, chunk, threads),
        entries_(static_cast<std::size_t>(T_ * slabs_.count())),
        residuals_(T_ * chunk, p.features),
        errors_(T_ * chunk, p.features),
        sum_(chunk, p.features),
        totals_(p.lista) {}

  bool run() {
    const std::int64_t atoms = p_.lista.atoms;
    if (out_.W_e != nullptr) std::fill_n(out_.W_e, (p_.W_e_each != 0 ? T_ : 1) * atoms * p_.features, T(0));
    if (out_.D != nullptr) std::fill_n(out_.D, atoms * p_.features, T(0));
    std::int64_t rows = 0;
    for (std::int64_t begin = 0; begin < p_.lista.rows; begin += rows) {
      rows = std::min(chunk_, p_.lista.rows - begin);
      while (!restore(begin, rows)) rows = std::max(Supports::kUnit, rows / 2 / Supports::kUnit * Supports::kUnit);
      if (!are_finite(begin, rows)) return false;
      pull_back(begin, rows);
      if (!are_finite(errors_, rows)) return false;
      parameters(begin, rows);
      if (out_.x != nullptr) hand_out(begin, rows);
    }
    totals_.write(p_.lista, out_.lista);
    return true;
  }

 private:
  // z_t within the atoms of a slab, 1 <= t <= T
  Entries<T>& entries(std::int64_t t, std::int64_t slab) {
    return entries_[static_cast<std::size_t>((t - 1) * slabs_.count() + slab)];
  }

  // Lists and residuals of a chunk; false if the lists take too much memory, unless there are hardly any rows.
  bool restore(std::int64_t begin, std::int64_t rows) {
    for (Entries<T>& each : entries_) each = {};
    list(T_, rows, [&](std::int64_t r) { return codes_.z + (begin + r) * p_.lista.atoms; });
    for (std::int64_t t = 0; t < T_; ++t) {
      if (t > 0)
        slabs_.decode(rows, scattered(t, &Entries<T>::codes), sum_);
      else
        sum_.zero();
      slabs_.residual(begin, rows, sum_, residuals_, t * chunk_);
      if (t + 1 == T_) break;
      if (codes_.iterates != nullptr)
        list(t + 1, rows,
             [&](std::int64_t r) { return codes_.iterates + ((begin + r) * (T_ - 1) + t) * p_.lista.atoms; });
      else
        step(t, rows);
      std::size_t bytes = 0;
      for (const Entries<T>& each : entries_) bytes += each.bytes();
      if (bytes > kMostEntries && rows > Supports::kUnit) return false;
    }
    return true;
  }

  // The lists of z_t from dense rows of all atoms.
  template <typename Row>
  void list(std::int64_t t, std::int64_t rows, const Row& row) {
    slabs_.for_each([&](std::int64_t slab, SlabWorker<T>& own) {
      Entries<T>& target = entries(t, slab);
      for (std::int64_t r = 0; r < rows; ++r)
        target.append(row(r) + slabs_.first(slab), slabs_.width(slab), own.index.data());
      target.shrink();
    });
  }

  void step(std::int64_t t, std::int64_t rows) {
    slabs_.for_each([&](std::int64_t slab, SlabWorker<T>& own) {
      const std::int64_t width = slabs_.width(slab);
      Entries<T>& target = entries(t + 1, slab);
      const auto load = [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t r = 0; r < count; ++r) {
          if (t > 0)
            entries(t, slab).scatter(first + r, entries(t, slab).codes, T(1), width, own.coefficients.row(r));
          else
            own.coefficients.zero_row(r);
        }
      };
      const auto store = [&](std::int64_t, std::int64_t count) {
        for (std::int64_t r = 0; r < count; ++r) target.append(own.codes.row(r), width, own.index.data());
      };
      slabs_.step(t, slab, residuals_.rows(t * chunk_), rows, own, load, store);
      target.shrink();
    });
  }

  // Codes or adjoints of z_t as the coefficients of a block.
  auto scattered(std::int64_t t, std::vector<T> Entries<T>::* values) {
    return [this, t, values](std::int64_t slab, std::int64_t first, std::int64_t count, SlabWorker<T>& own) {
      const Entries<T>& from = entries(t, slab);
      for (std::int64_t r = 0; r < count; ++r)
        from.scatter(first + r, from.*values, T(1), slabs_.width(slab), own.coefficients.row(r));
      return own.coefficients.rows();
    };
  }

  // Whether zeros that are multiplied by residuals, codes and incoming gradients may be skipped.
  bool are_finite(std::int64_t begin, std::int64_t rows) {
    bool finite = are_finite(residuals_, rows);
    if (finite && grad_x_hat_.data != nullptr)
      finite = all_finite<T>({grad_x_hat_[begin], grad_x_hat_.stride}, rows, p_.features);
    for (std::int64_t slab = 0; finite && slab < slabs_.count(); ++slab) {
      const std::vector<T>& last = entries(T_, slab).codes;
      finite = kernels<T>().all_finite(last.data(), static_cast<std::int64_t>(last.size()));
    }
    return finite;
  }

  bool are_finite(const Matrix<T>& matrix, std::int64_t rows) const {
    bool finite = true;
    for (std::int64_t t = 0; finite && t < T_; ++t) finite = all_finite(matrix.rows(t * chunk_), rows, p_.features);
    return finite;
  }

  T step_of(std::int64_t t) const { return p_.lista.step != nullptr ? p_.lista.step[t * p_.lista.step_each] : T(1); }

  // The adjoints of all iterates, on their supports, and the gradients of the residuals.
  void pull_back(std::int64_t begin, std::int64_t rows) {
    slabs_.for_each([&](std::int64_t slab, SlabWorker<T>& own) { enter(begin, rows, slab, own); });
    for (std::int64_t t = T_ - 1; t >= 0; --t) {
      if (out_.lista.theta != nullptr) slabs_.for_each([&](std::int64_t slab, SlabWorker<T>&) { add_theta(t, slab); });
      if (out_.lista.step != nullptr) add_step(t, rows);
      slabs_.filter_back(t, rows, scattered(t + 1, &Entries<T>::adjoints), sum_);
      for (std::int64_t r = 0; r < rows; ++r)
        kernels<T>().scale(sum_.row(r), step_of(t), in_vectors<T>(p_.features), errors_.row(t * chunk_ + r));
      if (t > 0) slabs_.for_each([&](std::int64_t slab, SlabWorker<T>& own) { leave(t, rows, slab, own); });
    }
  }

  // D: the atoms of a slab, one per row.
  void load_atoms(std::int64_t slab, SlabWorker<T>& own) const {
    const Rows<T> D = slabs_.dictionary(slab);
    kernels<T>().transpose(D.data, D.stride, p_.features, slabs_.width(slab), own.atoms.row(0), own.atoms.stride());
  }

  T dot(const T* a, const T* b) const {
    T value;
    kernels<T>().dots(a, 0, 1, p_.features, b, nullptr, &value);
    return value;
  }

  // The gradient of z_T, grad_z plus grad_x_hat D, on its support.
  void enter(std::int64_t begin, std::int64_t rows, std::int64_t slab, SlabWorker<T>& own) {
    Entries<T>& last = entries(T_, slab);
    last.adjoints.resize(last.atoms.size());
    if (grad_x_hat_.data != nullptr) load_atoms(slab, own);
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* direct = grad_z_.data != nullptr ? grad_z_[begin + r] + slabs_.first(slab) : nullptr;
      for (std::size_t i = last.begin(r); i < last.begin(r + 1); ++i) {
        const T through =
            grad_x_hat_.data != nullptr ? dot(own.atoms.row(last.atoms[i]), grad_x_hat_[begin + r]) : T(0);
        last.adjoints[i] = through + (direct != nullptr ? direct[last.atoms[i]] : T(0));
      }
    }
  }

  // From adjoint t + 1 to adjoint t, to which the former contributes where the supports overlap.
  void leave(std::int64_t t, std::int64_t rows, std::int64_t slab, SlabWorker<T>& own) {
    load_atoms(slab, own);
    const Entries<T>& from = entries(t + 1, slab);
    Entries<T>& target = entries(t, slab);
    target.adjoints.resize(target.atoms.size());
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* error = errors_.row(t * chunk_ + r);
      std::size_t j = from.begin(r);
      for (std::size_t i = target.begin(r); i < target.begin(r + 1); ++i) {
        const std::int16_t atom = target.atoms[i];
        while (j < from.begin(r + 1) && from.atoms[j] < atom) ++j;
        const bool there = j < from.begin(r + 1) && from.atoms[j] == atom;
        target.adjoints[i] = (there ? from.adjoints[j] : T(0)) - dot(own.atoms.row(atom), error);
      }
    }
  }

  void add_theta(std::int64_t t, std::int64_t slab) {
    const Entries<T>& from = entries(t + 1, slab);
    double* sums = totals_.theta(p_.lista.row(t)) + slabs_.first(slab);
    for (std::size_t i = 0; i < from.atoms.size(); ++i)
      sums[from.atoms[i]] -= from.codes[i] > T(0) ? from.adjoints[i] : -from.adjoints[i];
  }

  // The sum of v_t g, where g is zero off the support.
  void add_step(std::int64_t t, std::int64_t rows) {
    std::vector<double> sums(static_cast<std::size_t>(slabs_.count()));
    slabs_.for_each([&](std::int64_t slab, SlabWorker<T>&) {
      const Entries<T>& from = entries(t + 1, slab);
      const Rows<T> W_e = slabs_.filter(t, slab);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::size_t i = from.begin(r); i < from.begin(r + 1); ++i)
          sums[static_cast<std::size_t>(slab)] +=
              static_cast<double>(from.adjoints[i]) *
              static_cast<double>(dot(W_e[from.atoms[i]], residuals_.row(t * chunk_ + r)));
    });
    of_iteration(totals_.d_step, t) += std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  // The chunk's share of the gradients of W_e and D.
  void parameters(std::int64_t begin, std::int64_t rows) {
    slabs_.for_each([&](std::int64_t slab, SlabWorker<T>& own) {
      if (out_.W_e != nullptr) add_filters(rows, slab, own);
      if (out_.D != nullptr) add_dictionary(begin, rows, slab, own);
    });
  }

  void add_filters(std::int64_t rows, std::int64_t slab, SlabWorker<T>& own) {
    const std::int64_t width = slabs_.width(slab), shared = p_.W_e_each == 0 ? T_ : 1;
    for (std::int64_t t = 0; t < T_; t += shared) {
      OuterSum<T> sum(width, p_.features, true);
      for (std::int64_t s = t; s < t + shared; ++s)
        add(sum, s + 1, &Entries<T>::adjoints, step_of(s), residuals_.rows(s * chunk_), rows, slab, own);
      T* out = out_.W_e + t * p_.W_e_each + slabs_.first(slab) * p_.features;
      for (std::int64_t k = 0; k < width; ++k) add_row(sum.sum().row(k), p_.features, out + k * p_.features);
    }
  }

  void add_dictionary(std::int64_t begin, std::int64_t rows, std::int64_t slab, SlabWorker<T>& own) {
    const std::int64_t width = slabs_.width(slab);
    OuterSum<T> sum(width, p_.features, true);
    for (std::int64_t t = 1; t < T_; ++t)
      add(sum, t, &Entries<T>::codes, T(-1), errors_.rows(t * chunk_), rows, slab, own);
    if (grad_x_hat_.data != nullptr)
      add(sum, T_, &Entries<T>::codes, T(1), {grad_x_hat_[begin], grad_x_hat_.stride}, rows, slab, own);
    Buffer<T> columns(width * p_.features);
    sum.write_transposed(columns.data());
    for (std::int64_t j = 0; j < p_.features; ++j)
      add_row(columns.data() + j * width, width, out_.D + j * p_.lista.atoms + slabs_.first(slab));
  }

  static void add_row(const T* from, std::int64_t count, T* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] += from[i];
  }

  // sum += factor times the values of z_t, transposed, times right
  void add(OuterSum<T>& sum, std::int64_t t, std::vector<T> Entries<T>::* values, T factor, Rows<T> right,
           std::int64_t rows, std::int64_t slab, SlabWorker<T>& own) {
    const Entries<T>& from = entries(t, slab);
    for (std::int64_t r = 0; r < rows; ++r) from.scatter(r, from.*values, factor, slabs_.width(slab), own.left.row(r));
    sum.add(own.left.rows(), right, rows, Zeros::skip, 1);
  }

  void hand_out(std::int64_t begin, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r) {
      T* sum = errors_.row(r);
      for (std::int64_t t = 1; t < T_; ++t)
        kernels<T>().add(errors_.row(t * chunk_ + r), in_vectors<T>(p_.features), sum);
      errors_.get_row(r, out_.x + (begin + r) * p_.features);
    }
  }

  const SparseCodeProblem<T>& p_;
  Codes<const T> codes_;
  Rows<T> grad_z_;
  Rows<T> grad_x_hat_;
  const SparseCodeGradients<T>& out_;
  std::int64_t chunk_;
  std::int64_t T_;
  Slabs<T> slabs_;
  std::vector<Entries<T>> entries_;
  Matrix<T> residuals_;  // x - D z_t, t = 0 ... T - 1 one after the other
  Matrix<T> errors_;     // their gradients
  Matrix<T> sum_;
  Share<T> totals_;
};

}  // namespace

template <typename T>
bool wide_backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                   const SparseCodeGradients<T>& out, int threads) {
  const std::int64_t row = 2 * p.lista.n_iter * padded<T>(p.features) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t fitting =
      std::clamp(kMostResiduals / row, kRowsPerBlock, kMostRows) / kRowsPerBlock * kRowsPerBlock;
  return Backward<T>(p, codes, grad_z, grad_x_hat, out, std::min(p.lista.rows, fitting), threads).run();
}

template bool wide_backward(const SparseCodeProblem<float>&, Codes<const float>, Rows<float>, Rows<float>,
                            const SparseCodeGradients<float>&, int);
template bool wide_backward(const SparseCodeProblem<double>&, Codes<const double>, Rows<double>, Rows<double>,
                            const SparseCodeGradients<double>&, int);

}  // namespace scvae::cpu
