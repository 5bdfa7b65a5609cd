// How rows are dealt out to threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace scvae::cpu {

// Rows that one thread works on at a time: with a panel of S, their drive and their codes before and after a step fit
// the second-level cache, and the panel is read often enough to be worth its way there.
inline constexpr std::int64_t kRowsPerBlock = 96;

// The same where each iteration has a matrix of its own, which no cache holds from one block to the next: with so many
// rows it is read less often.
inline constexpr std::int64_t kRowsPerBlockOfEach = 192;

// For so few rows packing a matrix may take longer than reading it as it is.
inline constexpr std::int64_t kFewRows = 4;

// Blocks as equal as can be of at most so many rows, as many for each thread where there are enough rows.
struct Blocks {
  Blocks(std::int64_t rows, std::int64_t most, int threads) {
    constexpr std::int64_t unit = 6;  // see Supports::kUnit
    const std::int64_t team = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, rows / unit));
    const std::int64_t rounds = std::max<std::int64_t>(1, (rows + most * team - 1) / (most * team));
    size = (rows + rounds * team - 1) / (rounds * team);
    size = std::max<std::int64_t>(unit, (size + unit - 1) / unit * unit);
    count = (rows + size - 1) / size;
  }

  std::int64_t size;
  std::int64_t count;
};

}  // namespace scvae::cpu
