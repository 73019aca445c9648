// Stands between a process and its disk, and fails as told in the file named by DISK_FAULTS: a fault and a part of a
// file's name. "full log.db": no room for more in that file. "flush log.db": what was written to it is not kept.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *fault, int file) {
    char order[256] = {0}, link[64], path[4096];
    const char *orders = getenv("DISK_FAULTS");
    int from = orders ? open(orders, O_RDONLY | O_CLOEXEC) : -1;
    if (from < 0) return 0;
    ssize_t length = syscall(SYS_read, from, order, sizeof order - 1);
    syscall(SYS_close, from);
    char *name = length > 0 ? strchr(order, ' ') : NULL;
    if (!name) return 0;
    *name++ = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t end = readlink(link, path, sizeof path - 1);
    if (end < 0 || strcmp(order, fault)) return 0;
    path[end] = 0;
    return strstr(path, name) != NULL;
}

static int refuse(int why) {
    errno = why;
    return -1;
}

ssize_t write(int file, const void *bytes, size_t size) {
    return fails("full", file) ? refuse(ENOSPC) : syscall(SYS_write, file, bytes, size);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    return fails("full", file) ? refuse(ENOSPC) : syscall(SYS_pwrite64, file, bytes, size, at);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    return pwrite64(file, bytes, size, at);
}

int fsync(int file) {
    return fails("flush", file) ? refuse(EIO) : syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    return fails("flush", file) ? refuse(EIO) : syscall(SYS_fdatasync, file);
}
