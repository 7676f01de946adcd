// The table of the model's tensors in the flat buffers, one row each; built by gpt2lab/engine/cuda/ops/tensor_table.py.
#pragma once
#include "band.cuh"
#include "common.cuh"

#define TABLE_COLUMNS 7

struct Tensor {
    long long begin; // in the flat buffers
    int size;
    int decays;      // whether weight decay applies
    int band_kind;   // NO_BAND, FC1_BAND or FC2_BAND
    int half_band;
    int rows;        // of one layer's matrix; layers follow one another
    int columns;
};

__device__ inline Tensor tensor_of(const long long *table, int index) {
    const long long *entry = table + index * TABLE_COLUMNS;
    return {entry[0], (int)entry[1], (int)entry[2], (int)entry[3], (int)entry[4], (int)entry[5], (int)entry[6]};
}

// Which of the VEC entries from `at` on the band keeps, counted from `at`: {0, VEC} for all of them.
__device__ inline Range kept_of_pack(const Tensor &tensor, int at) {
    if (tensor.band_kind == NO_BAND) return {0, VEC};
    const int row = at / tensor.columns;
    const int column = at - row * tensor.columns;
    const Range kept = kept_columns(tensor.band_kind, tensor.half_band, row % tensor.rows, tensor.columns);
    return {max(kept.begin - column, 0), min(kept.end - column, VEC)};
}
