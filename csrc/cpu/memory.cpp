#include "cpu/memory.h"

#include <iterator>
#include <map>
#include <mutex>
#include <new>

namespace scvae::cpu {
namespace {

constexpr std::size_t kLeastKept = 32 << 10;  // the allocator itself keeps smaller blocks

void release(void* block) { ::operator delete(block, std::align_val_t(kLine)); }

// Unused blocks, by size. No thread waits for the lock: while another thread holds it, memory comes from the system and
// returns there. In the child of a fork the lock may stay held forever, because its owner does not exist there.
class Pool {
 public:
  // A block of at least that size, but not a much larger one; null if there is none.
  Scratch take(std::size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return {};
    const auto found = blocks_.lower_bound(bytes);
    if (found == blocks_.end() || found->first > bytes + bytes / 4) return {};
    const Scratch scratch{found->second, found->first};
    kept_ -= scratch.bytes;
    blocks_.erase(found);
    return scratch;
  }

  // Whether the block is kept. Smaller ones make room for it.
  bool give(Scratch scratch) {
    if (scratch.bytes > kMostScratchKept) return false;
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    while (kept_ + scratch.bytes > kMostScratchKept) {
      kept_ -= blocks_.begin()->first;
      release(blocks_.begin()->second);
      blocks_.erase(blocks_.begin());
    }
    blocks_.emplace(scratch.bytes, scratch.block);
    kept_ += scratch.bytes;
    return true;
  }

  std::size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_;
  }

 private:
  std::mutex mutex_;
  std::multimap<std::size_t, void*> blocks_;
  std::size_t kept_ = 0;
};

// Never destroyed: a thread may still return memory while the process ends.
Pool& pool() {
  static Pool* const the_pool = new Pool;
  return *the_pool;
}

}  // namespace

Scratch take_scratch(std::size_t bytes) {
  const Scratch kept = bytes >= kLeastKept ? pool().take(bytes) : Scratch{};
  return kept.block != nullptr ? kept : Scratch{::operator new(bytes, std::align_val_t(kLine)), bytes};
}

void give_scratch(Scratch scratch) noexcept {
  try {
    if (scratch.bytes >= kLeastKept && pool().give(scratch)) return;
  } catch (const std::bad_alloc&) {  // no memory for the pool's entry: the block is not kept
  }
  release(scratch.block);
}

std::size_t scratch_kept() { return pool().kept(); }

}  // namespace scvae::cpu
