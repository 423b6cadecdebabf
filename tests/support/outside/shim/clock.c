/* A wall clock that is wrong by so many nanoseconds. Monotonic clocks are as they are. */

#include "shim.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *shift;

__attribute__((constructor(101))) static void begin(void)
{
    shift = shared_state("SM_TEST_CLOCK", sizeof *shift);
}

static int64_t wrong_by(void)
{
    return shift ? *shift : 0;
}

static void add(struct timespec *time, int64_t nanoseconds)
{
    int64_t sum = time->tv_nsec + nanoseconds % SECOND;
    time->tv_sec += nanoseconds / SECOND + (sum < 0 ? -1 : sum / SECOND);
    time->tv_nsec = sum < 0 ? sum + SECOND : sum % SECOND;
}

static bool is_wall(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = NEXT(clock_gettime)(clock, time);
    if (!result && is_wall(clock))
        add(time, wrong_by());
    return result;
}

int gettimeofday(struct timeval *time, void *zone)
{
    int result = NEXT(gettimeofday)(time, zone);
    if (!result) {
        struct timespec now = {time->tv_sec, time->tv_usec * 1000};
        add(&now, wrong_by());
        *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    }
    return result;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *time, int base)
{
    int result = NEXT(timespec_get)(time, base);
    if (result == TIME_UTC)
        add(time, wrong_by());
    return result;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    struct timespec real = *until;
    if (is_wall(clock) && flags & TIMER_ABSTIME)
        add(&real, -wrong_by());
    return NEXT(clock_nanosleep)(clock, flags, &real, left);
}

/* Times of files. The kernel's clock is right; so what a process changes while its clock is wrong,
   is given the time that the kernel would have given it. */

static void now_for_files(struct timespec time[2])
{
    clock_gettime(CLOCK_REALTIME, &time[0]);
    time[1] = time[0];
}

static const struct timespec *shifted(const struct timespec given[2], struct timespec own[2])
{
    if (!wrong_by())
        return given;
    now_for_files(own);
    for (int which = 0; given && which < 2; which++)
        if (given[which].tv_nsec != UTIME_NOW)
            own[which] = given[which];
    return own;
}

void stamp(int descriptor)
{
    struct timespec time[2];
    if (!wrong_by())
        return;
    now_for_files(time);
    time[0].tv_nsec = UTIME_OMIT;
    syscall(SYS_utimensat, descriptor, NULL, time, 0);
}

int utimensat(int folder, const char *path, const struct timespec given[2], int flags)
{
    struct timespec own[2];
    return NEXT(utimensat)(folder, path, shifted(given, own), flags);
}

int futimens(int descriptor, const struct timespec given[2])
{
    struct timespec own[2];
    return NEXT(futimens)(descriptor, shifted(given, own));
}
