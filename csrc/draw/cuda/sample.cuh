// gfn_sample_forward and gfn_sample_backward: mask, softmax, draw and the next state in one kernel.
#pragma once

#include "draw/args.h"
#include "draw/weights.h"
#include "trajectory/cuda/bits.cuh"

namespace svgdx::cuda {

// Packs per lane kept in shared memory; further packs of longer rows are read again, through the caches.
constexpr int kCachedPacks = 20;

struct SamplePlan {
  RowPlan rows;
  int groups;  // of 32 locations
  int chunks;  // packs per lane
  int cached;  // of these, how many are in shared memory

  template <class S>
  static SamplePlan of(const SampleArgs<S>& args) {
    const int64_t count = args.forward ? 2 * args.dim : args.dim;
    const bool aligned = is_aligned(args.logits, 3 * args.dim) && 2 * args.dim % kPackWidth<S> == 0;
    const int64_t packs = ceil_div(count + (aligned ? 0 : kPackWidth<S> - 1), kPackWidth<S>);
    const RowPlan rows = plan_rows(packs, 2);
    const int chunks = int(ceil_div(packs, rows.lanes()));
    return {rows, int(ceil_div(args.dim, 32)), chunks, std::min(chunks, kCachedPacks)};
  }
  SVGDX_HD int words() const { return double_bit_words(groups); }
  // Bytes of dynamic shared memory.
  template <class S>
  size_t shared() const {
    return carve_bytes<WidePack<S>>(size_t(cached) * kRowThreads) +
           carve_bytes<uint32_t>(size_t(rows.rows()) * size_t(words()));
  }
};

// One row of logits during its draw; a lane's pack k is pack k * lanes + lane of the segment.
template <class S>
struct SampleRow {
  using C = Compute<S>;
  Segment<S> segment;
  BitMask mask;
  RowGroup group;
  WidePack<S>* cache;
  int cached;

  __device__ int begin(int k) const { return segment.begin(k * group.lanes + group.lane); }
  __device__ bool has(int k) const { return k * group.lanes + group.lane < segment.packs(); }
  __device__ void fill_cache() const {
    SVGDX_UNROLL_BY(4)
    for (int k = 0; k < cached; ++k) {
      WidePack<S> pack;
      if (has(k)) segment.load(pack, begin(k)), cache[k * kRowThreads + threadIdx.x] = pack;
    }
  }
  // Reads a pack; returns the bits of its valid elements.
  __device__ uint32_t read(WidePack<S>& pack, int k) const {
    if (!has(k)) return 0;
    if (k < cached) {
      pack = cache[k * kRowThreads + threadIdx.x];
    } else {
      segment.load(pack, begin(k));
    }
    return mask(segment, begin(k));
  }
  __device__ LogSum<C> log_sum() const {
    LogSum<C> sum;
    SVGDX_UNROLL_BY(1)
    for (int k = 0; has(k); ++k) {
      WidePack<S> pack;
      const uint32_t bits = read(pack, k);
      if (bits != 0) sum.add(pack, bits);
    }
    return sum;
  }
};

// The integer weights of a row's actions.
template <class C>
struct Weights {
  C max;
  float scale;
  bool uniform;

