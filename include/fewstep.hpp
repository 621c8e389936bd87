/*
 * fewstep for C++17: fewstep.h with owners, exceptions and callables. Header only; link the same library.
 *
 *     fewstep::Runtime runtime;
 *     fewstep::Model student = fewstep::Model::open(runtime, "student");
 *     fewstep::Sampler sampler(runtime, student);
 *     sampler.begin(42);
 *     while (!sampler.step(std::chrono::milliseconds(2))) draw_a_frame();
 *     std::vector<float> images = sampler.read(); // [N,C,H,W]
 *
 * What a function computes, and the statuses that it may answer, stand at the C function of the same name in fewstep.h. What C++ adds:
 *
 * ERRORS. A status other than FEWSTEP_STATUS_OK is thrown as fewstep::Error, cancelling included. A std:: object that is too large throws as it does
 * (std::bad_alloc, std::length_error). Moving and destroying never throw. After an exception an object is as usable as after the C function's error.
 *
 * OWNERSHIP. Every class owns one handle, can be moved and not copied, and may be destroyed in any order: children keep what they need of their
 * parents. An object that was moved from may be assigned to or destroyed; anything else throws INVALID_ARGUMENT. A call holds its handles until it
 * returns, so that a callable may even destroy the object whose call is running: the handle is then destroyed when the call returns.
 *
 * THREADS. `const` member functions of one object may run at the same time on many threads, of the others one at a time (a second one throws STATE, also
 * from the first one's callable). No thread may use an object while another moves, assigns or destroys it. Callables run on the calling thread.
 *
 * OPTIONS are the structs of the C header. `sampler_options()` and its like return them with their defaults; pointers in them are the caller's.
 *
 * STRINGS are UTF-8; one with a NUL inside is refused with INVALID_ARGUMENT.
 */
#ifndef FEWSTEP_HPP
#define FEWSTEP_HPP

#include "fewstep.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fewstep {

/** A call failed: `what()` is the sentence of fewstep_last_error(), `status()` is FEWSTEP_STATUS_*. */
class Error : public std::runtime_error {
  public:
    /** An error with a status other than FEWSTEP_STATUS_OK. Throws std::bad_alloc. */
    Error(fewstep_status status, const std::string &message) : std::runtime_error(message), status_(status) {}

    /** FEWSTEP_STATUS_*. */
    fewstep_status status() const noexcept { return status_; }

    /** The status as a word, such as "CANCELLED". */
    const char *status_name() const noexcept { return fewstep_status_name(status_); }

  private:
    fewstep_status status_;
};

/** Throws Error unless `status` is FEWSTEP_STATUS_OK. For C functions that have no wrapper; call it on the same thread, right after them. */
inline void check(fewstep_status status) {
    if (status != FEWSTEP_STATUS_OK) throw Error(status, fewstep_last_error());
}

/** Takes a line of the log and its FEWSTEP_LOG_* level. */
using Log = std::function<void(std::int32_t level, std::string_view line)>;

/** The progress callable that does nothing. */
struct NoProgress {
    /** Goes on. */
    void operator()(const fewstep_progress &) const noexcept {}
};

/** What the classes below are made of; not for programs. */
namespace detail {

// One name for every kind's end.
inline fewstep_status destroy(fewstep_cancel_token *handle) noexcept { return fewstep_cancel_token_destroy(handle); }
inline fewstep_status destroy(fewstep_runtime *handle) noexcept { return fewstep_runtime_destroy(handle); }
inline fewstep_status destroy(fewstep_model *handle) noexcept { return fewstep_model_destroy(handle); }
inline fewstep_status destroy(fewstep_dataset *handle) noexcept { return fewstep_dataset_destroy(handle); }
inline fewstep_status destroy(fewstep_trajectories *handle) noexcept { return fewstep_trajectories_destroy(handle); }
inline fewstep_status destroy(fewstep_evaluator *handle) noexcept { return fewstep_evaluator_destroy(handle); }
inline fewstep_status destroy(fewstep_quality_report *handle) noexcept { return fewstep_quality_report_destroy(handle); }
inline fewstep_status destroy(fewstep_student_table *handle) noexcept { return fewstep_student_table_destroy(handle); }
inline fewstep_status destroy(fewstep_trainer *handle) noexcept { return fewstep_trainer_destroy(handle); }
inline fewstep_status destroy(fewstep_sampler *handle) noexcept { return fewstep_sampler_destroy(handle); }

// Ends a handle, then lets go of what it needs: a child holds its runtime, and that holds the log.
template <class T>
struct Destroy {
    std::shared_ptr<const void> parent;
    void operator()(T *handle) const noexcept {
        // Refused (STATE) only while a call uses the handle that did not come through this header: a leak is then better than ending the program.
        static_cast<void>(destroy(handle));
    }
};

// Runs a C function that writes a new handle, and owns the handle.
template <class T, class Make>
std::shared_ptr<T> own(std::shared_ptr<const void> parent, Make make) {
    T *out = nullptr;
    check(make(&out));
    return std::shared_ptr<T>(out, Destroy<T>{std::move(parent)});
}

// The same for what is made from a runtime, which it keeps alive.
template <class T, class Make>
std::shared_ptr<T> child(std::shared_ptr<fewstep_runtime> runtime, Make make) {
    return own<T>(runtime, [&](T **out) { return make(runtime.get(), out); });
}

// A struct of options as its C function fills it.
template <class Options>
Options defaults(fewstep_status (*init)(Options *, std::size_t)) {
    Options options{};
    check(init(&options, sizeof options));
    return options;
}

// A struct that the library fills.
template <class Info, class Fill>
Info filled(Fill fill) {
    Info info{};
    info.struct_size = static_cast<std::uint32_t>(sizeof info);
    check(fill(&info));
    return info;
}

inline const char *text(const std::string &string) {
    // The C side would end the text at the NUL, and use another file than the one that was named.
    if (string.find('\0') == std::string::npos) return string.c_str();
    throw Error(FEWSTEP_STATUS_INVALID_ARGUMENT, "a string has a NUL inside, after '" + std::string(string.c_str()) + "'");
}

inline const char *optional_text(const std::string &string) { return string.empty() ? nullptr : text(string); }

// Stands between the library and a callable, which takes progress or another of its structs: no exception may cross the C code.
template <class F, class Told = fewstep_progress>
struct Relay {
    F &progress;
    std::exception_ptr thrown;

