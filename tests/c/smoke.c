/* Every function of the header once or more, the failures that a host can cause, and an orderly end: what `make sanitize` runs under
 * AddressSanitizer, UndefinedBehaviorSanitizer and valgrind. Small, because valgrind takes fifty times as long.
 *
 * usage: smoke DATA_DIR OUT_DIR */
#include <fewstep.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 3, CLASSES = 10, IMAGE = 8 * 8 };

static void expect(fewstep_status found, fewstep_status expected, const char *call, int line) {
    if (found == expected) return;
    fprintf(stderr, "line %d: %s: expected %s, found %s: %s\n", line, call, fewstep_status_name(expected), fewstep_status_name(found), fewstep_last_error());
    exit(1);
}
#define OK(call) expect((call), FEWSTEP_STATUS_OK, #call, __LINE__)
#define FAILS(status, call) expect((call), FEWSTEP_STATUS_##status, #call, __LINE__)

static const char *path(const char *dir, const char *name) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", dir, name);
    return buffer;
}

/* A file that the program frees. */
static char *read_file(const char *name, size_t *size) {
    FILE *f = fopen(name, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(name);
        exit(1);
    }
    *size = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*size + 1);
    if (!bytes || fread(bytes, 1, *size, f) != *size) {
        perror(name);
        exit(1);
    }
    fclose(f);
    bytes[*size] = '\0';
    return bytes;
}

static void log_line(void *user, int32_t level, const char *message) {
    (void)level;
    *(size_t *)user += strlen(message);
}

/* Counts the calls and cancels at the limit. */
typedef struct {
    uint64_t calls, limit;
} counter;
static int32_t count(void *user, const fewstep_progress *progress) {
    counter *c = user;
    c->calls += progress->done > 0;
    return c->calls >= c->limit;
}

static fewstep_model *derive(const fewstep_runtime *runtime, const fewstep_model *teacher) {
    fewstep_student_options options;
    OK(fewstep_student_options_init(&options, sizeof options));
    options.prediction = FEWSTEP_PREDICTION_V;
    options.steps = 2;
    fewstep_model *student = NULL;
    static const char *const wrong[] = {"[]", "{\"block_out_chanels\": [16, 32]}", "{\"block_out_channels\": [8, 8, 8]}", "{\"_class_name\": \"UNet2DModel\"}",
                                        "{\"layers_per_block\": 0}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.config_patch = wrong[i];
        FAILS(INVALID_ARGUMENT, fewstep_model_derive_student(runtime, teacher, &options, &student));
    }
    options.config_patch = "{";
    FAILS(CORRUPT_FILE, fewstep_model_derive_student(runtime, teacher, &options, &student));
    static const char text[] =
        "{\"block_out_channels\": [16, 32], \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
        " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"add_attention\": false}";
    char *patch = malloc(sizeof text); /* on the heap: a read beyond it is seen */
    if (!patch) exit(1);
    memcpy(patch, text, sizeof text);
    options.config_patch = patch;
    options.per_step_weights = 7;
    FAILS(INVALID_ARGUMENT, fewstep_model_derive_student(runtime, teacher, &options, &student));
    options.per_step_weights = FEWSTEP_PER_STEP_BIASES_AND_NORMS;
    OK(fewstep_model_derive_student(runtime, teacher, &options, &student));
    fewstep_model_info info = {.struct_size = sizeof info};
    OK(fewstep_model_get_info(student, &info));
    if (info.per_step_weights != FEWSTEP_PER_STEP_BIASES_AND_NORMS) exit(1);
    OK(fewstep_model_destroy(student));
    options.per_step_weights = FEWSTEP_PER_STEP_NONE;
    OK(fewstep_model_derive_student(runtime, teacher, &options, &student));
    free(patch);
    fewstep_step_pair pairs[2];
    size_t pair_count = 0;
    OK(fewstep_model_pairs(student, pairs, 2, &pair_count));
    if (pair_count != 2 || pairs[1].t_next != -1) exit(1);
    return student;
}

