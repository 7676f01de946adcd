// The band rule: hidden unit h and channel c are connected where |h - 4c| <= half_band (the band's width / 2, rounded
// down; model/bands.py). In a row of either matrix the kept entries are neighbours, so a row is a range of columns.
#pragma once

#define NO_BAND 0
#define FC1_BAND 1 // (F,C): row h, column c
#define FC2_BAND 2 // (C,F): row c, column h

struct Range {
    int begin, end; // empty where end <= begin
};

// The columns that the band keeps of a row of a matrix with `columns` columns.
__device__ inline Range kept_columns(int kind, int half_band, int row, int columns) {
    Range kept = {0, columns};
    if (kind == FC1_BAND) {
        // 4c >= h - half_band and 4c <= h + half_band; the first rounded up, where it is above 0
        kept.begin = row > half_band ? (row - half_band + 3) / 4 : 0;
        kept.end = min((row + half_band) / 4 + 1, columns);
    }
    if (kind == FC2_BAND) {
        kept.begin = max(4 * row - half_band, 0);
        kept.end = min(4 * row + half_band + 1, columns);
    }
    return kept;
}
