/* The host's floating-point environment: rounding, flushing of subnormals, traps, exception flags. None of it changes a byte, ends the process or comes
 * back other than it was; callbacks see the host's own. The training has gradients so small that flushing would show. */
#include "field.h"
#if defined(__x86_64__)
#include <fenv.h>
#include <xmmintrin.h>

enum { FTZ_DAZ = 0x8040, FLAGS = 0x3f, BATCH = 8, IMAGE = 64 };

typedef struct {
    unsigned mxcsr;
    uint16_t x87_control, x87_status;
} environment;

static environment now(void) {
    environment e = {.mxcsr = _mm_getcsr()};
    __asm__ volatile("fnstcw %0\n\tfnstsw %1" : "=m"(e.x87_control), "=m"(e.x87_status));
    return e;
}

static int same(environment a, environment b) { return a.mxcsr == b.mxcsr && a.x87_control == b.x87_control && a.x87_status == b.x87_status; }

static const char *const HOSTS[] = {"plain", "FTZ and DAZ", "down", "up", "towards zero", "x87 in single precision", "flags set", "traps", "all traps"};

static void become(int host) {
    const uint16_t single = 0x007f;
    fesetenv(FE_DFL_ENV);
    switch (host) {
    case 1: _mm_setcsr(_mm_getcsr() | FTZ_DAZ); break;
    case 2: fesetround(FE_DOWNWARD); break;
    case 3: fesetround(FE_UPWARD); break;
    case 4: fesetround(FE_TOWARDZERO); break;
    case 5: __asm__ volatile("fldcw %0" : : "m"(single)); break;
    case 6: feraiseexcept(FE_ALL_EXCEPT); break;
    case 7: feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW); break;
    case 8: feenableexcept(FE_ALL_EXCEPT); break;
    }
}

/* In callbacks: the host's environment, not the library's. */
static environment expected;
static int calls, strange;

static int32_t progress(void *user, const fewstep_progress *report) {
    fewstep_cancel_token *token = NULL;
    environment seen = now();
    (void)user, (void)report;
    calls++;
    strange += !same(seen, expected);
    if (fewstep_cancel_token_create(&token) || fewstep_cancel_token_destroy(token)) strange++; /* a call within the call */
    strange += !same(now(), expected);
    return 0;
}

static void log_line(void *user, int32_t level, const char *message) {
    (void)user, (void)level, (void)message;
    calls++;
    strange += !same(now(), expected);
}

/* Images, then the bytes of a checkpoint. */
typedef struct {
    uint64_t images, weights;
} bytes;

static uint64_t sample(fewstep_runtime *runtime, fewstep_model *model, int32_t kind) {
    static float pixels[BATCH * IMAGE];
    fewstep_sampler_options options = ddim_options(5, BATCH);
    fewstep_sampler *sampler = NULL;
    options.kind = kind;
    OK(fewstep_sampler_create(runtime, model, &options, &sampler));
    OK(fewstep_sampler_begin(sampler, NULL));
    OK(fewstep_sampler_run(sampler, progress, NULL, NULL));
    OK(fewstep_sampler_read(sampler, pixels, BATCH * IMAGE));
    OK(fewstep_sampler_destroy(sampler));
    return bytes_hash(pixels, sizeof pixels);
}

static uint64_t train(fewstep_runtime *runtime, fewstep_model *teacher) {
    static const fewstep_term tiny_gradients = {
        .objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1e-17f};
    fewstep_trainer_options options = small_training();
    fewstep_trainer *trainer = NULL;
    size_t size;
    options.terms = &tiny_gradients;
    OK(fewstep_trainer_create(runtime, teacher, teacher, NULL, &options, &trainer));
    OK(fewstep_trainer_train(trainer, 3, progress, NULL, NULL));
    OK(fewstep_trainer_save(trainer, "checkpoint"));
    OK(fewstep_trainer_destroy(trainer));
    char *file = read_file("checkpoint", &size);
    uint64_t hash = bytes_hash(file, size);
    free(file);
    return hash;
}

static fewstep_runtime *logging_runtime(uint32_t threads) {
    fewstep_runtime_options options;
    fewstep_runtime *runtime = NULL;
    OK(fewstep_runtime_options_init(&options, sizeof options));
    options.threads = threads;
    options.log = log_line;
    options.log_level = FEWSTEP_LOG_INFO;
    OK(fewstep_runtime_create(&options, &runtime));
    return runtime;
}

/* All of it as one host; `late` takes its environment after the runtime was made. */
static bytes work(int host, uint32_t threads, int late) {
    static const char *const ODD = "{\"_class_name\":\"DDIMScheduler\",\"an_unknown_key\":1}"; /* logged */
    bytes result;
    fewstep_runtime *runtime = NULL;
    fewstep_model *model = NULL, *none = NULL;
    become(0);
    if (late) runtime = logging_runtime(threads);
    become(host);
    expected = now();
    if (!late) runtime = logging_runtime(threads);
    OK(fewstep_model_create(runtime, TINY_UNCONDITIONAL, ODD, 1, &model));
    result.images = sample(runtime, model, FEWSTEP_SAMPLER_DDIM) ^ sample(runtime, model, FEWSTEP_SAMPLER_DPM_SOLVER_PP);
    result.weights = train(runtime, model);
    if (fewstep_model_open(runtime, "/nowhere/at/all", &none) != FEWSTEP_STATUS_NOT_FOUND) strange++; /* errors give it back too */
    OK(fewstep_model_destroy(model));
    OK(fewstep_runtime_destroy(runtime));
    environment after = now();
    become(0);
    if (!same(after, expected))
        FAULT("%s: mxcsr %04x became %04x, x87 %04x/%04x %04x/%04x", HOSTS[host], expected.mxcsr, after.mxcsr, expected.x87_control, expected.x87_status,
              after.x87_control, after.x87_status);
    return result;
}

static const char *doing = "";
static void trapped(int signal) {
    (void)signal;
    if (write(2, "FAULT: SIGFPE as a host of ", 27) + write(2, doing, strlen(doing)) + write(2, "\n", 1)) _exit(4);
    _exit(4);
}

int main(void) {
    bytes plain = {0, 0};
    signal(SIGFPE, trapped);
    for (int host = 0; host < (int)(sizeof HOSTS / sizeof *HOSTS); host++)
        for (uint32_t threads = 1; threads <= 4; threads *= 2)
            for (int late = 0; late < 2; late++) {
                doing = HOSTS[host];
                calls = strange = 0;
                bytes found = work(host, threads, late);
                if (host == 0 && threads == 1 && !late) plain = found;
                if (found.images != plain.images || found.weights != plain.weights)
                    FAULT("%s, %u threads%s: other %s", HOSTS[host], threads, late ? ", set after the runtime" : "",
                          found.images != plain.images ? "images" : "weights");
                if (strange || calls < 10) FAULT("%s: in %d of %d callbacks the environment was not the host's", HOSTS[host], strange, calls);
            }
    return field_result();
}
#else
int main(void) { return 0; } /* MXCSR and the x87 are x86's */
#endif