static fewstep_dataset *data(const fewstep_runtime *runtime, const char *folder) {
    fewstep_dataset *dataset = NULL;
    OK(fewstep_dataset_open_npz(runtime, path(folder, "digits8.npz"), "images", "labels", 0.125f, -1.0f, &dataset));
    fewstep_dataset_info info = {.struct_size = sizeof info};
    OK(fewstep_dataset_get_info(dataset, &info));
    OK(fewstep_dataset_destroy(dataset));
    FAILS(NOT_FOUND, fewstep_dataset_open_npz(runtime, path(folder, "digits8.npz"), "none", NULL, 1, 0, &dataset));

    /* Five images of the host's own; the library copies them. */
    enum { COUNT = 5 };
    uint8_t *pixels = malloc(COUNT * IMAGE);
    int32_t *labels = malloc(COUNT * sizeof *labels);
    if (!pixels || !labels) exit(1);
    for (int i = 0; i < COUNT * IMAGE; i++) pixels[i] = (uint8_t)(i * 7);
    for (int i = 0; i < COUNT; i++) labels[i] = i;
    fewstep_dataset_options options;
    OK(fewstep_dataset_options_init(&options, sizeof options));
    options.dtype = FEWSTEP_DTYPE_U8;
    options.layout = FEWSTEP_LAYOUT_NCHW;
    options.channels = 1;
    options.height = options.width = 8;
    options.count = COUNT;
    options.data = pixels;
    options.data_size = COUNT * IMAGE;
    options.labels = labels;
    options.label_count = COUNT;
    options.scale = 1.0f / 127.5f;
    options.shift = -1;
    OK(fewstep_dataset_create(runtime, &options, &dataset));
    options.data_size--;
    fewstep_dataset *none = NULL;
    FAILS(SHAPE, fewstep_dataset_create(runtime, &options, &none));
    free(pixels);
    free(labels);
    return dataset;
}

/* A teacher that predicts no noise at all. */
static int32_t predict_nothing(void *user, const fewstep_evaluation *at, float *prediction, size_t count) {
    if (at->x_t_count != count || at->conditioning_count != 1 || at->conditionings[0].count != at->timestep_count) exit(1);
    memset(prediction, 0, count * sizeof *prediction);
    return ++*(int32_t *)user > 6; /* cancels after six calls */
}

/* Steps on trajectories of a file, and of a teacher of this program's. */
static void train_without_teacher(const fewstep_runtime *runtime, const fewstep_model *student, const char *file) {
    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options options;
    OK(fewstep_trainer_options_init(&options, sizeof options));
    options.terms = &term;
    options.term_count = 1;
    options.term_stride = sizeof term;
    options.batch = 4;
    int32_t calls = 0;
    fewstep_trajectories_options own;
    OK(fewstep_trajectories_options_init(&own, sizeof own));
    own.predict = predict_nothing;
    own.user = &calls;
    own.steps = own.substeps = 2;
    own.count = 3;
    fewstep_trajectories *all[2] = {NULL, NULL}, *none = NULL;
    OK(fewstep_trajectories_open(runtime, student, file, &all[0]));
    OK(fewstep_trajectories_create(runtime, student, NULL, &own, NULL, NULL, NULL, &all[1]));
    FAILS(CANCELLED, fewstep_trajectories_create(runtime, student, NULL, &own, NULL, NULL, NULL, &none));
    for (int i = 0; i < 2; i++) {
        fewstep_trajectories_info info = {.struct_size = sizeof info};
        OK(fewstep_trajectories_get_info(all[i], &info));
        if (info.pair_count != 2 || info.substeps != 2 || info.channels != 1) exit(1);
        options.trajectories = all[i];
        fewstep_trainer *trainer = NULL;
        OK(fewstep_trainer_create(runtime, student, NULL, NULL, &options, &trainer));
        OK(fewstep_trajectories_destroy(all[i]));
        OK(fewstep_trainer_step(trainer, NULL));
        OK(fewstep_trainer_destroy(trainer));
    }
}

static int32_t fill(void *user, const fewstep_fill *batch) {
    *(uint64_t *)user += batch->count;
    memset(batch->images, (int)batch->first, batch->images_size);
    for (uint32_t i = 0; i < batch->count; i++) ((int32_t *)batch->conditions[0])[i] = (int32_t)(batch->first + i) % CLASSES;
    return batch->first >= 8;
}

