#include "cpu/wide.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/backward_parts.h"
#include "cpu/blocks.h"
#include "cpu/iteration.h"
#include "cpu/outer.h"
#include "cpu/parallel.h"
#include "cpu/product.h"

namespace scvae::cpu {
namespace {

// Atoms that are packed at a time: as many rows as a tile of a packed matrix has.
constexpr std::int64_t kSlab = kDepth;

// Elements of W_e and of D from which on packed copies of them would be too large.
constexpr std::int64_t kTooLarge = 4 << 20;

// Smaller problems are run back slab by slab where that is faster: for so many rows, atoms, and so few of the codes.
constexpr std::int64_t kLeastRows = 128;
constexpr std::int64_t kLeastAtoms = 1024;
constexpr double kSparse = 0.05;

// Of a chunk: rows, and bytes of its residuals, of the gradients of these, and of its lists.
constexpr std::int64_t kMostRows = 1024;
constexpr std::int64_t kMostResiduals = 48 << 20;
constexpr std::size_t kMostEntries = 96 << 20;

// What is not zero of some rows' codes between the atoms of a slab, row after row.
template <typename T>
class Entries {
 public:
  void append(const T* row, std::int64_t width, std::int32_t* index) {
    const std::int64_t count = kernels<T>().support(row, 0, 1, width, index);
    for (std::int64_t i = 0; i < count; ++i) {
      atoms.push_back(static_cast<std::int16_t>(index[i]));
      codes.push_back(row[index[i]]);
    }
    begins.push_back(atoms.size());
  }
  void shrink() {
    atoms.shrink_to_fit();
    codes.shrink_to_fit();
  }
  std::size_t bytes() const { return atoms.size() * (sizeof(std::int16_t) + 2 * sizeof(T)); }

  // target = factor times the values of a row, in a row of a slab's width
  void scatter(std::int64_t r, const std::vector<T>& values, T factor, std::int64_t width, T* target) const {
    std::fill(target, target + padded<T>(width), T(0));
    for (std::size_t i = begin(r); i < begin(r + 1); ++i) target[atoms[i]] = factor * values[i];
  }
  std::size_t begin(std::int64_t r) const { return begins[static_cast<std::size_t>(r)]; }

  std::vector<std::size_t> begins{0};  // of each row, and the end of the last
  std::vector<std::int16_t> atoms;     // counted from the slab's first, ascending in a row
  std::vector<T> codes;
  std::vector<T> adjoints;  // of what the threshold was applied to
};

// What one thread needs for itself.
template <typename T>
struct Worker {
  Worker(std::int64_t chunk, std::int64_t features)
      : coefficients(kRowsPerBlock, kSlab),
        codes(kRowsPerBlock, kSlab),
        left(chunk, kSlab),
        atoms(chunk > 0 ? kSlab : 0, features),
        supports(kRowsPerBlock),
        index(kSlab + 2 * kLine) {}
  Matrix<T> coefficients;  // a block of rows, the atoms of a slab
  Matrix<T> codes;         // likewise
  Matrix<T> left;          // backward: all rows of a chunk
  Matrix<T> atoms;         // backward: of D, an atom a row
  Supports supports;
  std::vector<std::int32_t> index;
};

// The products of an iteration, slab by slab of atoms.
template <typename T>
class Slabs {
 public:
  Slabs(const SparseCodeProblem<T>& p, std::int64_t chunk, int threads)
      : p_(p),
        threads_(threads),
        count_((p.lista.atoms + kSlab - 1) / kSlab),
        thresholds_(p.lista),
        keeps_(p.lista.atoms * p.features < kTooLarge),
        filters_(static_cast<std::size_t>(count_)),
        filters_back_(static_cast<std::size_t>(count_)),
        dictionary_(static_cast<std::size_t>(count_)) {
    for (int i = 0; i < team_size(threads, count_); ++i) workers_.emplace_back(chunk, p.features);
  }

  std::int64_t count() const { return count_; }
  std::int64_t first(std::int64_t slab) const { return slab * kSlab; }
  std::int64_t width(std::int64_t slab) const { return std::min(kSlab, p_.lista.atoms - first(slab)); }

