// The kernels of lista and sparse_code: all iterations of a block of rows, or of their adjoints, in one launch.
//
// M rows, n features, K atoms, T iterations; KP: atoms, rounded up to whole passes; NP: features, to whole steps. The
// codes of a block of rows stay in shared memory. If one pass of the warps covers all atoms, the next codes replace the
// previous ones: the sums are complete in registers by then. Otherwise there are two buffers.
//
// A block has type B: MmaBlock (block.h) or WgmmaBlock (hopper/block.h). If it has producer threads, they go through
// the same products and load the right factors.
//
// Each kernel exists twice: FAMILY adds what plain LISTA does not need, with its registers and instructions. With κ and
// the step γ an iteration is z_{t+1} = h(κ z_t + γ_t v_t), v_t = b + S_t z_t; see reference.py.
#pragma once

#include "cuda/place.h"
#include "cuda/stages.h"
#include "soft_threshold.h"

namespace scvae::cuda {

// Arguments of a LISTA family iteration beyond LISTA with shared weights, forward and backward.
struct Family {
  int kappa = 0;
  Numbers step;              // γ, one value or (T,); data is null for 1
  int step_stride = 0;       // 1 for (T,)
  bool each_matrix = false;  // every iteration has its own S; the packed ones are consecutive

  bool is_plain() const { return kappa == 0 && !step.data && !each_matrix; }
  SCVAE_DEVICE float step_of(int t) const { return step.data ? step[std::int64_t{t} * step_stride] : 1.0f; }
};

struct ForwardArguments {
  const void* x = nullptr;       // (M, n); or b (M, K), if it does not encode
  const void* packed = nullptr;  // W_e if it encodes, S, and D if it decodes
  bool encodes = false;          // otherwise x is b
  bool decodes = false;
  const float* theta = nullptr;  // (KP,), or rows of it
  Numbers gain;                  // one value; data is null for 1
  const void* z0 = nullptr;      // (M, K), or null: the start is h(gain b)
  void* drives = nullptr;        // receives b in rows of KP, if `codes` is given; else scratch for every block
  void* codes = nullptr;         // receives z_0 ... z_T in slabs of rows of KP; or null
  void* z = nullptr;             // (M, K), or null
  void* x_hat = nullptr;         // (M, n), if it decodes
  std::int64_t rows = 0;         // M
  std::int64_t slab = 0;         // elements per slab
  int atoms = 0, features = 0, n_iter = 0;
  int KP = 0, NP = 0, passes = 0, feature_passes = 0;
  Family family;
  bool positive = false;
  int theta_stride = 0;        // from row to row, if iterations have their own
  void* directions = nullptr;  // receives v_0 ... v_{T-1} in slabs like `codes`, or null

  bool is_plain() const { return family.is_plain() && !positive && theta_stride == 0 && !directions; }
};

struct AdjointArguments {
  const void* inhibition = nullptr;  // Sᵀ, packed
  const void* codes = nullptr;       // slabs of rows of KP: z_0 ... z_T
  void* adjoints = nullptr;          // likewise: holds ĝ_T, receives ĝ_0 ... ĝ_{T-1}
  std::int64_t rows = 0;             // M; slabs have whole blocks of rows
  std::int64_t slab = 0;
  int n_iter = 0, KP = 0, passes = 0;
  bool given = false;  // z_0 was given: then ĝ_0 is its gradient, not masked by a support
  Family family;
};

// The blocks of rows that a block works on, next to those of its cluster; all blocks of a cluster take as many turns.
template <typename B>
class Turns {
 public:
  SCVAE_DEVICE explicit Turns(const std::int64_t& rows) : rows_(rows), base_(machine::block(0) - B::rank()) {}

  SCVAE_DEVICE bool any() const { return base_ < blocks(); }
  SCVAE_DEVICE bool last() const { return base_ + machine::blocks(0) >= blocks(); }
  SCVAE_DEVICE void next() { base_ += machine::blocks(0); }
  SCVAE_DEVICE std::int64_t first_row() const { return std::int64_t{base_ + B::rank()} * B::kRows; }
  SCVAE_DEVICE int live() const {
    const std::int64_t rest = rows_ - first_row();
    return static_cast<int>(rest < 0 ? 0 : rest < B::kRows ? rest : B::kRows);
  }

