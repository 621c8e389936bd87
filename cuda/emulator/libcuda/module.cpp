// Modules, functions, launches. The image's bytes are looked at no further than to see that they are one: kernels are linked into this
// library, and the manifest says which of them the image has.
#include <string.h>

#include <algorithm>

#include "state.hpp"

using namespace fs::driver;

namespace {

// A fat binary, an ELF file, PTX text, or, where no GPU compiler was at hand, a placeholder that begins with this line.
constexpr char placeholder[] = "fewstep emulated kernels";
bool is_image(const void* image) {
  const auto* bytes = static_cast<const char*>(image);
  const unsigned char fat_binary[] = {0x50, 0xed, 0x55, 0xba};
  if (!memcmp(bytes, fat_binary, 4) || !memcmp(bytes, "\177ELF", 4) || !strncmp(bytes, placeholder, sizeof placeholder - 1)) return true;
  return !strncmp(bytes, "//", 2) || !strncmp(bytes, ".version", 8);
}

CUresult result_of(int32_t error) {
  switch (error) {
    case FEWSTEP_EMU_OK: return CUDA_SUCCESS;
    case FEWSTEP_EMU_BAD_LAUNCH: return CUDA_ERROR_INVALID_VALUE;
    case FEWSTEP_EMU_ILLEGAL_ADDRESS:
    case FEWSTEP_EMU_OVERRUN: return CUDA_ERROR_ILLEGAL_ADDRESS;
    case FEWSTEP_EMU_MISALIGNED: return CUDA_ERROR_MISALIGNED_ADDRESS;
    case FEWSTEP_EMU_EARLY_ACCESS: return CUDA_ERROR_ILLEGAL_ADDRESS;
    case FEWSTEP_EMU_WRONG_SPACE: return CUDA_ERROR_INVALID_ADDRESS_SPACE;
    case FEWSTEP_EMU_DEADLOCK:
    case FEWSTEP_EMU_SPINNING: return CUDA_ERROR_LAUNCH_TIMEOUT;
    case FEWSTEP_EMU_UNSUPPORTED_INSTRUCTION: return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    default: return CUDA_ERROR_LAUNCH_FAILED;
  }
}

/// A handle given out by cuModuleGetFunction in the current context.
Function* find_function(Driver& d, const void* handle) {
  for (const auto& [key, module] : d.modules) {
    if (module->context != &d.context()) continue;
    for (const auto& [name, function] : module->functions) {
      if (function.get() == handle) return function.get();
    }
  }
  return nullptr;
}

CUresult on_function(const char* name, const void* handle, const std::function<CUresult(Driver&, Function&)>& body) {
  return Driver::call(name, Needs::context, [&](Driver& d) {
    Function* function = find_function(d, handle);
    return function ? body(d, *function) : CUDA_ERROR_INVALID_HANDLE;
  });
}

/// A function's code reaches the device at its first use, which cannot happen during a capture.
CUresult load(Driver& d, Function& function) {
  if (function.loaded) return CUDA_SUCCESS;
  if (const CUresult refused = d.refuse_in_any_capture()) {
    return d.explain(refused, std::string(fewstep_emu_kernel_name(function.kernel)) + " is used for the first time during a capture");
  }
  function.loaded = true;
  return CUDA_SUCCESS;
}

/// Shared memory that this function may use, static and dynamic together.
uint32_t shared_limit(const Function& f) { return std::max(48u << 10, f.static_shared() + f.dynamic_limit); }

CUresult compare_parameters(Driver& d, const fewstep_emu_kernel* kernel, const ManifestEntry& entry) {
  const size_t count = fewstep_emu_parameter_count(kernel);
  bool same = count == entry.parameter_sizes.size();
  for (size_t i = 0; same && i < count; i++) same = fewstep_emu_parameter_size(kernel, i) == entry.parameter_sizes[i];
  if (same) return CUDA_SUCCESS;
  return d.explain(CUDA_ERROR_INVALID_IMAGE, entry.kernel + ": the emulated kernel's parameters differ from the GPU code's");
}

CUresult get_function(Driver& d, Module& module, const std::string& name, void** result) {
  if (const auto known = module.functions.find(name); known != module.functions.end()) {
    *result = known->second.get();
    return CUDA_SUCCESS;
  }
  const ManifestEntry* entry = nullptr;
  if (d.manifest.present()) {
    bool exists = false;
    entry = d.manifest.find(module.number, name, d.architecture, &exists);
    if (!entry && exists) {
      return d.explain(CUDA_ERROR_NO_BINARY_FOR_GPU, name + ": the manifest has no code for sm_" + std::to_string(d.architecture));
    }
    if (!entry) return d.explain(CUDA_ERROR_NOT_FOUND, name + ": not in the manifest's image");
  }
  const fewstep_emu_kernel* kernel = fewstep_emu_find(name.c_str());
  if (!kernel) return d.explain(CUDA_ERROR_NOT_FOUND, name + ": not among the emulated kernels");
  if (entry) {
    if (const CUresult different = compare_parameters(d, kernel, *entry)) return different;
    module.number = entry->module;
  }
  auto function = std::make_unique<Function>();
  function->module = &module;
  function->kernel = kernel;
  function->entry = entry;
  *result = function.get();
  module.functions.emplace(name, std::move(function));
  return CUDA_SUCCESS;
}

struct LaunchRequest {
  unsigned grid[3], block[3], dynamic_shared;
  bool overlaps;  // may begin before the stream's launch before has ended, where the device can do that
};

CUresult check_resources(Driver& d, const Function& f, const LaunchRequest& r) {
  const uint64_t threads = uint64_t(r.block[0]) * r.block[1] * r.block[2];
  const std::string name = fewstep_emu_kernel_name(f.kernel);
  if (!threads || threads > 1024 || r.block[2] > 64 || !r.grid[0] || !r.grid[1] || !r.grid[2] || r.grid[0] > 0x7fffffff ||
      r.grid[1] > 65535 || r.grid[2] > 65535) {
    return d.explain(CUDA_ERROR_INVALID_VALUE, name + ": impossible grid or block");
  }
  if (threads > fewstep_emu_kernel_max_threads(f.kernel)) {
    return d.explain(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, name + ": " + std::to_string(threads) + " threads are over its launch bound");
  }
  if (f.entry && uint64_t(f.entry->registers) * ((threads + 31) / 32 * 32) > 65536) {
    return d.explain(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, name + ": too many registers");
  }
  if (uint64_t(f.static_shared()) + r.dynamic_shared > shared_limit(f)) {
    return d.explain(CUDA_ERROR_INVALID_VALUE, name + ": " + std::to_string(r.dynamic_shared) + " bytes of dynamic and " +
                                                   std::to_string(f.static_shared()) + " of static shared memory are over " +
                                                   std::to_string(shared_limit(f)));
  }
  return CUDA_SUCCESS;
}

/// A place from which to replay a launch elsewhere, under a sanitizer say: everything that defines it is at hand here.
CUresult launch(Driver& d, Function& f, const LaunchRequest& r, Stream& stream, void** parameters, void** extra) {
  if (extra) return CUDA_ERROR_NOT_SUPPORTED;
  if (const CUresult problem = check_resources(d, f, r)) return problem;
  if (const CUresult refused = load(d, f)) return refused;
  auto values = std::make_shared<std::vector<std::vector<char>>>();  // a launch keeps its arguments' values
  for (size_t i = 0; i < fewstep_emu_parameter_count(f.kernel); i++) {
    const char* value = static_cast<const char*>(parameters[i]);
    values->emplace_back(value, value + fewstep_emu_parameter_size(f.kernel, i));
  }
  const fewstep_emu_shape shape{{r.grid[0], r.grid[1], r.grid[2]}, {r.block[0], r.block[1], r.block[2]}, r.dynamic_shared, shared_limit(f), r.overlaps};
  d.counters.launches++;
  d.counters.overlapping_launches += r.overlaps;
  return d.enqueue(stream, [&d, kernel = f.kernel, shape, values] {
    std::vector<void*> pointers;
    for (auto& value : *values) pointers.push_back(value.data());
    d.counters.kernels_run++;
    const CUresult result = result_of(fewstep_emu_launch(kernel, &shape, pointers.data()));
    return result ? d.explain(result, fewstep_emu_last_error()) : result;
  });
}

}  // namespace

