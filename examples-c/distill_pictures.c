/* From pictures to few-step students: trains a teacher on them, distils it once for each number of steps, and shows and measures all of them.
 *
 * usage: distill_pictures PICTURES OUT_DIR [size=32] [channels=3] [width=32] [teacher=STEPS] [student=STEPS] [grids=4,2,1] [cache=4096] [evaluated=64]
 *   PICTURES           a folder (folders in it are classes), or an .npz with `images`, bytes [M,H,W,C], and `labels`, which say size and channels themselves
 *   grids              numbers of steps, at most four
 *   width              channels of the teacher's first stage; the others have two and four times as many
 *   OUT_DIR/teacher/, OUT_DIR/student-2/ …   a run each: metrics.jsonl, TensorBoard files (tensorboard --logdir OUT_DIR), progress.svg, pictures, checkpoints
 *   OUT_DIR/teacher.safetensors, OUT_DIR/student-2.safetensors …, OUT_DIR/samples.png, OUT_DIR/quality.txt
 * Interrupted, by Ctrl-C, kill -9 or a power cut, the same command goes on where it was.
 *
 * Everything that can fail returns a status; CHECK prints the library's sentence and leaves. A real host would go on instead. */
#include <fewstep.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SHOWN = 12, TEACHER_STEPS = 50, SIDE = 256, GRIDS = 4, FEWEST = 12 };

static volatile sig_atomic_t interrupted; /* by Ctrl-C */

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ == FEWSTEP_STATUS_CANCELLED) {                                                         \
            printf("\nstopped; the same command goes on from here\n");                                    \
            exit(3);                                                                                       \
        }                                                                                                  \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

static void stop(int signal) {
    (void)signal;
    interrupted = 1;
}

typedef struct {
    const char *what;
    int percent;
} bar;

static int32_t show_progress(void *user, const fewstep_progress *p) {
    bar *b = user;
    const int percent = p->total ? (int)(100 * p->done / p->total) : 100;
    if (percent == b->percent || interrupted) return interrupted; /* anything but 0 cancels */
    b->percent = percent;
    const char *phase = p->phase == FEWSTEP_PHASE_OPEN       ? "pictures"
                        : p->phase == FEWSTEP_PHASE_PREPARE  ? "trajectories"
                        : p->phase == FEWSTEP_PHASE_EVALUATE ? "measuring"
                                                             : "training";
    printf("\r%-8s %-12s [%-40.*s] %3d %%", b->what, phase, percent * 40 / 100, "########################################", percent);
    if (p->phase == FEWSTEP_PHASE_TRAIN) printf("  loss %.4f  %5.0f images/s  %4.0f s left ", (double)p->loss, p->samples_per_second, p->seconds_left);
    if (percent == 100) printf("\n");
    fflush(stdout);
    return 0;
}

static const char *path(const char *dir, const char *name) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", dir, name);
    return buffer;
}