  // W_e of iteration t: the atoms of a slab, a row each.
  Rows<T> filter(std::int64_t t, std::int64_t slab) const {
    return {p_.W_e.data + p_.lista.row(t) * p_.W_e_each + first(slab) * p_.W_e.stride, p_.W_e.stride};
  }
  // D: the atoms of a slab, a column each.
  Rows<T> dictionary(std::int64_t slab) const { return {p_.D.data + first(slab), p_.D.stride}; }

  // body(slab, worker) for each slab
  template <typename Body>
  void for_each(const Body& body) {
    parallel_for(count_, static_cast<int>(workers_.size()),
                 [&](std::int64_t slab, int thread) { body(slab, workers_[static_cast<std::size_t>(thread)]); });
  }

  // sum = the codes of so many rows times D^T; coefficients(slab, first row, rows, worker) are codes of a block.
  template <typename Coefficients>
  void decode(std::int64_t rows, const Coefficients& coefficients, Matrix<T>& sum) {
    sum.zero();
    for (std::int64_t slab = 0; slab < count_; ++slab) {
      const auto pack = [&] { return Packed<T>::transposed(dictionary(slab), p_.features, width(slab), threads_); };
      Slot once;
      add(slab, packed(keeps_ ? of(dictionary_, slab) : once, pack), rows, coefficients, sum);
    }
  }

  // sum = adjoints of so many rows times W_e of iteration t
  template <typename Coefficients>
  void filter_back(std::int64_t t, std::int64_t rows, const Coefficients& coefficients, Matrix<T>& sum) {
    sum.zero();
    for (std::int64_t slab = 0; slab < count_; ++slab) {
      const auto pack = [&] { return Packed<T>::straight(filter(t, slab), width(slab), p_.features, threads_); };
      Slot once;
      add(slab, packed(keeps_filter() ? of(filters_back_, slab) : once, pack), rows, coefficients, sum);
    }
  }

  // z_{t+1} between the atoms of a slab: load(first row, rows) puts z_t of a block into own.coefficients, and
  // store(first row, rows) takes z_{t+1} from own.codes.
  template <typename Load, typename Store>
  void step(std::int64_t t, std::int64_t slab, Rows<T> residuals, std::int64_t rows, Worker<T>& own, const Load& load,
            const Store& store) {
    const auto pack = [&] { return Packed<T>::transposed(filter(t, slab), width(slab), p_.features, 1); };
    Slot once;
    const Packed<T>& matrix = packed(keeps_filter() ? of(filters_, slab) : once, pack);
    for (std::int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
      const std::int64_t count = std::min(kRowsPerBlock, rows - begin);
      load(begin, count);
      Product<T> product = product_of<T>({residuals[begin], residuals.stride}, matrix, count);
      thresholds_.finish(p_.lista, t, own.coefficients.rows(), product);
      product.theta += first(slab);
      product.into(own.codes, 0);
      multiply(product, own.supports);
      store(begin, count);
    }
  }

  // residuals = x - sum
  void residual(std::int64_t begin, std::int64_t rows, const Matrix<T>& sum, Matrix<T>& residuals,
                std::int64_t target) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T *x = p_.x[begin + r], *s = sum.row(r);
      T* out = residuals.row(target + r);
      for (std::int64_t j = 0; j < p_.features; ++j) out[j] = x[j] - s[j];
    }
  }

 private:
  // A packed slab, once there is one. Only the thread that has the slab asks for it.
  using Slot = std::optional<Packed<T>>;
  static Slot& of(std::vector<Slot>& slots, std::int64_t slab) { return slots[static_cast<std::size_t>(slab)]; }
  template <typename Pack>
  static const Packed<T>& packed(Slot& slot, const Pack& pack) {
    if (!slot.has_value()) slot.emplace(pack());
    return *slot;
  }
  bool keeps_filter() const { return keeps_ && p_.W_e_each == 0; }

