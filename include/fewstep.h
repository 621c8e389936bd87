/*
 * fewstep: few-step diffusion behind one C header. Distil a diffusion teacher into a small student that needs a few steps, and sample it.
 *
 * This file is generated from the sources of the library; do not edit it.
 *
 * A program that makes a student:
 *
 *     fewstep_runtime_create -> fewstep_model_open (teacher) -> fewstep_model_derive_student -> fewstep_trainer_create
 *       -> fewstep_trainer_prepare -> fewstep_trainer_step ... -> fewstep_trainer_snapshot -> fewstep_model_save
 *
 * and one that uses it:
 *
 *     fewstep_runtime_create -> fewstep_model_open (student) -> fewstep_sampler_create
 *       -> fewstep_sampler_begin -> fewstep_sampler_step ... -> fewstep_sampler_read
 *
 * Before either, fewstep_device_count and fewstep_device_get_info tell what there is to compute on.
 *
 * ERRORS. Nearly every function returns a fewstep_status; each function's comment lists its codes, and any function may return
 * FEWSTEP_STATUS_PANIC for a bug of the library. Outputs are written only on FEWSTEP_STATUS_OK. fewstep_last_error() has the details of the
 * calling thread's last failure: which argument, which file, which tensor. Bad input never ends the process, and no exception leaves the
 * library.
 *
 * MEMORY that the system refuses is FEWSTEP_STATUS_OUT_OF_MEMORY, and the call can be made again when there is some. Small pieces, which a library
 * cannot do without in its own names and tables, then come from a reserve of 3 MiB that is part of it and costs nothing until then; while half of it is
 * used, calls that create something answer OUT_OF_MEMORY. Decoders of pictures, which want large pieces too, begin only once there is memory for them. The
 * process ends only where the reserve is used up, or for a piece of more than 2 MiB that cannot be refused. The C library may end it too, for its own
 * thread-local data in a program that loads this library with dlopen.
 *
 * On a CUDA device any function that computes may also return FEWSTEP_STATUS_OUT_OF_MEMORY, when the device's memory does not suffice, and
 * FEWSTEP_STATUS_DEVICE_LOST, after which the runtime and all that was made from it can only be destroyed.
 *
 * SEEING. The environment variables FEWSTEP_PLAN and FEWSTEP_PROFILE (docs/debugging.md) name files that get plans and times. A call that plans
 * answers IO, NOT_FOUND or INVALID_ARGUMENT where such a file cannot be written.
 *
 * HANDLES. Types without fields are handles. `_create`, `_open` and the like give one to the caller, who gives it back to `_destroy`; destroying
 * NULL is fine. Handles may be destroyed in any order: one that is made from others keeps alive what it needs of them. A handle of the wrong kind
 * is refused; one that was destroyed must not be used (most uses are found and refused, but not all can be).
 *
 * THREADS. A handle may be used from any thread. Functions that take a `const` handle may run at the same time on many threads; with any other
 * handle there is one call at a time, and a second one meanwhile, also from the first one's own callback, returns FEWSTEP_STATUS_STATE. No call may
 * run while the handle is destroyed. Callbacks run on the thread that made the call, never on a thread of the library. A thread must not be
 * cancelled (pthread_cancel) in a function of the library: nothing unwinds through it, so the system ends the process. Use a cancel token. The
 * library must not be unloaded (dlclose) while a handle lives, for a runtime has threads, nor before the threads that had an error from it have ended:
 * their messages are taken down with them, by its code (glibc keeps it mapped until then by itself).
 *
 * STRUCTS. A struct with struct_size may grow in later versions, at its end. Options are filled by their `_init` function, which is told their size,
 * and then changed; wherever a pointer to options is NULL, the defaults are meant. Set struct_size to sizeof of a struct that the library fills: fields
 * that an older library does not know stay as they are. Arrays of structs that may grow have a count and a stride in bytes; with a count of 0 the
 * pointer is not read.
 *
 * STRINGS are UTF-8 and end with a NUL. IMAGES are 32-bit floats [N,C,H,W], nominally in [-1, 1].
 *
 * FILES. A file that is written appears whole or not at all: it is written beside its place under a temporary name (`.fewstep-*`), flushed to
 * the disk, and renamed. Links are followed: the link stays, and the file behind it is replaced or made. A replaced file's mode is kept, and its
 * owner and group where that is permitted; new files are as the umask says. What is no regular file (pipe, device, socket, folder) is refused
 * with FEWSTEP_STATUS_IO and never touched. What dead processes have left in the same folder under such temporary names is removed.
 * FEWSTEP_STATUS_IO leaves the old file as it was, but for one case, which the sentence names: the file was replaced, and then its folder could
 * not be flushed. The new file is there, only a crash of the machine can bring back the old one; saving again makes sure.
 *
 * DETERMINISM. The same calls with the same seeds give the same bytes, whatever the number of threads and the caller's floating-point environment; on
 * CUDA, on GPUs of the same model.
 *
 * SIGNALS, STACKS, FLOATING POINT. Threads of the library take no signals, so handlers of the program run on the program's threads; only those that an
 * instruction of the thread itself raises (SIGSEGV and the like) are not blocked there. Their stacks have a size of the library's choice. A call takes less
 * than 64 KiB of its caller's stack, callbacks not counted. (AMX makes the frames of signals larger: FEWSTEP_DEVICE_CPU tells when it is asked for.) It
 * computes in the default floating-point environment (rounding to nearest, subnormals kept, nothing traps) and leaves the caller's as it was, exception flags
 * included; callbacks run in the caller's.
 *
 * FORKS. A child of fork() has the memory of its parent but none of its threads. On the CPU it may go on with all handles that it inherited: calls then
 * compute on the calling thread alone, with the same bytes, and destroying waits for nobody. A handle that another thread was using when the parent forked
 * stays in use in the child for ever: FEWSTEP_STATUS_STATE. CUDA cannot be used in the child of a process that has used it: handles on a CUDA device can
 * be destroyed there, and whatever else needs the device returns FEWSTEP_STATUS_STATE; fork before, or start the child by exec. A child that was forked
 * while its parent saved shares that save's lock until it ends or calls exec: should the parent be killed, nobody else saves there before.
 */


#ifndef FEWSTEP_H
#define FEWSTEP_H

#include <stddef.h>
#include <stdint.h>

#ifndef FEWSTEP_API
/* Define it before the include to change how the functions are declared. */
#if defined(_WIN32)
#define FEWSTEP_API __declspec(dllimport)
#elif defined(__GNUC__)
#define FEWSTEP_API __attribute__((visibility("default")))
#else
#define FEWSTEP_API
#endif
#endif


#ifdef __cplusplus
extern "C" {
#endif


/* ---------------------------------------------------------------------------
 * Version, status codes, the last error
 * --------------------------------------------------------------------------- */

/**
 * Major version of the library.
 */
#define FEWSTEP_VERSION_MAJOR 0

/**
 * Minor version of the library.
 */
#define FEWSTEP_VERSION_MINOR 1

/**
 * Patch version of the library.
 */
#define FEWSTEP_VERSION_PATCH 0

/**
 * The three numbers in one: major * 65536 + minor * 256 + patch.
 */
#define FEWSTEP_VERSION (((FEWSTEP_VERSION_MAJOR << 16) | (FEWSTEP_VERSION_MINOR << 8)) | FEWSTEP_VERSION_PATCH)

/**
 * Counts breaks of binary compatibility; the number at the end of the shared library's name (libfewstep.so.0).
 */
#define FEWSTEP_ABI_VERSION 0

/**
 * What a function answers: FEWSTEP_STATUS_OK, or why it did nothing. The numbers never change; new ones may come.
 */
typedef int32_t fewstep_status;

/**
 * Everything worked.
 */
#define FEWSTEP_STATUS_OK 0

/**
 * An argument is NULL, out of range or an unknown enum value.
 */
#define FEWSTEP_STATUS_INVALID_ARGUMENT 1

/**
 * A tensor, an image or a buffer has another shape or size than the one expected.
 */
#define FEWSTEP_STATUS_SHAPE 2

/**
 * The request is understood but this version cannot do it.
 */
#define FEWSTEP_STATUS_UNSUPPORTED 3

/**
 * A file, folder, array or tensor does not exist.
 */
#define FEWSTEP_STATUS_NOT_FOUND 4

/**
 * The operating system refused to read or write.
 */
#define FEWSTEP_STATUS_IO 5

/**
 * A file is damaged or is not what it says it is.
 */
#define FEWSTEP_STATUS_CORRUPT_FILE 6

/**
 * A file was written by an incompatible version.
 */
#define FEWSTEP_STATUS_VERSION_MISMATCH 7

/**
 * Memory could not be had.
 */
#define FEWSTEP_STATUS_OUT_OF_MEMORY 8

/**
 * The compute device asked for does not exist.
 */
#define FEWSTEP_STATUS_NO_DEVICE 9

/**
 * The compute device stopped answering.
 */
#define FEWSTEP_STATUS_DEVICE_LOST 10

/**
 * The installed driver is older than what is needed.
 */
#define FEWSTEP_STATUS_DRIVER_TOO_OLD 11

/**
 * A callback or a cancel token asked to stop; the handle stays usable.
 */
#define FEWSTEP_STATUS_CANCELLED 12

/**
 * A number is NaN or infinite where a finite one is needed.
 */
#define FEWSTEP_STATUS_NUMERIC 13

/**
 * The call does not fit the state that the handle is in, or the handle is in use by another call.
 */
#define FEWSTEP_STATUS_STATE 14

/**
 * A bug inside the library; the handle that was in use can only be destroyed.
 */
#define FEWSTEP_STATUS_PANIC 15

/**
 * The message of the last call that failed on the calling thread: what was wrong, with names and numbers, in one line of UTF-8 of less than 2048 bytes
 * (a longer one loses its middle). Never NULL; an empty string before the first failure. Successful calls leave it as it is.
 *
 * The text belongs to the library and stays valid until the next call that fails on the same thread, or until the thread ends. Any thread may call.
 */
FEWSTEP_API
const char *fewstep_last_error(void);

/**
 * The name of a status, such as "CANCELLED"; "UNKNOWN" for a number that is none. A constant string. Any thread may call.
 */
FEWSTEP_API const char *fewstep_status_name(fewstep_status status);

/**
 * The version of the library that is running, packed as FEWSTEP_VERSION. Compare it with the macro to find a header of another version. Any thread
 * may call.
 */
FEWSTEP_API
uint32_t fewstep_version(void);

/**
 * The version of the library that is running as text, such as "0.1.0". A constant string. Any thread may call.
 */
FEWSTEP_API const char *fewstep_version_string(void);


/* ---------------------------------------------------------------------------
 * Cancel tokens
 * --------------------------------------------------------------------------- */

/**
 * A flag that stops blocking calls from any thread. It stays set until it is reset, so that a cancel that comes before the call is not lost.
 *
 * A call that computes sees its token, and that of its runtime (`cancel` of fewstep_runtime_options), within a few milliseconds: while it plans, inside an
 * evaluation of a network, inside a training step. On a GPU what was started is waited for: one sampler step, one training step. Calls that only read,
 * write or copy (opening and saving, datasets, snapshots, beginning a run, reading images) take as long as disk, memory and hashes need, a few seconds a
 * gigabyte, and look at no token; but fewstep_dataset_open_folder does between two files, and fewstep_dataset_create_filled between two batches.
 */
typedef struct fewstep_cancel_token fewstep_cancel_token;

/**
 * Creates a cancel token that is not set. It needs no runtime, and one token may serve many calls, one after the other or at once.
 *
 * The caller owns `*out` and gives it to fewstep_cancel_token_destroy. Any thread may call.
 * Returns OK, INVALID_ARGUMENT or OUT_OF_MEMORY.
 */
FEWSTEP_API fewstep_status fewstep_cancel_token_create(fewstep_cancel_token **out);

/**
 * Sets the token: every call that watches it, and every later one until fewstep_cancel_token_reset, stops at its next step or operation and returns
 * CANCELLED.
 *
 * Any thread may call at any time, also while other threads use the token.
 * Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API
fewstep_status fewstep_cancel_token_cancel(const fewstep_cancel_token *token);

/**
 * Clears the token, so that it can be used again.
 *
 * Any thread may call at any time.
 * Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_cancel_token_reset(const fewstep_cancel_token *token);

/**
 * Writes 1 to `*out` when the token is set, 0 otherwise.
 *
 * Any thread may call at any time.
 * Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_cancel_token_is_cancelled(const fewstep_cancel_token *token, int32_t *out);

/**
 * Destroys a token. NULL is fine. While a call watches the token nothing happens and STATE is returned.
 *
 * Any thread may call, once, when no other thread will use the token any more.
 * Returns OK, INVALID_ARGUMENT or STATE.
 */
FEWSTEP_API fewstep_status fewstep_cancel_token_destroy(fewstep_cancel_token *token);


/* ---------------------------------------------------------------------------
 * Progress
 * --------------------------------------------------------------------------- */

/**
 * Progress of fewstep_trainer_prepare, also where fewstep_trainer_train begins with it: `done` of `total` teacher evaluations.
 */
#define FEWSTEP_PHASE_PREPARE 1

/**
 * Progress of fewstep_trainer_train: `done` of `total` steps of this call.
 */
#define FEWSTEP_PHASE_TRAIN 2

/**
 * Progress of fewstep_sampler_run: `done` of `total` sampler steps.
 */
#define FEWSTEP_PHASE_SAMPLE 3

/**
 * Progress of fewstep_quantize: `done` of `total` samples of the calibration.
 */
#define FEWSTEP_PHASE_QUANTIZE 4

/**
 * Progress of fewstep_quantize_report: `done` of `total` models that were sampled, two for each layer and two more.
 */
#define FEWSTEP_PHASE_REPORT 5

/**
 * Progress of fewstep_evaluate: `done` of `total`, images that were sampled, sets that were measured and steps of the classifier together.
 */
#define FEWSTEP_PHASE_EVALUATE 6

/**
 * Progress of fewstep_dataset_open_folder: `done` of `total` files.
 */
#define FEWSTEP_PHASE_OPEN 7

/**
 * Progress of fewstep_student_search: `done` of `total` models that were measured, the teacher among them. It jumps to the end once there are rows enough.
 */
#define FEWSTEP_PHASE_SEARCH 8

/**
 * How far a blocking call is. Only valid inside the callback. Later versions may have more fields: read no more than struct_size bytes.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_PHASE_*.
   */
  int32_t phase;
  /**
   * What is done.
   */
  uint64_t done;
  /**
   * What there is to do.
   */
  uint64_t total;
  /**
   * FEWSTEP_PHASE_TRAIN: loss of the step just done; 0 otherwise.
   */
  float loss;
  /**
   * FEWSTEP_PHASE_TRAIN: norm of its gradient before clipping; 0 otherwise.
   */
  float grad_norm;
  /**
   * FEWSTEP_PHASE_TRAIN: its learning rate; 0 otherwise.
   */
  float learning_rate;
  /**
   * The recipe's stage, from 1; 0 where there is no recipe.
   */
  uint32_t stage;
  /**
   * Stages of the recipe; 0 where there is no recipe.
   */
  uint32_t stage_count;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * FEWSTEP_PHASE_TRAIN: images that are trained on in a second, the mean of the last steps; 0 otherwise.
   */
  double samples_per_second;
  /**
   * FEWSTEP_PHASE_TRAIN: seconds until the call is done, if it goes on as in the last steps (and images of a recipe's later stages cost as much as those of
   * this one); below 0 where that is not known.
   */
  double seconds_left;
} fewstep_progress;

/**
 * Called between two steps of a blocking call, on the thread that made the call. Return 0 to go on; anything else cancels: the call returns
 * FEWSTEP_STATUS_CANCELLED. Calls on a handle that the blocking call is using answer FEWSTEP_STATUS_STATE. Must return normally (no C++
 * exception, no longjmp).
 */
typedef int32_t (*fewstep_progress_callback)(void *user, const fewstep_progress *progress);


/* ---------------------------------------------------------------------------
 * Devices
 * --------------------------------------------------------------------------- */

/**
 * Compute on the CPU, with the best instructions that it has. The environment variable FEWSTEP_ISA, read once, lowers them, for floats and for bytes:
 * portable; avx2; avx_vnni (floats on AVX2, bytes on AVX-VNNI); avx512, also avx512_vnni (AVX-512, bytes on its VNNI); amx (AVX-512, bytes and bf16 on AMX);
 * neon_dot; neon_i8mm. Any other value changes nothing, and a runtime's log has a warning of it.
 *
 * AMX (Linux): the first sampler, evaluator, trainer or report of a quantised model with layers large enough for tiles, or of FEWSTEP_PRECISION_BF16, asks the
 * system for them (arch_prctl, ARCH_REQ_XCOMP_PERM), for the whole process and for good: from then on no thread can install an alternate signal stack of less
 * than getauxval(AT_MINSIGSTKSZ). Where a thread has such a one, the system refuses: bytes are then computed on AVX-512 VNNI, the same bits, and bf16 is an
 * error. FEWSTEP_ISA=avx512 keeps the library from asking.
 */
#define FEWSTEP_DEVICE_CPU 0

/**
 * Compute on an NVIDIA GPU of compute capability 7.5 or later. No part of a plan falls back to the CPU.
 */
#define FEWSTEP_DEVICE_CUDA 1

/**
 * Bytes of a device's name, the NUL at its end included.
 */
#define FEWSTEP_DEVICE_NAME_SIZE 256

/**
 * Bytes of the names of a device's instructions, the NUL at their end included.
 */
#define FEWSTEP_DEVICE_INSTRUCTIONS_SIZE 64

