/* Distils a 50-step digits teacher into a student of a sixth of its size that needs two steps, and makes that one in whole numbers of a byte.
 *
 * usage: distill_digits DATA_DIR OUT_DIR [cuda] [steps=N] [train=N] [recipe=NAME] [threads=N]
 *   DATA_DIR/digits_teacher/   a diffusers folder
 *   DATA_DIR/digits8.npz       the images that it has learned, to compare with
 *   OUT_DIR/                   samples.png, noise.npy, labels.npy, teacher50.npy, teacher2.npy, student2.npy, student2_f16.npy,
 *                              student2_int8.npy, student/, student_int8.safetensors, report.json, quality.json
 *   recipe=best                in place of the trainer below, a recipe of the library's, which goes on where it was in OUT_DIR/run
 *
 * Everything that can fail returns a status; CHECK prints the library's sentence and leaves. A real host would go on instead. */
#include <fewstep.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    HELD_OUT = 512,     /* noises that training never sees */
    SHOWN = 20,         /* of them in the picture */
    TEACHER_STEPS = 50, /* the reference */
    TRAJECTORY = 16,    /* teacher steps of a trajectory while training */
    CACHE = 12288,      /* teacher trajectories: more noises help more than a larger student */
    BATCH = 128,        /* of the samplers */
    EVALUATED = 256     /* images of a set whose distribution is compared */
};
static const uint64_t EVALUATION_SEED = 7; /* key of the held-out noises */
static unsigned student_steps = 2, train_steps = 4000, threads = 0;
static const char *recipe_name = NULL;

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

static double seconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A live bar, redrawn at each percent. */
static int32_t show_progress(void *user, const fewstep_progress *p) {
    int *last = user;
    int percent = p->total ? (int)(100 * p->done / p->total) : 100;
    if (percent == *last) return 0;
    *last = percent;
    const char *phase = p->phase == FEWSTEP_PHASE_PREPARE    ? "teacher trajectories"
                        : p->phase == FEWSTEP_PHASE_TRAIN    ? "training"
                        : p->phase == FEWSTEP_PHASE_EVALUATE ? "evaluation"
                                                             : "calibration";
    printf("\r%-20s [%-50.*s] %3d %%", phase, percent / 2, "##################################################", percent);
    if (p->phase == FEWSTEP_PHASE_TRAIN) printf("  loss %.4f  %.0f images/s  %.0f s left ", (double)p->loss, p->samples_per_second, p->seconds_left);
    if (percent == 100) printf("\n");
    fflush(stdout);
    return 0; /* anything else cancels */
}

typedef struct {
    const char *what;
    char name[40]; /* with its steps */
    const fewstep_model *model;
    uint32_t steps;
    float *images; /* [HELD_OUT, C, H, W] */
    double rmse;
    double ms_per_sample;
    uint64_t parameters, bytes;
} row;

/* DDIM, trailing spacing, no clipping, ending at clean data, whatever the model's own scheduler says. */
static fewstep_sampler_options ddim(uint32_t steps) {
    fewstep_sampler_options options;
    CHECK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.spacing = FEWSTEP_SPACING_TRAILING;
    options.clip = FEWSTEP_CLIP_NONE;
    options.set_alpha_to_one = 1;
    options.steps = steps;
    options.batch = BATCH;
    return options;
}

/* Samples the held-out noises. */
static void sample_row(const fewstep_runtime *runtime, row *r, const int32_t *labels, size_t image, float *noise) {
    fewstep_model_info info = {.struct_size = sizeof info};
    CHECK(fewstep_model_get_info(r->model, &info));
    r->parameters = info.parameters;
    r->bytes = info.weight_bytes;

    const fewstep_sampler_options options = ddim(r->steps);
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(runtime, r->model, &options, &sampler));
    CHECK(fewstep_sampler_noise(sampler, EVALUATION_SEED, 0, HELD_OUT, noise, HELD_OUT * image));

    double start = seconds();
    for (uint32_t first = 0; first < HELD_OUT; first += BATCH) {
        fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels + first, BATCH};
        fewstep_begin_options begin;
        CHECK(fewstep_begin_options_init(&begin, sizeof begin));
        begin.seed = EVALUATION_SEED;
        begin.first_index = first;
        begin.conditionings = &classes;
        begin.conditioning_count = 1;
        begin.conditioning_stride = sizeof classes;
        CHECK(fewstep_sampler_begin(sampler, &begin));
        CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
        CHECK(fewstep_sampler_read(sampler, r->images + first * image, BATCH * image));
    }
    r->ms_per_sample = 1e3 * (seconds() - start) / HELD_OUT;
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

