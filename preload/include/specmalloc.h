/*
 * specmalloc.h: what libspecmalloc.so offers beyond malloc. Link with -lspecmalloc, or declare the functions weak and
 * test for null in a program that may run without it.
 *
 * All functions may be called from any thread at any time. Sizes are in bytes.
 */
#ifndef SPECMALLOC_H
#define SPECMALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Figures of the whole process. Later versions append fields and never change those that are here. */
struct specmalloc_statistics {
    uint64_t live_bytes;          /* in live blocks: large ones as asked for, others at their usable size */
    uint64_t live_blocks;         /* number of those blocks */
    uint64_t cached_bytes;        /* free blocks inside slabs, ends of blocks' pages, and huge blocks kept for reuse */
    uint64_t dirty_bytes;         /* free slices that may still be resident */
    uint64_t reserved_bytes;      /* address space mapped */
    uint64_t resident_bytes;      /* of it thought resident: an estimate; what the kernel was asked about is as it says */
    uint64_t peak_live_bytes;     /* most live bytes seen */
    uint64_t peak_reserved_bytes; /* most reserved bytes seen */
    uint64_t purged_bytes;        /* given back to the system by purging, in all */
    uint64_t regions;             /* regions mapped, of all kinds */
    uint64_t arenas;              /* regions that are arenas */
    uint64_t huge_regions;        /* regions of huge blocks, those kept for reuse included */
    uint64_t mappings;            /* entries that the allocator has in /proc/self/maps, at most */
    uint64_t threads;             /* heaps that a thread possesses */
    uint64_t heaps;               /* heaps, those that nobody possesses included */
    uint64_t remote_frees;        /* blocks freed by a thread that does not own their slab, in all */
    uint64_t grace_periods;       /* grace periods passed */
    uint64_t retired_pending;     /* things that wait for one */
    uint64_t map_calls;           /* system calls of each kind that succeeded, in all */
    uint64_t unmap_calls;
    uint64_t protect_calls;
    uint64_t remap_calls;
    uint64_t purge_calls;
    uint64_t barrier_calls;
    uint64_t failed_calls;        /* system calls of any kind that failed */
    uint64_t lookup_taken;        /* bets on a lookup without a lock */
    uint64_t lookup_won;
    uint64_t lookup_lost;
    uint64_t space_taken;         /* bets on address space reserved beyond what was asked for */
    uint64_t space_won;
    uint64_t space_lost;
    uint64_t population_taken;    /* bets on memory faulted in by huge pages */
    uint64_t population_won;
    uint64_t population_lost;
    uint64_t metadata_bytes;      /* the allocator's own records */
};

/*
 * Stores the figures of this moment in the first SIZE bytes of *OUT and returns how many bytes this library knows;
 * fields beyond that are set to zero. Call with sizeof *out. The kernel is asked which pages are resident (mincore), of
 * huge blocks, and of arenas once a small block was asked for at a multiple of more than a page: at most a thousand times
 * each, and not once the program has announced a filter of system calls (prctl).
 */
size_t specmalloc_get_statistics(struct specmalloc_statistics *out, size_t size);

/* Gives back to the system what is free in whole slices and huge blocks. Returns 1 if anything was given, else 0. */
int specmalloc_trim(void);

/*
 * Sets the option NAME to VALUE, both spelled as in SPECMALLOC_CONF. Returns 0; or ENOENT (no such option) or EINVAL
 * (not a value of it), and then nothing has changed.
 */
int specmalloc_set_option(const char *name, const char *value);

/*
 * Stores the value of the option NAME, a number (0 or 1 for a switch), in the SIZE bytes at VALUE as a string, cut off
 * if need be, and returns its length without the final zero, as snprintf does; or returns -1 if there is no such
 * option.
 */
int specmalloc_get_option(const char *name, char *value, size_t size);

/*
 * Bytes that the allocator holds for the process, which is what counts against the options `limit` and `soft_limit`:
 * what is resident, or may be, of slabs, of large blocks in whole slices of 64 KiB, of huge ones in whole pages, and of
 * memory that is free. The allocator's own records, one huge page that may be touched ahead, and
 * what is about to be unmapped are not in it.
 */
size_t specmalloc_held_bytes(void);

/*
 * Registers FUNCTION, null for none, to be called when HELD comes beyond the option `soft_limit`, and again each time
 * that it does so after having fallen a sixteenth below; and when a request of WANTED bytes is about to FAIL, for want
 * of memory or by the option `limit`: then, if less is held after the call, it is tried again, until it is served or the
 * function gives no more back.
 *
 * It is called by the thread that allocates, with nothing of the allocator's held, by several threads at a time if need
 * be, and may allocate and free. The caller of malloc may hold locks, of its own or of the C library's: the function
 * must wait for none of those. It returns as usual, by no jump and no exception. It is not called in a thread that has
 * signals blocked, as one in a signal handler has, nor inside itself.
 */
void specmalloc_on_pressure(void (*function)(size_t held, size_t wanted, int fails));

/* The class of a block in a walk, if it is none of the size classes: a block of more than 32 KiB, or more than 4 MiB. */
#define SPECMALLOC_LARGE (-1)
#define SPECMALLOC_HUGE (-2)