/**
 * What a device is. Set struct_size before fewstep_device_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_DEVICE_*.
   */
  int32_t device;
  /**
   * Its place among the devices of that kind: `device_index` of fewstep_runtime_options.
   */
  int32_t index;
  /**
   * 1 for a device that the library can compute on; 0 for a GPU that it has no code for: of a compute capability before 7.5, or left out of the build.
   */
  int32_t usable;
  /**
   * What it computes in: the bit 1 << FEWSTEP_PRECISION_* for each precision. 0 for a device that is not usable. CPU: bf16 where the processor has AMX for
   * it and FEWSTEP_ISA does not forbid it; that the system gives the process its tiles is known when the first sampler, evaluator or trainer of it is made.
   */
  uint32_t precisions;
  /**
   * CUDA: compute capability, the number before the point. CPU: 0.
   */
  uint32_t capability_major;
  /**
   * CUDA: compute capability, the number after the point. CPU: 0.
   */
  uint32_t capability_minor;
  /**
   * CUDA: streaming multiprocessors. CPU: threads that run at once, which a runtime has by default.
   */
  uint32_t processors;
  /**
   * CUDA: bytes of the GPU's memory, in use or not. CPU: 0.
   */
  uint64_t memory_bytes;
  /**
   * CUDA: what identifies the GPU, also to Vulkan and Direct3D: `device_uuid` of fewstep_runtime_options. CPU: zeros.
   */
  uint8_t uuid[16];
  /**
   * The name that the driver or the processor gives, UTF-8, with a NUL at the end.
   */
  char name[FEWSTEP_DEVICE_NAME_SIZE];
  /**
   * CPU: the instruction sets of floats, bytes and bf16 as far as they differ, such as "AVX-512, AMX int8, AMX bf16"; FEWSTEP_ISA lowers them, and AMX is
   * there until the system has refused its tiles, for which nobody asks here. CUDA: what the kernels are chosen for, such as "sm_90". With a NUL at the end.
   */
  char instructions[FEWSTEP_DEVICE_INSTRUCTIONS_SIZE];
} fewstep_device_info;

/**
 * Writes to `*out` how many devices of a kind (FEWSTEP_DEVICE_*) there are, usable or not. That there are none is no error: for CUDA `*out` is 0 without a
 * driver, with one that is too old, without a GPU, and in a library that was built without CUDA kernels. fewstep_device_get_info of device 0 then says which.
 * Opens no device. The first call about CUDA loads the driver, which may take some tenths of a second; a library without CUDA kernels never does.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT, OUT_OF_MEMORY (the driver did not start for lack of it) or what else the driver answered.
 */
FEWSTEP_API
fewstep_status fewstep_device_count(int32_t device,
                                    uint32_t *out);

/**
 * Fills `*out`, whose struct_size the caller has set, with what the device `index` of a kind (FEWSTEP_DEVICE_*) is: 0 to fewstep_device_count - 1. There is
 * one CPU device, 0. Opens no device: what fewstep_runtime_create may still find is a lack of memory, or that another process has a GPU for itself.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT or, for CUDA, UNSUPPORTED (this library was built without CUDA kernels), NO_DEVICE (no driver, or no
 * such GPU), DRIVER_TOO_OLD or OUT_OF_MEMORY; fewstep_last_error has the sentence.
 */
FEWSTEP_API
fewstep_status fewstep_device_get_info(int32_t device,
                                       int32_t index,
                                       fewstep_device_info *out);


/* ---------------------------------------------------------------------------
 * Runtimes: compute threads, a device, a log
 * --------------------------------------------------------------------------- */

/**
 * Log nothing.
 */
#define FEWSTEP_LOG_NONE 0

/**
 * Log what is odd but not wrong, such as an unknown key in a model's config.
 */
#define FEWSTEP_LOG_WARNING 1

/**
 * Log what was done, too.
 */
#define FEWSTEP_LOG_INFO 2

/**
 * Takes a line of log, UTF-8 without a line end and of less than 2048 bytes, valid during the call. Called on the thread that made the call which has
 * something to say, never on a thread of the library. `level` is FEWSTEP_LOG_WARNING or FEWSTEP_LOG_INFO. Must return normally.
 */
typedef void (*fewstep_log_callback)(void *user, int32_t level, const char *message);

/**
 * Compute threads, device and log. Objects made from a runtime keep it alive.
 */
typedef struct fewstep_runtime fewstep_runtime;

/**
 * How a runtime is made. Fill it with fewstep_runtime_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Threads that compute, the calling one included, at most 1024; 0 (the default) for one a core. Results do not depend on it.
   */
  uint32_t threads;
  /**
   * FEWSTEP_DEVICE_*; the CPU by default.
   */
  int32_t device;
  /**
   * Which device of that kind, in the NVIDIA driver's order; 0 by default. Not read where `device_uuid` says which; must be 0 with `cuda_context`.
   */
  int32_t device_index;
  /**
   * Takes the log; NULL (the default) for none.
   */
  fewstep_log_callback log;
  /**
   * First argument of `log`. Must stay valid until everything made from the runtime is destroyed.
   */
  void *log_user;
  /**
   * FEWSTEP_LOG_*: the most that is logged; warnings by default.
   */
  int32_t log_level;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * CUDA: the GPU with this UUID of 16 bytes, as Vulkan and Direct3D give it too; NULL (the default) to choose by index. Copied.
   */
  const uint8_t *device_uuid;
  /**
   * CUDA: a CUcontext of the program, used in place of the device's primary context; NULL (the default) for that. It must stay valid until everything
   * made from the runtime is destroyed, and is never destroyed by the library.
   */
  void *cuda_context;
  /**
   * CUDA: a CUstream of `cuda_context` that takes all work; NULL (the default) for the context's default stream. Ours when there is no `cuda_context`.
   * While it is being captured every function that would give it work returns FEWSTEP_STATUS_STATE, and nothing made from the runtime may be
   * destroyed: that waits for the stream, which ends the capture. Other streams may be captured meanwhile; with the default stream, which CUDA orders
   * among all others, only non-blocking ones. CU_STREAM_PER_THREAD is refused.
   */
  void *cuda_stream;
  /**
   * Stops every long call on this runtime and what is made from it, beside the call's own token: they answer CANCELLED while it is set. NULL (the default)
   * for none. The token may be destroyed before the runtime; it then stays as it was.
   */
  const fewstep_cancel_token *cancel;
} fewstep_runtime_options;

/**
 * What a runtime computes with. Set struct_size before fewstep_runtime_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_DEVICE_*.
   */
  int32_t device;
  /**
   * Its place among the devices of that kind, however it was chosen; fewstep_device_get_info has more about it.
   */
  int32_t device_index;
  /**
   * CPU: threads that compute, the calling one included. CUDA: 0.
   */
  uint32_t threads;
  /**
   * As in fewstep_device_info.
   */
  uint32_t precisions;
  /**
   * 1 when the runtime uses a CUDA context of the program (`cuda_context` of fewstep_runtime_options), 0 otherwise.
   */
  int32_t foreign_context;
  /**
   * As in fewstep_device_info.
   */
  uint8_t device_uuid[16];
  /**
   * As in fewstep_device_info.
   */
  char device_name[FEWSTEP_DEVICE_NAME_SIZE];
} fewstep_runtime_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_runtime_options_init(fewstep_runtime_options *options, size_t struct_size);

/**
 * Creates a runtime and starts its compute threads. `options` may be NULL for the defaults.
 *
 * The caller owns `*out` and gives it to fewstep_runtime_destroy. Several runtimes may live in one process; they share nothing. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, OUT_OF_MEMORY (the system refused a thread, the GPU a context), or, for CUDA, UNSUPPORTED (this library was built without
 * CUDA kernels, or has none for this GPU), NO_DEVICE (no driver, or no such GPU), DRIVER_TOO_OLD or DEVICE_LOST.
 */
FEWSTEP_API
fewstep_status fewstep_runtime_create(const fewstep_runtime_options *options,
                                      fewstep_runtime **out);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the runtime. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_runtime_get_info(const fewstep_runtime *runtime, fewstep_runtime_info *out);

/**
 * Destroys a runtime. NULL is fine. Models, datasets, trainers and samplers made from it stay usable and keep its compute threads; the threads end,
 * and are waited for, inside the destroy call of whichever of these objects is the last, the runtime included.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE from inside a log callback of a call that uses the runtime.
 */
FEWSTEP_API
fewstep_status fewstep_runtime_destroy(fewstep_runtime *runtime);


/* ---------------------------------------------------------------------------
 * Grids: pairs of timesteps
 * --------------------------------------------------------------------------- */

/**
 * One step of a few-step grid, in training timesteps.
 */
typedef struct {
  /**
   * Timestep that the network sees, 0 .. num_train_timesteps - 1.
   */
  int32_t t;
  /**
   * Timestep that the step lands on, less than `t`; -1 is the clean image.
   */
  int32_t t_next;
} fewstep_step_pair;


/* ---------------------------------------------------------------------------
 * Conditions: what a model is given beside images and timesteps
 * --------------------------------------------------------------------------- */

/**
 * One class label (int32_t) for each image.
 */
#define FEWSTEP_CONDITIONING_CLASS_LABELS 1

/**
 * A sequence of vectors (float), such as a text encoder's, for each image: [N, length, width].
 */
#define FEWSTEP_CONDITIONING_TOKENS 2

/**
 * A vector (float) for each image: [N, width].
 */
#define FEWSTEP_CONDITIONING_VECTOR 3

/**
 * Channels (float) beside those of each image, such as a low-resolution image that was enlarged: [N, channels, H, W].
 */
#define FEWSTEP_CONDITIONING_PLANES 4

/**
 * What images depend on beside their noise. Set every field; those that a later version adds may be 0. The order among conditionings of one kind is that of
 * the model's own (fewstep_model_condition); between kinds it does not matter.
 */
typedef struct {
  /**
   * FEWSTEP_CONDITIONING_*.
   */
  int32_t kind;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The values, as the kind says.
   */
  const void *data;
  /**
   * Number of values.
   */
  size_t count;
} fewstep_conditioning;

/**
 * What a model is given beside images and timesteps. Set struct_size before fewstep_model_condition fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_CONDITIONING_*.
   */
  int32_t kind;
  /**
   * Class labels: how many classes there are, the labels being 0 and up. 0 for other kinds.
   */
  uint32_t classes;
  /**
   * Tokens: vectors of an image. 0 for other kinds.
   */
  uint32_t length;
  /**
   * Tokens and vectors: numbers of a vector. 0 for other kinds.
   */
  uint32_t width;
  /**
   * Planes: channels. 0 for other kinds.
   */
  uint32_t channels;
} fewstep_condition;


/* ---------------------------------------------------------------------------
 * Models, and students derived from them
 * --------------------------------------------------------------------------- */

/**
 * The network predicts the noise (epsilon).
 */
#define FEWSTEP_PREDICTION_EPSILON 1

/**
 * The network predicts the clean image.
 */
#define FEWSTEP_PREDICTION_SAMPLE 2

/**
 * The network predicts the velocity v; what a few-step student should predict.
 */
#define FEWSTEP_PREDICTION_V 3

/**
 * A student begins at random.
 */
#define FEWSTEP_COPY_NOTHING 0

/**
 * A student begins with the teacher's tensors of the same role and shape. Of a UNet2DModel with fewer blocks the roles are those of BK-SDM: of a down stage
 * the last blocks are left out, of an up stage those in the middle; with fewer stages the innermost ones.
 */
#define FEWSTEP_COPY_SAME_SHAPE 1

/**
 * The same, and of a tensor with more channels those that matter most. A channel matters as much as the squares of all weights that make it or read it, those
 * behind a group norm times the norm's scale. It is left out everywhere or nowhere: in convolutions, norms, skip connections and additions alike. Every group
 * of a norm keeps as many of its own channels as the student's groups have, and attention whole heads where these are as wide as the teacher's. What reads a
 * timestep's sines and cosines is fitted to the fewer that there are, by least squares over the schedule.
 */
#define FEWSTEP_COPY_CHANNELS 2

/**
 * All steps of a student share all parameters.
 */
#define FEWSTEP_PER_STEP_NONE 0

/**
 * Each step of a student's grid has the biases of all layers, and the scales and shifts of all norms, of its own; they begin alike and learn with the rest.
 */
#define FEWSTEP_PER_STEP_BIASES_AND_NORMS 1

/**
 * Architecture, weights, and how they are meant to be sampled. Immutable: any number of trainers and samplers may use one model, on many threads.
 */
typedef struct fewstep_model fewstep_model;

/**
 * How a student differs from its teacher. Fill it with fewstep_student_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_PREDICTION_*: what the student predicts; v by default.
   */
  int32_t prediction;
  /**
   * JSON, the keys of config.json that differ from the teacher's, with their values: {"block_out_channels": [32, 64], "layers_per_block": 1}. A key that the
   * network does not have is refused; null is the value null. Of a UNet2DModel fewer block_out_channels than the teacher's drop the innermost stages, so
   * that the types of the others stay; to drop attention, give down_block_types, up_block_types and add_attention; for linear attention, whose time grows with
   * the pixels instead of their square, the types "LinearAttnDownBlock2D", "LinearAttnUpBlock2D" and mid_block_type "UNetMidBlock2DLinearAttn", which
   * diffusers does not have. NULL (the default) for the teacher's architecture. Copied.
   */
  const char *config_patch;
  /**
   * FEWSTEP_COPY_*: which of the teacher's weights the student begins with; FEWSTEP_COPY_NOTHING by default. What is not copied begins at random.
   */
  int32_t copy_weights;
  /**
   * The student's sampler steps, evenly spread from the noisiest timestep ("trailing"); 0 (the default) for none yet, or when `pairs` is given.
   */
  uint32_t steps;
  /**
   * Seed of the random weights.
   */
  uint64_t seed;
  /**
   * The student's grid, explicitly: each pair starts where the one before it ended. NULL by default.
   */
  const fewstep_step_pair *pairs;
  /**
   * Elements of pairs, at most 1000.
   */
  size_t pair_count;
  /**
   * Bytes from one pair to the next; sizeof(fewstep_step_pair).
   */
  size_t pair_stride;
  /**
   * Stops fewstep_model_derive_student with CANCELLED; only read during that call. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
  /**
   * FEWSTEP_PER_STEP_*: what each step of the student's grid, which must be given, has of its own; NONE by default. Such a student has nothing for other
   * timesteps: it is trained by objectives on its grid's steps (not OUTPUT, not DENOISE) and sampled with FEWSTEP_SAMPLER_FROM_MODEL, in as much time as
   * any other; it is saved as one file, is no teacher, and is not quantised to whole numbers.
   */
  int32_t per_step_weights;
  /**
   * 0.
   */
  uint32_t reserved;
} fewstep_student_options;

/**
 * What a model is. Set struct_size before fewstep_model_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_PREDICTION_*.
   */
  int32_t prediction;
  /**
   * Number of parameters.
   */
  uint64_t parameters;
  /**
   * Bytes of the weights in memory, each in the type of the model's file: four for f32, two for f16 and bf16, one in a quantised layer.
   */
  uint64_t weight_bytes;
  /**
   * Channels that the network reads: those of x_t, and of planes beside it.
   */
  uint32_t in_channels;
  /**
   * Channels that the network gives: those of x_t, or twice as many where it gives a variance behind its prediction.
   */
  uint32_t out_channels;
  /**
   * Height that the config names, 0 when it names none.
   */
  uint32_t height;
  /**
   * Width that the config names, 0 when it names none.
   */
  uint32_t width;
  /**
   * Heights and widths must be multiples of this.
   */
  uint32_t size_multiple;
  /**
   * Classes of a class-conditional model, which needs a label for each image; 0 for a model without labels.
   */
  uint32_t classes;
  /**
   * Steps of a few-step student's own grid; 0 for other models.
   */
  uint32_t steps;
  /**
   * Training timesteps of the noise schedule.
   */
  uint32_t num_train_timesteps;
  /**
   * Channels of the images that are sampled (x_t); 0 for a model that cannot be sampled, because its network gives another number of channels.
   */
  uint32_t channels;
  /**
   * What the model takes beside images and timesteps: how many conditions fewstep_model_condition lists.
   */
  uint32_t conditions;
  /**
   * Layers that compute in whole numbers: of a model that fewstep_quantize made, or that was opened from the file of such a one; 0 for other models.
   */
  uint32_t quantized_layers;
  /**
   * FEWSTEP_PER_STEP_*: what each step of a few-step student's grid has of its own; NONE for other models.
   */
  int32_t per_step_weights;
} fewstep_model_info;

/**
 * Opens a model: a diffusers folder or a file of fewstep_model_save_file. `path` is UTF-8.
 *
 * The folder may be a pipeline's (with `unet/` and `scheduler/`), a flat one, that of a network alone (`unet`, `unet_ema`), a hub cache's, or one with a
 * single model below it; any file of a model stands for the model. Weights are safetensors of f32, f16, bf16 or f64, in one file or in shards with their
 * index. Where there is no plain file, a variant is taken: `ema`, `fp16`, `bf16`, `non_ema`, or else the only safetensors file; fewstep_model_open_variant
 * names one. They stay in the type that they have there, f16 and bf16 at half the memory of f32 (f64 becomes f32), and everything that reads them computes
 * as if they were f32. Names may begin with `module.` or `_orig_mod.`. A network without a scheduler_config.json takes that of the folders above it.
 *
 * What was chosen, found elsewhere than expected or assumed (DDIM's defaults where no scheduler is found) and oddities, such as unknown keys of a config,
 * go to the runtime's log as warnings, each with the names of the files.
 *
 * A folder that fewstep_model_save wrote names its files by their SHA-256 in `fewstep.json`. One with a file that is another is refused, CORRUPT_FILE: it
 * would be a mixture of two models. Where the change was meant, delete `fewstep.json`, or only its "parts" to keep a student's grid. Folders without such
 * hashes open as they are. A save that was killed after its commit is finished if the folder can be written to and no link leads out of it; if not, the
 * new model is read all the same. Where others have written into the folder after such a save, it is refused, CORRUPT_FILE, with the ways out.
 *
 * The caller owns `*out` and gives it to fewstep_model_destroy; it keeps the runtime alive. Any thread may call, also while the folder is saved into: what
 * opens is the model before or after.
 * Returns OK, INVALID_ARGUMENT, NOT_FOUND (no such file or tensor), IO, CORRUPT_FILE (also a Git LFS pointer), SHAPE (a tensor of the wrong shape),
 * UNSUPPORTED (another model class or option, pickled weights, whole numbers without a record of what they stand for), VERSION_MISMATCH (a file of a later
 * fewstep), NUMERIC (weights that are not finite) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_model_open(const fewstep_runtime *runtime,
                                  const char *path,
                                  fewstep_model **out);

/**
 * Opens a model folder with the weights of one variant: `diffusion_pytorch_model.fp16.safetensors` is "fp16", in one file or in shards. "" is the plain
 * file and nothing else; NULL leaves the choice to fewstep_model_open. `path` is a folder.
 *
 * Ownership, threads and codes as fewstep_model_open; NOT_FOUND where the folder has no such variant (the sentence names those that it has).
 */