 private:
  SCVAE_DEVICE int blocks() const { return static_cast<int>(divided_up(rows_, B::kRows)); }

  const std::int64_t& rows_;  // a kernel argument, read when needed
  int base_;
};

template <typename B, bool FAMILY>
class ForwardPass {
 public:
  using E = typename B::E;

  SCVAE_DEVICE explicit ForwardPass(const ForwardArguments& a)
      : a_(a), block_(a.packed, a.NP > a.KP ? a.NP : a.KP, a.passes), turn_(a.rows) {}

  // Products 0, 1 ... T, T + 1 of a block use the encoder, T times the inhibition, and the decoder.
  SCVAE_DEVICE void run() {
    const int first = a_.encodes ? 0 : 1;  // the first existing product
    const int last = a_.decodes ? a_.n_iter + 1 : a_.n_iter;
    if (B::produces()) {
      B::as_producer();
      for (; turn_.any(); turn_.next())
        for (int t = first; t <= last; ++t)
          for (int pass = 0; pass < factor(t).count; ++pass) block_.produce(factor(t)[pass]);
    } else {
      B::as_consumer();
      if (turn_.any() && first <= last) block_.begin(factor(first)[0]);
      if (!FAMILY) block_.take_thresholds(a_.theta);
      for (; turn_.any(); turn_.next()) {
        if (a_.encodes) read();
        for (int t = 0; t <= last; ++t) {
          if (FAMILY && t >= a_.family.kappa && t <= a_.n_iter) block_.take_thresholds(thresholds(t));
          if (t >= first) multiply(t, t == last && turn_.last() ? Stages{} : factor(t < last ? t + 1 : first)[0]);
          if (t == 0) start();
          if (t <= a_.n_iter) turn(t);
        }
      }
    }
    block_.finish();
  }

 private:
  SCVAE_DEVICE Passes factor(int t) const {
    const Passes encoder{0, a_.encodes ? a_.passes : 0, steps<E>(a_.NP)};
    if (t == 0) return encoder;
    const bool each = FAMILY && a_.family.each_matrix;
    Passes inhibition{encoder.end(), a_.passes, steps<E>(a_.KP)};
    if (each) inhibition.first += ((t <= a_.n_iter ? t : a_.n_iter) - 1) * inhibition.count * inhibition.steps;
    if (t <= a_.n_iter) return inhibition;
    return {inhibition.end(), a_.feature_passes, inhibition.steps};
  }

  SCVAE_DEVICE void multiply(int t, Stages after) {
    const int passes = factor(t).count;
    for (int pass = 0; pass < passes; ++pass) {
      typename B::Sums sums;
      begin(t, pass * B::columns(), sums);
      block_.multiply(sums, factor(t)[pass], pass + 1 < passes ? factor(t)[pass + 1] : after);
      finish(t, pass * B::columns(), sums);
    }
  }

  SCVAE_DEVICE std::int64_t first_row() const { return turn_.first_row(); }

  // The destination of the drive for a row of the block.
  SCVAE_DEVICE E* drive(const Place& at) const {
    const std::int64_t first = a_.codes ? first_row() : std::int64_t{machine::block(0)} * B::kRows;
    return static_cast<E*>(a_.drives) + (first + at.row) * a_.KP + at.column;
  }

  SCVAE_DEVICE void read() {
    const E* const x = static_cast<const E*>(a_.x) + first_row() * a_.features;
    block_.read(x, a_.features, turn_.live(), a_.features, a_.NP);
  }

  SCVAE_DEVICE void begin(int t, int first_column, typename B::Sums& sums) {
    if (!B::kSumsBeginWithDrive || t == 0 || t > a_.n_iter)
      sums.clear();
    else
      sums.begin_with([&](Place at, float& u0, float& u1) {
        at.column += first_column;
        block_.drive(drive(at), at.index, u0, u1);
      });
  }

