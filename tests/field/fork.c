/* A server that makes models and samplers, then forks: the child's calls on what it inherited work, with the same bytes, or answer STATE. Nothing hangs,
 * nothing is printed, also when another thread of the parent was computing at the time of the fork. */
// run: 1
// run: 4
#include "field.h"

enum { BATCH = 4, IMAGE = 64, SECONDS = 30 };

static uint32_t threads;
static fewstep_runtime *runtime;
static fewstep_model *model;
static fewstep_sampler *sampler;
static fewstep_trainer *trainer;
static uint64_t images, losses;

static uint64_t run(fewstep_sampler *with) {
    float pixels[BATCH * IMAGE];
    OK(fewstep_sampler_begin(with, NULL));
    OK(fewstep_sampler_run(with, NULL, NULL, NULL));
    OK(fewstep_sampler_read(with, pixels, BATCH * IMAGE));
    return bytes_hash(pixels, sizeof pixels);
}

static fewstep_sampler *new_sampler(fewstep_runtime *on, fewstep_model *of) {
    fewstep_sampler_options options = ddim_options(5, BATCH);
    fewstep_sampler *made = NULL;
    OK(fewstep_sampler_create(on, of, &options, &made));
    return made;
}

static uint64_t loss(void) {
    fewstep_step_report report = {.struct_size = sizeof report};
    OK(fewstep_trainer_evaluate(trainer, 1, &report));
    return bytes_hash(&report.loss, sizeof report.loss);
}

static void use_inherited(void) {
    if (run(sampler) != images) FAULT("other images");
    if (loss() != losses) FAULT("another loss");
    OK(fewstep_trainer_train(trainer, 2, NULL, NULL, NULL));
    fewstep_sampler *another = new_sampler(runtime, model);
    if (run(another) != images) FAULT("other images of a new sampler");
    OK(fewstep_sampler_destroy(another));
}

static void destroy_inherited(void) {
    OK(fewstep_sampler_destroy(sampler));
    OK(fewstep_trainer_destroy(trainer));
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
}

static void destroy_runtime_alone(void) { OK(fewstep_runtime_destroy(runtime)); }

static void begin_anew(void) {
    fewstep_runtime *mine = new_runtime(threads);
    fewstep_model *own = new_model(mine, TINY_UNCONDITIONAL, 1);
    fewstep_sampler *of_own = new_sampler(mine, own), *of_inherited = new_sampler(mine, model);
    if (run(of_own) != images || run(of_inherited) != images) FAULT("other images");
    OK(fewstep_sampler_destroy(of_own));
    OK(fewstep_sampler_destroy(of_inherited));
    OK(fewstep_model_destroy(own));
    OK(fewstep_runtime_destroy(mine));
    destroy_inherited();
}

static void fail(void) {
    fewstep_model *none = NULL;
    REFUSED(fewstep_model_open(runtime, "/nowhere/at/all", &none), FEWSTEP_STATUS_NOT_FOUND, "/nowhere");
}

static void leave(void) { exit(field_result()); }

static void in_child(const char *what, void (*work)(void));

static void fork_again(void) {
    in_child("a grandchild uses what it inherited", use_inherited);
    use_inherited();
}

/* The handles that a thread of the parent was using are in use for ever; the others are free. */
static void use_beside(void) {
    fewstep_status status = fewstep_sampler_begin(sampler, NULL);
    if (status != FEWSTEP_STATUS_OK && status != FEWSTEP_STATUS_STATE) FAULT("%s: %s", fewstep_status_name(status), fewstep_last_error());
    status = fewstep_sampler_destroy(sampler);
    if (status != FEWSTEP_STATUS_OK && status != FEWSTEP_STATUS_STATE) FAULT("%s: %s", fewstep_status_name(status), fewstep_last_error());
    fewstep_sampler *another = new_sampler(runtime, model);
    if (run(another) != images) FAULT("other images beside a call of the parent");
    OK(fewstep_sampler_destroy(another));
    OK(fewstep_trainer_destroy(trainer));
    status = fewstep_runtime_destroy(runtime);
    if (status != FEWSTEP_STATUS_OK) FAULT("%s: %s", fewstep_status_name(status), fewstep_last_error());
}

/* Runs in a child, whose standard error is to stay empty. */
static void in_child(const char *what, void (*work)(void)) {
    int said[2], status = 0;
    char text[4096];
    ssize_t got = 0, more;
    if (pipe(said)) exit(3);
    pid_t child = fork();
    if (child < 0) exit(3);
    if (!child) {
        dup2(said[1], 2);
        close(said[0]);
        close(said[1]);
        alarm(SECONDS);
        field_faults = 0;
        work();
        _exit(field_result());
    }
    close(said[1]);
    while (got < (ssize_t)sizeof text - 1 && (more = read(said[0], text + got, sizeof text - 1 - (size_t)got)) > 0) got += more;
    text[got] = 0;
    close(said[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) FAULT("%s: %s", what, WTERMSIG(status) == SIGALRM ? "it hangs" : strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status)) FAULT("%s: exit %d", what, WEXITSTATUS(status));
    if (got) FAULT("%s: on standard error: %s", what, text);
}

static volatile int done;

static void *compute(void *unused) {
    (void)unused;
    while (!done) run(sampler);
    return NULL;
}

/* A fork from a callback goes on inside the call that it was made from. */
static int in_callback;
static int32_t fork_here(void *unused, const fewstep_progress *progress) {
    (void)unused;
    if (progress->done == 2 && fork() == 0) {
        in_callback = 1;
        alarm(SECONDS);
    }
    return 0;
}

int main(int argc, char **argv) {
    int status = 0;
    threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 4;
    runtime = new_runtime(threads);
    model = new_model(runtime, TINY_UNCONDITIONAL, 1);
    sampler = new_sampler(runtime, model);
    fewstep_trainer_options options = small_training();
    OK(fewstep_trainer_create(runtime, model, model, NULL, &options, &trainer));
    OK(fewstep_trainer_train(trainer, 1, NULL, NULL, NULL));
    images = run(sampler);
    losses = loss();

    in_child("using what it inherited", use_inherited);
    in_child("destroying what it inherited", destroy_inherited);
    in_child("destroying the runtime alone", destroy_runtime_alone);
    in_child("its own runtime", begin_anew);
    in_child("a failing call", fail);
    in_child("exit", leave);
    in_child("forking again", fork_again);
    if (run(sampler) != images || loss() != losses) FAULT("the parent has other bytes after the forks");

    OK(fewstep_sampler_begin(sampler, NULL));
    OK(fewstep_sampler_run(sampler, fork_here, NULL, NULL));
    if (in_callback) {
        float pixels[BATCH * IMAGE];
        OK(fewstep_sampler_read(sampler, pixels, BATCH * IMAGE));
        destroy_inherited();
        _exit(bytes_hash(pixels, sizeof pixels) != images);
    }
    wait(&status);
    if (status) FAULT("a call goes on in a child that was forked from its callback: status %x", (unsigned)status);

    pthread_t thread;
    if (pthread_create(&thread, NULL, compute, NULL)) return 3;
    for (int i = 0; i < 20; i++) {
        usleep((useconds_t)(500 * i));
        in_child("beside a thread of the parent that computes", use_beside);
    }
    done = 1;
    pthread_join(thread, NULL);
    destroy_inherited();
    return field_result();
}
