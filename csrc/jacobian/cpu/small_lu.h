// LU with partial pivoting of one small row-major n x n matrix, which is overwritten. Always in double: I + eps J is
// close to the identity, so log|det| is small.
#pragma once

#include <cmath>
#include <limits>

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

// The row with the largest entry in column k, at or below the diagonal. A NaN is never chosen but stays in place.
SVGDX_INLINE int pivot_row(int n, int k, const double* a) {
  int best = k;
  for (int row = k + 1; row < n; ++row) {
    if (std::fabs(a[row * n + k]) > std::fabs(a[best * n + k])) best = row;
  }
  return best;
}

SVGDX_INLINE void swap_rows(int n, double* a, int row, int other) {
  for (int col = 0; col < n && row != other; ++col) {
    const double kept = a[row * n + col];
    a[row * n + col] = a[other * n + col];
    a[other * n + col] = kept;
  }
}

// log|det a|: -inf if a is singular, NaN if it contains a NaN.
inline double log_abs_det(int n, double* a) {
  for (int entry = 0; entry < n * n; ++entry) {
    if (std::isnan(a[entry])) return a[entry];
  }
  double result = 0;
  for (int k = 0; k < n; ++k) {
    swap_rows(n, a, k, pivot_row(n, k, a));
    const double pivot = a[k * n + k];
    if (pivot == 0) return -std::numeric_limits<double>::infinity();
    result += std::log(std::fabs(pivot));
    for (int row = k + 1; row < n; ++row) {
      const double factor = a[row * n + k] / pivot;
      for (int col = k + 1; col < n; ++col) a[row * n + col] -= factor * a[k * n + col];
    }
  }
  return result;
}

// Inverts a in place by Gauss-Jordan elimination; if a is singular, some entries are not finite.
inline void invert(int n, double* a) {
  int swapped[16];
  for (int k = 0; k < n; ++k) {
    swapped[k] = pivot_row(n, k, a);
    swap_rows(n, a, k, swapped[k]);
    const double reciprocal = 1 / a[k * n + k];
    a[k * n + k] = 1;
    for (int col = 0; col < n; ++col) a[k * n + col] *= reciprocal;
    for (int row = 0; row < n; ++row) {
      if (row == k) continue;
      const double factor = a[row * n + k];
      a[row * n + k] = 0;
      for (int col = 0; col < n; ++col) a[row * n + col] -= factor * a[k * n + col];
    }
  }
  // The inverse of P a is a^-1 P^T: undo the row swaps on the columns, last first.
  for (int k = n - 1; k >= 0; --k) {
    for (int row = 0; row < n && swapped[k] != k; ++row) {
      const double kept = a[row * n + k];
      a[row * n + k] = a[row * n + swapped[k]];
      a[row * n + swapped[k]] = kept;
    }
  }
}

}  // namespace svgdx::SVGDX_ISA
