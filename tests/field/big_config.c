// Configs of 2 GB, sparse: refused by their size, not after they were read.
#include "field.h"

int main(void) {
    static const char *const files[] = {"folder/unet/config.json", "folder/scheduler/scheduler_config.json", "folder/fewstep.json"};
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1), *opened = NULL;
    for (int i = 0; i < 3; i++) {
        OK(fewstep_model_save(model, "folder"));
        if (i == 2) write_file(files[i], "{}", 2);
        if (truncate(files[i], (off_t)2 << 30)) return 3;
        REFUSED(fewstep_model_open(runtime, "folder", &opened), FEWSTEP_STATUS_CORRUPT_FILE, "2147483648 bytes");
        if (truncate(files[i], 0)) return 3;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (usage.ru_maxrss > 64 << 10) FAULT("%ld KiB of memory", usage.ru_maxrss);
    return field_result();
}
