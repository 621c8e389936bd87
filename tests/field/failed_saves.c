/* The n-th write, fsync, rename, ... of a save over an older model fails, for every n: the folder opens as the old or the new model, never as a mixture,
 * and can be saved into afterwards. */
// preload: failio
// run: write
// run: fsync
// run: rename
// run: unlink
// run: open
// run: close
// run: fchmod
// run: flock
// run: mkdir
#include "folder.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    const char *kind = argc > 2 ? argv[2] : "write";
    void (*arm)(const char *, long, int, int) = (void (*)(const char *, long, int, int))dlsym(RTLD_DEFAULT, "fail_arm");
    long (*calls)(void) = (long (*)(void))dlsym(RTLD_DEFAULT, "fail_calls");
    if (!arm || !calls) return 3;
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *old = new_student(runtime, 2, 1), *new = new_student(runtime, 4, 2);
    uint64_t old_hash = model_hash(old), new_hash = model_hash(new);
    int first = !strcmp(kind, "mkdir"); /* only a first save makes folders */
    int failed = 0, errors[] = {ENOSPC, 0}; /* 0: a short write */
    for (int e = 0; e < 2; e++)
        for (int sticky = 0; sticky < 2; sticky++)
            for (long n = 1, reached = 1; reached; n++) {
                if (!errors[e] && strcmp(kind, "write")) break;
                if (system("rm -rf m")) return 3;
                if (!first) OK(fewstep_model_save(old, "m"));
                arm(kind, n, errors[e], sticky);
                fewstep_status status = fewstep_model_save(new, "m");
                reached = calls() >= n;
                arm(NULL, 0, 0, 0);
                failed += status != 0;
                uint64_t hash = folder_hash(runtime, "m");
                if (status && status != FEWSTEP_STATUS_IO) FAULT("%s %ld: %s: %s", kind, n, fewstep_status_name(status), fewstep_last_error());
                if (!status && hash != new_hash) FAULT("%s %ld: OK, but the folder does not open as the new model: %s", kind, n, fewstep_last_error());
                if (status && hash != new_hash && hash != (first ? 0 : old_hash)) FAULT("%s %ld: the folder opens as neither: %s", kind, n, fewstep_last_error());
                OK(fewstep_model_save(old, "m"));
                if (folder_hash(runtime, "m") != old_hash) FAULT("%s %ld: the next save does not give its model", kind, n);
                if (count_files("m") != MODEL_FILES) FAULT("%s %ld: %d files after the next save", kind, n, count_files("m"));
                if (n > 200) FAULT("more than 200 calls");
                if (field_faults > 5) return field_result();
            }
    printf("%d saves failed by %s\n", failed, kind);
    return field_result();
}
