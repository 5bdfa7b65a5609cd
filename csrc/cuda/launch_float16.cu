#include "cuda/launch_impl.h"

namespace scvae::cuda {

template struct Launcher<Float16, false>;

}  // namespace scvae::cuda
