# fewstep: build, demo, tests. `make demo` and `make test` need Rust and a C compiler (tests also a C++ one), nothing else.
CARGO ?= cargo
CC ?= cc
LIB := target/release/libfewstep.so
SONAME := target/release/libfewstep.so.0
DEMO := target/demo
PYTHON ?= python3
NVCC ?= target/cuda-toolkit/bin/nvcc
# What users build for beside this machine: the other instruction set, the other system.
TARGETS ?= aarch64-unknown-linux-gnu x86_64-pc-windows-gnu
SMOKE := target/smoke
SMOKE_FLAGS := -std=c11 -g -Wall -Wextra -Wpedantic -Werror -Iinclude tests/c/smoke.c
SMOKE_LINK := -Ltarget/release -lfewstep -Wl,-rpath,'$$ORIGIN/../release'

.DEFAULT_GOAL := all
.PHONY: help all lib demo examples best icons quant-study quant-study-best test test-interop fuzz fuzz-planted fuzz-corpus test-cuda gpu-micro gpu-check sanitize-cuda sanitize-cuda-address sanitize-cuda-thread demo-emulated mutations field-cases oom-sweep golden lint check-targets sanitize miri bench bench-peers study study-icons header cuda-toolkit clean

# What can be made.
help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do printf '%-16s %s\n' "$$name" "$$what"; done

all: lib ## the shared library

# The shared library under its SONAME, as the dynamic linker looks for it.
lib: ## the shared library under its SONAME, target/release/libfewstep.so.0
	$(CARGO) build --release --lib
	ln -sf libfewstep.so $(SONAME)

# A C example, built into a folder of target and linked with the library beside it.
EXAMPLE = $(CC) -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -Wall -Wextra -Wpedantic -Werror -Iinclude examples-c/$(1).c -o $(2)/$(1) -Ltarget/release -lfewstep -lm \
  -Wl,-rpath,'$(CURDIR)/target/release'

# The README's program: C against include/fewstep.h and the .so; no Rust program takes part.
demo: lib ## the main job: distil digits in C, save pictures and a table (a few minutes)
	@mkdir -p $(DEMO)
	$(call EXAMPLE,distill_digits,$(DEMO))
	$(DEMO)/distill_digits examples-c/data $(DEMO)

# The C examples beside the demo, at a small size; one is killed on its way and must end with the same bytes.
examples: lib ## the C examples that the demo is not, at a small size
	tests/examples/run target/release target/examples-run

# The demo with the recipe that takes an hour: the best student of so many steps that this repository knows how to train. Cut off, it goes on.
STEPS ?= 2
best: lib ## the best digits student of STEPS sampler steps, up to an hour; target/best-STEPS
	@mkdir -p target/best-$(STEPS)
	$(call EXAMPLE,distill_digits,target/best-$(STEPS))
	target/best-$(STEPS)/distill_digits examples-c/data target/best-$(STEPS) steps=$(STEPS) recipe=best

# A second task, from the data alone: a teacher of 32x32 colour icons, and its students. Sized for about 20 minutes on two cores; the teacher has then seen each
# icon 25 times, far from enough to be good. ICONS="teacher=200000 …" where there is time. Cut off, it goes on.
ICONS ?= width=16 teacher=1500 student=500 cache=640
ICONS_OUT = target/icons/$(subst =,-,$(subst $() $(),_,$(strip $(ICONS))))
icons: lib ## a teacher of 32x32 colour icons and students of 4, 2 and 1 steps, about 20 minutes; a folder in target/icons
	@mkdir -p $(ICONS_OUT)
	$(call EXAMPLE,distill_pictures,target/icons)
	target/icons/distill_pictures examples-c/data/emoji32.npz $(ICONS_OUT) $(ICONS)

# What fewer bits cost, on digits: docs/quantization_tables.md anew.
STUDY := target/quant-study
quant-study: lib ## quantises students of digits in every way, about 20 minutes; writes docs/quantization_tables.md
	@mkdir -p $(STUDY)
	$(call EXAMPLE,distill_digits,$(STUDY))
	$(call EXAMPLE,quantize_student,$(STUDY))
	benches/quant-study $(STUDY)

