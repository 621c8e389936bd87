/* What whole numbers cost a student, and what training with them in place gives back.
 *
 * usage: quantize_student TEACHER STUDENT OUT_DIR
 *   TEACHER    a diffusers folder or a file of the library's, without conditions or with classes
 *   STUDENT    a few-step student of it, as distill_digits (OUT/student) and distill_pictures (OUT/student-2.safetensors) write
 *   OUT_DIR/   table.md, layers.md, student_int8.safetensors, student_int8_trained.safetensors
 *
 * Each way of quantising is sampled from the same held-out noises; its error is that of the last state, against the teacher's 50 steps and against the student
 * in f32. Training is compared with a student in f32 that was trained on in the same way: else training alone would look like a gain of quantisation. */
#include <fewstep.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT = 512, TEACHER_STEPS = 50, BATCH = 128, CACHE = 2048, TEACHER_TRAJECTORY = 16, TRAIN_STEPS = 150 };
static const uint64_t EVALUATION_SEED = 7; /* key of the held-out noises */

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

typedef struct {
    fewstep_runtime *runtime;
    fewstep_model *teacher, *student;
    size_t elements;  /* of all held-out samples */
    uint32_t steps;   /* of the student */
    uint32_t classes; /* 0 for none */
    float *exact, *floats, *found;
    FILE *table;
    const char *out;
    double float_bytes; /* of the student's file */
} study;

/* The held-out samples of a model by DDIM; a student's steps are those that it was trained for. */
static void sample(const study *s, const fewstep_model *model, uint32_t steps, float *to) {
    fewstep_sampler_options options;
    CHECK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.spacing = FEWSTEP_SPACING_TRAILING;
    options.clip = FEWSTEP_CLIP_NONE;
    options.set_alpha_to_one = 1;
    options.steps = steps;
    options.batch = BATCH;
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(s->runtime, model, &options, &sampler));
    for (uint32_t first = 0; first < HELD_OUT; first += BATCH) {
        int32_t labels[BATCH];
        for (int i = 0; i < BATCH; i++) labels[i] = (int32_t)((first + i) % (s->classes ? s->classes : 1));
        fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, BATCH};
        fewstep_begin_options begin;
        CHECK(fewstep_begin_options_init(&begin, sizeof begin));
        begin.seed = EVALUATION_SEED;
        begin.first_index = first;
        begin.conditionings = &classes;
        begin.conditioning_count = s->classes != 0;
        begin.conditioning_stride = sizeof classes;
        CHECK(fewstep_sampler_begin(sampler, &begin));
        CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
        const size_t each = s->elements / HELD_OUT;
        CHECK(fewstep_sampler_read(sampler, to + first * each, BATCH * each));
    }
    CHECK(fewstep_sampler_destroy(sampler));
}

static double rmse(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum / (double)n);
}

static const char *path(const char *dir, const char *name) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", dir, name);
    return buffer;
}

/* Bytes of a model's file. */
static double bytes_of(const study *s, const fewstep_model *model) {
    const char *name = path(s->out, "measured.safetensors");
    CHECK(fewstep_model_save_file(model, name));
    FILE *f = fopen(name, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(name);
        exit(1);
    }
    const double bytes = (double)ftell(f);
    fclose(f);
    remove(name);
    return bytes;
}

static void both(const study *s, const char *format, const char *name, double error, double ratio, double noise, double bytes) {
    printf(format, name, error, ratio, noise, bytes);
    fprintf(s->table, format, name, error, ratio, noise, bytes);
    fflush(stdout);
}

/* One row of the table: RMSE against the teacher, that over the RMSE of `control`, RMSE against the student in f32, bytes of its file over those of f32. */
static double report(const study *s, const char *name, const fewstep_model *model, double control) {
    sample(s, model, s->steps, s->found);
    double error = rmse(s->found, s->exact, s->elements), noise = rmse(s->found, s->floats, s->elements);
    both(s, "| %s | %.4f | %.3f | %.4f | %.3f |\n", name, error, error / control, noise, bytes_of(s, model) / s->float_bytes);
    return error;
}

/* A way to quantise: what is not said is the default. */
typedef struct {
    const char *name;
    int32_t mode;
    uint32_t levels;
    int32_t range, correct_biases;
} way;

