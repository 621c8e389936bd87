/* A thousand temporary files of killed processes with this one's number, as containers have them: saving works, and they are gone. What others have called
 * alike, and what a living process is writing, stays. */
#include "folder.h"
#include <sys/file.h>

int main(void) {
    char name[64];
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1);
    for (int i = 0; i < 1000; i++) {
        sprintf(name, ".fewstep-%d-%d.tmp", (int)getpid(), i);
        write_file(name, "left", 4);
        sprintf(name, ".fewstep-%d.tmp", i);
        write_file(name, "left", 4);
    }
    write_file(".fewstep-notes.tmp", "mine", 4);
    int living = open(".fewstep-7.tmp", O_RDWR);
    if (living < 0 || flock(living, LOCK_EX)) return 3;
    OK(fewstep_model_save_file(model, "m.safetensors"));
    if (count_files(".") != 3) FAULT("%d files are left, not 3", count_files("."));
    if (access(".fewstep-notes.tmp", F_OK)) FAULT("somebody else's file was removed");
    if (access(".fewstep-7.tmp", F_OK)) FAULT("a living writer's file was removed");
    return field_result();
}
