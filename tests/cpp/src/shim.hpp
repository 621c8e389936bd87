// include/fewstep.hpp in the types that cxx carries to Rust. Each function does one thing of the wrapper; the tests put them together.
#pragma once

#include <fewstep.hpp>
#include <rust/cxx.h>

#include <mutex>

namespace rust::behavior {

// How cxx turns exceptions into Rust errors: the status goes before the sentence, so that tests see both.
template <typename Try, typename Fail>
void trycatch(Try &&func, Fail &&fail) noexcept try {
    func();
} catch (const fewstep::Error &error) {
    fail(std::string(error.status_name()) + ": " + error.what());
} catch (const std::exception &error) {
    fail(std::string("exception: ") + error.what());
}

} // namespace rust::behavior

namespace fewstep_tests {

using fewstep::CancelToken;
using fewstep::Dataset;
using fewstep::Model;
using fewstep::Runtime;
using fewstep::Sampler;
using fewstep::Trainer;

// The lines of a log.
struct Journal {
    std::mutex mutex;
    rust::Vec<rust::String> lines;
};

std::shared_ptr<Journal> journal();
rust::Vec<rust::String> journal_lines(const std::shared_ptr<Journal> &journal);
std::size_t journal_owners(const std::shared_ptr<Journal> &journal) noexcept;

std::uint32_t device_count(std::int32_t device);
rust::String device_name(std::int32_t device, std::int32_t index);

std::unique_ptr<Runtime> runtime(std::uint32_t threads);
std::uint32_t threads(const Runtime &runtime);
rust::String runtime_device(const Runtime &runtime);
std::unique_ptr<Runtime> logging_runtime(const std::shared_ptr<Journal> &journal, bool throws);
std::unique_ptr<Runtime> assign_runtime(std::unique_ptr<Runtime> to, std::unique_ptr<Runtime> from);

std::unique_ptr<Model> open(const Runtime &runtime, rust::Str path);
std::unique_ptr<Model> open_variant(const Runtime &runtime, rust::Str path, rust::Str variant);
std::unique_ptr<Model> open_memory(const Runtime &runtime, rust::Str config, rust::Str scheduler, rust::Slice<const std::uint8_t> weights);
std::unique_ptr<Model> open_buffer(const Runtime &runtime, rust::Slice<const std::uint8_t> file);
std::unique_ptr<Model> create(const Runtime &runtime, rust::Str config);
std::unique_ptr<Model> derive_student(const Runtime &runtime, const Model &teacher);
std::unique_ptr<Model> quantize(const Runtime &runtime, const Model &student);
std::uint32_t quantized_layers(const Model &model);
rust::String quality_report(const Runtime &runtime, const Model &teacher, const Model &student, std::int32_t format, std::uint64_t throw_at);
rust::String first_student(const Runtime &runtime, const Model &teacher, std::uint64_t most, std::uint64_t throw_at);
std::size_t reported_layers(const Runtime &runtime, const Model &student, const Model &quantized);
void save(const Model &model, rust::Str path);
void save_file(const Model &model, rust::Str path);
void export_onnx(const Model &model, rust::Str path);
rust::Vec<std::uint8_t> onnx_bytes(const Model &model, std::uint32_t opset);
std::uint64_t parameters(const Model &model);
std::uint32_t classes(const Model &model);
rust::Vec<std::int32_t> pairs(const Model &model);

std::unique_ptr<Sampler> sampler(const Runtime &runtime, const Model &model, std::uint32_t steps, std::uint32_t batch);
void begin(Sampler &sampler, std::uint64_t seed, rust::Slice<const std::int32_t> labels, std::uint32_t first_index);
void begin_from(Sampler &sampler, rust::Slice<const float> noise, rust::Slice<const std::int32_t> labels);
bool step(Sampler &sampler, std::int64_t budget_us);
void run(Sampler &sampler);
void run_until_token(Sampler &sampler, const CancelToken &token);
std::uint64_t run_counting(Sampler &sampler);
void run_cancelling(Sampler &sampler, std::uint64_t at);
void run_throwing(Sampler &sampler, std::uint64_t at);
std::int32_t run_throwing_a_number(Sampler &sampler, std::int32_t number);
void run_destroying(std::unique_ptr<Sampler> sampler);
std::uint32_t steps_done(Sampler &sampler);
rust::Vec<float> read(Sampler &sampler);
rust::Vec<float> noise(Sampler &sampler, std::uint64_t seed, std::uint32_t first_index, std::size_t count);
rust::Vec<float> sample(const Runtime &runtime, const Model &model, std::uint32_t steps, std::uint64_t seed, rust::Slice<const std::int32_t> labels);
void sample_until_token(const Runtime &runtime, const Model &model, std::uint32_t steps, rust::Slice<const std::int32_t> labels, const CancelToken &token);
std::unique_ptr<Sampler> move_sampler(std::unique_ptr<Sampler> from, std::unique_ptr<Sampler> to);
void use_after_move(std::unique_ptr<Sampler> sampler);

std::unique_ptr<CancelToken> cancel_token();

std::unique_ptr<Dataset> open_npz(const Runtime &runtime, rust::Str path);
std::unique_ptr<Dataset> copy_dataset(const Runtime &runtime, rust::Slice<const std::uint8_t> pixels);
std::unique_ptr<Dataset> open_npy(const Runtime &runtime, rust::Str path);
std::unique_ptr<Dataset> open_folder(const Runtime &runtime, rust::Str path, std::uint64_t throw_at);
std::unique_ptr<Dataset> fill_dataset(const Runtime &runtime, std::size_t count, bool throws);
rust::Vec<rust::String> class_names(const Dataset &dataset);
rust::Vec<rust::String> skipped(const Dataset &dataset);
std::uint64_t images(const Dataset &dataset);

std::unique_ptr<Trainer> data_trainer(const Runtime &runtime, const Model &student, const Dataset &dataset);
std::unique_ptr<Trainer> distiller(const Runtime &runtime, const Model &student, const Model &teacher);
std::unique_ptr<Trainer> taught(const Runtime &runtime, const Model &student, float level, rust::Str path);
std::uint64_t prepare(Trainer &trainer);
void train(Trainer &trainer, std::uint64_t steps);
void train_throwing(Trainer &trainer, std::uint64_t steps, std::uint64_t at);
std::uint64_t train_step(Trainer &trainer);
float evaluate(Trainer &trainer, std::uint64_t seed);
rust::Vec<float> losses(Trainer &trainer);
std::unique_ptr<Model> snapshot(Trainer &trainer);
void save_training(Trainer &trainer, rust::Str path);
void resume_training(Trainer &trainer, rust::Str path);
void resume_training_with(Trainer &trainer, rust::Str path, std::uint32_t changes);
std::uint64_t training_steps(Trainer &trainer);
std::unique_ptr<Model> by_recipe(const Runtime &runtime, const Model &student, const Model &teacher, rust::Str folder, std::uint64_t stop_at);

} // namespace fewstep_tests
