// The driver's objects and what every call has in common: the lock, the current context, lost contexts, capture.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cuda.hpp"
#include "emulator.h"
#include "log.hpp"
#include "manifest.hpp"
#include "queue.hpp"

namespace fs::driver {

struct Capture;

struct Stream {
  Context* context;
  bool blocking;  // takes turns with the null stream
  Ticket tail;    // the last work given to it
  Capture* capture = nullptr;
  std::vector<size_t> capture_tails;  // nodes that its next captured work follows
};

struct Event {
  Context* context;
  bool timed;
  Ticket record;  // null: never recorded
  Capture* capture = nullptr;
  std::vector<size_t> capture_nodes;
};

/// Work as a graph keeps it, to be done any number of times.
struct Node {
  std::function<CUresult()> run;
  std::vector<size_t> after;
};
struct Graph {
  std::vector<Node> nodes;
};
struct GraphExec {
  Context* context;
  Graph graph;
  Ticket last;  // its previous launch
};

/// A capture in progress: a graph that grows, and the streams that feed it.
struct Capture {
  Stream* origin;
  CUstreamCaptureMode mode;
  std::thread::id thread;
  bool by_relaxed;  // its thread had left the mode that prohibits unsafe calls
  bool invalid = false;
  Graph graph;
};

struct Module;
struct Function {
  Module* module;
  const fewstep_emu_kernel* kernel;
  const ManifestEntry* entry;  // null without a manifest
  uint32_t dynamic_limit = 0;  // as set by the host; 0: not set
  bool loaded = false;
  uint32_t static_shared() const { return entry ? entry->static_shared : 0; }
};
struct Module {
  Context* context;
  int number = -1;  // in the manifest; known once a function was found
  std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Context {
  CUdevice device;
  bool primary;
  int users = 0;
  CUresult lost = CUDA_SUCCESS;  // what every further call returns
  Stream null_stream;
};

struct Allocation {
  Context* context;
  size_t bytes;
};

/// Handles of one kind: only what was created and not destroyed is accepted.
template <class T>
class Table {
 public:
  T* add(std::unique_ptr<T> object) {
    T* handle = object.get();
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  T* find(const void* handle) const {
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second.get();
  }
  void remove(const T* handle) { objects_.erase(handle); }
  template <class Predicate>
  void remove_if(Predicate predicate) {
    std::erase_if(objects_, [&](const auto& entry) { return predicate(*entry.second); });
  }
  auto begin() const { return objects_.begin(); }
  auto end() const { return objects_.end(); }

 private:
  std::map<const void*, std::unique_ptr<T>> objects_;
};

/// The calling thread's, cuThreadExchangeStreamCaptureMode.
CUstreamCaptureMode& capture_mode();

/// What a call needs before its own checks.
enum class Needs { nothing, initialised, context };

struct Driver {
  static Driver& instance();
  /// Runs the body of a driver call: takes the lock, checks what it needs, counts, remembers the error.
  static CUresult call(const char* name, Needs needs, const std::function<CUresult(Driver&)>& body);

  CUresult initialise();
  void reset();
  /// Ends a context's usefulness, as a fault in a kernel does, and says why: what was explained last about this error.
  void lose(Context& context, CUresult result);
  /// Remembers a sentence that cuGetErrorString gives for this error; returns the error.
  CUresult explain(CUresult error, const std::string& sentence);
  const char* sentence_for(CUresult error);

  /// The calling thread's current context. Only within a call that needs one.
  Context& context();
  void end_context(Context& context);
  /// Does all that the context's streams hold.
  void drain(Context& context);

  /// Null for a handle that is not a stream of the current context. A null handle is the null stream.
  Stream* stream(void* handle);
  /// Gives the stream work: into the queue, or into the graph that it captures. `ticket` (optional) receives the queued work.
  CUresult enqueue(Stream& stream, std::function<CUresult()> run, Ticket* ticket = nullptr);
  std::vector<Ticket> predecessors(Stream& stream);

  /// For calls that CUDA prohibits during a capture: fails and invalidates it. CUDA_SUCCESS if none is affected. A thread in relaxed mode may make them;
  /// stricter than CUDA, not during a capture that it began in that mode.
  CUresult refuse_in_capture();
  /// The same whatever the capture's mode: for what cannot be captured safely at all.
  CUresult refuse_in_any_capture();
  CUresult invalidate(Capture& capture, CUresult result);
  /// The capture of a stream that takes turns with the null stream of this context, which would have to wait for it; or null.
  Capture* capture_beside_null(const Context& context);
  /// Lets go of the streams and events that know the capture, and removes it.
  void end_capture(Capture& capture);

  /// The sticky error if the context was lost meanwhile.
  CUresult outcome() { return context().lost; }

  std::recursive_mutex mutex;
  bool initialised = false;
  int device_count = 1, architecture = 80;
  size_t memory_bytes = 0;
  Manifest manifest;
  Counters counters;
  Queue queue;
  Table<Context> contexts;
  Table<Stream> streams;
  Table<Event> events;
  Table<Module> modules;
  Table<Graph> graphs;
  Table<GraphExec> graph_execs;
  Table<Capture> captures;
  std::map<CUdeviceptr, Allocation> allocations;
  std::map<const char*, size_t> pinned;
  std::map<int, Context*> primaries;

 private:
  std::map<CUresult, std::string> sentences_;
  std::set<std::string> interned_;  // what callers of cuGetErrorString may still hold
};

/// Driver::call with a stream of the current context.
CUresult on_stream(const char* name, void* handle, const std::function<CUresult(Driver&, Stream&)>& body);

/// The calling thread's contexts, innermost last.
std::vector<Context*>& context_stack();
/// Is the calling thread within a host function of a stream? It may not call the driver then.
bool& in_host_function();

}  // namespace fs::driver
