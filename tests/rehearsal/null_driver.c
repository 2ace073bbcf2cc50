// A CUDA driver, runtime, cuBLAS, cuDNN, NCCL and NVML that accept everything and compute nothing.
//
// Memory is address space that nobody writes. Its amount is counted and refused beyond the capacity,
// as on a GPU. Whatever torch needs and this file does not have, rehearse.py adds as a function that
// returns 0. Structures are laid out as in CUDA 13. Environment: NULLCUDA_DEVICES, NULLCUDA_NAME,
// NULLCUDA_MEMORY and NULLCUDA_CONTEXT (bytes), NULLCUDA_CUDNN_WORKSPACE (bytes of a cuDNN plan).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef struct { unsigned x, y, z; } dim3;
#define OK return 0
#define MIB (1ull << 20)

static size_t total_memory(void) { const char *s = getenv("NULLCUDA_MEMORY"); return s ? strtoull(s, 0, 10) : 85520809984ull; }
static size_t context_memory(void) { const char *s = getenv("NULLCUDA_CONTEXT"); return s ? strtoull(s, 0, 10) : 520 * MIB; }
static int devices(void) { const char *s = getenv("NULLCUDA_DEVICES"); return s ? atoi(s) : 1; }
static const char *device_name(void) { const char *s = getenv("NULLCUDA_NAME"); return s ? s : "NVIDIA H100 80GB HBM3"; }

// ---- what is handed out, for every device together
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long long in_use;

// ---- registration and launch
void **__cudaRegisterFatBinary(void *f) { static void *h[8]; return h; }
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
char __cudaInitModule(void **h) { return 1; }
void __cudaRegisterVar(void **h, char *host, char *addr, const char *name, int ext, size_t size, int constant, int global) {}
void __cudaRegisterFunction(void **h, const char *host, char *dev, const char *name, int limit, void *tid, void *bid, void *bd, void *gd, int *ws) {}
static __thread struct { dim3 g, b; size_t s; void *st; } pushed;
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, void *st) { pushed.g = g; pushed.b = b; pushed.s = s; pushed.st = st; OK; }
int __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *st) { *g = pushed.g; *b = pushed.b; *s = pushed.s; *(void **)st = pushed.st; OK; }
int __cudaGetKernel(void **k, const void *f) { *k = (void *)f; OK; }
static __thread int last_error;
static int launched(const void *f, dim3 g, dim3 b) {
  // what a real launch refuses: an empty or too large grid or block
  if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z || g.y > 65535 || g.z > 65535 || g.x > 2147483647u || b.x * b.y * b.z > 1024) { last_error = 9; return 9; }
  OK;
}
int cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, void *st) { return launched(f, g, b); }
int __cudaLaunchKernel(void *f, dim3 g, dim3 b, void **a, size_t s, void *st) { return launched(f, g, b); }
int cudaLaunchCooperativeKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, void *st) { return launched(f, g, b); }
int cudaLaunchKernelExC(const void *config, const void *f, void **a) { OK; }
typedef void (*Fn)(void *);
int cudaLaunchHostFunc(void *st, Fn fn, void *data) { fn(data); OK; }
int cudaStreamAddCallback(void *st, void (*cb)(void *, int, void *), void *data, unsigned flags) { cb(st, 0, data); OK; }