/* Pictures in a folder, arrays in files, and what a callback writes. */
static void other_data(const fewstep_runtime *runtime, const char *out) {
    static float pixels[2 * IMAGE];
    for (int i = 0; i < 2 * IMAGE; i++) pixels[i] = (float)i / (2 * IMAGE);
    const size_t shape[] = {2, 8, 8};
    OK(fewstep_save_npy_f32(path(out, "images.npy"), pixels, shape, 3));
    fewstep_dataset *dataset = NULL;
    OK(fewstep_dataset_open_npy(runtime, path(out, "images.npy"), NULL, 2, -1, &dataset));
    OK(fewstep_dataset_destroy(dataset));
    FAILS(NOT_FOUND, fewstep_dataset_open_npy(runtime, path(out, "nothing.npy"), NULL, 2, -1, &dataset));

    /* The folder has other files too; whether folders lie there is of no interest. */
    const fewstep_grid_row row = {"", pixels, 2};
    OK(fewstep_save_image_grid(path(out, "pictures.png"), &row, 1, sizeof row, 1, 8, 8, 1));
    fewstep_folder_options options;
    OK(fewstep_folder_options_init(&options, sizeof options));
    options.folders = FEWSTEP_FOLDERS_IGNORED;
    options.channels = 1;
    options.height = options.width = 8;
    options.mirror = 1;
    counter files = {0, 1000};
    OK(fewstep_dataset_open_folder(runtime, out, &options, count, &files, &dataset));
    fewstep_dataset_info info = {.struct_size = sizeof info};
    OK(fewstep_dataset_get_info(dataset, &info));
    if (info.count < 2 || info.skipped == 0 || info.skipped_listed != info.skipped || info.class_names != 0 || files.calls == 0) exit(1);
    fewstep_skipped skipped = {.struct_size = sizeof skipped};
    size_t told = 0;
    for (size_t i = 0; i < info.skipped_listed; i++) {
        OK(fewstep_dataset_skipped(dataset, i, &skipped));
        told += strlen(skipped.path) + strlen(skipped.reason);
    }
    const char *name = NULL;
    FAILS(INVALID_ARGUMENT, fewstep_dataset_class_name(dataset, 0, &name));
    FAILS(INVALID_ARGUMENT, fewstep_dataset_skipped(dataset, info.skipped_listed, &skipped));
    OK(fewstep_dataset_destroy(dataset));
    files = (counter){0, 1};
    FAILS(CANCELLED, fewstep_dataset_open_folder(runtime, out, &options, count, &files, &dataset));
    options.folders = 0;
    FAILS(INVALID_ARGUMENT, fewstep_dataset_open_folder(runtime, out, &options, NULL, NULL, &dataset));
    printf("%zu characters about %u files that were left out\n", told, (unsigned)info.skipped_listed);

    const fewstep_condition labels = {.struct_size = sizeof labels, .kind = FEWSTEP_CONDITIONING_CLASS_LABELS, .classes = CLASSES};
    fewstep_fill_options filling;
    OK(fewstep_fill_options_init(&filling, sizeof filling));
    filling.channels = 1;
    filling.height = filling.width = 8;
    filling.count = 7;
    filling.batch = BATCH;
    filling.conditions = &labels;
    filling.condition_count = 1;
    uint64_t filled = 0;
    OK(fewstep_dataset_create_filled(runtime, &filling, fill, &filled, &dataset));
    OK(fewstep_dataset_destroy(dataset));
    if (filled != 7) exit(1);
    filling.count = 12;
    FAILS(CANCELLED, fewstep_dataset_create_filled(runtime, &filling, fill, &filled, &dataset));
    FAILS(INVALID_ARGUMENT, fewstep_dataset_create_filled(runtime, &filling, NULL, &filled, &dataset));
}

