/* Going on with another total_steps, rate or batch: refused unless it is asked for; then steps and all of AdamW's state are kept. */
#include "field.h"

static fewstep_trainer *new_trainer(fewstep_runtime *runtime, fewstep_model *model, const fewstep_trainer_options *options) {
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, model, model, NULL, options, &trainer));
    return trainer;
}

/* Of a checkpoint's tensors, which is all but its header. */
static uint64_t tensors_hash(fewstep_trainer *trainer) {
    size_t size;
    uint64_t header;
    OK(fewstep_trainer_save(trainer, "again"));
    char *bytes = read_file("again", &size);
    memcpy(&header, bytes, 8);
    uint64_t hash = bytes_hash(bytes + 8 + header, size - 8 - header);
    free(bytes);
    return hash;
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(2);
    fewstep_model *model = new_model(runtime, TINY, 1);
    fewstep_trainer_options options = small_training();
    fewstep_trainer *first = new_trainer(runtime, model, &options);
    OK(fewstep_trainer_train(first, 5, NULL, NULL, NULL));
    OK(fewstep_trainer_save(first, "run"));
    uint64_t expected = tensors_hash(first);

    options.total_steps = 5000;
    options.learning_rate = 5e-4;
    options.batch = 6;
    fewstep_trainer *other = new_trainer(runtime, model, &options);
    uint64_t fresh = tensors_hash(other);
    REFUSED(fewstep_trainer_resume(other, "run"), FEWSTEP_STATUS_INVALID_ARGUMENT, "fewstep_trainer_resume_with");
    REFUSED(fewstep_trainer_resume_with(other, "run", FEWSTEP_RESUME_BATCH), FEWSTEP_STATUS_INVALID_ARGUMENT, "FEWSTEP_RESUME_SCHEDULE");
    REFUSED(fewstep_trainer_resume_with(other, "run", FEWSTEP_RESUME_SCHEDULE), FEWSTEP_STATUS_INVALID_ARGUMENT, "FEWSTEP_RESUME_BATCH");
    REFUSED(fewstep_trainer_resume_with(other, "run", 1u << 31), FEWSTEP_STATUS_INVALID_ARGUMENT, "changes");
    if (tensors_hash(other) != fresh) FAULT("a refusal changed the trainer");

    OK(fewstep_trainer_resume_with(other, "run", FEWSTEP_RESUME_SCHEDULE | FEWSTEP_RESUME_BATCH));
    if (tensors_hash(other) != expected) FAULT("weights, moments or averages are not the checkpoint's");
    fewstep_step_report report = {.struct_size = sizeof report};
    OK(fewstep_trainer_step(other, &report));
    if (report.step != 6) FAULT("the next step is %llu, expected 6", (unsigned long long)report.step);
    double rate = 5e-4 * 0.5 * (1 + cos(acos(-1) * 5 / 5000));
    if (fabs(report.learning_rate - rate) > 1e-6 * rate) FAULT("the learning rate is %g, expected the new cosine's %g", (double)report.learning_rate, rate);

    /* What it saves has the new options. */
    OK(fewstep_trainer_save(other, "longer"));
    OK(fewstep_trainer_resume(other, "longer"));
    REFUSED(fewstep_trainer_resume(first, "longer"), FEWSTEP_STATUS_INVALID_ARGUMENT, "batch is 4; the checkpoint was made with 6");

    /* Everything may change but the student itself. */
    options = small_training();
    options.seed = 9;
    options.steps = 4;
    options.substeps = 3;
    options.clip_norm = 2;
    options.ema_decay = 0.9;
    fewstep_trainer *all = new_trainer(runtime, model, &options);
    REFUSED(fewstep_trainer_resume_with(all, "run", FEWSTEP_RESUME_ANY & ~FEWSTEP_RESUME_SEED), FEWSTEP_STATUS_INVALID_ARGUMENT, "seed");
    OK(fewstep_trainer_resume_with(all, "run", FEWSTEP_RESUME_ANY));
    if (tensors_hash(all) != expected) FAULT("weights, moments or averages are not the checkpoint's");
    OK(fewstep_trainer_step(all, &report));
    if (report.step != 6) FAULT("the next step is %llu, expected 6", (unsigned long long)report.step);
    options = small_training();
    fewstep_model *without_classes = new_model(runtime, TINY_UNCONDITIONAL, 1);
    fewstep_trainer *another = new_trainer(runtime, without_classes, &options);
    REFUSED(fewstep_trainer_resume_with(another, "run", FEWSTEP_RESUME_ANY), FEWSTEP_STATUS_INVALID_ARGUMENT, "architecture");
    fewstep_model *cosine;
    OK(fewstep_model_create(runtime, TINY, "{\"_class_name\":\"DDIMScheduler\",\"beta_schedule\":\"squaredcos_cap_v2\"}", 1, &cosine));
    another = new_trainer(runtime, cosine, &options);
    REFUSED(fewstep_trainer_resume_with(another, "run", FEWSTEP_RESUME_ANY), FEWSTEP_STATUS_INVALID_ARGUMENT, "scheduler");
    return field_result();
}