/* What there is of a student of so many steps: OUT_DIR/student-STEPS. */
static const char *student_path(const char *dir, unsigned grid, const char *extension) {
    char name[64];
    snprintf(name, sizeof name, "student-%u%s", grid, extension);
    return path(dir, name);
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

/* The pictures, and what could not be used. */
static fewstep_dataset *open_pictures(const fewstep_runtime *runtime, const char *folder, unsigned size, unsigned channels, fewstep_dataset_info *info) {
    fewstep_folder_options options;
    CHECK(fewstep_folder_options_init(&options, sizeof options));
    options.channels = channels;
    options.height = options.width = size;
    bar b = {"data", -1};
    fewstep_dataset *dataset;
    const size_t length = strlen(folder);
    if (length > 4 && strcmp(folder + length - 4, ".npz") == 0) {
        CHECK(fewstep_dataset_open_npz(runtime, folder, "images", "labels", 1 / 127.5f, -1.0f, &dataset));
    } else {
        CHECK(fewstep_dataset_open_folder(runtime, folder, &options, show_progress, &b, &dataset));
    }
    info->struct_size = sizeof *info;
    CHECK(fewstep_dataset_get_info(dataset, info));
    printf("%llu pictures of %u classes\n", (unsigned long long)info->count, (unsigned)info->classes);
    for (uint64_t i = 0; i < info->skipped && i < 5; i++) {
        fewstep_skipped skipped = {.struct_size = sizeof skipped};
        CHECK(fewstep_dataset_skipped(dataset, i, &skipped));
        printf("left out: %s: %s\n", skipped.path, skipped.reason);
    }
    if (info->skipped > 5) printf("and %llu more\n", (unsigned long long)info->skipped - 5);
    if (info->count < FEWEST || info->channels == 2) { /* before hours of training: what is measured and drawn at the end */
        fprintf(stderr, "at least %d pictures are needed, of 1, 3 or 4 channels; these have %u\n", FEWEST, (unsigned)info->channels);
        exit(1);
    }
    return dataset;
}

/* One recipe in its folder, from the start or from where it was. */
static fewstep_model *run(const fewstep_runtime *runtime, const char *what, const char *folder, const char *recipe, unsigned steps,
                          const fewstep_model *initial, const fewstep_model *teacher, const fewstep_dataset *dataset) {
    fewstep_recipe_options options;
    CHECK(fewstep_recipe_options_init(&options, sizeof options));
    options.folder = folder;
    options.log_every = 20;
    options.evaluate_every = options.save_every = steps / 20 + 1; /* twenty pictures on the way */
    options.held_out = 64;
    bar b = {what, -1};
    fewstep_model *model;
    CHECK(fewstep_recipe_run(runtime, recipe, initial, teacher, dataset, &options, show_progress, &b, NULL, &model));
    return model;
}

/* DDPM's noise schedule; what the network predicts is as well known at any timestep. */
static const char *const SCHEDULER =
    "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 1000, \"beta_schedule\": \"linear\", \"beta_start\": 0.0001, \"beta_end\": 0.02,"
    " \"prediction_type\": \"v_prediction\", \"clip_sample\": false}";

static fewstep_model *train_teacher(const fewstep_runtime *runtime, const fewstep_dataset *dataset, const fewstep_dataset_info *info, const char *folder,
                                    unsigned width, unsigned steps) {
    char config[1024], classes[64] = "", recipe[512];
    if (info->classes) snprintf(classes, sizeof classes, ", \"num_class_embeds\": %u", (unsigned)info->classes);
    snprintf(config, sizeof config,
             "{\"_class_name\": \"UNet2DModel\", \"sample_size\": %u, \"in_channels\": %u, \"out_channels\": %u, \"layers_per_block\": 2,"
             " \"block_out_channels\": [%u, %u, %u], \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\", \"AttnDownBlock2D\"],"
             " \"up_block_types\": [\"AttnUpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"], \"norm_num_groups\": 8, \"attention_head_dim\": 32%s}",
             (unsigned)info->height, (unsigned)info->channels, (unsigned)info->channels, width, 2 * width, 4 * width, classes);
    fewstep_model *initial;
    CHECK(fewstep_model_create(runtime, config, SCHEDULER, 1, &initial));
    snprintf(recipe, sizeof recipe,
             "{\"stages\": [{\"name\": \"teacher\", \"steps\": %u, \"batch\": 32, \"learning_rate\": 1e-3, \"optimizer\": \"muon\", \"ema_decay\": 0.999,"
             " \"terms\": [{\"objective\": \"denoise\"}]}]}",
             steps);
    fewstep_model *teacher = run(runtime, "teacher", folder, recipe, steps, initial, NULL, dataset);
    CHECK(fewstep_model_destroy(initial));
    return teacher;
}

static fewstep_model *train_student(const fewstep_runtime *runtime, const fewstep_model *teacher, const char *folder, unsigned steps, unsigned grid,
                                    unsigned cache) {
    char what[32];
    snprintf(what, sizeof what, "%u step%s", grid, grid == 1 ? "" : "s");
    fewstep_student_options smaller;
    CHECK(fewstep_student_options_init(&smaller, sizeof smaller));
    smaller.config_patch =
        "{\"block_out_channels\": [16, 32, 32], \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\", \"DownBlock2D\"],"
        " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"], \"add_attention\": false}";
    smaller.prediction = FEWSTEP_PREDICTION_V;
    smaller.seed = 1;
    fewstep_model *initial;
    CHECK(fewstep_model_derive_student(runtime, teacher, &smaller, &initial));
    char recipe[512]; /* fewstep_recipe_text("fast", …) has every field */
    snprintf(recipe, sizeof recipe,
             "{\"stages\": [{\"name\": \"student\", \"steps\": %u, \"grid\": %u, \"teacher_order\": 3, \"cache_size\": %u, \"optimizer\": \"muon\","
             " \"learning_rate\": 2e-3, \"trajectory_clip\": \"none\", \"terms\": [{\"objective\": \"teacher_forced\"}]}]}",
             steps, grid, cache);
    fewstep_model *student = run(runtime, what, folder, recipe, steps, initial, teacher, NULL);
    CHECK(fewstep_model_destroy(initial));
    return student;
}

