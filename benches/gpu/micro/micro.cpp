// What decides how kernels are built, measured on their own: seconds of device time, each number with a check that the work was done.
//   usage: micro KERNELS.fatbin... [--out ROWS.json] [--quick]
// Prints a line a number and writes them as JSON. --quick: a run or two of each, to see that the program is right, on the emulator say. Exits with 1 if a
// result is wrong. What a GPU cannot run is left out, and said. The probes and what they decide: benches/gpu/README.md.
#include <stdarg.h>
#include <string.h>

#include "device.hpp"
#include "stage.h"

using namespace micro;

namespace {

struct Unit {
  uint32_t x, y, z, w;
  bool operator==(const Unit& other) const { return x == other.x && y == other.y && z == other.z && w == other.w; }
};

constexpr unsigned kBlocks = 128;
constexpr size_t kStageUnits = size_t(kBlocks) * kUnits;

class Report {
 public:
  /// A number, whether the work behind it was right, and what else is to be known, as printf.
  __attribute__((format(printf, 6, 7))) void row(const std::string& what, double value, const char* unit, bool right, const char* format, ...) {
    char note[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
    printf("%-52s %10.3f %-10s %s  %s\n", what.c_str(), value, unit, right ? "right" : "WRONG", note);
    fflush(stdout);
    char text[512];
    snprintf(text, sizeof text, "%s  {\"what\": \"%s\", \"value\": %.4f, \"unit\": \"%s\", \"right\": %s, \"note\": \"%s\"}", rows_.empty() ? "" : ",\n",
             what.c_str(), value, unit, right ? "true" : "false", note);
    rows_ += text;
    wrong_ |= !right;
  }
  void write(const char* path) const {
    FILE* file = fopen(path, "w");
    if (!file || fprintf(file, "[\n%s\n]\n", rows_.c_str()) < 0 || fclose(file) != 0) perror(path), exit(1);
  }
  bool wrong() const { return wrong_; }

 private:
  std::string rows_;
  bool wrong_ = false;
};

struct Probe {
  Device& device;
  Report& report;
  bool quick;
  int runs(int many) const { return quick ? 2 : many; }
  /// Of a chain.
  int stages() const { return quick ? 5 : 64; }
};

std::vector<Unit> first_stage() {
  std::vector<Unit> units(kStageUnits);
  for (uint32_t i = 0; i < kStageUnits; i++) units[i] = {i * 2654435761u & kMask, i * 40503u & kMask, (i ^ 0x5a5a) & kMask, i};
  return units;
}

// What the stages after the first hold in the end, by stage.h's formula; weights are zero.
std::vector<Unit> last_stage(int stages) {
  std::vector<Unit> in = first_stage(), out(kStageUnits);
  for (int k = 0; k < stages; k++) {
    for (size_t i = 0; i < kStageUnits; i++) {
      const Unit &a = in[(i + kStageUnits - kUnits) % kStageUnits], &b = in[i], &c = in[(i + kUnits) % kStageUnits];
      out[i] = {(a.x + b.x + c.x) & kMask, a.y ^ b.y, (a.z + c.z) & kMask, b.w};
    }
    std::swap(in, out);
  }
  return in;
}

// 1. A chain of launches, plain and overlapping. Decides whether FEWSTEP_CUDA_OVERLAP is on, and where kernels let the next one begin.
void chain(const Probe& probe) {
  const Device& d = probe.device;
  const int stages = probe.stages();
  const std::vector<Unit> want = last_stage(stages);
  Array<Unit> buffers(size_t(stages + 1) * kStageUnits), weights(size_t(kBlocks) * kMostChunks * kThreads);
  const std::vector<Attribute> overlapping = {flag(kAttributeOverlap)};
  const auto measure = [&](const std::string& what, const char* kernel, bool overlaps, int chunks) {
    void* const function = d.kernel(kernel);
    if (!function || (overlaps && d.capability < 90)) return d.leave_out(("chain: " + what).c_str());
    buffers.fill(0xff);
    buffers.write(first_stage());
    const auto attributes = overlaps ? overlapping : std::vector<Attribute>{};
    const auto enqueue = [&] {
      for (int k = 0; k < stages; k++) {
        const Address in = buffers.at(size_t(k) * kStageUnits), out = buffers.at(size_t(k + 1) * kStageUnits);
        if (chunks >= 0) {
          d.launch(function, kBlocks, kThreads, attributes, in, out, weights.at(), chunks);
        } else {
          d.launch(function, kBlocks, kThreads, attributes, in, out);
        }
      }
    };
    const Timing t = d.time_graph(enqueue, probe.runs(200));
    // Once more from a clean start: what a stage reads too early is not there yet, where a run before would have left it.
    buffers.fill(0xff);
    buffers.write(first_stage());
    d.run_graph(enqueue);
    const bool right = buffers.read(size_t(stages) * kStageUnits, kStageUnits) == want && (!overlaps || t.programmatic < 0 || t.programmatic >= stages - 1);
    probe.report.row("chain: " + what, t.median / stages, "us/stage", right, "least %.3f, %d edges, %d programmatic", t.least / stages, t.edges,
                     t.programmatic);
  };
  measure("plain", "micro_stage_wait_first", false, -1);
  measure("overlapping, wait then launch", "micro_stage_wait_first", true, -1);
  measure("overlapping, launch then wait", "micro_stage_launch_first", true, -1);
  measure("plain, 32 KiB of weights a block", "micro_stage_weights_first", false, kMostChunks);
  measure("overlapping, 32 KiB of weights before the wait", "micro_stage_weights_first", true, kMostChunks);
}

// 2. The same stages in one launch whose blocks wait for one another. Decides whether a persistent kernel is worth building.
void persistent(const Probe& probe) {
  const Device& d = probe.device;
  const int stages = probe.stages();
  const std::vector<Unit> want = last_stage(stages);
  Array<Unit> buffers(size_t(stages + 1) * kStageUnits), weights(size_t(kBlocks) * kMostChunks * kThreads);
  Array<uint32_t> counters(size_t(stages) + 1);
  Array<uint64_t> sums(size_t(stages + 1) * kGroups);
  for (const bool data : {false, true}) {
    void* const function = d.kernel(data ? "micro_persistent_data" : "micro_persistent_counter");
    for (const int chunks : {0, kMostChunks}) {
      if (!function || d.multiprocessors * 2 < int(kBlocks)) {
        d.leave_out("persistent");
        continue;
      }
      std::vector<double> us;
      for (int i = 0; i < probe.runs(50); i++) {
        buffers.fill(0xff), buffers.write(first_stage()), counters.fill(0), sums.fill(0);
        us.push_back(d.time([&] {
          d.launch(function, kBlocks, kThreads, {flag(kAttributeCooperative)}, buffers.at(), counters.at(), sums.at(), weights.at(), chunks, stages);
        }));
      }
      std::sort(us.begin(), us.end());
      const bool right = buffers.read(size_t(stages) * kStageUnits, kStageUnits) == want;
      const std::string what = data ? "persistent: data is the flag" : "persistent: release and acquire";
      probe.report.row(what + (chunks ? ", 32 KiB of weights" : ""), us[us.size() / 2] / stages, "us/stage", right, "least %.3f", us[0] / stages);
    }
  }
}

// 3. Clusters. Decides whether blocks that share a sum should be one.
void clusters(const Probe& probe) {
  const Device& d = probe.device;
  constexpr unsigned blocks = 64;
  const int rounds = probe.quick ? 4 : 1000;
  Array<long long> cycles(blocks);
  Array<float> out(blocks * kThreads);
  void *const barrier = d.kernel("micro_cluster_barrier"), *const pushes = d.kernel("micro_cluster_pushes");
  if (!barrier || !pushes) return d.leave_out("clusters");
  for (const unsigned size : {2u, 4u, 8u, 16u}) {
    if (size > 8) need("cuFuncSetAttribute", barrier, kNonPortableClusters, 1);
    for (const int relaxed : {0, 1}) {
      if (d.try_launch(barrier, blocks, kThreads, {cluster_of(size)}, rounds, relaxed, cycles.at()) != 0) continue;
      d.wait();
      const std::string what = "cluster of " + std::to_string(size) + (relaxed ? ": relaxed barrier" : ": barrier");
      probe.report.row(what, double(cycles.read(0, 1)[0]), "cycles", true, "%s", "");
    }
  }
  d.launch(pushes, blocks, kThreads, {cluster_of(8)}, rounds, cycles.at(), out.at());
  d.wait();
  const std::vector<float> got = out.read(0, blocks * kThreads);
  bool right = true;
  for (size_t i = 0; i < got.size(); i++) right &= got[i] == float(i % 32);
  probe.report.row("cluster of 8: a sum of 4 KiB by pushes", double(cycles.read(0, 1)[0]), "cycles", right, "%s", "");
}

// 4. What the second-level cache gives. Decides how many products a byte from it must feed.
void l2(const Probe& probe) {
  const Device& d = probe.device;
  const unsigned blocks = unsigned(d.multiprocessors) * 2;
  const int units = probe.quick ? 2048 : 8192, rounds = probe.quick ? 2 : 40;  // 128 KiB a block
  Array<Unit> x(size_t(blocks) * units);
  Array<uint32_t> out(size_t(blocks) * kThreads);
  std::vector<Unit> values(size_t(blocks) * units);
  for (uint32_t i = 0; i < values.size(); i++) values[i] = {i * 2654435761u, i, ~i, 1};
  x.write(values);
  void* const function = d.kernel("micro_l2_read");
  if (!function) return d.leave_out("L2");
  for (const bool same : {false, true}) {
    const int block_units = same ? 0 : units;
    std::vector<double> us;
    for (int i = 0; i < probe.runs(10); i++) {
      us.push_back(d.time([&] { d.launch(function, blocks, kThreads, {}, x.at(), block_units, units, rounds, out.at()); }));
    }
    std::sort(us.begin(), us.end());
    const std::vector<uint32_t> got = out.read(0, size_t(blocks) * kThreads);
    bool right = true;
    for (size_t i = 0; i < got.size(); i++) right &= got[i] == values[i / kThreads * size_t(block_units) + size_t(units) - 2 * kThreads + i % kThreads].x;
    const double rate = double(blocks) * units * 16 * rounds / us[us.size() / 2];  // MB/s
    const char* what = same ? "L2 to shared memory: all blocks the same 128 KiB" : "L2 to shared memory: each block its own 128 KiB";
    probe.report.row(what, rate / 1e6, "TB/s", right, "%.1f GB/s a multiprocessor", rate / 1e3 / d.multiprocessors);
  }
}

// 5. Kernels whose code is not in a multiprocessor's cache. Decides between many instances of a kernel and one that a table drives.
void cold_code(const Probe& probe) {
  const Device& d = probe.device;
  const int launches = probe.quick ? 9 : 64;
  const unsigned blocks = probe.quick ? 2 : kBlocks;
  Array<float> x(size_t(kBlocks) * kThreads);
  for (const int code : {256, 1024, 3072}) {
    std::vector<void*> kernels;
    for (int i = 0; i < 8; i++) kernels.push_back(d.kernel("micro_code_" + std::to_string(code) + "_" + std::to_string(i)));
    if (std::find(kernels.begin(), kernels.end(), nullptr) != kernels.end()) return d.leave_out("code");
    for (const bool turns : {false, true}) {
      x.fill(0);
      const Timing t = d.time_graph([&] {
        for (int i = 0; i < launches; i++) d.launch(kernels[turns ? size_t(i) % kernels.size() : 0], blocks, kThreads, {}, x.at(), 0.0f);
      }, probe.runs(100));
      // Kernel 0 multiplies by 0: what the last addition leaves. Others grow beyond all bounds.
      const bool right = turns || x.read(7, 1)[0] == float(code - 1);
      probe.report.row("code of " + std::to_string(code) + (turns ? " instructions: eight kernels in turn" : " instructions: one kernel"), t.median / launches,
                       "us/launch", right, "least %.3f", t.least / launches);
    }
  }
}

// 6. Whether a matrix descriptor may begin at any row of a swizzled tile. Decides the form of the wgmma convolution for 64 channels. Not a time: 1 is yes.
void descriptors(const Probe& probe) {
  const Device& d = probe.device;
  void* const function = d.kernel("micro_shifted");
  if (!function) return d.leave_out("descriptors");
  Array<float> out(64 * 64);
  for (const int as_a : {1, 0}) {
    for (const bool offset : {false, true}) {
      int readable = 0;
      for (int rows = 0; rows < 9; rows++) {
        d.launch(function, 1, 128, {}, rows, offset ? rows & 7 : 0, as_a, out.at());
        d.wait();
        const std::vector<float> got = out.read(0, 64 * 64);
        bool right = true;
        for (int m = 0; m < 64; m++) {
          for (int n = 0; n < 64; n++) right &= got[size_t(m * 64 + n)] == float(as_a ? (m + rows) * 16 + n % 16 : (n + rows) * 16 + m % 16);
        }
        readable += right;
      }
      const std::string what = std::string("shifted descriptor, operand ") + (as_a ? "A" : "B") + (offset ? ", base offset row & 7" : ", base offset 0");
      probe.report.row(what, readable, "of 9", true, "%s", readable == 9 ? "usable" : "not usable");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> files;
  const char* out = nullptr;
  bool quick = false;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--out") && i + 1 < argc) {
      out = argv[++i];
    } else if (!strcmp(argv[i], "--quick")) {
      quick = true;
    } else {
      files.push_back(argv[i]);
    }
  }
  if (files.empty()) fprintf(stderr, "usage: %s KERNELS.fatbin... [--out ROWS.json] [--quick]\n", argv[0]), exit(2);
  Device device(files);
  Report report;
  printf("%s, compute capability %d.%d, %d multiprocessors\n", device.name.c_str(), device.capability / 10, device.capability % 10, device.multiprocessors);
  const Probe probe{device, report, quick};
  for (const auto& measure : {chain, persistent, clusters, l2, cold_code, descriptors}) measure(probe);
  if (out) report.write(out);
  printf("%s\n", report.wrong() ? "some results are WRONG" : "all results are right");
  return report.wrong();
}