// ---- devices
static __thread int current;
int cudaGetDeviceCount(int *n) { *n = devices(); OK; }
int cudaGetDevice(int *d) { *d = current; OK; }
int cudaSetDevice(int d) { if (d < 0 || d >= devices()) { last_error = 101; return 101; } current = d; OK; }
int cudaDriverGetVersion(int *v) { *v = 13000; OK; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; OK; }
// The layout of CUDA 13, spelled out.
typedef struct {
  char name[256]; char uuid[16]; char luid[8]; unsigned luidDeviceNodeMask; size_t totalGlobalMem; size_t sharedMemPerBlock; int regsPerBlock; int warpSize;
  size_t memPitch; int maxThreadsPerBlock; int maxThreadsDim[3]; int maxGridSize[3]; size_t totalConstMem; int major; int minor; size_t textureAlignment;
  size_t texturePitchAlignment; int multiProcessorCount; int integrated; int canMapHostMemory; int maxTexture1D; int maxTexture1DMipmap; int maxTexture2D[2];
  int maxTexture2DMipmap[2]; int maxTexture2DLinear[3]; int maxTexture2DGather[2]; int maxTexture3D[3]; int maxTexture3DAlt[3]; int maxTextureCubemap;
  int maxTexture1DLayered[2]; int maxTexture2DLayered[3]; int maxTextureCubemapLayered[2]; int maxSurface1D; int maxSurface2D[2]; int maxSurface3D[3];
  int maxSurface1DLayered[2]; int maxSurface2DLayered[3]; int maxSurfaceCubemap; int maxSurfaceCubemapLayered[2]; size_t surfaceAlignment; int concurrentKernels;
  int ECCEnabled; int pciBusID; int pciDeviceID; int pciDomainID; int tccDriver; int asyncEngineCount; int unifiedAddressing; int memoryBusWidth; int l2CacheSize;
  int persistingL2CacheMaxSize; int maxThreadsPerMultiProcessor; int streamPrioritiesSupported; int globalL1CacheSupported; int localL1CacheSupported;
  size_t sharedMemPerMultiprocessor; int regsPerMultiprocessor; int managedMemory; int isMultiGpuBoard; int multiGpuBoardGroupID; int hostNativeAtomicSupported;
  int pageableMemoryAccess; int concurrentManagedAccess; int computePreemptionSupported; int canUseHostPointerForRegisteredMem; int cooperativeLaunch;
  size_t sharedMemPerBlockOptin; int pageableMemoryAccessUsesHostPageTables; int directManagedMemAccessFromHost; int maxBlocksPerMultiProcessor;
  int accessPolicyMaxWindowSize; size_t reservedSharedMemPerBlock; int hostRegisterSupported; int rest[19]; int reserved[56];
} Prop;
int cudaGetDeviceProperties(Prop *p, int d) {
  memset(p, 0, sizeof *p); strncpy(p->name, device_name(), 255); p->uuid[0] = 1 + d; p->totalGlobalMem = total_memory(); p->sharedMemPerBlock = 49152;
  p->regsPerBlock = 65536; p->warpSize = 32; p->memPitch = 2147483647; p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->totalConstMem = 65536; p->major = 9; p->minor = 0; p->textureAlignment = 512;
  p->texturePitchAlignment = 32; p->multiProcessorCount = 132; p->canMapHostMemory = 1; p->surfaceAlignment = 512; p->concurrentKernels = 1; p->ECCEnabled = 1; p->pciBusID = 1 + d;
  p->asyncEngineCount = 3; p->unifiedAddressing = 1; p->memoryBusWidth = 5120; p->l2CacheSize = 52428800; p->persistingL2CacheMaxSize = 32 << 20; p->maxThreadsPerMultiProcessor = 2048;
  p->streamPrioritiesSupported = 1; p->globalL1CacheSupported = p->localL1CacheSupported = 1; p->sharedMemPerMultiprocessor = 233472; p->regsPerMultiprocessor = 65536;
  p->managedMemory = 1; p->computePreemptionSupported = 1; p->cooperativeLaunch = 1; p->sharedMemPerBlockOptin = 232448; p->maxBlocksPerMultiProcessor = 32; p->reservedSharedMemPerBlock = 1024;
  p->hostRegisterSupported = 1; OK;
}
static int attribute(int a) {
  switch (a) {
  case 1: return 1024; case 2: case 3: return 1024; case 4: return 64; case 5: return 2147483647; case 6: case 7: return 65535; case 8: return 49152; case 9: return 65536;
  case 10: return 32; case 11: return 2147483647; case 12: return 65536; case 13: return 1980000; case 14: return 512; case 16: return 132; case 19: return 1; case 31: return 1; case 32: return 1;
  case 33: return 1; case 36: return 2619000; case 37: return 5120; case 38: return 52428800; case 39: return 2048; case 40: return 3; case 41: return 1; case 75: return 9; case 76: return 0;
  case 78: return 1; case 79: case 80: return 1; case 81: return 233472; case 82: return 65536; case 83: return 1; case 90: return 1; case 95: return 1; case 97: return 232448;
  case 102: return 1; case 103: return 1; case 106: return 32; case 108: return 32 << 20; case 111: return 1024; case 115: return 1; case 120: return 1; default: return 0;
  }
}
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = attribute(a); OK; }
int cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", 1 + d); OK; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { if (least) *least = 0; if (greatest) *greatest = -5; OK; }
int cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = a != b; OK; }
int cudaGetLastError(void) { int e = last_error; last_error = 0; return e; }
int cudaPeekAtLastError(void) { return last_error; }
const char *cudaGetErrorString(int e) { return e == 2 ? "out of memory" : e == 9 ? "invalid configuration argument" : e == 101 ? "invalid device ordinal" : e ? "null driver error" : "no error"; }
const char *cudaGetErrorName(int e) { return e == 2 ? "cudaErrorMemoryAllocation" : e == 9 ? "cudaErrorInvalidConfiguration" : e == 101 ? "cudaErrorInvalidDevice" : e ? "cudaErrorUnknown" : "cudaSuccess"; }

