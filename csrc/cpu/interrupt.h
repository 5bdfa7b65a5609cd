// Lets Ctrl-C and other signals end a long call: the calling thread asks for them now and then.
#pragma once

#include <exception>

namespace scvae::cpu {

// Thrown by a call that was interrupted.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "the call was interrupted"; }
};

// While it exists, this thread's calls ask `check` a few times a second whether to end.
class Interruptible {
 public:
  explicit Interruptible(bool (*check)());
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  ~Interruptible();

 private:
  bool (*before_)();
};

// Asks if it is time to, and throws Interrupted if the answer is yes. Without an Interruptible in this thread it does
// nothing.
void look_for_interrupt();

}  // namespace scvae::cpu