FEWSTEP_API
fewstep_status fewstep_model_open_variant(const fewstep_runtime *runtime,
                                          const char *path,
                                          const char *variant,
                                          fewstep_model **out);

/**
 * The same from the bytes of a file of fewstep_model_save_file, which are copied: for models that ship inside another file.
 *
 * Ownership, threads and codes as fewstep_model_open.
 */
FEWSTEP_API fewstep_status fewstep_model_open_buffer(const fewstep_runtime *runtime, const void *data, size_t size, fewstep_model **out);

/**
 * The same from the files of a diffusers folder in memory: the texts of `config.json` and `scheduler_config.json` (NULL for diffusers' defaults) and the
 * bytes of the safetensors file. Everything is copied. A few-step student's grid is in none of them, nor what the numbers of a quantised model stand for,
 * which are UNSUPPORTED here: open such models with fewstep_model_open_buffer, from the bytes of a file of fewstep_model_save_file.
 *
 * Ownership, threads and codes as fewstep_model_open.
 */
FEWSTEP_API
fewstep_status fewstep_model_open_memory(const fewstep_runtime *runtime,
                                         const char *config_json,
                                         const char *scheduler_json,
                                         const void *weights,
                                         size_t weights_size,
                                         fewstep_model **out);

/**
 * Creates a model with random weights, as PyTorch would initialise it, from the text of a diffusers `config.json` and of a `scheduler_config.json`
 * (NULL for DDIM's defaults). The weights are a function of `seed`.
 *
 * Ownership and threads as fewstep_model_open. Returns OK, INVALID_ARGUMENT, CORRUPT_FILE (text that is not JSON), UNSUPPORTED, CANCELLED (by the runtime's
 * token) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_model_create(const fewstep_runtime *runtime,
                                    const char *config_json,
                                    const char *scheduler_json,
                                    uint64_t seed,
                                    fewstep_model **out);

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_student_options_init(fewstep_student_options *options, size_t struct_size);

/**
 * Makes an initial student of a teacher: a smaller architecture, random or copied weights, and the grid that it will be trained for. `options` may be
 * NULL for the teacher's own architecture. Its weights are f32, whatever the teacher's are stored in.
 *
 * Ownership and threads as fewstep_model_open. Returns OK, INVALID_ARGUMENT, CORRUPT_FILE (a config_patch that is not JSON), UNSUPPORTED, CANCELLED or
 * OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_model_derive_student(const fewstep_runtime *runtime,
                                            const fewstep_model *teacher,
                                            const fewstep_student_options *options,
                                            fewstep_model **out);

/**
 * Saves a model as a diffusers folder that `DDIMPipeline.from_pretrained` opens and fewstep_model_open reads back. The folder is created. `path` is UTF-8.
 * Weights are written in the types that the model holds them in: one of a file of f16 is saved as f16. fewstep_quantize makes a model of f16 or bfloat16 of one
 * in f32.
 *
 * The folder is saved as a whole: if the call fails, or the process or the machine dies meanwhile, it holds the model that was there before or the new one,
 * never a mixture. Other files in it stay, but for the shards of an older model. Links among its files are followed, modes are kept; a file of the
 * model's whose place is taken by something else, such as a pipe or a folder, is refused with IO. Two savers of one folder wait for each other, for at
 * most a minute (not on file systems without locks: there a mixture is possible, and refused when it is opened). The old and the new model lie side
 * by side for a moment: the disk needs room for both.
 *
 * Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, UNSUPPORTED (a quantised model, parameters of
 * each step, or a grid, that diffusers cannot express: use fewstep_model_save_file; a config of more text than is read), NUMERIC (a weight that is not finite,
 * which could not be opened again; nothing is written), IO, NOT_FOUND, VERSION_MISMATCH (an unfinished save of a later fewstep) or OUT_OF_MEMORY. After IO the
 * sentence tells whether the new model is already the one that opens (it could not be put into place whole, and the next save or opening goes on) or the old
 * one still is.
 */
FEWSTEP_API
fewstep_status fewstep_model_save(const fewstep_model *model,
                                  const char *path);

/**
 * Saves a model as one file, whatever its grid: safetensors with the configs in its metadata, which fewstep_model_open and fewstep_model_open_buffer
 * read back. It appears whole or not at all. `path` is UTF-8. Weights are written as fewstep_model_save does.
 *
 * Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, UNSUPPORTED (a config of more text than is read), NUMERIC (a weight
 * that is not finite, which could not be opened again; nothing is written), IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY; what holds for all files that are
 * written, and what IO means, is at the top of this header.
 */
FEWSTEP_API
fewstep_status fewstep_model_save_file(const fewstep_model *model,
                                       const char *path);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the model. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_model_get_info(const fewstep_model *model, fewstep_model_info *out);

/**
 * The `index`th of what a model takes beside images and timesteps: fills `*out`, whose struct_size the caller has set. fewstep_model_info tells how many there
 * are.
 *
 * Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT (also for an index beyond the last) or UNSUPPORTED (a model that cannot
 * be sampled).
 */
FEWSTEP_API
fewstep_status fewstep_model_condition(const fewstep_model *model,
                                       size_t index,
                                       fewstep_condition *out);

/**
 * The grid of a few-step student: writes its pairs to `pairs` and their number to `*count`; 0 for other models. With `pairs` NULL and `capacity` 0 only
 * the number is written.
 *
 * Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, or SHAPE (capacity is too small).
 */
FEWSTEP_API
fewstep_status fewstep_model_pairs(const fewstep_model *model,
                                   fewstep_step_pair *pairs,
                                   size_t capacity,
                                   size_t *count);

/**
 * Destroys a model. NULL is fine. Trainers and samplers made from it keep what they need.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the model (nothing happens then).
 */
FEWSTEP_API fewstep_status fewstep_model_destroy(fewstep_model *model);


/* ---------------------------------------------------------------------------
 * Datasets
 * --------------------------------------------------------------------------- */

/**
 * Unsigned bytes.
 */
#define FEWSTEP_DTYPE_U8 1

/**
 * 32-bit floats.
 */
#define FEWSTEP_DTYPE_F32 2

/**
 * Images one after the other, each channel a plane.
 */
#define FEWSTEP_LAYOUT_NCHW 1

/**
 * Images one after the other, the channels of a pixel side by side.
 */
#define FEWSTEP_LAYOUT_NHWC 2

/**
 * Images, and labels where there are classes, that trainers draw from. Immutable.
 */
typedef struct fewstep_dataset fewstep_dataset;

/**
 * Where a dataset's images lie and how they become numbers around 0. Fill it with fewstep_dataset_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_DTYPE_* of the values; u8 by default.
   */
  int32_t dtype;
  /**
   * FEWSTEP_LAYOUT_*; NHWC by default.
   */
  int32_t layout;
  /**
   * Channels of an image.
   */
  uint32_t channels;
  /**
   * Rows of an image.
   */
  uint32_t height;
  /**
   * Columns of an image.
   */
  uint32_t width;
  /**
   * Number of images.
   */
  size_t count;
  /**
   * The values; copied.
   */
  const void *data;
  /**
   * Bytes of data; must be what the numbers above make.
   */
  size_t data_size;
  /**
   * One label for each image, or NULL (the default); copied.
   */
  const int32_t *labels;
  /**
   * Elements of labels: count, or 0 without labels.
   */
  size_t label_count;
  /**
   * Value in the model's space = value in data * scale + shift. By default 1/127.5 and -1, which maps bytes to [-1, 1].
   */
  float scale;
  /**
   * See scale.
   */
  float shift;
  /**
   * What models are given with each image beside labels, such as planes: values for all images. NULL by default. Copied.
   */
  const fewstep_conditioning *conditionings;
  /**
   * Elements of conditionings.
   */
  size_t conditioning_count;
  /**
   * Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
   */
  size_t conditioning_stride;
} fewstep_dataset_options;

/**
 * What a dataset is. Set struct_size before fewstep_dataset_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * 1 when each image has a label.
   */
  int32_t has_labels;
  /**
   * Number of images.
   */
  uint64_t count;
  /**
   * Bytes in memory.
   */
  uint64_t bytes;
  /**
   * Channels of an image.
   */
  uint32_t channels;
  /**
   * Rows of an image.
   */
  uint32_t height;
  /**
   * Columns of an image.
   */
  uint32_t width;
  /**
   * One more than the largest label; 0 without labels.
   */
  uint32_t classes;
  /**
   * Files and folders that fewstep_dataset_open_folder left out.
   */
  uint64_t skipped;
  /**
   * Those of them that fewstep_dataset_skipped tells of: all, but at most 10,000.
   */
  uint32_t skipped_listed;
  /**
   * Names that fewstep_dataset_class_name tells: those of the folders that are classes; 0 for other datasets.
   */
  uint32_t class_names;
} fewstep_dataset_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_dataset_options_init(fewstep_dataset_options *options, size_t struct_size);

/**
 * Makes a dataset from the host's arrays, which are copied.
 *
 * The caller owns `*out` and gives it to fewstep_dataset_destroy; it keeps the runtime alive. Any thread may call.
 * Returns OK, INVALID_ARGUMENT (also for a negative label), SHAPE, NUMERIC (a value that is not finite) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_create(const fewstep_runtime *runtime,
                                      const fewstep_dataset_options *options,
                                      fewstep_dataset **out);

/**
 * Reads a dataset from a NumPy `.npz` archive (numpy.savez, savez_compressed): images [M,H,W] (one channel) or [M,H,W,C] of floats of 16 to 64 bits,
 * integers of 8 to 64 bits or bools in either byte order, and labels [M] or [M,1] of any integer type where `labels_name` is not NULL. Values become
 * float32 first; value in the model's space = value in the file * scale + shift; 1/127.5 and -1 map bytes to [-1, 1].
 *
 * What an archive says is checked against its own length before there is memory for it. A deflated array of more than 16 MiB that would unpack to more
 * than 512 times what it takes in the file is UNSUPPORTED: it was made to cost, or should be saved uncompressed.
 *
 * Ownership and threads as fewstep_dataset_create.
 * Returns OK, INVALID_ARGUMENT, NOT_FOUND (the file, or an array in it), IO, CORRUPT_FILE, VERSION_MISMATCH (a later npy format), SHAPE, UNSUPPORTED,
 * NUMERIC or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_open_npz(const fewstep_runtime *runtime,
                                        const char *path,
                                        const char *images_name,
                                        const char *labels_name,
                                        float scale,
                                        float shift,
                                        fewstep_dataset **out);

/**
 * Reads a dataset from NumPy's `.npy` files (numpy.save): images from one, and labels from another where `labels_path` is not NULL. What they may hold, and
 * `scale` and `shift`, as fewstep_dataset_open_npz.
 *
 * Ownership, threads and codes as fewstep_dataset_create; also NOT_FOUND, IO, CORRUPT_FILE, VERSION_MISMATCH (a later npy format) and UNSUPPORTED.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_open_npy(const fewstep_runtime *runtime,
                                        const char *images_path,
                                        const char *labels_path,
                                        float scale,
                                        float shift,
                                        fewstep_dataset **out);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_dataset_get_info(const fewstep_dataset *dataset, fewstep_dataset_info *out);

/**
 * Destroys a dataset. NULL is fine. Trainers made from it keep what they need.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the dataset (nothing happens then).
 */
FEWSTEP_API fewstep_status fewstep_dataset_destroy(fewstep_dataset *dataset);


/* ---------------------------------------------------------------------------
 * Datasets of the pictures in a folder
 * --------------------------------------------------------------------------- */

/**
 * Folders are classes where there are some and no picture lies beside them; pictures beside folders are INVALID_ARGUMENT, for it could be meant either way.
 */
#define FEWSTEP_FOLDERS_AUTO 1

/**
 * The pictures lie in the folder itself, and have no labels; folders in it are left out.
 */
#define FEWSTEP_FOLDERS_IGNORED 2

/**
 * Each folder in it is a class; files beside them are left out.
 */
#define FEWSTEP_FOLDERS_CLASSES 3

/**
 * A picture of another shape is cut: what is beyond the shape of the images, as much at either end.
 */
#define FEWSTEP_FIT_CROP 1

/**
 * A picture of another shape is stretched.
 */
#define FEWSTEP_FIT_STRETCH 2

/**
 * What is made of a folder's pictures. Fill it with fewstep_folder_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Channels of the images: 3 (RGB, the default) or 1 (grey: 0.299 red + 0.587 green + 0.114 blue).
   */
  uint32_t channels;
  /**
   * Rows of the images; 0 (the default), with a width of 0, for the size of the first picture that can be read.
   */
  uint32_t height;
  /**
   * Columns of the images; see height.
   */
  uint32_t width;
  /**
   * FEWSTEP_FOLDERS_*; AUTO by default.
   */
  int32_t folders;
  /**
   * FEWSTEP_FIT_*; CROP by default.
   */
  int32_t fit;
  /**
   * 1: each image is there a second time, mirrored left to right; these copies come behind all others, in the same order. 0 by default.
   */
  int32_t mirror;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Value in the model's space = value of the picture, 0 to 255, * scale + shift. By default 1/127.5 and -1: images are in [-1, 1].
   */
  float scale;
  /**
   * See scale.
   */
  float shift;
  /**
   * Images of each class (or of the folder, without classes) at most, mirrored copies not counted: those whose names come first. 0 (the default) for all.
   */
  uint64_t max_images;
  /**
   * Bytes of the images in memory at most, four for each value; more is OUT_OF_MEMORY, before the memory is asked for. 4 GiB by default.
   */
  uint64_t max_bytes;
  /**
   * Pixels of a picture at most; a file that says it has more is left out before it is decoded. Decoding one takes up to 8 bytes a pixel for a while, or 23
   * of a JPEG file. 2^26 by default.
   */
  uint64_t max_pixels;
  /**
   * Bytes of a file at most; a longer one is left out before it is read. 256 MiB by default.
   */
  uint64_t max_file_bytes;
  /**
   * Stops the call with CANCELLED, between two files; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
} fewstep_folder_options;

/**
 * A file or folder that was left out of a dataset. Set struct_size before fewstep_dataset_skipped fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_STATUS_*: of what kind the reason is. CORRUPT_FILE for damaged pictures and files that are too long, UNSUPPORTED for what is none, or too large,
   * or in the wrong place, IO and NOT_FOUND for what could not be read.
   */
  fewstep_status status;
  /**
   * Where it lies: the path that was given to fewstep_dataset_open_folder, and its own in it. Lives as long as the dataset.
   */
  const char *path;
  /**
   * Why it was left out, a sentence. Lives as long as the dataset.
   */
  const char *reason;
} fewstep_skipped;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_folder_options_init(fewstep_folder_options *options, size_t struct_size);

/**
 * Makes a dataset of the pictures in a folder: PNG and JPEG files, whatever their names end in. Where folders are classes, those in `path` get labels from 0
 * on in the order of their names, and the pictures that lie in them theirs; a class without a picture keeps its label. Folders in those are not looked into,
 * and names that begin with a dot are left out. Links are followed. Names are sorted by their bytes, so the same folder gives the same bytes.
 *
 * Pictures become images of one size: they are cut or stretched to its shape (`fit`), then resampled by the Catmull-Rom spline (Pillow's BICUBIC), which is
 * widened where they become smaller, so that nothing aliases. 16 bits a channel count in full; palettes are looked up; what is transparent lies on white;
 * the orientation that a camera noted is applied; colour profiles are not. Of an animated file the first picture counts.
 *
 * A file that cannot be read, is no picture, is damaged, was cut off or is beyond a limit is left out: fewstep_dataset_info counts such files,
 * fewstep_dataset_skipped tells the reason for each, and the runtime's log has a warning. Memory that the system refuses ends the call instead. Bits that
 * changed in a JPEG file are not always found, for the format has no checksum.
 *
 * JPEG files are decoded on a thread of the library that ends with its file, for the sake of the caller's stack.
 *
 * `options` may be NULL for the defaults. `progress` may be NULL, is called after each file and reports FEWSTEP_PHASE_OPEN; `user` goes to it.
 * Ownership and threads as fewstep_dataset_create.
 * Returns OK, INVALID_ARGUMENT (also for pictures beside folders), NOT_FOUND (no such folder, or no picture in it that can be read; the sentence has the first
 * reasons), IO, UNSUPPORTED (more than 2^24 names), OUT_OF_MEMORY (also for more than max_bytes) or CANCELLED.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_open_folder(const fewstep_runtime *runtime,
                                           const char *path,
                                           const fewstep_folder_options *options,
                                           fewstep_progress_callback progress,
                                           void *user,
                                           fewstep_dataset **out);

/**
 * Fills `*out`, whose struct_size the caller has set, with what was left out and why: `index` is less than the info's skipped_listed.
 *
 * Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_dataset_skipped(const fewstep_dataset *dataset, size_t index, fewstep_skipped *out);

/**
 * Writes to `*out` the name of the folder whose pictures have this label, which is less than the info's class_names. What is not UTF-8 of the name is
 * replaced. The text lives as long as the dataset.
 *
 * Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_class_name(const fewstep_dataset *dataset,
                                          size_t label,
                                          const char **out);


/* ---------------------------------------------------------------------------
 * Datasets that the host fills
 * --------------------------------------------------------------------------- */

