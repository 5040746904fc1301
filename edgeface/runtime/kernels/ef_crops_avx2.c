/* ef_crops.c for x86 processors with AVX2, which ef_crops asks for when it is called. */
#define EF_VARIANT
#define EF_CROPS ef_crops_avx2
#include "ef_crops.c"
