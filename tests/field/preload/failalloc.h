/* What preload/failalloc.c offers to the program that it is preloaded into; found with dlsym. */
#ifndef FAILALLOC_H
#define FAILALLOC_H
#include <stddef.h>
#include <stdint.h>

#define FAILALLOC_FRAMES 48

/* Which allocations fail, counted from 1; 0 for none. */
struct failalloc_plan {
    size_t only;  /* this one */
    size_t from;  /* this one and all after it */
    size_t bytes; /* all of at least so many bytes */
};

/* What failed. May lie in shared memory, so that it outlives the process. */
struct failalloc_report {
    size_t refusals;
    size_t size;                    /* of the last one */
    void *frames[FAILALLOC_FRAMES]; /* where the first was asked for */
    int frame_count;
};

/* Starts counting and refusing. `sizes` (may be NULL) takes the sizes of the first `room` allocations. */
void failalloc_arm(struct failalloc_plan plan, struct failalloc_report *report, uint32_t *sizes, size_t room);
/* Stops; how many allocations there were. */
size_t failalloc_disarm(void);
#endif