/**
 * A dataset that a callback fills. Fill it with fewstep_fill_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_DTYPE_* of the values that are written; u8 by default.
   */
  int32_t dtype;
  /**
   * FEWSTEP_LAYOUT_*; NHWC by default.
   */
  int32_t layout;
  /**
   * Channels of an image.
   */
  uint32_t channels;
  /**
   * Rows of an image.
   */
  uint32_t height;
  /**
   * Columns of an image.
   */
  uint32_t width;
  /**
   * Images of one call at most, 1 to 65536; 64 by default.
   */
  uint32_t batch;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Number of images.
   */
  size_t count;
  /**
   * Value in the model's space = value written * scale + shift. By default 1/127.5 and -1, which maps bytes to [-1, 1].
   */
  float scale;
  /**
   * See scale.
   */
  float shift;
  /**
   * What is written for each image beside it, such as class labels: what fewstep_model_condition tells of a model, or what the host fills in. Of labels,
   * `classes` is how many there are, or 0 where that is not to be checked. NULL by default. Copied.
   */
  const fewstep_condition *conditions;
  /**
   * Elements of conditions.
   */
  size_t condition_count;
  /**
   * Bytes from one condition to the next; sizeof(fewstep_condition).
   */
  size_t condition_stride;
  /**
   * Stops the call with CANCELLED, between two calls of the callback; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
} fewstep_fill_options;

/**
 * What is to be written for some images. Only valid inside the callback. Later versions may have more fields: read no more than struct_size bytes.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Images of this call (N): all that are left, but no more than a batch.
   */
  uint32_t count;
  /**
   * The first one's number; the others follow.
   */
  uint64_t first;
  /**
   * A place for the images' values, of the type and in the layout that the options say. Bytes that are left as they are make a float NaN and a byte 255.
   */
  void *images;
  /**
   * Bytes of images.
   */
  size_t images_size;
  /**
   * A place for each of the options' conditions: class labels int32_t [N], tokens float [N, length, width], vectors float [N, width], planes float
   * [N, channels, H, W]. Bytes that are left as they are make a label -1.
   */
  void *const *conditions;
  /**
   * Elements of conditions.
   */
  size_t condition_count;
} fewstep_fill;

/**
 * Writes what `batch` asks for, on the thread that made the call, and returns 0; anything else cancels: the call returns FEWSTEP_STATUS_CANCELLED. Must return
 * normally (no C++ exception, no longjmp).
 */
typedef int32_t (*fewstep_fill_callback)(void *user, const fewstep_fill *batch);

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_fill_options_init(fewstep_fill_options *options, size_t struct_size);

/**
 * Makes a dataset of what a callback writes, a batch at a time: for data in a form of the host's own, of which there need never be more than a batch beside
 * the dataset. `fill` is called for images 0 to count - 1 in their order, only during this call, and may cancel it; `user` goes to it.
 *
 * Ownership and threads as fewstep_dataset_create.
 * Returns OK, INVALID_ARGUMENT (also for a label that is negative, not written or beyond its classes), SHAPE (sizes that overflow), NUMERIC (a value that is
 * not finite, or a float that was not written), CANCELLED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_dataset_create_filled(const fewstep_runtime *runtime,
                                             const fewstep_fill_options *options,
                                             fewstep_fill_callback fill,
                                             void *user,
                                             fewstep_dataset **out);


/* ---------------------------------------------------------------------------
 * Precisions
 * --------------------------------------------------------------------------- */

/**
 * 32-bit floats; the layers of a quantised model in whole numbers where the device has kernels for them.
 */
#define FEWSTEP_PRECISION_F32 0

/**
 * CUDA: activations and products in 16-bit IEEE floats with sums in f32. Twice the speed and half the memory of f32 and more where tensor cores multiply.
 */
#define FEWSTEP_PRECISION_F16 1

/**
 * CUDA, compute capability 8.0 or later: the same in bfloat16, which has the range of f32 and 8 bits of precision. CPU with AMX for bfloat16 (Intel, Sapphire
 * Rapids and later; Linux 5.16): convolutions, linear layers and their gradients multiply in it where they have channels and rows enough, with sums in f32;
 * all else is f32 (so a sample may differ in bfloat16's last bits between batches of under 4 and larger ones). Making such a sampler, evaluator or trainer
 * asks the system for the tiles, as FEWSTEP_DEVICE_CPU tells. Of a quantised model what stays in float is computed so, whole numbers as ever: its fastest way.
 * Where the tiles cannot be had it is refused with FEWSTEP_STATUS_UNSUPPORTED; the error says why.
 */
#define FEWSTEP_PRECISION_BF16 2


/* ---------------------------------------------------------------------------
 * Evaluators: one evaluation of a network
 * --------------------------------------------------------------------------- */

/**
 * A planned evaluation of a model's network with its memory. One thread at a time; many evaluators may share one model.
 */
typedef struct fewstep_evaluator fewstep_evaluator;

/**
 * What an evaluation is planned for. Fill it with fewstep_evaluator_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Images side by side; 1 by default.
   */
  uint32_t batch;
  /**
   * Height of the images; 0 (the default) for the model's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the model's.
   */
  uint32_t width;
  /**
   * FEWSTEP_PRECISION_*: what the network computes in; f32 by default.
   */
  int32_t precision;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Stops fewstep_evaluator_create with CANCELLED; only read during that call. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
} fewstep_evaluator_options;

/**
 * What one evaluation reads. Fill it with fewstep_evaluation_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Noisy images x_t [N,C,H,W].
   */
  const float *x_t;
  /**
   * Elements of x_t: N*C*H*W.
   */
  size_t x_t_count;
  /**
   * Timestep of each image; any finite number, but networks are trained on 0 to num_train_timesteps - 1, and one with rounded inputs takes those alone that the
   * steps of its own grid begin at.
   */
  const float *timesteps;
  /**
   * Elements of timesteps: N.
   */
  size_t timestep_count;
  /**
   * Conditionings; all that fewstep_model_condition lists. NULL by default.
   */
  const fewstep_conditioning *conditionings;
  /**
   * Elements of conditionings.
   */
  size_t conditioning_count;
  /**
   * Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
   */
  size_t conditioning_stride;
} fewstep_evaluation;

/**
 * What an evaluator is. Set struct_size before fewstep_evaluator_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * Images side by side (N).
   */
  uint32_t batch;
  /**
   * Channels of x_t (C).
   */
  uint32_t channels;
  /**
   * Channels of the output: those of x_t, or twice as many where the network gives a variance behind its prediction.
   */
  uint32_t out_channels;
  /**
   * Rows of an image (H).
   */
  uint32_t height;
  /**
   * Columns of an image (W).
   */
  uint32_t width;
  /**
   * All the memory that the evaluator holds, on the host and on a GPU, beside the model's weights.
   */
  uint64_t total_bytes;
} fewstep_evaluator_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_evaluator_options_init(fewstep_evaluator_options *options, size_t struct_size);

/**
 * Writes the defaults to `*evaluation`, whose size the caller gives: sizeof *evaluation.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_evaluation_init(fewstep_evaluation *evaluation, size_t struct_size);

/**
 * Plans an evaluation of a model's network and takes all of its memory. For whoever has a sampler of their own, or looks at what a network says. `options`
 * may be NULL for the defaults. The weights are shared.
 *
 * The caller owns `*out` and gives it to fewstep_evaluator_destroy; it keeps what it needs of runtime and model alive. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, SHAPE (a size that the model cannot take), UNSUPPORTED, CANCELLED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_evaluator_create(const fewstep_runtime *runtime,
                                        const fewstep_model *model,
                                        const fewstep_evaluator_options *options,
                                        fewstep_evaluator **out);

/**
 * Evaluates the network once: its output as it is, not clipped and not guided, [N,out_channels,H,W], to `out`, which has room for `capacity` elements. What
 * the output reads as is the model's prediction type. Waits until a GPU is done.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT (also for labels out of range, or a conditioning that is missing, or that the model does not take),
 * SHAPE, NUMERIC (a number that is not finite, given or computed), UNSUPPORTED (a timestep off the grid of a model with rounded inputs),
 * CANCELLED (by the runtime's token), STATE or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_evaluator_run(fewstep_evaluator *evaluator,
                                     const fewstep_evaluation *evaluation,
                                     float *out,
                                     size_t capacity);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
 */
FEWSTEP_API fewstep_status fewstep_evaluator_get_info(fewstep_evaluator *evaluator, fewstep_evaluator_info *out);

/**
 * Destroys an evaluator. NULL is fine.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the evaluator (nothing happens then).
 */
FEWSTEP_API fewstep_status fewstep_evaluator_destroy(fewstep_evaluator *evaluator);


/* ---------------------------------------------------------------------------
 * Trajectories of teachers that are the host's, or not there any more
 * --------------------------------------------------------------------------- */

/**
 * A teacher's states at the ends of a student's steps, from many noises. Immutable.
 */
typedef struct fewstep_trajectories fewstep_trajectories;

/**
 * A teacher of the host's: writes its predictions [N,C,H,W] for `at` (x_t, one timestep for all, class labels and other conditionings) to `prediction`, which
 * has `count` elements, all of which it must write. N is at most `batch`, less in the last call. Only valid inside the callback, which runs on the thread that
 * made the call. Return 0 to go on; anything else ends the call with CANCELLED. A fewstep_evaluator may be run in it. Must return normally (no C++
 * exception, no longjmp).
 */
typedef int32_t (*fewstep_predict_callback)(void *user, const fewstep_evaluation *at, float *prediction, size_t count);

/**
 * How trajectories of a teacher of the host's are computed. Fill it with fewstep_trajectories_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_PREDICTION_*: what the teacher predicts; EPSILON by default.
   */
  int32_t prediction;
  /**
   * The teacher.
   */
  fewstep_predict_callback predict;
  /**
   * Handed to predict.
   */
  void *user;
  /**
   * The student's grid, explicitly. NULL (the default), with steps 0: the grid that the student was derived with.
   */
  const fewstep_step_pair *pairs;
  /**
   * Elements of pairs, at most 1000.
   */
  size_t pair_count;
  /**
   * Bytes from one pair to the next; sizeof(fewstep_step_pair).
   */
  size_t pair_stride;
  /**
   * Sampler steps of the student, evenly spread ("trailing"), instead of pairs; 0 by default.
   */
  uint32_t steps;
  /**
   * Order of the teacher's solver, as teacher_order of fewstep_trainer_options; 1 by default.
   */
  uint32_t teacher_order;
  /**
   * Teacher steps inside each step of the student, as substeps of fewstep_trainer_options; 0 by default.
   */
  uint32_t substeps;
  /**
   * Trajectories; 8192 by default.
   */
  uint32_t count;
  /**
   * Trajectories that are computed side by side; 128 by default.
   */
  uint32_t batch;
  /**
   * FEWSTEP_CLIP_NONE (the default), FEWSTEP_CLIP_RANGE or FEWSTEP_CLIP_DYNAMIC: what is done to the image that the teacher predicts in each of its steps.
   */
  int32_t clip;
  /**
   * Key of noises and labels; 0 by default.
   */
  uint64_t seed;
  /**
   * Height of the images; 0 (the default) for the student's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the student's.
   */
  uint32_t width;
  /**
   * FEWSTEP_CLIP_RANGE: 1 by default.
   */
  double clip_range;
  /**
   * FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
   */
  double threshold_ratio;
  /**
   * FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
   */
  double threshold_max;
} fewstep_trajectories_options;

/**
 * What trajectories are. Set struct_size before fewstep_trajectories_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * How many there are.
   */
  uint32_t count;
  /**
   * Steps of the student's grid; each trajectory has one state more.
   */
  uint32_t pair_count;
  /**
   * Teacher steps inside each of them.
   */
  uint32_t substeps;
  /**
   * Channels of a state.
   */
  uint32_t channels;
  /**
   * Rows of a state.
   */
  uint32_t height;
  /**
   * Columns of a state.
   */
  uint32_t width;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Bytes in memory.
   */
  uint64_t bytes;
} fewstep_trajectories_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_trajectories_options_init(fewstep_trajectories_options *options, size_t struct_size);

/**
 * Computes trajectories of a teacher of the host's, any function that predicts what a network would: the library solves the equation, the host predicts. The
 * teacher has the noise schedule of `student`, and is given what the student takes: class labels are drawn evenly, other conditions from the rows of `dataset`,
 * which may be NULL without them. `progress` (FEWSTEP_PHASE_PREPARE, in teacher steps of one trajectory) and `cancel` may be NULL.
 *
 * The caller owns `*out` and gives it to fewstep_trajectories_destroy. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, SHAPE, UNSUPPORTED, CANCELLED, NUMERIC (a prediction that is not finite, states out of range) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_trajectories_create(const fewstep_runtime *runtime,
                                           const fewstep_model *student,
                                           const fewstep_dataset *dataset,
                                           const fewstep_trajectories_options *options,
                                           fewstep_progress_callback progress,
                                           void *user,
                                           const fewstep_cancel_token *cancel,
                                           fewstep_trajectories **out);

/**
 * Opens trajectories that fewstep_trajectories_save has written, for a student that takes what they were made with. `path` is UTF-8.
 *
 * The caller owns `*out` and gives it to fewstep_trajectories_destroy. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, NOT_FOUND, IO, CORRUPT_FILE, VERSION_MISMATCH, SHAPE (another student's) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_trajectories_open(const fewstep_runtime *runtime,
                                         const fewstep_model *student,
                                         const char *path,
                                         fewstep_trajectories **out);

/**
 * Saves trajectories as one safetensors file, which appears whole or not at all. `path` is UTF-8.
 *
 * Any thread may call, also while others use them. Returns OK, INVALID_ARGUMENT, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
 */
FEWSTEP_API fewstep_status fewstep_trajectories_save(const fewstep_trajectories *trajectories, const char *path);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the trajectories. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_trajectories_get_info(const fewstep_trajectories *trajectories, fewstep_trajectories_info *out);

/**
 * Destroys trajectories. NULL is fine. Trainers made from them keep what they need.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses them (nothing happens then).
 */
FEWSTEP_API fewstep_status fewstep_trajectories_destroy(fewstep_trajectories *trajectories);


/* ---------------------------------------------------------------------------
 * Trainers: what training is made with
 * --------------------------------------------------------------------------- */

/**
 * Match the teacher's prediction at the same noisy image and timestep. Needs a teacher and a dataset.
 */
#define FEWSTEP_OBJECTIVE_OUTPUT 1

/**
 * Match the teacher's next cached state, from the teacher's own state. Needs a teacher, and a dataset where the teacher takes more than class
 * labels; or `trajectories`, and neither.
 */
#define FEWSTEP_OBJECTIVE_TEACHER_FORCED 2

/**
 * Match the teacher's next cached state of the same noise, from the state that the student reaches by itself. Needs what TEACHER_FORCED needs.
 */
#define FEWSTEP_OBJECTIVE_ON_POLICY 3

/**
 * Match the clean image: trains a teacher from data. Needs a dataset.
 */
#define FEWSTEP_OBJECTIVE_DENOISE 4

/**
 * Match the state where the teacher arrives, in its own steps, from the state that the student reaches by itself: the teacher walks anew in every training
 * step (substeps, at most 64: give a small number, since the default is meant for trajectories that are computed once). Needs a teacher, and what
 * TEACHER_FORCED needs.
 */
#define FEWSTEP_OBJECTIVE_RESOLVE 5

/**
 * Match all of the teacher's cached states along the student's whole run from their noise, with gradient through the chain of its steps: the mean over the
 * steps, of which the grid has at most 32. A training step evaluates the student once for each step of its grid, and all but the last once more on the way
 * back; memory is about that of one evaluation. Needs what TEACHER_FORCED needs.
 */
#define FEWSTEP_OBJECTIVE_ROLLOUT 6

/**
 * Match the state where the teacher arrives, in its own steps, from a noisy image at the start of a step of the grid: progressive distillation, where the
 * teacher is the student of twice as many steps and substeps is 2; with any teacher it trains on states of data, which the student's own may be mixed with as
 * another term. Needs a teacher and a dataset, and no trajectories.
 */
#define FEWSTEP_OBJECTIVE_PROGRESSIVE 7

/**
 * Match the state where the moving average of the student itself lands from the teacher's next cached state, from the teacher's own state: the student learns to
 * do in one step what the teacher's next step and one of its own older self do in two (TRACT, arXiv 2303.04248). steps or pairs are the teacher's steps then, and
 * the student takes self_teacher_steps, each of which goes over as many of them; snapshots have that grid. Not beside objectives whose student takes the grid's
 * steps. Needs what TEACHER_FORCED needs.
 */
#define FEWSTEP_OBJECTIVE_SELF_TEACHER 8

/**
 * The error of the clean image itself.
 */
#define FEWSTEP_WEIGHT_CONST 1

/**
 * The error of the noise: signal-to-noise ratio.
 */
#define FEWSTEP_WEIGHT_SNR 2

/**
 * Signal-to-noise ratio, at least 1.
 */
#define FEWSTEP_WEIGHT_TRUNC_SNR 3

/**
 * The error of the velocity: signal-to-noise ratio + 1.
 */
#define FEWSTEP_WEIGHT_V 4

/**
 * The error of the state that the step lands on; for the objectives on trajectories: not OUTPUT, not DENOISE.
 */
#define FEWSTEP_WEIGHT_STATE 5

/**
 * Distributions are not compared.
 */
#define FEWSTEP_DISTRIBUTION_NONE 0

/**
 * The images that the student's runs end in are to be spread as the ends of the teacher's trajectories are, in features of fixed networks with random weights
 * (arXiv 2604.22379): the unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 4), which may be a little below 0, with the cubic kernel of
 * arXiv 1801.01401. The gradient flows through all steps of the run, of which the grid has at most 32, as that of ROLLOUT, with which it shares draws and
 * evaluations. Needs what TEACHER_FORCED needs, a batch of 2 to 4096, and f32. It does not say which noise an image comes from: give it beside an objective.
 */
#define FEWSTEP_DISTRIBUTION_RANDOM_NETS 1

/**
 * |d|.
 */
#define FEWSTEP_NORM_L1 1

/**
 * d^2.
 */
#define FEWSTEP_NORM_L2 2

/**
 * d^2/2 where |d| is at most huber_delta, huber_delta (|d| - huber_delta/2) elsewhere.
 */
#define FEWSTEP_NORM_HUBER 3

/**
 * The learning rate stays constant after the warm-up.
 */
#define FEWSTEP_DECAY_CONSTANT 1

/**
 * The learning rate falls to 0 at total_steps along half a cosine.
 */
#define FEWSTEP_DECAY_COSINE 2

/**
 * The learning rate stays constant after the warm-up and falls to 0 over the last fifth of total_steps, as 1 - sqrt(x) (Hägele et al. 2024): a run that is
 * saved before may be resumed with more total_steps (FEWSTEP_RESUME_SCHEDULE) as if it had had them from the start.
 */
#define FEWSTEP_DECAY_STABLE 3

/**
 * AdamW for all parameters (Loshchilov and Hutter 2019).
 */
#define FEWSTEP_OPTIMIZER_ADAMW 1

