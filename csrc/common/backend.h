// The backend that a file is compiled for. The build sets
//   SVGDX_BACKEND     cpu or cuda: the namespace of the backend's functions, and the folder of its files
//   SVGDX_KEY         torch's dispatch key of the backend: CPU or CUDA
//   SVGDX_NAMESPACE   the ops' namespace in torch
#pragma once

#define SVGDX_TEXT_OF(...) #__VA_ARGS__
#define SVGDX_TEXT(...) SVGDX_TEXT_OF(__VA_ARGS__)

// #include SVGDX_BACKEND_HEADER(room, file) includes a header of the backend.
// clang-format off
#define SVGDX_BACKEND_HEADER(room, file) SVGDX_TEXT(room/SVGDX_BACKEND/file)
// clang-format on

// Macros of macros, so that the arguments are expanded before torch turns them into text.
#define SVGDX_LIBRARY_OF(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)
#define SVGDX_IMPL_OF(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
#define SVGDX_LIBRARY(m) SVGDX_LIBRARY_OF(SVGDX_NAMESPACE, m)
#define SVGDX_IMPL(key, m) SVGDX_IMPL_OF(SVGDX_NAMESPACE, key, m)

// Inner ops, whose Python side is private to one folder and prepares every argument, have a namespace of their own:
// SVGDX_NAMESPACE followed by _inner.
#define SVGDX_INNER_NAME_OF(name) name##_inner
#define SVGDX_INNER_NAME(name) SVGDX_INNER_NAME_OF(name)
#define SVGDX_INNER_LIBRARY(m) SVGDX_LIBRARY_OF(SVGDX_INNER_NAME(SVGDX_NAMESPACE), m)
#define SVGDX_INNER_IMPL(key, m) SVGDX_IMPL_OF(SVGDX_INNER_NAME(SVGDX_NAMESPACE), key, m)
