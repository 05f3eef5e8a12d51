// Each kernel once without a bug ("rows.correct") and once per planted bug ("rows.early_return").
#include "common/cuda/simt_macros.cuh"
#include "planted/probes.cuh"

#define SIMT_ROWS(bug) SVGDX_SIMT_KERNEL("rows." #bug, svgdx::planted::bug::row_sums<64>)
#define SIMT_WARPS(bug) SVGDX_SIMT_KERNEL("warps." #bug, svgdx::planted::bug::neighbours)
#define SIMT_SUM(bug) SVGDX_SIMT_KERNEL("last_block." #bug, svgdx::planted::bug::last_block_sum)
#define SIMT_HISTOGRAM(bug) SVGDX_SIMT_KERNEL("histogram." #bug, svgdx::planted::bug::histogram)
#define SIMT_SQUARE(bug) SVGDX_SIMT_EXPORT("square." #bug, svgdx::planted::bug::square_add_one)
#define SIMT_COPIES(bug) SVGDX_SIMT_KERNEL("copies." #bug, svgdx::planted::bug::next_sums)

#define PLANTED correct
#include "planted/blocks.cuh"
#include "planted/copies.cuh"
#include "planted/rows.cuh"
#include "planted/warps.cuh"
#undef PLANTED
SIMT_ROWS(correct);
SIMT_WARPS(correct);
SIMT_SUM(correct);
SIMT_HISTOGRAM(correct);
SIMT_SQUARE(correct);
SIMT_COPIES(correct);

#define PLANTED early_return
#define BUG_EARLY_RETURN
#include "planted/rows.cuh"
#undef BUG_EARLY_RETURN
#undef PLANTED
SIMT_ROWS(early_return);

#define PLANTED misaligned
#define BUG_MISALIGNED
#include "planted/rows.cuh"
#undef BUG_MISALIGNED
#undef PLANTED
SIMT_ROWS(misaligned);

#define PLANTED unaligned_shared
#define BUG_UNALIGNED_SHARED
#include "planted/rows.cuh"
#undef BUG_UNALIGNED_SHARED
#undef PLANTED
SIMT_ROWS(unaligned_shared);

#define PLANTED uncleared_padding
#define BUG_UNCLEARED_PADDING
#include "planted/rows.cuh"
#undef BUG_UNCLEARED_PADDING
#undef PLANTED
SIMT_ROWS(uncleared_padding);

#define PLANTED half_block
#define BUG_HALF_BLOCK
#include "planted/rows.cuh"
#undef BUG_HALF_BLOCK
#undef PLANTED
SIMT_ROWS(half_block);

#define PLANTED no_barrier_after_load
#define BUG_NO_BARRIER_AFTER_LOAD
#include "planted/rows.cuh"
#undef BUG_NO_BARRIER_AFTER_LOAD
#undef PLANTED
SIMT_ROWS(no_barrier_after_load);

#define PLANTED shared_off_by_one
#define BUG_SHARED_OFF_BY_ONE
#include "planted/rows.cuh"
#undef BUG_SHARED_OFF_BY_ONE
#undef PLANTED
SIMT_ROWS(shared_off_by_one);

#define PLANTED no_barrier_before_reload
#define BUG_NO_BARRIER_BEFORE_RELOAD
#include "planted/rows.cuh"
#undef BUG_NO_BARRIER_BEFORE_RELOAD
#undef PLANTED
SIMT_ROWS(no_barrier_before_reload);

#define PLANTED write_past_buffer
#define BUG_WRITE_PAST_BUFFER
#include "planted/rows.cuh"
#undef BUG_WRITE_PAST_BUFFER
#undef PLANTED
SIMT_ROWS(write_past_buffer);

#define PLANTED no_barrier_in_reduction
#define BUG_NO_BARRIER_IN_REDUCTION
#include "planted/rows.cuh"
#undef BUG_NO_BARRIER_IN_REDUCTION
#undef PLANTED
SIMT_ROWS(no_barrier_in_reduction);

#define PLANTED carved_off_by_one
#define BUG_CARVED_OFF_BY_ONE
#include "planted/rows.cuh"
#undef BUG_CARVED_OFF_BY_ONE
#undef PLANTED
SIMT_ROWS(carved_off_by_one);

