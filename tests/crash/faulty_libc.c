/* A machine on a bad day, under unchanged programs: preloaded, it lets the clock of a process stand wrong and the disk
 * be full, as a file that all its processes share says from one moment to the next. See faulty_machine.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PLACES 6

struct orders {
    int64_t step_seconds;      /* how far the clock stands wrong */
    int64_t full;              /* whether the disk is full */
    int64_t stepped;           /* how often a wrong time was told */
    int64_t refused[PLACES];   /* how many writes found no room, by place */
};

static const char *const places[PLACES] = {"/outbox/", "/receipts/", "/results/", "/ipfs/", "/leases/", "/"};
static struct orders nothing, *orders = &nothing;
static const char *disk;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void begin(void)
{
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    const char *path = getenv("FAULTY_MACHINE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *shared = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    disk = getenv("FAULTY_DISK");
    if (shared != MAP_FAILED)
        orders = shared;
}

static int64_t step(void)
{
    int64_t seconds = __atomic_load_n(&orders->step_seconds, __ATOMIC_RELAXED);
    if (seconds)
        __atomic_add_fetch(&orders->stepped, 1, __ATOMIC_RELAXED);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    pthread_once(&once, begin);
    int failed = real_clock_gettime(clock, now);
    if (!failed && clock == CLOCK_REALTIME)
        now->tv_sec += step();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (into)
        *into = exact.tv_sec;
    return exact.tv_sec;
}

/* Whether this write finds no room, which is counted. */
static int refused(int file)
{
    char link[64], path[4096];
    if (!disk || !__atomic_load_n(&orders->full, __ATOMIC_RELAXED))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t root = strlen(disk);
    if (length <= (ssize_t)root)
        return 0;
    path[length] = 0;
    /* What a person reads to find out what happened is on another disk. */
    if (strncmp(path, disk, root) || path[root] != '/' || !strncmp(path + root, "/logs/", 6))
        return 0;
    int place = 0;
    while (strncmp(path + root, places[place], strlen(places[place])))
        place++;
    __atomic_add_fetch(&orders->refused[place], 1, __ATOMIC_RELAXED);
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *bytes, size_t count)
{
    pthread_once(&once, begin);
    if (count && refused(file)) {
        /* The last room is used: a torn file, as a full disk leaves it. */
        return count > 16 && count % 2 ? real_write(file, bytes, count / 2) : -1;
    }
    return real_write(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *pieces, int count)
{
    pthread_once(&once, begin);
    return refused(file) ? -1 : real_writev(file, pieces, count);
}