/*
 * Calls VISIT with CONTEXT and each live block of the process, by ascending address, with the bytes that may be used of
 * it and its size class, counted from 0 for the smallest. A block that is live all the while comes once; one that is
 * allocated or freed meanwhile, by VISIT or another thread, may come or not; what is free all the while does not. Other
 * threads go on meanwhile, and nothing is held while VISIT runs: it may do anything, allocate, free, begin another walk,
 * fork, leave by a jump. (A block that another thread may free is not VISIT's to look into.) If VISIT returns anything
 * but 0 the walk ends. Returns what VISIT returned last, 0 if it was never called.
 */
int specmalloc_walk(int (*visit)(void *context, void *block, size_t size, int class_index), void *context);

/* Bytes that may be used of the block at POINTER, 0 for null. */
size_t specmalloc_usable_size(const void *pointer);

/*
 * A number that stands for the heap that the block at POINTER belongs to, equal for blocks of one heap. 0 for a block
 * of more than 32 KiB, which belongs to none, and for anything that is no live block of specmalloc's. Any pointer may
 * be asked about.
 */
size_t specmalloc_heap_of(const void *pointer);

/*
 * Who wants to know of samples: of one allocation for so many bytes on average as the option "profile" says.
 *
 * `allocated` is called when a block of SIZE bytes is a sample, and returns a number below UINT32_MAX that it is known by
 * from then on, or 0 if its free is not to be told. Each allocation is a sample with the probability 1 - exp(-COUNTED / RATE): so a
 * sample stands for 1 / (1 - exp(-COUNTED / RATE)) allocations. `freed` is called when a sample with a number is freed,
 * or has got another size. BLOCK is its address, USABLE the bytes that may be used of it. Both may be called by any
 * thread at any time, in the middle of malloc or free, and in signal handlers: they neither allocate nor take locks, and
 * keep errno. (libspecmalloc_profile.so registers its own, to count stacks: a program that wants to be called uses
 * specmalloc_watch_samples, below.)
 */
struct specmalloc_samples {
    uint32_t (*allocated)(size_t size, size_t counted, size_t rate, void *block, size_t usable);
    void (*freed)(uint32_t sample, size_t size, size_t rate, void *block, size_t usable);
};

/* Has samples told to the functions in *SAMPLES from now on; to nobody, if it is null. */
void specmalloc_on_samples(const struct specmalloc_samples *samples);

/*
 * Who has guarded blocks for samples: libspecmalloc_profile.so, if the option "guarded" is on when it is loaded. Not for
 * programs. `allocate` returns a block of SIZE zero bytes, or null if an ordinary one has to do; `has`, whether BLOCK lies
 * among its blocks; `size`, the bytes of one that is live, and ends the process with a report for anything else; `free`
 * takes it back; `next` returns the live block with the lowest address above BLOCK, and stores its bytes, or null.
 */
struct specmalloc_guarded {
    void *(*allocate)(size_t size, size_t align, size_t counted, size_t rate);
    int (*has)(const void *block);
    size_t (*size)(const void *block, int is_free);
    void (*free)(void *block);
    void *(*next)(const void *block, size_t *size);
};

void specmalloc_on_guarded(const struct specmalloc_guarded *guarded);

/* A sample, as it is told to a watcher. Later versions append fields. */
struct specmalloc_sample {
    uint64_t id;            /* its identity: of no other sample of this process */
    void *block;            /* where it lies */
    size_t size;            /* bytes that were asked for; of more than 4 MiB, in whole pages */
    size_t usable;          /* bytes that may be used */
    size_t counted;         /* bytes that it counts as: it stands for 1 / (1 - exp(-counted / rate)) allocations */
    size_t rate;            /* bytes for a sample on average, when it was allocated */
    uint64_t age;           /* nanoseconds since it was allocated */
    const uintptr_t *stack; /* addresses of the calls that led to this allocation or free, the innermost first */
    size_t depth;           /* how many */
};

/*
 * Functions that want to know of samples, null for none, and what they are called with.
 *
 * `allocated` is called when a sample has been allocated and nobody has its address yet, `freed` before it is freed, while
 * its bytes are still there, or when it has got another size. *SAMPLE and its stack are theirs until they return. They
 * are called by the thread that allocates or frees, with nothing of the allocator's held, in signal handlers if those
 * allocate, by several threads at a time; and may allocate and free: what they do so themselves is counted, and not told.
 * The caller of malloc may hold locks, of its own or of the C library's: they must wait for none of those. They return as
 * usual, by no jump and no exception. A free is told only of a sample whose allocation was; one that a function frees
 * itself is not.
 */
struct specmalloc_watcher {
    void (*allocated)(void *context, const struct specmalloc_sample *sample);
    void (*freed)(void *context, const struct specmalloc_sample *sample);
    void *context;
};

/*
 * Of libspecmalloc_profile.so, which is loaded beside libspecmalloc.so, and has to be: has samples told to *WATCHER from
 * now on, to nobody if it is null. *WATCHER stays as it is for as long as the process runs; other threads may be inside
 * the one before for a while. How many samples there are says the option "profile", which is off at first. Returns 0; or
 * ENOSYS, if libspecmalloc.so is not the allocator, or EINVAL, if *WATCHER has no function, and then nothing has changed.
 */
int specmalloc_watch_samples(const struct specmalloc_watcher *watcher);

/* The version of the library: "MAJOR.MINOR.PATCH". */
const char *specmalloc_version(void);

#ifdef __cplusplus
}
#endif

#endif
