/* What a power cut would leave: after every fsync or fdatasync that succeeds, the file as it is then is copied to
 * $POWERCUT_KEPT. Writes that were never synced are not in the copy. For LD_PRELOAD.
 *
 * While $POWERCUT_KEPT/fail exists, syncing fails with EIO, and nothing is kept.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(int fd, const char *folder)
{
    char link[64], path[PATH_MAX], kept[2 * PATH_MAX], draft[2 * PATH_MAX + 8], block[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    if (!name || snprintf(kept, sizeof kept, "%s%s", folder, name) >= (int)sizeof kept)
        return;
    snprintf(draft, sizeof draft, "%s.draft", kept);
    int copy = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (copy < 0)
        return;
    off_t offset = 0;
    for (ssize_t count; (count = pread(fd, block, sizeof block, offset)) > 0; offset += count)
        if (write(copy, block, count) != count)
            break;
    close(copy);
    rename(draft, kept); /* At once: who looks in between sees the state before this sync. */
}

static int sync_by(const char *symbol, int fd)
{
    const char *folder = getenv("POWERCUT_KEPT");
    char fail[PATH_MAX];
    if (folder) {
        snprintf(fail, sizeof fail, "%s/fail", folder);
        if (access(fail, F_OK) == 0) {
            errno = EIO;
            return -1;
        }
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, symbol);
    int result = real(fd);
    if (folder && result == 0)
        keep(fd, folder);
    return result;
}

int fsync(int fd) { return sync_by("fsync", fd); }
int fdatasync(int fd) { return sync_by("fdatasync", fd); }
