/* A stranger's reader, written from docs/internals/shm.md alone.
 *
 *   reader SEGMENT            prints the header and the rows it may read, as text, and ends
 *   reader SEGMENT WAKE_DIR   makes a fifo there, follows a tick ring, prints "number price" of each
 *                             tick until the state is closed and nothing is left
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORD(offset) __atomic_load_n((const uint64_t *)(base + (offset)), __ATOMIC_ACQUIRE)

static const unsigned char *base;
static uint64_t row_size, capacity, guard;

static const unsigned char *row(uint64_t number) {
    return base + 4096 + (number % capacity) * row_size;
}

static uint64_t oldest(void) {
    uint64_t first = WORD(136), last = WORD(144);
    int64_t safe = (int64_t)last - (int64_t)capacity + (int64_t)guard;
    return safe > (int64_t)first ? (uint64_t)safe : first;
}

static int64_t int_at(const unsigned char *at) { int64_t v; memcpy(&v, at, 8); return v; }
static double real_at(const unsigned char *at) { double v; memcpy(&v, at, 8); return v; }

/* Copy every readable row; return the number of the first and how many. */
static uint64_t copy_rows(unsigned char *into, uint64_t *count) {
    uint32_t kind; memcpy(&kind, base + 28, 4);
    for (;;) {
        uint64_t seq = WORD(128), revision = WORD(160);
        if (kind == 1 && (seq & 1)) continue;
        uint64_t low = oldest(), high = WORD(144);
        for (uint64_t i = low; i < high; i++) memcpy(into + (i - low) * row_size, row(i), row_size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (oldest() > low) continue;
        if (kind == 1 && (WORD(128) != seq || WORD(160) != revision)) continue;
        *count = high - low;
        return low;
    }
}

static int dump(void) {
    unsigned char *copy = malloc(capacity * row_size);
    uint64_t count, low = copy_rows(copy, &count);
    uint32_t kind; memcpy(&kind, base + 28, 4);
    printf("%s %s %" PRIu32 " %" PRIu64 " %" PRIu64 "\n", (const char *)base + 256,
           (const char *)base + 384, kind, low, count);
    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *r = copy + i * row_size;
        if (kind == 1)
            printf("%" PRId64 " %" PRId64 " %.17g %.17g %.17g %.17g %.17g %" PRId64 " %.17g\n",
                   int_at(r), int_at(r + 8), real_at(r + 16), real_at(r + 24), real_at(r + 32),
                   real_at(r + 40), real_at(r + 48), int_at(r + 56), real_at(r + 64));
        else
            printf("%" PRId64 " %" PRId64 " %.17g %.17g %" PRId64 " %d %d\n", int_at(r),
                   int_at(r + 8), real_at(r + 16), real_at(r + 24), int_at(r + 48), r[60],
                   (signed char)r[61]);
    }
    free(copy);
    return 0;
}

static int follow(const char *folder) {
    char fifo[512], drain[4096];
    snprintf(fifo, sizeof fifo, "%s/c-reader-%d.fifo", folder, (int)getpid());
    if (mkfifo(fifo, 0600)) { perror("mkfifo"); return 1; }
    int fd = open(fifo, O_RDWR | O_NONBLOCK);
    uint64_t next = oldest();
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd waiting = {fd, POLLIN, 0};
        int woken = poll(&waiting, 1, 10000);
        if (woken == 0) { puts("no wake-up"); break; }
        if (read(fd, drain, sizeof drain) < 0) perror("read");
        uint64_t last;
        while ((last = WORD(144)) > next) {
            if (oldest() > next) next = oldest();
            unsigned char one[64];
            memcpy(one, row(next), 64);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (oldest() > next) continue;
            printf("%" PRId64 " %.17g\n", int_at(one), real_at(one + 16));
            next++;
        }
        if (WORD(88) == 0) break;
    }
    unlink(fifo);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    int fd = open(argv[1], O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) { perror(argv[1]); return 1; }
    base = mmap(NULL, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED || memcmp(base, "PIKERSHM", 8)) return 1;
    uint32_t size; memcpy(&size, base + 24, 4);
    row_size = size;
    capacity = WORD(32);
    guard = WORD(48);
    return argc > 2 ? follow(argv[2]) : dump();
}
