// Chooses the instruction set of the kernels: the best that the processor and the compiler support, or the one named
// by SCVAE_FAST_ISA.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/lasso_kernels.h"
#include "cpu/norm_kernels.h"
#include "lista.h"

namespace scvae::cpu {

#define SCVAE_DECLARE(isa)                       \
  namespace isa {                                \
  Kernels<float> float_kernels();                \
  Kernels<double> double_kernels();              \
  LassoKernels<float> float_lasso_kernels();     \
  LassoKernels<double> double_lasso_kernels();   \
  NormKernels<float> float_norm_kernels();       \
  NormKernels<BFloat16> bfloat16_norm_kernels(); \
  }
#if defined(SCVAE_FAST_WITH_AVX512)
SCVAE_DECLARE(avx512)
#endif
#if defined(SCVAE_FAST_WITH_AVX2)
SCVAE_DECLARE(avx2)
#endif
SCVAE_DECLARE(portable)
#undef SCVAE_DECLARE

namespace {

struct InstructionSet {
  const char* name;
  bool usable;
  Kernels<float> (*float_kernels)();
  Kernels<double> (*double_kernels)();
  LassoKernels<float> (*float_lasso_kernels)();
  LassoKernels<double> (*double_lasso_kernels)();
  NormKernels<float> (*float_norm_kernels)();
  NormKernels<BFloat16> (*bfloat16_norm_kernels)();
};

// Best first. The features of x86-64-v4 and -v3 beyond the next lower level, as far as compilers can test for them.
const std::vector<InstructionSet>& all_instruction_sets() {
  static const std::vector<InstructionSet> all = {
#if defined(SCVAE_FAST_WITH_AVX512)
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("fma"),
       avx512::float_kernels, avx512::double_kernels, avx512::float_lasso_kernels, avx512::double_lasso_kernels,
       avx512::float_norm_kernels, avx512::bfloat16_norm_kernels},
#endif
#if defined(SCVAE_FAST_WITH_AVX2)
      {"avx2",
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2"),
       avx2::float_kernels, avx2::double_kernels, avx2::float_lasso_kernels, avx2::double_lasso_kernels,
       avx2::float_norm_kernels, avx2::bfloat16_norm_kernels},
#endif
      {"portable", true, portable::float_kernels, portable::double_kernels, portable::float_lasso_kernels,
       portable::double_lasso_kernels, portable::float_norm_kernels, portable::bfloat16_norm_kernels},
  };
  return all;
}

const InstructionSet& choose() {
  const char* asked = std::getenv("SCVAE_FAST_ISA");
  std::string usable;
  for (const InstructionSet& set : all_instruction_sets()) {
    if (!set.usable) continue;
    if (asked == nullptr || *asked == '\0' || asked == std::string(set.name)) return set;
    usable += (usable.empty() ? "" : ", ") + std::string(set.name);
  }
  throw std::runtime_error("SCVAE_FAST_ISA must name instructions that this processor and this build have, one of " +
                           usable + ", got " + asked);
}

const InstructionSet& chosen() {
  static const InstructionSet& set = choose();
  return set;
}

}  // namespace

const char* instruction_set() { return chosen().name; }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : all_instruction_sets())
    if (set.usable) names.emplace_back(set.name);
  return names;
}

template <>
const Kernels<float>& kernels<float>() {
  static const Kernels<float> table = chosen().float_kernels();
  return table;
}

template <>
const Kernels<double>& kernels<double>() {
  static const Kernels<double> table = chosen().double_kernels();
  return table;
}

template <>
const LassoKernels<float>& lasso_kernels<float>() {
  static const LassoKernels<float> table = chosen().float_lasso_kernels();
  return table;
}

template <>
const LassoKernels<double>& lasso_kernels<double>() {
  static const LassoKernels<double> table = chosen().double_lasso_kernels();
  return table;
}

template <>
const NormKernels<float>& norm_kernels<float>() {
  static const NormKernels<float> table = chosen().float_norm_kernels();
  return table;
}

template <>
const NormKernels<BFloat16>& norm_kernels<BFloat16>() {
  static const NormKernels<BFloat16> table = chosen().bfloat16_norm_kernels();
  return table;
}

}  // namespace scvae::cpu
