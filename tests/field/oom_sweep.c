// preload: failalloc
// limit: 7200
// run: least tiny 1
/* A whole program, in which memory runs out: one allocation fails, for each allocation (`one`); all from one on (`after`); all of at least so many
 * bytes (`least`). A call may answer OUT_OF_MEMORY, or do what it was asked for; it never ends the program. Of `one` and `after` every EVERY-th
 * allocation is tried, and each that has more than 4 KiB or is one of a call that makes few. Prints what became of them, call by call;
 * arguments: DATA, the mode, `tiny` or `teacher` (the digits teacher, 200 steps), EVERY (1 for all), and how many aborts are allowed. */
#include "field.h"
#include "preload/failalloc.h"
#include <dlfcn.h>
#include <ftw.h>
#include <sys/mman.h>

#define LARGE 4096
#define FEW 100 /* of a call that makes no more, each is tried */
#define RECORDED (1 << 20)
#define PIXELS (4 * 64)

static struct {
    const char *digits, *folder_of_teacher;
    int large;
    fewstep_runtime *runtime, *second;
    fewstep_model *teacher, *student, *snapshot, *folder, *file, *buffer;
    fewstep_dataset *dataset;
    fewstep_trainer *trainer;
    fewstep_sampler *sampler, *guided;
    float pixels[PIXELS], more[PIXELS];
} life;

/* A child writes into a folder of its own; what it did not write itself is the parent's. */
static char own[64];

static const char *written(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s%s", own, name);
    return path;
}

static const char *found(const char *name) {
    const char *path = written(name);
    return access(path, F_OK) ? name : path;
}

static fewstep_status runtime_create(void) {
    fewstep_runtime_options options;
    fewstep_runtime_options_init(&options, sizeof options);
    options.threads = 1; /* children of a fork have no workers */
    return fewstep_runtime_create(&options, &life.runtime);
}

static fewstep_status runtime_of_threads(void) {
    fewstep_runtime_options options;
    fewstep_runtime_options_init(&options, sizeof options);
    options.threads = 3;
    fewstep_status status = fewstep_runtime_create(&options, &life.second);
    return status ? status : fewstep_runtime_destroy(life.second);
}

static fewstep_status teacher(void) {
    if (life.large) return fewstep_model_open(life.runtime, life.folder_of_teacher, &life.teacher);
    return fewstep_model_create(life.runtime, TINY, NULL, 1, &life.teacher);
}

static fewstep_status derive(void) {
    fewstep_student_options options;
    fewstep_student_options_init(&options, sizeof options);
    options.steps = 2;
    return fewstep_model_derive_student(life.runtime, life.teacher, &options, &life.student);
}

static fewstep_status dataset(void) {
    return fewstep_dataset_open_npz(life.runtime, life.digits, "images", "labels", 0.125f, -1, &life.dataset);
}

static fewstep_status trainer_create(void) {
    fewstep_trainer_options options = small_training();
    options.cache_size = options.cache_batch = 4;
    options.batch = 2;
    options.substeps = 1;
    return fewstep_trainer_create(life.runtime, life.student, life.teacher, life.dataset, &options, &life.trainer);
}

static fewstep_status trainer_prepare(void) { return fewstep_trainer_prepare(life.trainer, NULL, NULL, NULL); }
static fewstep_status trainer_step(void) { return fewstep_trainer_step(life.trainer, NULL); }
static fewstep_status trainer_train(void) { return fewstep_trainer_train(life.trainer, 2, NULL, NULL, NULL); }
static fewstep_status trainer_save(void) { return fewstep_trainer_save(life.trainer, written("checkpoint")); }
static fewstep_status trainer_resume(void) { return fewstep_trainer_resume(life.trainer, found("checkpoint")); }
static fewstep_status snapshot(void) { return fewstep_trainer_snapshot(life.trainer, FEWSTEP_WEIGHTS_EMA, &life.snapshot); }
static fewstep_status model_save(void) { return fewstep_model_save(life.snapshot, written("model")); }
static fewstep_status model_save_file(void) { return fewstep_model_save_file(life.snapshot, written("model.safetensors")); }
static fewstep_status export_onnx(void) { return fewstep_model_export_onnx(life.student, NULL, written("student.onnx")); }

