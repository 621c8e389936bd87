/* The library is called from threads with small stacks (fibres, audio threads, musl's threads of 128 KiB): 64 KiB suffice for every function. Each is
 * called on a painted stack of that size, above a page that may not be touched; how deep the paint is gone is how deep it went. */
// run: portable
// run: avx2
// run: avx512
#include "field.h"
#include <sys/mman.h>

enum { STACK = 64 << 10, MOST = 48 << 10, PAINT = 0xa5, BATCH = 3, IMAGE = 64 };

static const char *data;
static fewstep_runtime *runtime;
static fewstep_model *teacher, *tiny, *student, *model;
static fewstep_dataset *dataset;
static fewstep_trainer *trainer;
static fewstep_sampler *sampler;
static float pixels[BATCH * IMAGE];

static int32_t go_on(void *user, const fewstep_progress *progress) {
    (void)user, (void)progress;
    return 0;
}

static void create_runtime(void) {
    uint32_t devices = 0;
    fewstep_device_info device = {.struct_size = sizeof device};
    fewstep_runtime_info info = {.struct_size = sizeof info};
    OK(fewstep_device_count(FEWSTEP_DEVICE_CPU, &devices));
    OK(fewstep_device_get_info(FEWSTEP_DEVICE_CPU, 0, &device));
    runtime = new_runtime(1); /* all chunks run on the calling thread */
    OK(fewstep_runtime_get_info(runtime, &info));
    fewstep_device_count(FEWSTEP_DEVICE_CUDA, &devices);
}

static void create_workers(void) { OK(fewstep_runtime_destroy(new_runtime(4))); }

static void use_token(void) {
    fewstep_cancel_token *token = NULL;
    int32_t set = 0;
    OK(fewstep_cancel_token_create(&token));
    OK(fewstep_cancel_token_cancel(token));
    OK(fewstep_cancel_token_is_cancelled(token, &set));
    OK(fewstep_cancel_token_reset(token));
    OK(fewstep_cancel_token_destroy(token));
}

static void open_teacher(void) { teacher = open_model(runtime, TEACHER(data)); }

static void create_model(void) { tiny = new_model(runtime, TINY, 1); }

static void derive_student(void) {
    fewstep_student_options options;
    fewstep_step_pair pairs[4];
    fewstep_model_info info = {.struct_size = sizeof info};
    size_t count;
    OK(fewstep_student_options_init(&options, sizeof options));
    options.steps = 2;
    OK(fewstep_model_derive_student(runtime, teacher, &options, &student));
    OK(fewstep_model_get_info(student, &info));
    OK(fewstep_model_pairs(student, pairs, 4, &count));
}

static void save_model(void) { OK(fewstep_model_save(student, "student")); }

static void save_model_file(void) { OK(fewstep_model_save_file(student, "student.safetensors")); }

static void open_saved(void) {
    OK(fewstep_model_destroy(open_model(runtime, "student")));
    OK(fewstep_model_destroy(open_model(runtime, "student.safetensors")));
}

static void open_buffer(void) {
    size_t size;
    char *bytes = read_file("student.safetensors", &size);
    OK(fewstep_model_open_buffer(runtime, bytes, size, &model));
    OK(fewstep_model_destroy(model));
    free(bytes);
}

static void open_memory(void) {
    size_t size, config_size;
    char *weights = read_file(path_in(TEACHER(data), "unet/diffusion_pytorch_model.safetensors"), &size);
    char *config = read_file(path_in(TEACHER(data), "unet/config.json"), &config_size);
    OK(fewstep_model_open_memory(runtime, config, NULL, weights, size, &model));
    OK(fewstep_model_destroy(model));
    free(weights);
    free(config);
}

static void open_nothing(void) {
    REFUSED(fewstep_model_open(runtime, "/nowhere/at/all", &model), FEWSTEP_STATUS_NOT_FOUND, "/nowhere");
    REFUSED(fewstep_model_create(runtime, "{\"_class_name\":", NULL, 1, &model), FEWSTEP_STATUS_CORRUPT_FILE, "");
    write_file("junk.safetensors", "no header of a model", 20);
    REFUSED(fewstep_model_open(runtime, "junk.safetensors", &model), FEWSTEP_STATUS_CORRUPT_FILE, "junk");
}

