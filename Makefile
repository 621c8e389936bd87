# fewstep: build, demo, tests. `make demo` and `make test` need Rust and a C compiler (tests also a C++ one), nothing else.
CARGO ?= cargo
CC ?= cc
LIB := target/release/libfewstep.so
SONAME := target/release/libfewstep.so.0
DEMO := target/demo
PYTHON ?= python3

.PHONY: all lib demo test golden lint bench bench-peers header cuda-toolkit install-dev clean

all: lib

# The shared library under its SONAME, as the dynamic linker looks for it.
lib:
	$(CARGO) build --release --lib
	ln -sf libfewstep.so $(SONAME)

# The README's program: C against include/fewstep.h and the .so; no Rust program takes part.
demo: lib
	@mkdir -p $(DEMO)
	$(CC) -std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -Iinclude examples-c/distill_digits.c -o $(DEMO)/distill_digits -Ltarget/release -lfewstep -lm -Wl,-rpath,'$$ORIGIN/../release'
	$(DEMO)/distill_digits examples-c/data $(DEMO)

test:
	$(CARGO) test --release --workspace

golden:
	$(CARGO) test --release --test golden

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --lib

bench:
	$(CARGO) bench

# Ratios against PyTorch and OpenVINO in one run; PYTHON needs torch, diffusers and openvino (see benches/peers.py).
bench-peers: lib
	$(PYTHON) benches/peers.py

# Writes include/fewstep.h anew from src/ffi.
header:
	FEWSTEP_UPDATE_HEADER=1 $(CARGO) test --release --test header -- --exact the_header_is_generated

# NVIDIA's compiler for build.rs, from PyPI; without one the library is built without CUDA kernels.
cuda-toolkit:
	.ci/cuda-toolkit

clean:
	$(CARGO) clean
