/* Calls of the compiled kernels, with the memory that they read and write: what one process asks of another processor.

   Read from the standard input, in int64 but for the bytes of memory: how many blocks there are, and of each its bytes; how
   many pointers, and of each in which block, where in it, and to which block and where; which function. Block 0 holds its
   arguments. Answered on the standard output: the result, and all blocks as they are afterwards, their pointers as they came.
   Each block ends where a page does, and nothing lies behind: a kernel that reads on dies. */

#include "dispatch.c"
#include <stdio.h>
#include <unistd.h>

typedef struct {
    char *memory, *mapped;
    int64_t bytes, room;
} Block;

static void take(void *to, int64_t bytes) {
    if (fread(to, 1, (size_t)bytes, stdin) != (size_t)bytes) exit(0);
}

static int64_t number(void) {
    int64_t result;
    take(&result, sizeof result);
    return result;
}

static Block mapped(int64_t bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    char *memory = (char *)mmap(NULL, (size_t)(room + page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, (size_t)page, PROT_NONE)) exit(1);
    return (Block){memory + room - bytes, memory, bytes, room + page};
}

static int64_t called(int64_t function, const int64_t *argument) {
    switch (function) {
        case 0: casc_work((Shared *)argument[0]); return 0;
        case 1: return casc_count_rows(argument[0], (const RowsTask *)argument[1], argument[2], (int64_t *)argument[3]);
        default: exit(1);
    }
}

int main(void) {
    for (;;) {
        const int64_t blocks = number();
        Block block[blocks];
        for (int64_t i = 0; i < blocks; i++) {
            block[i] = mapped(number());
            take(block[i].memory, block[i].bytes);
        }
        const int64_t pointers = number();
        int64_t *place[pointers + 1], came[pointers + 1];
        for (int64_t i = 0; i < pointers; i++) {
            const int64_t in = number(), at = number(), to = number(), where = number();
            place[i] = (int64_t *)(block[in].memory + at);
            came[i] = *place[i];
            *place[i] = (int64_t)(block[to].memory + where);
        }
        const int64_t result = called(number(), (const int64_t *)block[0].memory);
        for (int64_t i = 0; i < pointers; i++) *place[i] = came[i];
        fwrite(&result, sizeof result, 1, stdout);
        for (int64_t i = 0; i < blocks; i++) {
            fwrite(block[i].memory, 1, (size_t)block[i].bytes, stdout);
            munmap(block[i].mapped, (size_t)block[i].room);
        }
        fflush(stdout);
    }
}