  SCVAE_DEVICE void finish(int t, int first_column, const typename B::Sums& sums) {
    if (t == 0)
      sums.each_pair([&](Place at, float b0, float b1) {
        at.column += first_column;
        block_.keep_drive(drive(at), at.index, b0, b1);
      });
    else if (t <= a_.n_iter)
      sums.each_pair([&](Place at, float u0, float u1) {
        at.column += first_column;
        float b0 = 0.0f, b1 = 0.0f;
        if (!B::kSumsBeginWithDrive) block_.drive(drive(at), at.index, b0, b1);
        go_on(t, at, u0 + b0, u1 + b1);
      });
    else
      sums.each_pair([&](Place at, float u0, float u1) {
        E* const to = static_cast<E*>(a_.x_hat) + (first_row() + at.row) * a_.features;
        if (at.row < turn_.live()) store_within(to, first_column + at.column, a_.features, u0, u1);
      });
  }

  // Stores a given drive if needed, and writes z_0.
  SCVAE_DEVICE void start() {
    const float gain = a_.gain.data ? a_.gain[0] : 1.0f;
    const int live = turn_.live();
    block_.before_put();
    for (int pass = 0; pass < a_.passes; ++pass)
      B::Sums::each_place([&](Place at) {
        at.column += pass * B::columns();
        const std::int64_t here = (first_row() + at.row) * a_.atoms;
        float b0 = 0.0f, b1 = 0.0f, z0 = 0.0f, z1 = 0.0f;
        if (a_.encodes) {
          block_.drive(drive(at), at.index, b0, b1);
        } else {
          if (at.row < live) load_within(static_cast<const E*>(a_.x) + here, at.column, a_.atoms, b0, b1);
          block_.keep_drive(drive(at), at.index, b0, b1);
        }
        if (!B::kDrivesInScratch && a_.codes && live > 0) store_pair(drive(at), b0, b1);
        if (a_.z0 || (FAMILY && a_.family.kappa)) {
          if (a_.z0 && at.row < live) load_within(static_cast<const E*>(a_.z0) + here, at.column, a_.atoms, z0, z1);
          block_.put(at, a_.KP, z0, z1);
        } else {
          put(0, at, gain * b0, gain * b1);
        }
      });
  }

  // From v_{t-1} to z_t.
  SCVAE_DEVICE void go_on(int t, const Place& at, float v0, float v1) {
    if (FAMILY) {
      if (a_.directions && turn_.live() > 0) {
        const std::int64_t row = (t - 1) * a_.slab + (first_row() + at.row) * a_.KP;
        store_pair(static_cast<E*>(a_.directions) + row + at.column, exists(at, 0) ? v0 : 0.0f,
                   exists(at, 1) ? v1 : 0.0f);
      }
      const float step = a_.family.step_of(t - 1);
      v0 *= step;
      v1 *= step;
      if (a_.family.kappa) {
        const Pair<E> before = block_.get(at);
        v0 += to_float(before.first);
        v1 += to_float(before.second);
      }
    }
    put(t, at, v0, v1);
  }

  SCVAE_DEVICE bool exists(const Place& at, int second) const {
    return at.row < turn_.live() && at.column + second < a_.atoms;
  }

  // The thresholds of z_t.
  SCVAE_DEVICE const float* thresholds(int t) const {
    return FAMILY ? a_.theta + (t - a_.family.kappa) * a_.theta_stride : a_.theta;
  }

  // The codes z_t, from the arguments of the threshold.
  SCVAE_DEVICE void put(int t, const Place& at, float u0, float u1) {
    const Pair<float> theta = block_.threshold(thresholds(t), at.column);
    float z0, z1;
    if (FAMILY && a_.positive) {
      z0 = larger(u0 - theta.first, 0.0f);
      z1 = larger(u1 - theta.second, 0.0f);
    } else {
      z0 = soft_threshold(u0, theta.first);
      z1 = soft_threshold(u1, theta.second);
    }
    if (FAMILY) {  // a negative θ or a special step must not make padding rows nonzero
      if (!exists(at, 0)) z0 = 0.0f;
      if (!exists(at, 1)) z1 = 0.0f;
    } else if (at.column + 1 >= a_.atoms) {  // no h(0 · ∞) in padding columns
      if (at.column >= a_.atoms) z0 = 0.0f;
      z1 = 0.0f;
    }
    block_.put(at, a_.KP, z0, z1);
  }