// ---- memory
typedef struct { char *at; size_t size; int device; } Block;
static Block *blocks; static size_t block_count, block_room;
static size_t up(size_t n) { return (n + 2 * MIB - 1) / (2 * MIB) * (2 * MIB); }
static int find_block(const void *p) { for (size_t i = 0; i < block_count; i++) if ((char *)p >= blocks[i].at && (char *)p < blocks[i].at + blocks[i].size) return i; return -1; }
static int take(void **p, size_t n) {
  size_t size = up(n ? n : 1);
  pthread_mutex_lock(&lock);
  unsigned long long mine = 0; for (size_t i = 0; i < block_count; i++) if (blocks[i].device == current) mine += blocks[i].size;
  char *at = MAP_FAILED;
  if (mine + size <= total_memory() - context_memory()) at = mmap(0, size + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) { last_error = 2; *p = 0; pthread_mutex_unlock(&lock); return 2; }
  char *aligned = (char *)(((uintptr_t)at + 2 * MIB - 1) / (2 * MIB) * (2 * MIB));
  if (aligned > at) munmap(at, aligned - at);
  size_t tail = at + size + 2 * MIB - (aligned + size); if (tail) munmap(aligned + size, tail);
  madvise(aligned, size, MADV_NOHUGEPAGE); // what is written takes small pages
  if (block_count == block_room) { block_room = block_room ? 2 * block_room : 1024; blocks = realloc(blocks, block_room * sizeof(Block)); }
  blocks[block_count++] = (Block){aligned, size, current};
  in_use += size;
  *p = aligned; pthread_mutex_unlock(&lock); OK;
}
static int give(void *p) {
  if (!p) OK;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < block_count; i++) if (blocks[i].at == p) { munmap(p, blocks[i].size); in_use -= blocks[i].size; blocks[i] = blocks[--block_count]; pthread_mutex_unlock(&lock); OK; }
  pthread_mutex_unlock(&lock); last_error = 1; return 1;
}
int cudaMalloc(void **p, size_t n) { return take(p, n); }
int cudaFree(void *p) { return give(p); }
int cudaMallocAsync(void **p, size_t n, void *s) { return take(p, n); }
int cudaFreeAsync(void *p, void *s) { return give(p); }
int cudaMemGetInfo(size_t *free, size_t *total) {
  pthread_mutex_lock(&lock); unsigned long long mine = 0; for (size_t i = 0; i < block_count; i++) if (blocks[i].device == current) mine += blocks[i].size; pthread_mutex_unlock(&lock);
  *total = total_memory(); *free = total_memory() - context_memory() - mine; OK;
}
int cudaHostAlloc(void **p, size_t n, unsigned f) { return posix_memalign(p, 4096, n ? n : 1) ? 2 : 0; }
int cudaFreeHost(void *p) { free(p); OK; }
static int moved(void *d, const void *s, size_t n) { // what a host may read, and small tensors
  pthread_mutex_lock(&lock); int to_host = find_block(d) < 0, within = !to_host && find_block(s) >= 0; pthread_mutex_unlock(&lock);
  if (to_host || n <= (within ? MIB / 16 : MIB)) memmove(d, s, n);
  OK;
}
int cudaMemcpy(void *d, const void *s, size_t n, int k) { return moved(d, s, n); }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *st) { return moved(d, s, n); }
int cudaMemset(void *d, int v, size_t n) { OK; }
int cudaMemsetAsync(void *d, int v, size_t n, void *s) { OK; }
typedef struct { int type, device; void *dev, *host; long reserved[8]; } PointerAttributes;
int cudaPointerGetAttributes(PointerAttributes *a, const void *p) {
  pthread_mutex_lock(&lock); int i = find_block(p); memset(a, 0, sizeof *a);
  a->type = i < 0 ? 0 : 2; a->device = i < 0 ? -2 : blocks[i].device; a->dev = i < 0 ? 0 : (void *)p; pthread_mutex_unlock(&lock); OK;
}
static char scratch[1 << 16];
int cudaGetSymbolAddress(void **p, const void *s) { *p = scratch; OK; }

