// The GPU as micro.cpp uses it: the driver, opened at run time, so that the program needs nothing of NVIDIA's to be built; kernels, launches, timed graphs.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "driver_call.hpp"

namespace micro {

using driver::call, driver::library, driver::need;

using Address = unsigned long long;

// Of NVIDIA's cuda.h; cuda/emulator/libcuda/cuda.hpp has some of it, too.
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76, kMultiprocessors = 16;
constexpr int kNoBinary = 209;  // CUDA_ERROR_NO_BINARY_FOR_GPU: a file has nothing for this GPU
constexpr int kAttributeCooperative = 2, kAttributeCluster = 4, kAttributeOverlap = 6;
constexpr int kNonPortableClusters = 14;  // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
constexpr int kCaptureThreadLocal = 1;
constexpr unsigned kNonBlocking = 1;
constexpr unsigned char kProgrammaticEdge = 1;
struct Attribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int flag;
    unsigned cluster[3];
  } value;
};
struct Config {
  unsigned grid[3], block[3], shared;
  void* stream;
  Attribute* attributes;
  unsigned count;
};
struct EdgeData {
  unsigned char from_port, to_port, type, reserved[5];
};

inline Attribute flag(int id) {
  Attribute attribute{};
  attribute.id = id;
  attribute.value.flag = 1;
  return attribute;
}
inline Attribute cluster_of(unsigned blocks) {
  Attribute attribute{};
  attribute.id = kAttributeCluster;
  attribute.value.cluster[0] = blocks;
  attribute.value.cluster[1] = attribute.value.cluster[2] = 1;
  return attribute;
}

/// What a graph of launches took.
struct Timing {
  double median, least;  // us
  int edges = -1, programmatic = -1;  // -1: the driver does not say
};

/// The first GPU and its primary context, a stream, and the kernels of some fat binaries.
class Device {
 public:
  explicit Device(const std::vector<std::string>& kernel_files) {
    void* context = nullptr;
    char text[256] = "";
    int major = 0, minor = 0;
    need("cuInit", 0u);
    need("cuDeviceGet", &device_, 0);
    need("cuDeviceGetName", text, int(sizeof text), device_);
    need("cuDeviceGetAttribute", &major, kComputeCapabilityMajor, device_);
    need("cuDeviceGetAttribute", &minor, kComputeCapabilityMinor, device_);
    need("cuDeviceGetAttribute", &multiprocessors, kMultiprocessors, device_);
    name = text;
    capability = 10 * major + minor;
    need("cuDevicePrimaryCtxRetain", &context, device_);
    need("cuCtxPushCurrent_v2", context);
    need("cuStreamCreate", &stream, kNonBlocking);
    for (const std::string& path : kernel_files) {
      std::ifstream file(path, std::ios::binary);
      const std::string image{std::istreambuf_iterator<char>(file), {}};
      void* module = nullptr;
      if (image.empty()) fprintf(stderr, "%s: cannot be read\n", path.c_str()), exit(1);
      const int code = call("cuModuleLoadData", &module, static_cast<const void*>(image.data()));
      if (code == 0) {
        modules_.push_back(module);
      } else if (code != kNoBinary) {
        fprintf(stderr, "%s: CUDA error %d\n", path.c_str(), code), exit(1);
      }
    }
  }

  /// Null where there is no such kernel for this GPU.
  void* kernel(const std::string& of_name) const {
    for (void* module : modules_) {
      void* function = nullptr;
      if (call("cuModuleGetFunction", &function, module, of_name.c_str()) == 0 && call("cuFuncLoad", function) == 0) return function;
    }
    return nullptr;
  }

  void leave_out(const char* what) const { printf("%s: left out, %s cannot run it\n", what, name.c_str()); }

  /// A launch on the stream; the error.
  template <class... P>
  int try_launch(void* function, unsigned blocks, unsigned threads, std::vector<Attribute> attributes, P... arguments) const {
    void* pointers[] = {&arguments...};
    const Config config{{blocks, 1, 1}, {threads, 1, 1}, 0, stream, attributes.data(), unsigned(attributes.size())};
    return call("cuLaunchKernelEx", &config, function, static_cast<void**>(pointers), static_cast<void**>(nullptr));
  }
  template <class... P>
  void launch(void* function, unsigned blocks, unsigned threads, std::vector<Attribute> attributes, P... arguments) const {
    if (const int code = try_launch(function, blocks, threads, attributes, arguments...)) fprintf(stderr, "a launch: CUDA error %d\n", code), exit(1);
  }