/**
 * Muon for the matrices inside the network, AdamW for all others: the first and last layers, embeddings of conditions, biases, norms and scales (Jordan 2024,
 * "Muon: An optimizer for hidden layers in neural networks"). The sum of a matrix's gradients is made orthogonal before the step, so that all directions in it
 * learn equally fast, whatever the size of the gradient. That takes about 3 n/m of the time of a layer and its gradients, n the smaller side of its matrix and m
 * the pixels of a batch that it is applied to. benches/README.md has what it wins.
 */
#define FEWSTEP_OPTIMIZER_MUON 2

/**
 * trajectory_clip: clamp or threshold as the scheduler config of the teacher says, so that it runs as its own sampler runs it.
 */
#define FEWSTEP_CLIP_FROM_TEACHER 3

/**
 * One term of a loss, which is the weighted sum of its terms. Set every field; those that a later version adds may be 0.
 */
typedef struct {
  /**
   * FEWSTEP_OBJECTIVE_*.
   */
  int32_t objective;
  /**
   * FEWSTEP_WEIGHT_*: weight of each timestep.
   */
  int32_t step_weight;
  /**
   * FEWSTEP_NORM_*.
   */
  int32_t norm;
  /**
   * Factor on this term.
   */
  float weight;
  /**
   * For FEWSTEP_NORM_HUBER.
   */
  float huber_delta;
  /**
   * For FEWSTEP_OBJECTIVE_OUTPUT; 0 for none: steps of a warm-up. In the first of them the student's prediction, over the batch, is compared after the best
   * common factor, so that a student that is too small for the whole of its teacher's output learns its form first (arXiv 2605.19729); that is granted less
   * and less, and after them not at all. The loss that a step reports is the one that is left.
   */
  uint32_t linear_fit_steps;
} fewstep_term;

/**
 * A further term of the loss: a block of the student is to give what a block of the teacher gives for the same x_t. What the student's gives [N,H,W,C] is
 * brought to the teacher's channels by a 1x1 convolution that learns with the student and is in no snapshot (FitNets, Romero et al. 2015); their difference is
 * divided by the variance of the teacher's feature over the batch for FEWSTEP_NORM_L2, by its root for FEWSTEP_NORM_L1. Set every field; those that a later
 * version adds may be 0.
 */
typedef struct {
  /**
   * FEWSTEP_OBJECTIVE_*: both networks are evaluated where a term of it is; terms and features there share draws and evaluations. Not ROLLOUT.
   */
  int32_t objective;
  /**
   * FEWSTEP_NORM_L1 or FEWSTEP_NORM_L2.
   */
  int32_t norm;
  /**
   * Path of the student's block, as diffusers calls the module: "down_blocks.0", "mid_block", "up_blocks.1.resnets.0". A path that there is not is an error
   * that lists those that there are. UTF-8, read during the call.
   */
  const char *student;
  /**
   * Path of the teacher's block; NULL for the same path. Its height and width must be those of the student's.
   */
  const char *teacher;
  /**
   * Steps over which the factor falls to 0, evenly, so that features lead and the other terms finish; 0 for a factor that stays. At 0 it costs the time that
   * it did before: save, and go on without features by FEWSTEP_RESUME_LOSS.
   */
  uint64_t decay_steps;
  /**
   * Factor on this term.
   */
  float weight;
  /**
   * 0.
   */
  uint32_t reserved;
} fewstep_feature;

/**
 * Everything that fixes a training run, beside the networks and the data. Fill it with fewstep_trainer_options_init, then change fields; terms, features or
 * a distribution must be given.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Images of a step, or of each of its parts (gradient_accumulation_steps); 64 by default.
   */
  uint32_t batch;
  /**
   * Key of every random draw; 0 by default.
   */
  uint64_t seed;
  /**
   * The loss: one term or more, or features. Terms that are evaluated at the same points (OUTPUT and DENOISE are, and ON_POLICY and RESOLVE) share their
   * draws and the student's evaluation, so that several of them take little more time than one.
   */
  const fewstep_term *terms;
  /**
   * Elements of terms.
   */
  size_t term_count;
  /**
   * Bytes from one term to the next; sizeof(fewstep_term).
   */
  size_t term_stride;
  /**
   * The student's grid, explicitly. NULL (the default), with steps 0: the grid that the student was derived with.
   */
  const fewstep_step_pair *pairs;
  /**
   * Elements of pairs, at most 1000.
   */
  size_t pair_count;
  /**
   * Bytes from one pair to the next; sizeof(fewstep_step_pair).
   */
  size_t pair_stride;
  /**
   * Sampler steps of the student, evenly spread ("trailing"), instead of pairs; 0 by default.
   */
  uint32_t steps;
  /**
   * Teacher steps inside each step of the student, at most 1000 in all; 0 (the default) for 32 or a little more in all with DDIM, 24 and 20 with
   * teacher_order 2 and 3. What a student is trained to match is no closer to the teacher than these steps: fewstep_trainer_target_error measures how close.
   */
  uint32_t substeps;
  /**
   * Teacher trajectories that are computed before training and kept in memory; 8192 by default.
   */
  uint32_t cache_size;
  /**
   * Trajectories that are computed side by side; 128 by default.
   */
  uint32_t cache_batch;
  /**
   * Peak learning rate of what AdamW updates; 1e-3 by default.
   */
  double learning_rate;
  /**
   * Steps of linear warm-up; 100 by default.
   */
  uint64_t warmup_steps;
  /**
   * Where the cosine ends, or the last fifth that decays, and by which scale_learning_rate's last step is told; 1000 by default.
   */
  uint64_t total_steps;
  /**
   * AdamW; 0.9 by default.
   */
  double beta1;
  /**
   * AdamW; 0.999 by default.
   */
  double beta2;
  /**
   * AdamW; 1e-8 by default.
   */
  double eps;
  /**
   * Decoupled weight decay, multiplied with the learning rate; 0 by default.
   */
  double weight_decay;
  /**
   * Largest global gradient norm; 1 by default, infinity for no clipping.
   */
  double clip_norm;
  /**
   * Decay of the weights' moving average if it is exponential, in [0, 1); below 0 (the default) it is over a share of the run, ema_relative_width.
   */
  double ema_decay;
  /**
   * Height of the images; 0 (the default) for the student's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the student's.
   */
  uint32_t width;
  /**
   * FEWSTEP_DECAY_*; the cosine by default.
   */
  int32_t decay;
  /**
   * FEWSTEP_PRECISION_*: what the networks compute in while training; f32 by default. Weights, statistics, losses and the update are f32 in any case; in f16
   * the loss is scaled, and a step whose gradients overflow is done again at half the scale.
   */
  int32_t precision;
  /**
   * What is done to the image that the teacher predicts in each step of its trajectories: FEWSTEP_CLIP_FROM_TEACHER (the default), or FEWSTEP_CLIP_NONE,
   * FEWSTEP_CLIP_RANGE or FEWSTEP_CLIP_DYNAMIC with the fields below. The objectives on trajectories match the states that come of it. Nothing else clips:
   * not the student's own steps in ON_POLICY and the like, since a few-step student is sampled without; nor the prediction that OUTPUT matches, which is the
   * network's.
   * A teacher that needs it shows at timesteps that are nearly pure noise, where an error of its noise is a thousand times that of its image: without it
   * its states can leave the range of images for good. States that are far out of range are a warning in the runtime's log, once for the trajectories.
   */
  int32_t trajectory_clip;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * FEWSTEP_CLIP_RANGE: 1 by default.
   */
  double clip_range;
  /**
   * FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
   */
  double threshold_ratio;
  /**
   * FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
   */
  double threshold_max;
  /**
   * Stops fewstep_trainer_create with CANCELLED; only read during that call. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
  /**
   * Classifier-free guidance of the teacher (whose features are those of its evaluation with the labels), on its trajectories, where its output is matched
   * and where it walks for RESOLVE, so that a student learns the guided teacher and samples without guidance; see fewstep_sampler_options. 1 (the default)
   * for none.
   */
  double guidance_scale;
  /**
   * The class that the teacher was trained to read as none; -1 (the default) for not given.
   */
  int32_t null_label;
  /**
   * 0.
   */
  uint32_t reserved2;
  /**
   * Of a quantised student: peak learning rate of the scales of its whole numbers, as a share of each scale (3e-4 changes them by that much a step), with
   * the warm-up and the decay of learning_rate; from nine tenths of total_steps on they stay, whatever the decay. 0 (the default) leaves them as they were
   * calibrated. Scales of groups of weights (FEWSTEP_QUANTIZE_W4) do not learn: UNSUPPORTED.
   */
  double scale_learning_rate;
  /**
   * More of the loss: blocks of both networks that are to agree; NULL (the default) for none. They need a teacher.
   */
  const fewstep_feature *features;
  /**
   * Elements of features.
   */
  size_t feature_count;
  /**
   * Bytes from one feature to the next; sizeof(fewstep_feature).
   */
  size_t feature_stride;
  /**
   * Solver of the teacher on its trajectories and where it walks for RESOLVE and PROGRESSIVE: 1 (the default) is DDIM, 2 and 3 are multistep DPM-Solver++,
   * which comes closer with as many evaluations (20 steps of order 3 about as close as 32 of DDIM).
   */
  uint32_t teacher_order;
  /**
   * Training steps after which all trajectories are replaced by fresh ones, so that a long run does not learn the noises of its cache by heart; 0 (the
   * default) for never. The next ones are computed beside those steps, a share in each, which takes memory for both and makes every step longer by that
   * share: cache_size * (teacher steps) / cache_refresh evaluations of the teacher.
   */
  uint32_t cache_refresh;
  /**
   * FEWSTEP_OPTIMIZER_*; AdamW by default.
   */
  int32_t optimizer;
  /**
   * Parts of a step, one after the other, whose gradients are averaged before the update: a step of so many times batch images, in the memory of batch and of
   * one more gradient; 1 by default, and 0 says the same. The rows are those that one part of that size draws. Features, distributions and linear fits are
   * of each part. An evaluation is of one part.
   */
  uint32_t gradient_accumulation_steps;
  /**
   * FEWSTEP_OPTIMIZER_MUON: peak learning rate of what Muon updates, with the warm-up and the decay of learning_rate; 0.02 by default. A step changes the
   * singular values of a matrix by about as much, whatever the gradients.
   */
  double muon_learning_rate;
  /**
   * FEWSTEP_OPTIMIZER_MUON: the share of the sum of gradients that stays from step to step, below 1; 0.95 by default.
   */
  double momentum;
  /**
   * Trajectories that are there already, in place of a teacher's, which objectives on trajectories need none of then: their grid and number stand for pairs
   * and cache_size. NULL (the default) for none.
   */
  const fewstep_trajectories *trajectories;
  /**
   * FEWSTEP_DISTRIBUTION_*: a further term of the loss, behind the features; NONE by default.
   */
  int32_t distribution;
  /**
   * FEWSTEP_DISTRIBUTION_RANDOM_NETS: networks whose features are compared, 1 to 64; the loss is the mean over them. 4 by default. They are the same in all
   * runs, and none of those that fewstep_evaluate has.
   */
  uint32_t distribution_nets;
  /**
   * FEWSTEP_DISTRIBUTION_RANDOM_NETS: factor on this term; 0.1 by default.
   */
  float distribution_weight;
  /**
   * FEWSTEP_OBJECTIVE_SELF_TEACHER: sampler steps that the student is to take, fewer than the grid has and a divisor of their number; 1 by default.
   */
  uint32_t self_teacher_steps;
  /**
   * ema_decay below 0: how much of the run the moving average is over, as the deviation of its profile in lengths of the run so far, 0.001 to 0.288 (all
   * steps alike); 0.05 by default. The weights of step t count as much as t^gamma (Karras et al. 2024, arXiv 2312.02696, section 3.1).
   */
  double ema_relative_width;
} fewstep_trainer_options;


/* ---------------------------------------------------------------------------
 * Trainers
 * --------------------------------------------------------------------------- */

/**
 * The weights as trained.
 */
#define FEWSTEP_WEIGHTS_RAW 1

/**
 * The moving average of the weights; usually the better ones.
 */
#define FEWSTEP_WEIGHTS_EMA 2

/**
 * Resume with other learning_rate, muon_learning_rate, warmup_steps, total_steps or decay. Both schedules count from the run's first step: the next step has
 * the learning rate that the new schedule gives after the steps that are done, which is 0 if its cosine has ended by then (a warning in the log says so).
 */
#define FEWSTEP_RESUME_SCHEDULE 1

/**
 * Resume with another batch.
 */
#define FEWSTEP_RESUME_BATCH 2

/**
 * Resume with other beta1, beta2, eps, momentum, weight_decay, clip_norm or ema_decay. The moments and the moving average go on from what they are; another
 * FEWSTEP_OPTIMIZER_*, which has other ones, is an error in any case.
 */
#define FEWSTEP_RESUME_OPTIMIZER 4

/**
 * Resume with other terms or features (what aligns other blocks begins anew; without features they cost no more time); or with the same where they share the
 * draws of a point, which versions before 0.1.0 had each draw its own.
 */
#define FEWSTEP_RESUME_LOSS 8

/**
 * Resume with other teacher trajectories: pairs or steps, teacher_order, substeps, cache_size, cache_refresh, trajectories, height and width, trajectory_clip and
 * its fields; or another guidance_scale or null_label.
 */
#define FEWSTEP_RESUME_TRAJECTORIES 16

/**
 * Resume with another seed.
 */
#define FEWSTEP_RESUME_SEED 32

/**
 * Resume with another precision, of the networks or of the teacher's trajectories (which versions before 0.1.0 computed in f32 whatever the precision of the
 * trainer). A loss scale that the checkpoint does not have begins anew.
 */
#define FEWSTEP_RESUME_PRECISION 64

/**
 * Resume with whatever the trainer was created with.
 */
#define FEWSTEP_RESUME_ANY 127

/**
 * A training run. One thread at a time.
 */
typedef struct fewstep_trainer fewstep_trainer;

/**
 * What a training step did. Set struct_size before a function fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * The loss: the weighted sum of the terms, the features and the distribution.
   */
  float loss;
  /**
   * Steps done so far, this one included.
   */
  uint64_t step;
  /**
   * The first four terms, then features, then the distribution, each without its factor, in the order of the options; 0 for those that do not exist.
   * fewstep_trainer_losses has all of them.
   */
  float terms[4];
  /**
   * Global gradient norm of the student before clipping; 0 from fewstep_trainer_evaluate.
   */
  float grad_norm;
  /**
   * Learning rate of the step; 0 from fewstep_trainer_evaluate.
   */
  float learning_rate;
} fewstep_step_report;

/**
 * What a trainer is. Set struct_size before fewstep_trainer_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * 1 when steps need no preparation any more.
   */
  int32_t prepared;
  /**
   * Steps done so far.
   */
  uint64_t steps_done;
  /**
   * Bytes of the memory that a step works in.
   */
  uint64_t arena_bytes;
  /**
   * The most bytes of it that are in use at one time; arena_bytes cannot be less.
   */
  uint64_t peak_live_bytes;
  /**
   * Bytes of inputs and of values computed once, without weights packed for the device, as in fewstep_sampler_info.
   */
  uint64_t prepared_bytes;
  /**
   * Images of a step, all of its parts together.
   */
  uint32_t batch;
  /**
   * Steps of the student's grid; 0 without one.
   */
  uint32_t pair_count;
  /**
   * Bytes of the student's weights as they are trained, of the optimizer's states and of the moving average.
   */
  uint64_t state_bytes;
  /**
   * Bytes of the constants of a step.
   */
  uint64_t constant_bytes;
  /**
   * Bytes of the plan: its operations, and the tables of their kernels.
   */
  uint64_t program_bytes;
  /**
   * Bytes of the cache of teacher trajectories, with cache_refresh those that come next and what computes them too; 0 before it is made, and where no term
   * needs one.
   */
  uint64_t cache_bytes;
  /**
   * All the memory that the trainer holds, on the host and on a GPU: arena, prepared, state, constant, program and cache bytes together. The weights of
   * the models that it was made from and the dataset, which are shared, are not in it.
   */
  uint64_t total_bytes;
} fewstep_trainer_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_trainer_options_init(fewstep_trainer_options *options, size_t struct_size);

/**
 * Plans a training run and takes the memory of its steps, but for a teacher's weights in the device's order where there is a cache to prepare; these and the
 * trajectory cache come with fewstep_trainer_prepare. The student's weights are copied, as f32; teacher and dataset are shared. `teacher` and `dataset` may be
 * NULL where no term needs them; a teacher that takes more than class labels needs a dataset for its trajectories too, whose rows have what it takes. `cancel`
 * of the options stops it.
 *
 * The caller owns `*out` and gives it to fewstep_trainer_destroy; it keeps what it needs of the other handles alive. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, SHAPE (networks or data that do not fit together), UNSUPPORTED (also a teacher whose inputs are rounded; such a student with
 * pairs that are not its own grid, or with FEWSTEP_OBJECTIVE_OUTPUT or FEWSTEP_OBJECTIVE_DENOISE, whose timesteps lie on none; scales of groups that are to
 * learn), CANCELLED, NUMERIC or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_create(const fewstep_runtime *runtime,
                                      const fewstep_model *student,
                                      const fewstep_model *teacher,
                                      const fewstep_dataset *dataset,
                                      const fewstep_trainer_options *options,
                                      fewstep_trainer **out);

/**
 * Computes what the steps read: the cache of teacher trajectories. Nothing happens when there is none to make or it is made. `progress` and `cancel`
 * may be NULL; `cancel` is seen in the middle of an evaluation of the teacher. After CANCELLED a later call starts again.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC, OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_prepare(fewstep_trainer *trainer,
                                       fewstep_progress_callback progress,
                                       void *user,
                                       const fewstep_cancel_token *cancel);

/**
 * One training step; the first one prepares when fewstep_trainer_prepare was not called. Fills `*report` (may be NULL), whose struct_size the caller has
 * set. A step changes nothing and is NUMERIC when its loss, its gradient or a weight that it would leave is not finite, or its gradient, clipped, has a norm
 * above 9.2e18: the weights are finite at any time.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token; nothing has changed, but for f16's loss scale, which may be smaller
 * by then), NUMERIC, OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_step(fewstep_trainer *trainer,
                                    fewstep_step_report *report);

/**
 * Prepares if that is still to be done, with reports of FEWSTEP_PHASE_PREPARE, then runs `steps` training steps and calls `progress` after each. `progress`
 * and `cancel` may be NULL; `cancel` is seen in the middle of a step, which then has changed nothing. After CANCELLED the steps that were done count, and
 * training can go on with any function.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC, OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_train(fewstep_trainer *trainer,
                                     uint64_t steps,
                                     fewstep_progress_callback progress,
                                     void *user,
                                     const fewstep_cancel_token *cancel);

/**
 * The loss of the present weights on a batch drawn with another seed. Prepares if that is still to be done (which takes as long as it does there), and
 * changes nothing else. Fills `*report`, whose struct_size the caller has set.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), NUMERIC, OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_evaluate(fewstep_trainer *trainer,
                                        uint64_t seed,
                                        fewstep_step_report *report);

/**
 * How far from the teacher the states are that the student is trained to match, which no student that matches them comes below: the RMSE between the ends of
 * `count` trajectories as this trainer computes them (teacher_order, substeps) and as DDIM does over `reference_steps` evenly spread ("trailing") timesteps,
 * from the noises of `seed` that training does not see. Needs an objective on trajectories. `cancel` may be NULL. Changes nothing.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_target_error(fewstep_trainer *trainer,
                                            uint32_t reference_steps,
                                            uint32_t count,
                                            uint64_t seed,
                                            const fewstep_cancel_token *cancel,
                                            double *out);

/**
 * Each term of the loss, then each feature, then the distribution, without its factor, in the order of the options, as the last step or evaluation found it: also one that was
 * NUMERIC, so that one sees which term was not finite. Writes them to `losses` and their number to `*count`; with `losses` NULL and `capacity` 0 only the
 * number.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or STATE (losses are asked for before the first step or evaluation).
 */