    static std::int32_t report(void *user, const Told *now) noexcept {
        Relay &relay = *static_cast<Relay *>(user);
        using Answer = std::invoke_result_t<F &, const Told &>;
        static_assert(std::is_void_v<Answer> || std::is_same_v<Answer, bool>, "the callable returns nothing, or false to cancel");
        try {
            if constexpr (std::is_void_v<Answer>) {
                relay.progress(*now);
                return 0;
            } else {
                return relay.progress(*now) ? 0 : 1;
            }
        } catch (...) {
            relay.thrown = std::current_exception();
            return 1;
        }
    }
};

// The owner that every class is.
template <class T>
class Owner {
  public:
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;
    Owner(Owner &&) noexcept = default;
    Owner &operator=(Owner &&) noexcept = default;

    /** The C handle, for functions that have no wrapper: it lives at least as long as the pointer that is returned. Null after a move. */
    std::shared_ptr<T> handle() const noexcept { return handle_; }

  protected:
    explicit Owner(std::shared_ptr<T> handle) noexcept : handle_(std::move(handle)) {}
    ~Owner() = default;

  private:
    std::shared_ptr<T> handle_;
};

} // namespace detail

/** @name Default options: each returns the struct of fewstep.h that its name is of, filled by that struct's `_init`. */
/**@{*/
inline fewstep_runtime_options runtime_options() { return detail::defaults(fewstep_runtime_options_init); }
inline fewstep_student_options student_options() { return detail::defaults(fewstep_student_options_init); }
inline fewstep_dataset_options dataset_options() { return detail::defaults(fewstep_dataset_options_init); }
inline fewstep_folder_options folder_options() { return detail::defaults(fewstep_folder_options_init); }
inline fewstep_fill_options fill_options() { return detail::defaults(fewstep_fill_options_init); }
inline fewstep_trajectories_options trajectories_options() { return detail::defaults(fewstep_trajectories_options_init); }
inline fewstep_trainer_options trainer_options() { return detail::defaults(fewstep_trainer_options_init); }
inline fewstep_quantize_options quantize_options() { return detail::defaults(fewstep_quantize_options_init); }
inline fewstep_onnx_options onnx_options() { return detail::defaults(fewstep_onnx_options_init); }
inline fewstep_sampler_options sampler_options() { return detail::defaults(fewstep_sampler_options_init); }
inline fewstep_begin_options begin_options() { return detail::defaults(fewstep_begin_options_init); }
inline fewstep_evaluator_options evaluator_options() { return detail::defaults(fewstep_evaluator_options_init); }
inline fewstep_recipe_options recipe_options() { return detail::defaults(fewstep_recipe_options_init); }
inline fewstep_evaluate_options evaluate_options() { return detail::defaults(fewstep_evaluate_options_init); }
inline fewstep_student_search_options student_search_options() { return detail::defaults(fewstep_student_search_options_init); }
inline fewstep_evaluation evaluation() { return detail::defaults(fewstep_evaluation_init); }
/**@}*/

/** Class labels as a conditioning. It points into `labels`, which must outlive it unchanged. */
inline fewstep_conditioning class_labels(const std::vector<std::int32_t> &labels) noexcept {
    return {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels.data(), labels.size()};
}
fewstep_conditioning class_labels(std::vector<std::int32_t> &&) = delete;

/** Floats as a conditioning of kind FEWSTEP_CONDITIONING_PLANES, _TOKENS or _VECTOR. It points into `values`, which must outlive it unchanged. */
inline fewstep_conditioning conditioning(std::int32_t kind, const std::vector<float> &values) noexcept { return {kind, 0, values.data(), values.size()}; }
fewstep_conditioning conditioning(std::int32_t, std::vector<float> &&) = delete;

/** What a layer's whole numbers cost: see fewstep_layer_report. */
struct LayerReport {
    std::string layer; /**< Its path; empty for all layers together. */
    std::vector<double> step_errors;
    double share = 0;
    double error_if_kept = 0;
};

/**
 * A flag that stops blocking calls from any thread. Every member function may run at any time. In a struct of options it is
 * `options.cancel = token.handle().get()`.
 */
class CancelToken : public detail::Owner<fewstep_cancel_token> {
  public:
    /** A token that is not set. Throws Error. */
    CancelToken() : Owner(detail::own<fewstep_cancel_token>(nullptr, fewstep_cancel_token_create)) {}

    /** Sets the token until `reset`. Throws Error. */
    void cancel() const { check(fewstep_cancel_token_cancel(handle().get())); }

    /** Clears the token. Throws Error. */
    void reset() const { check(fewstep_cancel_token_reset(handle().get())); }