/* As deep as a file may be made for the purpose. */
static void open_deep_json(void) {
    enum { DEEP = 4000 };
    char *config = malloc(6 * DEEP + 2 + DEEP), *at = config;
    if (!config) exit(3);
    for (int i = 0; i < DEEP; i++) at += sprintf(at, "{\"a\":");
    *at++ = '0';
    memset(at, '}', DEEP);
    at[DEEP] = 0;
    REFUSED(fewstep_model_create(runtime, config, NULL, 1, &model), FEWSTEP_STATUS_CORRUPT_FILE, "");
    strcpy(config + 6 * 100, "0");
    memset(config + 6 * 100 + 1, '}', 100);
    config[6 * 100 + 101] = 0;
    if (fewstep_model_create(runtime, config, NULL, 1, &model) == FEWSTEP_STATUS_OK) FAULT("a model of nothing but depth");
    free(config);
}

static void open_npz(void) {
    fewstep_dataset_info info = {.struct_size = sizeof info};
    OK(fewstep_dataset_open_npz(runtime, DIGITS(data), "images", "labels", 0.125f, -1, &dataset));
    OK(fewstep_dataset_get_info(dataset, &info));
}

static void create_dataset(void) {
    static const uint8_t bytes[4 * IMAGE];
    fewstep_dataset_options options;
    fewstep_dataset *mine;
    OK(fewstep_dataset_options_init(&options, sizeof options));
    options.channels = 1;
    options.height = options.width = 8;
    options.count = 4;
    options.data = bytes;
    options.data_size = sizeof bytes;
    OK(fewstep_dataset_create(runtime, &options, &mine));
    OK(fewstep_dataset_destroy(mine));
}

static void create_trainer(void) {
    static const fewstep_term terms[] = {
        {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1},
        {.objective = FEWSTEP_OBJECTIVE_ON_POLICY, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_HUBER, .weight = 0.5f, .huber_delta = 0.1f},
        {.objective = FEWSTEP_OBJECTIVE_RESOLVE, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 0.5f},
        {.objective = FEWSTEP_OBJECTIVE_ROLLOUT, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 0.5f},
        {.objective = FEWSTEP_OBJECTIVE_OUTPUT, .step_weight = FEWSTEP_WEIGHT_V, .norm = FEWSTEP_NORM_L1, .weight = 0.5f},
        {.objective = FEWSTEP_OBJECTIVE_DENOISE, .step_weight = FEWSTEP_WEIGHT_V, .norm = FEWSTEP_NORM_L2, .weight = 0.5f},
    };
    fewstep_trainer_options options = small_training();
    fewstep_trainer_info info = {.struct_size = sizeof info};
    options.terms = terms;
    options.term_count = sizeof terms / sizeof terms[0];
    OK(fewstep_trainer_create(runtime, student, teacher, dataset, &options, &trainer));
    OK(fewstep_trainer_get_info(trainer, &info));
}

static void prepare(void) { OK(fewstep_trainer_prepare(trainer, go_on, NULL, NULL)); }

static void train_one_step(void) {
    fewstep_step_report report = {.struct_size = sizeof report};
    OK(fewstep_trainer_step(trainer, &report));
}

static void train(void) { OK(fewstep_trainer_train(trainer, 2, go_on, NULL, NULL)); }

static void evaluate(void) {
    fewstep_step_report report = {.struct_size = sizeof report};
    OK(fewstep_trainer_evaluate(trainer, 1, &report));
}

static void save_trainer(void) { OK(fewstep_trainer_save(trainer, "checkpoint")); }

static void resume(void) { OK(fewstep_trainer_resume(trainer, "checkpoint")); }

static void snapshot(void) {
    OK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &model));
    OK(fewstep_model_destroy(model));
}

static void create_sampler(void) {
    fewstep_sampler_options options = ddim_options(4, BATCH);
    fewstep_sampler_info info = {.struct_size = sizeof info};
    options.clip = FEWSTEP_CLIP_DYNAMIC;
    OK(fewstep_sampler_create(runtime, teacher, &options, &sampler));
    OK(fewstep_sampler_get_info(sampler, &info));
}

static void begin_sampling(fewstep_begin_options *options) {
    static const int32_t labels[BATCH];
    static const fewstep_conditioning condition = {.kind = FEWSTEP_CONDITIONING_CLASS_LABELS, .data = labels, .count = BATCH};
    OK(fewstep_begin_options_init(options, sizeof *options));
    options->conditionings = &condition;
    options->conditioning_count = 1;
    options->conditioning_stride = sizeof condition;
}

static void begin(void) {
    fewstep_begin_options options;
    begin_sampling(&options);
    OK(fewstep_sampler_begin(sampler, &options));
}

static void step(void) {
    int32_t done;
    OK(fewstep_sampler_step(sampler, 0, &done));
}

static void run(void) { OK(fewstep_sampler_run(sampler, go_on, NULL, NULL)); }

