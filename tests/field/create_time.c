/* Planning a sampler takes time in proportion to its steps: it was more than quadratic in them, 35 s for the 1,000 that are allowed. Processor time, which
 * does not depend on who else is running, and the ratio of two of them, which does not depend on the machine. */
#include "field.h"

/* The least of a few tries. */
static double create_seconds(fewstep_runtime *runtime, fewstep_model *model, uint32_t steps, int tries) {
    const fewstep_sampler_options options = ddim_options(steps, 1);
    double least = 1e9;
    while (tries-- > 0) {
        fewstep_sampler *sampler = NULL;
        const double start = cpu_seconds();
        OK(fewstep_sampler_create(runtime, model, &options, &sampler));
        const double taken = cpu_seconds() - start;
        if (taken < least) least = taken;
        OK(fewstep_sampler_destroy(sampler));
    }
    return least;
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY_UNCONDITIONAL, 1);
    const double few = create_seconds(runtime, model, 100, 5), many = create_seconds(runtime, model, 1000, 3);
    printf("100 steps: %.3f s, 1000 steps: %.3f s of processor time\n", few, many);
    if (many > 15 * few) FAULT("ten times the steps take %.1f times as long", many / few);
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