    /** Whether the token is set. Throws Error. */
    bool is_cancelled() const {
        std::int32_t set = 0;
        check(fewstep_cancel_token_is_cancelled(handle().get(), &set));
        return set != 0;
    }
};

namespace detail {

// Runs a blocking C function with a progress callable; what the callable threw goes on from here. Touches nothing but its arguments, so that the
// callable may destroy the object whose handle this is.
template <class T, class F, class Call>
void watched(std::shared_ptr<T> handle, [[maybe_unused]] F &progress, const CancelToken *cancel, Call call) {
    const auto token = cancel ? cancel->handle() : nullptr;
    if constexpr (std::is_same_v<std::remove_cv_t<F>, NoProgress>) {
        check(call(handle.get(), nullptr, nullptr, token.get())); // where nobody watches the library need not stop at every step
    } else {
        Relay<F> relay{progress, nullptr};
        const fewstep_status status = call(handle.get(), &Relay<F>::report, static_cast<void *>(&relay), token.get());
        if (relay.thrown) std::rethrow_exception(relay.thrown);
        check(status);
    }
}

// The text that a function writes to a buffer (NULL for its length alone), its capacity, and where its length goes.
template <class Write>
std::string written(Write write) {
    std::size_t length = 0;
    check(write(static_cast<char *>(nullptr), std::size_t{0}, &length));
    std::string text(length + 1, '\0');
    check(write(text.data(), text.size(), &length));
    text.resize(length);
    return text;
}

} // namespace detail

/** How many devices of a kind there are, FEWSTEP_DEVICE_*, usable or not; 0 is no error. Throws Error. */
inline std::uint32_t device_count(std::int32_t device) {
    std::uint32_t count = 0;
    check(fewstep_device_count(device, &count));
    return count;
}

/** What a device is. Of one that is not there, the error says why. Throws Error. */
inline fewstep_device_info device_info(std::int32_t device, std::int32_t index = 0) {
    return detail::filled<fewstep_device_info>([=](auto *out) { return fewstep_device_get_info(device, index, out); });
}

/** Compute threads, device and log. */
class Runtime : public detail::Owner<fewstep_runtime> {
  public:
    /**
     * Starts the compute threads. A `log` takes the place of `options.log`; it lives as long as anything made from the runtime, and is called by
     * whichever thread has something to say, so that a program with several threads needs one that bears that. What it throws is dropped together with
     * its line, for a log has nobody to tell. Throws Error.
     */
    explicit Runtime(const fewstep_runtime_options &options = runtime_options(), Log log = nullptr) : Owner(create(options, std::move(log))) {}

    /** What the runtime computes with. Throws Error. */
    fewstep_runtime_info info() const {
        return detail::filled<fewstep_runtime_info>([&](auto *out) { return fewstep_runtime_get_info(handle().get(), out); });
    }

  private:
    static std::shared_ptr<fewstep_runtime> create(fewstep_runtime_options options, Log log) {
        std::shared_ptr<Log> kept;
        if (log) {
            kept = std::make_shared<Log>(std::move(log));
            options.log = write;
            options.log_user = kept.get();
        }
        return detail::own<fewstep_runtime>(kept, [&](fewstep_runtime **out) { return fewstep_runtime_create(&options, out); });
    }

    static void write(void *user, std::int32_t level, const char *line) noexcept {
        try {
            (*static_cast<Log *>(user))(level, line);
        } catch (...) { // as the constructor says
        }
    }
};

/** Architecture, weights, and how they are meant to be sampled. Immutable. */
class Model : public detail::Owner<fewstep_model> {
  public:
    /** Opens a diffusers folder or a file of `save_file`. Throws Error. */
    static Model open(const Runtime &runtime, const std::string &path) {
        return make(runtime, [&](auto *at, auto **out) { return fewstep_model_open(at, detail::text(path), out); });
    }

    /** Opens the weights of one variant, such as "fp16", from a diffusers folder; "" is the plain file. Throws Error. */
    static Model open_variant(const Runtime &runtime, const std::string &path, const std::string &variant) {
        return make(runtime, [&](auto *at, auto **out) { return fewstep_model_open_variant(at, detail::text(path), detail::text(variant), out); });
    }

    /** The same from the bytes of a file of `save_file`, which are copied. Throws Error. */
    static Model open_buffer(const Runtime &runtime, const void *data, std::size_t size) {
        return make(runtime, [&](auto *at, auto **out) { return fewstep_model_open_buffer(at, data, size, out); });
    }

    /** The same from the files of a diffusers folder, which are copied; an empty `scheduler_json` stands for diffusers' defaults. Throws Error. */
    static Model open_memory(const Runtime &runtime, const std::string &config_json, const std::string &scheduler_json, const void *weights, std::size_t size) {
        return make(runtime, [&](auto *at, auto **out) {
            return fewstep_model_open_memory(at, detail::text(config_json), detail::optional_text(scheduler_json), weights, size, out);
        });
    }

    /** A model with random weights; an empty `scheduler_json` stands for DDIM's defaults. Throws Error. */
    static Model create(const Runtime &runtime, const std::string &config_json, const std::string &scheduler_json = {}, std::uint64_t seed = 0) {
        return make(runtime, [&](auto *at, auto **out) {
            return fewstep_model_create(at, detail::text(config_json), detail::optional_text(scheduler_json), seed, out);
        });
    }

    /** An initial student of this teacher; by default of the same architecture. Throws Error. */
    Model derive_student(const Runtime &runtime, const fewstep_student_options &options = student_options()) const {
        return make(runtime, [&](auto *at, auto **out) { return fewstep_model_derive_student(at, handle().get(), &options, out); });
    }

