/* Stops a process in the middle of a checkpoint, between two instructions of SQLite: when it looks how far the log has been
   written back. Whoever writes then may begin the log anew, and the checkpoint goes on with what it had read before.

   The page of shared memory with that number is made unreadable; at the fault on it the file $FWL_RACE/at is made and
   $FWL_RACE/go waited for, 0.3 seconds at most. Every other access is let through one instruction at a time.

   Runs in: the process of tests/chaos/race.py that makes the checkpoint. Linux on x86-64.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
#define BACKFILLED 96 /* where the number stands: https://www.sqlite.org/walformat.html#the_wal_index_header */
#define TRAP_FLAG 0x100

static char *page;
static volatile int is_armed;

void *mmap64(void *address, size_t size, int protection, int flags, int descriptor, off64_t offset)
{
    static __typeof__(mmap64) *real;
    if (!real) real = dlsym(RTLD_NEXT, "mmap64");
    void *found = real(address, size, protection, flags, descriptor, offset);
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = found == MAP_FAILED || descriptor < 0 ? -1 : readlink(link, path, sizeof path);
    if (length > 4 && !memcmp(path + length - 4, "-shm", 4) && offset == 0) page = found;
    return found;
}

void *mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset)
{
    return mmap64(address, size, protection, flags, descriptor, offset);
}

static void wait_here(void)
{
    char at[4096], go[4096];
    snprintf(at, sizeof at, "%s/at", getenv("FWL_RACE"));
    snprintf(go, sizeof go, "%s/go", getenv("FWL_RACE"));
    close(open(at, O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 300 && access(go, F_OK); i++) usleep(1000);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    char *address = info->si_addr;
    if (!page || address < page || address >= page + PAGE) {
        signal(number, SIG_DFL);
        return;
    }
    if (is_armed && address == page + BACKFILLED) {
        is_armed = 0;
        wait_here();
    }
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    if (is_armed) ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    if (is_armed) mprotect(page, PAGE, PROT_NONE);
}

/* To be called before the checkpoint. 0 when there is no shared memory yet. */
int arm(void)
{
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    struct sigaction step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    if (!page || sigaction(SIGSEGV, &fault, NULL) || sigaction(SIGTRAP, &step, NULL)) return 0;
    is_armed = 1;
    return mprotect(page, PAGE, PROT_NONE) == 0;
}

/* And after it. */
void disarm(void)
{
    is_armed = 0;
    if (page) mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}
