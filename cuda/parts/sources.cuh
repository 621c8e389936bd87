// An activation that comes in two tensors, of which nobody makes one.
#pragma once
#include "device/fewstep.cuh"

namespace {

// Of each pixel the first `first_channels` channels are in `first` [pixels][first_channels], the others in `second` [pixels][others]. If all are in the first,
// `second` is null; else both have whole runs of sixteen bytes. src/backend/cuda/site.rs passes the same.
template <class T>
struct Sources {
  static constexpr bool kWhole = false;  // pixels of all of them need not be whole runs
  const T* first;
  const T* second;
  int first_channels;
};

// The tensor that has a channel of `channels`, how many it has itself, and which of them it is.
template <class T>
struct Source {
  const T* x;
  int channels, channel;
};

template <class T>
FEWSTEP_DEVICE Source<T> source_of(const Sources<T>& s, int channels, int channel) {
  const int after = channel - s.first_channels;
  const bool second = after >= 0;
  return {second ? s.second : s.first, second ? channels - s.first_channels : s.first_channels, second ? after : channel};
}

}  // namespace
