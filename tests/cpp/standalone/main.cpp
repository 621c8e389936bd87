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
    std::printf("%zu floats\n", images.size());
    return 0;
}
