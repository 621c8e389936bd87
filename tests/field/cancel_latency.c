/* A cancel token is seen within 50 ms of processor time by whatever takes long: planning (which saw none for 35 s), the teacher's evaluations of the
 * trajectory cache (of which a whole one was waited for, 11 s), training steps, random weights. What was cancelled can be done again, to the same bytes. */
// run: plan
// run: prepare_plan
// run: trajectories
// run: sample
// run: train
// run: weights
#include "field.h"

/* The public CIFAR-10 U-Net's shape: 35.7 M parameters. */
static const char *const CIFAR =
    "{\"_class_name\":\"UNet2DModel\",\"sample_size\":32,\"in_channels\":3,\"out_channels\":3,\"layers_per_block\":2,\"block_out_channels\":[128,256,256,256],"
    "\"down_block_types\":[\"DownBlock2D\",\"AttnDownBlock2D\",\"DownBlock2D\",\"DownBlock2D\"],"
    "\"up_block_types\":[\"UpBlock2D\",\"UpBlock2D\",\"AttnUpBlock2D\",\"UpBlock2D\"],\"attention_head_dim\":null,\"norm_num_groups\":32}";
/* What is promised is seen at least once in a few tries. Giving back memory is in it, and processor time is longer where others use the processor too. */
#define LIMIT_SECONDS 0.05
#define SLOWEST_SECONDS 0.3
static double fastest = 1e9;

struct cancel {
    fewstep_cancel_token *token;
    double after, at;
    pthread_t thread;
};

/* Sets the token once the process has used so much processor time more. */
static void *later(void *argument) {
    struct cancel *cancel = argument;
    while (cpu_seconds() < cancel->after) usleep(1000);
    cancel->at = cpu_seconds();
    OK(fewstep_cancel_token_cancel(cancel->token));
    return NULL;
}

static struct cancel *cancel_after(fewstep_cancel_token *token, double seconds) {
    static struct cancel cancel;
    cancel = (struct cancel){.token = token, .after = cpu_seconds() + seconds};
    if (pthread_create(&cancel.thread, NULL, later, &cancel)) exit(3);
    return &cancel;
}

static void must_be_cancelled(struct cancel *cancel, fewstep_status status) {
    const double end = cpu_seconds();
    pthread_join(cancel->thread, NULL);
    printf("%s %.1f ms of processor time after the cancel\n", fewstep_status_name(status), 1e3 * (end - cancel->at));
    if (status != FEWSTEP_STATUS_CANCELLED) FAULT("%s instead of CANCELLED: %s", fewstep_status_name(status), status ? fewstep_last_error() : "");
    if (end - cancel->at > SLOWEST_SECONDS) FAULT("the token was seen after %.0f ms", 1e3 * (end - cancel->at));
    if (end - cancel->at < fastest) fastest = end - cancel->at;
    OK(fewstep_cancel_token_reset(cancel->token));
}

static void plan(fewstep_runtime *runtime, fewstep_cancel_token *token) {
    fewstep_model *model = new_model(runtime, CIFAR, 1);
    fewstep_sampler_options options = ddim_options(16, 1); /* the most steps that are planned one by one */
    options.cancel = token;
    for (int fiftieths = 1; fiftieths <= 4; fiftieths++) {
        fewstep_sampler *sampler = NULL;
        struct cancel *cancel = cancel_after(token, 0.02 * fiftieths);
        must_be_cancelled(cancel, fewstep_sampler_create(runtime, model, &options, &sampler));
    }
    OK(fewstep_model_destroy(model));
}

static void prepare_plan(fewstep_runtime *runtime, fewstep_cancel_token *token) {
    fewstep_model *model = new_model(runtime, TINY_UNCONDITIONAL, 1);
    fewstep_trainer_options options = small_training();
    options.steps = 125;
    options.substeps = 8;
    fewstep_trainer *trainer = NULL;
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    for (int tenths = 1; tenths <= 3; tenths++) {
        struct cancel *cancel = cancel_after(token, 0.1 * tenths);
        must_be_cancelled(cancel, fewstep_trainer_prepare(trainer, NULL, NULL, token));
    }
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_model_destroy(model));
}

static fewstep_trainer *cifar_trainer(fewstep_runtime *runtime, fewstep_model *student, fewstep_model *teacher, uint32_t batch) {
    fewstep_trainer_options options = small_training();
    options.steps = 1;
    options.substeps = 1;
    options.batch = batch;
    options.cache_size = options.cache_batch = batch;
    fewstep_trainer *trainer = NULL;
    OK(fewstep_trainer_create(runtime, student, teacher, NULL, &options, &trainer));
    return trainer;
}

