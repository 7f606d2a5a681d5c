// Included before every C++ source of llama.cpp when it is built for this machine.
//
// Until version 13, GCC's _tile_loadconfig tells the compiler that ldtilecfg reads 8 bytes where it reads 64. llama.cpp keeps
// the 64 bytes in a local variable, the stores beyond the first 8 are removed as dead, and the instruction faults on what is
// left there (github.com/ggml-org/llama.cpp, issue 20824 and pull request 26954). This states all that is read.
#pragma once
#if defined(__AMX_TILE__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*reinterpret_cast<const char(*)[64]>(config)))
#endif
