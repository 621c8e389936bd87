#include "fewstep-tests-cpp/src/shim.hpp"

#include <algorithm>

namespace fewstep_tests {
namespace {

template <class T>
constexpr bool move_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> && std::is_nothrow_destructible_v<T> &&
                           !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(move_only<Runtime> && move_only<Model> && move_only<Sampler> && move_only<Dataset> && move_only<Trainer> && move_only<CancelToken>);

template <class T, class... Arguments>
std::unique_ptr<T> on_heap(Arguments &&...arguments) {
    return std::make_unique<T>(std::forward<Arguments>(arguments)...);
}

template <class T>
rust::Vec<T> to_rust(const std::vector<T> &values) {
    rust::Vec<T> out;
    for (T value : values) out.push_back(value);
    return out;
}

template <class T>
std::vector<T> to_std(rust::Slice<const T> values) {
    return {values.begin(), values.end()};
}

// DDIM, evenly spread from the noisiest timestep, without clipping.
fewstep_sampler_options sampler_options(std::uint32_t steps, std::uint32_t batch) {
    fewstep_sampler_options options = fewstep::sampler_options();
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.steps = steps;
    options.batch = batch;
    return options;
}

fewstep_trainer_options trainer_options(const fewstep_term &term) {
    fewstep_trainer_options options = fewstep::trainer_options();
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.batch = 4;
    options.steps = 2;
    options.substeps = 2;
    options.cache_size = 8;
    options.cache_batch = 4;
    return options;
}

struct GaveUp : std::runtime_error {
    explicit GaveUp(std::uint64_t at) : std::runtime_error("gave up at " + std::to_string(at)) {}
};

} // namespace

std::shared_ptr<Journal> journal() { return std::make_shared<Journal>(); }

rust::Vec<rust::String> journal_lines(const std::shared_ptr<Journal> &journal) {
    const std::lock_guard<std::mutex> lock(journal->mutex);
    return journal->lines;
}

std::size_t journal_owners(const std::shared_ptr<Journal> &journal) noexcept { return static_cast<std::size_t>(journal.use_count()); }

std::uint32_t device_count(std::int32_t device) { return fewstep::device_count(device); }

rust::String device_name(std::int32_t device, std::int32_t index) { return fewstep::device_info(device, index).name; }

std::unique_ptr<Runtime> runtime(std::uint32_t threads) {
    fewstep_runtime_options options = fewstep::runtime_options();
    options.threads = threads;
    return on_heap<Runtime>(options);
}

std::uint32_t threads(const Runtime &runtime) { return runtime.info().threads; }

rust::String runtime_device(const Runtime &runtime) { return runtime.info().device_name; }

std::unique_ptr<Runtime> logging_runtime(const std::shared_ptr<Journal> &journal, bool throws) {
    fewstep_runtime_options options = fewstep::runtime_options();
    options.log_level = FEWSTEP_LOG_INFO;
    return on_heap<Runtime>(options, [journal, throws](std::int32_t level, std::string_view line) {
        const std::lock_guard<std::mutex> lock(journal->mutex);
        journal->lines.push_back((level == FEWSTEP_LOG_WARNING ? "warning: " : "info: ") + std::string(line));
        if (throws) throw std::runtime_error("the log is full");
    });
}

std::unique_ptr<Runtime> assign_runtime(std::unique_ptr<Runtime> to, std::unique_ptr<Runtime> from) {
    *to = std::move(*from);
    return to;
}

std::unique_ptr<Model> open(const Runtime &runtime, rust::Str path) { return on_heap<Model>(Model::open(runtime, std::string(path))); }

std::unique_ptr<Model> open_variant(const Runtime &runtime, rust::Str path, rust::Str variant) {
    return on_heap<Model>(Model::open_variant(runtime, std::string(path), std::string(variant)));
}

std::unique_ptr<Model> open_memory(const Runtime &runtime, rust::Str config, rust::Str scheduler, rust::Slice<const std::uint8_t> weights) {
    return on_heap<Model>(Model::open_memory(runtime, std::string(config), std::string(scheduler), weights.data(), weights.size()));
}

std::unique_ptr<Model> open_buffer(const Runtime &runtime, rust::Slice<const std::uint8_t> file) {
    return on_heap<Model>(Model::open_buffer(runtime, file.data(), file.size()));
}

std::unique_ptr<Model> create(const Runtime &runtime, rust::Str config) { return on_heap<Model>(Model::create(runtime, std::string(config))); }

std::unique_ptr<Model> derive_student(const Runtime &runtime, const Model &teacher) {
    fewstep_student_options options = fewstep::student_options();
    options.config_patch = R"({"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "add_attention": false,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]})";
    options.steps = 2;
    return on_heap<Model>(teacher.derive_student(runtime, options));
}

