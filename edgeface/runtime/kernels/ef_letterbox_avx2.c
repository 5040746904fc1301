/* ef_letterbox.c for x86 processors with AVX2, which ef_letterbox asks for when it is called. */
#define EF_VARIANT
#define EF_LETTERBOX ef_letterbox_avx2
#include "ef_letterbox.c"