    /** This student in whole numbers of one byte. Throws Error. */
    Model quantize(const Runtime &runtime, const fewstep_quantize_options &options = quantize_options()) const {
        return make(runtime, [&](auto *at, auto **out) { return fewstep_quantize(at, handle().get(), &options, nullptr, nullptr, out); });
    }

    /** What the whole numbers of `quantized`, which was made of this student, cost: all layers together, then each. Throws Error. */
    std::vector<LayerReport> quantize_report(const Runtime &runtime, const Model &quantized,
                                             const fewstep_quantize_options &options = quantize_options()) const {
        struct Seen {
            std::vector<LayerReport> all;
            std::exception_ptr thrown;
        } seen;
        const auto visit = [](void *user, const fewstep_layer_report *layer) noexcept {
            Seen &to = *static_cast<Seen *>(user);
            try {
                to.all.push_back({layer->layer ? layer->layer : "", {layer->step_errors, layer->step_errors + layer->step_count}, layer->share, layer->error_if_kept});
            } catch (...) {
                to.thrown = std::current_exception();
            }
        };
        check(fewstep_quantize_report(runtime.handle().get(), handle().get(), quantized.handle().get(), &options, nullptr, visit, &seen));
        if (seen.thrown) std::rethrow_exception(seen.thrown);
        return std::move(seen.all);
    }

    /** Saves a diffusers folder. Throws Error. */
    void save(const std::string &path) const { check(fewstep_model_save(handle().get(), detail::text(path))); }

    /** Saves one file, whatever the grid. Throws Error. */
    void save_file(const std::string &path) const { check(fewstep_model_save_file(handle().get(), detail::text(path))); }

    /** Writes an ONNX file. Throws Error. */
    void export_onnx(const std::string &path, const fewstep_onnx_options &options = onnx_options()) const {
        check(fewstep_model_export_onnx(handle().get(), &options, detail::text(path)));
    }

    /** The bytes of an ONNX file. Throws Error. */
    std::vector<std::uint8_t> export_onnx(const fewstep_onnx_options &options = onnx_options()) const {
        std::size_t length = 0;
        check(fewstep_model_export_onnx_to_buffer(handle().get(), &options, nullptr, 0, &length));
        std::vector<std::uint8_t> bytes(length);
        check(fewstep_model_export_onnx_to_buffer(handle().get(), &options, bytes.data(), bytes.size(), &length));
        return bytes;
    }

    /** What the model is. Throws Error. */
    fewstep_model_info info() const {
        return detail::filled<fewstep_model_info>([&](auto *out) { return fewstep_model_get_info(handle().get(), out); });
    }

    /** What the model takes beside images and timesteps. Throws Error. */
    std::vector<fewstep_condition> conditions() const {
        std::vector<fewstep_condition> all;
        for (std::size_t i = 0, count = info().conditions; i < count; i++) {
            all.push_back(detail::filled<fewstep_condition>([&](auto *out) { return fewstep_model_condition(handle().get(), i, out); }));
        }
        return all;
    }

    /** The grid of a few-step student; empty for other models. Throws Error. */
    std::vector<fewstep_step_pair> pairs() const {
        std::size_t count = 0;
        check(fewstep_model_pairs(handle().get(), nullptr, 0, &count));
        std::vector<fewstep_step_pair> pairs(count);
        if (count != 0) check(fewstep_model_pairs(handle().get(), pairs.data(), count, &count));
        return pairs;
    }

  private:
    friend class Trainer; // makes models of its weights
    friend class Recipe;
    explicit Model(std::shared_ptr<fewstep_model> handle) noexcept : Owner(std::move(handle)) {}

    template <class Make>
    static Model make(const Runtime &runtime, Make make) {
        return Model(detail::child<fewstep_model>(runtime.handle(), make));
    }
};

/** A file or folder that was left out of a dataset, and why: see fewstep_skipped. */
struct Skipped {
    std::string path;
    std::string reason;
    fewstep_status status = FEWSTEP_STATUS_OK;
};

/** Images, and labels where there are classes, that trainers draw from. Immutable. */
class Dataset : public detail::Owner<fewstep_dataset> {
  public:
    /** Copies the arrays that `options` points to. Throws Error. */
    Dataset(const Runtime &runtime, const fewstep_dataset_options &options)
        : Dataset(detail::child<fewstep_dataset>(runtime.handle(), [&](auto *at, auto **out) { return fewstep_dataset_create(at, &options, out); })) {}

    /** Reads a NumPy archive; an empty `labels_name` stands for none. Throws Error. */
    static Dataset open_npz(const Runtime &runtime, const std::string &path, const std::string &images_name, const std::string &labels_name = {},
                            float scale = 1 / 127.5F, float shift = -1) {
        return Dataset(detail::child<fewstep_dataset>(runtime.handle(), [&](auto *at, auto **out) {
            return fewstep_dataset_open_npz(at, detail::text(path), detail::text(images_name), detail::optional_text(labels_name), scale, shift, out);
        }));
    }

    /** Reads NumPy arrays; an empty `labels_path` stands for none. Throws Error. */
    static Dataset open_npy(const Runtime &runtime, const std::string &images_path, const std::string &labels_path = {}, float scale = 1 / 127.5F,
                            float shift = -1) {
        return Dataset(detail::child<fewstep_dataset>(runtime.handle(), [&](auto *at, auto **out) {
            return fewstep_dataset_open_npy(at, detail::text(images_path), detail::optional_text(labels_path), scale, shift, out);
        }));
    }