FEWSTEP_API
fewstep_status fewstep_trainer_losses(fewstep_trainer *trainer,
                                      float *losses,
                                      size_t capacity,
                                      size_t *count);

/**
 * The teacher's trajectories that the next step draws from, for other trainers and for files: a student trains on them without the teacher. Prepares if that
 * is still to be done. The trainer shares them.
 *
 * The caller owns `*out` and gives it to fewstep_trajectories_destroy. One thread at a time for the trainer.
 * Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), NUMERIC, OUT_OF_MEMORY or STATE (no objective is on trajectories).
 */
FEWSTEP_API
fewstep_status fewstep_trainer_trajectories(fewstep_trainer *trainer,
                                            fewstep_trajectories **out);

/**
 * A new model with the present weights, also in the middle of training; it does not change when training goes on. `weights` is FEWSTEP_WEIGHTS_*.
 *
 * The caller owns `*out` and gives it to fewstep_model_destroy. One thread at a time for the trainer.
 * Returns OK, INVALID_ARGUMENT, NUMERIC (a weight that is not finite), OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_snapshot(fewstep_trainer *trainer,
                                        int32_t weights,
                                        fewstep_model **out);

/**
 * Saves the whole state of training as one safetensors file, which appears whole or not at all. `path` is UTF-8. What could not be resumed is NUMERIC and
 * leaves the file that is there.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, NUMERIC, UNSUPPORTED (configs of more text than is read), IO, NOT_FOUND (no such folder),
 * OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_save(fewstep_trainer *trainer,
                                    const char *path);

/**
 * Continues where fewstep_trainer_save stopped: the next steps are those that the saved run would have done, to the bit. The trainer must have been
 * created with the same student architecture and options, and with the same teacher and dataset, which a checkpoint does not hold; nothing changes on an
 * error. fewstep_trainer_resume_with resumes with other options.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT (another student or option), NOT_FOUND, IO, CORRUPT_FILE (damaged, or a state that no training
 * leaves: numbers that are not finite, second moments below 0, more than 2^53 steps), VERSION_MISMATCH, UNSUPPORTED, OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_resume(fewstep_trainer *trainer,
                                      const char *path);

/**
 * Continues where fewstep_trainer_save stopped, with other options: `changes` says which may differ from the saved run's, as a sum of FEWSTEP_RESUME_*; 0 is
 * fewstep_trainer_resume. The options are those that the trainer was created with. Weights, all of the optimizer's states, the moving average and the number
 * of steps done are the checkpoint's. The student's architecture, noise schedule and prediction type must agree always. The trainer's own checkpoints
 * have the new options.
 *
 * One thread at a time. Returns as fewstep_trainer_resume does.
 */
FEWSTEP_API
fewstep_status fewstep_trainer_resume_with(fewstep_trainer *trainer,
                                           const char *path,
                                           uint32_t changes);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
 */
FEWSTEP_API fewstep_status fewstep_trainer_get_info(fewstep_trainer *trainer, fewstep_trainer_info *out);

/**
 * Destroys a trainer. NULL is fine.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the trainer, as from its own callback (nothing happens then).
 */
FEWSTEP_API
fewstep_status fewstep_trainer_destroy(fewstep_trainer *trainer);


/* ---------------------------------------------------------------------------
 * Recipes: training in stages that goes by itself
 * --------------------------------------------------------------------------- */

/**
 * What a run of a recipe measures, writes and keeps. Fill it with fewstep_recipe_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Noises that training never sees, on which the student is measured; 256 by default, 0 for none: no errors then, no pictures, and no stage ends early.
   */
  uint32_t held_out;
  /**
   * The run's folder, which is made where there is none: checkpoints, by which the run goes on after it was cut off, and metrics and pictures (see
   * fewstep_recipe_run). One run at a time: another one is refused with STATE. NULL (the default) for none: nothing is written, and what was done is lost
   * with the call. UTF-8, read during the call.
   */
  const char *folder;
  /**
   * Steps from one line of the metrics to the next; 50 by default, 0 for lines before measurements and checkpoints only.
   */
  uint64_t log_every;
  /**
   * Steps from one measurement on held-out noises to the next; 500 by default. The first is before a stage's first step, the last after its last; 0 for
   * no others.
   */
  uint64_t evaluate_every;
  /**
   * Steps from one checkpoint to the next; 500 by default. 0 for one only where the run is cancelled.
   */
  uint64_t save_every;
  /**
   * Trajectories that are there already, for all stages on trajectories but those that learn from the stage before; NULL (the default) for none.
   */
  const fewstep_trajectories *trajectories;
} fewstep_recipe_options;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_recipe_options_init(fewstep_recipe_options *options, size_t struct_size);

/**
 * The JSON of a recipe that comes with the library, for a student of `steps` sampler steps: "fast" (minutes on two cores for small images) or "best" (six times
 * as long). Run it as it is, or change it: every field is there. Writes the text and a NUL to `buffer`, and its length without the NUL to `*length`; with
 * `buffer` NULL and `capacity` 0 only the length.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT (no such recipe), SHAPE (capacity is too small) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_recipe_text(const char *name,
                                   uint32_t steps,
                                   char *buffer,
                                   size_t capacity,
                                   size_t *length);

/**
 * Trains a student by a recipe: stages, each of which is what a trainer does, and goes on with the student (the moving average of its weights) that the one
 * before has made.
 *
 * `recipe` is JSON: `{"stages": [...]}`. A stage has the fields of fewstep_trainer_options, with their defaults and with words for constants ("muon",
 * "cosine", "bf16"), and `name`, `steps` (of training; also total_steps), `grid` (sampler steps of the student, 0 for its own), `teacher` ("given", or
 * "previous" for the student of the stage before, as progressive distillation has it) and `patience` (held-out errors without a new best after which the
 * stage ends with its best student; 0 for never). Its `terms` have `objective` ("teacher_forced"), `weight`, `norm`, `huber_delta`, `linear_fit_steps` and
 * `step_weight` (by default "state" on trajectories, elsewhere the error of what the student predicts), its `features` `objective`, `student`, `teacher`, `norm`,
 * `weight` and `decay_steps`; `distribution` is null, or has `nets` and `weight`. fewstep_recipe_text has whole ones.
 *
 * The folder of the options holds, at any time: recipe.json; metrics.jsonl, a line for each log_every steps (loss, each term, gradient norm, learning rate,
 * samples a second) and for each measurement (`held_out`: RMSE against the teacher's trajectories of noises that training never sees, `training`: of as many
 * that it does; without trajectories the loss of other draws); the same as TensorBoard event files; progress.svg, their curves; samples-STAGE-STEP.png; and
 * stage-N.safetensors, the student of each stage that is done. A call with the folder of a run that was cut off, also by a crash of the process or the machine,
 * goes on from its last checkpoint, to the same bits as a run that never stopped; the models and the data must be the same. After the last stage it returns the
 * student at once.
 *
 * `student` is the first stage's initial student; `teacher` and `dataset` may be NULL where no stage needs them. `progress` and `cancel` may be NULL; it is told
 * the stage, the pace and the time that is left. After CANCELLED what was done is in the folder.
 *
 * The caller owns `*out` and gives it to fewstep_model_destroy. Any thread may call. Returns OK, INVALID_ARGUMENT (a recipe that cannot be meant, or a folder of
 * another one), SHAPE, UNSUPPORTED, CANCELLED, NUMERIC (training has diverged; the folder keeps what was before), IO, NOT_FOUND, CORRUPT_FILE, VERSION_MISMATCH,
 * OUT_OF_MEMORY or STATE (another run is under way in the folder).
 */
FEWSTEP_API
fewstep_status fewstep_recipe_run(const fewstep_runtime *runtime,
                                  const char *recipe,
                                  const fewstep_model *student,
                                  const fewstep_model *teacher,
                                  const fewstep_dataset *dataset,
                                  const fewstep_recipe_options *options,
                                  fewstep_progress_callback progress,
                                  void *user,
                                  const fewstep_cancel_token *cancel,
                                  fewstep_model **out);


/* ---------------------------------------------------------------------------
 * Quantisation: models in fewer bits
 * --------------------------------------------------------------------------- */

/**
 * Weights of 8 bits with a scale for each output, what layers read rounded to 8 bits: products of whole numbers, a quarter of the bytes.
 */
#define FEWSTEP_QUANTIZE_W8A8 1

/**
 * Weights of 8 bits, products in float: a quarter of the bytes, for any model.
 */
#define FEWSTEP_QUANTIZE_W8 2

/**
 * Weights of 4 bits with a scale for each output, what layers read rounded to 8 bits: products of whole numbers, an eighth of the bytes. It needs training with
 * the rounding in place.
 */
#define FEWSTEP_QUANTIZE_W4A8 3

/**
 * Weights of 4 bits with a scale for each 16 of them (or 8, or an output's, as a layer's size allows), products in float: a sixth of the bytes, for any model.
 */
#define FEWSTEP_QUANTIZE_W4 4

/**
 * All weights as f16, of any model, which diffusers still reads: half of the bytes. Those beyond f16 stay f32.
 */
#define FEWSTEP_QUANTIZE_F16 5

/**
 * The same as bfloat16.
 */
#define FEWSTEP_QUANTIZE_BF16 6

/**
 * What a layer reads is rounded over the range from its least to its greatest number.
 */
#define FEWSTEP_RANGE_MIN_MAX 1

/**
 * The range leaves out, at either end, the share of numbers that is beyond `percentile`.
 */
#define FEWSTEP_RANGE_PERCENTILE 2

/**
 * The range is the one of 80, from all of it down to a fifth, with the least sum of |error|^2.4.
 */
#define FEWSTEP_RANGE_LEAST_ERROR 3

/**
 * How a student is quantised. Fill it with fewstep_quantize_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Whole numbers that a layer's input is rounded to, 16 to 256. 130 (the default) is exact and fast on processors that have AVX2 and nothing newer; behind
   * SiLU it loses nothing worth having. 256 is all of a byte.
   */
  uint32_t levels;
  /**
   * Samples of the calibration, 1 to 65536; 64 by default. They are drawn along the student's own grid.
   */
  uint32_t samples;
  /**
   * Samples side by side; 16 by default.
   */
  uint32_t batch;
  /**
   * Height of the samples; 0 (the default) for the model's.
   */
  uint32_t height;
  /**
   * Width of the samples; 0 (the default) for the model's.
   */
  uint32_t width;
  /**
   * FEWSTEP_QUANTIZE_*; W8A8 by default.
   */
  int32_t mode;
  /**
   * FEWSTEP_RANGE_*, for modes that round what layers read. MIN_MAX by default: the others gain little where 8 bits are enough
   * (docs/quantization.md), and draw the samples twice.
   */
  int32_t range;
  /**
   * Seed of the samples' noise and labels.
   */
  uint64_t seed;
  /**
   * Layers that stay in float, by their path in the file without ".weight"; `*` stands for any text: "up_blocks.*.conv1". F16 and BF16 have none: such a
   * name is INVALID_ARGUMENT. They come on top of those that
   * always stay: "conv_in", "conv_out", "*.conv_shortcut", "time_embedding.*", "class_embedding.*" and "*.time_emb_proj". NULL by default.
   */
  const char *const *keep;
  /**
   * Elements of keep.
   */
  size_t keep_count;
  /**
   * What the samples' conditions are drawn from, where the model takes more than labels: rows of the dataset. NULL by default.
   */
  const fewstep_dataset *dataset;
  /**
   * Stops the call with CANCELLED; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
  /**
   * Per cent of a layer's numbers that are below the upper end of its range, and above the lower: more than 50, at most 100; 99.99 by default. Read for
   * FEWSTEP_RANGE_PERCENTILE alone.
   */
  double percentile;
  /**
   * 1: biases give back what rounding shifts the outputs of their layers by, on average over the samples, which are drawn once more for it; the model must be
   * a few-step student. 0 (the default): they stay as they are.
   */
  int32_t correct_biases;
  /**
   * 0.
   */
  uint32_t reserved;
} fewstep_quantize_options;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_quantize_options_init(fewstep_quantize_options *options, size_t struct_size);

/**
 * Makes a model in fewer bits of another, as `options` says (NULL for the defaults): by default, of a few-step student, one in which weights of most layers are
 * signed bytes with a scale for each output, what these layers read is rounded to unsigned bytes with one scale each, and their products are summed exactly.
 * Scales of what is read come from the ranges that the student's layers have while it samples, in every step of its own grid; other modes take any model and
 * sample and report nothing, but to correct biases. What stays in float is kept as f16, and as f32 where it is beyond f16. `progress` may be NULL and reports
 * FEWSTEP_PHASE_QUANTIZE: `done` of `total` samples, those of every time that they are drawn.
 *
 * The result is a model like any other. With rounded inputs, its samplers run on kernels for bytes: on a CPU with the same bits on every processor that has the
 * same floats, on CUDA on the tensor cores, in f32 with the CPU's numbers; samplers, evaluations and trainers off the student's own grid are refused with
 * UNSUPPORTED. A trainer of a model with rounded weights trains with the rounding in place; its snapshots are quantised again. fewstep_model_save_file keeps
 * the bits; diffusers can read models of f16 and bfloat16 alone.
 *
 * The caller owns `*out` and gives it to fewstep_model_destroy; it keeps the runtime alive. Any thread may call. Returns OK, INVALID_ARGUMENT (also for a
 * model without a grid of its own where inputs are rounded or biases corrected, a model that is quantised already, or a pattern that names no layer), SHAPE (a
 * size that the model cannot take, a dataset with planes of another), NUMERIC (a layer whose input is not finite), CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_quantize(const fewstep_runtime *runtime,
                                const fewstep_model *student,
                                const fewstep_quantize_options *options,
                                fewstep_progress_callback progress,
                                void *user,
                                fewstep_model **out);


/* ---------------------------------------------------------------------------
 * What each layer's whole numbers cost
 * --------------------------------------------------------------------------- */

/**
 * What the whole numbers of a layer cost, or those of all layers. Only valid inside the callback. Later versions may have more fields: read no more than
 * struct_size bytes.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Steps of the student's grid.
   */
  uint32_t step_count;
  /**
   * The layer's path in the file, without ".weight"; NULL for all layers together.
   */
  const char *layer;
  /**
   * Errors of each step, `step_count` numbers: root of the mean square of the difference between the states that the step lands on, of the student in floats
   * and of one in which this layer alone computes in whole numbers, from the same noise.
   */
  const double *step_errors;
  /**
   * This layer's part of the sum of the squares of all layers' last errors, 0 to 1; 1 for all layers together.
   */
  double share;
  /**
   * The last error where all other layers compute in whole numbers and this one has the student's own floats; 0 for all layers together.
   */
  double error_if_kept;
} fewstep_layer_report;

/**
 * Called for all layers together, then for each, in the order of their paths, on the thread that made the call. Must return normally (no C++ exception, no
 * longjmp).
 */
typedef void (*fewstep_layer_report_callback)(void *user, const fewstep_layer_report *report);

/**
 * Measures what the whole numbers of `quantized` cost: calls `visit` for all layers together and for each. `student` is the model in floats that it was made
 * of, without training since. `options` has the samples (samples, batch, height, width, seed, dataset, cancel); what it says of how
 * to quantise is of no effect; NULL for the defaults. The noises are
 * others than those of a calibration with the same seed. For each layer two models are compiled and sampled: this takes as long as some hundred runs.
 * `progress` may be NULL and reports FEWSTEP_PHASE_REPORT; `user` goes to both callbacks.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT (also for models that do not belong together, or `visit` NULL), SHAPE, NUMERIC, CANCELLED, UNSUPPORTED or
 * OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_quantize_report(const fewstep_runtime *runtime,
                                       const fewstep_model *student,
                                       const fewstep_model *quantized,
                                       const fewstep_quantize_options *options,
                                       fewstep_progress_callback progress,
                                       fewstep_layer_report_callback visit,
                                       void *user);


/* ---------------------------------------------------------------------------
 * Samplers: what a run is made with
 * --------------------------------------------------------------------------- */

/**
 * What the model says: a few-step student's own grid, or the sampler of its scheduler config, step for step as diffusers runs it. Known are DDIM, DPM-Solver++,
 * Euler, Euler ancestral, DDPM, PNDM, LCM and UniPC (orders 1 to 3), each with its class's options; DDIMParallel and DDPMParallel are their plain ones. Every
 * other class with betas opens too, and so can be a teacher, but to sample it by this kind is UNSUPPORTED: choose one of the other kinds. Euler's images are
 * x_0 + sigma noise until its last step: it starts from unit noise times the first sigma, also where noise is given. Some runs evaluate the network more often
 * than they have steps, and each is a step of the sampler: PNDM's once more (but for one step), nine times more with its Runge-Kutta steps; Euler's once more
 * where its config has log_linear and continuous times; those of Euler, DPM-Solver++ (of its own kind too) and UniPC with trailing spacing once more, at
 * timestep -1, for the few numbers of steps (61 and 122 of 1000) where diffusers' rounding makes one more.
 */
