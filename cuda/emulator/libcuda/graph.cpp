// Stream capture, and graphs that replay what was captured.
#include <algorithm>
#include <utility>

#include "state.hpp"

using namespace fs::driver;

namespace {

/// Does all work of the streams that joined lead to the origin's last node?
bool joined(const Driver& d, const Capture& capture) {
  const std::vector<Node>& nodes = capture.graph.nodes;
  std::vector<bool> reached(nodes.size());
  for (const size_t tail : capture.origin->capture_tails) reached[tail] = true;
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!reached[i]) continue;
    for (const size_t earlier : nodes[i].after) reached[earlier] = true;
  }
  return std::all_of(d.streams.begin(), d.streams.end(), [&](const auto& entry) {
    const Stream& stream = *entry.second;
    return stream.capture != &capture ||
           std::all_of(stream.capture_tails.begin(), stream.capture_tails.end(), [&](size_t tail) { return reached[tail]; });
  });
}

CUresult instantiate(void** result, void* handle) {
  return Driver::call("cuGraphInstantiate", Needs::context, [&](Driver& d) {
    const Graph* graph = d.graphs.find(handle);
    if (!graph) return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    *result = d.graph_execs.add(std::make_unique<GraphExec>(GraphExec{&d.context(), *graph, nullptr}));
    return CUDA_SUCCESS;
  });
}

}  // namespace

FEWSTEP_CUDA_EXPORT CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
  return on_stream("cuStreamBeginCapture", handle, [&](Driver& d, Stream& stream) {
    if (&stream == &d.context().null_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    if (stream.capture) return CUDA_ERROR_ILLEGAL_STATE;
    const bool by_relaxed = capture_mode() == CU_STREAM_CAPTURE_MODE_RELAXED;
    stream.capture = d.captures.add(
        std::make_unique<Capture>(Capture{&stream, CUstreamCaptureMode(mode), std::this_thread::get_id(), by_relaxed, false, {}}));
    stream.capture_tails.clear();
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamEndCapture(void* handle, void** result) {
  return on_stream("cuStreamEndCapture", handle, [&](Driver& d, Stream& stream) {
    *result = nullptr;
    Capture* capture = stream.capture;
    if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->origin != &stream) return d.invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id()) {
      return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    CUresult outcome = CUDA_SUCCESS;
    if (capture->invalid) {
      outcome = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (!joined(d, *capture)) {
      outcome = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    } else {
      d.counters.graphs_captured++;
      *result = d.graphs.add(std::make_unique<Graph>(std::move(capture->graph)));
    }
    d.end_capture(*capture);
    return outcome;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
  return Driver::call("cuThreadExchangeStreamCaptureMode", Needs::nothing, [&](Driver&) {
    if (*mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    *mode = std::exchange(capture_mode(), CUstreamCaptureMode(*mode));
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuStreamIsCapturing(void* handle, int* status) {
  return on_stream("cuStreamIsCapturing", handle, [&](Driver& d, Stream& stream) {
    if (&stream == &d.context().null_stream && d.capture_beside_null(d.context())) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;  // which goes on
    *status = !stream.capture          ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                        : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphInstantiateWithFlags(void** result, void* graph, unsigned long long) {
  return instantiate(result, graph);
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  return Driver::call("cuGraphGetNodes", Needs::context, [&](Driver& d) {
    Graph* graph = d.graphs.find(handle);
    if (!graph) return CUDA_ERROR_INVALID_HANDLE;
    const size_t room = nodes ? std::min(*count, graph->nodes.size()) : 0;
    for (size_t i = 0; i < room; i++) nodes[i] = &graph->nodes[i];
    *count = nodes ? room : graph->nodes.size();
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphUpload(void* exec, void* handle) {
  return on_stream("cuGraphUpload", handle, [&](Driver& d, Stream&) {
    return d.graph_execs.find(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphLaunch(void* exec_handle, void* handle) {
  return on_stream("cuGraphLaunch", handle, [&](Driver& d, Stream& stream) {
    GraphExec* exec = d.graph_execs.find(exec_handle);
    if (!exec) return CUDA_ERROR_INVALID_HANDLE;
    if (stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    d.counters.graph_launches++;
    std::vector<Ticket> before = d.predecessors(stream);
    before.push_back(exec->last);  // one executable graph runs once at a time
    std::vector<Ticket> tickets;
    for (const Node& node : exec->graph.nodes) {
      std::vector<Ticket> after = before;
      for (const size_t earlier : node.after) after.push_back(tickets[earlier]);
      tickets.push_back(d.queue.submit(stream.context, node.run, after));
    }
    tickets.insert(tickets.end(), before.begin(), before.end());
    exec->last = stream.tail = d.queue.submit(stream.context, nullptr, tickets);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphExecDestroy(void* handle) {
  return Driver::call("cuGraphExecDestroy", Needs::context, [&](Driver& d) {
    GraphExec* exec = d.graph_execs.find(handle);
    if (!exec) return CUDA_ERROR_INVALID_HANDLE;
    d.graph_execs.remove(exec);
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuGraphDestroy(void* handle) {
  return Driver::call("cuGraphDestroy", Needs::context, [&](Driver& d) {
    Graph* graph = d.graphs.find(handle);
    if (!graph) return CUDA_ERROR_INVALID_HANDLE;
    d.graphs.remove(graph);
    return CUDA_SUCCESS;
  });
}
