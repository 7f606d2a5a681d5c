// A stand-in for libamdhip64.so: the one for CUDA under HIP's names, where the two interfaces are alike.
//
//   FAKE_HIP_ARCH  what the device is, as HIP spells it; the rest as in cuda.c

#include "cuda.c"

int hipInit(unsigned flags) { return cuInit(flags); }
int hipGetDeviceCount(int *count) { return cuDeviceGetCount(count); }
int hipDeviceGetName(char *name, int length, int device) { return cuDeviceGetName(name, length, device); }
int hipModuleLoadData(void **module, const void *image) { return cuModuleLoadData(module, image); }
int hipModuleGetFunction(Function **function, void *module, const char *entry) { return cuModuleGetFunction(function, module, entry); }
int hipPointerGetAttribute(void *value, int attribute, uint64_t address) { return cuPointerGetAttribute(value, attribute, address); }
const char *hipGetErrorString(int status) { return status == INVALID_VALUE ? "invalid argument" : NULL; }

int hipSetDevice(int device) { return cuCtxSetCurrent((void *)(uintptr_t)(0x3000 + device)); }

int hipDriverGetVersion(int *version) {
  *version = 60443484;
  return SUCCESS;
}

int hipDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute != 63 && attribute != 74) return INVALID_VALUE;
  *value = attribute == 63 ? 304 : 65536;
  return SUCCESS;
}

int hipGetDevicePropertiesR0600(char *properties, int device) {
  memset(properties, 0xff, 1472);
  snprintf(properties + 1160, 256, "%s", setting("FAKE_HIP_ARCH", "gfx942:sramecc+:xnack-"));
  return SUCCESS;
}

int hipModuleLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared, void *stream, unsigned char **parameters,
                          void **extra) {
  return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra);
}