    /**
     * Reads the pictures in a folder. `progress` takes a `const fewstep_progress &` and returns nothing, or a bool of which false cancels. Throws Error and
     * what `progress` throws.
     */
    template <class F = NoProgress>
    static Dataset open_folder(const Runtime &runtime, const std::string &path, const fewstep_folder_options &options = folder_options(), F &&progress = F{}) {
        return Dataset(detail::child<fewstep_dataset>(runtime.handle(), [&](auto *at, auto **out) {
            detail::Relay<std::remove_reference_t<F>> relay{progress, nullptr};
            constexpr bool idle = std::is_same_v<std::remove_cv_t<std::remove_reference_t<F>>, NoProgress>;
            const fewstep_status status = fewstep_dataset_open_folder(at, detail::text(path), &options, idle ? nullptr : &decltype(relay)::report,
                                                                      static_cast<void *>(&relay), out);
            if (relay.thrown) std::rethrow_exception(relay.thrown);
            return status;
        }));
    }

    /**
     * Has `fill` write the images: it takes a `const fewstep_fill &` and returns nothing, or a bool of which false cancels. Throws Error and what `fill` throws.
     */
    template <class F>
    static Dataset filled(const Runtime &runtime, const fewstep_fill_options &options, F &&fill) {
        return Dataset(detail::child<fewstep_dataset>(runtime.handle(), [&](auto *at, auto **out) {
            detail::Relay<std::remove_reference_t<F>, fewstep_fill> relay{fill, nullptr};
            const fewstep_status status = fewstep_dataset_create_filled(at, &options, &decltype(relay)::report, static_cast<void *>(&relay), out);
            if (relay.thrown) std::rethrow_exception(relay.thrown);
            return status;
        }));
    }

    /** What a folder's dataset left out, the first 10,000 of it; empty for other datasets. Throws Error. */
    std::vector<Skipped> skipped() const {
        std::vector<Skipped> all(info().skipped_listed);
        for (std::size_t i = 0; i < all.size(); i++) {
            const auto row = detail::filled<fewstep_skipped>([&](auto *out) { return fewstep_dataset_skipped(handle().get(), i, out); });
            all[i] = {row.path, row.reason, row.status};
        }
        return all;
    }

    /** The names of a folder's classes, by their labels; empty for other datasets. Throws Error. */
    std::vector<std::string> class_names() const {
        std::vector<std::string> names(info().class_names);
        for (std::size_t i = 0; i < names.size(); i++) {
            const char *name = nullptr;
            check(fewstep_dataset_class_name(handle().get(), i, &name));
            names[i] = name;
        }
        return names;
    }

    /** What the dataset is. Throws Error. */
    fewstep_dataset_info info() const {
        return detail::filled<fewstep_dataset_info>([&](auto *out) { return fewstep_dataset_get_info(handle().get(), out); });
    }

  private:
    explicit Dataset(std::shared_ptr<fewstep_dataset> handle) noexcept : Owner(std::move(handle)) {}
};

/** A teacher's states at the ends of a student's steps: of a teacher of the host's, of a trainer, or of a file. Immutable. */
class Trajectories : public detail::Owner<fewstep_trajectories> {
  public:
    /**
     * Computes those of a teacher that is any callable: it takes a `const fewstep_evaluation &`, where to write its predictions, and how many numbers those are.
     * What it throws goes on from here. `options.predict` and `options.user` are not read. Throws Error and what `teacher` and `progress` throw.
     */
    template <class Teacher, class F = NoProgress>
    static Trajectories create(const Runtime &runtime, const Model &student, fewstep_trajectories_options options, Teacher &&teacher,
                               const Dataset *dataset = nullptr, F &&progress = F{}, const CancelToken *cancel = nullptr) {
        Asked<Teacher> asked{teacher, nullptr};
        options.predict = &Asked<Teacher>::predict;
        options.user = static_cast<void *>(&asked);
        const auto make = [&](auto *at, auto **out) {
            fewstep_status status = FEWSTEP_STATUS_OK;
            detail::watched(runtime.handle(), progress, cancel, [&](auto *, auto... watch) {
                status = fewstep_trajectories_create(at, student.handle().get(), dataset ? dataset->handle().get() : nullptr, &options, watch..., out);
                return asked.thrown ? FEWSTEP_STATUS_OK : status; // the teacher's exception goes first
            });
            if (asked.thrown) std::rethrow_exception(asked.thrown);
            return status;
        };
        return Trajectories(detail::child<fewstep_trajectories>(runtime.handle(), make));
    }

    /** Opens a file of `save` for a student that takes what they were made with. Throws Error. */
    static Trajectories open(const Runtime &runtime, const Model &student, const std::string &path) {
        return Trajectories(detail::child<fewstep_trajectories>(runtime.handle(), [&](auto *at, auto **out) {
            return fewstep_trajectories_open(at, student.handle().get(), detail::text(path), out);
        }));
    }

    /** Saves one file. Throws Error. */
    void save(const std::string &path) const { check(fewstep_trajectories_save(handle().get(), detail::text(path))); }

    /** What they are. Throws Error. */
    fewstep_trajectories_info info() const {
        return detail::filled<fewstep_trajectories_info>([&](auto *out) { return fewstep_trajectories_get_info(handle().get(), out); });
    }

  private:
    friend class Trainer;
    explicit Trajectories(std::shared_ptr<fewstep_trajectories> handle) noexcept : Owner(std::move(handle)) {}