  template <typename Coefficients>
  void add(std::int64_t slab, const Packed<T>& matrix, std::int64_t rows, const Coefficients& coefficients,
           Matrix<T>& sum) {
    const Blocks blocks(rows, kRowsPerBlock, threads_);
    const int team = team_size(static_cast<int>(workers_.size()), blocks.count);
    parallel_for(blocks.count, team, [&](std::int64_t block, int thread) {
      Worker<T>& own = workers_[static_cast<std::size_t>(thread)];
      const std::int64_t begin = block * blocks.size, count = std::min(blocks.size, rows - begin);
      Product<T> product = product_of<T>(coefficients(slab, begin, count, own), matrix, count);
      product.init = sum.rows(begin);
      product.into(sum, begin);
      multiply(product, own.supports);
    });
  }

  const SparseCodeProblem<T>& p_;
  int threads_;
  std::int64_t count_;
  Thresholds<T> thresholds_;
  bool keeps_;  // what is packed, for the next iterations
  std::vector<Slot> filters_;
  std::vector<Slot> filters_back_;
  std::vector<Slot> dictionary_;
  std::vector<Worker<T>> workers_;
};

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
      if (!all_finite(errors_, rows)) return false;
      parameters(begin, rows);
      if (out_.x != nullptr) hand_out(begin, rows);
    }
    totals_.write(p_.lista, out_.lista);
    return true;
  }

 private:
  // z_t between the atoms of a slab, 1 <= t <= T
  Entries<T>& entries(std::int64_t t, std::int64_t slab) {
    return entries_[static_cast<std::size_t>((t - 1) * slabs_.count() + slab)];
  }

  // Lists and residuals of a chunk; false where the lists take too much room, unless there are hardly any rows.
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

  // The lists of z_t from rows of all atoms.
  template <typename Row>
  void list(std::int64_t t, std::int64_t rows, const Row& row) {
    slabs_.for_each([&](std::int64_t slab, Worker<T>& own) {
      Entries<T>& target = entries(t, slab);
      for (std::int64_t r = 0; r < rows; ++r)
        target.append(row(r) + slabs_.first(slab), slabs_.width(slab), own.index.data());
      target.shrink();
    });
  }

  void step(std::int64_t t, std::int64_t rows) {
    slabs_.for_each([&](std::int64_t slab, Worker<T>& own) {
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
    return [this, t, values](std::int64_t slab, std::int64_t first, std::int64_t count, Worker<T>& own) {
      const Entries<T>& from = entries(t, slab);
      for (std::int64_t r = 0; r < count; ++r)
        from.scatter(first + r, from.*values, T(1), slabs_.width(slab), own.coefficients.row(r));
      return own.coefficients.rows();
    };
  }

  // Whether zeros may be skipped that the residuals, codes and incoming gradients are multiplied with.
  bool are_finite(std::int64_t begin, std::int64_t rows) {
    bool finite = all_finite(residuals_, rows);
    for (std::int64_t r = 0; finite && grad_x_hat_.data != nullptr && r < rows; ++r)
      finite = kernels<T>().all_finite(grad_x_hat_[begin + r], p_.features);
    for (std::int64_t slab = 0; finite && slab < slabs_.count(); ++slab) {
      const std::vector<T>& last = entries(T_, slab).codes;
      finite = kernels<T>().all_finite(last.data(), static_cast<std::int64_t>(last.size()));
    }
    return finite;
  }

  bool all_finite(const Matrix<T>& matrix, std::int64_t rows) const {
    bool finite = true;
    for (std::int64_t t = 0; t < T_; ++t)
      for (std::int64_t r = 0; finite && r < rows; ++r)
        finite = kernels<T>().all_finite(matrix.row(t * chunk_ + r), p_.features);
    return finite;
  }

  T step_of(std::int64_t t) const { return p_.lista.step != nullptr ? p_.lista.step[t * p_.lista.step_each] : T(1); }

  // The adjoints of all iterates, on their supports, and the gradients of the residuals.
  void pull_back(std::int64_t begin, std::int64_t rows) {
    slabs_.for_each([&](std::int64_t slab, Worker<T>& own) { enter(begin, rows, slab, own); });
    for (std::int64_t t = T_ - 1; t >= 0; --t) {
      if (out_.lista.theta != nullptr) slabs_.for_each([&](std::int64_t slab, Worker<T>&) { add_theta(t, slab); });
      if (out_.lista.step != nullptr) add_step(t, rows);
      slabs_.filter_back(t, rows, scattered(t + 1, &Entries<T>::adjoints), sum_);
      for (std::int64_t r = 0; r < rows; ++r)
        kernels<T>().scale(sum_.row(r), step_of(t), in_vectors<T>(p_.features), errors_.row(t * chunk_ + r));
      if (t > 0) slabs_.for_each([&](std::int64_t slab, Worker<T>& own) { leave(t, rows, slab, own); });
    }
  }

  // D, the atoms of a slab, an atom a row.
  void load_atoms(std::int64_t slab, Worker<T>& own) const {
    const Rows<T> D = slabs_.dictionary(slab);
    kernels<T>().transpose(D.data, D.stride, p_.features, slabs_.width(slab), own.atoms.row(0), own.atoms.stride());
  }

  T dot(const T* a, const T* b) const {
    T value;
    kernels<T>().dots(a, 0, 1, p_.features, b, nullptr, &value);
    return value;
  }

  // The gradient of z_T, grad_z plus grad_x_hat D, on its support.
  void enter(std::int64_t begin, std::int64_t rows, std::int64_t slab, Worker<T>& own) {
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

  // From adjoint t + 1 to adjoint t, which is also what is left of the former.
  void leave(std::int64_t t, std::int64_t rows, std::int64_t slab, Worker<T>& own) {
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

  // The sum of v_t g, of which g is zero off the support.
  void add_step(std::int64_t t, std::int64_t rows) {
    std::vector<double> sums(static_cast<std::size_t>(slabs_.count()));
    slabs_.for_each([&](std::int64_t slab, Worker<T>&) {
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
    slabs_.for_each([&](std::int64_t slab, Worker<T>& own) {
      if (out_.W_e != nullptr) add_filters(rows, slab, own);
      if (out_.D != nullptr) add_dictionary(begin, rows, slab, own);
    });
  }

  void add_filters(std::int64_t rows, std::int64_t slab, Worker<T>& own) {
    const std::int64_t width = slabs_.width(slab), shared = p_.W_e_each == 0 ? T_ : 1;
    for (std::int64_t t = 0; t < T_; t += shared) {
      OuterSum<T> sum(width, p_.features, true);
      for (std::int64_t s = t; s < t + shared; ++s)
        add(sum, s + 1, &Entries<T>::adjoints, step_of(s), residuals_.rows(s * chunk_), rows, slab, own);
      T* out = out_.W_e + t * p_.W_e_each + slabs_.first(slab) * p_.features;
      for (std::int64_t k = 0; k < width; ++k) add_row(sum.sum().row(k), p_.features, out + k * p_.features);
    }
  }

  void add_dictionary(std::int64_t begin, std::int64_t rows, std::int64_t slab, Worker<T>& own) {
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
           std::int64_t rows, std::int64_t slab, Worker<T>& own) {
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
  Matrix<T> errors_;     // the gradients of these
  Matrix<T> sum_;
  Share<T> totals_;
};

template <typename T>
bool takes(const SparseCodeProblem<T>& p) {
  const ListaProblem<T>& l = p.lista;
  if (!l.factored || l.n_iter == 0 || l.momentum != nullptr || l.z0.data != nullptr) return false;
  const Kernels<T>& k = kernels<T>();
  const std::int64_t size = l.atoms * p.features;
  return k.all_finite(p.W_e.data, how_many(p.W_e_each, l.n_iter) * size) && k.all_finite(p.D.data, size) &&
         k.all_finite(p.x.data, l.rows * p.features);
}

template <typename T>
bool is_large(const SparseCodeProblem<T>& p) {
  return p.lista.atoms * p.features >= kTooLarge;
}

// Whether few of the codes are not zero, judged by some of the rows.
template <typename T>
bool is_sparse(const ListaProblem<T>& p, const T* z) {
  constexpr std::int64_t every = 16;
  std::vector<std::uint64_t> mask(static_cast<std::size_t>((p.atoms + 63) / 64));
  std::int64_t live = 0, seen = 0;
  for (std::int64_t r = 0; r < p.rows; r += every, seen += p.atoms)
    live += kernels<T>().mark(z + r * p.atoms, p.atoms, mask.data());
  return static_cast<double>(live) <= kSparse * static_cast<double>(seen);
}

}  // namespace

template <typename T>
bool is_wide(const SparseCodeProblem<T>& p) {
  return is_large(p) && takes(p);
}

template <typename T>
bool is_wide_backward(const SparseCodeProblem<T>& p, const T* z) {
  const bool pays = p.lista.rows >= kLeastRows && p.lista.atoms >= kLeastAtoms;
  return (is_large(p) || (p.lista.factored && pays && is_sparse(p.lista, z))) && takes(p);
}

template <typename T>
void wide_forward(const SparseCodeProblem<T>& p, Codes<T> codes, T* x_hat, int threads) {
  const std::int64_t T_ = p.lista.n_iter, atoms = p.lista.atoms, chunk = std::min(p.lista.rows, 2 * kMostRows);
  Slabs<T> slabs(p, 0, threads);
  Matrix<T> residuals(chunk, p.features), sum(chunk, p.features);
  for (std::int64_t begin = 0; begin < p.lista.rows; begin += chunk) {
    const std::int64_t rows = std::min(chunk, p.lista.rows - begin);
    T* z = codes.z + begin * atoms;
    sum.zero();
    for (std::int64_t t = 0; t < T_; ++t) {
      slabs.residual(begin, rows, sum, residuals, 0);
      slabs.for_each([&](std::int64_t slab, Worker<T>& own) {
        const std::int64_t first_atom = slabs.first(slab), width = slabs.width(slab);
        const auto load = [&](std::int64_t first, std::int64_t count) {
          for (std::int64_t r = 0; r < count; ++r) {
            own.coefficients.zero_row(r);
            const T* source = z + (first + r) * atoms + first_atom;
            if (t > 0) std::copy(source, source + width, own.coefficients.row(r));
          }
        };
        const auto store = [&](std::int64_t first, std::int64_t count) {
          for (std::int64_t r = 0; r < count; ++r) {
            const T* source = own.codes.row(r);
            std::copy(source, source + width, z + (first + r) * atoms + first_atom);
            if (codes.iterates == nullptr || t + 1 == T_) continue;
            T* iterate = codes.iterates + ((begin + first + r) * (T_ - 1) + t) * atoms;
            std::copy(source, source + width, iterate + first_atom);
          }
        };
        slabs.step(t, slab, residuals.rows(), rows, own, load, store);
      });
      const auto coefficients = [&](std::int64_t slab, std::int64_t first, std::int64_t, Worker<T>&) {
        return Rows<T>{z + first * atoms + slabs.first(slab), atoms};
      };
      slabs.decode(rows, coefficients, sum);
    }
    for (std::int64_t r = 0; r < rows; ++r) sum.get_row(r, x_hat + (begin + r) * p.features);
  }
}

template <typename T>
bool wide_backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                   const SparseCodeGradients<T>& out, int threads) {
  const std::int64_t row = 2 * p.lista.n_iter * padded<T>(p.features) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t fitting =
      std::clamp(kMostResiduals / row, kRowsPerBlock, kMostRows) / kRowsPerBlock * kRowsPerBlock;
  return Backward<T>(p, codes, grad_z, grad_x_hat, out, std::min(p.lista.rows, fitting), threads).run();
}

template bool is_wide(const SparseCodeProblem<float>&);
template bool is_wide(const SparseCodeProblem<double>&);
template bool is_wide_backward(const SparseCodeProblem<float>&, const float*);
template bool is_wide_backward(const SparseCodeProblem<double>&, const double*);
template void wide_forward(const SparseCodeProblem<float>&, Codes<float>, float*, int);
template void wide_forward(const SparseCodeProblem<double>&, Codes<double>, double*, int);
template bool wide_backward(const SparseCodeProblem<float>&, Codes<const float>, Rows<float>, Rows<float>,
                            const SparseCodeGradients<float>&, int);
template bool wide_backward(const SparseCodeProblem<double>&, Codes<const double>, Rows<double>, Rows<double>,
                            const SparseCodeGradients<double>&, int);

}  // namespace scvae::cpu