std::unique_ptr<Model> quantize(const Runtime &runtime, const Model &student) {
    fewstep_quantize_options options = fewstep::quantize_options();
    options.samples = 4;
    return on_heap<Model>(student.quantize(runtime, options));
}

std::size_t reported_layers(const Runtime &runtime, const Model &student, const Model &quantized) {
    fewstep_quantize_options options = fewstep::quantize_options();
    options.samples = options.batch = 2;
    const std::vector<fewstep::LayerReport> all = student.quantize_report(runtime, quantized, options);
    return all.size();
}

rust::String quality_report(const Runtime &runtime, const Model &teacher, const Model &student, std::int32_t format, std::uint64_t throw_at) {
    fewstep_evaluate_options options = fewstep::evaluate_options();
    options.count = options.batch = 6;
    options.reference_steps = 2;
    const std::vector<fewstep_evaluate_set> sets = {{"student", student.handle().get(), nullptr, nullptr, 0, 0, 0}};
    const auto progress = [&](const fewstep_progress &now) {
        if (now.done >= throw_at) throw std::runtime_error("enough");
    };
    const fewstep::QualityReport report = fewstep::QualityReport::evaluate(runtime, teacher, sets, options, progress);
    if (report.info().rows != 4 || report.row(3).step_count != 2) throw std::runtime_error("rows");
    return report.text(format);
}

rust::String first_student(const Runtime &runtime, const Model &teacher, std::uint64_t most, std::uint64_t throw_at) {
    fewstep_student_search_options options = fewstep::student_search_options();
    options.rows = options.repeats = 1;
    options.max_parameters = most;
    const auto progress = [&](const fewstep_progress &now) {
        if (now.done >= throw_at) throw std::runtime_error("enough");
    };
    const fewstep::StudentTable table = fewstep::StudentTable::search(runtime, teacher, options, progress);
    const fewstep_student_cost row = table.row(table.info().rows - 1);
    fewstep_student_options derived = fewstep::student_options();
    derived.config_patch = row.config_patch;
    const Model student = teacher.derive_student(runtime, derived);
    if (fewstep::StudentTable::measure(runtime, teacher, student, options).parameters != row.parameters) throw std::runtime_error("parameters");
    return row.config_patch;
}

std::uint32_t quantized_layers(const Model &model) { return model.info().quantized_layers; }

void save(const Model &model, rust::Str path) { model.save(std::string(path)); }

void save_file(const Model &model, rust::Str path) { model.save_file(std::string(path)); }

void export_onnx(const Model &model, rust::Str path) { model.export_onnx(std::string(path)); }

rust::Vec<std::uint8_t> onnx_bytes(const Model &model, std::uint32_t opset) {
    fewstep_onnx_options options = fewstep::onnx_options();
    options.opset = opset;
    rust::Vec<std::uint8_t> all;
    for (const std::uint8_t byte : model.export_onnx(options)) all.push_back(byte);
    return all;
}

std::uint64_t parameters(const Model &model) { return model.info().parameters; }

std::uint32_t classes(const Model &model) { return model.info().classes; }

rust::Vec<std::int32_t> pairs(const Model &model) {
    rust::Vec<std::int32_t> out;
    for (const fewstep_step_pair &pair : model.pairs()) {
        out.push_back(pair.t);
        out.push_back(pair.t_next);
    }
    return out;
}

std::unique_ptr<Sampler> sampler(const Runtime &runtime, const Model &model, std::uint32_t steps, std::uint32_t batch) {
    return on_heap<Sampler>(runtime, model, sampler_options(steps, batch));
}

void begin(Sampler &sampler, std::uint64_t seed, rust::Slice<const std::int32_t> labels, std::uint32_t first_index) {
    sampler.begin(seed, to_std(labels), first_index);
}

void begin_from(Sampler &sampler, rust::Slice<const float> noise, rust::Slice<const std::int32_t> labels) {
    const std::vector<std::int32_t> owned = to_std(labels);
    const fewstep_conditioning classes = fewstep::class_labels(owned);
    fewstep_begin_options options = fewstep::begin_options();
    options.noise = noise.data();
    options.noise_count = noise.size();
    options.conditionings = &classes;
    options.conditioning_count = 1;
    options.conditioning_stride = sizeof classes;
    sampler.begin(options);
}

bool step(Sampler &sampler, std::int64_t budget_us) { return sampler.step(std::chrono::microseconds(budget_us)); }

void run(Sampler &sampler) { sampler.run(); }

void run_until_token(Sampler &sampler, const CancelToken &token) { sampler.run(fewstep::NoProgress(), &token); }

