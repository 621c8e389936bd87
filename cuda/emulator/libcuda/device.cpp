// Start, devices, contexts, errors by name.
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "driver.h"
#include "state.hpp"

using namespace fs::driver;

namespace {

/// Shared memory that a block may ask for, by architecture (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
int shared_optin(int architecture) {
  switch (architecture) {
    case 75: return 64 << 10;
    case 80: case 87: return 163 << 10;
    case 90: case 100: case 103: return 227 << 10;
    default: return 99 << 10;
  }
}

/// Few, so that small shapes fill them.
int multiprocessors = 8;

int threads_a_multiprocessor(int architecture) {
  switch (architecture) {
    case 75: return 1024;
    case 80: case 90: case 100: case 103: return 2048;
    default: return 1536;
  }
}

bool attribute_of_device(int attribute, int architecture, int* value) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 0x7fffffff; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = shared_optin(architecture); return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = shared_optin(architecture) + 1024; return true;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: *value = 65536; return true;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = multiprocessors; return true;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = threads_a_multiprocessor(architecture); return true;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 4 << 20; return true;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *value = 2; return true;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = architecture / 10; return true;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = architecture % 10; return true;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; return true;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: *value = 0; return true;
    default: return false;
  }
}

const char* name_of(int error) {
  switch (error) {
#define FEWSTEP_NAME(name) \
  case name: return #name;
    FEWSTEP_NAME(CUDA_SUCCESS)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_VALUE)
    FEWSTEP_NAME(CUDA_ERROR_OUT_OF_MEMORY)
    FEWSTEP_NAME(CUDA_ERROR_NOT_INITIALIZED)
    FEWSTEP_NAME(CUDA_ERROR_NO_DEVICE)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_DEVICE)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_IMAGE)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_CONTEXT)
    FEWSTEP_NAME(CUDA_ERROR_NO_BINARY_FOR_GPU)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_HANDLE)
    FEWSTEP_NAME(CUDA_ERROR_ILLEGAL_STATE)
    FEWSTEP_NAME(CUDA_ERROR_NOT_FOUND)
    FEWSTEP_NAME(CUDA_ERROR_NOT_READY)
    FEWSTEP_NAME(CUDA_ERROR_ILLEGAL_ADDRESS)
    FEWSTEP_NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
    FEWSTEP_NAME(CUDA_ERROR_LAUNCH_TIMEOUT)
    FEWSTEP_NAME(CUDA_ERROR_ILLEGAL_INSTRUCTION)
    FEWSTEP_NAME(CUDA_ERROR_MISALIGNED_ADDRESS)
    FEWSTEP_NAME(CUDA_ERROR_INVALID_ADDRESS_SPACE)
    FEWSTEP_NAME(CUDA_ERROR_LAUNCH_FAILED)
    FEWSTEP_NAME(CUDA_ERROR_NOT_PERMITTED)
    FEWSTEP_NAME(CUDA_ERROR_NOT_SUPPORTED)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_MERGE)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
    FEWSTEP_NAME(CUDA_ERROR_CAPTURED_EVENT)
    FEWSTEP_NAME(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
#undef FEWSTEP_NAME
    default: return nullptr;
  }
}

bool is_device(const Driver& d, CUdevice device) { return device >= 0 && device < d.device_count; }

Context* new_context(Driver& d, CUdevice device, bool primary) {
  auto context = std::make_unique<Context>();
  context->device = device;
  context->primary = primary;
  context->users = 1;
  context->null_stream = Stream{context.get(), true, nullptr, nullptr, {}};
  return d.contexts.add(std::move(context));
}

CUresult create_context(void** result, unsigned, CUdevice device) {
  return Driver::call("cuCtxCreate", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    Context* context = new_context(d, device, false);
    context_stack().push_back(context);
    *result = context;
    return CUDA_SUCCESS;
  });
}

}  // namespace

