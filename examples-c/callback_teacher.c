/* A teacher that is no network of the library's: any function that predicts the noise in an image. Here it is the exact one of a world of 192 pictures,
 * circles, squares and crosses; in a host it may be a remote service, another library, a simulation. A student of two steps learns it from its trajectories.
 *
 * usage: callback_teacher OUT_DIR [train=N]
 *   OUT_DIR/   shapes.png: the teacher in 50 steps and the student in 2, from the same noises; student/
 *
 * Everything that can fail returns a status; CHECK prints the library's sentence and leaves. A real host would go on instead. */
#include <fewstep.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIDE = 16,
    IMAGE = SIDE * SIDE,
    CLASSES = 3,      /* circle, square, cross */
    PICTURES = 64,    /* of each: four sizes in 16 places */
    T = 1000,         /* timesteps */
    NOISES = 4096,    /* trajectories that the student learns from */
    HELD_OUT = 48,    /* noises that it does not */
    SHOWN = 16,       /* of them in the picture */
    TEACHER_STEPS = 50,
    STEPS = 2
};

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        fewstep_status status_ = (call);                                                                   \
        if (status_ != FEWSTEP_STATUS_OK) {                                                                \
            fprintf(stderr, "\n%s: %s: %s\n", #call, fewstep_status_name(status_), fewstep_last_error()); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

/* The world, and how noise is added to it: x_t = sqrt(alphas_cumprod[t]) x + sqrt(1 - alphas_cumprod[t]) noise. */
typedef struct {
    float pictures[CLASSES][PICTURES][IMAGE];
    double alphas_cumprod[T];
    uint64_t calls;
} world;

static void draw(world *w) {
    for (int shape = 0; shape < CLASSES; shape++)
        for (int i = 0; i < PICTURES; i++) {
            const double radius = 3 + i % 4, x = 5.5 + 1.5 * (i / 4 % 4), y = 5.5 + 1.5 * (i / 16);
            for (int pixel = 0; pixel < IMAGE; pixel++) {
                const double dx = fabs(pixel % SIDE - x), dy = fabs(pixel / SIDE - y);
                /* How far inside the shape the pixel is: its edges are one pixel wide. */
                const double square = radius - fmax(dx, dy);
                const double inside = shape == 0 ? radius - hypot(dx, dy) : shape == 1 ? square : fmin(square, 1.5 - fmin(dx, dy));
                w->pictures[shape][i][pixel] = (float)(2 * fmin(fmax(inside + 0.5, 0), 1) - 1);
            }
        }
    double product = 1;
    for (int t = 0; t < T; t++) {
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / (T - 1)); /* DDPM's linear betas */
        w->alphas_cumprod[t] = product;
    }
}

/* The noise in x_t, as well as it can be known: the clean image is the mean of all pictures of the class, each by how likely it has led to x_t. */
static void predict(const world *w, const float *x_t, int t, int shape, float *noise) {
    const double a = sqrt(w->alphas_cumprod[t]), s = sqrt(1 - w->alphas_cumprod[t]);
    double weight[PICTURES], most = -INFINITY, sum = 0, mean[IMAGE] = {0};
    for (int i = 0; i < PICTURES; i++) {
        double square = 0;
        for (int p = 0; p < IMAGE; p++) square += (x_t[p] - a * w->pictures[shape][i][p]) * (x_t[p] - a * w->pictures[shape][i][p]);
        weight[i] = -square / (2 * s * s);
        most = fmax(most, weight[i]);
    }
    for (int i = 0; i < PICTURES; i++) sum += weight[i] = exp(weight[i] - most);
    for (int i = 0; i < PICTURES; i++)
        for (int p = 0; p < IMAGE; p++) mean[p] += weight[i] / sum * w->pictures[shape][i][p];
    for (int p = 0; p < IMAGE; p++) noise[p] = (float)((x_t[p] - a * mean[p]) / s);
}

/* What the library calls: a batch of images, one timestep for all, a class each. */
static int32_t teach(void *user, const fewstep_evaluation *at, float *prediction, size_t count) {
    world *w = user;
    const int32_t *labels = at->conditionings[0].data;
    for (size_t i = 0; i < count / IMAGE; i++) predict(w, at->x_t + i * IMAGE, (int)at->timesteps[0], labels[i], prediction + i * IMAGE);
    w->calls++;
    return 0; /* anything else cancels */
}

/* The teacher by itself: DDIM over evenly spread timesteps, as fewstep_sampler would take them. */
static void teacher_images(const world *w, const int32_t *labels, float *x) {
    for (int i = 0; i < HELD_OUT; i++)
        for (int k = 0; k < TEACHER_STEPS; k++) {
            const int t = T - 1 - k * T / TEACHER_STEPS, next = t - T / TEACHER_STEPS;
            float noise[IMAGE], *image = x + i * IMAGE;
            predict(w, image, t, labels[i], noise);
            const double from = w->alphas_cumprod[t], to = next < 0 ? 1 : w->alphas_cumprod[next];
            for (int p = 0; p < IMAGE; p++) {
                const double clean = (image[p] - sqrt(1 - from) * noise[p]) / sqrt(from);
                image[p] = (float)(sqrt(to) * clean + sqrt(1 - to) * noise[p]);
            }
        }
}

static int32_t show_progress(void *user, const fewstep_progress *p) {
    int *last = user, percent = p->total ? (int)(100 * p->done / p->total) : 100;
    if (percent == *last) return 0;
    *last = percent;
    printf("\r%-20s %3d %%", p->phase == FEWSTEP_PHASE_PREPARE ? "teacher trajectories" : "training", percent);
    if (p->phase == FEWSTEP_PHASE_TRAIN) printf("  loss %.4f  %.0f images/s  %.0f s left ", (double)p->loss, p->samples_per_second, p->seconds_left);
    if (percent == 100) printf("\n");
    fflush(stdout);
    return 0;
}

static const char *path(const char *dir, const char *name) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", dir, name);
    return buffer;
}