std::uint64_t run_counting(Sampler &sampler) {
    std::uint64_t calls = 0;
    sampler.run([&](const fewstep_progress &now) { calls += now.phase == FEWSTEP_PHASE_SAMPLE ? 1 : 0; });
    return calls;
}

void run_cancelling(Sampler &sampler, std::uint64_t at) {
    sampler.run([&](const fewstep_progress &now) { return now.done < at; });
}

void run_throwing(Sampler &sampler, std::uint64_t at) {
    sampler.run([&](const fewstep_progress &now) {
        if (now.done == at) throw GaveUp(at);
    });
}

// Anything can be thrown, and arrives as what it is.
std::int32_t run_throwing_a_number(Sampler &sampler, std::int32_t number) {
    try {
        sampler.run([&](const fewstep_progress &) { throw number; });
    } catch (std::int32_t caught) {
        return caught;
    }
    throw std::logic_error("the number did not arrive");
}

void run_destroying(std::unique_ptr<Sampler> sampler) {
    Sampler &running = *sampler;
    running.run([&](const fewstep_progress &) { sampler.reset(); });
}

std::uint32_t steps_done(Sampler &sampler) { return sampler.info().steps_done; }

rust::Vec<float> read(Sampler &sampler) { return to_rust(sampler.read()); }

rust::Vec<float> noise(Sampler &sampler, std::uint64_t seed, std::uint32_t first_index, std::size_t count) {
    return to_rust(sampler.noise(seed, first_index, count));
}

rust::Vec<float> sample(const Runtime &runtime, const Model &model, std::uint32_t steps, std::uint64_t seed, rust::Slice<const std::int32_t> labels) {
    return to_rust(fewstep::sample(runtime, model, sampler_options(steps, static_cast<std::uint32_t>(labels.size())), seed, to_std(labels)));
}

void sample_until_token(const Runtime &runtime, const Model &model, std::uint32_t steps, rust::Slice<const std::int32_t> labels, const CancelToken &token) {
    fewstep_sampler_options options = sampler_options(steps, static_cast<std::uint32_t>(labels.size()));
    options.cancel = token.handle().get();
    fewstep::sample(runtime, model, options, 1, to_std(labels));
}

std::unique_ptr<Sampler> move_sampler(std::unique_ptr<Sampler> from, std::unique_ptr<Sampler> to) {
    Sampler between(std::move(*from));
    *to = std::move(between);
    return to;
}

void use_after_move(std::unique_ptr<Sampler> sampler) {
    const Sampler taken(std::move(*sampler));
    sampler->run();
}

std::unique_ptr<CancelToken> cancel_token() { return on_heap<CancelToken>(); }

std::unique_ptr<Dataset> open_npz(const Runtime &runtime, rust::Str path) {
    return on_heap<Dataset>(Dataset::open_npz(runtime, std::string(path), "images", "labels", 0.125F, -1));
}

std::unique_ptr<Dataset> copy_dataset(const Runtime &runtime, rust::Slice<const std::uint8_t> pixels) {
    fewstep_dataset_options options = fewstep::dataset_options();
    options.channels = 1;
    options.height = 8;
    options.width = 8;
    options.count = pixels.size() / 64;
    options.data = pixels.data();
    options.data_size = pixels.size();
    return on_heap<Dataset>(runtime, options);
}

std::unique_ptr<Dataset> open_npy(const Runtime &runtime, rust::Str path) { return on_heap<Dataset>(Dataset::open_npy(runtime, std::string(path))); }

std::unique_ptr<Dataset> open_folder(const Runtime &runtime, rust::Str path, std::uint64_t throw_at) {
    if (throw_at == 0) return on_heap<Dataset>(Dataset::open_folder(runtime, std::string(path)));
    const auto progress = [=](const fewstep_progress &now) {
        if (now.done == throw_at) throw GaveUp(now.done);
    };
    return on_heap<Dataset>(Dataset::open_folder(runtime, std::string(path), fewstep::folder_options(), progress));
}

std::unique_ptr<Dataset> fill_dataset(const Runtime &runtime, std::size_t count, bool throws) {
    fewstep_fill_options options = fewstep::fill_options();
    options.channels = 1;
    options.height = 8;
    options.width = 8;
    options.count = count;
    return on_heap<Dataset>(Dataset::filled(runtime, options, [=](const fewstep_fill &batch) {
        if (throws) throw GaveUp(batch.first);
        std::fill_n(static_cast<std::uint8_t *>(batch.images), batch.images_size, std::uint8_t{9});
    }));
}

rust::Vec<rust::String> class_names(const Dataset &dataset) {
    rust::Vec<rust::String> out;
    for (const std::string &name : dataset.class_names()) out.push_back(name);
    return out;
}