#define PLANTED no_syncwarp
#define BUG_NO_SYNCWARP
#include "planted/warps.cuh"
#undef BUG_NO_SYNCWARP
#undef PLANTED
SIMT_WARPS(no_syncwarp);

#define PLANTED shuffle_as_sync
#define BUG_SHUFFLE_AS_SYNC
#include "planted/warps.cuh"
#undef BUG_SHUFFLE_AS_SYNC
#undef PLANTED
SIMT_WARPS(shuffle_as_sync);

#define PLANTED absent_lane
#define BUG_ABSENT_LANE
#include "planted/warps.cuh"
#undef BUG_ABSENT_LANE
#undef PLANTED
SIMT_WARPS(absent_lane);

#define PLANTED mask_without_caller
#define BUG_MASK_WITHOUT_CALLER
#include "planted/warps.cuh"
#undef BUG_MASK_WITHOUT_CALLER
#undef PLANTED
SIMT_WARPS(mask_without_caller);

#define PLANTED exited_lane
#define BUG_EXITED_LANE
#include "planted/warps.cuh"
#undef BUG_EXITED_LANE
#undef PLANTED
SIMT_WARPS(exited_lane);

#define PLANTED no_fence
#define BUG_NO_FENCE
#include "planted/blocks.cuh"
#undef BUG_NO_FENCE
#undef PLANTED
SIMT_SUM(no_fence);

#define PLANTED plain_shared_histogram
#define BUG_PLAIN_SHARED_HISTOGRAM
#include "planted/blocks.cuh"
#undef BUG_PLAIN_SHARED_HISTOGRAM
#undef PLANTED
SIMT_HISTOGRAM(plain_shared_histogram);

#define PLANTED plain_global_histogram
#define BUG_PLAIN_GLOBAL_HISTOGRAM
#include "planted/blocks.cuh"
#undef BUG_PLAIN_GLOBAL_HISTOGRAM
#undef PLANTED
SIMT_HISTOGRAM(plain_global_histogram);

#define PLANTED unwritten_output
#define BUG_UNWRITTEN_OUTPUT
#include "planted/blocks.cuh"
#undef BUG_UNWRITTEN_OUTPUT
#undef PLANTED
SIMT_SQUARE(unwritten_output);

#define PLANTED no_wait
#define BUG_NO_WAIT
#include "planted/copies.cuh"
#undef BUG_NO_WAIT
#undef PLANTED
SIMT_COPIES(no_wait);

#define PLANTED no_barrier_after_wait
#define BUG_NO_BARRIER_AFTER_WAIT
#include "planted/copies.cuh"
#undef BUG_NO_BARRIER_AFTER_WAIT
#undef PLANTED
SIMT_COPIES(no_barrier_after_wait);

#define PLANTED no_barrier_before_copy
#define BUG_NO_BARRIER_BEFORE_COPY
#include "planted/copies.cuh"
#undef BUG_NO_BARRIER_BEFORE_COPY
#undef PLANTED
SIMT_COPIES(no_barrier_before_copy);

namespace {
using namespace svgdx::planted;
SVGDX_SIMT_KERNEL("indices", indices);
SVGDX_SIMT_KERNEL("warp_operations", warp_operations);
SVGDX_SIMT_KERNEL("product", product);
SVGDX_SIMT_KERNEL("barrier_votes", barrier_votes);
SVGDX_SIMT_KERNEL("strided.float", strided<float>);
SVGDX_SIMT_KERNEL("strided.double", strided<double>);
SVGDX_SIMT_KERNEL("strided_global", strided_global);
SVGDX_SIMT_KERNEL("wait_forever", wait_forever);
SVGDX_SIMT_KERNEL("hand_over", hand_over);
SVGDX_SIMT_KERNEL("crossed", crossed);
SVGDX_SIMT_KERNEL("host_pointer", host_pointer);
SVGDX_SIMT_KERNEL("skip_last", skip_last);
SVGDX_SIMT_KERNEL("lost_update", lost_update);
}  // namespace
