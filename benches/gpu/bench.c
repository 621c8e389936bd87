/* Times the library on the first GPU: evaluations, four-step samples and distillation steps of the two networks of peers.py.
 *
 * usage: bench all OUT.json                    every row, a line each; OUT.json holds those that are done, whenever it is looked at
 *        bench once MODEL BATCH PRECISION      one evaluation, for a profiler
 *        bench step BATCH PRECISION            one distillation step, for a profiler
 *
 * Times are those between two CUDA events around the calls, on a stream of this program's: what the stream is kept busy or waits for the host, as
 * peers.py has them; and wall-clock times that include reading the images. Medians. */
#include <fewstep.h>

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

enum { MOST_RUNS = 64, STEPS = 4, DATA = 1024 };

/* As peers.py makes them; random weights, since only speed counts here. */
static const char *const student_s =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 32, \"in_channels\": 3, \"out_channels\": 3, \"layers_per_block\": 1,"
    "\"block_out_channels\": [64, 128, 128], \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\", \"AttnDownBlock2D\"],"
    "\"up_block_types\": [\"AttnUpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"], \"attention_head_dim\": 32, \"norm_num_groups\": 32}";
static const char *const cifar_teacher =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 32, \"in_channels\": 3, \"out_channels\": 3, \"layers_per_block\": 2,"
    "\"block_out_channels\": [128, 256, 256, 256], \"down_block_types\": [\"DownBlock2D\", \"AttnDownBlock2D\", \"DownBlock2D\", \"DownBlock2D\"],"
    "\"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\", \"AttnUpBlock2D\", \"UpBlock2D\"], \"attention_head_dim\": null, \"downsample_padding\": 0,"
    "\"flip_sin_to_cos\": false, \"freq_shift\": 1, \"norm_eps\": 1e-6, \"norm_num_groups\": 32}";

/* ---- the driver, as far as a host needs it */
static void *driver;
static void *context, *stream, *events[2];

static void *driver_function(const char *name) {
    void *function = driver ? dlsym(driver, name) : NULL;
    if (!function) {
        fprintf(stderr, "no NVIDIA driver with %s\n", name);
        exit(2);
    }
    return function;
}

