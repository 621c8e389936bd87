/* A model without a grid is saved into a folder that holds a student; then files of the two are mixed by hand. */
#include "folder.h"

static void copy(const char *from, const char *to) {
    size_t size;
    char *bytes = read_file(from, &size);
    write_file(to, bytes, size);
    free(bytes);
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    fewstep_model *student = new_student(runtime, 2, 1), *other = new_student(runtime, 2, 2), *teacher = new_model(runtime, TINY, 3), *back = NULL;
    OK(fewstep_model_save(student, "m"));
    write_file("m/unet/notes.txt", "mine", 4);
    OK(fewstep_model_save(teacher, "m"));
    fewstep_model_info info = {.struct_size = sizeof info};
    back = open_model(runtime, "m");
    OK(fewstep_model_get_info(back, &info));
    if (info.steps != 0) FAULT("the teacher was saved last, and the folder opens with a grid of %u steps", info.steps);
    if (folder_hash(runtime, "m") != model_hash(teacher)) FAULT("the folder does not open as the model that was saved last");
    if (access("m/unet/notes.txt", F_OK)) FAULT("a foreign file went");

    OK(fewstep_model_save(student, "s"));
    copy("s/fewstep.json", "m/fewstep.json");
    REFUSED(fewstep_model_open(runtime, "m", &back), FEWSTEP_STATUS_CORRUPT_FILE, "fewstep.json");
    if (unlink("m/fewstep.json")) return 3;
    if (folder_hash(runtime, "m") != model_hash(teacher)) FAULT("without fewstep.json the folder does not open as it is");

    OK(fewstep_model_save(other, "o"));
    copy("s/unet/diffusion_pytorch_model.safetensors", "o/unet/diffusion_pytorch_model.safetensors");
    REFUSED(fewstep_model_open(runtime, "o", &back), FEWSTEP_STATUS_CORRUPT_FILE, "o/unet/diffusion_pytorch_model.safetensors");
    return field_result();
}
