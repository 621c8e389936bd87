// A program of two files that both include fewstep.hpp, as a host would have them: tests/standalone.rs builds it and runs it.
#include <fewstep.hpp>

#include <cstdio>

std::vector<float> sample_in_steps(const fewstep::Runtime &runtime, const fewstep::Model &model, std::uint64_t seed, const std::vector<std::int32_t> &labels);
void open_nothing(const fewstep::Runtime &runtime);

static bool catches_across_files(const fewstep::Runtime &runtime) {
    try {
        open_nothing(runtime);
    } catch (const fewstep::Error &error) {
        return error.status() == FEWSTEP_STATUS_NOT_FOUND;
    }
    return false;
}

/* A batch of two is two of one. */
static bool evaluates(const fewstep::Runtime &runtime, const fewstep::Model &model) {
    const std::vector<fewstep_condition> conditions = model.conditions();
    if (conditions.size() != 1 || conditions[0].kind != FEWSTEP_CONDITIONING_CLASS_LABELS || conditions[0].classes != 10) return false;
    fewstep_evaluator_options options = fewstep::evaluator_options();
    options.batch = 2;
    fewstep::Evaluator one(runtime, model), two(runtime, model, options);
    const fewstep_evaluator_info info = one.info();
    std::vector<float> image(static_cast<std::size_t>(info.channels) * info.height * info.width, 0.5F), images = image;
    images.insert(images.end(), image.begin(), image.end());
    const std::vector<std::int32_t> label = {3}, labels = {3, 3};
    std::vector<float> expected = one.run(image, {500}, {fewstep::class_labels(label)});
    const std::vector<float> out = two.run(images, {500, 500}, {fewstep::class_labels(labels)});
    expected.insert(expected.end(), expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(image.size()));
    return out == expected;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    const fewstep::Runtime runtime;
    const fewstep::Model model = fewstep::Model::open(runtime, argv[1]);
    fewstep_sampler_options options = fewstep::sampler_options();
    options.steps = 2;
    options.batch = 2;
    const std::vector<float> images = fewstep::sample(runtime, model, options, 3, {4, 5});
    if (images != sample_in_steps(runtime, model, 3, {4, 5})) return 3;
    if (!catches_across_files(runtime)) return 4;
    if (!evaluates(runtime, model)) return 5;
    std::printf("%zu floats\n", images.size());
    return 0;
}
