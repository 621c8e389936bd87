/* sample_raw MODEL KIND STEPS BATCH NOISE OUT: samples a model of ten classes from the raw f32 noise in NOISE, labels 0, 1, 2, ..., into OUT.
 * KIND is a FEWSTEP_SAMPLER_* number. Exits with the status, its sentence on stderr. */
#include <fewstep.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) do { fewstep_status s = (call); if (s) { fprintf(stderr, "%s: %s\n", fewstep_status_name(s), fewstep_last_error()); exit(s); } } while (0)

int main(int argc, char **argv) {
    if (argc != 7) return 100;
    fewstep_runtime *runtime;
    fewstep_model *model;
    fewstep_sampler *sampler;
    TRY(fewstep_runtime_create(NULL, &runtime));
    TRY(fewstep_model_open(runtime, argv[1], &model));
    fewstep_sampler_options options;
    TRY(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = atoi(argv[2]);
    options.steps = (uint32_t)atoi(argv[3]);
    options.batch = (uint32_t)atoi(argv[4]);
    TRY(fewstep_sampler_create(runtime, model, &options, &sampler));
    fewstep_sampler_info info = {.struct_size = sizeof info};
    TRY(fewstep_sampler_get_info(sampler, &info));
    size_t count = (size_t)info.batch * info.channels * info.height * info.width;
    float *images = malloc(count * sizeof *images);
    int32_t *labels = malloc(info.batch * sizeof *labels);
    for (uint32_t i = 0; i < info.batch; i++) labels[i] = (int32_t)(i % 10);
    FILE *file = fopen(argv[5], "rb");
    if (!file || fread(images, sizeof *images, count, file) != count || fclose(file)) return 101;
    fewstep_conditioning conditioning = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, info.batch};
    fewstep_begin_options begin;
    TRY(fewstep_begin_options_init(&begin, sizeof begin));
    begin.noise = images;
    begin.noise_count = count;
    begin.conditionings = &conditioning;
    begin.conditioning_count = 1;
    TRY(fewstep_sampler_begin(sampler, &begin));
    TRY(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    TRY(fewstep_sampler_read(sampler, images, count));
    file = fopen(argv[6], "wb");
    if (!file || fwrite(images, sizeof *images, count, file) != count || fclose(file)) return 102;
    fewstep_sampler_destroy(sampler);
    fewstep_model_destroy(model);
    fewstep_runtime_destroy(runtime);
    free(images);
    free(labels);
    return 0;
}
