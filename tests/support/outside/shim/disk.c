/* A folder on a disk that fills or fails: what may be done of a call. */

#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RULES 64
#define BLOCK 4096
#define SECTOR 512
#define SECOND 1000000000LL

/* One fault; as in disk.py. */
struct rule {
    int64_t active;
    int64_t kinds;        /* bits, by the numbers of enum call */
    int64_t error;        /* 0 for none */
    int64_t length;       /* so many bytes are transferred before it; -1 for all that was asked */
    int64_t nanoseconds;  /* the call takes so much longer */
    int64_t after;        /* so many calls are spared */
    int64_t times;        /* so many calls are met; -1 for all */
    int64_t seen;
    int64_t met;
    char pattern[128];    /* of names below the folder */
};

struct disk {
    int64_t limited;      /* whether there is a limit of space */
    int64_t told;         /* whether who asks for the space that is left is told of it */
    int64_t left;         /* bytes */
    int64_t refused;      /* so many calls had no space, or not enough */
    char folder[PATH_MAX];
    struct rule rules[RULES];
};

static struct disk *disk;
static pthread_mutex_t walking = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor(101))) static void begin(void)
{
    disk = shared_state("SM_TEST_DISK", sizeof *disk);
}

bool disk_is_armed(void)
{
    if (!disk)
        return false;
    bool armed = __atomic_load_n(&disk->limited, __ATOMIC_ACQUIRE);
    for (int number = 0; number < RULES && !armed; number++)
        armed = __atomic_load_n(&disk->rules[number].active, __ATOMIC_ACQUIRE);
    return armed;
}

/* Names */

static bool read_link(const char *link, char *found)
{
    ssize_t length = readlink(link, found, PATH_MAX - 1);
    if (length < 0)
        return false;
    found[length] = 0;
    char *deleted = strstr(found, " (deleted)");
    if (deleted)
        *deleted = 0;
    return true;
}

static bool path_of(int descriptor, char *found)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    return read_link(link, found);
}

/* The whole path of a name: its folder without links, and the name as it is. */
static bool whole_path(int folder, const char *path, char *found)
{
    char given[2 * PATH_MAX], parent[PATH_MAX];
    if (path[0] == '/' || folder == AT_FDCWD)
        snprintf(given, sizeof given, "%s", path);
    else if (path_of(folder, parent))
        snprintf(given, sizeof given, "%s/%s", parent, path);
    else
        return false;
    char *slash = strrchr(given, '/');
    const char *name = slash ? slash + 1 : given;
    if (slash)
        *slash = 0;
    const char *above = slash ? (given[0] ? given : "/") : ".";
    if (!realpath(above, parent))
        return false;
    const char *root = strcmp(parent, "/") ? parent : "";
    return snprintf(found, PATH_MAX, "%s/%s", root, name) < PATH_MAX;
}

/* The name below the folder; NULL for one that is elsewhere. */
static const char *inside(const char *path)
{
    size_t length = strlen(disk->folder);
    if (strncmp(path, disk->folder, length))
        return NULL;
    return path[length] == '/' ? path + length + 1 : path[length] ? NULL : ".";
}

/* Faults */

static bool is_due(struct rule *rule)
{
    int64_t seen = __atomic_fetch_add(&rule->seen, 1, __ATOMIC_ACQ_REL);
    return seen >= rule->after && (rule->times < 0 || seen < rule->after + rule->times);
}

static struct order judge(enum call kind, const char *path, size_t length)
{
    struct order order = {0, length};
    const char *name = inside(path);
    for (int number = 0; name && number < RULES; number++) {
        struct rule *rule = &disk->rules[number];
        if (!__atomic_load_n(&rule->active, __ATOMIC_ACQUIRE) || !(rule->kinds >> kind & 1)
            || fnmatch(rule->pattern, name, 0) || !is_due(rule))
            continue;
        __atomic_fetch_add(&rule->met, 1, __ATOMIC_ACQ_REL);
        struct timespec time = {rule->nanoseconds / SECOND, rule->nanoseconds % SECOND};
        if (rule->nanoseconds)
            nanosleep(&time, NULL);
        if (rule->length >= 0 && (size_t)rule->length < order.length)
            order.length = rule->length;
        if (rule->error) {
            order.error = (int)rule->error;
            break;
        }
    }
    return order;
}

struct order order_read(int descriptor, size_t length)
{
    char path[PATH_MAX];
    struct order all = {0, length};
    return disk_is_armed() && path_of(descriptor, path) ? judge(CALL_READ, path, length) : all;
}

struct order order_descriptor(enum call kind, int descriptor)
{
    char path[PATH_MAX];
    struct order all = {0, 0};
    return disk_is_armed() && path_of(descriptor, path) ? judge(kind, path, 0) : all;
}