    template <class Teacher>
    struct Asked {
        std::remove_reference_t<Teacher> &teacher;
        std::exception_ptr thrown;
        static std::int32_t predict(void *user, const fewstep_evaluation *at, float *prediction, std::size_t count) noexcept {
            auto &asked = *static_cast<Asked *>(user);
            try {
                asked.teacher(*at, prediction, count);
                return 0;
            } catch (...) {
                asked.thrown = std::current_exception();
                return 1;
            }
        }
    };
};

/**
 * A training run.
 *
 * A progress callable takes a `const fewstep_progress &` and returns nothing, or a bool of which false cancels: Error with CANCELLED is thrown. When
 * it throws itself, the call is cancelled and its exception thrown on, unchanged. Either way the trainer can go on. `cancel` is watched unless NULL.
 */
class Trainer : public detail::Owner<fewstep_trainer> {
  public:
    /** Plans a run. The student's weights are copied; `teacher` and `dataset` may be NULL where no term needs them. Throws Error. */
    Trainer(const Runtime &runtime, const Model &student, const fewstep_trainer_options &options, const Model *teacher, const Dataset *dataset = nullptr)
        : Owner(detail::child<fewstep_trainer>(runtime.handle(), [&](auto *at, auto **out) {
              return fewstep_trainer_create(at, student.handle().get(), teacher ? teacher->handle().get() : nullptr,
                                            dataset ? dataset->handle().get() : nullptr, &options, out);
          })),
          runtime_(runtime.handle()) {}

    /** Computes what the steps read. Throws Error and what `progress` throws. */
    template <class F = NoProgress>
    void prepare(F &&progress = F{}, const CancelToken *cancel = nullptr) {
        detail::watched(handle(), progress, cancel, fewstep_trainer_prepare);
    }

    /** One step. Throws Error. */
    fewstep_step_report step() {
        return detail::filled<fewstep_step_report>([&](auto *out) { return fewstep_trainer_step(handle().get(), out); });
    }

    /** Prepares if that is still to be done, then runs `steps` steps. Throws Error and what `progress` throws. */
    template <class F = NoProgress>
    void train(std::uint64_t steps, F &&progress = F{}, const CancelToken *cancel = nullptr) {
        detail::watched(handle(), progress, cancel, [=](auto *trainer, auto... watch) { return fewstep_trainer_train(trainer, steps, watch...); });
    }

    /** The loss of the present weights on a batch drawn with another seed. Throws Error. */
    fewstep_step_report evaluate(std::uint64_t seed) {
        return detail::filled<fewstep_step_report>([&](auto *out) { return fewstep_trainer_evaluate(handle().get(), seed, out); });
    }

    /** RMSE between what the student is trained to match and DDIM over `reference_steps`, over `count` noises that training does not see. Throws Error. */
    double target_error(std::uint32_t reference_steps = 50, std::uint32_t count = 512, std::uint64_t seed = 77, const CancelToken *cancel = nullptr) {
        double error = 0;
        check(fewstep_trainer_target_error(handle().get(), reference_steps, count, seed, cancel ? cancel->handle().get() : nullptr, &error));
        return error;
    }

    /**
     * Each term of the loss, then each feature, without its factor, as the last step or evaluation found it, also one that threw for a number that is not
     * finite. Throws Error.
     */
    std::vector<float> losses() {
        std::size_t count = 0;
        check(fewstep_trainer_losses(handle().get(), nullptr, 0, &count));
        std::vector<float> losses(count);
        check(fewstep_trainer_losses(handle().get(), losses.data(), count, &count));
        return losses;
    }

    /** The teacher's trajectories that the next step draws from. Prepares if that is still to be done. Throws Error. */
    Trajectories trajectories() {
        return Trajectories(detail::own<fewstep_trajectories>(
            runtime_, [&](fewstep_trajectories **out) { return fewstep_trainer_trajectories(handle().get(), out); }));
    }

    /** A new model with the present weights, FEWSTEP_WEIGHTS_*. Throws Error. */
    Model snapshot(std::int32_t weights = FEWSTEP_WEIGHTS_EMA) {
        return Model(detail::own<fewstep_model>(runtime_, [&](fewstep_model **out) { return fewstep_trainer_snapshot(handle().get(), weights, out); }));
    }

    /** Saves the whole state of training. Throws Error. */
    void save(const std::string &path) { check(fewstep_trainer_save(handle().get(), detail::text(path))); }

    /** Continues where `save` stopped. Throws Error. */
    void resume(const std::string &path) { check(fewstep_trainer_resume(handle().get(), detail::text(path))); }

    /** The same with other options than the saved run's where `changes`, a sum of FEWSTEP_RESUME_*, allows it. Throws Error. */
    void resume_with(const std::string &path, std::uint32_t changes) { check(fewstep_trainer_resume_with(handle().get(), detail::text(path), changes)); }

    /** What the trainer is. Throws Error. */
    fewstep_trainer_info info() {
        return detail::filled<fewstep_trainer_info>([&](auto *out) { return fewstep_trainer_get_info(handle().get(), out); });
    }

  private:
    std::shared_ptr<const void> runtime_; // for snapshots, which outlive the trainer
};

/** A planned sampling run with its memory. Progress callables and `cancel` as for Trainer. */
class Sampler : public detail::Owner<fewstep_sampler> {
  public:
    /** Plans a run and takes all of its memory. The model's weights are shared. Throws Error. */
    Sampler(const Runtime &runtime, const Model &model, const fewstep_sampler_options &options = sampler_options())
        : Owner(detail::child<fewstep_sampler>(
              runtime.handle(), [&](auto *at, auto **out) { return fewstep_sampler_create(at, model.handle().get(), &options, out); })) {}

