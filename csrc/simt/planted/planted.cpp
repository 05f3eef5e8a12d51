#include "simt/planted/tiles.cuh"

namespace {
using namespace svgdx::planted;
SVGDX_SIMT_KERNEL("tile_sum", tile_sum<64>);
}  // namespace
