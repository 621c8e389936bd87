/* Preloaded: memory that runs out where a program says so. Counts allocations from failalloc_arm on and refuses the n-th, all from the n-th on, or all
 * of at least so many bytes. Which were refused, and from where the first was asked for, is for the program to read. */
#define _GNU_SOURCE
#include "failalloc.h"
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stdint.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static struct failalloc_plan plan;
static struct failalloc_report *report;
static uint32_t *sizes;
static size_t room;
static atomic_size_t count;
static atomic_int armed;

void failalloc_arm(struct failalloc_plan to, struct failalloc_report *into, uint32_t *record, size_t record_room) {
    void *frames[FAILALLOC_FRAMES];
    backtrace(frames, 1); /* the first call allocates */
    plan = to, report = into, sizes = record, room = record_room;
    atomic_store(&count, 0);
    atomic_store(&armed, 1);
}

size_t failalloc_disarm(void) {
    atomic_store(&armed, 0);
    return atomic_load(&count);
}

static int refused(size_t size) {
    if (!atomic_load_explicit(&armed, memory_order_relaxed)) return 0;
    size_t n = atomic_fetch_add(&count, 1) + 1;
    if (n <= room) sizes[n - 1] = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
    if (!(n == plan.only || (plan.from && n >= plan.from) || (plan.bytes && size >= plan.bytes))) return 0;
    if (report->refusals++ == 0) {
        atomic_store(&armed, 0); /* the walk itself is not counted */
        report->frame_count = backtrace(report->frames, FAILALLOC_FRAMES);
        atomic_store(&armed, 1);
    }
    report->size = size; /* the last one is the one that ends a program */
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return refused(n * size) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return refused(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t align, size_t size) { return refused(size) ? NULL : __libc_memalign(align, size); }
void *aligned_alloc(size_t align, size_t size) { return refused(size) ? NULL : __libc_memalign(align, size); }
int posix_memalign(void **out, size_t align, size_t size) {
    void *at = refused(size) ? NULL : __libc_memalign(align, size);
    if (at) *out = at;
    return at ? 0 : ENOMEM;
}