FEWSTEP_CUDA_EXPORT CUresult cuInit(unsigned flags) {
  return Driver::call("cuInit", Needs::nothing, [&](Driver& d) { return flags ? CUDA_ERROR_INVALID_VALUE : d.initialise(); });
}
FEWSTEP_CUDA_EXPORT CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
FEWSTEP_CUDA_EXPORT CUresult cuGetErrorName(int error, const char** name) {
  *name = name_of(error);
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
FEWSTEP_CUDA_EXPORT CUresult cuGetErrorString(int error, const char** sentence) {
  return Driver::call("cuGetErrorString", Needs::nothing, [&](Driver& d) {
    *sentence = d.sentence_for(CUresult(error));
    if (!*sentence) *sentence = name_of(error);
    return *sentence ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

// ---- devices

FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetCount(int* count) {
  return Driver::call("cuDeviceGetCount", Needs::initialised, [&](Driver& d) {
    *count = d.device_count;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return Driver::call("cuDeviceGet", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  return Driver::call("cuDeviceGetName", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    if (bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, size_t(bytes), "fewstep emulator sm_%d", d.architecture);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  return Driver::call("cuDeviceGetUuid", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    memcpy(uuid->bytes, "fewstep-emu-dev", 15);
    uuid->bytes[15] = char(device);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }
FEWSTEP_CUDA_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return Driver::call("cuDeviceTotalMem", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = d.memory_bytes;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  return Driver::call("cuDeviceGetAttribute", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    if (attribute_of_device(attribute, d.architecture, value)) return CUDA_SUCCESS;
    return d.explain(CUDA_ERROR_INVALID_VALUE, "the emulator does not know device attribute " + std::to_string(attribute));
  });
}

// ---- contexts

FEWSTEP_CUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(void** result, CUdevice device) {
  return Driver::call("cuDevicePrimaryCtxRetain", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    Context*& primary = d.primaries[device];
    if (primary) {
      primary->users++;
    } else {
      if (const CUresult refused = d.refuse_in_capture()) return refused;
      primary = new_context(d, device, true);
    }
    *result = primary;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return Driver::call("cuDevicePrimaryCtxRelease", Needs::initialised, [&](Driver& d) {
    const auto found = d.primaries.find(device);
    if (found == d.primaries.end()) return CUDA_ERROR_INVALID_CONTEXT;
    Context* primary = found->second;
    const CUresult lost = primary->lost;
    if (!--primary->users && !lost) d.end_context(*primary);  // a lost one stays so until fewstep_emu_reset, as until the process ends
    return lost;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  return Driver::call("cuDevicePrimaryCtxGetState", Needs::initialised, [&](Driver& d) {
    if (!is_device(d, device)) return CUDA_ERROR_INVALID_DEVICE;
    *flags = 0;
    *active = d.primaries.count(device) ? 1 : 0;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxCreate_v2(void** context, unsigned flags, CUdevice device) {
  return create_context(context, flags, device);
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxCreate_v4(void** context, void* parameters, unsigned flags, CUdevice device) {
  return parameters ? CUDA_ERROR_NOT_SUPPORTED : create_context(context, flags, device);
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxDestroy_v2(void* handle) {
  return Driver::call("cuCtxDestroy", Needs::initialised, [&](Driver& d) {
    Context* context = d.contexts.find(handle);
    if (!context || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    std::erase(context_stack(), context);
    d.end_context(*context);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxSetCurrent(void* handle) {
  return Driver::call("cuCtxSetCurrent", Needs::initialised, [&](Driver& d) {
    auto& stack = context_stack();
    if (handle && !d.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack.empty()) stack.pop_back();
    if (handle) stack.push_back(d.contexts.find(handle));
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxGetCurrent(void** handle) {
  return Driver::call("cuCtxGetCurrent", Needs::initialised, [&](Driver&) {
    *handle = context_stack().empty() ? nullptr : context_stack().back();
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxPushCurrent_v2(void* handle) {
  return Driver::call("cuCtxPushCurrent", Needs::initialised, [&](Driver& d) {
    if (!d.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    context_stack().push_back(d.contexts.find(handle));
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxPopCurrent_v2(void** handle) {
  return Driver::call("cuCtxPopCurrent", Needs::initialised, [&](Driver&) {
    if (context_stack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (handle) *handle = context_stack().back();
    context_stack().pop_back();
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  return Driver::call("cuCtxGetDevice", Needs::context, [&](Driver& d) {
    *device = d.context().device;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return Driver::call("cuCtxGetStreamPriorityRange", Needs::context, [&](Driver&) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuCtxSynchronize() {
  return Driver::call("cuCtxSynchronize", Needs::context, [&](Driver& d) {
    d.counters.synchronisations++;
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    d.drain(d.context());
    return d.outcome();
  });
}

int fewstep_emu_set_multiprocessors(int count) {
  Driver& driver = Driver::instance();
  std::lock_guard lock(driver.mutex);
  return std::exchange(multiprocessors, count);
}