#define FEWSTEP_SAMPLER_FROM_MODEL 0

/**
 * DDIM.
 */
#define FEWSTEP_SAMPLER_DDIM 1

/**
 * DPM-Solver++ and its relatives, multistep.
 */
#define FEWSTEP_SAMPLER_DPM_SOLVER_PP 2

/**
 * The predicted image is used as it is.
 */
#define FEWSTEP_CLIP_NONE 0

/**
 * The predicted image is clamped to -clip_range .. clip_range.
 */
#define FEWSTEP_CLIP_RANGE 1

/**
 * Dynamic thresholding with threshold_ratio and threshold_max.
 */
#define FEWSTEP_CLIP_DYNAMIC 2

/**
 * Multiples of T/N from 0.
 */
#define FEWSTEP_SPACING_LEADING 1

/**
 * Multiples of T/N counted from T; the right one for few steps.
 */
#define FEWSTEP_SPACING_TRAILING 2

/**
 * Equal parts, both ends included.
 */
#define FEWSTEP_SPACING_LINSPACE 3

/**
 * Second-order steps by the midpoint rule.
 */
#define FEWSTEP_SOLVER_MIDPOINT 1

/**
 * Second-order steps by Heun's rule.
 */
#define FEWSTEP_SOLVER_HEUN 2

/**
 * dpmsolver++.
 */
#define FEWSTEP_ALGORITHM_DPM_SOLVER_PP 1

/**
 * sde-dpmsolver++.
 */
#define FEWSTEP_ALGORITHM_SDE_DPM_SOLVER_PP 2

/**
 * dpmsolver.
 */
#define FEWSTEP_ALGORITHM_DPM_SOLVER 3

/**
 * sde-dpmsolver.
 */
#define FEWSTEP_ALGORITHM_SDE_DPM_SOLVER 4

/**
 * The noise levels of the timesteps.
 */
#define FEWSTEP_SIGMAS_SCHEDULE 1

/**
 * Karras' spread.
 */
#define FEWSTEP_SIGMAS_KARRAS 2

/**
 * Exponential spread.
 */
#define FEWSTEP_SIGMAS_EXPONENTIAL 3

/**
 * Quantiles of a beta distribution.
 */
#define FEWSTEP_SIGMAS_BETA 4

/**
 * Lu's spread.
 */
#define FEWSTEP_SIGMAS_LU 5

/**
 * The last step ends at the clean image.
 */
#define FEWSTEP_FINAL_SIGMA_ZERO 1

/**
 * The last step ends at the smallest noise level of the schedule.
 */
#define FEWSTEP_FINAL_SIGMA_MIN 2

/**
 * How a model is sampled. Fill it with fewstep_sampler_options_init, then change fields. With FEWSTEP_SAMPLER_FROM_MODEL and no pairs, only steps, batch,
 * height, width, precision, guidance and cancel are read, and eta where the model's scheduler is DDIM or the grid a few-step student's.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_SAMPLER_*; what the model says by default.
   */
  int32_t kind;
  /**
   * Number of steps, as diffusers counts them. 0 (the default) for the number of pairs, or with FEWSTEP_SAMPLER_FROM_MODEL for a few-step student's own.
   */
  uint32_t steps;
  /**
   * Images side by side; 1 by default.
   */
  uint32_t batch;
  /**
   * Height of the images; 0 (the default) for the model's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the model's.
   */
  uint32_t width;
  /**
   * An explicit grid, sampled with DDIM; NULL by default. With it spacing, steps_offset, diffusers_prev, set_alpha_to_one and use_clipped_model_output
   * are not read, and steps is 0 or the number of pairs.
   */
  const fewstep_step_pair *pairs;
  /**
   * Elements of pairs, at most 1000.
   */
  size_t pair_count;
  /**
   * Bytes from one pair to the next; sizeof(fewstep_step_pair).
   */
  size_t pair_stride;
  /**
   * DDIM: share of fresh noise, 0 (the default, deterministic) to 1.
   */
  double eta;
  /**
   * FEWSTEP_CLIP_RANGE: 1 by default.
   */
  double clip_range;
  /**
   * FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
   */
  double threshold_ratio;
  /**
   * FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
   */
  double threshold_max;
  /**
   * DPM-Solver: timesteps with a lower half log signal-to-noise ratio are not visited; -infinity (the default) visits all.
   */
  double lambda_min_clipped;
  /**
   * FEWSTEP_CLIP_*; none by default.
   */
  int32_t clip;
  /**
   * FEWSTEP_SPACING_*; trailing by default.
   */
  int32_t spacing;
  /**
   * Added to the timesteps of leading spacing; 0 by default.
   */
  int32_t steps_offset;
  /**
   * DDIM: 1 lands each step on t - T/N as diffusers' DDIMScheduler does, whatever the grid says; for agreement with diffusers, not for quality. 0 by
   * default.
   */
  int32_t diffusers_prev;
  /**
   * DDIM: 1 (the default) ends at the clean image, 0 at the noise level of timestep 0.
   */
  int32_t set_alpha_to_one;
  /**
   * DDIM: 1 derives the noise again from the clipped image; 0 by default.
   */
  int32_t use_clipped_model_output;
  /**
   * DPM-Solver: 1 to 3; 2 by default.
   */
  uint32_t solver_order;
  /**
   * DPM-Solver: FEWSTEP_SOLVER_*; midpoint by default.
   */
  int32_t solver_type;
  /**
   * DPM-Solver: FEWSTEP_ALGORITHM_*; dpmsolver++ by default.
   */
  int32_t algorithm;
  /**
   * DPM-Solver: FEWSTEP_SIGMAS_*; the schedule's by default.
   */
  int32_t sigmas;
  /**
   * DPM-Solver: FEWSTEP_FINAL_SIGMA_*; zero by default.
   */
  int32_t final_sigma;
  /**
   * DPM-Solver: 1 (the default) lowers the order at the end of runs of fewer than 15 steps.
   */
  int32_t lower_order_final;
  /**
   * DPM-Solver: 1 takes the last step at order 1; 0 by default.
   */
  int32_t euler_at_final;
  /**
   * FEWSTEP_PRECISION_*: what the network computes in; f32 by default. The images stay f32.
   */
  int32_t precision;
  /**
   * Stops fewstep_sampler_create, and all of fewstep_sample, with CANCELLED; only read during that call. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
  /**
   * Classifier-free guidance: the prediction is that of null_label plus guidance_scale times how much that of the image's label differs from it. 1 (the
   * default) for none; any other needs a model with classes, and evaluates the network twice a step.
   */
  double guidance_scale;
  /**
   * The class that the model was trained to read as none; -1 (the default) for not given.
   */
  int32_t null_label;
  /**
   * 0.
   */
  uint32_t reserved;
} fewstep_sampler_options;

/**
 * What a sampling run starts from. Fill it with fewstep_begin_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Index of the batch's first image; the others follow. The noise of an image is a function of seed and index, whatever the batch and its place in
   * it. 0 by default.
   */
  uint32_t first_index;
  /**
   * Seed of the noise; 0 by default.
   */
  uint64_t seed;
  /**
   * Index of each image, instead of first_index; NULL by default.
   */
  const uint32_t *indices;
  /**
   * Elements of indices: the batch, or 0.
   */
  size_t index_count;
  /**
   * Conditionings; all that fewstep_model_condition lists. NULL by default.
   */
  const fewstep_conditioning *conditionings;
  /**
   * Elements of conditionings.
   */
  size_t conditioning_count;
  /**
   * Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
   */
  size_t conditioning_stride;
  /**
   * Initial noise [N,C,H,W] that replaces the drawn one, unit normal whatever the sampler; NULL by default.
   */
  const float *noise;
  /**
   * Elements of noise: N*C*H*W, or 0.
   */
  size_t noise_count;
} fewstep_begin_options;


/* ---------------------------------------------------------------------------
 * Samplers
 * --------------------------------------------------------------------------- */

/**
 * A planned sampling run with its memory. One thread at a time; many samplers may share one model.
 */
typedef struct fewstep_sampler fewstep_sampler;

/**
 * What a sampler is and how far its run has come. Set struct_size before fewstep_sampler_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * Images side by side (N).
   */
  uint32_t batch;
  /**
   * Channels of an image (C).
   */
  uint32_t channels;
  /**
   * Rows of an image (H).
   */
  uint32_t height;
  /**
   * Columns of an image (W).
   */
  uint32_t width;
  /**
   * Sampler steps of a run.
   */
  uint32_t steps;
  /**
   * Sampler steps of the present run that are complete.
   */
  uint32_t steps_done;
  /**
   * 0 before fewstep_sampler_begin, 1 while a run is under way, 2 when it is done.
   */
  int32_t state;
  /**
   * Bytes of the memory that a run works in.
   */
  uint64_t arena_bytes;
  /**
   * The most bytes of it that are in use at one time; arena_bytes cannot be less.
   */
  uint64_t peak_live_bytes;
  /**
   * Bytes of inputs and of values computed once. Weights packed for the device are not among them: a runtime has one copy for all that read them.
   */
  uint64_t prepared_bytes;
  /**
   * Bytes of the run's state.
   */
  uint64_t state_bytes;
  /**
   * Bytes of the constants of the sampler's steps.
   */
  uint64_t constant_bytes;
  /**
   * Bytes of the plan: its operations, and the tables of their kernels.
   */
  uint64_t program_bytes;
  /**
   * All the memory that the sampler holds, on the host and on a GPU: arena, prepared, state, constant and program bytes together. The model's weights,
   * which all its samplers share, are not in it.
   */
  uint64_t total_bytes;
} fewstep_sampler_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_sampler_options_init(fewstep_sampler_options *options, size_t struct_size);

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_begin_options_init(fewstep_begin_options *options, size_t struct_size);

/**
 * Plans a sampling run of a model and takes all of its memory: beginning and stepping a run allocate almost nothing. It takes time in proportion to the
 * steps, up to 16; a longer run has one step's plan, which it goes through again and again. `cancel` of the options stops it. `options` may be NULL for the defaults. The weights are shared.
 *
 * The caller owns `*out` and gives it to fewstep_sampler_destroy; it keeps what it needs of runtime and model alive. Any thread may call.
 * Returns OK, INVALID_ARGUMENT, SHAPE (a size that the model cannot take), UNSUPPORTED, CANCELLED, NUMERIC or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_sampler_create(const fewstep_runtime *runtime,
                                      const fewstep_model *model,
                                      const fewstep_sampler_options *options,
                                      fewstep_sampler **out);

/**
 * Begins a new run, whatever became of the one before. `options` may be NULL for the defaults. The arrays are copied.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT (also for labels out of range, or for a conditioning that is missing or that the model does not take), SHAPE, NUMERIC
 * (noise that is not finite), OUT_OF_MEMORY or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_sampler_begin(fewstep_sampler *sampler,
                                     const fewstep_begin_options *options);

/**
 * Goes on with the run for about `budget_us` microseconds, at least one operation; it may stop in the middle of a network evaluation, and any split into
 * calls gives the same bytes. Without a budget it goes on to the end of the present sampler step (any negative number) or of the run (INT64_MAX). A GPU
 * then gets as few graphs as there can be (one for a whole run of up to 16 steps from noise of the library's own, else one a step), and the call may return
 * before the last of them is computed: reading waits. The operations of a budget are started one by one there, and waited for. Writes 1 to `*done` when the run is done (then a
 * further call does nothing), 0 otherwise. After an error, except STATE, INVALID_ARGUMENT and CANCELLED, the run must be begun again.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), STATE (not begun) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_sampler_step(fewstep_sampler *sampler,
                                    int64_t budget_us,
                                    int32_t *done);

/**
 * Goes on to the end of the run and calls `progress` after each sampler step; `cancel` is seen in the middle of one. Both may be NULL: without both it is
 * fewstep_sampler_step with INT64_MAX, which on a GPU may return before it is computed. After CANCELLED the run can go on with any function, or be begun
 * again.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, STATE (not begun) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_sampler_run(fewstep_sampler *sampler,
                                   fewstep_progress_callback progress,
                                   void *user,
                                   const fewstep_cancel_token *cancel);

/**
 * Writes the images [N,C,H,W] as they are after the last complete sampler step (noise before the first) to `out`, which has room for `capacity`
 * elements; N*C*H*W are needed.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small), STATE (not begun) or NUMERIC (an image that is not finite).
 */
FEWSTEP_API
fewstep_status fewstep_sampler_read(fewstep_sampler *sampler,
                                    float *out,
                                    size_t capacity);

/**
 * Writes the noise that images `first_index` to `first_index + count - 1` of a seed start from, [count,C,H,W], to `out`, which has room for `capacity`
 * elements. The present run is not touched.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or STATE.
 */
FEWSTEP_API
fewstep_status fewstep_sampler_noise(fewstep_sampler *sampler,
                                     uint64_t seed,
                                     uint32_t first_index,
                                     size_t count,
                                     float *out,
                                     size_t capacity);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
 */
FEWSTEP_API fewstep_status fewstep_sampler_get_info(fewstep_sampler *sampler, fewstep_sampler_info *out);

/**
 * All in one call, for programs that do not sample again: creates a sampler, begins, runs and reads it, and destroys it. `cancel` of the options stops any
 * of it. `options` and `begin` may be NULL for the defaults; `out` receives [N,C,H,W] and has room for `capacity` elements.
 *
 * Any thread may call. Returns what the single functions return.
 */
FEWSTEP_API
fewstep_status fewstep_sample(const fewstep_runtime *runtime,
                              const fewstep_model *model,
                              const fewstep_sampler_options *options,
                              const fewstep_begin_options *begin,
                              float *out,
                              size_t capacity);

/**
 * Destroys a sampler. NULL is fine.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the sampler, as from its own callback (nothing happens then).
 */
FEWSTEP_API
fewstep_status fewstep_sampler_destroy(fewstep_sampler *sampler);


/* ---------------------------------------------------------------------------
 * ONNX files for other runtimes
 * --------------------------------------------------------------------------- */

/**
 * One evaluation of the network: `x_t` f32 [N,C,H,W], `timestep` f32 [N] and the conditions give `prediction` [N,C,H,W]. Where each step of a student has
 * parameters of its own, `step` int64 [1] says at which all images are.
 * Nothing there looks at whether labels, steps and timesteps are some that the model has.
 */
#define FEWSTEP_ONNX_EVALUATION 1

/**
 * One step of a sampler: `x_t` f32 [N,C,H,W], `step` int64 [1], from 0, and the conditions give `x_next`. A multistep sampler has `kept.0` … as well, zeros
 * before the first step, and gives `kept_next.0` … for the next one. The first x_t is unit normals times the number `fewstep.initial` of the file's metadata
 * (1 but for Euler's samplers).
 */
#define FEWSTEP_ONNX_STEP 2

/**
 * A whole run: `noise` f32 [N,C,H,W], unit normals, and the conditions give `images`. What depends on timesteps alone is computed when it is written, so that
 * any runtime needs this file and nothing else. 64 steps at most: each is an evaluation in the file.
 */
#define FEWSTEP_ONNX_SAMPLER 3

/**
 * Whole numbers as signed bytes with a zero point of 0, between QuantizeLinear and DequantizeLinear, which compilers make products of whole numbers of:
 * OpenVINO, TensorRT.
 */
#define FEWSTEP_ONNX_SYMMETRIC 1

/**
 * Whole numbers as unsigned bytes, multiplied by ConvInteger and MatMulInteger, for runtimes that compute what is written: ONNX Runtime.
 */
#define FEWSTEP_ONNX_UNSIGNED 2

/**
 * What an ONNX file is to be. Fill it with fewstep_onnx_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_ONNX_EVALUATION, _STEP or _SAMPLER (the default).
   */
  int32_t program;
  /**
   * Of a model in whole numbers: FEWSTEP_ONNX_SYMMETRIC (the default) or _UNSIGNED.
   */
  int32_t profile;
  /**
   * Version of ONNX's operators, 21 (the default) to 24.
   */
  uint32_t opset;
  /**
   * Height of the images; 0 (the default) for the model's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the model's.
   */
  uint32_t width;
  /**
   * 1: parameters of f32 are written as f16 where they fit, which runtimes cast when they load the file. 0 (the default): as they are. Those of a model
   * in fewer bits are written in them in any case.
   */
  int32_t half_weights;
  /**
   * 1: parameters are written to a file beside it, NAME-HASH.onnx.data, before the file itself, as those of more than 2 GiB are in any case; that of an
   * older export stays, for whoever reads it. 0 (the default): into the file.
   */
  int32_t external_data;
  /**
   * The sampler of the programs STEP and SAMPLER; its batch, height, width and precision do not count. NULL (the default): FEWSTEP_SAMPLER_FROM_MODEL, a
   * few-step student's own grid.
   */
  const fewstep_sampler_options *sampler;
  /**
   * Stops the call with CANCELLED; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
} fewstep_onnx_options;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_onnx_options_init(fewstep_onnx_options *options, size_t struct_size);

/**
 * Writes a model as an ONNX file, for compilers and runtimes of others, as `options` says (NULL for the defaults: the whole run of a few-step student). The
 * batch N is free, images are [N,C,H,W], conditions have their names (`labels` int64 [N]); docs/compilers.md shows how runtimes are given such files. A model
 * in whole numbers computes the same ones there, but that what lies beyond a layer's range is not cut off to its end.
 *
 * The file appears whole or not at all; what holds for all files that are written, and what IO means, is at the top of this header. Any thread may call, also
 * while others use the model. Returns OK, INVALID_ARGUMENT (also for an opset out of range, or programs of a sampler without steps), SHAPE (a size that the
 * model cannot take), UNSUPPORTED (a sampler that draws noise in its steps or thresholds dynamically, an op without a form in ONNX, whole numbers that the
 * profile does not have; the sentence names it), IO, NOT_FOUND (no such folder), CANCELLED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_model_export_onnx(const fewstep_model *model,
                                         const fewstep_onnx_options *options,
                                         const char *path);

/**
 * The bytes of such a file, which each call makes anew: writes them to `buffer`, which has room for `capacity`, and their number to `*length`; with `buffer`
 * NULL and `capacity` 0 only their number.
 *
 * Threads and codes as fewstep_model_export_onnx; SHAPE also where capacity is too small, UNSUPPORTED where parameters have to be in a file beside it.
 */
