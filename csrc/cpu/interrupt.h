// A long call can be ended from outside, as by Ctrl-C: the thread that made it asks now and then.
#pragma once

#include <exception>

namespace scvae::cpu {

// What a call throws that was ended.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "the call was interrupted"; }
};

// While it lives, the calls that this thread makes ask `check`, some times a second, whether they are to end.
class Interruptible {
 public:
  explicit Interruptible(bool (*check)());
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  ~Interruptible();

 private:
  bool (*before_)();
};

// Asks, if it is time to; throws Interrupted. Does nothing in a thread that has no Interruptible.
void look_for_interrupt();

}  // namespace scvae::cpu
