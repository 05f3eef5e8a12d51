// Turns the limits of common/limits.h into variables that harness.py sets; included before every file of the ops.
#pragma once

#include <cstdint>

namespace simt {

// The limit of that name, whose value is `usual` unless a test has set another one.
const int64_t& limit(const char* name, int64_t usual);

}  // namespace simt

#define SVGDX_LIMIT(name, value) inline const int64_t& name = ::simt::limit(#name, value)