static fewstep_status export_evaluation(void) {
    static char bytes[8 << 20];
    size_t length;
    fewstep_onnx_options options;
    fewstep_onnx_options_init(&options, sizeof options);
    options.program = FEWSTEP_ONNX_EVALUATION;
    options.half_weights = 1;
    return fewstep_model_export_onnx_to_buffer(life.student, &options, bytes, sizeof bytes, &length);
}

static fewstep_status model_open(void) { return fewstep_model_open(life.runtime, found("model"), &life.folder); }
static fewstep_status model_open_file(void) { return fewstep_model_open(life.runtime, found("model.safetensors"), &life.file); }

static fewstep_status model_open_buffer(void) {
    static char bytes[8 << 20]; /* and read without stdio, which allocates */
    int file = open(found("model.safetensors"), O_RDONLY);
    ssize_t size = read(file, bytes, sizeof bytes);
    close(file);
    return fewstep_model_open_buffer(life.runtime, bytes, size > 0 ? (size_t)size : 0, &life.buffer);
}

/* The student's own steps. */
static fewstep_status sampler_create(void) {
    fewstep_sampler_options options;
    fewstep_sampler_options_init(&options, sizeof options);
    options.batch = 4;
    return fewstep_sampler_create(life.runtime, life.folder, &options, &life.sampler);
}

/* Many steps of the teacher. */
static fewstep_status teacher_sampler(void) {
    fewstep_sampler_options options = ddim_options(life.large ? 200 : 2, 4);
    return fewstep_sampler_create(life.runtime, life.teacher, &options, &life.guided);
}

static fewstep_status begin_of(fewstep_sampler *sampler) {
    static const int32_t labels[4] = {1, 2, 3, 4};
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, 4};
    fewstep_begin_options options;
    fewstep_begin_options_init(&options, sizeof options);
    options.conditionings = &classes;
    options.conditioning_count = 1;
    options.conditioning_stride = sizeof classes;
    options.seed = 7;
    return fewstep_sampler_begin(sampler, &options);
}

static fewstep_status begin(void) { return begin_of(life.sampler); }
static fewstep_status begin_teacher(void) { return begin_of(life.guided); }
static fewstep_status step(void) {
    int32_t done;
    return fewstep_sampler_step(life.sampler, 0, &done);
}
static fewstep_status run(void) { return fewstep_sampler_run(life.sampler, NULL, NULL, NULL); }
static fewstep_status run_teacher(void) {
    int32_t done = 0;
    fewstep_status status = FEWSTEP_STATUS_OK;
    for (int i = 0; i < 2 && !status; i++) status = fewstep_sampler_step(life.guided, -1, &done);
    return status;
}
static fewstep_status read_images(void) { return fewstep_sampler_read(life.sampler, life.pixels, PIXELS); }
static fewstep_status read_teacher(void) { return fewstep_sampler_read(life.guided, life.more, PIXELS); }

static fewstep_status npy(void) {
    size_t shape[4] = {4, 1, 8, 8};
    return fewstep_save_npy_f32(written("images.npy"), life.pixels, shape, 4);
}

static fewstep_status grid(void) {
    fewstep_grid_row row = {"label", life.pixels, 4};
    return fewstep_save_image_grid(written("images.png"), &row, 1, sizeof row, 1, 8, 8, 4);
}

/* The folder where the grid lies, and whatever else. */
static fewstep_status open_folder(void) {
    fewstep_folder_options options;
    fewstep_folder_options_init(&options, sizeof options);
    options.folders = FEWSTEP_FOLDERS_IGNORED;
    options.height = options.width = 8;
    fewstep_dataset *dataset = NULL;
    const char *folder = own[0] && !access(written("images.png"), F_OK) ? own : "."; /* whoever wrote the grid */
    fewstep_status status = fewstep_dataset_open_folder(life.runtime, folder, &options, NULL, NULL, &dataset);
    return status ? status : fewstep_dataset_destroy(dataset);
}

