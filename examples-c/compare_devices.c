/* Does this GPU give what the CPU gives? Trains a student for five steps and draws eight samples of it on both, from the same seeds, and compares.
 *
 * usage: compare_devices DATA_DIR
 *   DATA_DIR/digits_teacher/   a diffusers folder
 *
 * Ends with 0 if all differences are within f32's tolerance, with 1 if not or if something fails, with 2 without a CUDA device. */
#include <fewstep.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SAMPLES = 8, TRAIN_STEPS = 5, BATCH = 8, STEPS = 2, SUBSTEPS = 4, CACHE = 16, MOST_PIXELS = SAMPLES * 64 * 64 };

/* Sums of a few thousand terms in another order differ in f32 by about 1e-6 of their size; five steps of AdamW, whose first divides each gradient by its
 * own size, make more of it. A wrong kernel differs by more than 1e-1. */
static const double LOSS_TOLERANCE = 1e-4, SAMPLE_TOLERANCE = 1e-2;

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

typedef struct {
    float losses[TRAIN_STEPS];
    float teacher[MOST_PIXELS], student[MOST_PIXELS]; /* [SAMPLES, C, H, W] */
    size_t pixels;
} outcome;

static fewstep_runtime *open_device(int32_t device) {
    fewstep_runtime_options options;
    CHECK(fewstep_runtime_options_init(&options, sizeof options));
    options.device = device;
    fewstep_runtime *runtime;
    fewstep_status status = fewstep_runtime_create(&options, &runtime);
    if (status == FEWSTEP_STATUS_OK) return runtime;
    fprintf(stderr, "%s: %s\n", fewstep_status_name(status), fewstep_last_error());
    exit(2);
}

static void sample(const fewstep_runtime *runtime, const fewstep_model *model, float *images, size_t pixels) {
    fewstep_sampler_options options;
    CHECK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.spacing = FEWSTEP_SPACING_TRAILING;
    options.clip = FEWSTEP_CLIP_NONE;
    options.set_alpha_to_one = 1;
    options.steps = STEPS;
    options.batch = SAMPLES;
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(runtime, model, &options, &sampler));
    int32_t labels[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) labels[i] = i % 10;
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, SAMPLES};
    fewstep_begin_options begin;
    CHECK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.seed = 7;
    begin.conditionings = &classes;
    begin.conditioning_count = 1;
    begin.conditioning_stride = sizeof classes;
    CHECK(fewstep_sampler_begin(sampler, &begin));
    CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    CHECK(fewstep_sampler_read(sampler, images, pixels));
    CHECK(fewstep_sampler_destroy(sampler));
}

static int32_t note_loss(void *user, const fewstep_progress *p) {
    if (p->phase == FEWSTEP_PHASE_TRAIN) *(float *)user = p->loss;
    return 0;
}

/* Five steps of a small student, one report a step. */
static fewstep_model *train(const fewstep_runtime *runtime, const fewstep_model *teacher, float *losses) {
    fewstep_student_options smaller;
    CHECK(fewstep_student_options_init(&smaller, sizeof smaller));
    smaller.config_patch =
        "{\"block_out_channels\": [16, 32], \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
        " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"add_attention\": false}";
    smaller.prediction = FEWSTEP_PREDICTION_V;
    smaller.steps = STEPS;
    smaller.seed = 1;
    fewstep_model *student;
    CHECK(fewstep_model_derive_student(runtime, teacher, &smaller, &student));
    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options options;
    CHECK(fewstep_trainer_options_init(&options, sizeof options));
    options.seed = 1;
    options.batch = BATCH;
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.steps = STEPS;
    options.substeps = SUBSTEPS;
    options.cache_size = CACHE;
    options.warmup_steps = 1;
    options.total_steps = 1000;
    options.trajectory_clip = FEWSTEP_CLIP_NONE; /* as the samples are drawn */
    fewstep_trainer *trainer;
    CHECK(fewstep_trainer_create(runtime, student, teacher, NULL, &options, &trainer));
    CHECK(fewstep_trainer_prepare(trainer, NULL, NULL, NULL));
    for (int i = 0; i < TRAIN_STEPS; i++) CHECK(fewstep_trainer_train(trainer, 1, note_loss, &losses[i], NULL));
    fewstep_model *trained;
    CHECK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_RAW, &trained));
    CHECK(fewstep_trainer_destroy(trainer));
    CHECK(fewstep_model_destroy(student));
    return trained;
}

static void run(int32_t device, const char *folder, outcome *out) {
    fewstep_runtime *runtime = open_device(device);
    fewstep_model *teacher;
    CHECK(fewstep_model_open(runtime, folder, &teacher));
    fewstep_model_info info = {.struct_size = sizeof info};
    CHECK(fewstep_model_get_info(teacher, &info));
    out->pixels = (size_t)SAMPLES * info.in_channels * info.height * info.width;
    if (out->pixels > MOST_PIXELS) {
        fprintf(stderr, "%s: images of %ux%u are larger than this program expects\n", folder, (unsigned)info.height, (unsigned)info.width);
        exit(1);
    }
    fewstep_model *student = train(runtime, teacher, out->losses);
    sample(runtime, teacher, out->teacher, out->pixels);
    sample(runtime, student, out->student, out->pixels);
    CHECK(fewstep_model_destroy(student));
    CHECK(fewstep_model_destroy(teacher));
    CHECK(fewstep_runtime_destroy(runtime));
}

/* Largest difference over the largest value; a number that is none counts as infinitely far. */
static double difference(const float *a, const float *b, size_t n) {
    double largest = 0, away = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        largest = fmax(largest, fabs(a[i]));
        away = fmax(away, fabs((double)a[i] - b[i]));
    }
    return away / fmax(largest, 1e-30);
}

static int report(const char *what, double found, double tolerance) {
    printf("%-44s %.2e (at most %.0e)  %s\n", what, found, tolerance, found <= tolerance ? "equal" : "DIFFERENT");
    return found <= tolerance;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DATA_DIR\n", argv[0]);
        return 2;
    }
    static outcome cpu, cuda;
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/digits_teacher", argv[1]);
    run(FEWSTEP_DEVICE_CPU, folder, &cpu);
    run(FEWSTEP_DEVICE_CUDA, folder, &cuda);
    for (int i = 0; i < TRAIN_STEPS; i++) printf("step %d: loss %.6f on the CPU, %.6f on CUDA\n", i + 1, (double)cpu.losses[i], (double)cuda.losses[i]);
    int equal = report("losses of five training steps", difference(cpu.losses, cuda.losses, TRAIN_STEPS), LOSS_TOLERANCE);
    equal &= report("eight samples of the teacher", difference(cpu.teacher, cuda.teacher, cpu.pixels), SAMPLE_TOLERANCE);
    equal &= report("eight samples of the student trained on each", difference(cpu.student, cuda.student, cpu.pixels), SAMPLE_TOLERANCE);
    return equal ? 0 : 1;
}