  void wait() const { need("cuStreamSynchronize", stream); }

  /// Runs `work` on the stream between two events; us.
  double time(const std::function<void()>& work) const {
    float ms = 0;
    void *begin = nullptr, *end = nullptr;
    need("cuEventCreate", &begin, 0u), need("cuEventCreate", &end, 0u);
    need("cuEventRecord", begin, stream);
    work();
    need("cuEventRecord", end, stream);
    wait();
    // Its name in CUDA 13; the older one is gone from some drivers' lists.
    if (call("cuEventElapsedTime_v2", &ms, begin, end) != 0) need("cuEventElapsedTime", &ms, begin, end);
    need("cuEventDestroy_v2", begin), need("cuEventDestroy_v2", end);
    return double(ms) * 1000;
  }

  /// Captures `enqueue` as a graph and runs it `runs` times, each alone: back to back, one run would begin before the one before has ended.
  Timing time_graph(const std::function<void()>& enqueue, int runs) const {
    Timing timing{};
    void* const exec = capture(enqueue, timing);
    std::vector<double> us;
    for (int i = 0; i < runs + runs / 10 + 1; i++) {
      const double one = time([&] { need("cuGraphLaunch", exec, stream); });
      if (i > runs / 10) us.push_back(one);
    }
    std::sort(us.begin(), us.end());
    timing.median = us[us.size() / 2], timing.least = us[0];
    need("cuGraphExecDestroy", exec);
    return timing;
  }

  /// Captures `enqueue` as a graph and runs it once.
  void run_graph(const std::function<void()>& enqueue) const {
    Timing timing{};
    void* const exec = capture(enqueue, timing);
    need("cuGraphLaunch", exec, stream);
    wait();
    need("cuGraphExecDestroy", exec);
  }

  std::string name;
  int capability = 0, multiprocessors = 0;
  void* stream = nullptr;

 private:
  void* capture(const std::function<void()>& enqueue, Timing& timing) const {
    void *graph = nullptr, *exec = nullptr;
    need("cuStreamBeginCapture_v2", stream, kCaptureThreadLocal);
    enqueue();
    need("cuStreamEndCapture", stream, &graph);
    count_edges(graph, timing);
    need("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
    need("cuGraphUpload", exec, stream);
    need("cuGraphDestroy", graph);
    return exec;
  }

  // How many edges are programmatic: a launch attribute that silently gives plain ones would look like a slow GPU.
  static void count_edges(void* graph, Timing& timing) {
    size_t count = 0;
    void** const nothing = nullptr;
    EdgeData* const no_data = nullptr;
    const char* name = dlsym(library(), "cuGraphGetEdges_v2") ? "cuGraphGetEdges_v2" : "cuGraphGetEdges";
    if (call(name, graph, nothing, nothing, no_data, &count) != 0) return;
    std::vector<void*> from(count), to(count);
    std::vector<EdgeData> data(count);
    if (call(name, graph, from.data(), to.data(), data.data(), &count) != 0) return;
    timing.edges = int(count);
    timing.programmatic = int(std::count_if(data.begin(), data.end(), [](const EdgeData& edge) { return edge.type == kProgrammaticEdge; }));
  }

  int device_ = 0;
  std::vector<void*> modules_;
};

/// Device memory of n elements, filled with zeros.
template <class T>
class Array {
 public:
  explicit Array(size_t n) : size_(n) {
    need("cuMemAlloc_v2", &address_, n * sizeof(T));
    fill(0);
  }
  Array(const Array&) = delete;
  ~Array() { call("cuMemFree_v2", address_); }
  void fill(unsigned char byte) {
    need("cuMemsetD8_v2", address_, byte, size_ * sizeof(T));
    need("cuCtxSynchronize");
  }
  void write(const std::vector<T>& values) { need("cuMemcpyHtoD_v2", address_, static_cast<const void*>(values.data()), values.size() * sizeof(T)); }
  std::vector<T> read(size_t first, size_t count) const {
    std::vector<T> values(count);
    need("cuMemcpyDtoH_v2", static_cast<void*>(values.data()), address_ + first * sizeof(T), count * sizeof(T));
    return values;
  }
  /// The address of an element.
  Address at(size_t i = 0) const { return address_ + i * sizeof(T); }

 private:
  Address address_ = 0;
  size_t size_;
};

}  // namespace micro
