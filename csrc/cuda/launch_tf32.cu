#include "cuda/launch_impl.h"

namespace scvae::cuda {

template struct Launcher<float, false>;

}  // namespace scvae::cuda
