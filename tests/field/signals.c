/* A host that handles its signals on threads of its choice: none is delivered to a thread of the library, from the first instruction of that thread on.
 * Faults of a thread itself stay deliverable, so that a crash handler sees them. */
// limit: 30
#include "field.h"
#include <dirent.h>
#include <sys/time.h>
#include <stdatomic.h>

static atomic_long handled, foreign;
static pthread_t main_thread;

static void handler(int number) {
    (void)number;
    handled++;
    if (!pthread_equal(pthread_self(), main_thread)) foreign++;
}

/* The mask in /proc of every thread of the library but the calling one; how many there are. */
static int check_masks(void) {
    static const int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    int threads = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return -1;
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300], line[200];
        unsigned long long blocked = 0;
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid()) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        FILE *status = fopen(path, "r");
        while (status && fgets(line, sizeof line, status)) sscanf(line, "SigBlk: %llx", &blocked);
        if (status) fclose(status);
        threads++;
        for (int signal = 1; signal < 64; signal++) {
            int is_fault = 0, is_blocked = (blocked >> (signal - 1)) & 1;
            for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) is_fault |= FAULTS[i] == signal;
            if (signal == SIGKILL || signal == SIGSTOP || signal == 32 || signal == 33) continue; /* the last two are glibc's own */
            if (is_fault == is_blocked) FAULT("signal %d is %s on thread %s", signal, is_blocked ? "blocked" : "not blocked", task->d_name);
        }
    }
    closedir(tasks);
    return threads;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = handler};
    sigset_t before, after, usr1;
    (void)argc, (void)argv;
    main_thread = pthread_self();
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &before);

    /* Signals rain while threads start and end; the host's own mask is as it was. */
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 200; i++) OK(fewstep_runtime_destroy(new_runtime(4)));
    setitimer(ITIMER_REAL, &never, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal < 64; signal++)
        if (sigismember(&before, signal) != sigismember(&after, signal)) FAULT("the caller's mask of signal %d changed", signal);
    if (!handled) FAULT("no signal came: the case shows nothing");
    if (foreign) FAULT("%ld of %ld signals were handled on threads of the library that start and end", (long)foreign, (long)handled);

    /* The host blocks a signal on its own threads, to take it with sigwait: nobody else may. */
    fewstep_runtime *runtime = new_runtime(4);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    handled = 0;
    for (int i = 0; i < 20; i++) {
        int taken = 0;
        kill(getpid(), SIGUSR1);
        usleep(1000);
        if (sigwait(&usr1, &taken) || taken != SIGUSR1) FAULT("sigwait");
    }
    if (handled) FAULT("%ld signals that the host waits for were handled on threads of the library", (long)handled);
    int threads = check_masks();
    if (threads != 3) FAULT("%d threads of the library, expected 3", threads);
    OK(fewstep_runtime_destroy(runtime));
    return field_result();
}