/* DDIM without clipping, whatever the model's own scheduler says: a student's grid is that of as many steps. */
static fewstep_sampler_options ddim(uint32_t steps) {
    fewstep_sampler_options options;
    CHECK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DDIM;
    options.spacing = FEWSTEP_SPACING_TRAILING;
    options.clip = FEWSTEP_CLIP_NONE;
    options.set_alpha_to_one = 1;
    options.steps = steps;
    options.batch = SHOWN;
    return options;
}

/* Images of the same noises. */
static void sample(const fewstep_runtime *runtime, const fewstep_model *model, uint32_t steps, uint32_t classes, float *images, size_t count) {
    const fewstep_sampler_options options = ddim(steps);
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(runtime, model, &options, &sampler));
    int32_t labels[SHOWN];
    for (int i = 0; i < SHOWN; i++) labels[i] = classes ? i % (int32_t)classes : 0;
    fewstep_conditioning conditioning = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, SHOWN};
    fewstep_begin_options begin;
    CHECK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.seed = 7;
    begin.conditionings = &conditioning;
    begin.conditioning_count = classes != 0;
    CHECK(fewstep_sampler_begin(sampler, &begin));
    CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    CHECK(fewstep_sampler_read(sampler, images, count));
    CHECK(fewstep_sampler_destroy(sampler));
}

/* A row of the picture and of the table. */
typedef struct {
    char name[40];
    const fewstep_model *model;
    uint32_t steps;
} row;

/* Each row's images of the same noises, one below the other. */
static void draw(const fewstep_runtime *runtime, const row *rows, uint32_t count, const fewstep_dataset_info *info, const char *file) {
    const size_t images = (size_t)SHOWN * info->channels * info->height * info->width;
    fewstep_grid_row shown[2 * GRIDS + 1];
    for (uint32_t i = 0; i < count; i++) {
        float *pixels = allocate(images * sizeof *pixels);
        sample(runtime, rows[i].model, rows[i].steps, info->classes, pixels, images);
        shown[i] = (fewstep_grid_row){rows[i].name, pixels, SHOWN};
    }
    CHECK(fewstep_save_image_grid(file, shown, count, sizeof shown[0], info->channels, info->height, info->width, 2));
    for (uint32_t i = 0; i < count; i++) free((void *)shown[i].images);
}

/* The errors against the teacher's 50 steps, and whether images are varied and of their class, beside what half of the data says of the other half. */
static void evaluate(const fewstep_runtime *runtime, const row *rows, uint32_t count, const fewstep_dataset *dataset, unsigned evaluated, const char *file) {
    fewstep_evaluate_options options;
    CHECK(fewstep_evaluate_options_init(&options, sizeof options));
    options.count = evaluated;
    options.seed = 77;
    options.dataset = dataset;
    options.reference_clip = FEWSTEP_CLIP_NONE; /* as the rows are sampled */
    fewstep_evaluate_set sets[2 * GRIDS] = {{0}};
    fewstep_sampler_options samplers[2 * GRIDS];
    for (uint32_t i = 1; i < count; i++) { /* the first row is in every report */
        samplers[i - 1] = ddim(rows[i].steps);
        sets[i - 1] = (fewstep_evaluate_set){.name = rows[i].name, .model = rows[i].model, .sampler = &samplers[i - 1]};
    }
    bar b = {"quality", -1};
    fewstep_quality_report *report;
    CHECK(fewstep_evaluate(runtime, rows[0].model, &options, sets, count - 1, sizeof sets[0], show_progress, &b, &report));
    size_t length;
    CHECK(fewstep_quality_report_text(report, FEWSTEP_REPORT_TEXT, NULL, 0, &length));
    char *text = allocate(length + 1);
    CHECK(fewstep_quality_report_text(report, FEWSTEP_REPORT_TEXT, text, length + 1, &length));
    CHECK(fewstep_quality_report_destroy(report));
    FILE *f = fopen(file, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) {
        perror(file);
        exit(1);
    }
    printf("\n%s", text);
    free(text);
}

