/* What the parts of the library share. It is loaded into a process before all others (LD_PRELOAD)
   and stands between the process and the C library. What it is to do is in files that the test maps
   as well and changes while the process runs. */

#ifndef SHIM_H
#define SHIM_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The function that would have been called without us. */
#define NEXT(name) \
    ({ \
        static __typeof__(&name) found; \
        if (!found) \
            found = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
        found; \
    })

/* Map the file that a variable names; NULL where it names none. Exits where it cannot. */
void *shared_state(const char *variable, size_t size);

/* clock.c: give a file that was changed just now the time that the process believes in. */
void stamp(int descriptor);

/* disk.c: the kinds of calls; the numbers are those of disk.py. */
enum call { CALL_READ, CALL_WRITE, CALL_FSYNC, CALL_ALLOCATE, CALL_TRUNCATE, CALL_OPEN, CALL_NAME };

/* What may be done of a call: an error of 0 for none, and how many bytes come before it. */
struct order {
    int error;
    size_t length;
};

/* Whether the process has a disk at all of which something is wrong. */
bool disk_is_armed(void);

/* What may be done of reading, writing or any other use of an open file. An offset of -1 stands for
   the file's own position. */
struct order order_read(int descriptor, size_t length);
struct order order_write(int descriptor, off_t offset, size_t length);
struct order order_descriptor(enum call kind, int descriptor);

/* The same of a name below an open folder. */
struct order order_name(enum call kind, int folder, const char *path);

/* Space: what a range would take that has none yet; false when the disk has no more. */
bool take_range(int descriptor, off_t offset, off_t length);

/* Space that a change of an open file or the removal of a name gave back. */
int64_t blocks_of(int descriptor);
int64_t blocks_of_name(int folder, const char *path);
void gave_back(int descriptor, int64_t before);
void gave_back_name(int64_t before);

/* The bytes that are left, for a path or an open file in the folder; -1 for no limit. */
int64_t left_for(int descriptor, const char *path);

#endif
