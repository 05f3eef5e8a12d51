// The trajectory ops of GFlowNets: the arguments that the host layer passes to a backend, and the functions that each
// backend provides.
//
// A state is a vector of D entries, each void (-1), 0 or 1; a trajectory s_0 .. s_T sets one void entry per step (Zhang
// et al. 2022). Forward action a = 2 location + bit; a backward action is the location that it erases. A row of 3D
// logits holds P_F over the 2D forward actions, then P_B over the D locations, each a softmax over its valid actions.
// Every array is contiguous; S is the storage type of the logits (float, double, Bf16, Fp16), Compute<S> that of sums.
// Backends do not raise: invalid input gives NaN, or action -1, and on the CPU the host layer reports it.
#pragma once

#include <cstdint>

#include "common/half.h"

namespace svgdx {

struct TrajectoryShape {
  int64_t batch, steps, dim;  // B, T, D
  SVGDX_HD int64_t rows() const { return batch * (steps + 1); }
};

// set_time (B, D + 1) turns the masks of step t into comparisons with t, so that rows (b, t) are independent. Entry d
// is -1 if location d is set in s_0, t if action t sets it, T if it is never set. Entry D is 1, or 0 for a trajectory
// with an action that is out of range or sets a location already set, or with an initial entry outside {-1, 0, 1}.
struct SetTimeArgs {
  TrajectoryShape shape;
  const int64_t* actions;  // (B, T)
  const int8_t* initial;   // (B, D) or null: all void
  int32_t* set_time;
};

// Rows [first_row, first_row + rows) of the B (T + 1); row b (T + 1) + t belongs to s_t.
template <class S>
struct TrajectoryRows {
  TrajectoryShape shape;
  int64_t first_row, rows;
  const S* logits;  // (rows, 3D), these rows only
  const int64_t* actions;
  const int32_t* set_time;
  // (B, T+1, 2): log-sum-exp of the valid P_F logits (0 at T) and P_B logits (0 at 0); NaN if invalid.
  Compute<S>* normalizers;
  Compute<S>* row_log_prob;  // (B, T+1, 2): log P_F(a_t | s_t) (0 at T), log P_B(s_{t-1} | s_t) (0 at t = 0)
};

template <class S>
struct TrajectoryRowsGrad {
  TrajectoryShape shape;
  int64_t first_row, rows;
  const S* logits;
  const int64_t* actions;
  const int32_t* set_time;
  const Compute<S>* normalizers;
  const Compute<S>* grad_log_pf;  // (B); null means zero
  const Compute<S>* grad_log_pb;  // (B); null means zero
  S* grad_logits;                 // (rows, 3D); may be the logits themselves
};

// The gradient of the log-probabilities of logits = hidden weight^T + bias.
template <class S>
struct LinearGrad {
  TrajectoryShape shape;
  int64_t width;           // H
  const S* hidden;         // (B, T+1, H)
  const S* weight;         // (3D, H)
  const Compute<S>* bias;  // (3D) or null
  const int64_t* actions;
  const int32_t* set_time;
  const Compute<S>* normalizers;
  const Compute<S>* grad_log_pf;  // (B); null means zero
  const Compute<S>* grad_log_pb;  // (B); null means zero
  S* grad_hidden;                 // (B, T+1, H)
  Compute<S>* grad_weight;        // (3D, H), to which this is added
  Compute<S>* grad_bias;          // (3D), likewise
};

// Ragged trajectories of any GFlowNet: N rows of A logits; trajectory b has the rows offsets[b] <= n < offsets[b + 1].
template <class S>
struct MaskedRows {
  int64_t rows, width;       // N, A
  const S* logits;           // (N, A)
  const bool* mask;          // (N, A): whether the action is allowed
  const int64_t* action;     // (N)
  Compute<S>* normalizers;   // (N)
  Compute<S>* row_log_prob;  // (N); NaN for an action that is out of range or masked
  const int32_t* valid;      // as check_offsets wrote it; if it is 0, all is NaN
};

template <class S>
struct MaskedRowsGrad {
  int64_t rows, width, segments;  // N, A, B
  const S* logits;
  const bool* mask;
  const int64_t* action;
  const int64_t* offsets;  // (B + 1)
  const Compute<S>* normalizers;
  const Compute<S>* grad;  // (B)
  S* grad_logits;          // (N, A)
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

void trajectory_set_times(const SetTimeArgs& args, void* stream);
template <class S>
void trajectory_rows(const TrajectoryRows<S>& args, void* stream);
template <class S>
void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, void* stream);
// Sums row_log_prob (B, T+1, 2) over a trajectory's rows into log_pf (B) and log_pb (B).
template <class C>
void trajectory_sum(const TrajectoryShape& shape, const C* row_log_prob, C* log_pf, C* log_pb, void* stream);
template <class S>
void masked_rows(const MaskedRows<S>& args, void* stream);
template <class S>
void masked_rows_backward(const MaskedRowsGrad<S>& args, void* stream);
// Sets valid to whether the offsets rise from 0 to rows. After a fall anywhere, rows belong to several trajectories or
// to none, so that no trajectory of the set can be trusted.
void check_offsets(int64_t segments, int64_t rows, const int64_t* offsets, int32_t* valid, void* stream);
// out[b] = sum of in (rows) over [offsets[b], offsets[b+1]); NaN if the offsets are not valid.
template <class C>
void segment_sum(int64_t segments, const int64_t* offsets, const int32_t* valid, const C* in, C* out, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