/* Both kinds of data: cached trajectories and the host's images. Returns the averaged student. */
static fewstep_model *train(const fewstep_runtime *runtime, const fewstep_model *teacher, const fewstep_model *student, const fewstep_dataset *dataset, const char *out) {
    const fewstep_term terms[] = {
        {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1},
        {.objective = FEWSTEP_OBJECTIVE_ON_POLICY, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_HUBER, .weight = 0.5f, .huber_delta = 0.1f},
        {.objective = FEWSTEP_OBJECTIVE_OUTPUT, .step_weight = FEWSTEP_WEIGHT_V, .norm = FEWSTEP_NORM_L1, .weight = 0.5f},
    };
    const fewstep_feature features[] = {
        {.objective = FEWSTEP_OBJECTIVE_OUTPUT, .norm = FEWSTEP_NORM_L2, .student = "mid_block", .teacher = NULL, .weight = 0.1f},
        {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .norm = FEWSTEP_NORM_L1, .student = "up_blocks.1", .teacher = "up_blocks.1", .weight = 0.1f, .decay_steps = 4},
    };
    fewstep_trainer_options options;
    OK(fewstep_trainer_options_init(&options, sizeof options));
    options.features = features;
    options.feature_count = sizeof features / sizeof features[0];
    options.feature_stride = sizeof features[0];
    options.terms = terms;
    options.term_count = sizeof terms / sizeof terms[0];
    options.term_stride = sizeof terms[0];
    options.steps = 2;
    options.substeps = 2;
    options.cache_size = 8;
    options.cache_batch = 4;
    options.batch = 4;
    options.total_steps = 8;
    options.distribution = FEWSTEP_DISTRIBUTION_RANDOM_NETS;
    options.distribution_nets = 1;
    fewstep_trainer *trainer = NULL;
    FAILS(INVALID_ARGUMENT, fewstep_trainer_create(runtime, student, NULL, dataset, &options, &trainer)); /* these terms need a teacher */
    OK(fewstep_trainer_create(runtime, student, teacher, dataset, &options, &trainer));

    fewstep_cancel_token *token = NULL;
    int32_t cancelled = 0;
    OK(fewstep_cancel_token_create(&token));
    OK(fewstep_cancel_token_cancel(token));
    OK(fewstep_cancel_token_is_cancelled(token, &cancelled));
    FAILS(CANCELLED, fewstep_trainer_prepare(trainer, NULL, NULL, token));
    OK(fewstep_cancel_token_reset(token));
    counter all = {0, UINT64_MAX}, one = {0, 1};
    OK(fewstep_trainer_prepare(trainer, count, &all, token));
    OK(fewstep_cancel_token_destroy(token));

    fewstep_step_report report = {.struct_size = sizeof report};
    for (int i = 0; i < 3; i++) OK(fewstep_trainer_step(trainer, &report));
    OK(fewstep_trainer_evaluate(trainer, 1, &report));
    double target_error = -1;
    FAILS(INVALID_ARGUMENT, fewstep_trainer_target_error(trainer, 0, 4, 1, NULL, &target_error));
    OK(fewstep_trainer_target_error(trainer, 10, 4, 1, NULL, &target_error));
    if (!(target_error > 0)) exit(1);
    float losses[6];
    size_t loss_count = 0;
    FAILS(SHAPE, fewstep_trainer_losses(trainer, losses, 5, &loss_count));
    OK(fewstep_trainer_losses(trainer, losses, 6, &loss_count));
    if (loss_count != 6 || memcmp(losses, report.terms, sizeof report.terms) != 0) exit(1);
    FAILS(CANCELLED, fewstep_trainer_train(trainer, 5, count, &one, NULL));
    fewstep_trainer_info info = {.struct_size = sizeof info};
    OK(fewstep_trainer_get_info(trainer, &info));

    OK(fewstep_trainer_save(trainer, path(out, "smoke.ckpt")));
    OK(fewstep_trainer_resume(trainer, path(out, "smoke.ckpt")));
    OK(fewstep_trainer_resume_with(trainer, path(out, "smoke.ckpt"), FEWSTEP_RESUME_ANY));
    size_t size;
    char *checkpoint = read_file(path(out, "smoke.ckpt"), &size);
    FILE *f = fopen(path(out, "cut.ckpt"), "wb");
    if (!f || fwrite(checkpoint, 1, size / 2, f) != size / 2 || fclose(f) != 0) exit(1);
    free(checkpoint);
    FAILS(CORRUPT_FILE, fewstep_trainer_resume(trainer, path(out, "cut.ckpt")));
    OK(fewstep_trainer_step(trainer, NULL));

    fewstep_model *trained = NULL;
    FAILS(INVALID_ARGUMENT, fewstep_trainer_snapshot(trainer, 99, &trained));
    OK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &trained));
    fewstep_trajectories *trajectories = NULL;
    OK(fewstep_trainer_trajectories(trainer, &trajectories));
    OK(fewstep_trajectories_save(trajectories, path(out, "smoke.trajectories")));
    OK(fewstep_trajectories_destroy(trajectories));
    train_without_teacher(runtime, student, path(out, "smoke.trajectories"));
    OK(fewstep_trainer_destroy(trainer));
    return trained;
}