    /** Begins a new run; the arrays that `options` points to are copied. Throws Error. */
    void begin(const fewstep_begin_options &options) { check(fewstep_sampler_begin(handle().get(), &options)); }

    /** The same from a seed, with the labels that a class-conditional model needs, one for each image of the batch. Throws Error. */
    void begin(std::uint64_t seed, const std::vector<std::int32_t> &labels = {}, std::uint32_t first_index = 0) {
        fewstep_begin_options options = begin_options();
        options.seed = seed;
        options.first_index = first_index;
        const fewstep_conditioning classes = class_labels(labels);
        options.conditionings = &classes;
        options.conditioning_count = labels.empty() ? 0 : 1;
        begin(options);
    }

    /**
     * Goes on for about `budget`; to the end of the present sampler step when that is negative, to the end of the run with microseconds::max().
     * Whether the run is done. Throws Error.
     */
    bool step(std::chrono::microseconds budget) {
        std::int32_t done = 0;
        check(fewstep_sampler_step(handle().get(), static_cast<std::int64_t>(budget.count()), &done));
        return done != 0;
    }

    /** Goes on to the end of the run. Throws Error and what `progress` throws. */
    template <class F = NoProgress>
    void run(F &&progress = F{}, const CancelToken *cancel = nullptr) {
        detail::watched(handle(), progress, cancel, fewstep_sampler_run);
    }

    /** Writes the images [N,C,H,W] after the last complete step to `out`, which has room for `capacity` elements. Throws Error. */
    void read(float *out, std::size_t capacity) { check(fewstep_sampler_read(handle().get(), out, capacity)); }

    /** The images [N,C,H,W] after the last complete step. Throws Error. */
    std::vector<float> read() {
        const fewstep_sampler_info now = info();
        std::vector<float> images(now.batch * image_size(now));
        read(images.data(), images.size());
        return images;
    }

    /** The noise [count,C,H,W] that images `first_index` and on of a seed start from. Throws Error. */
    std::vector<float> noise(std::uint64_t seed, std::uint32_t first_index, std::size_t count) {
        std::vector<float> noise(count * image_size(info()));
        check(fewstep_sampler_noise(handle().get(), seed, first_index, count, noise.data(), noise.size()));
        return noise;
    }

    /** What the sampler is and how far its run has come. Throws Error. */
    fewstep_sampler_info info() {
        return detail::filled<fewstep_sampler_info>([&](auto *out) { return fewstep_sampler_get_info(handle().get(), out); });
    }

  private:
    static std::size_t image_size(const fewstep_sampler_info &info) noexcept {
        return static_cast<std::size_t>(info.channels) * info.height * info.width;
    }
};

/** One evaluation of a model's network. One thread at a time. */
class Evaluator : public detail::Owner<fewstep_evaluator> {
  public:
    /** Plans it and takes all of its memory. The model's weights are shared. Throws Error. */
    Evaluator(const Runtime &runtime, const Model &model, const fewstep_evaluator_options &options = evaluator_options())
        : Owner(detail::child<fewstep_evaluator>(
              runtime.handle(), [&](auto *at, auto **out) { return fewstep_evaluator_create(at, model.handle().get(), &options, out); })) {}

    /** The network's output [N,out_channels,H,W]. Throws Error. */
    std::vector<float> run(const fewstep_evaluation &at) {
        const fewstep_evaluator_info now = info();
        std::vector<float> out(static_cast<std::size_t>(now.batch) * now.out_channels * now.height * now.width);
        check(fewstep_evaluator_run(handle().get(), &at, out.data(), out.size()));
        return out;
    }

    /** The same for x_t [N,C,H,W], a timestep of each image, and what the model takes beside them. Throws Error. */
    std::vector<float> run(const std::vector<float> &x_t, const std::vector<float> &timesteps, const std::vector<fewstep_conditioning> &conditionings = {}) {
        fewstep_evaluation at = evaluation();
        at.x_t = x_t.data();
        at.x_t_count = x_t.size();
        at.timesteps = timesteps.data();
        at.timestep_count = timesteps.size();
        at.conditionings = conditionings.data();
        at.conditioning_count = conditionings.size();
        return run(at);
    }

    /** What the evaluator is. Throws Error. */
    fewstep_evaluator_info info() {
        return detail::filled<fewstep_evaluator_info>([&](auto *out) { return fewstep_evaluator_get_info(handle().get(), out); });
    }
};

/** Training in stages that goes by itself: see fewstep_recipe_run. */
class Recipe {
  public:
    /** The JSON of a recipe that comes with the library, "fast" or "best", for a student of so many sampler steps. Throws Error. */
    static std::string text(const std::string &name, std::uint32_t steps) {
        return detail::written([&](auto... to) { return fewstep_recipe_text(detail::text(name), steps, to...); });
    }

    /**
     * Runs a recipe of JSON, or goes on with it where `options.folder` has a run that was cut off: the student. Progress callables as for Trainer. Throws Error
     * and what `progress` throws.
     */
    template <class F = NoProgress>
    static Model run(const Runtime &runtime, const std::string &recipe, const Model &student, const Model *teacher, const Dataset *dataset = nullptr,
                     const fewstep_recipe_options &options = recipe_options(), F &&progress = F{}, const CancelToken *cancel = nullptr) {
        const auto handle = [](const auto *owner) { return owner ? owner->handle().get() : nullptr; };
        return Model(detail::child<fewstep_model>(runtime.handle(), [&](auto *at, auto **out) {
            detail::watched(runtime.handle(), progress, cancel, [&](auto *, auto... watch) {
                return fewstep_recipe_run(at, detail::text(recipe), student.handle().get(), handle(teacher), handle(dataset), &options, watch..., out);
            });
            return FEWSTEP_STATUS_OK; // watched() throws what went wrong
        }));
    }
};

