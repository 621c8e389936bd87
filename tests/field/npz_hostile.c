// Archives made to cost: a few bytes in a sparse file of 100 GB, end records one after the other. Each is refused at once and in little memory.
// run: entries
// run: record
// run: ends
// run: stored
#include "field.h"

static void put(char *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (char)(value >> (8 * i));
}

/* A ZIP64 end of central directory record at byte `at`, its locator and the end record at `locator`. */
static void write_end(int file, uint64_t at, uint64_t record_size, uint64_t entries, uint64_t directory, uint64_t locator) {
    char record[56] = "PK\6\6", end[42] = "PK\6\7";
    put(record + 4, record_size, 8), put(record + 24, entries, 8), put(record + 32, entries, 8), put(record + 40, entries * 46, 8), put(record + 48, directory, 8);
    put(end + 8, at, 8), put(end + 16, 1, 4), memcpy(end + 20, "PK\5\6", 4), memset(end + 28, 0xff, 12);
    if (pwrite(file, record, 56, (off_t)at) != 56 || pwrite(file, end, 42, (off_t)locator) != 42) exit(3);
}

/* One stored array of `size` bytes that nobody has written. */
static void write_stored(int file, uint64_t size) {
    char header[128] = "\x93NUMPY\1", local[64] = "PK\3\4", central[80] = "PK\1\2";
    const char *name = "images.npy";
    put(header + 8, 118, 2);
    memset(header + 10, ' ', 118);
    header[10 + sprintf(header + 10, "{'descr': '|u1', 'fortran_order': False, 'shape': (%llu, 1, 1), }", (unsigned long long)size)] = ' ';
    uint64_t all = size + 128, start = 40, at = start + all;
    put(local + 18, UINT32_MAX, 4), put(local + 22, UINT32_MAX, 4), put(local + 26, 10, 2), memcpy(local + 30, name, 10);
    put(central + 20, UINT32_MAX, 4), put(central + 24, UINT32_MAX, 4), put(central + 28, 10, 2), put(central + 30, 20, 2), memcpy(central + 46, name, 10);
    put(central + 56, 1, 2), put(central + 58, 16, 2), put(central + 60, all, 8), put(central + 68, all, 8);
    char end[98] = "PK\6\6";
    put(end + 4, 44, 8), put(end + 24, 1, 8), put(end + 32, 1, 8), put(end + 40, 76, 8), put(end + 48, at, 8);
    memcpy(end + 56, "PK\6\7", 4), put(end + 64, at + 76, 8), put(end + 72, 1, 4), memcpy(end + 76, "PK\5\6", 4), memset(end + 84, 0xff, 12);
    if (pwrite(file, local, 40, 0) != 40 || pwrite(file, header, 128, 40) != 128 || pwrite(file, central, 76, (off_t)at) != 76) exit(3);
    if (pwrite(file, end, 98, (off_t)at + 76) != 98) exit(3);
}

static void write_archive(const char *path, const char *kind) {
    const uint64_t large = 100ull << 30;
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (file < 0) exit(3);
    if (!strcmp(kind, "entries")) write_end(file, large, 44, large / 50, large / 50 + 1, large + 56);
    if (!strcmp(kind, "record")) write_end(file, 0, large - 12, 0, 0, large);
    if (!strcmp(kind, "stored")) write_stored(file, 1ull << 40);
    for (int i = 0; !strcmp(kind, "ends") && i < 25000; i++) {
        char end[22] = "PK\5\6";
        put(end + 8, 1, 2), put(end + 10, 1, 2), put(end + 12, 46, 4);
        if (write(file, end, 22) != 22) exit(3);
    }
    close(file);
}

int main(int argc, char **argv) {
    if (argc < 3) return 3;
    fewstep_runtime *runtime = new_runtime(1);
    write_archive("hostile.npz", argv[2]);
    pid_t child = fork();
    if (!child) {
        double before = cpu_seconds();
        struct rusage usage;
        struct rlimit limit = {256 << 20, 256 << 20};
        setrlimit(RLIMIT_AS, &limit);
        fewstep_dataset *dataset = NULL;
        fewstep_status status = fewstep_dataset_open_npz(runtime, "hostile.npz", "images", NULL, 1, 0, &dataset);
        if (status != FEWSTEP_STATUS_CORRUPT_FILE && status != FEWSTEP_STATUS_UNSUPPORTED && status != FEWSTEP_STATUS_OUT_OF_MEMORY)
            FAULT("%s: %s", fewstep_status_name(status), fewstep_last_error());
        if (!strcmp(argv[2], "stored") && status != FEWSTEP_STATUS_OUT_OF_MEMORY) FAULT("%s: %s", fewstep_status_name(status), fewstep_last_error());
        getrusage(RUSAGE_SELF, &usage);
        if (cpu_seconds() - before > 1) FAULT("%.1f s of processor time", cpu_seconds() - before);
        if (usage.ru_maxrss > 64 << 10) FAULT("%ld KiB of memory", usage.ru_maxrss);
        _exit(field_result());
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAULT("the child ended with %d", status);
    return field_result();
}