/* One evaluation of the network, on arrays exactly as large as they must be. */
static void evaluate(const fewstep_runtime *runtime, const fewstep_model *model) {
    fewstep_condition condition = {.struct_size = sizeof condition};
    OK(fewstep_model_condition(model, 0, &condition));
    if (condition.kind != FEWSTEP_CONDITIONING_CLASS_LABELS || condition.classes != CLASSES) exit(1);
    FAILS(INVALID_ARGUMENT, fewstep_model_condition(model, 1, &condition));
    fewstep_evaluator_options options;
    OK(fewstep_evaluator_options_init(&options, sizeof options));
    options.batch = BATCH;
    fewstep_evaluator *evaluator = NULL;
    OK(fewstep_evaluator_create(runtime, model, &options, &evaluator));
    fewstep_evaluator_info info = {.struct_size = sizeof info};
    OK(fewstep_evaluator_get_info(evaluator, &info));
    if (info.out_channels != 1) exit(1);
    float *x_t = calloc(BATCH * IMAGE, sizeof *x_t), *t = calloc(BATCH, sizeof *t), *y = malloc(BATCH * IMAGE * sizeof *y);
    int32_t *labels = calloc(BATCH, sizeof *labels);
    if (!x_t || !t || !y || !labels) exit(1);
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, BATCH};
    fewstep_evaluation at;
    OK(fewstep_evaluation_init(&at, sizeof at));
    at.x_t = x_t;
    at.x_t_count = BATCH * IMAGE;
    at.timesteps = t;
    at.timestep_count = BATCH;
    FAILS(INVALID_ARGUMENT, fewstep_evaluator_run(evaluator, &at, y, BATCH * IMAGE)); /* the labels are missing */
    at.conditionings = &classes;
    at.conditioning_count = 1;
    FAILS(SHAPE, fewstep_evaluator_run(evaluator, &at, y, BATCH * IMAGE - 1));
    OK(fewstep_evaluator_run(evaluator, &at, y, BATCH * IMAGE));
    OK(fewstep_evaluator_destroy(evaluator));
    free(x_t);
    free(t);
    free(y);
    free(labels);
}

static void sample(const fewstep_runtime *runtime, const fewstep_model *model, uint32_t steps, const char *out) {
    evaluate(runtime, model);
    fewstep_sampler_options options;
    OK(fewstep_sampler_options_init(&options, sizeof options));
    options.steps = steps;
    options.batch = BATCH;
    fewstep_sampler *sampler = NULL;
    OK(fewstep_sampler_create(runtime, model, &options, &sampler));
    int32_t done = 0;
    FAILS(STATE, fewstep_sampler_step(sampler, 1000, &done)); /* not begun */

    /* Exactly as large as they must be, so that every overrun is seen. */
    int32_t *labels = malloc(BATCH * sizeof *labels);
    float *images = malloc(BATCH * IMAGE * sizeof *images), *again = malloc(BATCH * IMAGE * sizeof *again);
    if (!labels || !images || !again) exit(1);
    for (int i = 0; i < BATCH; i++) labels[i] = i;
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, BATCH};
    fewstep_begin_options begin;
    OK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.seed = 7;
    FAILS(INVALID_ARGUMENT, fewstep_sampler_begin(sampler, &begin)); /* the labels are missing */
    begin.conditionings = &classes;
    begin.conditioning_count = 1;
    begin.conditioning_stride = sizeof classes;
    labels[0] = CLASSES;
    FAILS(INVALID_ARGUMENT, fewstep_sampler_begin(sampler, &begin));
    labels[0] = 0;
    OK(fewstep_sampler_begin(sampler, &begin));
    while (!done) OK(fewstep_sampler_step(sampler, 200, &done));
    FAILS(SHAPE, fewstep_sampler_read(sampler, images, BATCH * IMAGE - 1));
    OK(fewstep_sampler_read(sampler, images, BATCH * IMAGE));

    /* The same from noise that the host holds. */
    OK(fewstep_sampler_noise(sampler, 7, 0, BATCH, again, BATCH * IMAGE));
    begin.noise = again;
    begin.noise_count = BATCH * IMAGE;
    counter all = {0, UINT64_MAX};
    OK(fewstep_sampler_begin(sampler, &begin));
    OK(fewstep_sampler_run(sampler, count, &all, NULL));
    OK(fewstep_sampler_read(sampler, again, BATCH * IMAGE));
    if (memcmp(images, again, BATCH * IMAGE * sizeof *images) != 0) exit(1);
    begin.noise = NULL;
    begin.noise_count = 0;
    OK(fewstep_sample(runtime, model, &options, &begin, again, BATCH * IMAGE));
    if (memcmp(images, again, BATCH * IMAGE * sizeof *images) != 0) exit(1);
    fewstep_sampler_info info = {.struct_size = sizeof info};
    OK(fewstep_sampler_get_info(sampler, &info));
    OK(fewstep_sampler_destroy(sampler));

    options.kind = FEWSTEP_SAMPLER_DPM_SOLVER_PP;
    options.batch = 0;
    FAILS(INVALID_ARGUMENT, fewstep_sampler_create(runtime, model, &options, &sampler));

    const size_t shape[] = {BATCH, 1, 8, 8};
    OK(fewstep_save_npy_f32(path(out, "images.npy"), images, shape, 4));
    OK(fewstep_save_npy_i32(path(out, "labels.npy"), labels, shape, 1));
    const fewstep_grid_row row = {"samples", images, BATCH};
    OK(fewstep_save_image_grid(path(out, "samples.png"), &row, 1, sizeof row, 1, 8, 8, 4));
    FAILS(NOT_FOUND, fewstep_save_npy_f32(path(out, "no/such/folder.npy"), images, shape, 4));
    free(labels);
    free(images);
    free(again);
}

