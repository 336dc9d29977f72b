/* A wall clock that runs ahead or behind by as much as a file says.
 *
 *     cc -shared -fPIC -O1 -o chaos_clock.so chaos_clock.c
 *     CHAOS_CLOCK=/path/of/offset LD_PRELOAD=./chaos_clock.so redis-server ...
 *
 * The file holds one signed 64-bit integer in the machine's byte order: microseconds to add.
 * It is mapped, so a new value counts at once. Clocks that only go forward are left alone.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static const volatile int64_t *shift;

__attribute__((constructor)) static void map_the_file(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) shift = page;
    close(fd);
}

static int is_wall(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    /* The kernel is asked directly: the C library's function is the one we stand for. */
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && shift && is_wall(clock)) {
        int64_t all = (int64_t)now->tv_sec * SECOND + now->tv_nsec + *shift * 1000;
        now->tv_sec = all / SECOND;
        now->tv_nsec = all % SECOND;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (where) *where = precise.tv_sec;
    return precise.tv_sec;
}
