/* kill -9 at any moment of saves of two models in turns: the folder, and a single file, always open as one of the two; nothing is left for ever. */
// run: 60
#include "folder.h"

/* Saves for ever, in a process of its own. */
static void child(void) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *models[] = {new_student(runtime, 2, 1), new_student(runtime, 4, 2)};
    if (write(STDOUT_FILENO, "", 1) != 1) exit(3);
    for (unsigned i = 0;; i++) {
        OK(fewstep_model_save(models[i % 2], "m"));
        OK(fewstep_model_save_file(models[i % 2], "m.safetensors"));
    }
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[2], "child")) child();
    int rounds = argc > 2 ? atoi(argv[2]) : 60, opened[2] = {0};
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *models[] = {new_student(runtime, 2, 1), new_student(runtime, 4, 2)};
    uint64_t hashes[] = {model_hash(models[0]), model_hash(models[1])};
    OK(fewstep_model_save(models[0], "m"));
    OK(fewstep_model_save_file(models[0], "m.safetensors"));
    srand(7);
    for (int i = 0; i < rounds; i++) {
        int ready[2];
        if (pipe(ready)) return 3;
        pid_t pid = fork();
        if (!pid) {
            dup2(ready[1], STDOUT_FILENO);
            execl("/proc/self/exe", argv[0], argv[1], "child", NULL);
            _exit(3);
        }
        close(ready[1]);
        char byte;
        if (read(ready[0], &byte, 1) != 1) return 3;
        close(ready[0]);
        usleep((useconds_t)(rand() % 60000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        const char *paths[] = {"m", "m.safetensors"};
        for (int p = 0; p < 2; p++) {
            uint64_t hash = folder_hash(runtime, paths[p]);
            if (hash != hashes[0] && hash != hashes[1]) FAULT("kill %d: %s: %s", i, paths[p], hash ? "a mixture" : fewstep_last_error());
            else opened[hash == hashes[1]]++;
        }
    }
    OK(fewstep_model_save(models[0], "m"));
    OK(fewstep_model_save_file(models[0], "m.safetensors"));
    if (count_files(".") != MODEL_FILES + 1) FAULT("%d files after the next save, not %d", count_files("."), MODEL_FILES + 1);
    printf("%d kills: opened as the one %d times, as the other %d times\n", rounds, opened[0], opened[1]);
    return field_result();
}
