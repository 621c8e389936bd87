// emulator.h on a GPU: what fragments.cpp and arithmetic.cpp check of the emulator they check of the hardware, when they are linked with this file in
// place of the emulator. The kernels are the fat binaries of $FEWSTEP_GPU_KERNELS, a list of files with ':' between them. The driver is opened at run
// time, so that the programs need none to be built.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "driver_call.hpp"
#include "emulator.h"

struct fewstep_emu_kernel {
  void* function;
};

namespace {

using driver::call, driver::need;

constexpr int kSuccess = 0, kInvalidValue = 1, kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;
constexpr unsigned kMapped = 2;  // CU_MEMHOSTALLOC_DEVICEMAP

std::vector<std::string> kernel_files() {
  std::vector<std::string> files;
  const char* list = getenv("FEWSTEP_GPU_KERNELS");
  for (std::string rest = list ? list : ""; !rest.empty();) {
    const size_t end = rest.find(':');
    files.push_back(rest.substr(0, end));
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
  }
  return files;
}

// The first GPU, its primary context, and the kernels.
struct Gpu {
  int device = 0, architecture = 0;
  std::vector<void*> modules;
  std::map<std::string, fewstep_emu_kernel> kernels;
  std::string problem;

  Gpu() {
    void* context = nullptr;
    need("cuInit", 0u);
    need("cuDeviceGet", &device, 0);
    need("cuDevicePrimaryCtxRetain", &context, device);
    need("cuCtxPushCurrent_v2", context);
    int major = 0, minor = 0;
    need("cuDeviceGetAttribute", &major, kComputeCapabilityMajor, device);
    need("cuDeviceGetAttribute", &minor, kComputeCapabilityMinor, device);
    architecture = 10 * major + minor;
    for (const std::string& name : kernel_files()) {
      std::ifstream file(name, std::ios::binary);
      const std::string image{std::istreambuf_iterator<char>(file), {}};
      void* module = nullptr;
      need("cuModuleLoadData", &module, static_cast<const void*>(image.data()));
      modules.push_back(module);
    }
  }
};

Gpu& gpu() {
  static Gpu* const one = new Gpu;  // lives as long as the driver
  return *one;
}

}  // namespace

fewstep_emu_config fewstep_emu_get_config(void) { return {0, FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_GUARD_OVERRUN, gpu().architecture, 0}; }
/* A GPU has its own ways. */
void fewstep_emu_set_config(const fewstep_emu_config*) {}

const fewstep_emu_kernel* fewstep_emu_find(const char* name) {
  const auto known = gpu().kernels.find(name);
  if (known != gpu().kernels.end()) return &known->second;
  for (void* module : gpu().modules) {
    void* function = nullptr;
    if (call("cuModuleGetFunction", &function, module, name) == kSuccess) return &(gpu().kernels[name] = {function});
  }
  return nullptr;
}

size_t fewstep_emu_parameter_count(const fewstep_emu_kernel* kernel) {
  size_t count = 0, offset = 0, bytes = 0;
  int code = 0;
  while ((code = call("cuFuncGetParamInfo", kernel->function, count, &offset, &bytes)) == kSuccess) count++;
  if (code < 0) fprintf(stderr, "the driver has no cuFuncGetParamInfo: it must be one for CUDA 13\n"), exit(1);
  return count;
}

int32_t fewstep_emu_launch(const fewstep_emu_kernel* kernel, const fewstep_emu_shape* shape, void* const* parameters) {
  const uint32_t *g = shape->grid, *b = shape->block;
  void* const stream = nullptr;
  int code = call("cuLaunchKernel", kernel->function, g[0], g[1], g[2], b[0], b[1], b[2], shape->dynamic_shared, stream, parameters, static_cast<void**>(nullptr));
  if (code == kSuccess) code = call("cuCtxSynchronize");
  gpu().problem = "CUDA error " + std::to_string(code);
  return code == kSuccess ? FEWSTEP_EMU_OK : code == kInvalidValue ? FEWSTEP_EMU_BAD_LAUNCH : FEWSTEP_EMU_ILLEGAL_ADDRESS;
}

/* Host memory that the GPU reaches by the same address. */
void* fewstep_emu_allocate(size_t bytes) {
  void* address = nullptr;
  gpu();
  need("cuMemHostAlloc", &address, bytes + 16, kMapped);
  return memset(address, 0xff, bytes);
}
int32_t fewstep_emu_free(void* address) {
  if (address) need("cuMemFreeHost", address);
  return FEWSTEP_EMU_OK;
}

const char* fewstep_emu_last_error(void) { return gpu().problem.c_str(); }
const char* fewstep_emu_error_name(int32_t error) { return error ? "an error of the driver" : "ok"; }