/* Trains a student by a recipe, but for one word of it: trajectories are those of a teacher that does not clip, as the rows are sampled. */
static fewstep_model *by_recipe(const fewstep_runtime *runtime, const fewstep_model *teacher, const fewstep_model *student, const char *folder) {
    static char recipe[16384];
    size_t length;
    CHECK(fewstep_recipe_text(recipe_name, student_steps, recipe, sizeof recipe, &length));
    const char *clips = "\"from_teacher\"", *none = "\"none\"        ";
    for (char *at = recipe; (at = strstr(at, clips)) != NULL; at += strlen(none)) memcpy(at, none, strlen(none));
    fewstep_recipe_options options;
    CHECK(fewstep_recipe_options_init(&options, sizeof options));
    options.folder = folder;
    int percent = -1;
    fewstep_model *trained;
    CHECK(fewstep_recipe_run(runtime, recipe, student, teacher, NULL, &options, show_progress, &percent, NULL, &trained));
    return trained;
}

/* Derives the student, computes the teacher's trajectories, trains, and returns the moving average of the weights. */
static fewstep_model *distil(const fewstep_runtime *runtime, const fewstep_model *teacher, const char *out) {
    fewstep_student_options smaller;
    CHECK(fewstep_student_options_init(&smaller, sizeof smaller));
    smaller.config_patch =
        "{\"block_out_channels\": [16, 32], \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
        " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"add_attention\": false}";
    smaller.prediction = FEWSTEP_PREDICTION_V;
    smaller.steps = student_steps;
    smaller.seed = 1;
    fewstep_model *student;
    CHECK(fewstep_model_derive_student(runtime, teacher, &smaller, &student));
    fewstep_model *trained;
    if (recipe_name) {
        trained = by_recipe(runtime, teacher, student, path(out, "run"));
        CHECK(fewstep_model_destroy(student));
        return trained;
    }

    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options options;
    CHECK(fewstep_trainer_options_init(&options, sizeof options));
    options.seed = 1;
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.steps = student_steps;
    options.teacher_order = 3; /* DPM-Solver++: closer to the teacher than as many steps of DDIM */
    options.substeps = TRAJECTORY / student_steps;
    options.cache_size = CACHE;
    options.learning_rate = 2e-3;
    options.optimizer = FEWSTEP_OPTIMIZER_MUON;
    options.total_steps = train_steps;
    options.trajectory_clip = FEWSTEP_CLIP_NONE; /* as the rows are sampled */
    fewstep_trainer *trainer;
    CHECK(fewstep_trainer_create(runtime, student, teacher, NULL, &options, &trainer));
    int percent = -1;
    CHECK(fewstep_trainer_prepare(trainer, show_progress, &percent, NULL));
    percent = -1;
    CHECK(fewstep_trainer_train(trainer, train_steps, show_progress, &percent, NULL));

    fewstep_trainer_info info = {.struct_size = sizeof info};
    CHECK(fewstep_trainer_get_info(trainer, &info));
    printf("training arena %.1f MB (largest live set %.1f MB)\n", (double)info.arena_bytes / 1e6, (double)info.peak_live_bytes / 1e6);
    CHECK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &trained));
    CHECK(fewstep_trainer_destroy(trainer));
    CHECK(fewstep_model_destroy(student));
    return trained;
}

/* The student in half of the bits: nothing else is to be done. */
static fewstep_model *halve(const fewstep_runtime *runtime, const fewstep_model *student) {
    fewstep_quantize_options options;
    CHECK(fewstep_quantize_options_init(&options, sizeof options));
    options.mode = FEWSTEP_QUANTIZE_F16;
    fewstep_model *half;
    CHECK(fewstep_quantize(runtime, student, &options, NULL, NULL, &half));
    return half;
}

/* The student in whole numbers, calibrated on noises of its own; the file of it is all that a game ships. */
static fewstep_model *quantize(const fewstep_runtime *runtime, const fewstep_model *student, const char *file) {
    fewstep_model *whole, *opened;
    int percent = -1;
    CHECK(fewstep_quantize(runtime, student, NULL, show_progress, &percent, &whole));
    CHECK(fewstep_model_save_file(whole, file));
    CHECK(fewstep_model_destroy(whole));
    CHECK(fewstep_model_open(runtime, file, &opened));
    return opened;
}

/* What one error does not say: whether the images are varied, and of their class. The images that the teacher has learned are beside them, split in halves: a set
 * that is as good gets what the row "null" has. */
