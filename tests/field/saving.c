/* Saving to what is there: links are followed, modes kept, and what is no regular file is refused, untouched and without waiting. */
#include "folder.h"
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static const float numbers[4] = {1, 2, 3, 4};
static const int32_t labels[4] = {0, 1, 2, 3};

/* Every function that writes one file. */
static fewstep_status save(int form, const fewstep_model *model, const char *path) {
    size_t n = 4;
    if (form == 0) return fewstep_save_npy_f32(path, numbers, &n, 1);
    if (form == 1) return fewstep_save_npy_i32(path, labels, &n, 1);
    return fewstep_model_save_file(model, path);
}

static mode_t mode_of(const char *path) {
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_mode;
}

static void refused(const fewstep_model *model, const char *path, const char *kind) {
    mode_t before = mode_of(path);
    for (int form = 0; form < 3; form++) REFUSED(save(form, model, path), FEWSTEP_STATUS_IO, kind);
    if (!before || mode_of(path) != before) FAULT("%s has become something else", path);
}

int main(void) {
    alarm(60); /* whoever opens a pipe without a reader waits for ever */
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *model = new_model(runtime, TINY, 1);
    umask(027);
    for (int form = 0; form < 3; form++) {
        unlink("new");
        OK(save(form, model, "new"));
        if (mode_of("new") != (S_IFREG | 0640)) FAULT("form %d: a new file has mode %o", form, mode_of("new"));
        mode_t modes[] = {0600, 0644, 0444, 0666};
        for (int i = 0; i < 4; i++) {
            if (chmod("new", modes[i])) return 3;
            OK(save(form, model, "new"));
            if (mode_of("new") != (S_IFREG | modes[i])) FAULT("form %d: mode %o has become %o", form, modes[i], mode_of("new"));
        }
        if (symlink("new", "link") || symlink("made", "dangling") || symlink("round", "round")) return 3;
        unlink("new");
        write_file("new", "old", 3);
        OK(save(form, model, "link"));
        OK(save(form, model, "dangling"));
        if (!S_ISLNK(mode_of("link")) || !S_ISREG(mode_of("new"))) FAULT("form %d: the link or its file is none any more", form);
        if (!S_ISLNK(mode_of("dangling")) || !S_ISREG(mode_of("made"))) FAULT("form %d: the dangling link did not stay and get its file", form);
        size_t a, b;
        char *behind = read_file("new", &a), *made = read_file("made", &b);
        if (a != b || memcmp(behind, made, a)) FAULT("form %d: what lies behind the links differs", form);
        free(behind), free(made);
        REFUSED(save(form, model, "round"), FEWSTEP_STATUS_IO, "round");
        unlink("link"), unlink("dangling"), unlink("round"), unlink("made");
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (mkfifo("pipe", 0600) || mkdir("folder", 0700) || bind(fd, (struct sockaddr *)&address, sizeof address) || symlink("pipe", "to_pipe")) return 3;
    refused(model, "pipe", "a pipe");
    refused(model, "to_pipe", "a pipe");
    refused(model, "folder", "a folder");
    refused(model, "socket", "a socket");
    if (!mknod("null", S_IFCHR | 0666, makedev(1, 3))) refused(model, "null", "a device"); /* root only */

    /* The same within a model folder, which is left as it was. */
    OK(fewstep_model_save(model, "m"));
    if (chmod("m/unet/config.json", 0600) || rename("m/fewstep.json", "record.json") || symlink("../record.json", "m/fewstep.json")) return 3;
    fewstep_model *student = new_student(runtime, 2, 2);
    OK(fewstep_model_save(student, "m"));
    if (mode_of("m/unet/config.json") != (S_IFREG | 0600) || !S_ISLNK(mode_of("m/fewstep.json"))) FAULT("a mode or a link of a model folder is lost");
    if (folder_hash(runtime, "m") != model_hash(student)) FAULT("the folder does not open as what was saved");
    if (rename("m/model_index.json", "index.json") || mkfifo("m/model_index.json", 0600)) return 3;
    REFUSED(fewstep_model_save(model, "m"), FEWSTEP_STATUS_IO, "a pipe");
    if (folder_hash(runtime, "m") != model_hash(student)) FAULT("a refused save has changed the folder");
    return field_result();
}
