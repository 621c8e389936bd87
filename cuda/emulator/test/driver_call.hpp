// NVIDIA's driver by the names of its functions, opened at run time, so that a program needs nothing of NVIDIA's to be built.
#pragma once
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

namespace driver {

inline void* library() {
  static void* const handle = dlopen("libcuda.so.1", RTLD_NOW);
  if (handle) return handle;
  fprintf(stderr, "no NVIDIA driver: %s\n", dlerror());
  exit(1);
}

/// Calls a function of the driver by its name; -1 if it has none.
template <class... P>
int call(const char* name, P... arguments) {
  void* function = dlsym(library(), name);
  return function ? reinterpret_cast<int (*)(P...)>(function)(arguments...) : -1;
}
/// The same; a failure ends the program.
template <class... P>
void need(const char* name, P... arguments) {
  const int code = call(name, arguments...);
  if (code == 0) return;
  const char* why = nullptr;
  call("cuGetErrorString", code, &why);
  fprintf(stderr, "%s: CUDA error %d: %s\n", name, code, why ? why : "the driver has no such function");
  exit(1);
}

}  // namespace driver