static void evaluate(const fewstep_runtime *runtime, const fewstep_model *teacher, const row *rows, uint32_t count, const char *data, const char *file) {
    fewstep_dataset *digits;
    CHECK(fewstep_dataset_open_npz(runtime, data, "images", "labels", 0.125f, -1.0f, &digits));
    fewstep_evaluate_options options;
    CHECK(fewstep_evaluate_options_init(&options, sizeof options));
    options.count = options.batch = EVALUATED;
    options.seed = EVALUATION_SEED;
    options.dataset = digits;
    options.reference_clip = FEWSTEP_CLIP_NONE; /* as the rows are sampled */
    fewstep_evaluate_set sets[8] = {{0}};
    fewstep_sampler_options samplers[8];
    for (uint32_t i = 1; i < count; i++) { /* the teacher's 50 steps are in every report */
        samplers[i - 1] = ddim(rows[i].steps);
        sets[i - 1] = (fewstep_evaluate_set){.name = rows[i].name, .model = rows[i].model, .sampler = &samplers[i - 1]};
    }
    int percent = -1;
    fewstep_quality_report *report;
    CHECK(fewstep_evaluate(runtime, teacher, &options, sets, count - 1, sizeof sets[0], show_progress, &percent, &report));
    for (int32_t format = FEWSTEP_REPORT_TEXT; format <= FEWSTEP_REPORT_JSON; format++) {
        size_t length;
        CHECK(fewstep_quality_report_text(report, format, NULL, 0, &length));
        char *text = malloc(length + 1);
        if (!text) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
        CHECK(fewstep_quality_report_text(report, format, text, length + 1, &length));
        if (format == FEWSTEP_REPORT_TEXT) {
            printf("\n%s", text);
        } else {
            FILE *f = fopen(file, "w");
            if (!f || fprintf(f, "%s\n", text) < 0 || fclose(f) != 0) {
                perror(file);
                exit(1);
            }
        }
        free(text);
    }
    CHECK(fewstep_quality_report_destroy(report));
    CHECK(fewstep_dataset_destroy(digits));
}

/* Peak resident memory of this process in MB, where the system tells. */
static double peak_memory(void) {
    double kilobytes = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kilobytes) == 1) break;
    if (f) fclose(f);
    return kilobytes / 1e3;
}

static void write_report(const char *file, const row *rows, int count, double train_seconds) {
    FILE *f = fopen(file, "w");
    if (!f) {
        perror(file);
        exit(1);
    }
    fprintf(f, "{\n  \"held_out\": %d,\n  \"distillation_seconds\": %.1f,\n  \"peak_memory_mb\": %.1f,\n  \"rows\": [\n", HELD_OUT, train_seconds, peak_memory());
    for (int i = 0; i < count; i++)
        fprintf(f,
                "    {\"name\": \"%s\", \"steps\": %u, \"parameters\": %llu, \"bytes\": %llu, \"endpoint_rmse\": %.6f, \"ms_per_sample\": %.4f}%s\n",
                rows[i].name, (unsigned)rows[i].steps, (unsigned long long)rows[i].parameters, (unsigned long long)rows[i].bytes, rows[i].rmse,
                rows[i].ms_per_sample, i + 1 < count ? "," : "");
    fprintf(f, "  ]\n}\n");
    if (fclose(f) != 0) {
        perror(file);
        exit(1);
    }
}