  __device__ uint32_t operator()(C x, bool valid) const {
    return !valid ? 0 : uniform ? 1 : draw_weight(float(x - max), scale);
  }
  template <class S, int W>
  __device__ uint64_t sum(const Pack<S, W>& pack, uint32_t bits) const {
    uint64_t total = 0;
    if (bits == 0) return total;
    SVGDX_UNROLL
    for (int w = 0; w < W; ++w) total += (*this)(to_compute(pack.v[w]), bits >> w & 1);
    return total;
  }
};

// The sum over the lanes before the calling one; `all` receives the group's sum. Every thread of the block must call
// it.
__device__ inline uint64_t sum_before(const RowGroup& group, uint64_t own, uint64_t* partial, uint64_t& all) {
  const int width = min(group.lanes, 32), lane = threadIdx.x % unsigned(width);
  uint64_t sum = own;
  for (int offset = 1; offset < width; offset *= 2) {
    const uint64_t before = __shfl_up_sync(kFullWarp, sum, offset, width);
    if (lane >= offset) sum += before;
  }
  all = __shfl_sync(kFullWarp, sum, width - 1, width);
  if (group.lanes <= 32) return sum - own;
  __syncthreads();
  if (lane == 0) partial[threadIdx.x / 32] = all;
  __syncthreads();
  all = 0;
  SVGDX_UNROLL
  for (int warp = 0; warp < kRowWarps; ++warp) {
    if (warp < int(threadIdx.x) / 32) sum += partial[warp];
    all += partial[warp];
  }
  return sum - own;
}

// The lane whose packs hold the drawn action gets the action and its logit; the others get -1.
template <class S>
__device__ inline int choose(const SampleRow<S>& row, const Weights<Compute<S>>& weights, uint64_t fraction, int chunks,
                             uint64_t* partial, Compute<S>& logit) {
  uint64_t total = 0;
  WidePack<S> pack;
  SVGDX_UNROLL_BY(1)
  for (int k = 0; row.has(k); ++k) {
    const uint32_t bits = row.read(pack, k);
    total += weights.sum(pack, bits);
  }
  const uint64_t threshold = draw_threshold(fraction, row.group.combine(total, Sum<uint64_t>(), partial));
  uint64_t base = 0;
  int found = -1;
  SVGDX_UNROLL_BY(1)
  for (int k = 0; k < chunks; ++k) {
    const uint32_t bits = row.read(pack, k);
    const uint64_t own = weights.sum(pack, bits);
    uint64_t all;
    uint64_t sum = base + sum_before(row.group, own, partial, all);
    base += all;
    if (threshold < sum || threshold >= sum + own) continue;
    SVGDX_UNROLL
    for (int w = 0; w < Segment<S>::kWidth; ++w) {
      const Compute<S> x = to_compute(pack.v[w]);
      const uint32_t weight = weights(x, bits >> w & 1);
      if (threshold >= sum && threshold < sum + weight) {
        found = row.begin(k) + w;
        logit = x;
      }
      sum += weight;
    }
  }
  return found;
}

// Copies the block's states to next_state, and sets the bits of valid locations and the flags of bad entries.
template <class S>
__device__ inline void read_states(const SampleArgs<S>& args, const SamplePlan& plan, int64_t first, uint32_t* words,
                                   int* bad) {
  const int rows = int(min(int64_t(plan.rows.rows()), args.batch - first));
  visit_locations(rows, plan.groups, [&](int row, int group) {
    const int64_t d = 32 * int64_t(group) + threadIdx.x % 32, index = (first + row) * args.dim + d;
    const bool exists = d < args.dim;
    const int entry = exists ? args.state[index] : -1;
    if (exists) args.next_state[index] = int8_t(entry);
    const unsigned bits = __ballot_sync(kFullWarp, exists && (entry == -1) == args.forward);
    const unsigned wrong = __ballot_sync(kFullWarp, entry < -1 || entry > 1);
    if (args.forward) {
      write_double_bits(words + row * plan.words(), group, plan.groups, bits);
    } else {
      write_bits(words + row * plan.words(), group, plan.groups, bits);
    }
    if (wrong != 0 && threadIdx.x % 32 == 0) atomicOr(bad + row, 1);
  });
}

// Draws for a block of rows that begins at `first`; every thread of the block must call it.
template <class S>
__device__ inline void sample_rows(const SampleArgs<S>& args, const SamplePlan& plan, int64_t first) {
  using C = Compute<S>;
  SVGDX_SHARED(C, partial, kRowWarps);
  SVGDX_SHARED(uint64_t, partial_sum, kRowWarps);
  SVGDX_SHARED(int, bad, kRowThreads / 8);
  SharedCarver carver;
  SVGDX_CARVE(carver, WidePack<S>, cache, plan.cached * kRowThreads);
  SVGDX_CARVE(carver, uint32_t, words, plan.rows.rows() * plan.words());
  if (threadIdx.x < kRowThreads / 8) bad[threadIdx.x] = 0;
  __syncthreads();
  read_states(args, plan, first, words, bad);
  const RowGroup group(plan.rows);
  const int64_t b = first + group.row;
  const bool exists = b < args.batch;
  const int dim = int(args.dim), count = !exists ? 0 : args.forward ? 2 * dim : dim;
  const S* logits = args.logits + b * 3 * args.dim + (args.forward ? 0 : 2 * args.dim);
  const SampleRow<S> row{Segment<S>(logits, count), BitMask{words + group.row * plan.words()}, group, cache,
                         plan.cached};
  row.fill_cache();
  __syncthreads();
  const LogSum<C> sum = row.log_sum().total(group, partial);
  const PhiloxKey key = args.key.loaded();
  const Draw draw = draw_of(key.seed, key.offset, b, args.epsilon);
  const Weights<C> weights{sum.max, args.scale, draw.uniform};
  C logit = 0;
  const int action = choose(row, weights, draw.fraction, plan.chunks, partial_sum, logit);
  if (!exists) return;
  if (!(sum.sum > C(0)) || bad[group.row] != 0) {
    if (group.lane != 0) return;
    args.action[b] = -1;
    args.log_prob[b] = not_a_number<C>();
  } else if (action >= 0) {
    args.action[b] = action;
    args.log_prob[b] = sum.log_prob(logit);
    args.next_state[b * args.dim + (args.forward ? action / 2 : action)] =
        args.forward ? int8_t(action % 2) : int8_t(-1);
  }
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    sample_kernel(SampleArgs<S> args, SamplePlan plan, int64_t first_block) {
  sample_rows(args, plan, (first_block + blockIdx.x) * plan.rows.rows());
}

template <class S>
void gfn_sample(const SampleArgs<S>& args, void* stream) {
  const SamplePlan plan = SamplePlan::of(args);
  const size_t shared = plan.template shared<S>();
  const char* op = args.forward ? "gfn_sample_forward" : "gfn_sample_backward";
  launch_blocks(op, ceil_div(args.batch, plan.rows.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((sample_kernel<S>), grid, kRowThreads, shared, stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