// ---- streams and events
int cudaStreamCreate(void **s) { *s = malloc(8); OK; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = malloc(8); OK; }
int cudaStreamCreateWithPriority(void **s, unsigned f, int p) { *s = malloc(8); OK; }
int cudaStreamDestroy(void *s) { OK; }
int cudaStreamGetPriority(void *s, int *p) { *p = 0; OK; }
int cudaStreamIsCapturing(void *s, int *status) { *status = 0; OK; }
int cudaStreamGetCaptureInfo(void *s, int *status, unsigned long long *id, void **g, void ***deps, void ***edges, size_t *n) { *status = 0; if (id) *id = 0; if (g) *g = 0; if (deps) *deps = 0; if (n) *n = 0; OK; }
typedef struct { double at; } Event;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
int cudaEventCreateWithFlags(void **e, unsigned f) { *e = calloc(1, sizeof(Event)); OK; }
int cudaEventCreate(void **e) { return cudaEventCreateWithFlags(e, 0); }
int cudaEventDestroy(void *e) { free(e); OK; }
int cudaEventRecord(void *e, void *s) { ((Event *)e)->at = now(); OK; }
int cudaEventRecordWithFlags(void *e, void *s, unsigned f) { return cudaEventRecord(e, s); }
int cudaEventElapsedTime(float *ms, void *a, void *b) { double d = ((Event *)b)->at - ((Event *)a)->at; *ms = d > 1e-3 ? d : 1e-3; OK; }

// ---- functions' attributes
typedef struct { size_t shared, constant, local; int maxThreads, regs, ptx, binary, cache, maxDynamic, carveout, cluster[5], reserved[16]; } FuncAttributes;
int cudaFuncGetAttributes(FuncAttributes *a, const void *f) { memset(a, 0, sizeof *a); a->maxThreads = 1024; a->regs = 64; a->ptx = a->binary = 90; a->maxDynamic = 232448; OK; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) { *n = b > 0 && 2048 / b > 0 ? 2048 / b : 1; OK; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned fl) { return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, f, b, s); }
int cudaLibraryLoadData(void **l, const void *c, void *a, void **b, unsigned n, void *d, void **e, unsigned m) { *l = scratch; OK; }
int cudaLibraryGetKernel(void **k, void *l, const char *n) { *k = scratch; OK; }