struct order order_name(enum call kind, int folder, const char *path)
{
    char whole[PATH_MAX];
    struct order all = {0, 0};
    return disk_is_armed() && whole_path(folder, path, whole) ? judge(kind, whole, 0) : all;
}

/* Space */

static int64_t upwards(int64_t number)
{
    return (number + BLOCK - 1) / BLOCK * BLOCK;
}

/* How far a range may be written with so many bytes left; `used` becomes what that takes. Only
   blocks that the file has not got yet take space. */
static off_t reach(int descriptor, off_t offset, off_t end, int64_t left, int64_t *used)
{
    off_t position = offset / BLOCK * BLOCK;
    *used = 0;
    while (position < end) {
        off_t data = lseek(descriptor, position, SEEK_DATA);
        if (data == position) {
            off_t hole = lseek(descriptor, position, SEEK_HOLE);
            position = hole < 0 ? end : upwards(hole);
            continue;
        }
        off_t stop = data < 0 || data > upwards(end) ? upwards(end) : data / BLOCK * BLOCK;
        if (*used + (stop - position) > left) {
            position += (left - *used) / BLOCK * BLOCK;
            *used += (left - *used) / BLOCK * BLOCK;
            break;
        }
        *used += stop - position;
        position = stop;
    }
    return position < end ? position : end;
}

/* Take the space of a range, or with `whole` nothing if there is too little; returns for how many
   bytes there was some. */
static size_t take(int descriptor, off_t offset, size_t length, bool whole)
{
    int64_t used;
    struct stat status;
    if (fstat(descriptor, &status) || !S_ISREG(status.st_mode) || !length)
        return length;
    pthread_mutex_lock(&walking);
    off_t own = lseek(descriptor, 0, SEEK_CUR);
    if (offset < 0)
        offset = fcntl(descriptor, F_GETFL) & O_APPEND ? status.st_size : own;
    int64_t left = __atomic_load_n(&disk->left, __ATOMIC_ACQUIRE);
    off_t end = reach(descriptor, offset, offset + (off_t)length, left < 0 ? 0 : left, &used);
    lseek(descriptor, own, SEEK_SET);
    size_t allowed = end <= offset ? 0 : (size_t)(end - offset);
    if (allowed < length)
        __atomic_fetch_add(&disk->refused, 1, __ATOMIC_ACQ_REL);
    if (allowed == length || !whole)
        __atomic_fetch_sub(&disk->left, used, __ATOMIC_ACQ_REL);
    pthread_mutex_unlock(&walking);
    return allowed;
}

struct order order_write(int descriptor, off_t offset, size_t length)
{
    char path[PATH_MAX];
    struct order order = {0, length};
    if (!disk_is_armed() || !path_of(descriptor, path))
        return order;
    order = judge(CALL_WRITE, path, length);
    if (disk->limited && order.length && inside(path)) {
        size_t allowed = take(descriptor, offset, order.length, false);
        if (!allowed)
            order.error = ENOSPC;
        order.length = allowed;
    }
    return order;
}

bool take_range(int descriptor, off_t offset, off_t length)
{
    char path[PATH_MAX];
    if (!disk_is_armed() || !disk->limited || !path_of(descriptor, path) || !inside(path))
        return true;
    return take(descriptor, offset, (size_t)length, true) == (size_t)length;
}

int64_t blocks_of(int descriptor)
{
    char path[PATH_MAX];
    struct stat status;
    if (!disk_is_armed() || !disk->limited || !path_of(descriptor, path) || !inside(path)
        || fstat(descriptor, &status))
        return -1;
    return status.st_blocks;
}

void gave_back(int descriptor, int64_t before)
{
    struct stat status;
    if (before >= 0 && !fstat(descriptor, &status) && status.st_blocks < before)
        gave_back_name(before - status.st_blocks);
}

int64_t blocks_of_name(int folder, const char *path)
{
    char whole[PATH_MAX];
    struct stat status;
    if (!disk_is_armed() || !disk->limited || !whole_path(folder, path, whole) || !inside(whole)
        || lstat(whole, &status) || status.st_nlink > 1)
        return -1;
    return status.st_blocks;
}

void gave_back_name(int64_t before)
{
    if (before > 0)
        __atomic_fetch_add(&disk->left, before * SECTOR, __ATOMIC_ACQ_REL);
}

int64_t left_for(int descriptor, const char *path)
{
    char whole[PATH_MAX];
    if (!disk_is_armed() || !disk->limited || !disk->told)
        return -1;
    if (!(path ? realpath(path, whole) != NULL : path_of(descriptor, whole)) || !inside(whole))
        return -1;
    int64_t left = __atomic_load_n(&disk->left, __ATOMIC_ACQUIRE);
    return left < 0 ? 0 : left;
}