/* "4,2,1"; how many, 0 for another text. */
static unsigned read_grids(const char *text, unsigned *grids) {
    unsigned count = 0;
    for (int read; count < GRIDS && sscanf(text, "%u%n", &grids[count], &read) == 1 && grids[count] >= 1 && grids[count] <= 100; text += read + 1) {
        count++;
        if (text[read] == '\0') return count;
        if (text[read] != ',') break;
    }
    return 0;
}

int main(int argc, char **argv) {
    unsigned size = 32, channels = 3, width = 32, teacher_train = 6000, student_train = 6000, cache = 4096, evaluated = 64, count = 3, grids[GRIDS] = {4, 2, 1};
    const struct {
        const char *form;
        unsigned *value, least, most;
    } known[] = {{"size=%u%c", &size, 1, SIDE},
                 {"channels=%u%c", &channels, 1, 3},
                 {"width=%u%c", &width, 8, 512},
                 {"teacher=%u%c", &teacher_train, 1, 10000000},
                 {"student=%u%c", &student_train, 1, 10000000},
                 {"cache=%u%c", &cache, 1, 1000000},
                 {"evaluated=%u%c", &evaluated, 6, 65536}};
    int wrong = argc < 3;
    char rest;
    for (int i = 3; i < argc; i++) {
        int found = strncmp(argv[i], "grids=", 6) == 0 && (count = read_grids(argv[i] + 6, grids)) != 0;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
            found |= sscanf(argv[i], known[k].form, known[k].value, &rest) == 1 && *known[k].value >= known[k].least && *known[k].value <= known[k].most;
        wrong |= !found;
    }
    if (wrong) {
        fprintf(stderr, "usage: %s PICTURES OUT_DIR [size=32] [channels=3] [width=32] [teacher=STEPS] [student=STEPS] [grids=4,2,1] [cache=4096]"
                        " [evaluated=64]\n", argv[0]);
        return 2;
    }
    const char *out = argv[2];
    if (mkdir(out, 0777) != 0 && errno != EEXIST) {
        perror(out);
        return 1;
    }
    signal(SIGINT, stop);
    fewstep_runtime_options runtime_options;
    CHECK(fewstep_runtime_options_init(&runtime_options, sizeof runtime_options));
    fewstep_runtime *runtime;
    CHECK(fewstep_runtime_create(&runtime_options, &runtime));

    fewstep_dataset_info info;
    fewstep_dataset *dataset = open_pictures(runtime, argv[1], size, channels, &info);
    fewstep_model *teacher = train_teacher(runtime, dataset, &info, path(out, "teacher"), width, teacher_train);
    CHECK(fewstep_model_save_file(teacher, path(out, "teacher.safetensors")));
    fewstep_model *students[GRIDS];
    row rows[2 * GRIDS + 1] = {{.model = teacher, .steps = TEACHER_STEPS}};
    snprintf(rows[0].name, sizeof rows[0].name, "teacher, %d steps", TEACHER_STEPS);
    for (unsigned i = 0; i < count; i++) {
        students[i] = train_student(runtime, teacher, student_path(out, grids[i], ""), student_train, grids[i], cache);
        CHECK(fewstep_model_save_file(students[i], student_path(out, grids[i], ".safetensors")));
        const char *form = grids[i] == 1 ? "%s, %u step" : "%s, %u steps";
        for (int own = 0; own < 2; own++) {
            row *r = &rows[1 + 2 * i + own];
            *r = (row){.model = own ? students[i] : teacher, .steps = grids[i]};
            snprintf(r->name, sizeof r->name, form, own ? "student" : "teacher", grids[i]);
        }
    }
    draw(runtime, rows, 2 * count + 1, &info, path(out, "samples.png"));
    evaluate(runtime, rows, 2 * count + 1, dataset, evaluated, path(out, "quality.txt"));
    printf("wrote %s; tensorboard --logdir %s shows all runs\n", path(out, "samples.png"), out);

    for (unsigned i = 0; i < count; i++) CHECK(fewstep_model_destroy(students[i]));
    CHECK(fewstep_model_destroy(teacher));
    CHECK(fewstep_dataset_destroy(dataset));
    CHECK(fewstep_runtime_destroy(runtime));
    return 0;
}