FEWSTEP_API
fewstep_status fewstep_model_export_onnx_to_buffer(const fewstep_model *model,
                                                   const fewstep_onnx_options *options,
                                                   void *buffer,
                                                   size_t capacity,
                                                   size_t *length);


/* ---------------------------------------------------------------------------
 * Evaluations: what they find
 * --------------------------------------------------------------------------- */

/**
 * A row of images of the reference against others of it: what a perfect set would get. The mean over four splits.
 */
#define FEWSTEP_QUALITY_NULL 1

/**
 * The standard deviation over these splits: sets that differ by less than 5 of it are as good.
 */
#define FEWSTEP_QUALITY_NULL_SPREAD 2

/**
 * The row of the teacher with its reference solver.
 */
#define FEWSTEP_QUALITY_TEACHER 3

/**
 * A row of a set that the program gave.
 */
#define FEWSTEP_QUALITY_SET 4

/**
 * Distributions are compared with the dataset's.
 */
#define FEWSTEP_AGAINST_DATA 1

/**
 * Distributions are compared with the teacher's, of other noises.
 */
#define FEWSTEP_AGAINST_TEACHER 2

/**
 * A table with aligned columns, and what they mean.
 */
#define FEWSTEP_REPORT_TEXT 1

/**
 * JSON on one line; null for what was not measured or is infinite.
 */
#define FEWSTEP_REPORT_JSON 2

/**
 * What an evaluation found. Immutable.
 */
typedef struct fewstep_quality_report fewstep_quality_report;

/**
 * What a report is of. Set struct_size before fewstep_quality_report_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * Rows: three, and one for each set.
   */
  uint32_t rows;
  /**
   * Images of a set.
   */
  uint32_t count;
  /**
   * Images of a set that its distribution is compared by.
   */
  uint32_t compared;
  /**
   * Seed of the noises.
   */
  uint64_t seed;
  /**
   * FEWSTEP_AGAINST_*.
   */
  int32_t against;
  /**
   * Steps of the teacher's reference.
   */
  uint32_t reference_steps;
} fewstep_quality_report_info;

/**
 * A row of a report. Set struct_size before fewstep_quality_report_row fills the rest. Numbers that were not measured are NaN: images that are not of the
 * evaluation's noises have no errors, without labels there is no accuracy. No number says enough alone, nor without the null beside it.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * FEWSTEP_QUALITY_*.
   */
  int32_t kind;
  /**
   * The row's name; valid until the report is destroyed.
   */
  const char *name;
  /**
   * Root of the mean square error over all elements of all images, against the teacher's of the same noises. It rewards blur.
   */
  double rmse;
  /**
   * Median of the images' own RMSE.
   */
  double rmse_median;
  /**
   * 99th percentile of the images' own RMSE.
   */
  double rmse_p99;
  /**
   * RMSE without the worst 5 % of the images.
   */
  double rmse_trimmed;
  /**
   * 20 log10(2 / rmse), in dB; infinite where there is no error.
   */
  double psnr;
  /**
   * Sliced Wasserstein distance (p = 1) of pixels over 256 fixed directions. Blind to fine noise.
   */
  double sliced_wasserstein;
  /**
   * Unbiased squared maximum mean discrepancy with the kernel (u.v / 64 + 1)^3 in 64 features of a fixed random net, which are scaled to the reference's
   * deviation. 0 on average, and sometimes below, where both are of one distribution.
   */
  double kernel_distance;
  /**
   * Share of the images that are inside the reference, in the same features: nearer to one of its images than that one's 5th neighbour.
   */
  double precision;
  /**
   * Share of the reference that is inside the images.
   */
  double recall;
  /**
   * Images of the reference that an image is inside of, on average, by 5; about 1.
   */
  double density;
  /**
   * Share of the reference's images with an image inside: it falls where kinds of images are missing.
   */
  double coverage;
  /**
   * Share of the images that look like the class that they were asked for to a small classifier; in the null's row, of data that it did not learn.
   */
  double accuracy;
  /**
   * RMSE of the state that each step lands on, against the teacher's at that timestep; `step_count` numbers, valid until the report is destroyed. Of
   * deterministic samplers of at most 16 steps over the teacher's noise schedule.
   */
  const double *step_errors;
  /**
   * Elements of step_errors; 0 where there are none.
   */
  size_t step_count;
} fewstep_quality;

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the report. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_quality_report_get_info(const fewstep_quality_report *report, fewstep_quality_report_info *out);

/**
 * Fills `*out`, whose struct_size the caller has set, with row `index`: 0 is the null, 1 its spread, 2 the teacher, the others are the sets in their order.
 *
 * Any thread may call, also while others use the report. Returns OK or INVALID_ARGUMENT (also for an index that is no row's).
 */
FEWSTEP_API
fewstep_status fewstep_quality_report_row(const fewstep_quality_report *report,
                                          size_t index,
                                          fewstep_quality *out);

/**
 * Writes the whole report as text, UTF-8 with a NUL at its end, to `buffer`, which has room for `capacity` bytes, and the bytes before the NUL to `*length`.
 * `format` is FEWSTEP_REPORT_*. With `buffer` NULL and `capacity` 0 only the length is written.
 *
 * Any thread may call, also while others use the report. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_quality_report_text(const fewstep_quality_report *report,
                                           int32_t format,
                                           char *buffer,
                                           size_t capacity,
                                           size_t *length);

/**
 * Destroys a report. NULL is fine. What fewstep_quality_report_row gave must not be read any more: names and errors of steps are the report's.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the report (nothing happens then).
 */
FEWSTEP_API
fewstep_status fewstep_quality_report_destroy(fewstep_quality_report *report);


/* ---------------------------------------------------------------------------
 * Evaluations: how good images are
 * --------------------------------------------------------------------------- */

/**
 * How sets of images are evaluated. Fill it with fewstep_evaluate_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * Images of each set, 6 to 65536; 1024 by default. With fewer, what distributions say is mostly chance; the null shows it.
   */
  uint32_t count;
  /**
   * Images side by side; 64 by default.
   */
  uint32_t batch;
  /**
   * Height of the images; 0 (the default) for the teacher's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the teacher's.
   */
  uint32_t width;
  /**
   * Steps of the teacher's reference: DDIM on the trailing grid with eta 0; 50 by default.
   */
  uint32_t reference_steps;
  /**
   * Seed of the noise: image i has the noise of (seed, i), as of a sampler's run that begins with this seed at index 0. 0 by default.
   */
  uint64_t seed;
  /**
   * FEWSTEP_PRECISION_*: what the teacher computes in; f32 by default.
   */
  int32_t precision;
  /**
   * As in fewstep_sampler_options, of the teacher.
   */
  int32_t null_label;
  /**
   * As in fewstep_sampler_options, of the teacher; 1 (the default) for none.
   */
  double guidance_scale;
  /**
   * What all models are given with the images, for `count` images. NULL by default: labels are drawn evenly by the seed, all else from the dataset's rows.
   */
  const fewstep_conditioning *conditionings;
  /**
   * Elements of conditionings.
   */
  size_t conditioning_count;
  /**
   * Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
   */
  size_t conditioning_stride;
  /**
   * What distributions are compared with: `count` of its images, or half of them where it has fewer than twice as many. NULL (the default) for the teacher's
   * images of other noises. It also says which labels the classifier learns.
   */
  const fewstep_dataset *dataset;
  /**
   * Stops the call with CANCELLED; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
  /**
   * 1 (the default): where the dataset has labels, a small classifier is trained on two thirds of it (400 steps of 64 images), and says how many images look
   * like the class that they were asked for.
   */
  int32_t classifier;
  /**
   * What the reference does to the image that it predicts in each step: FEWSTEP_CLIP_FROM_TEACHER (the default), or FEWSTEP_CLIP_NONE. Sets are best compared with
   * a reference that clips as they do.
   */
  int32_t reference_clip;
} fewstep_evaluate_options;

/**
 * A set of images to evaluate: those that a model makes, or the program's. Set every field; those that a later version adds may be 0.
 */
typedef struct {
  /**
   * Its name in the report, UTF-8 on one line, at most 256 bytes.
   */
  const char *name;
  /**
   * The model that makes the images; NULL where they are given.
   */
  const fewstep_model *model;
  /**
   * How the model is sampled; NULL for a few-step student's own grid. Of it batch, height, width and cancel are not read.
   */
  const fewstep_sampler_options *sampler;
  /**
   * Images [count,C,H,W] where there is no model.
   */
  const float *images;
  /**
   * Elements of images.
   */
  size_t image_count;
  /**
   * Of given images, 1: they were made from the evaluation's own noises and conditionings, and are compared with the teacher's one by one; 0: they are not.
   */
  int32_t paired;
  /**
   * 0.
   */
  uint32_t reserved;
} fewstep_evaluate_set;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_evaluate_options_init(fewstep_evaluate_options *options, size_t struct_size);

/**
 * Evaluates sets of images: every model samples the same noises with the same conditionings, and all sets are measured in the same ways (fewstep_quality). The
 * report has, before the `set_count` sets, the rows that they are to be read beside: what images of the reference get against others of it, twice (mean and
 * spread over four splits), and the teacher with its reference solver. Give further controls as sets: the teacher in as few steps as the student, a small net
 * trained from scratch, a student that only matches outputs. `sets` has `set_count` elements, at most 256, `set_stride` bytes apart
 * (sizeof(fewstep_evaluate_set)); it may have none. `options` may be NULL for the defaults. `progress` may be NULL and reports FEWSTEP_PHASE_EVALUATE.
 *
 * Distributions are compared in features of a small convolutional net with random weights, the same for ever for images of one size: no number is an FID or a
 * KID of papers, and none is comparable but with others of this library at the same number of images. Time grows with the square of that: 1024 images take
 * about a second for each set, beside their sampling. Memory: a few sets of images at a time, and the teacher's states at the timesteps that few-step
 * sets land on.
 *
 * The caller owns `*out` and gives it to fewstep_quality_report_destroy; it keeps the runtime alive. Any thread may call. Returns OK, INVALID_ARGUMENT (also
 * for a dataset of fewer than 12 images), SHAPE (sizes that do not fit together), NUMERIC (an image that is not finite), CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_evaluate(const fewstep_runtime *runtime,
                                const fewstep_model *teacher,
                                const fewstep_evaluate_options *options,
                                const fewstep_evaluate_set *sets,
                                size_t set_count,
                                size_t set_stride,
                                fewstep_progress_callback progress,
                                void *user,
                                fewstep_quality_report **out);


/* ---------------------------------------------------------------------------
 * Students that fit a budget, and what one costs
 * --------------------------------------------------------------------------- */

/**
 * What students are searched for, and how models are timed. Fill it with fewstep_student_search_options_init, then change fields.
 */
typedef struct {
  /**
   * Bytes of this struct.
   */
  uint32_t struct_size;
  /**
   * The most students of the table: measuring ends once so many fit; 16 by default, 0 for no bound.
   */
  uint32_t rows;
  /**
   * The most parameters; 0 (the default) for no bound.
   */
  uint64_t max_parameters;
  /**
   * The most floating-point operations of an evaluation of one image; 0 (the default) for no bound.
   */
  uint64_t max_flops;
  /**
   * The most milliseconds for a sample, as measured by this call; 0 (the default) for no bound.
   */
  double max_ms;
  /**
   * Images that are evaluated at once; 1 by default.
   */
  uint32_t batch;
  /**
   * Height of the images; 0 (the default) for the teacher's.
   */
  uint32_t height;
  /**
   * Width of the images; 0 (the default) for the teacher's.
   */
  uint32_t width;
  /**
   * Evaluations that a student needs for a sample, 1 to 1000; 1 by default, so that `ms` is of one evaluation.
   */
  uint32_t steps;
  /**
   * Evaluations that the teacher needs for a sample, 1 to 1000; 1 by default, so that `speedup` is of one evaluation.
   */
  uint32_t teacher_steps;
  /**
   * Evaluations that a model is timed by, after one that is not counted; their median is. 1 to 1000, 5 by default.
   */
  uint32_t repeats;
  /**
   * FEWSTEP_PRECISION_*: what models compute in; f32 by default.
   */
  int32_t precision;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Stops the call with CANCELLED; only read during it. NULL (the default) for none.
   */
  const fewstep_cancel_token *cancel;
} fewstep_student_search_options;

/**
 * What a model costs. Set struct_size before a function fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * JSON on one line, the keys of config.json that differ from the teacher's, as fewstep_student_options takes them; "{}" for the teacher. Valid until the
   * table is destroyed. NULL from fewstep_student_measure.
   */
  const char *config_patch;
  /**
   * Number of parameters.
   */
  uint64_t parameters;
  /**
   * Floating-point operations of an evaluation of one image: products and sums of convolutions, linear layers and attention. Norms and activations are left
   * out, as is usual.
   */
  uint64_t flops;
  /**
   * Bytes of the weights in memory; of students in the table four for each parameter.
   */
  uint64_t weight_bytes;
  /**
   * Milliseconds for a sample: of an evaluation of a batch, for each of its images, times its steps; images are copied to the device and back.
   */
  double ms;
  /**
   * The teacher's milliseconds for a sample, divided by these.
   */
  double speedup;
} fewstep_student_cost;

/**
 * Students that fit a budget. Immutable.
 */
typedef struct fewstep_student_table fewstep_student_table;

/**
 * What a table is of. Set struct_size before fewstep_student_table_get_info fills the rest.
 */
typedef struct {
  /**
   * Bytes of this struct, set by the caller.
   */
  uint32_t struct_size;
  /**
   * Rows: the teacher, and the students that fit.
   */
  uint32_t rows;
  /**
   * Smaller networks that there are, those of the teacher's operations or fewer.
   */
  uint32_t candidates;
  /**
   * Those of them that were measured.
   */
  uint32_t measured;
} fewstep_student_table_info;

/**
 * Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
 *
 * Any thread may call. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_student_search_options_init(fewstep_student_search_options *options, size_t struct_size);

/**
 * Searches the teacher's smaller relatives for those that fit a budget. Of a UNet2DModel these are all combinations of: up to two stages fewer, 3/4, 1/2 or
 * 1/4 of the channels, half as many residual blocks or one, attention at the lowest resolution alone, linear, or none, no mid block, half the time
 * embedding. Those with too many parameters or operations are left out first; the others are measured on the runtime's device, from the one of the most
 * operations down, until `rows` of them fit. The table has the teacher first, then the students in that order: how much they compute is the only thing that is
 * known of how good they can become. Train the first few for a short while and compare (fewstep_evaluate) before one is trained for long. Nothing else should
 * compute meanwhile. `options` may be NULL for the defaults. `progress` may be NULL and reports FEWSTEP_PHASE_SEARCH.
 *
 * The caller owns `*out` and gives it to fewstep_student_table_destroy; it keeps the runtime alive. A table may have no student. Any thread may call. Returns
 * OK, INVALID_ARGUMENT, SHAPE, CANCELLED, UNSUPPORTED (also for a teacher of another class) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_student_search(const fewstep_runtime *runtime,
                                      const fewstep_model *teacher,
                                      const fewstep_student_search_options *options,
                                      fewstep_progress_callback progress,
                                      void *user,
                                      fewstep_student_table **out);

/**
 * Measures what one student costs beside its teacher, on the runtime's device: fills `*out`, whose struct_size the caller has set. Of `options` rows and the
 * bounds are not read; NULL for the defaults. The student may be any model that takes images of the same size.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_student_measure(const fewstep_runtime *runtime,
                                       const fewstep_model *teacher,
                                       const fewstep_model *student,
                                       const fewstep_student_search_options *options,
                                       fewstep_student_cost *out);

/**
 * Fills `*out`, whose struct_size the caller has set.
 *
 * Any thread may call, also while others use the table. Returns OK or INVALID_ARGUMENT.
 */
FEWSTEP_API fewstep_status fewstep_student_table_get_info(const fewstep_student_table *table, fewstep_student_table_info *out);

/**
 * Fills `*out`, whose struct_size the caller has set, with row `index`: 0 is the teacher, the others are the students, those of the most operations first.
 *
 * Any thread may call, also while others use the table. Returns OK or INVALID_ARGUMENT (also for an index that is no row's).
 */
FEWSTEP_API
fewstep_status fewstep_student_table_row(const fewstep_student_table *table,
                                         size_t index,
                                         fewstep_student_cost *out);

/**
 * Destroys a table. NULL is fine. The patches that fewstep_student_table_row gave must not be read any more.
 *
 * Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the table (nothing happens then).
 */
FEWSTEP_API fewstep_status fewstep_student_table_destroy(fewstep_student_table *table);


/* ---------------------------------------------------------------------------
 * Arrays and pictures as files
 * --------------------------------------------------------------------------- */

/**
 * One row of a picture of images. Set every field; those that a later version adds may be 0.
 */
typedef struct {
  /**
   * Text at the left, UTF-8; NULL for none.
   */
  const char *label;
  /**
   * Images [count,C,H,W] with values around [-1, 1].
   */
  const float *images;
  /**
   * Number of images, the same in every row.
   */
  size_t count;
} fewstep_grid_row;

/**
 * Saves floats as a NumPy `.npy` file, which appears whole or not at all. `shape` has `rank` elements, outermost first. `path` is UTF-8.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
 */
FEWSTEP_API fewstep_status fewstep_save_npy_f32(const char *path, const float *data, const size_t *shape, size_t rank);

/**
 * The same for 32-bit integers.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
 */
FEWSTEP_API fewstep_status fewstep_save_npy_i32(const char *path, const int32_t *data, const size_t *shape, size_t rank);

/**
 * Saves a PNG with one labelled row of images for each element of `rows` (`row_stride` bytes apart: sizeof(fewstep_grid_row)). Images are
 * [C,H,W] with 1 (grey), 3 (RGB) or 4 (RGBA) channels; -1 is black, 1 is full, and every pixel becomes a square of `scale` dots. `path` is UTF-8.
 *
 * Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, NUMERIC, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
 */
FEWSTEP_API
fewstep_status fewstep_save_image_grid(const char *path,
                                       const fewstep_grid_row *rows,
                                       size_t row_count,
                                       size_t row_stride,
                                       uint32_t channels,
                                       uint32_t height,
                                       uint32_t width,
                                       uint32_t scale);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* FEWSTEP_H */
