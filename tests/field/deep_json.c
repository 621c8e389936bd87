// JSON nested as deep as a parser may go, by every way in, on a thread with 64 KiB of stack: a status.
#include "field.h"

static fewstep_runtime *runtime;

/* Objects, or lists, inside one another. */
static char *nested(int depth, int lists) {
    char *text = calloc((size_t)depth + 1, 8), *at = text;
    at += sprintf(at, "{\"a\":");
    for (int i = 0; i < depth; i++) at += sprintf(at, lists ? "[" : "{\"a\":");
    at += sprintf(at, "0");
    for (int i = 0; i < depth; i++) *at++ = lists ? ']' : '}';
    *at = '}';
    return text;
}

static void try(const char *text) {
    fewstep_model *model = NULL;
    size_t length = strlen(text);
    char *file = calloc(length + 9, 1);
    uint64_t header = length;
    memcpy(file, &header, 8), memcpy(file + 8, text, length);
    fewstep_status found[3] = {
        fewstep_model_create(runtime, text, NULL, 1, &model),
        fewstep_model_create(runtime, TINY, text, 1, &model),
        fewstep_model_open_buffer(runtime, file, length + 8, &model),
    };
    for (int i = 0; i < 3; i++)
        if (found[i] == FEWSTEP_STATUS_PANIC || (i && !found[i])) FAULT("way %d: %s", i, fewstep_status_name(found[i]));
    if (length > 1000) REFUSED(found[0], FEWSTEP_STATUS_CORRUPT_FILE, "");
    free(file);
}

static void *work(void *unused) {
    for (int depth = 1; depth <= 100000; depth = depth < 200 ? depth + 1 : depth * 4)
        for (int lists = 0; lists < 2; lists++) {
            char *text = nested(depth, lists);
            /* A small model is made where the config is one; nothing here makes a large one. */
            if (depth > 31) try(text);
            free(text);
        }
    char *known = nested(30, 1);
    char text[1024];
    snprintf(text, sizeof text, "{\"_class_name\":\"Nothing\",\"x\":%s}", known);
    try(text);
    free(known);
    return unused;
}

int main(void) {
    runtime = new_runtime(1);
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    if (pthread_create(&thread, &attributes, work, NULL) || pthread_join(thread, NULL)) return 3;
    return field_result();
}
