// Kernels for the driver's test.
#include "fewstep.cuh"

namespace {
struct Affine {
  float factor, summand;
};
}  // namespace

// y[i] = x[i] · factor + summand
FEWSTEP_KERNEL(128, driver_affine, const float* x, float* y, Affine map, int n) {
  const int i = int(fs::thread_in_grid(fs::this_block(), 128));
  if (i < n) y[i] = x[i] * map.factor + map.summand;
}
FEWSTEP_KERNEL(32, driver_fault, float* y) { y[1 << 20] = 1; }
// out[i] = i from dynamic shared memory
FEWSTEP_KERNEL(32, driver_shared, uint32_t* out, uint32_t words) {
  FEWSTEP_DYNAMIC_SHARED(bytes);
  auto* shared = reinterpret_cast<uint32_t*>(bytes);
  for (uint32_t i = fs::lane(); i < words; i += 32) shared[i] = i;
  fs::sync_warp();
  for (uint32_t i = fs::lane(); i < words; i += 32) out[i] = shared[words - 1 - i];
}
