/* What every kernel shares.
 *
 * A kernel is a function of flat C types: arrays with their sizes, steps in bytes, and scratch memory that the caller
 * owns. It allocates nothing, keeps nothing and touches nothing outside the arrays it is given. Its Python wrapper has
 * checked every size before the call; a kernel checks once more what its own bounds rest on and answers EF_REFUSED.
 */
#ifndef EF_COMMON_H
#define EF_COMMON_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define EF_NEON 1
#else
#define EF_NEON 0
#endif

/* Results equal NumPy's bit for bit only where float is rounded to float and double to double. */
_Static_assert(FLT_EVAL_METHOD == 0, "build with SSE2 or another floating point without excess precision");

/* Raised with every change of a function's arguments or meaning, here and in library.py. */
#define EF_ABI 3

#define EF_API __attribute__((visibility("default")))

enum { EF_DONE = 0, EF_REFUSED = -1 };

static inline int32_t ef_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t ef_max(int32_t a, int32_t b) { return a > b ? a : b; }

#endif
