// What the trial convolution and its test share.
#pragma once
#include <stdint.h>

namespace trial {
/// x [n][h][w][c], weights [k][3][3][c], y [n][out_h][out_w][k]; padding 1. c is a multiple of 8, k of 2.
struct ConvShape {
  int n, h, w, c, k, stride, out_h, out_w;
};
constexpr int tile = 64, depth = 32, row = depth + 8;  // 8 halves of padding: rows of ldmatrix fall into different banks
constexpr uint32_t threads = 128, shared_bytes = 2 * 2 * tile * row * 2;
}  // namespace trial
