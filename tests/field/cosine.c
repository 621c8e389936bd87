// limit: 240
/* A teacher whose noise schedule ends in nearly pure noise (squaredcos_cap_v2, epsilon) and whose scheduler clips, as the diffusion course's networks are.
 * Its trajectories clip too, so that a 2-step student of it is as good as one of any other teacher; where the trainer says that they shall not, the states
 * leave the images' range a thousandfold, and the log says so. */
#include "field.h"

enum { IMAGES = 128, STEPS = 400 };
static const double MOST_RMSE = 0.13; /* against the teacher's 50 steps; other teachers' students have as much. 20.8 where the trajectories did not clip. */

typedef struct {
    int warnings;
    char line[512];
} journal;

static void note(void *user, int32_t level, const char *line) {
    journal *log = user;
    if (level != FEWSTEP_LOG_WARNING) return;
    log->warnings++;
    snprintf(log->line, sizeof log->line, "%s", line);
}

static float *sample(fewstep_runtime *runtime, fewstep_model *model, const fewstep_sampler_options *options, size_t *count) {
    int32_t labels[IMAGES];
    for (int i = 0; i < IMAGES; i++) labels[i] = i % 10;
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, IMAGES};
    fewstep_begin_options begin;
    OK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.seed = 7;
    begin.conditionings = &classes;
    begin.conditioning_count = 1;
    begin.conditioning_stride = sizeof classes;
    *count = IMAGES * 64;
    float *images = malloc(*count * sizeof *images);
    if (!images) exit(3);
    OK(fewstep_sample(runtime, model, options, &begin, images, *count));
    return images;
}

static fewstep_trainer_options options_of(uint32_t cache, uint32_t batch) {
    fewstep_trainer_options options = small_training();
    options.substeps = 8;
    options.cache_size = cache;
    options.cache_batch = 64;
    options.batch = batch;
    options.warmup_steps = 50;
    options.total_steps = STEPS;
    return options;
}

static void student_is_near(fewstep_runtime *runtime, fewstep_model *teacher, fewstep_model *student, const journal *log) {
    fewstep_trainer_options options = options_of(1024, 48);
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, student, teacher, NULL, &options, &trainer));
    OK(fewstep_trainer_train(trainer, STEPS, NULL, NULL, NULL));
    if (log->warnings) FAULT("a warning about trajectories that clip: %s", log->line);
    fewstep_model *trained;
    OK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &trained));
    size_t count;
    fewstep_sampler_options own = ddim_options(50, IMAGES), few = ddim_options(0, IMAGES);
    own.clip = FEWSTEP_CLIP_RANGE;
    few.kind = FEWSTEP_SAMPLER_FROM_MODEL;
    float *reference = sample(runtime, teacher, &own, &count), *found = sample(runtime, trained, &few, &count);
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += pow((double)found[i] - reference[i], 2);
    double rmse = sqrt(sum / (double)count);
    printf("2-step student: RMSE %.3f to the teacher as its scheduler runs it\n", rmse);
    if (!(rmse <= MOST_RMSE)) FAULT("RMSE %g, at most %g", rmse, MOST_RMSE);
    free(reference);
    free(found);
    OK(fewstep_model_destroy(trained));
    OK(fewstep_trainer_destroy(trainer));
}

/* Whichever call makes the trajectories. */
static void far_states_are_a_warning(fewstep_runtime *runtime, fewstep_model *teacher, fewstep_model *student, journal *log) {
    fewstep_trainer_options options = options_of(8, 4);
    options.trajectory_clip = FEWSTEP_CLIP_NONE;
    for (int k = 0; k < 2; k++) {
        fewstep_trainer *trainer;
        OK(fewstep_trainer_create(runtime, student, teacher, NULL, &options, &trainer));
        log->warnings = 0;
        if (k == 0) OK(fewstep_trainer_prepare(trainer, NULL, NULL, NULL));
        for (int i = 0; i < 2; i++) OK(fewstep_trainer_step(trainer, NULL));
        if (log->warnings != 1) FAULT("%d warnings about states that left the images' range, expected one", log->warnings);
        if (!strstr(log->line, "step 1 of") && !strstr(log->line, "step 2 of")) FAULT("the warning names no step: %s", log->line);
        if (!strstr(log->line, "trajectory_clip")) FAULT("the warning names no way out: %s", log->line);
        OK(fewstep_trainer_destroy(trainer));
    }
    printf("%s\n", log->line);
}

int main(int argc, char **argv) {
    (void)argc;
    journal log = {0};
    fewstep_runtime_options options;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.log = note;
    options.log_user = &log;
    fewstep_runtime *runtime;
    OK(fewstep_runtime_create(&options, &runtime));
    fewstep_model *teacher = open_model(runtime, path_in(argv[1], "../../tests/field/data/cosine_teacher")), *student;
    fewstep_student_options same;
    OK(fewstep_student_options_init(&same, sizeof same));
    same.copy_weights = 1;
    same.steps = 2;
    OK(fewstep_model_derive_student(runtime, teacher, &same, &student));
    log.warnings = 0;
    student_is_near(runtime, teacher, student, &log);
    far_states_are_a_warning(runtime, teacher, student, &log);
    return field_result();
}