static void trajectories(fewstep_runtime *runtime, fewstep_cancel_token *token) {
    fewstep_model *teacher = new_model(runtime, CIFAR, 1);
    fewstep_student_options derived;
    OK(fewstep_student_options_init(&derived, sizeof derived));
    derived.config_patch =
        "{\"block_out_channels\": [32, 32], \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
        " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"add_attention\": false}";
    fewstep_model *student = NULL;
    OK(fewstep_model_derive_student(runtime, teacher, &derived, &student));
    fewstep_trainer *trainer = cifar_trainer(runtime, student, teacher, 32);
    for (int i = 1; i <= 3; i++) {
        struct cancel *cancel = cancel_after(token, 0.7 * i);
        must_be_cancelled(cancel, fewstep_trainer_prepare(trainer, NULL, NULL, token));
    }
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_model_destroy(student));
    OK(fewstep_model_destroy(teacher));
}

/* Cancelled in the middle of an operation again and again, a run gives the bytes of an undisturbed one. */
static void sample(fewstep_runtime *runtime, fewstep_cancel_token *token) {
    enum { SIZE = 4 * 3 * 32 * 32 };
    static float images[2][SIZE];
    fewstep_model *model = new_model(runtime, CIFAR, 1);
    const fewstep_sampler_options options = ddim_options(2, 4);
    fewstep_sampler *sampler = NULL;
    OK(fewstep_sampler_create(runtime, model, &options, &sampler));
    OK(fewstep_sampler_begin(sampler, NULL));
    OK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    OK(fewstep_sampler_read(sampler, images[0], SIZE));
    OK(fewstep_sampler_begin(sampler, NULL));
    for (int i = 1; i <= 5; i++) {
        struct cancel *cancel = cancel_after(token, 0.02 * i);
        must_be_cancelled(cancel, fewstep_sampler_run(sampler, NULL, NULL, token));
    }
    OK(fewstep_sampler_run(sampler, NULL, NULL, token));
    OK(fewstep_sampler_read(sampler, images[1], SIZE));
    if (memcmp(images[0], images[1], sizeof images[0])) FAULT("a run that was cancelled and went on gives other images");
    OK(fewstep_sampler_destroy(sampler));
    OK(fewstep_model_destroy(model));
}

/* A step that is cancelled changes nothing: the next ones are those of a run that was left alone. */
static void train(fewstep_runtime *runtime, fewstep_cancel_token *token) {
    fewstep_model *model = new_model(runtime, CIFAR, 1);
    fewstep_step_report undisturbed = {.struct_size = sizeof undisturbed}, report = undisturbed;
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        fewstep_trainer *trainer = cifar_trainer(runtime, model, model, 2);
        OK(fewstep_trainer_prepare(trainer, NULL, NULL, NULL));
        for (int i = 1; disturbed && i <= 4; i++) {
            struct cancel *cancel = cancel_after(token, 0.1 * i);
            must_be_cancelled(cancel, fewstep_trainer_train(trainer, 100, NULL, NULL, token));
            fewstep_trainer_info info = {.struct_size = sizeof info};
            OK(fewstep_trainer_get_info(trainer, &info));
            if (info.steps_done > 2) { printf("a step is too short here to be cancelled in it\n"); break; }
            if (info.steps_done > 0) break;
        }
        fewstep_trainer_info info = {.struct_size = sizeof info};
        OK(fewstep_trainer_get_info(trainer, &info));
        for (uint64_t step = info.steps_done; step < 2; step++) OK(fewstep_trainer_step(trainer, disturbed ? &report : &undisturbed));
        OK(fewstep_trainer_destroy(trainer));
    }
    if (report.step == 2 && memcmp(&report, &undisturbed, sizeof report)) FAULT("loss %g after cancelled steps, %g without", report.loss, undisturbed.loss);
    OK(fewstep_model_destroy(model));
}

static void weights(fewstep_cancel_token *token) {
    fewstep_runtime_options options;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.threads = 1;
    options.cancel = token;
    fewstep_runtime *runtime = NULL;
    OK(fewstep_runtime_create(&options, &runtime));
    fewstep_model *model = NULL;
    struct cancel *cancel = cancel_after(token, 0.05);
    must_be_cancelled(cancel, fewstep_model_create(runtime, CIFAR, NULL, 1, &model));
    OK(fewstep_runtime_destroy(runtime));
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_cancel_token *token = NULL;
    OK(fewstep_cancel_token_create(&token));
    if (!strcmp(argv[2], "plan")) plan(runtime, token);
    else if (!strcmp(argv[2], "prepare_plan")) prepare_plan(runtime, token);
    else if (!strcmp(argv[2], "trajectories")) trajectories(runtime, token);
    else if (!strcmp(argv[2], "sample")) sample(runtime, token);
    else if (!strcmp(argv[2], "train")) train(runtime, token);
    else if (!strcmp(argv[2], "weights")) weights(token);
    else return 2;
    if (fastest > LIMIT_SECONDS) FAULT("the token was never seen within %.0f ms", 1e3 * LIMIT_SECONDS);
    OK(fewstep_cancel_token_destroy(token));
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
