/* Delays every flush while the file named by SLOW_DISK says for how many milliseconds. Loaded before the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_as_told(void) {
    const char *name = getenv("SLOW_DISK");
    FILE *file = name ? fopen(name, "r") : NULL;
    unsigned milliseconds = 0;
    if (!file) return;
    if (fscanf(file, "%u", &milliseconds) == 1) usleep(milliseconds * 1000);
    fclose(file);
}

int fdatasync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    wait_as_told();
    return next(fd);
}

int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    wait_as_told();
    return next(fd);
}