/* The student's whole run as an ONNX file, and in memory. */
static void as_onnx(const fewstep_model *student, const char *out) {
    fewstep_onnx_options options;
    OK(fewstep_onnx_options_init(&options, sizeof options));
    OK(fewstep_model_export_onnx(student, &options, path(out, "student.onnx")));
    size_t length = 0;
    OK(fewstep_model_export_onnx_to_buffer(student, &options, NULL, 0, &length));
    unsigned char *bytes = malloc(length);
    if (!bytes) exit(1);
    FAILS(SHAPE, fewstep_model_export_onnx_to_buffer(student, &options, bytes, length - 1, &length));
    OK(fewstep_model_export_onnx_to_buffer(student, &options, bytes, length, &length));
    free(bytes);
}

/* A recipe of the library's, cut short, which is cancelled once and goes on. */
static void by_recipe(const fewstep_runtime *runtime, const fewstep_model *student, const fewstep_model *teacher, const char *out) {
    size_t length = 0;
    OK(fewstep_recipe_text("fast", 2, NULL, 0, &length));
    char *recipe = malloc(length + 1);
    if (!recipe) exit(1);
    FAILS(SHAPE, fewstep_recipe_text("fast", 2, recipe, length, &length));
    OK(fewstep_recipe_text("fast", 2, recipe, length + 1, &length));
    const char *cut[] = {"\"steps\": 4000", "\"steps\":    4", "\"cache_size\": 12288", "\"cache_size\":     4", "\"batch\": 64", "\"batch\":  2"};
    for (int i = 0; i < 6; i += 2) {
        char *at = strstr(recipe, cut[i]);
        if (!at) exit(1);
        memcpy(at, cut[i + 1], strlen(cut[i + 1]));
    }
    fewstep_recipe_options options;
    OK(fewstep_recipe_options_init(&options, sizeof options));
    options.held_out = 2;
    options.folder = path(out, "run");
    counter all = {0, UINT64_MAX}, some = {0, 3};
    fewstep_model *trained = NULL;
    FAILS(INVALID_ARGUMENT, fewstep_recipe_run(runtime, "{}", student, teacher, NULL, &options, NULL, NULL, NULL, &trained));
    FAILS(CANCELLED, fewstep_recipe_run(runtime, recipe, student, teacher, NULL, &options, count, &some, NULL, &trained));
    OK(fewstep_recipe_run(runtime, recipe, student, teacher, NULL, &options, count, &all, NULL, &trained));
    OK(fewstep_model_destroy(trained));
    free(recipe);
}

