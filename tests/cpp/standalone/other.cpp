// The second file of the program in main.cpp.
#include <fewstep.hpp>

std::vector<float> sample_in_steps(const fewstep::Runtime &runtime, const fewstep::Model &model, std::uint64_t seed, const std::vector<std::int32_t> &labels);
void open_nothing(const fewstep::Runtime &runtime);

std::vector<float> sample_in_steps(const fewstep::Runtime &runtime, const fewstep::Model &model, std::uint64_t seed, const std::vector<std::int32_t> &labels) {
    fewstep_sampler_options options = fewstep::sampler_options();
    options.steps = 2;
    options.batch = static_cast<std::uint32_t>(labels.size());
    fewstep::Sampler sampler(runtime, model, options);
    sampler.begin(seed, labels);
    while (!sampler.step(std::chrono::microseconds(100))) {
    }
    return sampler.read();
}

void open_nothing(const fewstep::Runtime &runtime) { fewstep::Model::open(runtime, "/no/such/model"); }
