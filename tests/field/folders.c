/* Folders as people have them: a network without its scheduler, variants, prefixes of wrappers, LFS pointers, pickles, other levels of folders. */
#include "folder.h"

static char logged[1 << 16];

static void log_line(void *user, int32_t level, const char *line) {
    (void)user;
    if (level == FEWSTEP_LOG_WARNING && strlen(logged) + strlen(line) + 2 < sizeof logged) strcat(strcat(logged, line), "\n");
}

/* Opens, and says in the log what must be said; NULL when nothing may be. */
static void opens(fewstep_runtime *runtime, const char *path, const char *word) {
    logged[0] = 0;
    fewstep_model *model = open_model(runtime, path);
    if (word ? !strstr(logged, word) : logged[0] != 0) FAULT("%s: expected %s in the log, found: %s", path, word ? word : "nothing", logged);
    OK(fewstep_model_destroy(model));
}

static void run(const char *command) {
    if (system(command)) {
        perror(command);
        exit(3);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 3;
    fewstep_runtime_options options;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.threads = 1;
    options.log = log_line;
    options.log_level = FEWSTEP_LOG_WARNING;
    fewstep_runtime *runtime = NULL;
    OK(fewstep_runtime_create(&options, &runtime));
    fewstep_model *back = NULL;
    setenv("TEACHER", TEACHER(argv[1]), 1);
    run("cp -r $TEACHER out && mkdir -p out/checkpoint-9 && cp -r out/unet out/checkpoint-9/unet_ema && mkdir lone && cp -r out/unet lone/unet_ema");
    opens(runtime, "out", NULL);
    opens(runtime, "out/unet", NULL);
    opens(runtime, "out/checkpoint-9/unet_ema", "out/scheduler/scheduler_config.json is taken");
    opens(runtime, "out/checkpoint-9", "unet_ema is opened");
    opens(runtime, "lone/unet_ema", "DDIMScheduler is assumed");
    opens(runtime, "out/unet/config.json", "out/unet is opened");

    run("cd out/unet && mv diffusion_pytorch_model.safetensors diffusion_pytorch_model.bf16.safetensors");
    opens(runtime, "out", "the variant \"bf16\"");
    OK(fewstep_model_open_variant(runtime, "out", "bf16", &back));
    OK(fewstep_model_destroy(back));
    REFUSED(fewstep_model_open_variant(runtime, "out", "fp16", &back), FEWSTEP_STATUS_NOT_FOUND, "bf16");
    REFUSED(fewstep_model_open_variant(runtime, "out", "", &back), FEWSTEP_STATUS_NOT_FOUND, "bf16");
    REFUSED(fewstep_model_open_variant(runtime, "out", "../bf16", &back), FEWSTEP_STATUS_INVALID_ARGUMENT, "variant");

    run("cd out/unet && mv diffusion_pytorch_model.bf16.safetensors diffusion_pytorch_model.fp16.bin");
    REFUSED(fewstep_model_open(runtime, "out", &back), FEWSTEP_STATUS_UNSUPPORTED, "diffusion_pytorch_model.fp16.bin");
    const char *pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 143180996\n";
    write_file("out/unet/diffusion_pytorch_model.safetensors", pointer, strlen(pointer));
    REFUSED(fewstep_model_open(runtime, "out", &back), FEWSTEP_STATUS_CORRUPT_FILE, "Git LFS pointer");
    write_file("out/unet/diffusion_pytorch_model.safetensors", "PK\3\4\0\0\10\10\0\0\0\0archive/data.pkl", 28);
    REFUSED(fewstep_model_open(runtime, "out", &back), FEWSTEP_STATUS_UNSUPPORTED, "pickle");
    return field_result();
}
