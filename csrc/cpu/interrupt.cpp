#include "cpu/interrupt.h"

#include <chrono>

namespace scvae::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Checking may wait for the interpreter's lock, which takes milliseconds.
constexpr std::chrono::milliseconds kBetween{200};

thread_local bool (*the_check)() = nullptr;
thread_local Clock::time_point next_time;

}  // namespace

Interruptible::Interruptible(bool (*check)()) : before_(the_check) { the_check = check; }

Interruptible::~Interruptible() { the_check = before_; }

void look_for_interrupt() {
  if (the_check == nullptr) return;
  const Clock::time_point now = Clock::now();
  if (now < next_time) return;
  next_time = now + kBetween;
  if (the_check()) throw Interrupted();
}

}  // namespace scvae::cpu
