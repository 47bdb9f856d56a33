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
    uint64_t cached_bytes;        /* free blocks inside slabs, and huge blocks kept for reuse */
    uint64_t dirty_bytes;         /* free slices that may still be resident */
    uint64_t reserved_bytes;      /* address space mapped */
    uint64_t resident_bytes;      /* of it thought resident: an estimate, the kernel is not asked */
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
    uint64_t metadata_bytes;      /* the allocator's own records, outside arenas */
};

/*
 * Stores the figures of this moment in the first SIZE bytes of *OUT and returns how many bytes this library knows;
 * fields beyond that are set to zero. Call with sizeof *out.
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

/* Bytes that may be used of the block at POINTER, 0 for null. */
size_t specmalloc_usable_size(const void *pointer);

/*
 * A number that stands for the heap that the block at POINTER belongs to, equal for blocks of one heap. 0 for a block
 * of more than 32 KiB, which belongs to none, and for anything that is no live block of specmalloc's. Any pointer may
 * be asked about.
 */
size_t specmalloc_heap_of(const void *pointer);

/* The version of the library: "MAJOR.MINOR.PATCH". */
const char *specmalloc_version(void);

#ifdef __cplusplus
}
#endif

#endif