/* Each call of the program; `alone` is one that promises to need no memory. `again` is how far back a program goes when it fails. */
static const struct call {
    const char *name;
    fewstep_status (*make)(void);
    int alone, again;
} calls[] = {
    {"runtime of 3 threads", runtime_of_threads, 0, 0},
    {"runtime_create", runtime_create, 0, 0},
    {"model_create or open", teacher, 0, 0},
    {"derive_student", derive, 0, 0},
    {"dataset_open_npz", dataset, 0, 0},
    {"trainer_create", trainer_create, 0, 0},
    {"trainer_prepare", trainer_prepare, 0, 0},
    {"trainer_step", trainer_step, 1, 0},
    {"trainer_train", trainer_train, 1, 0},
    {"trainer_save", trainer_save, 0, 0},
    {"trainer_resume", trainer_resume, 0, 0},
    {"trainer_snapshot", snapshot, 0, 0},
    {"model_save", model_save, 0, 0},
    {"model_save_file", model_save_file, 0, 0},
    {"model_export_onnx", export_onnx, 0, 0},
    {"model_export_onnx, evaluation", export_evaluation, 0, 0},
    {"model_open", model_open, 0, 0},
    {"model_open, a file", model_open_file, 0, 0},
    {"model_open_buffer", model_open_buffer, 0, 0},
    {"sampler_create", sampler_create, 0, 0},
    {"sampler_create, teacher", teacher_sampler, 0, 0},
    {"sampler_begin", begin, 1, 0},
    {"sampler_begin, teacher", begin_teacher, 1, 0},
    {"sampler_step", step, 1, 2},
    {"sampler_step, teacher", run_teacher, 1, 2},
    {"sampler_run", run, 1, 4},
    {"sampler_read", read_images, 1, 0},
    {"sampler_read, teacher", read_teacher, 1, 0},
    {"save_npy_f32", npy, 0, 0},
    {"save_image_grid", grid, 0, 0},
    {"dataset_open_folder", open_folder, 0, 0},
};
#define CALLS (sizeof calls / sizeof *calls)

static int end_of_life(void) {
    return fewstep_sampler_destroy(life.sampler) || fewstep_sampler_destroy(life.guided) || fewstep_trainer_destroy(life.trainer) ||
           fewstep_dataset_destroy(life.dataset) || fewstep_model_destroy(life.buffer) || fewstep_model_destroy(life.file) ||
           fewstep_model_destroy(life.folder) || fewstep_model_destroy(life.snapshot) || fewstep_model_destroy(life.student) ||
           fewstep_model_destroy(life.teacher) || fewstep_runtime_destroy(life.runtime);
}

static void (*arm)(struct failalloc_plan, struct failalloc_report *, uint32_t *, size_t);
static size_t (*disarm)(void);

/* What a child leaves behind. */
struct outcome {
    struct failalloc_report report;
    fewstep_status status, later;
    size_t count;
    size_t broken; /* the call that failed afterwards, plus 1 */
    char message[256];
};

/* In shared memory: the former has one for each child that runs, the latter is of the call that is tried. */
static struct outcome *outcomes;
static uint32_t *sizes;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* A child: its call with this plan, then, with memory there again, the call once more if it failed, and some of the program's further ones. */
static void child(size_t at, struct failalloc_plan plan, struct outcome *out) {
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 2);
    alarm(120);
    snprintf(own, sizeof own, "child.%td/", out - outcomes);
    nftw(own, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    mkdir(own, 0777);
    arm(plan, &out->report, NULL, 0);
    out->status = calls[at].make();
    disarm();
    snprintf(out->message, sizeof out->message, "%s", out->status ? fewstep_last_error() : "");
    size_t from = out->status ? at - (size_t)calls[at].again : at + 1;
    if (from > at && out->report.refusals == 0) _exit(0);
    for (size_t i = from; i < CALLS && i < at + 6; i++) {
        out->later = calls[i].make();
        if (out->later) {
            out->broken = i + 1;
            snprintf(out->message, sizeof out->message, "%s", fewstep_last_error());
            _exit(2);
        }
    }
    _exit(end_of_life() ? 3 : 0);
}