  // z_t is complete and becomes current. Writes it if every iterate is kept, and to the result.
  SCVAE_DEVICE void turn(int t) {
    block_.turn(a_.KP);
    if (a_.codes && turn_.live() > 0)
      block_.write_rows(static_cast<E*>(a_.codes) + t * a_.slab + first_row() * a_.KP, a_.KP);
    if (a_.z && t == a_.n_iter) block_.write(static_cast<E*>(a_.z) + first_row() * a_.atoms, turn_.live(), a_.atoms);
  }

  const ForwardArguments& a_;
  B block_;
  Turns<B> turn_;
};

template <typename B>
using Forward = ForwardPass<B, false>;
template <typename B>
using FamilyForward = ForwardPass<B, true>;

// The adjoint recurrence: ĝ_t = κ ĝ_{t+1} + γ_t ĝ_{t+1} S_t on the support of z_t, else 0.
template <typename B, bool FAMILY>
class AdjointPass {
 public:
  using E = typename B::E;

  SCVAE_DEVICE explicit AdjointPass(const AdjointArguments& a) : a_(a), block_(a.inhibition, a.KP, a.passes) {}

  SCVAE_DEVICE void run() {
    if (B::produces()) {
      B::as_producer();
      for (Turns<B> turn(a_.rows); turn.any(); turn.next())
        for (int t = a_.n_iter - 1; t >= 0; --t)
          for (int pass = 0; pass < a_.passes; ++pass) block_.produce(inhibition(t)[pass]);
    } else {
      B::as_consumer();
      Turns<B> turn(a_.rows);
      if (turn.any()) block_.begin(inhibition(a_.n_iter - 1)[0]);
      for (; turn.any(); turn.next()) {
        const std::int64_t own = turn.first_row() * a_.KP;
        const bool live = turn.live() > 0;
        const E* const last = static_cast<const E*>(a_.adjoints) + a_.n_iter * a_.slab + own;
        block_.read(last, a_.KP, live ? B::kRows : 0, a_.KP, a_.KP);
        for (int t = a_.n_iter - 1; t >= 0; --t) multiply(t, own, live, t == 0 && turn.last());
      }
    }
    block_.finish();
  }

 private:
  SCVAE_DEVICE Passes inhibition(int t) const {
    const int count = steps<E>(a_.KP);
    return {FAMILY && a_.family.each_matrix ? t * a_.passes * count : 0, a_.passes, count};
  }

  // The stages after iteration t: those of the iteration before it, or of the next rows' first.
  SCVAE_DEVICE Stages after(int t, bool last) const {
    return last ? Stages{} : inhibition(t > 0 ? t - 1 : a_.n_iter - 1)[0];
  }

  SCVAE_DEVICE void multiply(int t, std::int64_t own, bool live, bool last) {
    for (int pass = 0; pass < a_.passes; ++pass) {
      typename B::Sums sums;
      sums.clear();
      block_.multiply(sums, inhibition(t)[pass], pass + 1 < a_.passes ? inhibition(t)[pass + 1] : after(t, last));
      finish(t, pass * B::columns(), t * a_.slab + own, live, sums);
    }
    block_.turn(a_.KP);
    if (live) block_.write_rows(static_cast<E*>(a_.adjoints) + t * a_.slab + own, a_.KP);
  }

  SCVAE_DEVICE void finish(int t, int first_column, std::int64_t own, bool live, const typename B::Sums& sums) {
    const bool all = a_.given && t == 0;
    sums.each_pair([&](Place at, float g0, float g1) {
      at.column += first_column;
      const std::int64_t here = own + at.row * a_.KP + at.column;
      float z0 = 0.0f, z1 = 0.0f;
      if (live) load_pair(static_cast<const E*>(a_.codes) + here, z0, z1);
      if (FAMILY) {
        const float step = a_.family.step_of(t);
        g0 *= step;
        g1 *= step;
        if (a_.family.kappa) {
          const Pair<E> after = block_.get(at);
          g0 += to_float(after.first);
          g1 += to_float(after.second);
        }
      }
      g0 = all || z0 != 0.0f ? g0 : 0.0f;
      g1 = all || z1 != 0.0f ? g1 : 0.0f;
      block_.put(at, a_.KP, g0, g1);
    });
  }

  const AdjointArguments& a_;
  B block_;
};

template <typename B>
using Adjoint = AdjointPass<B, false>;
template <typename B>
using FamilyAdjoint = AdjointPass<B, true>;

}  // namespace scvae::cuda
