/* The info structs count all memory: tables of 216 MB were in none of their fields. What the process has more of after a sampler or trainer was made and has
 * run once is what total_bytes says, within a tenth and 8 MB. */
// run: sampler 256 1
// run: sampler 256 32
// run: sampler 8 1000
// run: trainer
#include "field.h"
#include <malloc.h>

/* Without attention, whose work grows with the square of the pixels. */
static const char *const PLAIN =
    "{\"_class_name\":\"UNet2DModel\",\"sample_size\":8,\"in_channels\":1,\"out_channels\":1,\"layers_per_block\":1,\"block_out_channels\":[8,8],"
    "\"down_block_types\":[\"DownBlock2D\",\"DownBlock2D\"],\"up_block_types\":[\"UpBlock2D\",\"UpBlock2D\"],\"add_attention\":false,\"norm_num_groups\":4}";

/* Without what the allocator keeps in reserve. */
static uint64_t resident_bytes(void) {
    malloc_trim(0);
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu %lu", &size, &resident) != 2) { perror("/proc/self/statm"); exit(3); }
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void compare(uint64_t before, uint64_t after, uint64_t total) {
    const double grown = (double)(after - before), said = (double)total;
    printf("grown by %.1f MB, total_bytes %.1f MB\n", grown / 1e6, said / 1e6);
    if (fabs(grown - said) > 0.1 * said + 8e6) FAULT("the process has %.1f MB more, the info says %.1f MB", grown / 1e6, said / 1e6);
}

static void sampler_memory(fewstep_runtime *runtime, fewstep_model *model, uint32_t side, uint32_t steps) {
    fewstep_sampler_options options = ddim_options(steps, 1);
    options.height = options.width = side;
    fewstep_sampler *sampler = NULL;
    const uint64_t before = resident_bytes();
    OK(fewstep_sampler_create(runtime, model, &options, &sampler));
    OK(fewstep_sampler_begin(sampler, NULL));
    int32_t done = 0;
    OK(fewstep_sampler_step(sampler, -1, &done));
    const uint64_t after = resident_bytes();
    fewstep_sampler_info info = {.struct_size = sizeof info};
    OK(fewstep_sampler_get_info(sampler, &info));
    printf("arena %.1f, prepared %.1f, state %.1f, constants %.1f, program %.1f MB\n", (double)info.arena_bytes / 1e6, (double)info.prepared_bytes / 1e6,
           (double)info.state_bytes / 1e6, (double)info.constant_bytes / 1e6, (double)info.program_bytes / 1e6);
    if (info.total_bytes != info.arena_bytes + info.prepared_bytes + info.state_bytes + info.constant_bytes + info.program_bytes) FAULT("the parts are not the whole");
    compare(before, after, info.total_bytes);
    OK(fewstep_sampler_destroy(sampler));
}

static void trainer_memory(fewstep_runtime *runtime, fewstep_model *teacher) {
    fewstep_trainer_options options = small_training();
    options.batch = 64;
    options.height = options.width = 16;
    options.cache_size = 10000;
    options.cache_batch = 500;
    options.substeps = options.steps = 1;
    fewstep_trainer *trainer = NULL;
    const uint64_t before = resident_bytes();
    OK(fewstep_trainer_create(runtime, teacher, teacher, NULL, &options, &trainer));
    OK(fewstep_trainer_step(trainer, NULL));
    const uint64_t after = resident_bytes();
    fewstep_trainer_info info = {.struct_size = sizeof info};
    OK(fewstep_trainer_get_info(trainer, &info));
    printf("arena %.1f, prepared %.1f, state %.1f, constants %.1f, program %.1f, cache %.1f MB\n", (double)info.arena_bytes / 1e6,
           (double)info.prepared_bytes / 1e6, (double)info.state_bytes / 1e6, (double)info.constant_bytes / 1e6, (double)info.program_bytes / 1e6,
           (double)info.cache_bytes / 1e6);
    if (info.cache_bytes < 2ull * options.cache_size * 16 * 16 * 2) FAULT("cache_bytes is %llu", (unsigned long long)info.cache_bytes);
    compare(before, after, info.total_bytes);
    OK(fewstep_trainer_destroy(trainer));
}

int main(int argc, char **argv) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, PLAIN, 1);
    if (argc == 5 && !strcmp(argv[2], "sampler")) sampler_memory(runtime, model, (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]));
    else if (argc == 3 && !strcmp(argv[2], "trainer")) trainer_memory(runtime, model);
    else return 2;
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