// ---- driver
int cuInit(unsigned f) { OK; }
int cuDriverGetVersion(int *v) { *v = 13000; OK; }
int cuDeviceGet(int *d, int i) { *d = i; OK; }
int cuDeviceGetCount(int *n) { *n = devices(); OK; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, device_name(), n); OK; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = total_memory(); OK; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = attribute(a); OK; }
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *active) { *f = 0; *active = 1; OK; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = scratch + 8 * (1 + d); OK; }
int cuCtxGetCurrent(void **c) { *c = scratch + 8 * (1 + current); OK; }
int cuCtxSetCurrent(void *c) { OK; }
int cuCtxGetDevice(int *d) { *d = current; OK; }
int cuCtxPushCurrent_v2(void *c) { OK; }
int cuCtxPopCurrent_v2(void **c) { OK; }
int cuGetErrorString(int e, const char **s) { *s = cudaGetErrorString(e); OK; }
int cuGetErrorName(int e, const char **s) { *s = cudaGetErrorName(e); OK; }
int cuPointerGetAttribute(void *data, int a, uint64_t p) { // context, memory type, device pointer, ordinal
  int i = find_block((void *)p); if (a == 1) *(void **)data = scratch + 8; else if (a == 2) *(unsigned *)data = i < 0 ? 1 : 2; else if (a == 3) *(uint64_t *)data = p; else if (a == 9) *(int *)data = i < 0 ? 0 : blocks[i].device; else *(uint64_t *)data = 0; OK;
}
int cuPointerGetAttributes(unsigned n, int *a, void **data, uint64_t p) { for (unsigned i = 0; i < n; i++) cuPointerGetAttribute(data[i], a[i], p); OK; }
int cuModuleLoad(void **m, const char *f) { *m = scratch; OK; }
int cuModuleLoadData(void **m, const void *i) { *m = scratch; OK; }
int cuModuleLoadDataEx(void **m, const void *i, unsigned n, void *o, void **v) { *m = scratch; OK; }
int cuModuleGetFunction(void **f, void *m, const char *n) { *f = scratch; OK; }
int cuModuleGetGlobal_v2(uint64_t *p, size_t *n, void *m, const char *s) { *p = (uint64_t)scratch; *n = 8; OK; }
int cuFuncGetAttribute(int *v, int a, void *f) { *v = a == 0 ? 1024 : a == 4 ? 64 : a == 5 || a == 6 ? 90 : 0; OK; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, void *f, int b, size_t s) { *n = 2; OK; }
int cuOccupancyMaxActiveClusters(int *n, void *f, void *c) { *n = 66; OK; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned s, void *st, void **p, void **e) { OK; }
int cuDevicePrimaryCtxRelease(int d) { OK; }
int cuCtxSetLimit(int l, size_t v) { OK; }
int cuCtxGetLimit(size_t *v, int l) { *v = MIB; OK; }
int cuStreamGetCtx(void *s, void **c) { *c = scratch + 8; OK; }
int cuFuncSetAttribute(void *f, int a, int v) { OK; }
int cuLaunchKernelEx(void *c, void *f, void **p, void **e) { OK; }
int cuMemGetAllocationGranularity(size_t *g, void *prop, int o) { *g = 2 * MIB; OK; }
int cuMemAddressReserve(uint64_t *p, size_t n, size_t a, uint64_t at, unsigned long long f) {
  void *m = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); *p = (uint64_t)m; return m == MAP_FAILED ? 2 : 0;
}
int cuMemAddressFree(uint64_t p, size_t n) { munmap((void *)p, n); OK; }
int cuMemCreate(uint64_t *h, size_t n, void *prop, unsigned long long f) {
  pthread_mutex_lock(&lock);
  if (in_use + n > total_memory() - context_memory()) { pthread_mutex_unlock(&lock); return 2; }
  in_use += n; pthread_mutex_unlock(&lock); uint64_t *x = malloc(8); *x = n; *h = (uint64_t)x; OK;
}
int cuMemRelease(uint64_t h) { pthread_mutex_lock(&lock); in_use -= *(uint64_t *)h; pthread_mutex_unlock(&lock); free((void *)h); OK; }
int cuMemGetAddressRange_v2(uint64_t *at, size_t *n, uint64_t p) { pthread_mutex_lock(&lock); int i = find_block((void *)p); if (at) *at = i < 0 ? p : (uint64_t)blocks[i].at; if (n) *n = i < 0 ? 0 : blocks[i].size; pthread_mutex_unlock(&lock); OK; }
int cuMemMap(uint64_t p, size_t n, size_t o, uint64_t h, unsigned long long f) { OK; }
int cuMemUnmap(uint64_t p, size_t n) { madvise((void *)p, n, MADV_DONTNEED); OK; }
int cuMemSetAccess(uint64_t p, size_t n, void *d, size_t c) { OK; }
int cuGetProcAddress_v2(const char *s, void **f, int v, uint64_t fl, int *status);
static void *lookup(const char *s) {
  static void *self; if (!self) self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  char name[128]; snprintf(name, sizeof name, "%s_v2", s);
  void *f = self ? dlsym(self, s) : 0; if (!f && self) f = dlsym(self, name); return f;
}
int cuGetProcAddress_v2(const char *s, void **f, int v, uint64_t fl, int *status) { *f = lookup(s); if (status) *status = *f ? 0 : 1; return *f ? 0 : 500; }
int cuGetProcAddress(const char *s, void **f, int v, uint64_t fl) { return cuGetProcAddress_v2(s, f, v, fl, 0); }
int cudaGetDriverEntryPointByVersion(const char *s, void **f, unsigned v, unsigned long long fl, int *status) { *f = lookup(s); if (status) *status = *f ? 0 : 1; return *f ? 0 : 500; }

