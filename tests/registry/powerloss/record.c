/* Records every change a process makes to files below $RECORD_ROOT, in order, into $RECORD_LOG.
 *
 * One line per operation: its letter, the path, and what it takes, separated by tabs; data in
 * hexadecimal. C create or truncate on open, W write, T truncate, S sync, R rename, L link,
 * U unlink, M mkdir. Preloaded with LD_PRELOAD; offsets of plain writes are asked from the kernel.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void emit(const char *data, size_t size) {
    if (log_fd < 0) {
        const char *path = getenv("RECORD_LOG");
        if (!path) return;
        log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    while (size > 0) {
        long done = syscall(SYS_write, log_fd, data, size);
        if (done <= 0) return;
        data += done;
        size -= done;
    }
}

static int inside(const char *path) {
    const char *root = getenv("RECORD_ROOT");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    if (size < 0) return NULL;
    buffer[size] = 0;
    return inside(buffer) ? buffer : NULL;
}

static void note(char kind, const char *path, const char *rest) {
    char line[3 * PATH_MAX];
    int size = snprintf(line, sizeof line, "%c\t%s\t%s\n", kind, path, rest);
    pthread_mutex_lock(&lock);
    emit(line, size);
    pthread_mutex_unlock(&lock);
}

static void note_write(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX], head[PATH_MAX + 64];
    if (!path_of(fd, path)) return;
    char *hex = malloc(2 * size + 2);
    for (size_t i = 0; i < size; i++) sprintf(hex + 2 * i, "%02x", ((const unsigned char *)data)[i]);
    hex[2 * size] = '\n';
    int length = snprintf(head, sizeof head, "W\t%s\t%lld\t", path, (long long)offset);
    pthread_mutex_lock(&lock);
    emit(head, length);
    emit(hex, 2 * size + 1);
    pthread_mutex_unlock(&lock);
    free(hex);
}

static int opened(int fd, int flags, int existed) {
    char path[PATH_MAX];
    if (fd >= 0 && path_of(fd, path)) {
        if ((flags & O_CREAT) && !existed) note('C', path, "new");
        else if (flags & O_TRUNC) note('T', path, "0");
    }
    return fd;
}

#define OPEN(NAME, PARAMETERS, WHERE, CALL)                                                        \
    int NAME PARAMETERS {                                                                          \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                       \
            va_list list;                                                                          \
            va_start(list, flags);                                                                 \
            mode = va_arg(list, mode_t);                                                           \
            va_end(list);                                                                          \
        }                                                                                          \
        int existed = syscall(SYS_faccessat, WHERE, path, F_OK) == 0;                              \
        return opened(CALL, flags, existed);                                                       \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, syscall(SYS_openat, AT_FDCWD, path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, syscall(SYS_openat, AT_FDCWD, path, flags, mode))
OPEN(openat, (int dir, const char *path, int flags, ...), dir, syscall(SYS_openat, dir, path, flags, mode))
OPEN(openat64, (int dir, const char *path, int flags, ...), dir, syscall(SYS_openat, dir, path, flags, mode))

ssize_t write(int fd, const void *data, size_t size) {
    off_t offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    ssize_t done = ((ssize_t(*)(int, const void *, size_t))real("write"))(fd, data, size);
    if (done > 0 && offset >= 0) note_write(fd, data, done, offset);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
    if (done > 0) note_write(fd, data, done, offset);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX], text[32];
    int result = syscall(SYS_ftruncate, fd, size);
    snprintf(text, sizeof text, "%lld", (long long)size);
    if (result == 0 && path_of(fd, path)) note('T', path, text);
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd, int result) {
    char path[PATH_MAX];
    if (result == 0 && path_of(fd, path)) note('S', path, "");
    return result;
}
int fsync(int fd) { return synced(fd, ((int (*)(int))real("fsync"))(fd)); }
int fdatasync(int fd) { return synced(fd, ((int (*)(int))real("fdatasync"))(fd)); }

int rename(const char *from, const char *to) {
    int result = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0 && inside(from)) note('R', from, to);
    return result;
}
int link(const char *from, const char *to) {
    int result = syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0 && inside(from)) note('L', from, to);
    return result;
}
int unlink(const char *path) {
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0 && inside(path)) note('U', path, "");
    return result;
}
int mkdir(const char *path, mode_t mode) {
    int result = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (result == 0 && inside(path)) note('M', path, "");
    return result;
}
