/* Checkpoints that parse, with a state that no training leaves: CORRUPT_FILE, and the trainer goes on as if nothing had been. */
#include "field.h"

typedef struct {
    char *bytes;
    size_t size;
} file;

/* With the digits after `key` in the training record replaced; the record is JSON inside JSON. */
static file with_number(file from, const char *key, const char *number) {
    uint64_t header;
    memcpy(&header, from.bytes, 8);
    const char *at = memmem(from.bytes + 8, header, key, strlen(key));
    if (!at) { FAULT("no %s in the checkpoint", key); exit(3); }
    size_t start = (size_t)(at - from.bytes) + strlen(key), old = strcspn(from.bytes + start, ",}"), new = strlen(number);
    file to = {malloc(from.size + new), from.size - old + new};
    if (!to.bytes) exit(3);
    memcpy(to.bytes, from.bytes, start);
    memcpy(to.bytes + start, number, new);
    memcpy(to.bytes + start + new, from.bytes + start + old, from.size - start - old);
    header = header - old + new;
    memcpy(to.bytes, &header, 8);
    return to;
}

/* With the last value of the first tensor whose name begins so replaced. */
static file with_value(file from, const char *prefix, float value) {
    file to = {malloc(from.size), from.size};
    if (!to.bytes) exit(3);
    memcpy(to.bytes, from.bytes, from.size);
    uint64_t header, begin, end;
    memcpy(&header, to.bytes, 8);
    char *at = memmem(to.bytes + 8, header, prefix, strlen(prefix));
    at = at ? strstr(at, "data_offsets") : NULL;
    if (!at || sscanf(at, "data_offsets\":[%lu,%lu]", &begin, &end) != 2) { FAULT("no %s in the checkpoint", prefix); exit(3); }
    memcpy(to.bytes + 8 + header + end - sizeof value, &value, sizeof value);
    return to;
}

static void refused(fewstep_trainer *trainer, file made, const char *what, const char *word) {
    OK(fewstep_trainer_save(trainer, "before"));
    write_file("made", made.bytes, made.size);
    fewstep_status status = fewstep_trainer_resume(trainer, "made");
    if (status != FEWSTEP_STATUS_CORRUPT_FILE) FAULT("%s: %s", what, status ? fewstep_last_error() : "resumed");
    else if (!strstr(fewstep_last_error(), word)) FAULT("%s: the error does not say \"%s\": %s", what, word, fewstep_last_error());
    OK(fewstep_trainer_save(trainer, "after"));
    size_t a, b;
    char *before = read_file("before", &a), *after = read_file("after", &b);
    if (a != b || memcmp(before, after, a)) FAULT("%s: the refusal changed the trainer", what);
    free(before);
    free(after);
    free(made.bytes);
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1);
    fewstep_trainer_options options = small_training();
    fewstep_trainer *trainer;
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    OK(fewstep_trainer_train(trainer, 3, NULL, NULL, NULL));
    file saved;
    OK(fewstep_trainer_save(trainer, "good"));
    saved.bytes = read_file("good", &saved.size);

    const char *steps = "\\\"steps_done\\\":", *version = "\\\"version\\\":";
    const char *counts[] = {"18446744073709551615", "18446744073709551614", "9223372036854775807", "9223372036854775806", "9007199254740993"};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) refused(trainer, with_number(saved, steps, counts[i]), counts[i], "steps");
    refused(trainer, with_number(saved, steps, "-1"), "-1 steps", "record");
    const char *factors[] = {"0.0", "-65536.0", "3.0", "65537.0", "0.5", "1e300", "null"};
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        char with_scale[128];
        snprintf(with_scale, sizeof with_scale, "1,\\\"loss_scale\\\":{\\\"factor\\\":%s,\\\"good_steps\\\":0}", factors[i]);
        refused(trainer, with_number(saved, version, with_scale), factors[i], "record");
    }

    const char *first = "\"adamw.m.", *second = "\"adamw.v.", *weight = "\"student.", *average = "\"ema.";
    const struct { const char *prefix; float value; } values[] = {
        {second, -1}, {second, -1e-30f}, {second, 3e38f}, {second, NAN},    {second, INFINITY},   {first, NAN},
        {first, 1e30f}, {first, -INFINITY}, {weight, NAN}, {weight, INFINITY}, {average, -INFINITY}, {average, NAN},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char what[64];
        snprintf(what, sizeof what, "%s %g", values[i].prefix + 1, (double)values[i].value);
        refused(trainer, with_value(saved, values[i].prefix, values[i].value), what, values[i].prefix + 1);
    }

    /* What training can leave is resumed, and the next steps are good. */
    const char *fine[] = {"9007199254740992", "1000000000000000", "4294967295", "0"};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        file made = with_number(saved, steps, fine[i]);
        write_file("made", made.bytes, made.size);
        OK(fewstep_trainer_resume(trainer, "made"));
        fewstep_step_report report = {.struct_size = sizeof report};
        OK(fewstep_trainer_step(trainer, &report));
        if (report.step != strtoull(fine[i], NULL, 10) + 1) FAULT("after %s steps the next is %llu", fine[i], (unsigned long long)report.step);
        OK(fewstep_trainer_save(trainer, "made"));
        if (strcmp(fine[i], fine[0])) OK(fewstep_trainer_resume(trainer, "made"));
        free(made.bytes);
    }
    return field_result();
}
