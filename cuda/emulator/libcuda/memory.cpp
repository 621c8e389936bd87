// Device and pinned host memory, copies, fills.
#include <string.h>

#include "state.hpp"

using namespace fs::driver;

namespace {

uint8_t* pointer(CUdeviceptr address) { return reinterpret_cast<uint8_t*>(uintptr_t(address)); }

CUresult allocate(Driver& d, CUdeviceptr* address, size_t bytes) {
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = d.refuse_in_any_capture()) return refused;
  if (bytes > d.memory_bytes || d.counters.bytes_live > d.memory_bytes - bytes) {
    return d.explain(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes more than the " + std::to_string(d.counters.bytes_live) +
                                                   " in use do not fit into " + std::to_string(d.memory_bytes));
  }
  void* memory = fewstep_emu_allocate(bytes);
  if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = CUdeviceptr(reinterpret_cast<uintptr_t>(memory));
  d.allocations[*address] = {&d.context(), bytes};
  d.counters.allocations++;
  d.counters.bytes_live += bytes;
  d.counters.bytes_peak = std::max(d.counters.bytes_peak, d.counters.bytes_live);
  return CUDA_SUCCESS;
}

CUresult release(Driver& d, std::map<CUdeviceptr, Allocation>::iterator found) {
  void* memory = pointer(found->first);
  d.counters.frees++;
  d.counters.bytes_live -= found->second.bytes;
  d.allocations.erase(found);
  return fewstep_emu_free(memory) ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

/// Is the range within one live allocation of the current context?
bool is_device(Driver& d, CUdeviceptr address, size_t bytes) {
  auto next = d.allocations.upper_bound(address);
  if (next == d.allocations.begin()) return false;
  const auto& [start, allocation] = *--next;
  return allocation.context == &d.context() && address - start <= allocation.bytes && bytes <= allocation.bytes - (address - start);
}

bool is_pinned(Driver& d, const void* address, size_t bytes) {
  auto next = d.pinned.upper_bound(static_cast<const char*>(address));
  if (next == d.pinned.begin()) return false;
  const auto& [start, size] = *--next;
  const size_t offset = size_t(static_cast<const char*>(address) - start);
  return offset <= size && bytes <= size - offset;
}

CUresult outside(Driver& d, const char* call, size_t bytes) {
  return d.explain(CUDA_ERROR_INVALID_VALUE, std::string(call) + ": " + std::to_string(bytes) + " bytes are not within one allocation");
}

/// Work that touches device memory only if it is still there when its turn comes.
std::function<CUresult()> guarded(CUdeviceptr address, size_t bytes, std::function<void()> work) {
  return [=] {
    if (!fewstep_emu_allocation_size(pointer(address), bytes)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    work();
    return CUDA_SUCCESS;
  };
}

CUresult to_device(Driver& d, Stream& stream, CUdeviceptr to, const void* from, size_t bytes, Ticket* ticket = nullptr) {
  if (!bytes) return CUDA_SUCCESS;
  if (!is_device(d, to, bytes)) return outside(d, "copy to the device", bytes);
  d.counters.copies_host_to_device++;
  d.counters.bytes_copied += bytes;
  if (is_pinned(d, from, bytes)) {  // read when its turn comes: overwriting it before is the caller's bug, and shows
    return d.enqueue(stream, guarded(to, bytes, [=] { memcpy(pointer(to), from, bytes); }), ticket);
  }
  if (stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  const auto* begin = static_cast<const uint8_t*>(from);  // pageable: taken now
  auto staged = std::make_shared<std::vector<uint8_t>>(begin, begin + bytes);
  return d.enqueue(stream, guarded(to, bytes, [=] { memcpy(pointer(to), staged->data(), bytes); }), ticket);
}

CUresult to_host(Driver& d, Stream& stream, void* to, CUdeviceptr from, size_t bytes, bool wait) {
  if (!bytes) return CUDA_SUCCESS;
  if (!is_device(d, from, bytes)) return outside(d, "copy from the device", bytes);
  d.counters.copies_device_to_host++;
  d.counters.bytes_copied += bytes;
  const bool pinned = is_pinned(d, to, bytes);
  if (!pinned && stream.capture) return d.invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  Ticket ticket;
  const CUresult queued = d.enqueue(stream, guarded(from, bytes, [=] { memcpy(to, pointer(from), bytes); }), &ticket);
  if (queued || (pinned && !wait)) return queued;
  d.queue.run_until(ticket);  // to pageable memory, the call returns when it is there
  return d.outcome();
}

CUresult within_device(Driver& d, Stream& stream, CUdeviceptr to, CUdeviceptr from, size_t bytes, Ticket* ticket = nullptr) {
  if (!bytes) return CUDA_SUCCESS;
  if (!is_device(d, to, bytes) || !is_device(d, from, bytes)) return outside(d, "copy within the device", bytes);
  d.counters.copies_device_to_device++;
  d.counters.bytes_copied += bytes;
  return d.enqueue(stream, [=] {
    if (!fewstep_emu_allocation_size(pointer(from), bytes) || !fewstep_emu_allocation_size(pointer(to), bytes)) {
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    memmove(pointer(to), pointer(from), bytes);
    return CUDA_SUCCESS;
  }, ticket);
}

template <class T>
CUresult fill(Driver& d, Stream& stream, CUdeviceptr to, T value, size_t count) {
  if (!count) return CUDA_SUCCESS;
  if (to % sizeof(T) || count > SIZE_MAX / sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(d, to, count * sizeof(T))) return outside(d, "fill", count * sizeof(T));
  d.counters.memsets++;
  return d.enqueue(stream, guarded(to, count * sizeof(T), [=] { std::fill_n(reinterpret_cast<T*>(pointer(to)), count, value); }));
}

/// Runs `body` on the null stream and waits.
CUresult at_once(const char* name, const std::function<CUresult(Driver&, Stream&)>& body) {
  return Driver::call(name, Needs::context, [&](Driver& d) {
    if (const CUresult refused = d.refuse_in_capture()) return refused;
    if (const CUresult failed = body(d, d.context().null_stream)) return failed;
    d.queue.run_until(d.context().null_stream.tail);
    return d.outcome();
  });
}

}  // namespace

FEWSTEP_CUDA_EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  return Driver::call("cuMemGetInfo", Needs::context, [&](Driver& d) {
    *free = d.memory_bytes - d.counters.bytes_live;
    *total = d.memory_bytes;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  return Driver::call("cuMemAlloc", Needs::context, [&](Driver& d) { return allocate(d, address, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  return Driver::call("cuMemFree", Needs::context, [&](Driver& d) {
    if (!address) return CUDA_SUCCESS;
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    d.drain(d.context());
    const auto found = d.allocations.find(address);
    if (found == d.allocations.end()) return outside(d, "cuMemFree", 0);
    const CUresult freed = release(d, found);
    return d.outcome() ? d.outcome() : freed;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, void* handle) {
  return on_stream("cuMemAllocAsync", handle, [&](Driver& d, Stream&) { return allocate(d, address, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, void* handle) {
  return on_stream("cuMemFreeAsync", handle, [&](Driver& d, Stream& stream) {
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    if (!d.allocations.count(address)) return outside(d, "cuMemFreeAsync", 0);
    return d.enqueue(stream, [&d, address] {
      const auto found = d.allocations.find(address);
      return found == d.allocations.end() ? CUDA_ERROR_ILLEGAL_ADDRESS : release(d, found);
    });
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  return Driver::call("cuMemHostAlloc", Needs::context, [&](Driver& d) {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    *address = fewstep_emu_allocate(bytes);
    if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
    d.pinned[static_cast<const char*>(*address)] = bytes;
    d.counters.host_allocations++;
    return CUDA_SUCCESS;
  });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
FEWSTEP_CUDA_EXPORT CUresult cuMemFreeHost(void* address) {
  return Driver::call("cuMemFreeHost", Needs::context, [&](Driver& d) {
    if (const CUresult refused = d.refuse_in_any_capture()) return refused;
    const auto found = d.pinned.find(static_cast<const char*>(address));
    if (found == d.pinned.end()) return CUDA_ERROR_INVALID_VALUE;
    d.drain(d.context());
    d.pinned.erase(found);
    fewstep_emu_free(address);
    return d.outcome();
  });
}

// ---- copies and fills

FEWSTEP_CUDA_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* handle) {
  return on_stream("cuMemcpyHtoDAsync", handle, [&](Driver& d, Stream& s) { return to_device(d, s, to, from, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* handle) {
  return on_stream("cuMemcpyDtoHAsync", handle, [&](Driver& d, Stream& s) { return to_host(d, s, to, from, bytes, false); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
  return on_stream("cuMemcpyDtoDAsync", handle, [&](Driver& d, Stream& s) { return within_device(d, s, to, from, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return at_once("cuMemcpyHtoD", [&](Driver& d, Stream& s) { return to_device(d, s, to, from, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return at_once("cuMemcpyDtoH", [&](Driver& d, Stream& s) { return to_host(d, s, to, from, bytes, true); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return at_once("cuMemcpyDtoD", [&](Driver& d, Stream& s) { return within_device(d, s, to, from, bytes); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* handle) {
  return on_stream("cuMemsetD8Async", handle, [&](Driver& d, Stream& s) { return fill(d, s, to, value, count); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* handle) {
  return on_stream("cuMemsetD32Async", handle, [&](Driver& d, Stream& s) { return fill(d, s, to, value, count); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
  return at_once("cuMemsetD8", [&](Driver& d, Stream& s) { return fill(d, s, to, value, count); });
}
FEWSTEP_CUDA_EXPORT CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
  return at_once("cuMemsetD32", [&](Driver& d, Stream& s) { return fill(d, s, to, value, count); });
}
