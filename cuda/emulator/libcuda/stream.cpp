// Streams, events, host functions.
#include "state.hpp"

using namespace fs::driver;

namespace {

CUresult create_stream(void** handle, unsigned flags) {
  return Driver::call("cuStreamCreate", Needs::context, [&](Driver& d) {
    if (flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    *handle = d.streams.add(std::make_unique<Stream>(Stream{&d.context(), flags == CU_STREAM_DEFAULT, nullptr, nullptr, {}}));
    return CUDA_SUCCESS;
  });
}

CUresult on_event(const char* name, void* handle, const std::function<CUresult(Driver&, Event&)>& body) {
  return Driver::call(name, Needs::context, [&](Driver& d) {
    Event* event = d.events.find(handle);
    return event && event->context == &d.context() ? body(d, *event) : CUDA_ERROR_INVALID_HANDLE;
  });
}

}  // namespace

FEWSTEP_CUDA_EXPORT CUresult cuStreamCreate(void** handle, unsigned flags) { return create_stream(handle, flags); }
FEWSTEP_CUDA_EXPORT CUresult cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return create_stream(handle, flags); }
FEWSTEP_CUDA_EXPORT CUresult cuStreamDestroy_v2(void* handle) {
  return Driver::call("cuStreamDestroy", Needs::context, [&](Driver& d) {
    Stream* stream = d.streams.find(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) d.end_capture(*stream->capture);
    d.queue.run_until(stream->tail);
    d.streams.remove(stream);
    return d.outcome();
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamSynchronize(void* handle) {
  return on_stream("cuStreamSynchronize", handle, [](Driver& d, Stream& stream) {
    d.counters.synchronisations++;
    if (stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (&stream == &d.context().null_stream) {
      if (Capture* beside = d.capture_beside_null(d.context())) return d.invalidate(*beside, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    for (const Ticket& ticket : d.predecessors(stream)) d.queue.run_until(ticket);
    return d.outcome();
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamQuery(void* handle) {
  return on_stream("cuStreamQuery", handle, [](Driver& d, Stream& stream) {
    if (stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (stream.tail && !stream.tail->done) d.queue.step_towards(stream.tail);
    if (d.outcome()) return d.outcome();
    return !stream.tail || stream.tail->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamGetCtx(void* handle, void** context) {
  return on_stream("cuStreamGetCtx", handle, [&](Driver&, Stream& stream) {
    *context = stream.context;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* user) {
  return on_stream("cuLaunchHostFunc", handle, [&](Driver& d, Stream& stream) {
    return d.enqueue(stream, [=] {
      in_host_function() = true;
      function(user);
      in_host_function() = false;
      return CUDA_SUCCESS;
    });
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
  return on_stream("cuStreamWaitEvent", handle, [&](Driver& d, Stream& stream) {
    Event* event = d.events.find(event_handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (Capture* capture = event->capture) {
      if (&stream == &stream.context->null_stream) return d.invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
      if (stream.capture && stream.capture != capture) return d.invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
      if (!stream.capture) stream.capture_tails.clear();
      stream.capture = capture;  // the stream joins
      stream.capture_tails.insert(stream.capture_tails.end(), event->capture_nodes.begin(), event->capture_nodes.end());
      return CUDA_SUCCESS;
    }
    if (stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    if (!event->record || event->record->done) return CUDA_SUCCESS;
    std::vector<Ticket> after = d.predecessors(stream);
    after.push_back(event->record);
    stream.tail = d.queue.submit(stream.context, nullptr, after);
    return CUDA_SUCCESS;
  });
}

// ---- events

FEWSTEP_CUDA_EXPORT CUresult cuEventCreate(void** handle, unsigned flags) {
  return Driver::call("cuEventCreate", Needs::context, [&](Driver& d) {
    *handle = d.events.add(std::make_unique<Event>(Event{&d.context(), !(flags & CU_EVENT_DISABLE_TIMING), nullptr, nullptr, {}}));
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventDestroy_v2(void* handle) {
  return on_event("cuEventDestroy", handle, [](Driver& d, Event& event) {
    d.events.remove(&event);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventRecord(void* handle, void* stream_handle) {
  return on_event("cuEventRecord", handle, [&](Driver& d, Event& event) {
    Stream* stream = d.stream(stream_handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    event.capture = stream->capture;
    if (stream->capture) {
      if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
      event.capture_nodes = stream->capture_tails;
      return CUDA_SUCCESS;
    }
    return d.enqueue(*stream, nullptr, &event.record);
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventQuery(void* handle) {
  return on_event("cuEventQuery", handle, [](Driver& d, Event& event) {
    if (Capture* capture = event.capture) return d.invalidate(*capture, CUDA_ERROR_CAPTURED_EVENT);
    if (event.record && !event.record->done) d.queue.step_towards(event.record);
    if (d.outcome()) return d.outcome();
    return !event.record || event.record->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventSynchronize(void* handle) {
  return on_event("cuEventSynchronize", handle, [](Driver& d, Event& event) {
    d.counters.synchronisations++;
    if (Capture* capture = event.capture) return d.invalidate(*capture, CUDA_ERROR_CAPTURED_EVENT);
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    d.queue.run_until(event.record);
    return d.outcome();
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventElapsedTime(float* milliseconds, void* start_handle, void* end_handle) {
  return on_event("cuEventElapsedTime", start_handle, [&](Driver& d, Event& start) {
    const Event* end = d.events.find(end_handle);
    if (!end || !start.record || !end->record || !start.timed || !end->timed) return CUDA_ERROR_INVALID_HANDLE;
    if (!start.record->done || !end->record->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = float(end->record->finished_at - start.record->finished_at);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