/* As few images as an evaluation takes, and a report in a buffer of just its size. */
static void compare(const fewstep_runtime *runtime, const fewstep_model *teacher, const fewstep_model *student) {
    enum { COUNT = 6 };
    fewstep_evaluate_options options;
    OK(fewstep_evaluate_options_init(&options, sizeof options));
    options.count = options.batch = COUNT;
    options.reference_steps = 2;
    float *images = calloc(COUNT * IMAGE, sizeof *images);
    if (!images) exit(1);
    const fewstep_evaluate_set sets[] = {
        {.name = "student", .model = student},
        {.name = "grey", .images = images, .image_count = COUNT * IMAGE},
    };
    counter all = {0, UINT64_MAX}, one = {0, 1};
    fewstep_quality_report *report = NULL;
    FAILS(CANCELLED, fewstep_evaluate(runtime, teacher, &options, sets, 2, sizeof sets[0], count, &one, &report));
    OK(fewstep_evaluate(runtime, teacher, &options, sets, 2, sizeof sets[0], count, &all, &report));
    free(images);
    fewstep_quality_report_info info = {.struct_size = sizeof info};
    OK(fewstep_quality_report_get_info(report, &info));
    if (info.rows != 5 || info.against != FEWSTEP_AGAINST_TEACHER) exit(1);
    fewstep_quality row = {.struct_size = sizeof row};
    FAILS(INVALID_ARGUMENT, fewstep_quality_report_row(report, info.rows, &row));
    OK(fewstep_quality_report_row(report, 3, &row));
    if (row.kind != FEWSTEP_QUALITY_SET || strcmp(row.name, "student") != 0 || row.step_count != 2 || !(row.step_errors[1] > 0)) exit(1);
    size_t length = 0;
    OK(fewstep_quality_report_text(report, FEWSTEP_REPORT_TEXT, NULL, 0, &length));
    char *text = malloc(length + 1);
    if (!text) exit(1);
    FAILS(SHAPE, fewstep_quality_report_text(report, FEWSTEP_REPORT_TEXT, text, length, &length));
    OK(fewstep_quality_report_text(report, FEWSTEP_REPORT_TEXT, text, length + 1, &length));
    if (strlen(text) != length) exit(1);
    fputs(text, stdout);
    free(text);
    OK(fewstep_quality_report_destroy(report));
}

/* The first student that fits, made as its row says; and one that was trained. */
static void search(const fewstep_runtime *runtime, const fewstep_model *teacher, const fewstep_model *trained) {
    fewstep_student_search_options options;
    OK(fewstep_student_search_options_init(&options, sizeof options));
    options.rows = options.repeats = 1;
    options.max_parameters = 100000;
    counter all = {0, UINT64_MAX}, one = {0, 1};
    fewstep_student_table *table = NULL;
    FAILS(CANCELLED, fewstep_student_search(runtime, teacher, &options, count, &one, &table));
    OK(fewstep_student_search(runtime, teacher, &options, count, &all, &table));
    fewstep_student_table_info info = {.struct_size = sizeof info};
    OK(fewstep_student_table_get_info(table, &info));
    if (info.rows != 2 || info.measured != 1) exit(1);
    fewstep_student_cost row = {.struct_size = sizeof row}, own = {.struct_size = sizeof own};
    FAILS(INVALID_ARGUMENT, fewstep_student_table_row(table, info.rows, &row));
    OK(fewstep_student_table_row(table, 1, &row));
    if (row.parameters > options.max_parameters || row.weight_bytes != 4 * row.parameters || !(row.ms > 0)) exit(1);
    fewstep_student_options derived;
    OK(fewstep_student_options_init(&derived, sizeof derived));
    derived.config_patch = row.config_patch;
    derived.copy_weights = FEWSTEP_COPY_CHANNELS;
    fewstep_model *student = NULL;
    OK(fewstep_model_derive_student(runtime, teacher, &derived, &student));
    OK(fewstep_student_table_destroy(table));
    OK(fewstep_student_measure(runtime, teacher, student, &options, &own));
    if (own.parameters != row.parameters || own.flops != row.flops || own.config_patch) exit(1);
    OK(fewstep_model_destroy(student));
    OK(fewstep_student_measure(runtime, teacher, trained, NULL, &own));
}

/* Models from memory, whole and damaged. */
static void open_memory(const fewstep_runtime *runtime, const char *out) {
    size_t config_size, weights_size;
    char *config = read_file(path(out, "student/unet/config.json"), &config_size);
    char *weights = read_file(path(out, "student/unet/diffusion_pytorch_model.safetensors"), &weights_size);
    fewstep_model *model = NULL;
    OK(fewstep_model_open_memory(runtime, config, NULL, weights, weights_size, &model));
    OK(fewstep_model_destroy(model));
    /* A buffer of the damaged size itself: the library must not look beyond it. */
    for (size_t size = 0; size < weights_size; size = 3 * size + 5) {
        char *cut = malloc(size + 1);
        if (!cut) exit(1);
        memcpy(cut, weights, size);
        FAILS(CORRUPT_FILE, fewstep_model_open_memory(runtime, config, NULL, cut, size, &model));
        free(cut);
    }
    config[config_size / 2] = '\x01';
    FAILS(CORRUPT_FILE, fewstep_model_open_memory(runtime, config, NULL, weights, weights_size, &model));
    FAILS(CORRUPT_FILE, fewstep_model_create(runtime, "{", NULL, 1, &model));
    free(config);
    free(weights);
}

