/* Options that are accepted and much too large: a step is good or changes nothing, and what was saved after it can be read back. */
#include "field.h"

static fewstep_trainer *new_trainer(fewstep_runtime *runtime, fewstep_model *model, double rate, double clip_norm, double eps) {
    fewstep_trainer_options options = small_training();
    options.learning_rate = rate;
    options.warmup_steps = 0;
    options.decay = FEWSTEP_DECAY_CONSTANT;
    options.clip_norm = clip_norm;
    options.eps = eps;
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    return trainer;
}

static uint64_t saved_hash(fewstep_trainer *trainer) {
    size_t size;
    OK(fewstep_trainer_save(trainer, "run.safetensors"));
    char *bytes = read_file("run.safetensors", &size);
    uint64_t hash = bytes_hash(bytes, size);
    free(bytes);
    return hash;
}

static void reads_back(fewstep_runtime *runtime, fewstep_trainer *trainer, const char *what) {
    for (int32_t weights = FEWSTEP_WEIGHTS_RAW; weights <= FEWSTEP_WEIGHTS_EMA; weights++) {
        fewstep_model *model = NULL, *again = NULL;
        OK(fewstep_trainer_snapshot(trainer, weights, &model));
        OK(fewstep_model_save_file(model, "model.safetensors"));
        if (fewstep_model_open(runtime, "model.safetensors", &again)) FAULT("%s: a saved model cannot be opened: %s", what, fewstep_last_error());
        OK(fewstep_model_destroy(again));
        OK(fewstep_model_destroy(model));
    }
    if (fewstep_trainer_resume(trainer, "run.safetensors")) FAULT("%s: a saved run cannot be resumed: %s", what, fewstep_last_error());
}

int main(void) {
    static const double rows[][3] = {
        /* learning rate, clip_norm, eps */
        {1e38, 1, 1e-8},     {3e38, 1, 1e-8},  {3e38, 1e-30, 1e-8},  {1e37, INFINITY, 1e-8}, {1e30, 1, 1e-8},
        {1e30, 1, 1e-38},    {1e20, 1, 1e-45}, {1e3, INFINITY, 1e-38}, {1e-45, 1, 1e-8},     {1e-3, INFINITY, 1e38},
    };
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1);
    for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
        char what[96];
        snprintf(what, sizeof what, "learning rate %g, clip_norm %g, eps %g", rows[k][0], rows[k][1], rows[k][2]);
        fewstep_trainer *trainer = new_trainer(runtime, model, rows[k][0], rows[k][1], rows[k][2]);
        uint64_t before = saved_hash(trainer);
        for (int i = 0; i < 4; i++) {
            fewstep_status status = fewstep_trainer_step(trainer, NULL);
            uint64_t after = saved_hash(trainer);
            if (status == FEWSTEP_STATUS_OK) {
                before = after;
            } else {
                if (status != FEWSTEP_STATUS_NUMERIC) FAULT("%s: %s: %s", what, fewstep_status_name(status), fewstep_last_error());
                if (after != before) FAULT("%s: a step that failed changed something", what);
            }
            reads_back(runtime, trainer, what);
        }
        OK(fewstep_trainer_destroy(trainer));
    }
    return field_result();
}
