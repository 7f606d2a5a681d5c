// A stand-in for libcuda.so.1: answers as the environment says, and writes down what it is asked.
//
//   FAKE_CUDA_LOG         file that gets a line for each call worth a test
//   FAKE_CUDA_FAIL        name=status: that call fails
//   FAKE_CUDA_CAPABILITY  90, _SMS, _SHARED (opt-in bytes of a block), _VERSION (13000), _DEVICES: what the device is
//   FAKE_CUDA_PARAMETERS  entry:8,4,4;entry:...: sizes of kernels' parameters, which a real driver reads from the cubin
//   FAKE_CUDA_ELSEWHERE   an address that the device cannot reach
//
// Written from the CUDA driver API reference; it has what coldforge's launcher and Triton's own call.

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, NOT_FOUND = 500, MISALIGNED = 716, NOT_SUPPORTED = 801 };

typedef struct {
  char entry[128];
} Function;

typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream;
  void *attributes;
  unsigned num_attributes;
} LaunchConfig;

static __thread void *current_context;

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

static int number(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

static int failure(const char *call) {
  const char *rule = setting("FAKE_CUDA_FAIL", "");
  size_t length = strlen(call);
  return strncmp(rule, call, length) == 0 && rule[length] == '=' ? atoi(rule + length + 1) : SUCCESS;
}

static void note(const char *format, ...) {
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *log = path ? fopen(path, "a") : NULL;
  if (!log) return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(log, format, arguments);
  va_end(arguments);
  fputc('\n', log);
  fclose(log);
}

#define MAY_FAIL                                  \
  do {                                            \
    int status = failure(__func__);               \
    if (status) return status;                    \
  } while (0)

int cuInit(unsigned flags) {
  MAY_FAIL;
  return flags ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int *version) {
  MAY_FAIL;
  *version = number("FAKE_CUDA_VERSION", 13000);
  return SUCCESS;
}

int cuGetErrorString(int status, const char **text) {
  *text = status == INVALID_VALUE ? "invalid argument" : status == 209 ? "no kernel image is available" : "some other error";
  return SUCCESS;
}

int cuDeviceGetCount(int *count) {
  MAY_FAIL;
  *count = number("FAKE_CUDA_DEVICES", 1);
  return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
  MAY_FAIL;
  *device = ordinal;
  return SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device) {
  MAY_FAIL;
  snprintf(name, length, "Fake GPU %d", device);
  return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  MAY_FAIL;
  int capability = number("FAKE_CUDA_CAPABILITY", 90), shared = number("FAKE_CUDA_SHARED", 232448);
  switch (attribute) {
    case 16: *value = number("FAKE_CUDA_SMS", 132); break;
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 81: case 97: *value = shared; break;
    case 10: *value = 32; break;
    default: *value = 1;
  }
  return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
  MAY_FAIL;
  *context = (void *)(uintptr_t)(0x1000 + device);
  return SUCCESS;
}

int cuCtxSetCurrent(void *context) {
  MAY_FAIL;
  current_context = context;
  note("context");
  return SUCCESS;
}

int cuCtxGetCurrent(void **context) {
  *context = current_context;
  return SUCCESS;
}

int cuCtxGetDevice(int *device) {
  *device = 0;
  return current_context ? SUCCESS : INVALID_CONTEXT;
}

int cuModuleLoadData(void **module, const void *image) {
  MAY_FAIL;
  if (!current_context) return INVALID_CONTEXT;
  if (memcmp(image, "\x7f""ELF", 4)) return INVALID_VALUE;
  note("module");
  *module = (void *)0x2000;
  return SUCCESS;
}

int cuModuleGetFunction(Function **function, void *module, const char *entry) {
  MAY_FAIL;
  *function = malloc(sizeof **function);
  snprintf((*function)->entry, sizeof (*function)->entry, "%s", entry);
  return SUCCESS;
}

int cuFuncGetAttribute(int *value, int attribute, Function *function) {
  *value = attribute == 0 ? 1024 : 0;
  return SUCCESS;
}

int cuFuncSetAttribute(Function *function, int attribute, int value) {
  MAY_FAIL;
  // The mode of oversized shared memory is newer than this driver.
  if (attribute == 17) return INVALID_VALUE;
  note("attribute %s %d %d", function->entry, attribute, value);
  return SUCCESS;
}

int cuFuncSetCacheConfig(Function *function, int config) {
  MAY_FAIL;
  note("cache %s %d", function->entry, config);
  return SUCCESS;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
  MAY_FAIL;
  if (attribute != 3 || address == strtoull(setting("FAKE_CUDA_ELSEWHERE", "1"), NULL, 0)) return INVALID_VALUE;
  memcpy(value, &address, sizeof address);
  return SUCCESS;
}

// The real encoding is secret. This one keeps every argument where a test can read it, and sets all bits of the second word.
int cuTensorMapEncodeTiled(unsigned char *map, int data_type, uint32_t rank, uint64_t address, const uint64_t *shape,
                           const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides, int interleave,
                           int swizzle, int promotion, int fill) {
  MAY_FAIL;
  if ((uintptr_t)map % 64 || rank < 1 || rank > 5) return INVALID_VALUE;
  const unsigned char head[8] = {data_type, rank, interleave, swizzle, promotion, fill, 0, 0};
  memset(map, 0, 128);
  memcpy(map, head, 8);
  memset(map + 8, 0xff, 8);
  memcpy(map + 16, &address, 8);
  for (uint32_t axis = 0; axis < rank; ++axis) {
    uint32_t extent = (uint32_t)shape[axis];
    memcpy(map + 24 + 4 * axis, &extent, 4);
    if (axis + 1 < rank) memcpy(map + 48 + 8 * axis, &strides[axis], 8);
    memcpy(map + 80 + 4 * axis, &box[axis], 4);
    map[100 + axis] = (unsigned char)element_strides[axis];
  }
  return SUCCESS;
}

static int launch(const char *call, Function *function, const unsigned *grid, const unsigned *block, unsigned shared,
                  void *stream, unsigned char **parameters) {
  int status = failure(call);
  if (status) return status;
  if (!current_context) return INVALID_CONTEXT;
  char line[8192], wanted[160];
  int end = snprintf(line, sizeof line, "launch %s grid=%u,%u,%u block=%u,%u,%u shared=%u stream=%llu parameters=",
                     function->entry, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared,
                     (unsigned long long)(uintptr_t)stream);
  snprintf(wanted, sizeof wanted, "%s:", function->entry);
  const char *sizes = strstr(setting("FAKE_CUDA_PARAMETERS", ""), wanted);
  if (!sizes) return NOT_FOUND;
  sizes += strlen(wanted);
  for (int index = 0;; ++index) {
    char *rest;
    long size = strtol(sizes, &rest, 10);
    // A C compiler would have aligned it; a tensor map needs 64 bytes.
    if (size && (uintptr_t)parameters[index] % (size == 128 ? 64 : size)) return MISALIGNED;
    for (long byte = 0; byte < size; ++byte) end += sprintf(line + end, "%02x", parameters[index][byte]);
    if (*rest != ',') break;
    line[end++] = ',';
    sizes = rest + 1;
  }
  line[end] = 0;
  note("%s", line);
  return SUCCESS;
}

int cuLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *stream, unsigned char **parameters, void **extra) {
  if (extra) return INVALID_VALUE;
  return launch("cuLaunchKernel", function, (unsigned[]){grid_x, grid_y, grid_z}, (unsigned[]){block_x, block_y, block_z},
                shared, stream, parameters);
}

int cuLaunchKernelEx(const LaunchConfig *config, Function *function, unsigned char **parameters, void **extra) {
  if (extra || config->num_attributes) return NOT_SUPPORTED;
  return launch("cuLaunchKernelEx", function, config->grid, config->block, config->shared, config->stream, parameters);
}

// Linked by Triton's launcher, and not called in these tests.
int cuModuleUnload(void *module) { return SUCCESS; }
int cuStreamIsCapturing(void *stream, int *capturing) { return *capturing = 0; }
int cuCtxGetLimit(size_t *value, int limit) { return NOT_SUPPORTED; }
int cuCtxSetLimit(int limit, size_t value) { return NOT_SUPPORTED; }
int cuOccupancyMaxActiveClusters(int *clusters, Function *function, const void *config) { return NOT_SUPPORTED; }
int cuTensorMapEncodeIm2col(void) { return NOT_SUPPORTED; }
