/* Calls that change a file as a whole, its name, or ask about the space that is left. */

#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define ALSO(name, other) extern __typeof__(name) other __attribute__((alias(#name)));

/* Whether a call is to fail; then `errno` says how. */
static bool fails(struct order order)
{
    if (order.error)
        errno = order.error;
    return order.error;
}

/* What is on the disk for good */

int fsync(int descriptor)
{
    if (fails(order_descriptor(CALL_FSYNC, descriptor)))
        return -1;
    return NEXT(fsync)(descriptor);
}

int fdatasync(int descriptor)
{
    if (fails(order_descriptor(CALL_FSYNC, descriptor)))
        return -1;
    return NEXT(fdatasync)(descriptor);
}

int syncfs(int descriptor)
{
    if (fails(order_descriptor(CALL_FSYNC, descriptor)))
        return -1;
    return NEXT(syncfs)(descriptor);
}

int sync_file_range(int descriptor, off64_t offset, off64_t length, unsigned flags)
{
    if (fails(order_descriptor(CALL_FSYNC, descriptor)))
        return -1;
    return NEXT(sync_file_range)(descriptor, offset, length, flags);
}

/* Blocks */

int fallocate(int descriptor, int mode, off_t offset, off_t length)
{
    if (fails(order_descriptor(CALL_ALLOCATE, descriptor)))
        return -1;
    bool frees = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE);
    if (!frees && !take_range(descriptor, offset, length)) {
        errno = ENOSPC;
        return -1;
    }
    int64_t before = blocks_of(descriptor);
    int result = NEXT(fallocate)(descriptor, mode, offset, length);
    if (!result) {
        gave_back(descriptor, before);
        stamp(descriptor);
    }
    return result;
}

int posix_fallocate(int descriptor, off_t offset, off_t length)
{
    struct order order = order_descriptor(CALL_ALLOCATE, descriptor);
    if (order.error)
        return order.error;
    return take_range(descriptor, offset, length)
               ? NEXT(posix_fallocate)(descriptor, offset, length)
               : ENOSPC;
}

int ftruncate(int descriptor, off_t length)
{
    if (fails(order_descriptor(CALL_TRUNCATE, descriptor)))
        return -1;
    int64_t before = blocks_of(descriptor);
    int result = NEXT(ftruncate)(descriptor, length);
    if (!result) {
        gave_back(descriptor, before);
        stamp(descriptor);
    }
    return result;
}

int truncate(const char *path, off_t length)
{
    if (fails(order_name(CALL_TRUNCATE, AT_FDCWD, path)))
        return -1;
    struct stat status;
    int64_t before = blocks_of_name(AT_FDCWD, path);
    int result = NEXT(truncate)(path, length);
    if (!result && !stat(path, &status))
        gave_back_name(before - status.st_blocks);
    return result;
}

ALSO(fallocate, fallocate64)
ALSO(posix_fallocate, posix_fallocate64)
ALSO(ftruncate, ftruncate64)
ALSO(truncate, truncate64)

/* Opening for writing, or making */

static bool is_change(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
}

static int opened(int folder, const char *path, int flags, mode_t mode)
{
    int64_t before = -1;
    if (is_change(flags)) {
        if (fails(order_name(CALL_OPEN, folder, path)))
            return -1;
        before = flags & O_TRUNC ? blocks_of_name(folder, path) : -1;
    }
    int descriptor = NEXT(openat)(folder, path, flags, mode);
    if (descriptor >= 0 && is_change(flags)) {
        gave_back_name(before);
        if (flags & (O_CREAT | O_TRUNC) && lseek(descriptor, 0, SEEK_END) == 0)
            stamp(descriptor);
        lseek(descriptor, 0, SEEK_SET);
    }
    return descriptor;
}

static mode_t mode_of(int flags, va_list *more)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(*more, mode_t) : 0;
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, &more);
    va_end(more);
    return opened(folder, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, &more);
    va_end(more);
    return opened(AT_FDCWD, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* As a compiler that checks arguments calls them. */

int __open_2(const char *path, int flags)
{
    return opened(AT_FDCWD, path, flags, 0);
}

int __openat_2(int folder, const char *path, int flags)
{
    return opened(folder, path, flags, 0);
}

ALSO(open, open64)
ALSO(openat, openat64)
ALSO(creat, creat64)
ALSO(__open_2, __open64_2)
ALSO(__openat_2, __openat64_2)

/* Names */

static int named(int result, int64_t before)
{
    if (!result)
        gave_back_name(before);
    return result;
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    if (fails(order_name(CALL_NAME, from, old)))
        return -1;
    int64_t before = flags & RENAME_EXCHANGE ? -1 : blocks_of_name(to, new);
    return named(NEXT(renameat2)(from, old, to, new, flags), before);
}

int renameat(int from, const char *old, int to, const char *new)
{
    if (fails(order_name(CALL_NAME, from, old)))
        return -1;
    int64_t before = blocks_of_name(to, new);
    return named(NEXT(renameat)(from, old, to, new), before);
}

int rename(const char *old, const char *new)
{
    return renameat(AT_FDCWD, old, AT_FDCWD, new);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (fails(order_name(CALL_NAME, to, new)))
        return -1;
    return NEXT(linkat)(from, old, to, new, flags);
}

int link(const char *old, const char *new)
{
    return linkat(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int symlinkat(const char *text, int folder, const char *path)
{
    if (fails(order_name(CALL_NAME, folder, path)))
        return -1;
    return NEXT(symlinkat)(text, folder, path);
}

int symlink(const char *text, const char *path)
{
    return symlinkat(text, AT_FDCWD, path);
}

int unlinkat(int folder, const char *path, int flags)
{
    if (fails(order_name(CALL_NAME, folder, path)))
        return -1;
    int64_t before = flags & AT_REMOVEDIR ? -1 : blocks_of_name(folder, path);
    return named(NEXT(unlinkat)(folder, path, flags), before);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    if (fails(order_name(CALL_NAME, folder, path)))
        return -1;
    return NEXT(mkdirat)(folder, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

/* What is left */

#define LOWER(found, left) \
    if ((left) >= 0 && (uint64_t)(left) / (found)->f_frsize < (found)->f_bavail) \
        (found)->f_bfree = (found)->f_bavail = (uint64_t)(left) / (found)->f_frsize;

int statvfs(const char *path, struct statvfs *found)
{
    int result = NEXT(statvfs)(path, found);
    if (!result)
        LOWER(found, left_for(-1, path))
    return result;
}

int statvfs64(const char *path, struct statvfs64 *found)
{
    int result = NEXT(statvfs64)(path, found);
    if (!result)
        LOWER(found, left_for(-1, path))
    return result;
}

int fstatvfs(int descriptor, struct statvfs *found)
{
    int result = NEXT(fstatvfs)(descriptor, found);
    if (!result)
        LOWER(found, left_for(descriptor, NULL))
    return result;
}

int fstatvfs64(int descriptor, struct statvfs64 *found)
{
    int result = NEXT(fstatvfs64)(descriptor, found);
    if (!result)
        LOWER(found, left_for(descriptor, NULL))
    return result;
}
