// What Hopper (compute capability 9.0) has and CUDA C++ has no words for: barriers in shared memory, the bulk tensor
// copy engine, products of a warp group. PTX ISA 8.x, sections "mbarrier", "cp.async.bulk.tensor" and "wgmma".
#pragma once

#include <cuda.h>

#include <cstdint>

namespace troupe::compute::cuda::hopper {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// -- barriers -----------------------------------------------------------------------------------------------------

__device__ inline void init_barrier(std::uint32_t barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the initialisation visible to the copy engine.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// The phase ends when as many bytes have come, too.
__device__ inline void arrive_expecting(std::uint32_t barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the phase of that parity has ended.
__device__ inline void wait(std::uint32_t barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Of `threads` threads that name the same barrier (1 to 15).
__device__ inline void sync_threads(unsigned barrier, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// -- copies -------------------------------------------------------------------------------------------------------

__device__ inline void copy_box(std::uint32_t to, const CUtensorMap& map, std::uint32_t barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(to),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void copy_box(std::uint32_t to, const CUtensorMap& map, std::uint32_t barrier, int c0, int c1, int c2,
                                int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
// The other way. What is outside the tensor is left out.
__device__ inline void store_box(const CUtensorMap& map, std::uint32_t from, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
               "r"(c0), "r"(c1)
               : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's stores have read shared memory, or have been done.
__device__ inline void wait_for_reads_of_stores() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void wait_for_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// 16 bytes by an ordinary asynchronous copy, zeros when `is_there` is false.
__device__ inline void copy_16_bytes(std::uint32_t to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `open` groups of this thread's copies are under way.
template <int open>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}
// Between ordinary writes to shared memory and products or stores that read them.
__device__ inline void show_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void prefetch(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Stores two (four) 8 x 8 matrices of 16-bit values, each thread of the warp holding two neighbours of a row, as their
// transposes: thread t names where row t % 8 of the transpose t / 8 goes, 16 bytes.
__device__ inline void store_transposed(std::uint32_t to, std::uint32_t a, std::uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(a), "r"(b) : "memory");
}
__device__ inline void store_transposed(std::uint32_t to, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                        std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}
__device__ inline uint4 load_16_bytes(std::uint32_t from) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(from)
               : "memory");
  return value;
}

// -- products -----------------------------------------------------------------------------------------------------

template <unsigned registers>
__device__ inline void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <unsigned registers>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `open` groups of products are under way.
template <int open>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(open) : "memory");
}

// Describes rows of 128 bytes (64 bf16) in shared memory, 8 rows in 1,024 bytes, in the copy engine's 128-byte swizzle.
// Further columns: + bytes / 16.
__device__ inline std::uint64_t describe(std::uint32_t address) {
  constexpr std::uint64_t rows_8 = 1024 / 16;
  constexpr std::uint64_t swizzle_128 = 1;
  return (address & 0x3ffffU) / 16 | std::uint64_t{1} << 16 | rows_8 << 32 | swizzle_128 << 62;
}

// d += a b^T: a [64, 16], b [n, 16] in shared memory, bf16; d [64, n] f32 over the 128 threads of a warp group: thread
// t has d[4 j + {0, 1}] = row 16 (t / 32) + t % 32 / 4, columns 8 j + 2 (t % 4) + {0, 1}, and d[4 j + {2, 3}] 8 rows
// below.
template <unsigned n>
struct product;

#define TROUPE_D16(b)                                                                                         \
  "+f"(d[b]), "+f"(d[b + 1]), "+f"(d[b + 2]), "+f"(d[b + 3]), "+f"(d[b + 4]), "+f"(d[b + 5]), "+f"(d[b + 6]), \
      "+f"(d[b + 7])
#define TROUPE_PRODUCT(n, places, a, b, ...)                                                                          \
  template <>                                                                                                         \
  struct product<n> {                                                                                                 \
    __device__ static inline void add(float (&d)[n / 2], std::uint64_t left, std::uint64_t right) {                   \
      asm volatile(                                                                                                   \
          "{\n.reg .pred adds;\nsetp.eq.u32 adds, 0, 0;\n"                                                            \
          "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" places "}, " a ", " b ", adds, 1, 1, 0, 0;\n}" \
          : __VA_ARGS__                                                                                               \
          : "l"(left), "l"(right));                                                                                   \
    }                                                                                                                 \
  };
// clang-format off
#define TROUPE_P16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TROUPE_P32 TROUPE_P16 ", " "%8, %9, %10, %11, %12, %13, %14, %15"
#define TROUPE_P48 TROUPE_P32 ", " "%16, %17, %18, %19, %20, %21, %22, %23"
#define TROUPE_P64 TROUPE_P48 ", " "%24, %25, %26, %27, %28, %29, %30, %31"
#define TROUPE_P80 TROUPE_P64 ", " "%32, %33, %34, %35, %36, %37, %38, %39"
#define TROUPE_P96 TROUPE_P80 ", " "%40, %41, %42, %43, %44, %45, %46, %47"
#define TROUPE_P112 TROUPE_P96 ", " "%48, %49, %50, %51, %52, %53, %54, %55"
#define TROUPE_P128 TROUPE_P112 ", " "%56, %57, %58, %59, %60, %61, %62, %63"
#define TROUPE_P144 TROUPE_P128 ", " "%64, %65, %66, %67, %68, %69, %70, %71"
#define TROUPE_P160 TROUPE_P144 ", " "%72, %73, %74, %75, %76, %77, %78, %79"
#define TROUPE_P176 TROUPE_P160 ", " "%80, %81, %82, %83, %84, %85, %86, %87"
#define TROUPE_P192 TROUPE_P176 ", " "%88, %89, %90, %91, %92, %93, %94, %95"
#define TROUPE_P208 TROUPE_P192 ", " "%96, %97, %98, %99, %100, %101, %102, %103"
#define TROUPE_P224 TROUPE_P208 ", " "%104, %105, %106, %107, %108, %109, %110, %111"
#define TROUPE_P240 TROUPE_P224 ", " "%112, %113, %114, %115, %116, %117, %118, %119"
#define TROUPE_P256 TROUPE_P240 ", " "%120, %121, %122, %123, %124, %125, %126, %127"
#define TROUPE_R16 TROUPE_D16(0)
#define TROUPE_R32 TROUPE_R16, TROUPE_D16(8)
#define TROUPE_R48 TROUPE_R32, TROUPE_D16(16)
#define TROUPE_R64 TROUPE_R48, TROUPE_D16(24)
#define TROUPE_R80 TROUPE_R64, TROUPE_D16(32)
#define TROUPE_R96 TROUPE_R80, TROUPE_D16(40)
#define TROUPE_R112 TROUPE_R96, TROUPE_D16(48)
#define TROUPE_R128 TROUPE_R112, TROUPE_D16(56)
#define TROUPE_R144 TROUPE_R128, TROUPE_D16(64)
#define TROUPE_R160 TROUPE_R144, TROUPE_D16(72)
#define TROUPE_R176 TROUPE_R160, TROUPE_D16(80)
#define TROUPE_R192 TROUPE_R176, TROUPE_D16(88)
#define TROUPE_R208 TROUPE_R192, TROUPE_D16(96)
#define TROUPE_R224 TROUPE_R208, TROUPE_D16(104)
#define TROUPE_R240 TROUPE_R224, TROUPE_D16(112)
#define TROUPE_R256 TROUPE_R240, TROUPE_D16(120)
TROUPE_PRODUCT(16, TROUPE_P16, "%8", "%9", TROUPE_R16)
TROUPE_PRODUCT(32, TROUPE_P32, "%16", "%17", TROUPE_R32)
TROUPE_PRODUCT(48, TROUPE_P48, "%24", "%25", TROUPE_R48)
TROUPE_PRODUCT(64, TROUPE_P64, "%32", "%33", TROUPE_R64)
TROUPE_PRODUCT(80, TROUPE_P80, "%40", "%41", TROUPE_R80)
TROUPE_PRODUCT(96, TROUPE_P96, "%48", "%49", TROUPE_R96)
TROUPE_PRODUCT(112, TROUPE_P112, "%56", "%57", TROUPE_R112)
TROUPE_PRODUCT(128, TROUPE_P128, "%64", "%65", TROUPE_R128)
TROUPE_PRODUCT(144, TROUPE_P144, "%72", "%73", TROUPE_R144)
TROUPE_PRODUCT(160, TROUPE_P160, "%80", "%81", TROUPE_R160)
TROUPE_PRODUCT(176, TROUPE_P176, "%88", "%89", TROUPE_R176)
TROUPE_PRODUCT(192, TROUPE_P192, "%96", "%97", TROUPE_R192)
TROUPE_PRODUCT(208, TROUPE_P208, "%104", "%105", TROUPE_R208)
TROUPE_PRODUCT(224, TROUPE_P224, "%112", "%113", TROUPE_R224)
TROUPE_PRODUCT(240, TROUPE_P240, "%120", "%121", TROUPE_R240)
TROUPE_PRODUCT(256, TROUPE_P256, "%128", "%129", TROUPE_R256)
// clang-format on

}  // namespace troupe::compute::cuda::hopper
