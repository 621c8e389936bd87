/* What the field cases share: each is a program against fewstep.h that exits non-zero when the fault that it shows is there. */
#ifndef FIELD_H
#define FIELD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <fewstep.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The runner gives the folder of the bundled data as the first argument; the working folder is the case's own and empty. */
#define TEACHER(data) path_in(data, "digits_teacher")
#define DIGITS(data) path_in(data, "digits8.npz")

/* A class-conditional U-Net of 8x8 images, as small as one can be. */
static const char *const TINY =
    "{\"_class_name\":\"UNet2DModel\",\"sample_size\":8,\"in_channels\":1,\"out_channels\":1,\"layers_per_block\":1,"
    "\"block_out_channels\":[8,8],\"down_block_types\":[\"DownBlock2D\",\"AttnDownBlock2D\"],"
    "\"up_block_types\":[\"AttnUpBlock2D\",\"UpBlock2D\"],\"attention_head_dim\":4,\"norm_num_groups\":4,\"num_class_embeds\":10}";
/* The same without classes. */
static const char *const TINY_UNCONDITIONAL =
    "{\"_class_name\":\"UNet2DModel\",\"sample_size\":8,\"in_channels\":1,\"out_channels\":1,\"layers_per_block\":1,"
    "\"block_out_channels\":[8,8],\"down_block_types\":[\"DownBlock2D\",\"AttnDownBlock2D\"],"
    "\"up_block_types\":[\"AttnUpBlock2D\",\"UpBlock2D\"],\"attention_head_dim\":4,\"norm_num_groups\":4}";

static int field_faults;

/* Says what is wrong; main returns field_result(). */
#define FAULT(...) (fprintf(stderr, "FAULT %s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), field_faults++)

/* A call that must succeed. */
#define OK(call) field_ok((call), #call, __FILE__, __LINE__)

/* A call that must return this status, with a sentence that holds this word. */
#define REFUSED(call, status, word) field_refused((call), (status), (word), #call, __FILE__, __LINE__)

static inline int field_result(void) { return field_faults != 0; }

static inline void field_ok(fewstep_status status, const char *call, const char *file, int line) {
    if (status == FEWSTEP_STATUS_OK) return;
    fprintf(stderr, "FAULT %s:%d: %s: %s: %s\n", file, line, call, fewstep_status_name(status), fewstep_last_error());
    exit(3);
}

static inline void field_refused(fewstep_status found, fewstep_status expected, const char *word, const char *call, const char *file, int line) {
    const char *said = found ? fewstep_last_error() : "";
    if (found == expected && strstr(said, word)) return;
    fprintf(stderr, "FAULT %s:%d: %s: expected %s with \"%s\", found %s: %s\n", file, line, call, fewstep_status_name(expected), word,
            fewstep_status_name(found), said);
    field_faults++;
}

static inline char *path_in(const char *folder, const char *name) {
    char *path = malloc(strlen(folder) + strlen(name) + 2);
    if (!path) exit(3);
    sprintf(path, "%s/%s", folder, name);
    return path;
}

static inline double wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* FNV-1a, to compare bytes. */
static inline uint64_t bytes_hash(const void *data, size_t size) {
    const unsigned char *at = data;
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ at[i]) * 1099511628211u;
    return hash;
}

static inline fewstep_runtime *new_runtime(uint32_t threads) {
    fewstep_runtime_options options;
    fewstep_runtime *runtime = NULL;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.threads = threads;
    OK(fewstep_runtime_create(&options, &runtime));
    return runtime;
}

static inline fewstep_model *new_model(fewstep_runtime *runtime, const char *config, uint64_t seed) {
    fewstep_model *model = NULL;
    OK(fewstep_model_create(runtime, config, NULL, seed, &model));
    return model;
}

static inline fewstep_model *open_model(fewstep_runtime *runtime, const char *path) {
    fewstep_model *model = NULL;
    OK(fewstep_model_open(runtime, path, &model));
    return model;
}

static inline fewstep_sampler_options ddim_options(uint32_t steps, uint32_t batch) {
    fewstep_sampler_options options;
    OK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.steps = steps;
    options.batch = batch;
    return options;
}

/* Teacher-forced distillation to two steps, small enough to run in a moment. The term lives as long as the program. */
static inline fewstep_trainer_options small_training(void) {
    static const fewstep_term term = {
        .objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1.0f};
    fewstep_trainer_options options;
    OK(fewstep_trainer_options_init(&options, sizeof options));
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.steps = 2;
    options.substeps = 2;
    options.cache_size = 8;
    options.cache_batch = 4;
    options.batch = 4;
    options.total_steps = 100;
    options.warmup_steps = 1;
    return options;
}

static inline char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) { perror(path); exit(3); }
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    if (!bytes || fread(bytes, 1, *size, file) != *size) { perror(path); exit(3); }
    fclose(file);
    bytes[*size] = 0;
    return bytes;
}

static inline void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || (size && fwrite(bytes, 1, size, file) != size) || fclose(file)) { perror(path); exit(3); }
}

#endif