/** Students that fit a budget. Immutable. */
class StudentTable : public detail::Owner<fewstep_student_table> {
  public:
    /** Searches the teacher's smaller relatives. Progress callables as for Trainer. Throws Error and what `progress` throws. */
    template <class F = NoProgress>
    static StudentTable search(const Runtime &runtime, const Model &teacher, const fewstep_student_search_options &options = student_search_options(),
                               F &&progress = F{}) {
        detail::Relay<F> relay{progress, nullptr};
        try {
            return StudentTable(detail::child<fewstep_student_table>(runtime.handle(), [&](auto *at, auto **out) {
                return fewstep_student_search(at, teacher.handle().get(), &options, &relay.report, &relay, out);
            }));
        } catch (const Error &) {
            if (relay.thrown) std::rethrow_exception(relay.thrown);
            throw;
        }
    }

    /** Measures what one student costs beside its teacher. Throws Error. */
    static fewstep_student_cost measure(const Runtime &runtime, const Model &teacher, const Model &student,
                                        const fewstep_student_search_options &options = student_search_options()) {
        return detail::filled<fewstep_student_cost>([&](auto *out) {
            return fewstep_student_measure(runtime.handle().get(), teacher.handle().get(), student.handle().get(), &options, out);
        });
    }

    /** What the table is of. Throws Error. */
    fewstep_student_table_info info() const {
        return detail::filled<fewstep_student_table_info>([&](auto *out) { return fewstep_student_table_get_info(handle().get(), out); });
    }

    /** A row: 0 is the teacher, the others are the students. Its patch is the table's. Throws Error. */
    fewstep_student_cost row(std::size_t index) const {
        return detail::filled<fewstep_student_cost>([&](auto *out) { return fewstep_student_table_row(handle().get(), index, out); });
    }

  private:
    explicit StudentTable(std::shared_ptr<fewstep_student_table> handle) noexcept : Owner(std::move(handle)) {}
};

/** What an evaluation of images found. Immutable. */
class QualityReport : public detail::Owner<fewstep_quality_report> {
  public:
    /**
     * Evaluates sets of images beside the teacher and the null; names, models and images that `sets` points to are the caller's. Progress callables as for
     * Trainer. Throws Error and what `progress` throws.
     */
    template <class F = NoProgress>
    static QualityReport evaluate(const Runtime &runtime, const Model &teacher, const std::vector<fewstep_evaluate_set> &sets = {},
                                  const fewstep_evaluate_options &options = evaluate_options(), F &&progress = F{}) {
        detail::Relay<F> relay{progress, nullptr};
        try {
            return QualityReport(detail::child<fewstep_quality_report>(runtime.handle(), [&](auto *at, auto **out) {
                return fewstep_evaluate(at, teacher.handle().get(), &options, sets.data(), sets.size(), sizeof(fewstep_evaluate_set), &relay.report, &relay,
                                        out);
            }));
        } catch (const Error &) {
            if (relay.thrown) std::rethrow_exception(relay.thrown);
            throw;
        }
    }

    /** What the report is of. Throws Error. */
    fewstep_quality_report_info info() const {
        return detail::filled<fewstep_quality_report_info>([&](auto *out) { return fewstep_quality_report_get_info(handle().get(), out); });
    }

    /** A row: 0 is the null, 1 its spread, 2 the teacher, the others are the sets. What it points to is the report's. Throws Error. */
    fewstep_quality row(std::size_t index) const {
        return detail::filled<fewstep_quality>([&](auto *out) { return fewstep_quality_report_row(handle().get(), index, out); });
    }

    /** All of it as text, FEWSTEP_REPORT_*. Throws Error. */
    std::string text(std::int32_t format = FEWSTEP_REPORT_TEXT) const {
        return detail::written([&](auto... to) { return fewstep_quality_report_text(handle().get(), format, to...); });
    }

  private:
    explicit QualityReport(std::shared_ptr<fewstep_quality_report> handle) noexcept : Owner(std::move(handle)) {}
};

namespace detail {

// The images of a run to its end.
inline std::vector<float> finish(Sampler &sampler, const fewstep_cancel_token *cancel) {
    check(fewstep_sampler_run(sampler.handle().get(), nullptr, nullptr, cancel));
    return sampler.read();
}

} // namespace detail

/** All in one call, for programs that do not sample again: the images [N,C,H,W]. `options.cancel` stops it at any time. Throws Error. */
inline std::vector<float> sample(const Runtime &runtime, const Model &model, const fewstep_sampler_options &options, const fewstep_begin_options &begin) {
    Sampler sampler(runtime, model, options);
    sampler.begin(begin);
    return detail::finish(sampler, options.cancel);
}

/** The same from a seed, with the labels that a class-conditional model needs. Throws Error. */
inline std::vector<float> sample(const Runtime &runtime, const Model &model, const fewstep_sampler_options &options, std::uint64_t seed,
                                 const std::vector<std::int32_t> &labels = {}) {
    Sampler sampler(runtime, model, options);
    sampler.begin(seed, labels);
    return detail::finish(sampler, options.cancel);
}

} // namespace fewstep

#endif // FEWSTEP_HPP
