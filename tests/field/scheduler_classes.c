/* Teachers come with any of diffusers' schedulers. Each class with betas must open, be sampled with DDIM and DPM-Solver++, and be distilled; its own sampling runs
 * or is refused by name with the way out. Classes without betas are refused with the reason. What a config says that nobody uses is there again when it is saved. */
#include "field.h"

static const char *const OWN[] = {"DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "LCM",
                                  "PNDM", "UniPCMultistep"};
static const char *const SCHEDULE[] = {"CogVideoXDDIM", "CogVideoXDPM", "DDIMInverse", "DEISMultistep", "DPMSolverMultistepInverse", "DPMSolverSDE",
                                       "DPMSolverSinglestep", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "RePaint", "SASolver",
                                       "TCD", "UnCLIP"};
static const char *const REFUSED_CLASSES[] = {"EDMEuler", "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete", "ScoreSdeVe", "CMStochasticIterative", "VQDiffusion"};

static fewstep_status create(fewstep_runtime *runtime, const char *class, const char *more, fewstep_model **model) {
    char text[400];
    snprintf(text, sizeof text, "{\"_class_name\": \"%sScheduler\"%s}", class, more);
    return fewstep_model_create(runtime, TINY_UNCONDITIONAL, text, 1, model);
}

static fewstep_sampler_options kind_options(int32_t kind) {
    fewstep_sampler_options options = ddim_options(5, 2);
    options.kind = kind;
    options.clip = FEWSTEP_CLIP_RANGE;
    return options;
}

static void check_class(fewstep_runtime *runtime, const char *class, int own) {
    fewstep_model *teacher, *student;
    float images[128];
    OK(create(runtime, class, "", &teacher));
    for (int32_t kind = FEWSTEP_SAMPLER_DDIM; kind <= FEWSTEP_SAMPLER_DPM_SOLVER_PP; kind++) {
        fewstep_sampler_options options = kind_options(kind);
        if (kind == FEWSTEP_SAMPLER_DPM_SOLVER_PP) options.clip = FEWSTEP_CLIP_NONE;
        OK(fewstep_sample(runtime, teacher, &options, NULL, images, 128));
    }
    fewstep_sampler_options options = kind_options(FEWSTEP_SAMPLER_FROM_MODEL);
    if (own) OK(fewstep_sample(runtime, teacher, &options, NULL, images, 128));
    else {
        REFUSED(fewstep_sample(runtime, teacher, &options, NULL, images, 128), FEWSTEP_STATUS_UNSUPPORTED, class);
        REFUSED(fewstep_sample(runtime, teacher, &options, NULL, images, 128), FEWSTEP_STATUS_UNSUPPORTED, "choose DDIM or DPM-Solver++");
    }
    fewstep_student_options derived;
    OK(fewstep_student_options_init(&derived, sizeof derived));
    derived.steps = 2;
    OK(fewstep_model_derive_student(runtime, teacher, &derived, &student));
    fewstep_trainer_options training = small_training();
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, student, teacher, NULL, &training, &trainer));
    OK(fewstep_trainer_train(trainer, 2, NULL, NULL, NULL));
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_model_destroy(student));
    OK(fewstep_model_destroy(teacher));
}

/* The scheduler's text after a model was saved. */
static void check_kept(fewstep_runtime *runtime, const char *class, const char *more, const char *found) {
    fewstep_model *model;
    OK(create(runtime, class, more, &model));
    char folder[64];
    snprintf(folder, sizeof folder, "kept_%s", class);
    OK(fewstep_model_save(model, folder));
    OK(fewstep_model_destroy(model));
    size_t size;
    char *text = read_file(path_in(folder, "scheduler/scheduler_config.json"), &size);
    if (!strstr(text, found)) FAULT("%s%s is saved without %s: %s", class, more, found, text);
    OK(fewstep_model_open(runtime, folder, &model));
    OK(fewstep_model_destroy(model));
    free(text);
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++) check_class(runtime, OWN[i], 1);
    for (size_t i = 0; i < sizeof SCHEDULE / sizeof *SCHEDULE; i++) check_class(runtime, SCHEDULE[i], 0);
    for (size_t i = 0; i < sizeof REFUSED_CLASSES / sizeof *REFUSED_CLASSES; i++) {
        fewstep_model *model;
        REFUSED(create(runtime, REFUSED_CLASSES[i], "", &model), FEWSTEP_STATUS_UNSUPPORTED, REFUSED_CLASSES[i]);
    }
    check_kept(runtime, "DDPM", ", \"variance_type\": \"fixed_large\"", "\"variance_type\": \"fixed_large\"");
    check_kept(runtime, "EulerDiscrete", ", \"skip_prk_steps\": true", "\"skip_prk_steps\": true");
    check_kept(runtime, "DEISMultistep", ", \"solver_type\": \"logrho\", \"use_flow_sigmas\": false", "\"solver_type\": \"logrho\"");
    check_kept(runtime, "UniPCMultistep", ", \"my_note\": {\"a\": [1, \"b\"]}", "\"my_note\"");
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