int main(int argc, char **argv) {
    int on_gpu = 0, wrong = argc < 3;
    char rest;
    for (int i = 3; i < argc; i++) {
        if (!strcmp(argv[i], "cuda")) on_gpu = 1;
        else if (!strncmp(argv[i], "recipe=", 7)) recipe_name = argv[i] + 7;
        else if (sscanf(argv[i], "steps=%u%c", &student_steps, &rest) != 1 && sscanf(argv[i], "train=%u%c", &train_steps, &rest) != 1 &&
                 sscanf(argv[i], "threads=%u%c", &threads, &rest) != 1)
            wrong = 1;
    }
    if (wrong || student_steps < 1 || student_steps > TRAJECTORY || train_steps < 1 || train_steps > 1000000) {
        fprintf(stderr, "usage: %s DATA_DIR OUT_DIR [cuda] [steps=1..%d] [train=N] [recipe=fast|best] [threads=N]\n", argv[0], TRAJECTORY);
        return 2;
    }
    const char *data = argv[1], *out = argv[2];
    printf("fewstep %s\n", fewstep_version_string());
    fewstep_runtime_options runtime_options;
    CHECK(fewstep_runtime_options_init(&runtime_options, sizeof runtime_options));
    if (on_gpu) runtime_options.device = FEWSTEP_DEVICE_CUDA;
    runtime_options.threads = threads; /* 0: as many as there are processors */
    fewstep_runtime *runtime;
    CHECK(fewstep_runtime_create(&runtime_options, &runtime));
    fewstep_model *teacher;
    CHECK(fewstep_model_open(runtime, path(data, "digits_teacher"), &teacher));
    fewstep_model_info info = {.struct_size = sizeof info};
    CHECK(fewstep_model_get_info(teacher, &info));
    const size_t image = (size_t)info.in_channels * info.height * info.width, total = HELD_OUT * image;
    printf("teacher: %llu parameters, %ux%u, %u classes\n", (unsigned long long)info.parameters, (unsigned)info.height, (unsigned)info.width, (unsigned)info.classes);

    double start = seconds();
    fewstep_model *student = distil(runtime, teacher, out);
    double train_seconds = seconds() - start;
    CHECK(fewstep_model_save(student, path(out, "student")));
    fewstep_model *student_f16 = halve(runtime, student);
    fewstep_model *student_int8 = quantize(runtime, student, path(out, "student_int8.safetensors"));

    row rows[] = {{.what = "teacher", .model = teacher, .steps = TEACHER_STEPS},
                  {.what = "teacher", .model = teacher, .steps = student_steps},
                  {.what = "student", .model = student, .steps = student_steps},
                  {.what = "f16 student", .model = student_f16, .steps = student_steps},
                  {.what = "int8 student", .model = student_int8, .steps = student_steps}};
    const char *files[] = {"teacher50.npy", "teacher2.npy", "student2.npy", "student2_f16.npy", "student2_int8.npy"};
    enum { ROWS = sizeof rows / sizeof rows[0] };
    int32_t labels[HELD_OUT];
    for (int i = 0; i < HELD_OUT; i++) labels[i] = i % 10;
    float *noise = malloc(total * sizeof *noise);
    fewstep_grid_row picture[ROWS];
    const size_t shape[] = {HELD_OUT, info.in_channels, info.height, info.width};
    printf("\n%-22s %10s %10s %10s %12s\n", "", "parameters", "bytes", "RMSE", "ms/sample");
    for (int i = 0; i < ROWS; i++) {
        rows[i].images = malloc(total * sizeof *rows[i].images);
        if (!noise || !rows[i].images) {
            fprintf(stderr, "out of memory\n");
            return 1;
        }
        snprintf(rows[i].name, sizeof rows[i].name, "%s %u steps", rows[i].what, (unsigned)rows[i].steps);
        sample_row(runtime, &rows[i], labels, image, noise);
        rows[i].rmse = rmse(rows[i].images, rows[0].images, total);
        CHECK(fewstep_save_npy_f32(path(out, files[i]), rows[i].images, shape, 4));
        picture[i] = (fewstep_grid_row){rows[i].name, rows[i].images, SHOWN};
        printf("%-22s %10llu %10llu %10.4f %12.3f\n", rows[i].name, (unsigned long long)rows[i].parameters, (unsigned long long)rows[i].bytes, rows[i].rmse,
               rows[i].ms_per_sample);
    }
    CHECK(fewstep_save_npy_f32(path(out, "noise.npy"), noise, shape, 4));
    CHECK(fewstep_save_npy_i32(path(out, "labels.npy"), labels, shape, 1));
    CHECK(fewstep_save_image_grid(path(out, "samples.png"), picture, ROWS, sizeof picture[0], info.in_channels, info.height, info.width, 4));
    write_report(path(out, "report.json"), rows, ROWS, train_seconds);
    char digits[4096];
    snprintf(digits, sizeof digits, "%s/digits8.npz", data);
    evaluate(runtime, teacher, rows, ROWS, digits, path(out, "quality.json"));
    printf("\nstudent error: %.2f of the teacher's own at %u steps; distilled in %.0f s; peak memory %.0f MB\nwrote %s\n", rows[2].rmse / rows[1].rmse, student_steps,
           train_seconds, peak_memory(), path(out, "samples.png"));

    for (int i = 0; i < ROWS; i++) free(rows[i].images);
    free(noise);
    CHECK(fewstep_model_destroy(student_int8));
    CHECK(fewstep_model_destroy(student_f16));
    CHECK(fewstep_model_destroy(student));
    CHECK(fewstep_model_destroy(teacher));
    CHECK(fewstep_runtime_destroy(runtime));
    return 0;
}
