// Lets Ctrl-C and other signals end a long call: the calling thread checks for them occasionally.
#pragma once

#include <exception>

namespace scvae::cpu {

// Thrown by an interrupted call.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "the call was interrupted"; }
};

// While it exists, this thread's calls use `check` a few times per second to find out whether to end.
class Interruptible {
 public:
  explicit Interruptible(bool (*check)());
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  ~Interruptible();

 private:
  bool (*before_)();
};

// Checks if it is time to, and throws Interrupted if the call should end. Without an Interruptible in this thread it
// does nothing.
void look_for_interrupt();

}  // namespace scvae::cpu
