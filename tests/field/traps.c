/* A host that makes division by zero, invalid operations and overflow traps, as engines do in debug builds: no sampler, schedule or training step may end it. */
#include "field.h"
#include <fenv.h>

/* A scheduler's config and the kind it is sampled with; FROM_MODEL runs the config's own. */
static const struct {
    const char *name, *config;
    int32_t kind, sigmas, algorithm;
    uint32_t order;
} CASES[] = {
    {"DDIM", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DDIM, 1, 1, 2},
    {"DDIM thresholding", "\"_class_name\":\"DDIMScheduler\",\"thresholding\":true,\"sample_max_value\":2.0", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"zero SNR", "\"_class_name\":\"DDIMScheduler\",\"rescale_betas_zero_snr\":true,\"prediction_type\":\"v_prediction\",\"timestep_spacing\":\"trailing\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"cosine", "\"_class_name\":\"DDIMScheduler\",\"beta_schedule\":\"squaredcos_cap_v2\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"DPM-Solver++", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 1, 1, 3},
    {"DPM-Solver++ Karras", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 2, 1, 2},
    {"DPM-Solver++ exponential", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 3, 1, 2},
    {"DPM-Solver++ beta", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 4, 1, 2},
    {"DPM-Solver++ Lu", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 5, 1, 2},
    {"SDE-DPM-Solver++", "\"_class_name\":\"DDIMScheduler\"", FEWSTEP_SAMPLER_DPM_SOLVER_PP, 1, 2, 2},
    {"Euler", "\"_class_name\":\"EulerDiscreteScheduler\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"Euler Karras", "\"_class_name\":\"EulerDiscreteScheduler\",\"use_karras_sigmas\":true", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"Euler beta, zero SNR", "\"_class_name\":\"EulerDiscreteScheduler\",\"use_beta_sigmas\":true,\"rescale_betas_zero_snr\":true,\"prediction_type\":\"v_prediction\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"Euler ancestral", "\"_class_name\":\"EulerAncestralDiscreteScheduler\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"DDPM", "\"_class_name\":\"DDPMScheduler\",\"variance_type\":\"fixed_large\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"PNDM", "\"_class_name\":\"PNDMScheduler\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"PLMS", "\"_class_name\":\"PNDMScheduler\",\"skip_prk_steps\":true", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"LCM", "\"_class_name\":\"LCMScheduler\",\"timestep_scaling\":1e30", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"UniPC", "\"_class_name\":\"UniPCMultistepScheduler\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"UniPC bh1, order 3", "\"_class_name\":\"UniPCMultistepScheduler\",\"solver_order\":3,\"solver_type\":\"bh1\"", FEWSTEP_SAMPLER_FROM_MODEL, 1, 1, 2},
    {"CogVideoX", "\"_class_name\":\"CogVideoXDDIMScheduler\"", FEWSTEP_SAMPLER_DDIM, 1, 1, 2},
};

static void run_case(size_t i) {
    char text[400];
    snprintf(text, sizeof text, "{%s}", CASES[i].config);
    fewstep_runtime *runtime = new_runtime(2);
    fewstep_model *model;
    OK(fewstep_model_create(runtime, TINY_UNCONDITIONAL, text, 1, &model));
    fewstep_sampler_options options = ddim_options(8, 2);
    options.kind = CASES[i].kind;
    options.sigmas = CASES[i].sigmas;
    options.algorithm = CASES[i].algorithm;
    options.solver_order = CASES[i].order;
    float images[128];
    OK(fewstep_sample(runtime, model, &options, NULL, images, 128));
    fewstep_trainer_options training = small_training();
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, model, model, NULL, &training, &trainer));
    OK(fewstep_trainer_train(trainer, 2, NULL, NULL, NULL));
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
}

int main(void) {
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        pid_t child = fork();
        if (child == 0) {
            feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
            run_case(i);
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child) exit(3);
        if (WIFSIGNALED(status)) FAULT("%s: signal %d", CASES[i].name, WTERMSIG(status));
        else if (WEXITSTATUS(status)) FAULT("%s: exit %d", CASES[i].name, WEXITSTATUS(status));
    }
    return field_result();
}
