#include "cpu/parallel.h"

#if defined(_OPENMP) && defined(__unix__)
#include <dlfcn.h>
#endif

namespace scvae::cpu {

bool release_threads() {
#if defined(_OPENMP) && defined(__unix__)
  // Looked up at run time: a libgomp older than OpenMP 5.0 has no such function.
  using Pause = int (*)(int);
  constexpr int soft = 1;
  const auto pause = reinterpret_cast<Pause>(dlsym(RTLD_DEFAULT, "omp_pause_resource_all"));
  return pause != nullptr && pause(soft) == 0;
#else
  return true;  // no thread outlives a call
#endif
}

}  // namespace scvae::cpu