// ---- libraries
int nvmlInit_v2(void) { OK; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **d) { *d = scratch; OK; }
int nvmlDeviceGetComputeRunningProcesses(void *d, unsigned *n, void *found) { *n = 0; OK; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void *d, unsigned l, void *t) { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, unsigned l, void *t) { return 3; }
int nvmlDeviceGetGpuFabricInfoV(void *d, void *f) { OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13000; OK; }
int cublasCreate_v2(void **h) { *h = malloc(64); OK; }
int cublasGetMathMode(void *h, int *m) { *m = 0; OK; }
int cublasGetPointerMode_v2(void *h, int *m) { *m = 0; OK; }
size_t cublasLtGetVersion(void) { return 130100; }
int cublasLtMatmulDescCreate(void **d, int c, int s) { *d = malloc(8); OK; }
int cublasLtMatmulPreferenceCreate(void **d) { *d = malloc(8); OK; }
int cublasLtMatrixLayoutCreate(void **d, int t, uint64_t r, uint64_t c, int64_t ld) { *d = malloc(8); OK; }
int cublasLtMatmulDescDestroy(void *d) { free(d); OK; }
int cublasLtMatmulPreferenceDestroy(void *d) { free(d); OK; }
int cublasLtMatrixLayoutDestroy(void *d) { free(d); OK; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *e, void *p, int n, void *results, int *found) { memset(results, 0, 8 * 8); *found = 1; OK; }
int cublasLtMatmul() { OK; }
int cublasSgemm_v2() { OK; }
int cublasGemmEx() { OK; }
int cublasGemmStridedBatchedEx() { OK; }
int cublasSgemmStridedBatched() { OK; }
int cusolverDnCreate(void **h) { *h = malloc(8); OK; }
int cusparseCreate(void **h) { *h = malloc(8); OK; }
// cuDNN: its version is the real one; a plan is whatever is asked, with the workspace that NULLCUDA_CUDNN_WORKSPACE says
size_t cudnnGetVersion(void) { static size_t (*real)(void); if (!real) real = dlsym(RTLD_NEXT, "cudnnGetVersion"); return real ? real() : 92000; }
size_t cudnnGetCudartVersion(void) { return 13000; }
int cudnnGetProperty(int t, int *v) { size_t n = cudnnGetVersion(); *v = t == 0 ? n / 10000 : t == 1 ? n / 100 % 100 : n % 100; OK; }
const char *cudnnGetErrorString(int e) { return "null cuDNN"; }
void cudnnGetLastErrorString(char *s, size_t n) { if (n) *s = 0; }
int cudnnCreate(void **h) { *h = malloc(64); OK; }
int cudnnGetStream(void *h, void **s) { *s = 0; OK; }
typedef struct { int type; } Descriptor;
int cudnnBackendCreateDescriptor(int type, void **d) { Descriptor *x = calloc(1, 64); x->type = type; *d = x; OK; }
int cudnnBackendDestroyDescriptor(void *d) { OK; }
int cudnnBackendFinalize(void *d) { OK; }
int cudnnBackendSetAttribute(void *d, int n, int t, int64_t c, const void *a) { OK; }
int cudnnBackendGetAttribute(void *d, int name, int type, int64_t asked, int64_t *count, void *out) {
  if (type == 3) { // a number: the plan's workspace is the one that matters
    const char *s = getenv("NULLCUDA_CUDNN_WORKSPACE");
    if (out && asked > 0) *(int64_t *)out = name == 402 && s ? atoll(s) : 0;
    if (count) *count = 1;
  } else if (type == 23) { // a small number
    if (out && asked > 0) *(int32_t *)out = 0;
    if (count) *count = 1;
  } else if (count) *count = type == 15 && name != 302 ? 1 : 0; // one descriptor of what is asked for, no notes
  OK;
}
int cudnnBackendExecute(void *h, void *p, void *v) { OK; }
// NCCL: every rank is taken to hold what this one holds; buffers over a MiB are left as they are
static int ranks = 1, own_rank;
typedef struct { char bytes[128]; } UniqueId;
static size_t width(int t) { return t <= 1 ? 1 : t <= 3 ? 4 : t <= 5 ? 8 : t == 6 ? 2 : t == 7 ? 4 : t == 8 ? 8 : t == 9 ? 2 : 1; }
static void same(void *to, const void *from, size_t n) { if (to != from && n <= MIB) memmove(to, from, n); }
int ncclGetVersion(int *v) { *v = 22907; OK; }
const char *ncclGetErrorString(int e) { return "null NCCL"; }
const char *ncclGetLastError(void *c) { return ""; }
int ncclCommInitRank(void **c, int n, UniqueId id, int rank) { ranks = n; own_rank = rank; *c = malloc(64); OK; }
int ncclCommInitRankConfig(void **c, int n, UniqueId id, int rank, void *config) { ranks = n; own_rank = rank; *c = malloc(64); OK; }
int ncclCommInitRankScalable(void **c, int n, int rank, int ids, void *id, void *config) { ranks = n; own_rank = rank; *c = malloc(64); OK; }
int ncclCommSplit(void *c, int color, int key, void **out, void *config) { *out = malloc(64); OK; }
int ncclCommGetAsyncError(void *c, int *e) { *e = 0; OK; }
int ncclCommCount(void *c, int *n) { *n = ranks; OK; }
int ncclCommUserRank(void *c, int *n) { *n = own_rank; OK; }
int ncclAllReduce(const void *from, void *to, size_t n, int t) { same(to, from, n * width(t)); OK; }
int ncclReduce(const void *from, void *to, size_t n, int t) { same(to, from, n * width(t)); OK; }
int ncclBroadcast(const void *from, void *to, size_t n, int t) { same(to, from, n * width(t)); OK; }
int ncclAllGather(const void *from, void *to, size_t n, int t) { for (int r = 0; r < ranks; r++) same((char *)to + r * n * width(t), from, n * width(t)); OK; }
int ncclReduceScatter(const void *from, void *to, size_t n, int t) { same(to, from, n * width(t)); OK; }
