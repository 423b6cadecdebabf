/* Calls that move bytes between a process and a file, or between files. */

#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REFUSED(order) ((order).error && !(order).length)

static ssize_t refuse(int error)
{
    errno = error;
    return -1;
}

/* How a call ends of which something may have been done. */

static ssize_t got(struct order order, ssize_t result)
{
    return result >= 0 && order.error ? refuse(order.error) : result;
}

static ssize_t wrote(int descriptor, struct order order, ssize_t result)
{
    if (result > 0)
        stamp(descriptor);
    return got(order, result);
}

/* Bytes of a vector, and as many entries of it as cover the first so many. */

static size_t total(const struct iovec *parts, int count)
{
    size_t sum = 0;
    for (int part = 0; part < count; part++)
        sum += parts[part].iov_len;
    return sum;
}

static int cut(const struct iovec *parts, int count, size_t length, struct iovec *cut)
{
    int part = 0;
    for (; part < count && length; part++) {
        cut[part] = parts[part];
        if (cut[part].iov_len > length)
            cut[part].iov_len = length;
        length -= cut[part].iov_len;
    }
    return part;
}

#define CUT(parts, count, order) \
    struct iovec shorter[IOV_MAX]; \
    if (count > 0 && count <= IOV_MAX && (order).length < total(parts, count)) { \
        count = cut(parts, count, (order).length, shorter); \
        parts = shorter; \
    }

/* Reading */

ssize_t read(int descriptor, void *bytes, size_t length)
{
    struct order order = order_read(descriptor, length);
    return REFUSED(order) ? refuse(order.error)
                          : got(order, NEXT(read)(descriptor, bytes, order.length));
}

ssize_t pread(int descriptor, void *bytes, size_t length, off_t offset)
{
    struct order order = order_read(descriptor, length);
    return REFUSED(order) ? refuse(order.error)
                          : got(order, NEXT(pread)(descriptor, bytes, order.length, offset));
}

ssize_t readv(int descriptor, const struct iovec *parts, int count)
{
    struct order order = order_read(descriptor, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return got(order, NEXT(readv)(descriptor, parts, count));
}

ssize_t preadv(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    struct order order = order_read(descriptor, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return got(order, NEXT(preadv)(descriptor, parts, count, offset));
}

ssize_t preadv2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
{
    struct order order = order_read(descriptor, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return got(order, NEXT(preadv2)(descriptor, parts, count, offset, flags));
}

/* Writing */

ssize_t write(int descriptor, const void *bytes, size_t length)
{
    struct order order = order_write(descriptor, -1, length);
    if (REFUSED(order))
        return refuse(order.error);
    return wrote(descriptor, order, NEXT(write)(descriptor, bytes, order.length));
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset)
{
    struct order order = order_write(descriptor, offset, length);
    if (REFUSED(order))
        return refuse(order.error);
    return wrote(descriptor, order, NEXT(pwrite)(descriptor, bytes, order.length, offset));
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    struct order order = order_write(descriptor, -1, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return wrote(descriptor, order, NEXT(writev)(descriptor, parts, count));
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    struct order order = order_write(descriptor, offset, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return wrote(descriptor, order, NEXT(pwritev)(descriptor, parts, count, offset));
}

ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
{
    struct order order = order_write(descriptor, offset, total(parts, count));
    if (REFUSED(order))
        return refuse(order.error);
    CUT(parts, count, order)
    return wrote(descriptor, order, NEXT(pwritev2)(descriptor, parts, count, offset, flags));
}

/* Between files */

static size_t at_most(int descriptor, size_t length)
{
    struct stat status;
    bool known = !fstat(descriptor, &status) && S_ISREG(status.st_mode);
    return known && (size_t)status.st_size < length ? (size_t)status.st_size : length;
}

ssize_t copy_file_range(int from, off64_t *source, int to, off64_t *target, size_t length,
                        unsigned flags)
{
    struct order read = order_read(from, length);
    if (REFUSED(read))
        return refuse(read.error);
    /* Programs ask for far more than there is; space is taken only for what there is. */
    size_t wanted = disk_is_armed() ? at_most(from, read.length) : read.length;
    struct order write = order_write(to, target ? *target : -1, wanted);
    if (REFUSED(write))
        return refuse(write.error);
    ssize_t result = NEXT(copy_file_range)(from, source, to, target, write.length, flags);
    return got(read, wrote(to, write, result));
}

ssize_t sendfile(int to, int from, off_t *source, size_t length)
{
    struct order read = order_read(from, length);
    if (REFUSED(read))
        return refuse(read.error);
    size_t wanted = disk_is_armed() ? at_most(from, read.length) : read.length;
    struct order write = order_write(to, -1, wanted);
    if (REFUSED(write))
        return refuse(write.error);
    return got(read, wrote(to, write, NEXT(sendfile)(to, from, source, write.length)));
}

/* The same under the names for large files, which are the same here. */

#define ALSO(name, other) extern __typeof__(name) other __attribute__((alias(#name)));

ALSO(pread, pread64)
ALSO(preadv, preadv64)
ALSO(preadv2, preadv64v2)
ALSO(pwrite, pwrite64)
ALSO(pwritev, pwritev64)
ALSO(pwritev2, pwritev64v2)
ALSO(sendfile, sendfile64)
