#include "cuda/launch_impl.h"

namespace scvae::cuda {

template struct Launcher<float, true>;

}  // namespace scvae::cuda