/* The student in fewer bits; the caller destroys it. */
static fewstep_model *quantized(const study *s, const way *how) {
    fewstep_quantize_options options;
    CHECK(fewstep_quantize_options_init(&options, sizeof options));
    options.mode = how->mode;
    if (how->levels) options.levels = how->levels;
    if (how->range) options.range = how->range;
    options.correct_biases = how->correct_biases;
    options.samples = 512;
    options.batch = BATCH;
    options.seed = 1;
    fewstep_model *model;
    CHECK(fewstep_quantize(s->runtime, s->student, &options, NULL, NULL, &model));
    return model;
}

/* The same model, trained on from the states that it reaches itself. */
static fewstep_model *trained(const study *s, const fewstep_model *model, double scale_learning_rate) {
    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_ON_POLICY, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options options;
    CHECK(fewstep_trainer_options_init(&options, sizeof options));
    options.seed = 2;
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.substeps = TEACHER_TRAJECTORY / s->steps;
    options.cache_size = CACHE;
    options.learning_rate = 3e-4;
    options.warmup_steps = 10;
    options.total_steps = TRAIN_STEPS;
    options.trajectory_clip = FEWSTEP_CLIP_NONE;
    options.scale_learning_rate = scale_learning_rate;
    fewstep_trainer *trainer;
    CHECK(fewstep_trainer_create(s->runtime, model, s->teacher, NULL, &options, &trainer));
    CHECK(fewstep_trainer_train(trainer, TRAIN_STEPS, NULL, NULL, NULL));
    fewstep_model *result;
    CHECK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &result));
    CHECK(fewstep_trainer_destroy(trainer));
    return result;
}

/* A row of the table of layers. */
static void show_layer(void *user, const fewstep_layer_report *row) {
    FILE *f = user;
    fprintf(f, "| %s | %.1f %% |", row->layer ? row->layer : "all", 100 * row->share);
    for (uint32_t i = 0; i < row->step_count; i++) fprintf(f, " %.5f%s", row->step_errors[i], i + 1 < row->step_count ? "," : " |");
    fprintf(f, " %.5f |\n", row->error_if_kept);
}

