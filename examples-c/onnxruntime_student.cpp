// A few-step student in ONNX Runtime: its whole sampler as an ONNX file in memory, run there, and compared with the library's own images.
//
// usage: onnxruntime_student STUDENT
//
// Needs ONNX Runtime's C++ headers and its library (tests/interop/run builds this program with those of a wheel and of Debian). A host that ships students
// needs the ONNX file and ONNX Runtime alone.
#include <fewstep.hpp>
#include <onnxruntime_cxx_api.h>

#include <cmath>
#include <cstdio>

int main(int argc, char **argv) try {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s STUDENT\n", argv[0]);
        return 2;
    }
    constexpr std::int64_t count = 12;
    const fewstep::Runtime runtime;
    const fewstep::Model student = fewstep::Model::open(runtime, argv[1]);
    const fewstep_model_info info = student.info();

    // ONNX Runtime computes what is written: products of bytes as such.
    fewstep_onnx_options options = fewstep::onnx_options();
    options.profile = FEWSTEP_ONNX_UNSIGNED;
    const std::vector<std::uint8_t> file = student.export_onnx(options);

    // The library's images, and the noise that they are of.
    fewstep_sampler_options sampler_options = fewstep::sampler_options();
    sampler_options.batch = count;
    fewstep::Sampler sampler(runtime, student, sampler_options);
    std::vector<float> noise = sampler.noise(7, 0, count);
    std::vector<std::int32_t> labels(count);
    std::vector<std::int64_t> wide(count);
    for (std::int64_t i = 0; i < count; i++) wide[i] = labels[i] = info.classes ? static_cast<std::int32_t>(i % info.classes) : 0;
    const fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels.data(), labels.size()};
    fewstep_begin_options begin = fewstep::begin_options();
    begin.noise = noise.data();
    begin.noise_count = noise.size();
    begin.conditionings = &classes;
    begin.conditioning_count = info.classes != 0;
    sampler.begin(begin);
    sampler.run();
    const std::vector<float> own = sampler.read();

    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "student");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(2);
    Ort::Session session(env, file.data(), file.size(), settings);
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    const std::int64_t shape[] = {count, info.in_channels, info.height, info.width};
    std::vector<Ort::Value> given;
    given.push_back(Ort::Value::CreateTensor(memory, noise.data(), noise.size(), shape, 4));
    if (info.classes) given.push_back(Ort::Value::CreateTensor(memory, wide.data(), wide.size(), &count, 1));
    const char *inputs[] = {"noise", "labels"}, *outputs[] = {"images"};
    const std::vector<Ort::Value> made = session.Run(Ort::RunOptions{nullptr}, inputs, given.data(), given.size(), outputs, 1);
    const float *theirs = made[0].GetTensorData<float>();

    double difference = 0, size = 0;
    for (std::size_t i = 0; i < own.size(); i++) {
        difference += (double(theirs[i]) - own[i]) * (double(theirs[i]) - own[i]);
        size += double(own[i]) * own[i];
    }
    // Whole numbers: one in thousands is another where a sum of floats before it has another order.
    const double away = std::sqrt(difference / size), most = info.quantized_layers ? 3.2e-2 : 1e-4;
    std::printf("ONNX Runtime's images are %.1e of their size away from the library's, %.1e at most\n", away, most);
    return !(away <= most);
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
