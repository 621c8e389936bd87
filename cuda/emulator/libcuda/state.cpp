#include "state.hpp"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>

#include "driver.h"

namespace fs::driver {

std::vector<Context*>& context_stack() {
  thread_local std::vector<Context*> stack;
  return stack;
}

bool& in_host_function() {
  thread_local bool within = false;
  return within;
}

Driver& Driver::instance() {
  static Driver& driver = *new Driver;  // the host's own static destructors may still call
  return driver;
}

CUresult Driver::call(const char* name, Needs needs, const std::function<CUresult(Driver&)>& body) {
  if (in_host_function()) return CUDA_ERROR_NOT_PERMITTED;
  Driver& driver = instance();
  std::lock_guard lock(driver.mutex);
  driver.counters.calls++;
  CUresult result = CUDA_SUCCESS;
  try {
    if (needs != Needs::nothing && !driver.initialised) {
      result = CUDA_ERROR_NOT_INITIALIZED;
    } else if (needs == Needs::context && (context_stack().empty() || !driver.contexts.find(context_stack().back()))) {
      result = driver.explain(CUDA_ERROR_INVALID_CONTEXT, std::string(name) + ": this thread has no current context");
    } else if (needs == Needs::context && driver.context().lost) {
      result = driver.context().lost;
    } else {
      result = body(driver);
    }
  } catch (const std::bad_alloc&) {
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result && result != CUDA_ERROR_NOT_READY) driver.counters.errors++;
  write_log(std::string(name) + (result ? " -> " + std::to_string(int(result)) : std::string()));
  return result;
}

CUresult on_stream(const char* name, void* handle, const std::function<CUresult(Driver&, Stream&)>& body) {
  return Driver::call(name, Needs::context, [&](Driver& d) {
    Stream* stream = d.stream(handle);
    return stream ? body(d, *stream) : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult Driver::explain(CUresult error, const std::string& sentence) {
  sentences_[error] = sentence;
  return error;
}

const char* Driver::sentence_for(CUresult error) {
  const auto found = sentences_.find(error);
  return found == sentences_.end() ? nullptr : interned_.insert(found->second).first->c_str();
}

void Driver::lose(Context& context, CUresult result) {
  context.lost = result;
  const char* sentence = sentence_for(result);
  fprintf(stderr, "fewstep emulator: %s\n", sentence ? sentence : "a context is lost");
}

Context& Driver::context() { return *context_stack().back(); }

void Driver::drain(Context& context) {
  queue.run_until(context.null_stream.tail);
  for (const auto& [handle, stream] : streams) {
    if (stream->context == &context) queue.run_until(stream->tail);
  }
}

void Driver::end_context(Context& ended) {
  drain(ended);
  const auto belongs = [&](const auto& object) { return object.context == &ended; };
  captures.remove_if([&](const Capture& c) { return c.origin->context == &ended; });  // their streams and events go as well
  graph_execs.remove_if(belongs);
  events.remove_if(belongs);
  streams.remove_if(belongs);
  modules.remove_if(belongs);
  std::erase_if(allocations, [&](const auto& entry) {
    if (entry.second.context != &ended) return false;
    counters.leaks++;
    counters.bytes_live -= entry.second.bytes;
    fewstep_emu_free(reinterpret_cast<void*>(uintptr_t(entry.first)));
    return true;
  });
  if (ended.primary) primaries.erase(ended.device);
  contexts.remove(&ended);
}

void Driver::reset() {
  while (contexts.begin() != contexts.end()) end_context(*contexts.begin()->second);
  for (const auto& [address, bytes] : pinned) fewstep_emu_free(const_cast<char*>(address));
  pinned.clear();
  graphs.remove_if([](const Graph&) { return true; });
  sentences_.clear();
  context_stack().clear();
  initialised = false;
}

// ---- streams

Stream* Driver::stream(void* handle) {
  if (!handle || uintptr_t(handle) == 1) return &context().null_stream;  // CU_STREAM_LEGACY
  Stream* found = streams.find(handle);
  return found && found->context == &context() ? found : nullptr;
}

std::vector<Ticket> Driver::predecessors(Stream& stream) {
  std::vector<Ticket> after = {stream.tail};
  Stream& null_stream = stream.context->null_stream;
  if (&stream == &null_stream) {
    for (const auto& [handle, other] : streams) {
      if (other->context == stream.context && other->blocking) after.push_back(other->tail);
    }
  } else if (stream.blocking) {
    after.push_back(null_stream.tail);
  }
  return after;
}

CUresult Driver::enqueue(Stream& stream, std::function<CUresult()> run, Ticket* ticket) {
  if (Capture* capture = stream.capture) {
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture->graph.nodes.push_back({std::move(run), stream.capture_tails});
    stream.capture_tails = {capture->graph.nodes.size() - 1};
    return CUDA_SUCCESS;
  }
  if (&stream == &stream.context->null_stream) {
    if (Capture* beside = capture_beside_null(*stream.context)) return invalidate(*beside, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
  }
  stream.tail = queue.submit(stream.context, std::move(run), predecessors(stream));
  if (ticket) *ticket = stream.tail;
  return CUDA_SUCCESS;
}

// ---- capture

CUstreamCaptureMode& capture_mode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

namespace {
bool is_own(const Capture& capture) { return capture.thread == std::this_thread::get_id(); }
// Whether the calling thread's mode lets it make unsafe calls during the capture.
bool is_tolerated(const Capture& capture) {
  if (is_own(capture)) return capture_mode() == CU_STREAM_CAPTURE_MODE_RELAXED && !capture.by_relaxed;
  return capture_mode() != CU_STREAM_CAPTURE_MODE_GLOBAL;
}
}  // namespace

Capture* Driver::capture_beside_null(const Context& context) {
  for (const auto& [handle, other] : streams) {
    if (other->context == &context && other->blocking && other->capture) return other->capture;
  }
  return nullptr;
}

CUresult Driver::invalidate(Capture& capture, CUresult result) {
  capture.invalid = true;
  return result;
}

CUresult Driver::refuse_in_capture() {
  CUresult result = CUDA_SUCCESS;
  for (const auto& [handle, capture] : captures) {
    const bool prohibits = is_own(*capture) ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED : capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (prohibits && !is_tolerated(*capture)) result = invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

CUresult Driver::refuse_in_any_capture() {
  CUresult result = CUDA_SUCCESS;
  for (const auto& [handle, capture] : captures) {
    if (!is_tolerated(*capture)) result = invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

void Driver::end_capture(Capture& capture) {
  for (const auto& [handle, stream] : streams) {
    if (stream->capture != &capture) continue;
    stream->capture = nullptr;
    stream->capture_tails.clear();
  }
  for (const auto& [handle, event] : events) {
    if (event->capture == &capture) event->capture = nullptr;
  }
  captures.remove(&capture);
}

// ---- settings

namespace {
uint64_t setting(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}
bool setting_is(const char* name, const char* value) {
  const char* text = getenv(name);
  return text && std::string(text) == value;
}
}  // namespace

CUresult Driver::initialise() {
  if (initialised) return CUDA_SUCCESS;
  device_count = int(setting("FEWSTEP_EMU_DEVICES", 1));
  architecture = int(setting("FEWSTEP_EMU_ARCHITECTURE", 80));
  memory_bytes = setting("FEWSTEP_EMU_MEMORY", uint64_t(4) << 30);
  fewstep_emu_config config{};
  config.seed = setting("FEWSTEP_EMU_SEED", 0);
  config.copies = setting_is("FEWSTEP_EMU_COPIES", "eager") ? FEWSTEP_EMU_COPIES_EAGER : FEWSTEP_EMU_COPIES_LAZY;
  config.guard = setting_is("FEWSTEP_EMU_GUARD", "underrun") ? FEWSTEP_EMU_GUARD_UNDERRUN : FEWSTEP_EMU_GUARD_OVERRUN;
  config.architecture = architecture;
  config.threads = int32_t(setting("FEWSTEP_EMU_THREADS", 0));
  fewstep_emu_set_config(&config);
  queue.begin(config.seed);
  std::string problem;
  if (!manifest.load(&problem)) {
    fprintf(stderr, "fewstep emulator: %s\n", problem.c_str());
    return explain(CUDA_ERROR_INVALID_VALUE, problem);
  }
  if (device_count <= 0) return CUDA_ERROR_NO_DEVICE;
  initialised = true;
  return CUDA_SUCCESS;
}

}  // namespace fs::driver

void fewstep_emu_reset(void) {
  fs::driver::Driver& driver = fs::driver::Driver::instance();
  std::lock_guard lock(driver.mutex);
  driver.reset();
}
