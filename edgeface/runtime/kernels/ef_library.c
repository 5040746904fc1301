/* The library itself: its version, and marks for whoever counts instructions. */
#include "ef_common.h"

EF_API int32_t ef_abi(void);
EF_API void ef_mark_begin(void);
EF_API void ef_mark_end(void);

int32_t ef_abi(void) { return EF_ABI; }

/* Hints that no core knows are NOPs, so the marks cost nothing on a board; an emulator's plugin sees them. */
__attribute__((noinline)) void ef_mark_begin(void) {
#if defined(__aarch64__)
    __asm__ volatile("hint #0x60" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

__attribute__((noinline)) void ef_mark_end(void) {
#if defined(__aarch64__)
    __asm__ volatile("hint #0x61" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}