FEWSTEP_CUDA_EXPORT CUresult cuModuleLoadData(void** result, const void* image) {
  return Driver::call("cuModuleLoadData", Needs::context, [&](Driver& d) {
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    if (!image || !is_image(image)) return d.explain(CUDA_ERROR_INVALID_IMAGE, "neither a fat binary nor ELF nor PTX");
    if (d.manifest.present() && !d.manifest.supports(d.architecture)) {
      return d.explain(CUDA_ERROR_NO_BINARY_FOR_GPU, "the manifest has nothing for sm_" + std::to_string(d.architecture));
    }
    auto module = std::make_unique<Module>();
    module->context = &d.context();
    d.counters.module_loads++;
    *result = d.modules.add(std::move(module));
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuModuleLoadDataEx(void** result, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(result, image);
}
FEWSTEP_CUDA_EXPORT CUresult cuModuleLoadFatBinary(void** result, const void* image) { return cuModuleLoadData(result, image); }
FEWSTEP_CUDA_EXPORT CUresult cuModuleUnload(void* handle) {
  return Driver::call("cuModuleUnload", Needs::context, [&](Driver& d) {
    Module* module = d.modules.find(handle);
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    d.drain(d.context());
    d.modules.remove(module);
    return d.outcome();
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuModuleGetFunction(void** result, void* handle, const char* name) {
  return Driver::call("cuModuleGetFunction", Needs::context, [&](Driver& d) {
    Module* module = d.modules.find(handle);
    return module ? get_function(d, *module, name, result) : CUDA_ERROR_INVALID_HANDLE;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuFuncLoad(void* handle) {
  return on_function("cuFuncLoad", handle, [](Driver& d, Function& f) { return load(d, f); });
}
FEWSTEP_CUDA_EXPORT CUresult cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* bytes) {
  return on_function("cuFuncGetParamInfo", handle, [&](Driver&, Function& f) {
    if (index >= fewstep_emu_parameter_count(f.kernel)) return CUDA_ERROR_INVALID_VALUE;
    size_t at = 0, size = 0;
    for (size_t i = 0; i <= index; i++) {  // natural alignment: a parameter's size, up to 16, is a multiple of its alignment
      at += size;
      size = fewstep_emu_parameter_size(f.kernel, i);
      const size_t alignment = std::min<size_t>(size & -size, 8);
      at = (at + alignment - 1) / alignment * alignment;
    }
    if (offset) *offset = at;
    if (bytes) *bytes = size;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuFuncGetAttribute(int* value, int attribute, void* handle) {
  return on_function("cuFuncGetAttribute", handle, [&](Driver& d, Function& f) {
    if (const CUresult refused = load(d, f)) return refused;
    switch (attribute) {
      case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = int(fewstep_emu_kernel_max_threads(f.kernel)); break;
      case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(f.static_shared()); break;
      case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = f.entry ? f.entry->registers : 0; break;
      case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = f.entry ? f.entry->architecture : d.architecture; break;
      case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(shared_limit(f) - f.static_shared()); break;
      case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
      case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = 0; break;
      case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *value = -1; break;
      default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device);
FEWSTEP_CUDA_EXPORT CUresult cuFuncSetAttribute(void* handle, int attribute, int value) {
  return on_function("cuFuncSetAttribute", handle, [&](Driver& d, Function& f) {
    if (const CUresult refused = load(d, f)) return refused;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
    int most = 0;
    cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, d.context().device);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > most - int(f.static_shared())) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    f.dynamic_limit = uint32_t(value);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuFuncSetCacheConfig(void* handle, int) {
  return on_function("cuFuncSetCacheConfig", handle, [](Driver&, Function&) { return CUDA_SUCCESS; });
}
FEWSTEP_CUDA_EXPORT CUresult cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                            unsigned block_y, unsigned block_z, unsigned dynamic_shared, void* stream_handle,
                                            void** parameters, void** extra) {
  return on_function("cuLaunchKernel", handle, [&](Driver& d, Function& f) {
    Stream* stream = d.stream(stream_handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    return launch(d, f, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic_shared, false}, *stream, parameters, extra);
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig* config, void* handle, void** parameters, void** extra) {
  return on_function("cuLaunchKernelEx", handle, [&](Driver& d, Function& f) {
    const CUlaunchConfig& c = *config;
    Stream* stream = d.stream(c.hStream);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    LaunchRequest request{{c.gridDimX, c.gridDimY, c.gridDimZ}, {c.blockDimX, c.blockDimY, c.blockDimZ}, c.sharedMemBytes, false};
    for (unsigned i = 0; i < c.numAttrs; i++) {
      const CUlaunchAttribute& attribute = c.attrs[i];
      if (attribute.id == CU_LAUNCH_ATTRIBUTE_IGNORE) continue;
      if (attribute.id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
        return d.explain(CUDA_ERROR_NOT_SUPPORTED, "the emulator does not know launch attribute " + std::to_string(attribute.id));
      }
      request.overlaps = attribute.value.programmaticStreamSerializationAllowed && d.architecture >= 90;
    }
    return launch(d, f, request, *stream, parameters, extra);
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic_shared) {
  return on_function("cuOccupancyMaxActiveBlocksPerMultiprocessor", handle, [&](Driver& d, Function& f) {
    if (threads <= 0) return CUDA_ERROR_INVALID_VALUE;
    int most_threads = 0, most_shared = 0;
    cuDeviceGetAttribute(&most_threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, d.context().device);
    cuDeviceGetAttribute(&most_shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, d.context().device);
    const size_t rounded = (size_t(threads) + 31) / 32 * 32, shared = f.static_shared() + dynamic_shared + 1024;  // 1 KiB is the system's
    const size_t registers = rounded * size_t(std::max(1, f.entry ? f.entry->registers : 32));
    *blocks = int(std::min({size_t(most_threads) / rounded, size_t(most_shared) / shared, 65536 / registers, size_t(16)}));
    return CUDA_SUCCESS;
  });
}