static struct total {
    size_t allocations, tried, aborts, statuses, went_on, large_went_on, worst, largest_went_on;
} totals[CALLS], all;

static int limit_reported;

static void say_where(const struct failalloc_report *report) {
    if (limit_reported++ >= 12 && !getenv("OOM_WHERE")) return (void)fputc('\n', stderr);
    for (int i = 0; i < report->frame_count; i++) {
        Dl_info info;
        if (dladdr(report->frames[i], &info) && info.dli_fname && strstr(info.dli_fname, "libfewstep"))
            fprintf(stderr, " 0x%zx", (size_t)((char *)report->frames[i] - (char *)info.dli_fbase));
    }
    fputc('\n', stderr);
}

static void judge(size_t at, int state, struct outcome *out, const char *plan, size_t n) {
    struct total *total = &totals[at];
    const char *name = calls[at].name;
    total->tried++;
    if (WIFSIGNALED(state)) {
        total->aborts++;
        if (out->report.size > total->worst) total->worst = out->report.size;
        if (WTERMSIG(state) != SIGABRT) FAULT("%s, %s %zu: signal %d", name, plan, n, WTERMSIG(state));
        if (out->report.size > LARGE || getenv("OOM_WHERE")) {
            if (out->report.size > LARGE) FAULT("%s, %s %zu: abort where %zu bytes were refused; return addresses:", name, plan, n, out->report.size);
            else fprintf(stderr, "%s, %s %zu: %zu bytes:", name, plan, n, out->report.size);
            say_where(&out->report);
        } else if (calls[at].alone) FAULT("%s, %s %zu: abort in a call that promises to need no memory", name, plan, n);
        return;
    }
    if (WEXITSTATUS(state) == 2)
        FAULT("%s, %s %zu (%zu bytes): answered %s; afterwards %s: %s: %s", name, plan, n, out->report.size, fewstep_status_name(out->status),
              calls[out->broken - 1].name, fewstep_status_name(out->later), out->message);
    else if (WEXITSTATUS(state)) FAULT("%s, %s %zu: exit %d", name, plan, n, WEXITSTATUS(state));
    if (out->status == FEWSTEP_STATUS_OK) {
        total->went_on++;
        if (out->report.size > total->largest_went_on) total->largest_went_on = out->report.size;
        if (out->report.size > LARGE) {
            total->large_went_on++;
            if (getenv("OOM_WHERE")) fprintf(stderr, "%s, %s %zu: went on without %zu bytes:", name, plan, n, out->report.size), say_where(&out->report);
        }
    } else {
        total->statuses++;
        if (out->status != FEWSTEP_STATUS_OUT_OF_MEMORY)
            FAULT("%s, %s %zu (%zu bytes): %s: %s", name, plan, n, out->report.size, fewstep_status_name(out->status), out->message);
    }
}

/* Children side by side, one a processor. */
#define SLOTS 64
static struct {
    pid_t pid;
    size_t at, n;
    const char *plan;
} running[SLOTS];
static long slots;

static void collect(void) {
    int state;
    pid_t pid = wait(&state);
    for (long i = 0; i < slots; i++)
        if (running[i].pid == pid) {
            judge(running[i].at, state, &outcomes[i], running[i].plan, running[i].n);
            running[i].pid = 0;
        }
}

static void start(size_t at, struct failalloc_plan plan, const char *name, size_t n) {
    long slot = 0;
    while (slot < slots && running[slot].pid) slot++;
    if (slot == slots) {
        collect();
        for (slot = 0; running[slot].pid;) slot++;
    }
    memset(&outcomes[slot], 0, sizeof outcomes[slot]);
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) child(at, plan, &outcomes[slot]);
    running[slot].pid = pid, running[slot].at = at, running[slot].n = n, running[slot].plan = name;
}

