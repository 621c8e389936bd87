// 260 KB of deflated zeros that unpack to 256 MiB, a gigabyte as f32: refused before there is memory for it. What is small enough is read, where memory is.
#include "field.h"

static unsigned char *out;
static size_t at;
static int bit;

static void put(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) out[at++] = (unsigned char)(value >> (8 * i));
}

/* Deflate's bits, the first in the lowest place. */
static void bits(unsigned value, int n) {
    for (int i = 0; i < n; i++, value >>= 1) {
        out[at] |= (unsigned char)((value & 1) << bit);
        if (++bit == 8) bit = 0, at++;
    }
}

/* Huffman codes made for it: 258 zeros take two bits, the most that deflate can do. Literals below 256 that are not zero take 9 bits. */
static void deflate_zeros(const unsigned char *head, size_t head_size, size_t zeros) {
    /* The head in a stored block. */
    bits(0, 3);
    if (bit) bit = 0, at++;
    put(head_size, 2), put(~head_size & 0xffff, 2);
    memcpy(out + at, head, head_size), at += head_size;
    /* Codes for literal 0 and the end (two bits), length 258 (one bit), distance 1 (one bit); their lengths by codes for 18 (one bit), 1 and 2 (two). */
    static const int order[18] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1};
    bits(1, 1), bits(2, 2), bits(29, 5), bits(0, 5), bits(14, 4);
    for (int i = 0; i < 18; i++) bits(order[i] == 18 ? 1 : order[i] == 1 || order[i] == 2 ? 2 : 0, 3);
    bits(3, 2), bits(0, 1), bits(127, 7), bits(0, 1), bits(106, 7), bits(3, 2), bits(0, 1), bits(17, 7), bits(1, 2), bits(1, 2);
    size_t left = zeros;
    bits(1, 2), left--;
    for (; left >= 258; left -= 258) bits(0, 2);
    for (; left; left--) bits(1, 2);
    bits(3, 2);
    if (bit) bit = 0, at++;
}

static uint32_t crc(uint32_t state, const unsigned char *bytes, size_t size, size_t zeros) {
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) table[i] = table[i] & 1 ? table[i] >> 1 ^ 0xedb88320u : table[i] >> 1;
    }
    for (size_t i = 0; i < size + zeros; i++) state = table[(state ^ (i < size ? bytes[i] : 0)) & 255] ^ state >> 8;
    return state;
}

/* images.npy, u8 [megabytes * 1024, 32, 32], all zero. */
static size_t write_bomb(const char *path, size_t megabytes) {
    unsigned char head[128] = "\x93NUMPY\1";
    size_t zeros = megabytes << 20;
    head[8] = 118;
    memset(head + 10, ' ', 118);
    head[10 + sprintf((char *)head + 10, "{'descr': '|u1', 'fortran_order': False, 'shape': (%zu, 32, 32), }", megabytes << 10)] = ' ';
    at = 40, bit = 0;
    out = calloc(zeros / 500 + 4096, 1);
    deflate_zeros(head, 128, zeros);
    size_t packed = at - 40, end = at;
    uint32_t sum = ~crc(~0u, head, 128, zeros);
    for (int central = 0; central < 2; central++) {
        at = central ? end : 0;
        put(central ? 0x02014b50 : 0x04034b50, 4);
        if (central) put(20, 2);
        put(20, 2), put(0, 2), put(8, 2), put(0, 4), put(sum, 4), put(packed, 4), put(zeros + 128, 4), put(10, 2), put(0, central ? 16 : 2);
        memcpy(out + at, "images.npy", 10), at += 10;
    }
    put(0x06054b50, 4), put(0, 4), put(1, 2), put(1, 2), put(at - end - 12, 4), put(end, 4), put(0, 2);
    write_file(path, out, at);
    free(out);
    return at;
}

/* Opens it with so many bytes of address space more than there are. */
static void child(fewstep_runtime *runtime, size_t megabytes, size_t room, fewstep_status expected) {
    size_t size = write_bomb("bomb.npz", megabytes);
    pid_t pid = fork();
    if (!pid) {
        unsigned long pages;
        FILE *statm = fopen("/proc/self/statm", "r");
        if (!statm || fscanf(statm, "%lu", &pages) != 1) _exit(3);
        struct rlimit limit = {pages * 4096 + room, pages * 4096 + room};
        setrlimit(RLIMIT_AS, &limit);
        fewstep_dataset *dataset = NULL;
        fewstep_status status = fewstep_dataset_open_npz(runtime, "bomb.npz", "images", NULL, 1, 0, &dataset);
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        if (status != expected) FAULT("%zu bytes become %zu MB: %s: %s", size, megabytes, fewstep_status_name(status), fewstep_last_error());
        if (expected && usage.ru_maxrss > 64 << 10) FAULT("%ld KiB of memory for %zu bytes that are refused", usage.ru_maxrss, size);
        _exit(field_result());
    }
    int status;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAULT("the child ended with %d", status);
}

int main(void) {
    fewstep_runtime *runtime = new_runtime(1);
    child(runtime, 256, (size_t)2 << 30, FEWSTEP_STATUS_UNSUPPORTED);
    child(runtime, 12, (size_t)32 << 20, FEWSTEP_STATUS_OUT_OF_MEMORY);
    child(runtime, 12, (size_t)128 << 20, FEWSTEP_STATUS_OK);
    return field_result();
}
