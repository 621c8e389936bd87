// JSON that a parser's tree makes forty times as large, by every way in, with 64 MB of address space left: a status, never an abort.
#include "field.h"

enum { CONFIG, SCHEDULER, HEADER, METADATA, FEWSTEP, RECORD, WAYS };
static const char *const NAMES[WAYS] = {"config", "scheduler config", "safetensors header", "safetensors metadata", "fewstep.json", "training record"};

/* An object of one key: numbers, objects of one key, texts of escapes, or keys. */
static char *hostile(int kind, size_t size) {
    static const char *const pieces[3] = {"0,", "{\"a\":0},", "\"\\n\","};
    char *text = malloc(size + 64);
    size_t at = (size_t)sprintf(text, kind < 3 ? "{\"a\":[" : "{\"a\":{");
    for (int i = 0; at < size; i++) at += (size_t)(kind < 3 ? sprintf(text + at, "%s", pieces[kind]) : sprintf(text + at, "\"%x\":0,", i));
    sprintf(text + at, kind < 3 ? "0]}" : "\"\":0}}");
    return text;
}

/* A safetensors file without tensors, whose header has `text` under `key` of its metadata; with no key the header is the text. */
static char *safetensors(const char *key, const char *text, size_t *size) {
    char *file = malloc(2 * strlen(text) + 256), *at = file + 8;
    if (key) {
        at += sprintf(at, "{\"__metadata__\":{\"fewstep.model\":\"1\",\"%s\":\"", key);
        for (; *text; text++) {
            if (*text == '"' || *text == '\\') *at++ = '\\';
            *at++ = *text;
        }
        at += sprintf(at, "\"}}");
    } else {
        at += sprintf(at, "%s", text);
    }
    uint64_t length = (uint64_t)(at - file - 8);
    memcpy(file, &length, 8);
    *size = (size_t)(at - file);
    return file;
}

static void spare(size_t bytes) {
    unsigned long pages;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm || fscanf(statm, "%lu", &pages) != 1) _exit(3);
    fclose(statm);
    struct rlimit limit = {pages * 4096 + bytes, pages * 4096 + bytes};
    setrlimit(RLIMIT_AS, &limit);
}

static fewstep_status try(fewstep_runtime *runtime, fewstep_trainer *trainer, int way, char *text) {
    fewstep_model *model = NULL;
    size_t size;
    char *file;
    switch (way) {
    case CONFIG: spare(64 << 20); return fewstep_model_create(runtime, text, NULL, 1, &model);
    case SCHEDULER: spare(64 << 20); return fewstep_model_create(runtime, TINY, text, 1, &model);
    case HEADER:
    case METADATA:
        file = safetensors(way == HEADER ? NULL : "config.json", text, &size);
        spare(64 << 20);
        return fewstep_model_open_buffer(runtime, file, size, &model);
    case FEWSTEP:
        OK(fewstep_model_save(new_model(runtime, TINY, 1), "folder"));
        write_file("folder/fewstep.json", text, strlen(text));
        spare(64 << 20);
        return fewstep_model_open(runtime, "folder", &model);
    default:
        file = safetensors("fewstep.training", text, &size);
        write_file("checkpoint", file, size);
        free(file);
        spare(64 << 20);
        return fewstep_trainer_resume(trainer, "checkpoint");
    }
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1);
    fewstep_trainer *trainer = NULL;
    fewstep_trainer_options options = small_training();
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    static const size_t sizes[] = {15 << 20, (4 << 20) - 64};
    for (int way = 0; way < WAYS; way++) {
        for (int row = 0; row < 8; row++) {
            size_t size = sizes[row % 2];
            pid_t pid = fork();
            if (!pid) {
                fewstep_status status = try(runtime, trainer, way, hostile(row / 2, size));
                const char *said = fewstep_last_error();
                if (status == FEWSTEP_STATUS_PANIC) FAULT("%s: PANIC: %s", NAMES[way], said);
                if (strlen(said) > 2000) FAULT("%s: a sentence of %zu bytes", NAMES[way], strlen(said));
                _exit(field_result());
            }
            int status;
            waitpid(pid, &status, 0);
            if (!WIFEXITED(status) || WEXITSTATUS(status)) FAULT("%s, %zu bytes of kind %d: the child ended with %d", NAMES[way], size, row / 2, status);
        }
    }
    return field_result();
}
