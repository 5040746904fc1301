/* A network's output as its engine holds it. */
#ifndef EF_MAPS_H
#define EF_MAPS_H

#include "ef_common.h"

/* (channels, height, width) values, steps in elements: planes and channels-last need no transposing. */
typedef struct {
    const void *values;     /* float, or int8_t where is_int8: then a value is its integer * scale */
    int64_t step_c, step_y, step_x;
    int32_t channels, height, width;
    int32_t is_int8;
    float scale;
} ef_map;

static inline float ef_value(const ef_map *map, int64_t at)
{
    return map->is_int8 ? (float)((const int8_t *)map->values)[at] * map->scale : ((const float *)map->values)[at];
}

static inline int64_t ef_place(const ef_map *map, int64_t channel, int64_t row, int64_t column)
{
    return channel * map->step_c + row * map->step_y + column * map->step_x;
}

/* The place of a kept anchor: its level, and where it is in that level's maps. */
typedef struct {
    int64_t level, anchor, row, column;
} ef_anchor;

/* What the levels of a dense stage have in common with their maps' geometry, in pixels of the net's input. */
typedef struct {
    int32_t levels, most_anchors;
    const float *strides;           /* (levels) */
    const float *sides;             /* (levels, most_anchors) */
    float variance_centre, variance_side;
} ef_pyramid;

#endif