rust::Vec<rust::String> skipped(const Dataset &dataset) {
    rust::Vec<rust::String> out;
    for (const fewstep::Skipped &row : dataset.skipped()) out.push_back(row.path + ": " + row.reason);
    return out;
}

std::uint64_t images(const Dataset &dataset) { return dataset.info().count; }

std::unique_ptr<Trainer> data_trainer(const Runtime &runtime, const Model &student, const Dataset &dataset) {
    const fewstep_term term = {FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR, FEWSTEP_NORM_L2, 1, 0, 0};
    return on_heap<Trainer>(runtime, student, trainer_options(term), nullptr, &dataset);
}

std::unique_ptr<Trainer> distiller(const Runtime &runtime, const Model &student, const Model &teacher) {
    const fewstep_term term = {FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE, FEWSTEP_NORM_L2, 1, 0, 0};
    return on_heap<Trainer>(runtime, student, trainer_options(term), &teacher);
}

// A trainer on the trajectories of a teacher that predicts one number everywhere, by way of a file; a negative one it refuses.
std::unique_ptr<Trainer> taught(const Runtime &runtime, const Model &student, float level, rust::Str path) {
    fewstep_trajectories_options options = fewstep::trajectories_options();
    options.steps = 2;
    options.count = 4;
    const auto teacher = [=](const fewstep_evaluation &at, float *prediction, std::size_t count) {
        if (level < 0) throw GaveUp(at.timestep_count);
        for (std::size_t i = 0; i < count; i++) prediction[i] = level;
    };
    fewstep::Trajectories::create(runtime, student, options, teacher).save(std::string(path));
    const fewstep::Trajectories opened = fewstep::Trajectories::open(runtime, student, std::string(path));
    if (opened.info().count != 4) throw std::runtime_error("not four trajectories");
    const fewstep_term term = {FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE, FEWSTEP_NORM_L2, 1, 0, 0};
    fewstep_trainer_options training = trainer_options(term);
    training.trajectories = opened.handle().get();
    return on_heap<Trainer>(runtime, student, training, nullptr);
}

// The fast recipe, cut to four steps; the progress callable throws at one of them, unless that is 0.
std::unique_ptr<Model> by_recipe(const Runtime &runtime, const Model &student, const Model &teacher, rust::Str folder, std::uint64_t stop_at) {
    std::string recipe = fewstep::Recipe::text("fast", 2);
    const auto cut = [&](const std::string &from, const std::string &to) { recipe.replace(recipe.find(from), from.size(), to); };
    cut("\"steps\": 4000", "\"steps\": 4");
    cut("\"cache_size\": 12288", "\"cache_size\": 4");
    cut("\"batch\": 64", "\"batch\": 2");
    const std::string path(folder);
    fewstep_recipe_options options = fewstep::recipe_options();
    options.folder = path.c_str();
    options.held_out = 2;
    return on_heap<Model>(fewstep::Recipe::run(runtime, recipe, student, &teacher, nullptr, options, [=](const fewstep_progress &now) {
        if (now.phase == FEWSTEP_PHASE_TRAIN && now.done == stop_at) throw GaveUp(stop_at);
    }));
}

std::uint64_t prepare(Trainer &trainer) {
    std::uint64_t done = 0;
    trainer.prepare([&](const fewstep_progress &now) { done = now.done; });
    return done;
}

void train(Trainer &trainer, std::uint64_t steps) { trainer.train(steps); }

void train_throwing(Trainer &trainer, std::uint64_t steps, std::uint64_t at) {
    trainer.train(steps, [&](const fewstep_progress &now) {
        if (now.phase == FEWSTEP_PHASE_TRAIN && now.done == at) throw GaveUp(at);
    });
}

std::uint64_t train_step(Trainer &trainer) { return trainer.step().step; }

float evaluate(Trainer &trainer, std::uint64_t seed) { return trainer.evaluate(seed).loss; }

rust::Vec<float> losses(Trainer &trainer) {
    rust::Vec<float> all;
    for (float loss : trainer.losses()) all.push_back(loss);
    return all;
}

std::unique_ptr<Model> snapshot(Trainer &trainer) { return on_heap<Model>(trainer.snapshot(FEWSTEP_WEIGHTS_RAW)); }

void save_training(Trainer &trainer, rust::Str path) { trainer.save(std::string(path)); }

void resume_training(Trainer &trainer, rust::Str path) { trainer.resume(std::string(path)); }

void resume_training_with(Trainer &trainer, rust::Str path, std::uint32_t changes) { trainer.resume_with(std::string(path), changes); }

std::uint64_t training_steps(Trainer &trainer) { return trainer.info().steps_done; }

} // namespace fewstep_tests