int main(int argc, char **argv) {
    unsigned train = 2000;
    char rest;
    if (argc < 2 || argc > 3 || (argc == 3 && (sscanf(argv[2], "train=%u%c", &train, &rest) != 1 || train == 0))) {
        fprintf(stderr, "usage: %s OUT_DIR [train=N]\n", argv[0]);
        return 2;
    }
    static world w;
    draw(&w);
    fewstep_runtime_options runtime_options;
    CHECK(fewstep_runtime_options_init(&runtime_options, sizeof runtime_options));
    fewstep_runtime *runtime;
    CHECK(fewstep_runtime_create(&runtime_options, &runtime));

    /* A student from nothing; its scheduler says how noise was added. */
    const char *config = "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 16, \"in_channels\": 1, \"out_channels\": 1, \"layers_per_block\": 1,"
                         " \"block_out_channels\": [16, 32], \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
                         " \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"norm_num_groups\": 8, \"add_attention\": false, \"num_class_embeds\": 3}";
    const char *scheduler = "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 1000, \"beta_schedule\": \"linear\", \"beta_start\": 0.0001,"
                            " \"beta_end\": 0.02, \"prediction_type\": \"v_prediction\", \"clip_sample\": false}";
    fewstep_model *student;
    CHECK(fewstep_model_create(runtime, config, scheduler, 1, &student));

    fewstep_trajectories_options options;
    CHECK(fewstep_trajectories_options_init(&options, sizeof options));
    options.predict = teach;
    options.user = &w;
    options.steps = STEPS;
    options.count = NOISES;
    options.teacher_order = 3;
    fewstep_trajectories *trajectories;
    int percent = -1;
    CHECK(fewstep_trajectories_create(runtime, student, NULL, &options, show_progress, &percent, NULL, &trajectories));
    printf("the teacher was called %llu times\n", (unsigned long long)w.calls);

    fewstep_term term = {.objective = FEWSTEP_OBJECTIVE_TEACHER_FORCED, .step_weight = FEWSTEP_WEIGHT_STATE, .norm = FEWSTEP_NORM_L2, .weight = 1};
    fewstep_trainer_options training;
    CHECK(fewstep_trainer_options_init(&training, sizeof training));
    training.terms = &term;
    training.term_count = 1;
    training.trajectories = trajectories;
    training.optimizer = FEWSTEP_OPTIMIZER_MUON;
    training.learning_rate = 2e-3;
    training.total_steps = train;
    fewstep_trainer *trainer;
    CHECK(fewstep_trainer_create(runtime, student, NULL, NULL, &training, &trainer));
    percent = -1;
    CHECK(fewstep_trainer_train(trainer, train, show_progress, &percent, NULL));
    fewstep_model *trained;
    CHECK(fewstep_trainer_snapshot(trainer, FEWSTEP_WEIGHTS_EMA, &trained));
    CHECK(fewstep_model_save(trained, path(argv[1], "student")));

    /* Both from the same noises. */
    static float images[2][HELD_OUT * IMAGE];
    int32_t labels[HELD_OUT];
    for (int i = 0; i < HELD_OUT; i++) labels[i] = i % CLASSES;
    fewstep_sampler_options sampling;
    CHECK(fewstep_sampler_options_init(&sampling, sizeof sampling));
    sampling.batch = HELD_OUT;
    fewstep_sampler *sampler;
    CHECK(fewstep_sampler_create(runtime, trained, &sampling, &sampler));
    CHECK(fewstep_sampler_noise(sampler, 7, 0, HELD_OUT, images[0], HELD_OUT * IMAGE));
    teacher_images(&w, labels, images[0]);
    fewstep_conditioning classes = {FEWSTEP_CONDITIONING_CLASS_LABELS, 0, labels, HELD_OUT};
    fewstep_begin_options begin;
    CHECK(fewstep_begin_options_init(&begin, sizeof begin));
    begin.seed = 7;
    begin.conditionings = &classes;
    begin.conditioning_count = 1;
    CHECK(fewstep_sampler_begin(sampler, &begin));
    CHECK(fewstep_sampler_run(sampler, NULL, NULL, NULL));
    CHECK(fewstep_sampler_read(sampler, images[1], HELD_OUT * IMAGE));
    double sum = 0;
    for (int i = 0; i < HELD_OUT * IMAGE; i++) sum += pow((double)images[0][i] - images[1][i], 2);
    const fewstep_grid_row rows[] = {{"teacher, 50 steps", images[0], SHOWN}, {"student, 2 steps", images[1], SHOWN}};
    CHECK(fewstep_save_image_grid(path(argv[1], "shapes.png"), rows, 2, sizeof rows[0], 1, SIDE, SIDE, 3));
    printf("RMSE of the student's images against the teacher's: %.3f\nwrote %s\n", sqrt(sum / (HELD_OUT * IMAGE)), path(argv[1], "shapes.png"));

    CHECK(fewstep_sampler_destroy(sampler));
    CHECK(fewstep_trainer_destroy(trainer));
    CHECK(fewstep_trajectories_destroy(trajectories));
    CHECK(fewstep_model_destroy(trained));
    CHECK(fewstep_model_destroy(student));
    CHECK(fewstep_runtime_destroy(runtime));
    return 0;
}