/* Whatever devices this machine has: asking for them must not fail because there are none. */
static void devices(const fewstep_runtime *runtime) {
    fewstep_device_info *info = malloc(sizeof *info); /* on the heap: an overrun is seen */
    uint32_t count = 0;
    if (!info) exit(1);
    info->struct_size = sizeof *info;
    OK(fewstep_device_count(FEWSTEP_DEVICE_CPU, &count));
    if (count != 1) exit(1);
    for (int32_t device = FEWSTEP_DEVICE_CPU; device <= FEWSTEP_DEVICE_CUDA; device++) {
        OK(fewstep_device_count(device, &count));
        for (uint32_t i = 0; i < count; i++) {
            OK(fewstep_device_get_info(device, (int32_t)i, info));
            printf("device %d.%u: %s%s\n", (int)device, (unsigned)i, info->name, info->usable ? "" : " (not usable)");
        }
        if (fewstep_device_get_info(device, (int32_t)count, info) == FEWSTEP_STATUS_OK) exit(1);
        printf("%s\n", fewstep_last_error());
    }
    FAILS(INVALID_ARGUMENT, fewstep_device_count(FEWSTEP_DEVICE_CPU, NULL));
    FAILS(INVALID_ARGUMENT, fewstep_device_count(77, &count));
    FAILS(INVALID_ARGUMENT, fewstep_device_get_info(FEWSTEP_DEVICE_CUDA, -1, info));
    info->struct_size = 8;
    FAILS(INVALID_ARGUMENT, fewstep_device_get_info(FEWSTEP_DEVICE_CPU, 0, info));
    free(info);
    fewstep_runtime_info of_runtime = {.struct_size = sizeof of_runtime};
    OK(fewstep_runtime_get_info(runtime, &of_runtime));
    if (of_runtime.threads != 2 || of_runtime.device != FEWSTEP_DEVICE_CPU) exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s DATA_DIR OUT_DIR\n", argv[0]);
        return 2;
    }
    const char *out = argv[2];
    size_t logged = 0;
    fewstep_runtime_options options;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.threads = 2;
    options.log = log_line;
    options.log_user = &logged;
    options.log_level = FEWSTEP_LOG_INFO;
    fewstep_runtime *runtime = NULL;
    FAILS(INVALID_ARGUMENT, fewstep_runtime_create(&options, NULL));
    OK(fewstep_runtime_create(&options, &runtime));
    printf("fewstep %s (%u)\n", fewstep_version_string(), (unsigned)fewstep_version());
    devices(runtime);

    fewstep_model *teacher = NULL;
    FAILS(NOT_FOUND, fewstep_model_open(runtime, path(out, "nothing"), &teacher));
    FAILS(INVALID_ARGUMENT, fewstep_model_open(runtime, NULL, &teacher));
    OK(fewstep_model_open(runtime, path(argv[1], "digits_teacher"), &teacher));
    fewstep_model_info info = {.struct_size = sizeof info};
    OK(fewstep_model_get_info(teacher, &info));
    if (info.in_channels * info.height * info.width != IMAGE || info.classes != CLASSES) return 1;

    fewstep_model *student = derive(runtime, teacher);
    fewstep_dataset *dataset = data(runtime, argv[1]);
    other_data(runtime, out);
    fewstep_model *trained = train(runtime, teacher, student, dataset, out);
    OK(fewstep_model_save(trained, path(out, "student")));
    fewstep_model *plain = NULL;
    FAILS(NOT_FOUND, fewstep_model_open_variant(runtime, path(out, "student"), "fp16", &plain));
    FAILS(INVALID_ARGUMENT, fewstep_model_open_variant(runtime, path(out, "student"), "../fp16", &plain));
    OK(fewstep_model_open_variant(runtime, path(out, "student"), "", &plain));
    OK(fewstep_model_destroy(plain));
    sample(runtime, teacher, 3, out);
    sample(runtime, trained, 0, out); /* its own grid */
    compare(runtime, teacher, trained);
    as_onnx(student, out);
    by_recipe(runtime, student, teacher, out);
    search(runtime, teacher, trained);
    open_memory(runtime, out);

    /* Parents first: children keep them alive. */
    OK(fewstep_runtime_destroy(runtime));
    OK(fewstep_dataset_destroy(dataset));
    OK(fewstep_model_destroy(student));
    OK(fewstep_model_destroy(trained));
    OK(fewstep_model_destroy(teacher));
    OK(fewstep_model_destroy(NULL)); /* as free(NULL) */
    printf("all as expected, %zu characters logged\n", logged);
    return 0;
}
