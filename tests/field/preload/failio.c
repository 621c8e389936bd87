/* Makes the n-th call of one kind fail, or it and all after it. The program that is preloaded finds fail_arm by dlsym. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *kind;
static long nth, calls;
static int error_number, from_then_on;

/* From now on calls of `which` ("write", "fsync", ...) are counted and the n-th fails with `error`; 0 makes a write short. NULL ends it. */
void fail_arm(const char *which, long n, int error, int sticky) {
    kind = which;
    nth = n;
    calls = 0;
    error_number = error;
    from_then_on = sticky;
}

/* Calls of the kind since fail_arm. */
long fail_calls(void) { return calls; }

static int fails(const char *call) {
    if (!kind || strcmp(kind, call)) return 0;
    calls++;
    if (calls != nth && !(from_then_on && calls > nth)) return 0;
    errno = error_number;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (fd > 2 && fails("write")) {
        if (error_number) return -1;
        count = (count + 1) / 2;
    }
    return syscall(SYS_write, fd, bytes, count);
}

int fsync(int fd) { return fails("fsync") ? -1 : (int)syscall(SYS_fsync, fd); }

int rename(const char *from, const char *to) { return fails("rename") ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlink(const char *path) { return fails("unlink") ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0); }

int mkdir(const char *path, mode_t mode) { return fails("mkdir") ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode); }

int fchmod(int fd, mode_t mode) { return fails("fchmod") ? -1 : (int)syscall(SYS_fchmod, fd, mode); }

int flock(int fd, int operation) { return fails("flock") ? -1 : (int)syscall(SYS_flock, fd, operation); }

/* Closed all the same, as Linux does. */
int close(int fd) {
    int result = (int)syscall(SYS_close, fd);
    return fails("close") ? -1 : result;
}

static int open_with(const char *path, int flags, va_list rest) {
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    return fails("open") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = open_with(path, flags, rest);
    va_end(rest);
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = open_with(path, flags | O_LARGEFILE, rest);
    va_end(rest);
    return fd;
}