static void finish(void) {
    for (long i = 0; i < slots; i++)
        while (running[i].pid) collect();
}

/* How many allocations a call makes, and of what sizes: from a child that nothing fails in. */
static size_t count(size_t at) {
    pid_t pid = fork();
    if (!pid) {
        arm((struct failalloc_plan){0}, &outcomes[0].report, sizes, RECORDED);
        outcomes[0].status = calls[at].make();
        outcomes[0].count = disarm();
        _exit(0);
    }
    int state;
    waitpid(pid, &state, 0);
    if (state || outcomes[0].status) {
        fprintf(stderr, "FAULT: %s fails with all the memory there is: %s\n", calls[at].name, fewstep_status_name(outcomes[0].status));
        exit(3);
    }
    return outcomes[0].count;
}

static void sweep(size_t at, char mode, size_t every) {
    size_t made = totals[at].allocations = count(at);
    if (mode == 'l') {
        static const size_t least[] = {1, 256, 1024, LARGE, LARGE + 1, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
        for (size_t i = 0; i < sizeof least / sizeof *least; i++) start(at, (struct failalloc_plan){0, 0, least[i]}, "all of at least", least[i]);
    }
    for (size_t n = 1; n <= made && mode != 'l'; n++) {
        int large = n <= RECORDED && sizes[n - 1] > LARGE;
        if (n % every && made > FEW && !(large && mode == 'o')) continue;
        if (mode == 'o') start(at, (struct failalloc_plan){n, 0, 0}, "allocation", n);
        else start(at, (struct failalloc_plan){0, n, 0}, "all from allocation", n);
    }
    finish();
}

static void *shared(size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) exit(3);
    return at;
}

static void line(const char *name, const struct total *t) {
    printf("%-24s %9zu %7zu %7zu %9zu %9zu %9zu %9zu %9zu\n", name, t->allocations, t->tried, t->aborts, t->worst, t->statuses, t->went_on, t->large_went_on,
           t->largest_went_on);
}

int main(int argc, char **argv) {
    if (argc < 5) return 3;
    char mode = argv[2][0];
    size_t every = strtoull(argv[4], NULL, 10), allowed = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
    life.digits = DIGITS(argv[1]), life.folder_of_teacher = TEACHER(argv[1]), life.large = argv[3][1] == 'e';
    *(void **)&arm = dlsym(RTLD_DEFAULT, "failalloc_arm");
    *(void **)&disarm = dlsym(RTLD_DEFAULT, "failalloc_disarm");
    if (!arm || !disarm) return fprintf(stderr, "failalloc is not preloaded\n"), 3;
    slots = sysconf(_SC_NPROCESSORS_ONLN);
    slots = slots > SLOTS ? SLOTS : slots < 1 ? 1 : slots;
    outcomes = shared(SLOTS * sizeof *outcomes), sizes = shared(RECORDED * sizeof *sizes);
    for (size_t at = 0; at < CALLS; at++) {
        sweep(at, mode, every);
        OK(calls[at].make());
    }
    printf("%-24s %9s %7s %7s %9s %9s %9s %9s %9s\n", argv[2], "allocs", "tried", "aborts", "largest", "statuses", "went on", "> 4 KiB", "largest");
    for (size_t at = 0; at < CALLS; at++) {
        struct total *t = &totals[at];
        line(calls[at].name, t);
        all.allocations += t->allocations, all.tried += t->tried, all.aborts += t->aborts, all.statuses += t->statuses, all.went_on += t->went_on;
        all.large_went_on += t->large_went_on;
        if (t->worst > all.worst) all.worst = t->worst;
        if (t->largest_went_on > all.largest_went_on) all.largest_went_on = t->largest_went_on;
    }
    line("total", &all);
    if (all.aborts > allowed) FAULT("%zu aborts; at most %zu are allowed", all.aborts, allowed);
    if (end_of_life()) FAULT("the handles of a whole life cannot be destroyed");
    return field_result();
}
