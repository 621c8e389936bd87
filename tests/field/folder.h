/* What the cases of model folders share: two models that differ in everything, and which of them a folder opens as. */
#ifndef FOLDER_H
#define FOLDER_H
#include "field.h"
#include <dirent.h>

/* A student of TINY: its grid has `steps` steps, its weights are those of `seed`. */
static inline fewstep_model *new_student(fewstep_runtime *runtime, uint32_t steps, uint64_t seed) {
    fewstep_model *teacher = new_model(runtime, TINY, 1), *student = NULL;
    fewstep_student_options options;
    OK(fewstep_student_options_init(&options, sizeof options));
    options.steps = steps;
    options.seed = seed;
    OK(fewstep_model_derive_student(runtime, teacher, &options, &student));
    OK(fewstep_model_destroy(teacher));
    return student;
}

/* Architecture, weights, scheduler and grid in one number. */
static inline uint64_t model_hash(const fewstep_model *model) {
    const char *path = "hash.safetensors";
    OK(fewstep_model_save_file(model, path));
    size_t size;
    char *bytes = read_file(path, &size);
    uint64_t hash = bytes_hash(bytes, size);
    free(bytes);
    unlink(path);
    return hash;
}

/* The hash of what a folder opens as; 0 when it does not open, and the sentence is in fewstep_last_error. */
static inline uint64_t folder_hash(fewstep_runtime *runtime, const char *folder) {
    fewstep_model *model = NULL;
    if (fewstep_model_open(runtime, folder, &model)) return 0;
    uint64_t hash = model_hash(model);
    OK(fewstep_model_destroy(model));
    return hash;
}

/* Files below a folder whatever their names, folders not counted. */
static inline int count_files(const char *folder) {
    DIR *dir = opendir(folder);
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *path = path_in(folder, entry->d_name);
        struct stat found;
        if (!lstat(path, &found)) count += S_ISDIR(found.st_mode) ? count_files(path) : 1;
        free(path);
    }
    if (dir) closedir(dir);
    return count;
}

/* weights, config, scheduler, model_index.json, fewstep.json */
enum { MODEL_FILES = 5 };

#endif
