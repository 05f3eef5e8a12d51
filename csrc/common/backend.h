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