# The same for the students that `make best` and `make icons` have left: what it is called, its teacher, the student.
BEST = $(foreach s,$(wildcard target/best-*/student),"Digits in $(patsubst target/best-%/student,%,$(s)), by the recipe best" examples-c/data/digits_teacher $(s))
BEST += $(foreach s,$(wildcard target/icons/*/student-*.safetensors),"Icons in $(patsubst student-%.safetensors,%,$(notdir $(s)))" $(dir $(s))teacher.safetensors $(s))
quant-study-best: lib ## quantises what make best and make icons have made; writes docs/quantization_tables_best.md
	@mkdir -p $(STUDY)
	$(if $(strip $(BEST)),,$(error there are no students yet: make best, make icons))
	$(call EXAMPLE,quantize_student,$(STUDY))
	benches/quant-study $(STUDY) $(BEST)

# The second family of networks in a profile of its own: a library with it must not take the place of the one that is shipped.
test: ## all tests that need no GPU
	$(CARGO) test --release --workspace
	$(CARGO) test --features mixer --test mixer

# ONNX files in the runtimes that they are for, which it installs from PyPI into target/interop; TABLE=docs/compilers.md writes that table anew.
test-interop: lib ## ONNX files in OpenVINO, ONNX Runtime and TensorRT-RTX
	tests/interop/run

# The CUDA suite: on this machine's NVIDIA driver, or, where there is none, on the emulated one, built from the same kernels.
DRIVER := $(shell ldconfig -p 2>/dev/null | grep -o 'libcuda\.so\.1 .*x86-64' | head -1)
# Tests that count what the emulated driver was asked are ignored on a real one.
ALL := $(if $(DRIVER),,--include-ignored)
EMULATED := $(if $(DRIVER),,LD_LIBRARY_PATH=$(CURDIR)/target/emulator FEWSTEP_EMU_MANIFEST=$(CURDIR)/target/cuda/manifest.txt)
# The emulator decides in which order threads and blocks run, and when copies arrive: ops and networks under other decisions, and launches that overlap.
# OTHER=0 leaves that out.
OTHER ?= 1
OTHERS := $(if $(DRIVER),,$(filter-out 0,$(OTHER)))
OTHER_SETTINGS = FEWSTEP_CUDA=require $(EMULATED) $(CARGO) test --release --test cuda -- --test-threads=1 $(ALL) conformance networks
test-cuda: cuda-toolkit ## the CUDA suite, on this machine's driver or the emulated one
	FEWSTEP_CUDA=require $(CARGO) build --release --lib
	$(if $(DRIVER),,$(MAKE) -C cuda/emulator test libcuda)
	FEWSTEP_CUDA=require $(EMULATED) $(CARGO) test --release --test cuda -- --test-threads=1 $(ALL)
	$(if $(OTHERS),FEWSTEP_EMU_SEED=1 FEWSTEP_EMU_COPIES=eager FEWSTEP_EMU_GUARD=underrun FEWSTEP_EMU_ARCHITECTURE=90 FEWSTEP_CUDA_OVERLAP=1 $(OTHER_SETTINGS) launches_overlap)
	$(if $(OTHERS),FEWSTEP_EMU_SEED=2 $(OTHER_SETTINGS))
	FEWSTEP_CUDA=require FEWSTEP_GOLDEN_DEVICE=cuda $(EMULATED) $(CARGO) test --release --test golden -- --test-threads=1
	FEWSTEP_CUDA=require $(EMULATED) $(CARGO) test --features mixer --test mixer -- --ignored

# The op tables on the emulated GPU, and the emulator's own tests, with the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and under
# ThreadSanitizer. Their libraries are preloaded, so that cargo builds as ever. One process after another leaves a processor idle: two at a time.
TEST_PROGRAM = $$(FEWSTEP_CUDA=require $(CARGO) test --release --test $(1) --no-run 2>&1 | sed -n 's/.*(\(target.*\))$$/\1/p')
SUITE = $(call TEST_PROGRAM,cuda)
ASAN = $(foreach lib,asan ubsan,$(shell $(CXX) -print-file-name=lib$(lib).so))
# In which orders threads run under AddressSanitizer.
SEEDS ?= 0 1
sanitize-cuda: cuda-toolkit ## kernels under ASan, UBSan and TSan, on the emulated GPU
	$(MAKE) -j2 --output-sync=target sanitize-cuda-address sanitize-cuda-thread
sanitize-cuda-address:
	$(MAKE) -C cuda/emulator test libcuda SANITIZE=address
	suite=$(SUITE); for seed in $(SEEDS); do LD_PRELOAD="$(ASAN)" ASAN_OPTIONS=detect_leaks=0 LD_LIBRARY_PATH=$(CURDIR)/target/emulator-address \
	  FEWSTEP_EMU_MANIFEST=$(CURDIR)/target/cuda/manifest.txt FEWSTEP_EMU_SEED=$$seed "$$suite" conformance --test-threads=1 || exit 1; done
# Silence is worth something only if a planted race is reported, by the same route.
sanitize-cuda-thread:
	$(MAKE) -C cuda/emulator test libcuda SANITIZE=thread
	suite=$(SUITE); $(PYTHON) cuda/emulator/mutations.py . "$$suite" "no barrier 1 in reduce.cu" && \
	  cuda/emulator/test/suite_races target/emulator-thread target/cuda/manifest.txt "$$suite" conformance

# The example that trains and samples on the CPU and on CUDA and compares: on this machine's driver, or on the emulated one.
demo-emulated: cuda-toolkit ## trains and samples on the CPU and on CUDA and compares
	FEWSTEP_CUDA=require $(MAKE) lib
	$(if $(DRIVER),,$(MAKE) -C cuda/emulator libcuda)
	@mkdir -p $(DEMO)
	$(call EXAMPLE,compare_devices,$(DEMO))
	$(EMULATED) $(DEMO)/compare_devices examples-c/data

# Plants bugs in a copy of the kernels; each must be caught by the check that cuda/emulator/MUTATIONS.md then names beside it.
mutations: cuda-toolkit ## plants bugs in the kernels; each must be caught
	$(MAKE) -C cuda/emulator test libcuda
	$(MAKE) -C cuda/emulator libcuda SANITIZE=thread
	FEWSTEP_CUDA=require $(PYTHON) cuda/emulator/mutations.py . "$(SUITE)"

# The microbenchmarks that decide how kernels are built (benches/gpu/README.md), in target/gpu-micro; what the emulator can run of them must give right
# results there.
gpu-micro: cuda-toolkit ## target/gpu-micro: microbenchmarks for a machine with a GPU
	benches/gpu/micro/build $(NVCC) target/gpu-micro
	$(MAKE) -C cuda/emulator libcuda BUILD=../../target/emulator-micro KERNELS=../../benches/gpu/micro/portable.cu
	LD_LIBRARY_PATH=target/emulator-micro FEWSTEP_EMU_ARCHITECTURE=90 target/gpu-micro/micro target/gpu-micro/portable.fatbin target/gpu-micro/hopper.fatbin --quick

# target/gpu-check: programs that check and time the library on a machine with a GPU and no Rust. benches/gpu/README.md tells how to run them there.
gpu-check: gpu-micro ## target/gpu-check: programs to run on a machine with a GPU
	FEWSTEP_CUDA=require $(MAKE) lib
	$(MAKE) -C cuda/emulator gpu-programs
	benches/gpu/bundle $(NVCC) "$(call TEST_PROGRAM,cuda)" "$(call TEST_PROGRAM,golden)"

# What failed in the field: programs against the header that exit non-zero while a fault is there (tests/field).
field-cases: lib ## what failed in the field, as programs against the header
	tests/field/run

# Coverage-guided tests of everything that reads bytes from outside, a target a parser: each for its share of so many seconds, at least 100,000 inputs
# each where there are 600. fuzz-planted: each target finds a bug that was planted in its parser.
FUZZ_SECONDS ?= 60
fuzz: ## every parser for its share of FUZZ_SECONDS
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run
fuzz-planted: ## each fuzz target finds a bug that was planted
	fuzz/run --planted
# The small corpus in the tree, anew.
fuzz-corpus: ## the small corpus in the tree, anew
	fuzz/run --corpus

# Single allocations of a whole program fail, of each call every OOM_EVERY-th and all large ones, then all from one on, then all above a size: how many
# end the program, and how large they were. None may. OOM_EVERY=1 tries each, which takes hours; OOM_MORE has further runs, such as the digits teacher's.
OOM_EVERY ?= 97
oom-sweep: lib ## single allocations of a whole program fail: how many end it
	FIELD_VERBOSE=1 FIELD_RUNS='one tiny $(OOM_EVERY);after tiny 1009;least tiny 1$(OOM_MORE)' tests/field/run oom_sweep

golden: ## the reference vectors alone
	$(CARGO) test --release --test golden

lint: ## formatting, clippy, rustdoc; the fuzz targets too; that benches read the header
	$(PYTHON) benches/header.py
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --features mixer -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --lib
	FEWSTEP_CUDA=off RUSTFLAGS="--cfg fuzzing" $(CARGO) clippy --manifest-path fuzz/Cargo.toml --all-targets --target-dir target/fuzz/lint -- -D warnings

# Compiles everything for each of TARGETS that `rustup target add` has brought; says which it has not.
check-targets: ## compiles for each of TARGETS that is installed
	@for target in $(TARGETS); do \
		if [ -d "$$(rustc --print sysroot)/lib/rustlib/$$target" ]; then \
			$(CARGO) check --workspace --all-targets --target $$target || exit 1; echo "$$target: checked"; \
		else echo "$$target: NOT CHECKED, not installed (rustup target add $$target)"; fi; \
	done

# The C ABI under the C compiler's sanitizers, then under valgrind, which sees into the library too. Needs valgrind, gcc or clang.
sanitize: lib ## the C ABI under the C compiler's sanitizers and valgrind
	@mkdir -p $(SMOKE)
	$(CC) -fsanitize=address,undefined -fno-sanitize-recover=all $(SMOKE_FLAGS) -o $(SMOKE)/smoke-asan $(SMOKE_LINK)
	rm -rf $(SMOKE)/run
	ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 $(SMOKE)/smoke-asan examples-c/data $(SMOKE)
	$(CC) $(SMOKE_FLAGS) -o $(SMOKE)/smoke $(SMOKE_LINK)
	rm -rf $(SMOKE)/run
	valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=all $(SMOKE)/smoke examples-c/data $(SMOKE)

# The thread pool, the border to C and what goes over it, under Miri; needs `rustup component add --toolchain nightly miri rust-src`. In a folder of its
# own, so that nothing else is built anew afterwards. Skipped: what asks the processor for its name, in assembly.
miri: ## unsafe code that Miri can run
	FEWSTEP_CUDA=off MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=target/miri $(CARGO) +nightly miri test --lib -- kernels::pool memory:: ffi:: nn::model tensor::tests --skip ffi::device

# Criterion; prints the table of benches/README.md.
bench: ## benchmarks
	$(CARGO) bench

# docs/distillation_tables.md; ROWS names some of its rows, and says steps=, seeds=, samples= and noises= (benches/study). What target/study.jsonl has is not
# trained again.
study: ## what each objective is worth, students of digits at equal samples (hours)
	$(CARGO) bench --bench study -- $(or $(ROWS),write=docs/distillation_tables.md)

# The same on icons, by the teacher that `make icons` has trained, one seed; docs/distillation_tables_icons.md. ROWS names other rows or numbers.
ICON_ROWS := teacher scratch output output+feature feature+teacher_forced teacher_forced on_policy rollout resolve distribution self_teacher progressive best
study-icons: ## what each objective is worth on icons (hours)
	@test -f $(ICONS_OUT)/teacher.safetensors || { echo "make icons comes first: it trains the teacher"; exit 1; }
	$(CARGO) bench --bench study -- teacher=$(ICONS_OUT)/teacher.safetensors $(or $(ROWS),$(ICON_ROWS) seeds=1 write=docs/distillation_tables_icons.md)

# Ratios against PyTorch and OpenVINO in one run; PYTHON needs torch, diffusers and openvino (see benches/peers.py).
bench-peers: lib ## times beside other libraries
	$(PYTHON) benches/peers.py

# Writes include/fewstep.h anew from src/ffi.
header: ## include/fewstep.h anew
	FEWSTEP_UPDATE_HEADER=1 $(CARGO) test --release --test abi -- --exact header::the_header_is_generated

# NVIDIA's compiler for build.rs, from PyPI; without one the library is built without CUDA kernels.
cuda-toolkit: ## the CUDA compiler, from PyPI, into target/
	.ci/cuda-toolkit

clean: ## removes target/
	$(CARGO) clean
