// Tests of csrc/cpu without Python, for the instruction set named by SCVAE_FAST_ISA, or the processor's best.
// Exit status: 0 if everything holds, 1 if something does not, 2 if the tests could not run.
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "lista.h"
#include "suites.h"

namespace scvae::test {
namespace {

int run() {
  const std::string instructions = cpu::instruction_set();
  test_memory();
  test_parallel();
  test_lista();
  test_lista_not_finite();
  test_decode();
  test_lasso();
  test_group_norm_silu();
  std::cout << instructions << ": " << checks() - failures() << " of " << checks() << " checks hold\n";
  return failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace scvae::test

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  try {
    if (arguments.empty()) return scvae::test::run();
    if (arguments != std::vector<std::string>{"--instruction-sets"})
      throw std::invalid_argument("takes no argument but --instruction-sets, got " + arguments.front());
    for (const std::string& name : scvae::cpu::instruction_sets()) std::cout << name << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "native_tests: " << error.what() << "\n";
    return 2;
  }
}