#define DRIVER(name, types, ...)                                                        \
    do {                                                                                \
        int code_ = ((int(*) types)driver_function(name))(__VA_ARGS__);                 \
        if (code_ != 0) {                                                               \
            fprintf(stderr, "%s: CUDA error %d\n", name, code_);                        \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

static void open_driver(void) {
    int device;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    DRIVER("cuInit", (unsigned), 0);
    DRIVER("cuDeviceGet", (int *, int), &device, 0);
    DRIVER("cuDevicePrimaryCtxRetain", (void **, int), &context, device);
    DRIVER("cuCtxPushCurrent_v2", (void *), context);
    DRIVER("cuStreamCreate", (void **, unsigned), &stream, 1);
    for (int i = 0; i < 2; i++) DRIVER("cuEventCreate", (void **, unsigned), &events[i], 0);
}

static fewstep_runtime *open_runtime(void) {
    fewstep_runtime_options options;
    CHECK(fewstep_runtime_options_init(&options, sizeof options));
    options.device = FEWSTEP_DEVICE_CUDA;
    options.cuda_context = context;
    options.cuda_stream = stream;
    fewstep_runtime *runtime;
    CHECK(fewstep_runtime_create(&options, &runtime));
    return runtime;
}

/* ---- timing */
typedef struct {
    double gpu, wall; /* ms */
} times;

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

/* `run` is what is timed; `read` belongs to the wall-clock time only and may be NULL. */
static times measure(void (*run)(void *), void (*read)(void *), void *what, int runs) {
    double gpu[MOST_RUNS], wall[MOST_RUNS];
    for (int i = -5; i < runs; i++) {
        double start = milliseconds();
        DRIVER("cuEventRecord", (void *, void *), events[0], stream);
        run(what);
        DRIVER("cuEventRecord", (void *, void *), events[1], stream);
        if (read) read(what);
        DRIVER("cuEventSynchronize", (void *), events[1]);
        if (i < 0) continue;
        float ms;
        wall[i] = milliseconds() - start;
        DRIVER("cuEventElapsedTime", (float *, void *, void *), &ms, events[0], events[1]);
        gpu[i] = ms;
    }
    return (times){median(gpu, runs), median(wall, runs)};
}

/* ---- what is timed */
typedef struct {
    fewstep_sampler *sampler;
    float *images;
    size_t pixels;
} sampling;

static sampling open_sampling(const fewstep_runtime *runtime, const fewstep_model *model, uint32_t batch, uint32_t steps, int32_t precision) {
    fewstep_sampler_options options;
    CHECK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.steps = steps;
    options.batch = batch;
    options.precision = precision;
    sampling s = {.pixels = (size_t)batch * 3 * 32 * 32};
    CHECK(fewstep_sampler_create(runtime, model, &options, &s.sampler));
    s.images = malloc(s.pixels * sizeof *s.images);
    if (!s.images) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return s;
}

static void close_sampling(sampling *s) {
    CHECK(fewstep_sampler_destroy(s->sampler));
    free(s->images);
}

static void run_sampling(void *what) {
    sampling *s = what;
    CHECK(fewstep_sampler_begin(s->sampler, NULL));
    CHECK(fewstep_sampler_run(s->sampler, NULL, NULL, NULL));
}

static void read_sampling(void *what) {
    sampling *s = what;
    CHECK(fewstep_sampler_read(s->sampler, s->images, s->pixels));
}

static void run_step(void *what) { CHECK(fewstep_trainer_step(what, NULL)); }

static fewstep_model *create_model(const fewstep_runtime *runtime, const char *config) {
    fewstep_model *model;
    CHECK(fewstep_model_create(runtime, config, NULL, 1, &model));
    return model;
}

/* Distils the outputs of the teacher at noised images into the student. */
static fewstep_trainer *open_trainer(const fewstep_runtime *runtime, uint32_t batch, int32_t precision) {
    static float pixels[DATA * 3 * 32 * 32];
    for (size_t i = 0; i < sizeof pixels / sizeof *pixels; i++) pixels[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
    fewstep_dataset_options data;
    CHECK(fewstep_dataset_options_init(&data, sizeof data));
    data.data = pixels;
    data.data_size = sizeof pixels;
    data.dtype = FEWSTEP_DTYPE_F32;
    data.layout = FEWSTEP_LAYOUT_NHWC;
    data.count = DATA;
    data.channels = 3;
    data.height = data.width = 32;
    data.scale = 1;
    data.shift = 0;
    fewstep_dataset *dataset;
    CHECK(fewstep_dataset_create(runtime, &data, &dataset));
    fewstep_model *teacher = create_model(runtime, cifar_teacher), *student = create_model(runtime, student_s);
    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_OUTPUT, .step_weight = FEWSTEP_WEIGHT_CONST, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options options;
    CHECK(fewstep_trainer_options_init(&options, sizeof options));
    options.batch = batch;
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.learning_rate = 1e-4;
    options.precision = precision;
    fewstep_trainer *trainer;
    CHECK(fewstep_trainer_create(runtime, student, teacher, dataset, &options, &trainer));
    CHECK(fewstep_trainer_prepare(trainer, NULL, NULL, NULL));
    CHECK(fewstep_model_destroy(student));
    CHECK(fewstep_model_destroy(teacher));
    CHECK(fewstep_dataset_destroy(dataset));
    return trainer;
}

/* ---- rows */
static const char *const precisions[] = {"f32", "f16", "bf16"};

/* Rewrites the file with one more row: a JSON array at any time. */
static void add_row(const char *file, const char *row) {
    static char rows[1 << 16];
    static size_t length;
    length += (size_t)snprintf(rows + length, sizeof rows - length, "%s  %s", length ? ",\n" : "", row);
    printf("%s\n", row);
    fflush(stdout);
    FILE *f = length < sizeof rows ? fopen(file, "w") : NULL;
    if (!f || fprintf(f, "[\n%s\n]\n", rows) < 0 || fclose(f) != 0) {
        perror(file);
        exit(1);
    }
}

static void time_sampling(const fewstep_runtime *runtime, const char *file, const char *name, const fewstep_model *model, uint32_t batch, int32_t precision) {
    times of[2];
    for (int i = 0; i < 2; i++) {
        sampling s = open_sampling(runtime, model, batch, i ? STEPS : 1, precision);
        of[i] = measure(run_sampling, read_sampling, &s, batch > 64 ? 20 : 50);
        close_sampling(&s);
    }
    char row[512];
    snprintf(row, sizeof row,
             "{\"model\": \"%s\", \"precision\": \"%s\", \"batch\": %u, \"unet_ms\": %.4f, \"sample4_ms\": %.4f, \"unet_wall_ms\": %.4f, \"sample4_wall_ms\": %.4f}",
             name, precisions[precision], (unsigned)batch, of[0].gpu, of[1].gpu, of[0].wall, of[1].wall);
    add_row(file, row);
}

static void time_steps(const fewstep_runtime *runtime, const char *file, uint32_t batch, int32_t precision) {
    fewstep_trainer *trainer = open_trainer(runtime, batch, precision);
    times t = measure(run_step, NULL, trainer, 20);
    CHECK(fewstep_trainer_destroy(trainer));
    char row[512];
    snprintf(row, sizeof row, "{\"what\": \"distill_step\", \"precision\": \"%s\", \"batch\": %u, \"ms\": %.4f, \"wall_ms\": %.4f}", precisions[precision],
             (unsigned)batch, t.gpu, t.wall);
    add_row(file, row);
}

static void time_all(const fewstep_runtime *runtime, const char *file) {
    static const struct {
        const char *name, *config;
    } models[] = {{"student_s", student_s}, {"cifar_teacher", cifar_teacher}};
    static const uint32_t batches[] = {1, 16, 64, 256};
    for (size_t m = 0; m < 2; m++) {
        fewstep_model *model = create_model(runtime, models[m].config);
        for (size_t b = 0; b < 4; b++) time_sampling(runtime, file, models[m].name, model, batches[b], FEWSTEP_PRECISION_F16);
        time_sampling(runtime, file, models[m].name, model, 64, FEWSTEP_PRECISION_BF16);
        time_sampling(runtime, file, models[m].name, model, 64, FEWSTEP_PRECISION_F32);
        CHECK(fewstep_model_destroy(model));
    }
    for (size_t b = 2; b < 4; b++) time_steps(runtime, file, batches[b], FEWSTEP_PRECISION_BF16);
    time_steps(runtime, file, 64, FEWSTEP_PRECISION_F16);
}

static int32_t precision_of(const char *name) {
    for (int32_t i = 0; i < 3; i++)
        if (!strcmp(name, precisions[i])) return i;
    fprintf(stderr, "unknown precision %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    const int all = argc == 3 && !strcmp(mode, "all"), once = argc == 5 && !strcmp(mode, "once"), step = argc == 4 && !strcmp(mode, "step");
    if (!all && !once && !step) {
        fprintf(stderr, "usage: %s all OUT.json | once MODEL BATCH PRECISION | step BATCH PRECISION\n", argv[0]);
        return 2;
    }
    open_driver();
    fewstep_runtime *runtime = open_runtime();
    if (all) time_all(runtime, argv[2]);
    if (once) {
        fewstep_model *model = create_model(runtime, strcmp(argv[2], "student_s") ? cifar_teacher : student_s);
        sampling s = open_sampling(runtime, model, (uint32_t)atoi(argv[3]), 1, precision_of(argv[4]));
        run_sampling(&s);
        read_sampling(&s);
        close_sampling(&s);
        CHECK(fewstep_model_destroy(model));
    }
    if (step) {
        fewstep_trainer *trainer = open_trainer(runtime, (uint32_t)atoi(argv[2]), precision_of(argv[3]));
        run_step(trainer);
        CHECK(fewstep_trainer_destroy(trainer));
    }
    CHECK(fewstep_runtime_destroy(runtime));
    return 0;
}
