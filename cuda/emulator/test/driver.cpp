// The stand-in driver as a host meets it: opened with dlopen, every function by its name.
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <numeric>
#include <thread>

#include "check.hpp"
#include "libcuda/cuda.hpp"
#include "libcuda/driver.h"

using check::that;

namespace {

void* library() {
  static void* const handle = [] {
    const char* path = getenv("FEWSTEP_EMU_LIBRARY");
    void* opened = dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    that(opened, "%s", dlerror());
    return opened;
  }();
  return handle;
}

template <class... P>
int cu(const char* name, P... arguments) {
  auto* function = reinterpret_cast<int (*)(P...)>(dlsym(library(), name));
  that(function, "%s is missing", name);
  return function(arguments...);
}

/// The call must return this.
template <class... P>
void expect(int result, const char* name, P... arguments) {
  const int got = cu(name, arguments...);
  if (got == result) return;
  const char* sentence = "";
  cu("cuGetErrorString", got, &sentence);
  that(false, "%s returned %d, not %d: %s", name, got, result, sentence);
}
template <class... P>
void ok(const char* name, P... arguments) {
  expect(CUDA_SUCCESS, name, arguments...);
}

uint64_t count(const char* what) {
  auto* function = reinterpret_cast<uint64_t (*)(const char*)>(dlsym(library(), "fewstep_emu_log_count"));
  return function(what);
}

constexpr const char* image = "fewstep emulated kernels";

/// A new process's driver with these settings, a current context, a module.
struct Session {
  explicit Session(uint64_t seed = 0, const char* manifest = nullptr, const char* memory = nullptr) {
    setenv("FEWSTEP_EMU_SEED", std::to_string(seed).c_str(), 1);
    manifest ? setenv("FEWSTEP_EMU_MANIFEST", manifest, 1) : unsetenv("FEWSTEP_EMU_MANIFEST");
    memory ? setenv("FEWSTEP_EMU_MEMORY", memory, 1) : unsetenv("FEWSTEP_EMU_MEMORY");
    reinterpret_cast<void (*)()>(dlsym(library(), "fewstep_emu_reset"))();
    reinterpret_cast<void (*)()>(dlsym(library(), "fewstep_emu_log_reset"))();
    ok("cuInit", 0u);
    ok("cuDevicePrimaryCtxRetain", &context, 0);
    ok("cuCtxSetCurrent", context);
    ok("cuModuleLoadData", &module, static_cast<const void*>(image));
  }
  void* function(const char* name) {
    void* f = nullptr;
    ok("cuModuleGetFunction", &f, module, name);
    return f;
  }
  void* stream() {
    void* s = nullptr;
    ok("cuStreamCreate", &s, unsigned(CU_STREAM_NON_BLOCKING));
    return s;
  }
  void* event() {
    void* e = nullptr;
    ok("cuEventCreate", &e, unsigned(CU_EVENT_DEFAULT));
    return e;
  }
  CUdeviceptr floats(size_t n) {
    CUdeviceptr p = 0;
    ok("cuMemAlloc_v2", &p, n * 4);
    return p;
  }
  float* pinned(size_t n) {
    void* p = nullptr;
    ok("cuMemHostAlloc", &p, n * 4, 0u);
    return static_cast<float*>(p);
  }
  void* context = nullptr;
  void* module = nullptr;
};

struct Affine {
  float factor, summand;
};
int affine(void* f, void* stream, CUdeviceptr x, CUdeviceptr y, Affine map, int n, unsigned threads = 128) {
  void* parameters[] = {&x, &y, &map, &n};
  return cu("cuLaunchKernel", f, unsigned(n + 127) / 128, 1u, 1u, threads, 1u, 1u, 0u, stream, static_cast<void**>(parameters),
            static_cast<void**>(nullptr));
}
void affine_ok(void* f, void* stream, CUdeviceptr x, CUdeviceptr y, Affine map, int n) {
  that(affine(f, stream, x, y, map, n) == CUDA_SUCCESS, "the launch failed");
}
float first(CUdeviceptr x) {
  float value = 0;
  ok("cuMemcpyDtoH_v2", static_cast<void*>(&value), x, size_t(4));
  return value;
}

void deferral() {
  Session s;
  void *f = s.function("driver_affine"), *stream = s.stream();
  const CUdeviceptr x = s.floats(300);
  float* host = s.pinned(300);
  std::iota(host, host + 300, 0.f);
  ok("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(host), size_t(1200), stream);
  affine_ok(f, stream, x, x, {2, 1}, 300);
  that(count("kernels_run") == 0, "ran before a wait");
  host[7] = 100;  // too early: the copy has not been made
  expect(CUDA_ERROR_NOT_READY, "cuStreamQuery", stream);
  ok("cuStreamSynchronize", stream);
  that(count("kernels_run") == 1, "did not run");
  float out[300];
  ok("cuMemcpyDtoHAsync_v2", static_cast<void*>(out), x, size_t(1200), stream);
  that(out[6] == 13 && out[7] == 201, "%g %g", double(out[6]), double(out[7]));
  float pageable = 5;
  ok("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(&pageable), size_t(4), stream);
  pageable = 6;  // allowed: taken at the call
  ok("cuStreamSynchronize", stream);
  that(first(x) == 5, "pageable memory was read late");
}

// Without the event's wait some seed lets the second stream go first; with it, none.
void ordering(bool wait) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < 12; seed++) {
    Session s(seed);
    void *f = s.function("driver_affine"), *a = s.stream(), *b = s.stream(), *e = s.event();
    const CUdeviceptr x = s.floats(1);
    ok("cuMemsetD32Async", x, 0u, size_t(1), a);
    ok("cuStreamSynchronize", a);
    affine_ok(f, a, x, x, {1, 3}, 1);
    ok("cuEventRecord", e, a);
    if (wait) ok("cuStreamWaitEvent", b, e, 0u);
    affine_ok(f, b, x, x, {10, 0}, 1);
    ok("cuCtxSynchronize");
    wrong += first(x) != 30;
  }
  that(wait ? wrong == 0 : wrong > 0, "%d of 12 seeds", wrong);
}

void null_stream() {
  for (uint64_t seed = 0; seed < 8; seed++) {
    Session s(seed);
    void *f = s.function("driver_affine"), *blocking = nullptr;
    ok("cuStreamCreate", &blocking, unsigned(CU_STREAM_DEFAULT));
    const CUdeviceptr x = s.floats(1);
    ok("cuMemsetD32Async", x, 0u, size_t(1), static_cast<void*>(nullptr));
    affine_ok(f, blocking, x, x, {1, 3}, 1);
    affine_ok(f, nullptr, x, x, {10, 0}, 1);
    affine_ok(f, blocking, x, x, {1, 4}, 1);
    ok("cuStreamSynchronize", blocking);
    that(first(x) == 34, "seed %d", int(seed));
  }
}

void events() {
  Session s;
  void *f = s.function("driver_affine"), *stream = s.stream(), *begin = s.event(), *end = s.event();
  const CUdeviceptr x = s.floats(1000);
  float ms = -1;
  ok("cuEventQuery", begin);
  expect(CUDA_ERROR_INVALID_HANDLE, "cuEventElapsedTime", &ms, begin, end);
  ok("cuEventRecord", begin, stream);
  affine_ok(f, stream, x, x, {1, 0}, 1000);
  ok("cuEventRecord", end, stream);
  expect(CUDA_ERROR_NOT_READY, "cuEventElapsedTime", &ms, begin, end);
  int queries = 1;
  while (cu("cuEventQuery", end) == CUDA_ERROR_NOT_READY) queries++;
  that(queries > 1 && queries < 5, "%d queries", queries);
  ok("cuEventElapsedTime", &ms, begin, end);
  that(ms >= 0, "%g ms", double(ms));
}

void capture(uint64_t seed) {
  Session s(seed);
  void *f = s.function("driver_affine"), *a = s.stream(), *b = s.stream(), *fork = s.event(), *join = s.event();
  ok("cuFuncLoad", f);
  const CUdeviceptr x = s.floats(4), y = s.floats(4);
  ok("cuMemsetD32Async", x, 0u, size_t(4), a);
  ok("cuStreamBeginCapture_v2", a, int(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  affine_ok(f, a, x, x, {1, 1}, 4);
  ok("cuEventRecord", fork, a);
  ok("cuStreamWaitEvent", b, fork, 0u);
  affine_ok(f, b, x, y, {10, 0}, 4);  // y = 10 x beside ...
  ok("cuEventRecord", join, b);
  ok("cuStreamWaitEvent", a, join, 0u);
  affine_ok(f, a, x, x, {2, 0}, 4);
  int status = -1;
  ok("cuStreamIsCapturing", b, &status);
  that(status == CU_STREAM_CAPTURE_STATUS_ACTIVE, "the second stream did not join");
  void *graph = nullptr, *exec = nullptr;
  ok("cuStreamEndCapture", a, &graph);
  ok("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
  ok("cuGraphDestroy", graph);
  that(count("kernels_run") == 0 && count("launches") == 3, "the capture ran");
  for (int i = 0; i < 3; i++) ok("cuGraphLaunch", exec, a);
  ok("cuStreamSynchronize", a);
  that(count("kernels_run") == 9, "%d ran", int(count("kernels_run")));
  that(first(x) == 14 && first(y) == 70, "x %g, y %g", double(first(x)), double(first(y)));  // 0 → 2 → 6 → 14
  ok("cuGraphExecDestroy", exec);
}

/// Captures, does something forbidden, and must be refused then and at the end.
void refused(int result, const std::function<int(Session&, void* stream, CUdeviceptr x)>& act) {
  Session s;
  void *stream = s.stream(), *f = s.function("driver_affine");
  const CUdeviceptr x = s.floats(4);
  ok("cuFuncLoad", f);
  ok("cuStreamBeginCapture_v2", stream, int(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  affine_ok(f, stream, x, x, {1, 1}, 4);
  const int got = act(s, stream, x);
  that(got == result, "returned %d, not %d", got, result);
  void* graph = nullptr;
  expect(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamEndCapture", stream, &graph);
  that(!graph, "a graph came out");
  ok("cuStreamSynchronize", stream);
}

void refusals() {
  constexpr int unsupported = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  refused(unsupported, [](Session&, void*, CUdeviceptr) {
    CUdeviceptr p = 0;
    return cu("cuMemAlloc_v2", &p, size_t(64));
  });
  refused(unsupported, [](Session&, void*, CUdeviceptr x) { return cu("cuMemFree_v2", x); });
  refused(unsupported, [](Session&, void* stream, CUdeviceptr) { return cu("cuStreamSynchronize", stream); });
  refused(unsupported, [](Session&, void*, CUdeviceptr) { return cu("cuCtxSynchronize"); });
  refused(unsupported, [](Session& s, void*, CUdeviceptr) { return cu("cuModuleLoadData", &s.module, static_cast<const void*>(image)); });
  refused(unsupported, [](Session& s, void* stream, CUdeviceptr x) {
    return affine(s.function("driver_shared"), stream, x, x, {1, 1}, 4, 32);
  });
  refused(unsupported, [](Session&, void* stream, CUdeviceptr x) {
    float pageable = 0;
    return cu("cuMemcpyHtoDAsync_v2", x, static_cast<const void*>(&pageable), size_t(4), stream);
  });
  refused(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, [](Session& s, void* stream, CUdeviceptr) {
    void *other = s.stream(), *e = s.event();
    ok("cuEventRecord", e, other);
    return cu("cuStreamWaitEvent", stream, e, 0u);
  });
  Session s;  // work that does not come back to the capture's own stream
  void *a = s.stream(), *b = s.stream(), *e = s.event(), *f = s.function("driver_affine"), *graph = nullptr;
  const CUdeviceptr x = s.floats(4);
  ok("cuFuncLoad", f);
  ok("cuStreamBeginCapture_v2", a, int(CU_STREAM_CAPTURE_MODE_GLOBAL));
  ok("cuEventRecord", e, a);
  ok("cuStreamWaitEvent", b, e, 0u);
  affine_ok(f, b, x, x, {1, 1}, 4);
  expect(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "cuStreamEndCapture", a, &graph);
}

/// Whether an allocation in this mode breaks a capture; `other`: one of another thread.
void capture_mode_case(int capture, int mode, bool other, bool breaks) {
  Session s;
  void* stream = s.stream();
  ok("cuStreamBeginCapture_v2", stream, capture);
  int result = -1;
  const auto allocate = [&] {
    ok("cuCtxPushCurrent_v2", s.context);
    int before = mode;
    ok("cuThreadExchangeStreamCaptureMode", &before);
    that(before == CU_STREAM_CAPTURE_MODE_GLOBAL, "a thread begins in mode %d", before);
    CUdeviceptr p = 0;
    result = cu("cuMemAlloc_v2", &p, size_t(64));
    if (p) ok("cuMemFree_v2", p);
    ok("cuThreadExchangeStreamCaptureMode", &before);
    that(before == mode, "the mode was %d", before);
    void* popped = nullptr;
    ok("cuCtxPopCurrent_v2", &popped);
  };
  if (other) {
    std::thread(allocate).join();
  } else {
    allocate();
  }
  that((result != CUDA_SUCCESS) == breaks, "capture %d, thread's mode %d, other thread %d: %d", capture, mode, other, result);
  void* graph = nullptr;
  expect(breaks ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS, "cuStreamEndCapture", stream, &graph);
  if (graph) ok("cuGraphDestroy", graph);
}

void capture_modes() {
  constexpr int global = CU_STREAM_CAPTURE_MODE_GLOBAL, local = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, relaxed = CU_STREAM_CAPTURE_MODE_RELAXED;
  for (const int capture : {global, local}) {
    capture_mode_case(capture, global, false, true);
    capture_mode_case(capture, local, false, true);
    capture_mode_case(capture, relaxed, false, false);
    capture_mode_case(capture, global, true, true);
    capture_mode_case(capture, local, true, false);
    capture_mode_case(capture, relaxed, true, false);
  }
  Session s;
  void *blocking = nullptr, *whole = nullptr;
  ok("cuStreamCreate", &blocking, unsigned(CU_STREAM_DEFAULT));
  ok("cuStreamBeginCapture_v2", blocking, local);
  int status = -1;
  expect(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "cuStreamIsCapturing", static_cast<void*>(nullptr), &status);
  ok("cuStreamEndCapture", blocking, &whole);
  ok("cuGraphDestroy", whole);
  int mode = 3;
  expect(CUDA_ERROR_INVALID_VALUE, "cuThreadExchangeStreamCaptureMode", &mode);
  mode = relaxed;
  ok("cuThreadExchangeStreamCaptureMode", &mode);
  void *stream = s.stream(), *graph = nullptr;
  ok("cuStreamBeginCapture_v2", stream, local);
  CUdeviceptr p = 0;
  expect(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuMemAlloc_v2", &p, size_t(64));  // stricter than CUDA
  expect(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamEndCapture", stream, &graph);
  mode = global;
  ok("cuThreadExchangeStreamCaptureMode", &mode);
}

void sticky() {
  Session s;
  void *fault = s.function("driver_fault"), *stream = s.stream();
  CUdeviceptr y = s.floats(4);
  void* parameters[] = {&y};
  ok("cuLaunchKernel", fault, 1u, 1u, 1u, 32u, 1u, 1u, 0u, stream, static_cast<void**>(parameters), static_cast<void**>(nullptr));
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuStreamSynchronize", stream);
  const char* sentence = nullptr;
  ok("cuGetErrorString", int(CUDA_ERROR_ILLEGAL_ADDRESS), &sentence);
  that(strstr(sentence, "driver_fault"), "%s", sentence);
  CUdeviceptr p = 0;
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuMemAlloc_v2", &p, size_t(4));
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuCtxSynchronize");
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuDevicePrimaryCtxRelease_v2", 0);
  ok("cuDevicePrimaryCtxRetain", &s.context, 0);
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuCtxSynchronize");
  Session again;
  ok("cuCtxSynchronize");
}

void memory() {
  Session s(0, nullptr, "1000000");
  size_t free = 0, total = 0;
  CUdeviceptr a = 0, b = 0;
  ok("cuMemAlloc_v2", &a, size_t(600000));
  expect(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc_v2", &b, size_t(600000));
  ok("cuMemGetInfo_v2", &free, &total);
  that(free == 400000 && total == 1000000, "%zu of %zu", free, total);
  expect(CUDA_ERROR_INVALID_VALUE, "cuMemsetD8_v2", a + 599999, static_cast<unsigned char>(1), size_t(2));
  ok("cuMemFree_v2", a);
  expect(CUDA_ERROR_INVALID_VALUE, "cuMemFree_v2", a);
  ok("cuMemAlloc_v2", &b, size_t(600000));
  that(count("allocations") == 2 && count("frees") == 1 && count("bytes_live") == 600000, "counts");
  ok("cuDevicePrimaryCtxRelease_v2", 0);
  that(count("leaks") == 1 && count("bytes_live") == 0, "%d leaks", int(count("leaks")));
}

void manifest() {
  const std::string path = std::string(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp") + "/fewstep_manifest_" + std::to_string(getpid());
  std::ofstream(path) << "# test\n0 driver_affine 80 8 8 8 4 32 0\n0 driver_shared ptx75 8 4 0 0\n1 test_sum 80 8 8 4 20 128\n"
                         "0 driver_fault 90 8 10 0\n0 bug_read 80 8 8 8 10 0\n0 grid_copy 80a 8 8 10 0\n0 grid_scale 86a 8 8 8 10 0\n";
  {
    Session s(0, path.c_str());
    void* f = s.function("driver_affine");
    int registers = 0;
    ok("cuFuncGetAttribute", &registers, int(CU_FUNC_ATTRIBUTE_NUM_REGS), f);
    that(registers == 32, "%d registers", registers);
    s.function("driver_shared");
    expect(CUDA_ERROR_NOT_FOUND, "cuModuleGetFunction", &f, s.module, "test_last_block");         // not in the manifest
    expect(CUDA_ERROR_NOT_FOUND, "cuModuleGetFunction", &f, s.module, "test_sum");                // in another image
    expect(CUDA_ERROR_NO_BINARY_FOR_GPU, "cuModuleGetFunction", &f, s.module, "driver_fault");    // for another architecture
    s.function("grid_copy");
    expect(CUDA_ERROR_NO_BINARY_FOR_GPU, "cuModuleGetFunction", &f, s.module, "grid_scale");      // for another one alone
    expect(CUDA_ERROR_INVALID_IMAGE, "cuModuleGetFunction", &f, s.module, "bug_read");            // other parameters
    void* second = nullptr;
    expect(CUDA_ERROR_INVALID_IMAGE, "cuModuleLoadData", &second, static_cast<const void*>("no such thing"));
    ok("cuModuleLoadData", &second, static_cast<const void*>(image));
    ok("cuModuleGetFunction", &f, second, "test_sum");
  }
  std::ofstream(path) << "0 driver_affine eighty 8 8 8 4 32 0\n";
  setenv("FEWSTEP_EMU_MANIFEST", path.c_str(), 1);
  reinterpret_cast<void (*)()>(dlsym(library(), "fewstep_emu_reset"))();
  expect(CUDA_ERROR_INVALID_VALUE, "cuInit", 0u);
  remove(path.c_str());
}

void resources() {
  Session s;
  void *f = s.function("driver_affine"), *g = s.function("driver_shared");
  const CUdeviceptr x = s.floats(16000);
  that(affine(f, nullptr, x, x, {1, 1}, 100, 256) == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "over the bound");
  CUdeviceptr out = x;
  unsigned words = 15000;
  void* parameters[] = {&out, &words};
  const auto launch = [&] {
    return cu("cuLaunchKernel", g, 1u, 1u, 1u, 32u, 1u, 1u, words * 4, static_cast<void*>(nullptr), static_cast<void**>(parameters),
              static_cast<void**>(nullptr));
  };
  that(launch() == CUDA_ERROR_INVALID_VALUE, "60000 bytes without asking");
  expect(CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute", g, int(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), 1 << 20);
  ok("cuFuncSetAttribute", g, int(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), 60000);
  that(launch() == CUDA_SUCCESS, "60000 bytes after asking");
  uint32_t last = 1;
  ok("cuMemcpyDtoH_v2", static_cast<void*>(&last), x + 14999 * 4, size_t(4));
  that(last == 0, "last word %u", last);
}

/// cuLaunchKernelEx: dynamic shared memory, and launches that may overlap, captured and replayed.
void extended_launches(const char* architecture, uint64_t overlapping) {
  setenv("FEWSTEP_EMU_ARCHITECTURE", architecture, 1);
  Session s;
  void *scale = s.function("grid_copy"), *shared = s.function("driver_shared"), *stream = s.stream();
  for (void* f : {scale, shared}) ok("cuFuncLoad", f);
  CUdeviceptr x = s.floats(64), y = s.floats(64), z = s.floats(64);
  const float one = 1;
  ok("cuMemcpyHtoD_v2", x, static_cast<const void*>(&one), size_t(4));
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attribute.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config{1, 1, 1, 64, 1, 1, 0, stream, &attribute, 0};
  const auto launch = [&](void* f, std::vector<void*> parameters) {
    return cu("cuLaunchKernelEx", static_cast<const CUlaunchConfig*>(&config), f, parameters.data(), static_cast<void**>(nullptr));
  };
  void *graph = nullptr, *exec = nullptr;
  ok("cuStreamBeginCapture_v2", stream, int(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  that(launch(scale, {&x, &y}) == CUDA_SUCCESS, "a plain launch");
  config.numAttrs = 1;
  that(launch(scale, {&y, &z}) == CUDA_SUCCESS, "an overlapping launch");
  ok("cuStreamEndCapture", stream, &graph);
  ok("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
  ok("cuGraphLaunch", exec, stream);
  ok("cuStreamSynchronize", stream);
  that(first(z) == 1, "%g, not 1", double(first(z)));
  that(count("overlapping_launches") == overlapping, "%d overlapping launches", int(count("overlapping_launches")));

  unsigned words = 64;
  config = {1, 1, 1, 32, 1, 1, 256, stream, nullptr, 0};
  that(launch(shared, {&y, &words}) == CUDA_SUCCESS, "dynamic shared memory");
  ok("cuStreamSynchronize", stream);
  attribute.id = 4;  // clusters
  config.attrs = &attribute, config.numAttrs = 1;
  that(launch(shared, {&y, &words}) == CUDA_ERROR_NOT_SUPPORTED, "an attribute that the emulator does not know");
  unsetenv("FEWSTEP_EMU_ARCHITECTURE");
}

void misuse() {
  Session s;
  void *f = s.function("driver_affine"), *stream = s.stream();
  that(affine(f, f, 0, 0, {1, 1}, 1) == CUDA_ERROR_INVALID_HANDLE, "a function is no stream");
  expect(CUDA_ERROR_INVALID_HANDLE, "cuEventRecord", stream, stream);
  std::thread([&] { expect(CUDA_ERROR_INVALID_CONTEXT, "cuStreamSynchronize", stream); }).join();
  struct Seen {
    int result = 0;
  } seen;
  const auto host_function = [](void* user) { static_cast<Seen*>(user)->result = cu("cuCtxSynchronize"); };
  ok("cuLaunchHostFunc", stream, static_cast<void (*)(void*)>(host_function), static_cast<void*>(&seen));
  ok("cuStreamSynchronize", stream);
  that(seen.result == CUDA_ERROR_NOT_PERMITTED, "a host function may not call the driver, got %d", seen.result);
}

// Memory that one stream frees in order while another still uses it.
void freed_too_early() {
  Session s;
  void *f = s.function("driver_affine"), *a = s.stream(), *b = s.stream();
  CUdeviceptr x = 0;
  ok("cuMemAllocAsync", &x, size_t(16), a);
  affine_ok(f, b, x, x, {1, 1}, 4);
  ok("cuMemFreeAsync", x, a);
  ok("cuStreamSynchronize", a);
  expect(CUDA_ERROR_ILLEGAL_ADDRESS, "cuStreamSynchronize", b);
}

}  // namespace

int main() {
  return check::run("driver", {
    {"work waits for a wait; pinned memory is read late, pageable at once", deferral},
    {"an event orders two streams, 12 seeds", [] { ordering(true); }},
    {"a missing event shows with some seed", [] { ordering(false); }},
    {"the null stream takes turns with blocking streams", null_stream},
    {"event queries and times", events},
    {"capture over two streams, replay three times, seeds 0 to 3", [] { for (uint64_t seed = 0; seed < 4; seed++) capture(seed); }},
    {"what a capture refuses, and ends by", refusals},
    {"what a capture lets other threads and modes do", capture_modes},
    {"a fault loses the context until reset", sticky},
    {"memory limit, bounds, double free, leaks", memory},
    {"manifest: kernels, images, architectures, parameters", manifest},
    {"launch bound and shared memory limits", resources},
    {"cuLaunchKernelEx: launches overlap on sm_90, not on sm_80; shared memory", [] { extended_launches("90", 1), extended_launches("80", 0); }},
    {"wrong handles, no context, calls from a host function", misuse},
    {"stream-ordered free under another stream's work", freed_too_early},
  });
}
