/* SPDX-License-Identifier: Apache-2.0
 *
 * Bad disks and bad clocks for one process: LD_PRELOAD this library; FAULTS_CONTROL names a file with `struct control`, which is
 * mapped, so that a test can change it while the process runs. FAULTS_PATH is the directory that the disk faults are about.
 *
 * Disk: fsync, fdatasync, write, pwrite and posix_fallocate on files below FAULTS_PATH are delayed, or fail.
 * Clock: CLOCK_REALTIME is moved by an offset; the monotonic clocks run faster or slower by a rate.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SYNC = 1, WRITE = 2, ALLOCATE = 4 };

struct control {
    _Atomic int64_t delay_us;     /* before every sync */
    _Atomic int64_t error;        /* errno to fail with, 0: none */
    _Atomic int64_t calls;        /* which calls fail: SYNC | WRITE | ALLOCATE */
    _Atomic int64_t failures;     /* how many more calls fail, -1: all */
    _Atomic int64_t offset_ns;    /* added to CLOCK_REALTIME */
    _Atomic int64_t rate_ppm;     /* monotonic clocks: this many microseconds a second too fast */
    _Atomic int64_t seen_syncs;   /* told: syncs below FAULTS_PATH */
    _Atomic int64_t seen_failures;/* told: calls that were made to fail */
    _Atomic int64_t seen_after;   /* told: disk calls after the first one that failed */
};

static struct control *control;
static const char *directory;
static int64_t began[2]; /* CLOCK_MONOTONIC and CLOCK_BOOTTIME when the rate began, ns */

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_fallocate)(int, off64_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t), (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_sem)(sem_t *, clockid_t, const struct timespec *);

static int64_t nanoseconds(const struct timespec *t) { return t->tv_sec * 1000000000LL + t->tv_nsec; }

static void set(struct timespec *t, int64_t ns) {
    t->tv_sec = ns / 1000000000LL;
    t->tv_nsec = ns % 1000000000LL;
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    real_clock(clock, &t);
    return nanoseconds(&t);
}

__attribute__((constructor)) static void begin(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_sem = dlsym(RTLD_NEXT, "sem_clockwait");
    real_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* not the one for older programs */
    if (!real_wait) real_wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    const char *path = getenv("FAULTS_CONTROL");
    directory = getenv("FAULTS_PATH");
    began[0] = now(CLOCK_MONOTONIC);
    began[1] = now(CLOCK_BOOTTIME);
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) control = found;
}

/* --- disks --- */

static int concerned(int file) {
    char link[64], path[4096];
    if (!control || !directory) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t wanted = strlen(directory);
    return length >= (ssize_t)wanted && !memcmp(path, directory, wanted) &&
           (length == (ssize_t)wanted || path[wanted] == '/');
}

static int fails(int kind) {
    if (control->seen_failures) control->seen_after++;
    if (!control->error || !(control->calls & kind)) return 0;
    if (control->failures == 0) return 0;
    if (control->failures > 0) control->failures--;
    control->seen_failures++;
    return (int)control->error;
}

static int sync_fails(int file) {
    if (!concerned(file)) return 0;
    control->seen_syncs++;
    if (control->delay_us) usleep((useconds_t)control->delay_us);
    return fails(SYNC);
}

int fsync(int file) {
    int error = sync_fails(file);
    return error ? (errno = error, -1) : real_fsync(file);
}

int fdatasync(int file) {
    int error = sync_fails(file);
    return error ? (errno = error, -1) : real_fdatasync(file);
}

ssize_t write(int file, const void *data, size_t size) {
    int error = control && control->error && (control->calls & WRITE) && concerned(file) ? fails(WRITE) : 0;
    return error ? (errno = error, -1) : real_write(file, data, size);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    int error = concerned(file) ? fails(WRITE) : 0;
    return error ? (errno = error, -1) : real_pwrite(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

int posix_fallocate64(int file, off64_t offset, off64_t size) {
    int error = concerned(file) ? fails(ALLOCATE) : 0;
    return error ? error : real_fallocate(file, offset, size);
}

int posix_fallocate(int file, off_t offset, off_t size) { return posix_fallocate64(file, offset, size); }

/* --- clocks --- */

static int runs(clockid_t clock) {
    return clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW ||
           clock == CLOCK_BOOTTIME;
}

static int is_real(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime"); /* asked before `begin` */
    int result = real_clock(clock, t);
    if (result || !control) return result;
    if (is_real(clock)) set(t, nanoseconds(t) + control->offset_ns);
    if (runs(clock)) {
        int64_t passed = nanoseconds(t) - began[clock == CLOCK_BOOTTIME];
        set(t, nanoseconds(t) + passed / 1000000 * control->rate_ppm);
    }
    return 0;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}

int gettimeofday(struct timeval *t, void *zone) {
    (void)zone;
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    t->tv_sec = found.tv_sec;
    t->tv_usec = found.tv_nsec / 1000;
    return 0;
}

/* A moment on the changed clock, as the kernel knows it: it does the waiting. */
static void kernel_time(clockid_t clock, const struct timespec *wanted, struct timespec *t) {
    *t = *wanted;
    if (!control) return;
    if (is_real(clock)) set(t, nanoseconds(wanted) - control->offset_ns);
    if (runs(clock)) {
        int64_t start = began[clock == CLOCK_BOOTTIME], passed = nanoseconds(wanted) - start;
        set(t, start + (int64_t)((double)passed / (1.0 + (double)control->rate_ppm / 1e6)));
    }
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *wanted) {
    struct timespec t;
    kernel_time(clock, wanted, &t);
    return real_sem(semaphore, clock, &t);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *wanted) {
    struct timespec t;
    /* Which clock a condition has cannot be asked; the machine has not been up for 30 years. */
    kernel_time(wanted->tv_sec > 946080000 ? CLOCK_REALTIME : CLOCK_MONOTONIC, wanted, &t);
    return real_wait(condition, mutex, &t);
}
