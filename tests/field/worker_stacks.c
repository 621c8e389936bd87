/* The stacks of the library's threads are the library's to choose: neither RUST_MIN_STACK nor the host's thread-local variables, which the C library takes
 * off every thread's stack, make them too small. */
// run: portable
// run: avx2
// run: avx512
#include "field.h"

static __thread volatile char host_variables[3 << 20];

int main(int argc, char **argv) {
    static float pixels[4 * 64];
    if (argc < 3 || setenv("FEWSTEP_ISA", argv[2], 1) || setenv("RUST_MIN_STACK", "32768", 1)) return 3;
    host_variables[0] = 1;
    fewstep_runtime *runtime = new_runtime(4);
    fewstep_model *model = new_model(runtime, TINY, 1);
    fewstep_trainer_options options = small_training();
    fewstep_trainer *trainer = NULL;
    options.batch = 16;
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    OK(fewstep_trainer_train(trainer, 20, NULL, NULL, NULL));
    OK(fewstep_trainer_destroy(trainer));
    fewstep_model *plain = new_model(runtime, TINY_UNCONDITIONAL, 1);
    fewstep_sampler_options sampling = ddim_options(10, 4);
    OK(fewstep_sample(runtime, plain, &sampling, NULL, pixels, 4 * 64));
    OK(fewstep_model_destroy(plain));
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
