/* A few-step student in OpenVINO: written as an ONNX file that is its whole sampler, compiled there, and compared with the library's own images.
 *
 * usage: openvino_student STUDENT OUT_DIR
 *   STUDENT   a few-step student: a diffusers folder or a file of the library's, in floats or whole numbers
 *   OUT_DIR/  student.onnx, samples.png
 *
 * Needs OpenVINO's C headers and library: `pip install openvino` has them (tests/interop/run builds this program with them). A host that ships students needs
 * the ONNX file and OpenVINO alone. */
#include <fewstep.h>

#include <math.h>
#include <openvino/c/openvino.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 12 };

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

#define OV(call)                                                                                            \
    do {                                                                                                    \
        ov_status_e status_ = (call);                                                                       \
        if (status_ != OK) {                                                                                \
            fprintf(stderr, "%s: %s: %s\n", #call, ov_get_error_info(status_), ov_get_last_err_msg());     \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

static const char *path(const char *dir, const char *name) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", dir, name);
    return buffer;
}

/* Runs the file: noise [COUNT,C,H,W] and labels, if there are classes, give images. */
static void run(const char *file, float *noise, int64_t *labels, const int64_t shape[4], int classes, float *images, size_t numbers) {
    ov_core_t *core;
    ov_compiled_model_t *compiled;
    ov_infer_request_t *request;
    OV(ov_core_create(&core));
    /* Two pairs of properties: two threads, and floats in f32, which on some processors would be bf16. */
    OV(ov_core_compile_model_from_file(core, file, "CPU", 4, &compiled, "INFERENCE_NUM_THREADS", "2", "INFERENCE_PRECISION_HINT", "f32"));
    OV(ov_compiled_model_create_infer_request(compiled, &request));

    ov_shape_t of_images, of_labels;
    ov_tensor_t *given, *named = NULL, *made;
    OV(ov_shape_create(4, shape, &of_images));
    OV(ov_tensor_create_from_host_ptr(F32, of_images, noise, &given));
    OV(ov_infer_request_set_tensor(request, "noise", given));
    if (classes) {
        const int64_t count = COUNT;
        OV(ov_shape_create(1, &count, &of_labels));
        OV(ov_tensor_create_from_host_ptr(I64, of_labels, labels, &named));
        OV(ov_infer_request_set_tensor(request, "labels", named));
        ov_shape_free(&of_labels);
    }
    OV(ov_infer_request_infer(request));
    OV(ov_infer_request_get_tensor(request, "images", &made));
    void *data;
    OV(ov_tensor_data(made, &data));
    for (size_t i = 0; i < numbers; i++) images[i] = ((const float *)data)[i];

    ov_tensor_free(made);
    if (named) ov_tensor_free(named);
    ov_tensor_free(given);
    ov_shape_free(&of_images);
    ov_infer_request_free(request);
    ov_compiled_model_free(compiled);
    ov_core_free(core);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s STUDENT OUT_DIR\n", argv[0]);
        return 2;
    }
    fewstep_runtime_options runtime_options;
    CHECK(fewstep_runtime_options_init(&runtime_options, sizeof runtime_options));
    runtime_options.threads = 2;
    fewstep_runtime *runtime;
    CHECK(fewstep_runtime_create(&runtime_options, &runtime));
    fewstep_model *student;
    CHECK(fewstep_model_open(runtime, argv[1], &student));
    fewstep_model_info info = {.struct_size = sizeof info};
    CHECK(fewstep_model_get_info(student, &info));

    /* The file: the student's own grid, its steps written out. */
    fewstep_onnx_options options;
    CHECK(fewstep_onnx_options_init(&options, sizeof options));
    CHECK(fewstep_model_export_onnx(student, &options, path(argv[2], "student.onnx")));

    /* The library's images, and the noise that they are of. */
    const size_t image = (size_t)info.in_channels * info.height * info.width;
    float *noise = malloc(COUNT * image * sizeof *noise), *own = malloc(COUNT * image * sizeof *own), *theirs = malloc(COUNT * image * sizeof *theirs);
    int32_t labels[COUNT];
    int64_t wide[COUNT];
    if (!noise || !own || !theirs) return 1;
    for (int i = 0; i < COUNT; i++) wide[i] = labels[i] = info.classes ? i % (int32_t)info.classes : 0;
    fewstep_sampler_options sampler_options;
    CHECK(fewstep_sampler_options_init(&sampler_options, sizeof sampler_options));
    sampler_options.batch = COUNT;
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(runtime, student, &sampler_options, &sampler));
    CHECK(fewstep_sampler_noise(sampler, 7, 0, COUNT, noise, COUNT * image));
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, COUNT};
    fewstep_begin_options begin;
    CHECK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.noise = noise;
    begin.noise_count = COUNT * image;
    begin.conditionings = &classes;
    begin.conditioning_count = info.classes != 0;
    CHECK(fewstep_sampler_begin(sampler, &begin));
    CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    CHECK(fewstep_sampler_read(sampler, own, COUNT * image));
    CHECK(fewstep_sampler_destroy(sampler));

    const int64_t shape[4] = {COUNT, info.in_channels, info.height, info.width};
    run(path(argv[2], "student.onnx"), noise, wide, shape, info.classes != 0, theirs, COUNT * image);

    double difference = 0, size = 0;
    for (size_t i = 0; i < COUNT * image; i++) {
        difference += ((double)theirs[i] - own[i]) * ((double)theirs[i] - own[i]);
        size += (double)own[i] * own[i];
    }
    const double away = sqrt(difference / size);
    /* Whole numbers: one in thousands is another where a sum of floats before it has another order. */
    const double most = info.quantized_layers ? 3.2e-2 : 1e-4;
    if (info.in_channels != 2) {
        const fewstep_grid_row rows[] = {{"fewstep", own, COUNT}, {"OpenVINO", theirs, COUNT}};
        const uint32_t scale = info.height < 32 ? 4 : 2;
        CHECK(fewstep_save_image_grid(path(argv[2], "samples.png"), rows, 2, sizeof rows[0], info.in_channels, info.height, info.width, scale));
    }
    printf("OpenVINO's images are %.1e of their size away from the library's, %.1e at most\n", away, most);
    CHECK(fewstep_model_destroy(student));
    CHECK(fewstep_runtime_destroy(runtime));
    free(noise);
    free(own);
    free(theirs);
    return !(away <= most);
}
