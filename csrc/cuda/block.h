// The rows of a block on any card: mma.sync, with cp.async for the right factor's stages.
#pragma once

#include "cuda/multiply.h"
#include "cuda/place.h"

namespace scvae::cuda {

template <typename E_, int ROWS, bool THREE>
class MmaBlock {
 public:
  using E = E_;
  using Sums = cuda::Sums<ROWS>;
  static constexpr int kRows = ROWS;

  static constexpr bool kOnHopper = ROWS <= kMostMmaRowsOnHopper;

  // Room for rows of `widest` elements, doubled if `passes` is more than 1.
  SCVAE_DEVICE MmaBlock(const void* const& packed, int widest, int passes)
      : now_(0),
        next_(passes > 1 ? ROWS * (widest * kSize + kRowPadding) : 0),
        multiplier_(packed, next_ + ROWS * (widest * kSize + kRowPadding)) {}

  // It is alone in its cluster, and all of its threads compute.
  SCVAE_DEVICE static int rank() { return 0; }
  SCVAE_DEVICE static int threads() { return machine::threads(); }
  SCVAE_DEVICE static int columns() { return machine::threads() / 32 * kWarpColumns; }
  SCVAE_DEVICE static constexpr bool produces() { return false; }
  SCVAE_DEVICE static void as_producer() {}
  SCVAE_DEVICE static void as_consumer() {}
  SCVAE_DEVICE void produce(Stages) {}
  SCVAE_DEVICE void finish() {}

  SCVAE_DEVICE void begin(Stages first) { multiplier_.begin(first); }

  // Reads `live` rows of `columns` elements, and pads with zeros to ROWS rows of `width`.
  SCVAE_DEVICE void read(const E* from, std::int64_t from_stride, int live, int columns, int width) {
    before_put();
    stride_ = width * kSize + kRowPadding;
    each_element<MmaBlock>(ROWS, width, [&](int i, int j) {
      row(i)[j] = i < live && j < columns ? from[i * from_stride + j] : rounded<E>(0.0f);
    });
  }

  // A pair of the drive, stored between the iterations that need it.
  static constexpr bool kDrivesInScratch = true;
  static constexpr bool kSumsBeginWithDrive = true;  // loaded values then need no other registers
  SCVAE_DEVICE void keep_drive(E* scratch, int, float b0, float b1) { store_pair(scratch, b0, b1); }
  SCVAE_DEVICE void drive(const E* scratch, int, float& b0, float& b1) { load_pair(scratch, b0, b1); }

  SCVAE_DEVICE void take_thresholds(const float*) {}
  SCVAE_DEVICE Pair<float> threshold(const float* row, int column) { return machine::load_constant(row + column); }

  // sums += the rows · nowᵀ. When it returns, all warps have read the rows.
  SCVAE_DEVICE void multiply(Sums& sums, Stages now, Stages next) {
    multiplier_.multiply(sums, now_, stride_, now, next);
    machine::sync_block();
  }

  // Writes the next rows, of `width` elements: after before_put() or multiply(). turn() makes them current.
  SCVAE_DEVICE void before_put() { machine::sync_block(); }
  SCVAE_DEVICE void put(const Place& at, int width, float first, float second) {
    store_pair(
        reinterpret_cast<E*>(machine::shared_memory() + next_ + at.row * (width * kSize + kRowPadding)) + at.column,
        first, second);
  }
  SCVAE_DEVICE void turn(int width) {
    machine::sync_block();
    const int last = now_;
    now_ = next_;
    next_ = last;
    stride_ = width * kSize + kRowPadding;
  }

  // Writes all rows, of an even number of elements.
  SCVAE_DEVICE void write_rows(E* to, int width) {
    each_element<MmaBlock>(ROWS, width / 2, [&](int i, int j) {
      reinterpret_cast<Pair<E>*>(to + i * width)[j] = *reinterpret_cast<const Pair<E>*>(row(i) + 2 * j);
    });
  }
  // Writes a number of rows with a number of elements, one after another.
  SCVAE_DEVICE void write(E* to, int rows, int columns) {
    each_element<MmaBlock>(rows, columns, [&](int i, int j) { to[i * columns + j] = row(i)[j]; });
  }
  // Reads a pair of the current rows, before the thread overwrites it.
  SCVAE_DEVICE Pair<E> get(const Place& at) { return *reinterpret_cast<const Pair<E>*>(row(at.row) + at.column); }

 private:
  static constexpr int kSize = static_cast<int>(sizeof(E));

  SCVAE_DEVICE E* row(int i) { return reinterpret_cast<E*>(machine::shared_memory() + now_ + i * stride_); }

  int stride_ = 0;
  int now_, next_;  // byte offsets in shared memory
  Multiplier<E, ROWS, THREE> multiplier_;
};

}  // namespace scvae::cuda
