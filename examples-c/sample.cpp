// Samples images of a model through fewstep.hpp and saves them as a picture.
//
// usage: sample MODEL_DIR PICTURE.png [IMAGES [STEPS]]
//   MODEL_DIR   a diffusers folder, such as data/digits_teacher or the student that distill_digits makes
//   IMAGES      20 by default; rows of ten
//   STEPS       by default a few-step student's own number, 50 for other models
#include <fewstep.hpp>

#include <algorithm>
#include <cstdio>

namespace {

struct Arguments {
    std::string model, picture;
    std::uint32_t images = 20, steps = 0;
};

std::uint32_t number(const std::string &text) {
    const bool digits = !text.empty() && text.size() < 7 && text.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stoul(text) == 0) throw std::invalid_argument("'" + text + "' is not a number from 1 to 999999");
    return static_cast<std::uint32_t>(std::stoul(text));
}

Arguments parse(int argc, char **argv) {
    if (argc < 3 || argc > 5) throw std::invalid_argument("usage: sample MODEL_DIR PICTURE.png [IMAGES [STEPS]]");
    Arguments out;
    out.model = argv[1];
    out.picture = argv[2];
    if (argc > 3) out.images = number(argv[3]);
    if (argc > 4) out.steps = number(argv[4]);
    return out;
}

fewstep::Sampler make_sampler(const fewstep::Runtime &runtime, const fewstep::Model &model, const Arguments &arguments) {
    fewstep_sampler_options options = fewstep::sampler_options();
    const bool student = model.info().steps != 0;
    // The grid of a student is its own; what a scheduler config says of few steps is seldom the best, so other models get plain DDIM.
    if (!student) options.kind = FEWSTEP_SAMPLER_DDIM;
    options.steps = arguments.steps == 0 && !student ? 50 : arguments.steps;
    options.batch = arguments.images;
    return fewstep::Sampler(runtime, model, options);
}

// The classes in turn; none for a model without classes.
std::vector<std::int32_t> make_labels(std::uint32_t classes, std::uint32_t count) {
    std::vector<std::int32_t> labels(classes == 0 ? 0 : count);
    for (std::size_t i = 0; i < labels.size(); i++) labels[i] = static_cast<std::int32_t>(i % classes);
    return labels;
}

void show_progress(const fewstep_progress &now) {
    const int percent = static_cast<int>(100 * now.done / now.total);
    std::printf("\rsampling [%-50.*s] %3d %%", percent / 2, "##################################################", percent);
    if (now.done == now.total) std::printf("\n");
    std::fflush(stdout);
}

// Rows of ten; the last one is filled up with black images.
void save_picture(const std::string &path, std::vector<float> images, const fewstep_sampler_info &size) {
    const std::size_t columns = std::min<std::size_t>(size.batch, 10), rows = (size.batch + columns - 1) / columns;
    const std::size_t row_size = columns * size.channels * size.height * size.width;
    images.resize(rows * row_size, -1);
    std::vector<fewstep_grid_row> grid;
    for (std::size_t row = 0; row < rows; row++) grid.push_back({nullptr, images.data() + row * row_size, columns});
    fewstep::check(fewstep_save_image_grid(path.c_str(), grid.data(), rows, sizeof grid[0], size.channels, size.height, size.width, 4));
}

void run(const Arguments &arguments) {
    const fewstep::Runtime runtime(fewstep::runtime_options(), [](std::int32_t, std::string_view line) {
        std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
    });
    const fewstep::Model model = fewstep::Model::open(runtime, arguments.model);
    fewstep::Sampler sampler = make_sampler(runtime, model, arguments);
    sampler.begin(42, make_labels(model.info().classes, arguments.images));
    sampler.run(show_progress); // sampler.step(budget) is the one for a frame loop
    save_picture(arguments.picture, sampler.read(), sampler.info());
    std::printf("wrote %s\n", arguments.picture.c_str());
}

} // namespace

int main(int argc, char **argv) {
    try {
        run(parse(argc, argv));
        return 0;
    } catch (const std::invalid_argument &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    } catch (const fewstep::Error &error) {
        // The status is for the program's decisions, the sentence for people.
        std::fprintf(stderr, "%s: %s\n", error.status_name(), error.what());
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
    }
    return 1;
}