/* What each layer's whole numbers cost. */
static void report_layers(const study *s, const fewstep_model *whole, const char *file) {
    FILE *f = fopen(file, "w");
    if (!f) {
        perror(file);
        exit(1);
    }
    fprintf(f, "| layer | share of the error | RMSE of each step's state, this layer alone | RMSE with this layer in f32 |\n| --- | --- | --- | --- |\n");
    fewstep_quantize_options options;
    CHECK(fewstep_quantize_options_init(&options, sizeof options));
    options.samples = BATCH;
    options.batch = BATCH;
    CHECK(fewstep_quantize_report(s->runtime, s->student, whole, &options, NULL, show_layer, f));
    if (fclose(f) != 0) {
        perror(file);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s TEACHER STUDENT OUT_DIR\n", argv[0]);
        return 2;
    }
    study s = {0};
    fewstep_runtime_options runtime_options;
    CHECK(fewstep_runtime_options_init(&runtime_options, sizeof runtime_options));
    CHECK(fewstep_runtime_create(&runtime_options, &s.runtime));
    CHECK(fewstep_model_open(s.runtime, argv[1], &s.teacher));
    CHECK(fewstep_model_open(s.runtime, argv[2], &s.student));
    fewstep_model_info info = {.struct_size = sizeof info};
    CHECK(fewstep_model_get_info(s.student, &info));
    s.steps = info.steps;
    s.classes = info.classes;
    s.elements = (size_t)HELD_OUT * info.in_channels * info.height * info.width;
    if (s.steps == 0 || s.steps > TEACHER_TRAJECTORY) {
        fprintf(stderr, "%s: expected a student of 1 to %d steps, found %u\n", argv[2], TEACHER_TRAJECTORY, (unsigned)s.steps);
        return 1;
    }
    s.exact = malloc(s.elements * sizeof(float));
    s.floats = malloc(s.elements * sizeof(float));
    s.found = malloc(s.elements * sizeof(float));
    s.table = fopen(path(argv[3], "table.md"), "w");
    if (!s.exact || !s.floats || !s.found || !s.table) {
        perror(argv[3]);
        return 1;
    }

    s.out = argv[3];
    s.float_bytes = bytes_of(&s, s.student);
    sample(&s, s.teacher, TEACHER_STEPS, s.exact);
    sample(&s, s.student, s.steps, s.floats);
    const double float_error = rmse(s.floats, s.exact, s.elements);
    const char *head = "| %u steps | RMSE against the teacher | over f32's | RMSE against f32 | file over f32's |\n| --- | --- | --- | --- | --- |\n";
    printf(head, (unsigned)s.steps);
    fprintf(s.table, head, (unsigned)s.steps);
    report(&s, "f32", s.student, float_error);

    static const way ways[] = {
        {.name = "w8a8, 130 levels (default)", .mode = FEWSTEP_QUANTIZE_W8A8},
        {.name = "w8a8, 256 levels", .mode = FEWSTEP_QUANTIZE_W8A8, .levels = 256},
        {.name = "w8a8, range of 99.99 % at either end", .mode = FEWSTEP_QUANTIZE_W8A8, .range = FEWSTEP_RANGE_PERCENTILE},
        {.name = "w8a8, range of least error", .mode = FEWSTEP_QUANTIZE_W8A8, .range = FEWSTEP_RANGE_LEAST_ERROR},
        {.name = "w8a8, biases corrected", .mode = FEWSTEP_QUANTIZE_W8A8, .correct_biases = 1},
        {.name = "w4a8", .mode = FEWSTEP_QUANTIZE_W4A8},
        {.name = "w4a8, range of least error", .mode = FEWSTEP_QUANTIZE_W4A8, .range = FEWSTEP_RANGE_LEAST_ERROR},
        {.name = "w4a8, biases corrected", .mode = FEWSTEP_QUANTIZE_W4A8, .correct_biases = 1},
        {.name = "w8", .mode = FEWSTEP_QUANTIZE_W8},
        {.name = "w4", .mode = FEWSTEP_QUANTIZE_W4},
        {.name = "w4, biases corrected", .mode = FEWSTEP_QUANTIZE_W4, .correct_biases = 1},
        {.name = "f16", .mode = FEWSTEP_QUANTIZE_F16},
        {.name = "bf16", .mode = FEWSTEP_QUANTIZE_BF16},
    };
    enum { WAYS = sizeof ways / sizeof *ways, W8A8 = 0, W4A8 = 5, W4 = 9 };
    fewstep_model *made[WAYS];
    for (int i = 0; i < WAYS; i++) {
        made[i] = quantized(&s, &ways[i]);
        report(&s, ways[i].name, made[i], float_error);
    }
    CHECK(fewstep_model_save_file(made[W8A8], path(argv[3], "student_int8.safetensors")));
    report_layers(&s, made[W8A8], path(argv[3], "layers.md"));

    /* What training gives, against the same training in f32. */
    fewstep_model *control = trained(&s, s.student, 0);
    const double control_error = report(&s, "f32, trained on (the control of what follows)", control, float_error);
    CHECK(fewstep_model_destroy(control));
    const struct {
        const char *name;
        int way;
        double scale_learning_rate;
    } trainings[] = {{"w8a8, trained with the rounding in place", W8A8, 0},
                     {"w8a8, the same with scales that learn", W8A8, 3e-4},
                     {"w4a8, trained", W4A8, 0},
                     {"w4a8, the same with scales that learn", W4A8, 3e-4},
                     {"w4, trained", W4, 0}};
    for (size_t i = 0; i < sizeof trainings / sizeof *trainings; i++) {
        fewstep_model *model = trained(&s, made[trainings[i].way], trainings[i].scale_learning_rate);
        report(&s, trainings[i].name, model, control_error);
        if (i == 0) CHECK(fewstep_model_save_file(model, path(argv[3], "student_int8_trained.safetensors")));
        CHECK(fewstep_model_destroy(model));
    }

    for (int i = 0; i < WAYS; i++) CHECK(fewstep_model_destroy(made[i]));
    CHECK(fewstep_model_destroy(s.student));
    CHECK(fewstep_model_destroy(s.teacher));
    free(s.exact);
    free(s.floats);
    free(s.found);
    if (fclose(s.table) != 0) {
        perror("table.md");
        return 1;
    }
    return fewstep_runtime_destroy(s.runtime) != FEWSTEP_STATUS_OK;
}
