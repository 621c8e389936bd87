/* A batch of 2^28 to 2^31 images of a small model is refused before memory is written: constants of the batch's size were filled first, one a step, until the
 * system killed the program. */
// run: 28 3
// run: 31 3
// run: 28 1000
#include "field.h"

#define LIMIT_BYTES ((rlim_t)6 << 30)

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    const struct rlimit limit = {LIMIT_BYTES, LIMIT_BYTES};
    setrlimit(RLIMIT_AS, &limit);
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY_UNCONDITIONAL, 1);
    const fewstep_sampler_options options = ddim_options((uint32_t)atoi(argv[3]), 1u << atoi(argv[2]));
    fewstep_sampler *sampler = NULL;
    REFUSED(fewstep_sampler_create(runtime, model, &options, &sampler), FEWSTEP_STATUS_OUT_OF_MEMORY, "arena");
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("peak %ld MB: %s\n", used.ru_maxrss >> 10, fewstep_last_error());
    if (used.ru_maxrss > 1 << 20) FAULT("%ld MB were written before the request was refused", used.ru_maxrss >> 10);
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
