/* Writes down what is done to the files of a run, in its order: loaded before the C library into each of its processes.

   What is under $FWL_CHAOS is recorded: the database with its log and journal (not the shared memory, which a power cut
   takes away), the database that is being made, and each line of the ledger, so that one knows what was acknowledged when.
   A record is a header, a name and some bytes, appended to $FWL_CHAOS/record by one writev.

   Runs in: every process of a run.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    char kind;
    uint8_t unused;
    uint16_t name_size;
    uint32_t size;
    uint64_t offset;
    uint64_t inode;
};

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = dlsym(RTLD_NEXT, #name)

static const char *folder(void)
{
    static const char *found;
    if (!found) {
        found = getenv("FWL_CHAOS");
        if (!found) found = "";
    }
    return found;
}

/* The part of a path below the folder of the run, if it is to be recorded; NULL otherwise. */
static const char *wanted(const char *path)
{
    size_t size = strlen(folder());
    if (!size || strncmp(path, folder(), size)) return NULL;
    const char *name = path + size;
    if (!*name) return ".";
    if (*name++ != '/') return NULL;
    if (!strcmp(name, "ledger") || !strcmp(name, "jobs.db.d")) return name;
    if (!strncmp(name, "jobs.db.d/new.db", 16)) return name;
    if (strncmp(name, "jobs.db", 7) || strchr(name, '/')) return NULL;
    return strstr(name, "-shm") ? NULL : name;
}

static const char *name_of(int descriptor, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0) return NULL;
    path[length] = 0;
    return wanted(path);
}

static void record(char kind, const char *name, uint64_t inode, uint64_t offset, const void *data, uint32_t size)
{
    static int log = -1;
    if (log < 0) {
        REAL(open);
        char path[4096];
        snprintf(path, sizeof path, "%s/record", folder());
        int low = real(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        log = fcntl(low, F_DUPFD_CLOEXEC, 900); /* out of the way of those who close theirs by number */
        if (log < 0)
            log = low;
        else
            close(low);
    }
    struct header header = {kind, 0, (uint16_t)strlen(name), size, offset, inode};
    struct iovec parts[3] = {{&header, sizeof header}, {(void *)name, header.name_size}, {(void *)data, size}};
    if (writev(log, parts, 3) < 0) abort();
}

static uint64_t inode_of(int descriptor)
{
    struct stat found;
    return fstat(descriptor, &found) ? 0 : found.st_ino;
}

/* ---- files come into being */

static void see_open(const char *path, int flags, int descriptor)
{
    const char *name = descriptor >= 0 && flags & O_CREAT ? wanted(path) : NULL;
    struct stat found;
    if (name && strcmp(name, "ledger") && !fstat(descriptor, &found) && found.st_size == 0)
        record('c', name, found.st_ino, 0, NULL, 0);
}

#define OPEN(function) \
    int function(const char *path, int flags, ...) \
    { \
        REAL(function); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        int descriptor = real(path, flags, mode); \
        see_open(path, flags, descriptor); \
        return descriptor; \
    }
OPEN(open)
OPEN(open64)

/* ---- and change */

static void see_write(int descriptor, const void *data, ssize_t size, int64_t offset)
{
    char path[4096];
    const char *name = size > 0 ? name_of(descriptor, path, sizeof path) : NULL;
    if (!name) return;
    if (!strcmp(name, "ledger"))
        record('l', name, 0, 0, data, (uint32_t)size);
    else
        record('w', name, inode_of(descriptor), offset < 0 ? lseek(descriptor, 0, SEEK_CUR) - size : offset, data, size);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    REAL(write);
    ssize_t done = real(descriptor, data, size);
    see_write(descriptor, data, done, -1);
    return done;
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    REAL(pwrite);
    ssize_t done = real(descriptor, data, size, offset);
    see_write(descriptor, data, done, offset);
    return done;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset)
{
    REAL(pwrite64);
    ssize_t done = real(descriptor, data, size, offset);
    see_write(descriptor, data, done, offset);
    return done;
}

static int see_truncate(int descriptor, int64_t size, int result)
{
    char path[4096];
    const char *name = result ? NULL : name_of(descriptor, path, sizeof path);
    if (name) record('t', name, inode_of(descriptor), size, NULL, 0);
    return result;
}

int ftruncate(int descriptor, off_t size)
{
    REAL(ftruncate);
    return see_truncate(descriptor, size, real(descriptor, size));
}

int ftruncate64(int descriptor, off64_t size)
{
    REAL(ftruncate64);
    return see_truncate(descriptor, size, real(descriptor, size));
}

/* ---- and reach the disk: what was written before a sync began is there when it has ended */

static int sync_and_see(int (*real)(int), int descriptor)
{
    static __thread uint32_t count;
    char path[4096];
    const char *name = name_of(descriptor, path, sizeof path);
    struct stat found;
    if (!name || fstat(descriptor, &found)) return real(descriptor);
    if (S_ISDIR(found.st_mode)) {
        int result = real(descriptor);
        if (!result) record('d', name, found.st_ino, 0, NULL, 0);
        return result;
    }
    uint64_t token = (uint64_t)gettid() << 32 | ++count;
    record('b', name, found.st_ino, token, NULL, 0);
    int result = real(descriptor);
    if (!result) record('e', name, found.st_ino, token, NULL, 0);
    return result;
}

int fsync(int descriptor)
{
    REAL(fsync);
    return sync_and_see(real, descriptor);
}

int fdatasync(int descriptor)
{
    REAL(fdatasync);
    return sync_and_see(real, descriptor);
}

/* ---- and their names */

int unlink(const char *path)
{
    REAL(unlink);
    int result = real(path);
    const char *name = result ? NULL : wanted(path);
    if (name) record('u', name, 0, 0, NULL, 0);
    return result;
}

int rename(const char *old, const char *new)
{
    REAL(rename);
    int result = real(old, new);
    const char *from = result ? NULL : wanted(old), *to = result ? NULL : wanted(new);
    if (from && to) record('r', from, 0, 0, to, (uint32_t)strlen(to));
    return result;
}