static void read_images(void) {
    OK(fewstep_sampler_read(sampler, pixels, BATCH * IMAGE));
    float noise[IMAGE];
    OK(fewstep_sampler_noise(sampler, 1, 0, 1, noise, IMAGE));
}

static void sample_dpm(void) {
    fewstep_sampler_options options;
    fewstep_begin_options start;
    begin_sampling(&start);
    OK(fewstep_sampler_options_init(&options, sizeof options));
    options.kind = FEWSTEP_SAMPLER_DPM_SOLVER_PP;
    options.steps = 6;
    options.batch = BATCH;
    options.algorithm = FEWSTEP_ALGORITHM_SDE_DPM_SOLVER_PP;
    for (int32_t sigmas = FEWSTEP_SIGMAS_SCHEDULE; sigmas <= FEWSTEP_SIGMAS_LU; sigmas++) {
        options.sigmas = sigmas;
        OK(fewstep_sample(runtime, teacher, &options, &start, pixels, BATCH * IMAGE));
    }
}

static void save_npy(void) {
    const size_t shape[] = {BATCH, 8, 8};
    const int32_t labels[BATCH] = {0};
    OK(fewstep_save_npy_f32("images.npy", pixels, shape, 3));
    OK(fewstep_save_npy_i32("labels.npy", labels, shape, 1));
}

static void save_image_grid(void) {
    const fewstep_grid_row row = {"a label", pixels, BATCH};
    OK(fewstep_save_image_grid("grid.png", &row, 1, sizeof row, 1, 8, 8, 4));
}

static void destroy_all(void) {
    OK(fewstep_sampler_destroy(sampler));
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_dataset_destroy(dataset));
    OK(fewstep_model_destroy(student));
    OK(fewstep_model_destroy(tiny));
    OK(fewstep_model_destroy(teacher));
    OK(fewstep_runtime_destroy(runtime));
}

typedef struct {
    const char *name;
    void (*work)(void);
} call;

static void open_folder(void) {
    fewstep_folder_options options;
    fewstep_dataset *mine;
    OK(fewstep_folder_options_init(&options, sizeof options));
    options.folders = FEWSTEP_FOLDERS_IGNORED; /* where grid.png lies, beside models */
    options.height = options.width = 8;
    OK(fewstep_dataset_open_folder(runtime, ".", &options, go_on, NULL, &mine));
    OK(fewstep_dataset_destroy(mine));
}

#define CALL(name) {#name, name}
static const call CALLS[] = {
    CALL(create_runtime), CALL(create_workers), CALL(use_token), CALL(open_teacher), CALL(create_model), CALL(derive_student), CALL(save_model),
    CALL(save_model_file), CALL(open_saved), CALL(open_buffer), CALL(open_memory), CALL(open_nothing), CALL(open_deep_json), CALL(open_npz), CALL(create_dataset),
    CALL(create_trainer), CALL(prepare), CALL(train_one_step), CALL(train), CALL(evaluate), CALL(save_trainer), CALL(resume), CALL(snapshot),
    CALL(create_sampler), CALL(begin), CALL(step), CALL(run), CALL(read_images), CALL(sample_dpm), CALL(save_npy), CALL(save_image_grid), CALL(open_folder),
    CALL(destroy_all),
};

static void *start(void *call_) {
    ((const call *)call_)->work();
    return NULL;
}

/* Bytes of stack that a thread used, what the C library takes of it included. */
static size_t depth(const call *call) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *guard = mmap(NULL, page + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *stack = guard + page;
    pthread_attr_t attributes;
    pthread_t thread;
    size_t untouched = 0;
    if (guard == MAP_FAILED || mprotect(guard, page, PROT_NONE)) exit(3);
    memset(stack, PAINT, STACK);
    if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, STACK)) exit(3);
    if (pthread_create(&thread, &attributes, start, (void *)call) || pthread_join(thread, NULL)) exit(3);
    while (untouched < STACK && stack[untouched] == PAINT) untouched++;
    munmap(guard, page + STACK);
    return STACK - untouched;
}

int main(int argc, char **argv) {
    if (argc < 3 || setenv("FEWSTEP_ISA", argv[2], 1)) return 3;
    data = argv[1];
    for (size_t i = 0; i < sizeof CALLS / sizeof CALLS[0]; i++) {
        fprintf(stderr, "%s: ", CALLS[i].name); /* the last name before a crash is the culprit's */
        size_t used = depth(&CALLS[i]);
        fprintf(stderr, "%zu bytes\n", used);
        if (used > MOST) FAULT("%s uses %zu bytes of its caller's stack; %d of %d are to suffice, so that it stays", CALLS[i].name, used, MOST, STACK);
    }
    return field_result();
}
