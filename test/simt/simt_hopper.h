// What dev.cuh offers for Hopper, on the host: products of a warpgroup over swizzled shared memory, barriers in shared memory, tensor
// copies. In: the descriptors and addresses that the device would get. Out: the documented layouts, read element by element, as late as the
// rules allow (seeds 0 and 1 for products, even seeds for copies) or at once; an abort where a fence, a commit or a wait is missing.
#pragma once

namespace simt {

/// A barrier in shared memory, eight bytes; poison is no barrier.
struct SharedBarrier {
  int32_t bytes;  // still to come in this phase
  uint32_t arrivals : 10, left : 10, phase : 1, mark : 11;
};
constexpr uint32_t barrier_mark = 0x2a5;

inline SharedBarrier read_barrier(const uint64_t* at) {
  if (reinterpret_cast<uintptr_t>(at) % 8) die("a barrier that is not 8-byte aligned", "");
  const SharedBarrier barrier = std::bit_cast<SharedBarrier>(*at);
  if (barrier.mark != barrier_mark) die("a barrier that was not initialised", "");
  return barrier;
}

/// So many arrivals and bytes; lets those go whose phase is over.
inline void change_barrier(uint64_t* at, unsigned arrivals, int bytes) {
  SharedBarrier barrier = read_barrier(at);
  if (arrivals > barrier.left) die("more arrivals at a barrier than it was made for", "");
  barrier.left -= arrivals;
  barrier.bytes += bytes;
  const bool over = barrier.left == 0 && barrier.bytes == 0;
  if (over) barrier.left = barrier.arrivals, barrier.phase ^= 1;
  *at = std::bit_cast<uint64_t>(barrier);
  if (!over) return;
  for (Fiber& fiber : current->fibers)
    if (fiber.state == State::at_shared_barrier && fiber.awaited == at && fiber.awaited_parity != barrier.phase) fiber.state = State::ready;
}

/// A product or a tensor copy meets these 16 bytes: it must see what threads wrote there.
inline Writer& check_fenced(const void* at, const char* what) {
  Writer* writer = writer_of(at);
  if (!writer) die("outside dynamic shared memory:", what);
  if (writer->thread && current->fibers[writer->thread - 1u].fences == writer->fences)
    die("no fence behind the writes that it meets:", what);
  return *writer;
}

inline void land(const BoxCopy& box) {
  for (unsigned line = 0; line < 64; ++line)
    for (unsigned chunk = 0; chunk < 8; ++chunk) {
      unsigned char* at = box.to + line * 128 + ((chunk ^ (line & 7)) << 4);
      check_fenced(at, "tensor copy") = {};
      if (box.from)
        std::memcpy(at, box.from + line * box.line_bytes + chunk * 16, 16);
      else
        std::memset(at, 0, 16);
    }
  change_barrier(box.barrier, 0, -64 * 128);
}

}  // namespace simt

namespace dev {

constexpr bool simulated = true;
constexpr bool has_warpgroup_products = true;
[[noreturn]] inline void trap() { simt::die("trap", ""); }

/// Dynamic shared memory begins at an address that 128 divides, but not 1024: static variables may lie before it.
constexpr uint32_t shared_window = 1024 + 128;
inline uint32_t shared_address(const void* p) {
  return shared_window + uint32_t(static_cast<const unsigned char*>(p) - simt::current->shared);
}

/// One warpgroup matrix as its descriptor tells: where element (line, column) of the swizzled lines lies.
struct SwizzledLines {
  uint32_t start, leading, stride;
  explicit SwizzledLines(uint64_t descriptor)
      : start(uint32_t(descriptor & 0x3fff) << 4),
        leading(uint32_t(descriptor >> 16 & 0x3fff) << 4),
        stride(uint32_t(descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7))
      simt::die("a matrix descriptor without the 128-byte swizzle, or with an offset", "");
  }
  /// The address bits 4 to 6 are those of the unswizzled address, each xor the bit three above it.
  template <class T>
  float at(uint32_t offset) const {
    const uint32_t plain = start + offset, address = plain ^ ((plain >> 3) & 0x70);
    if (address < shared_window) simt::die("a matrix before the block's shared memory", "");
    const unsigned char* p = simt::current->shared + (address - shared_window);
    simt::check_fenced(p, "product");
    T element;
    std::memcpy(&element, p, sizeof element);
    return float_of(element);
  }
  /// Row and column of a matrix along its rows, at most 16 columns of one line.
  template <class T>
  float along(unsigned row, unsigned column) const {
    return at<T>(row / 8 * stride + row % 8 * 128 + column * 2);
  }
  /// Of a matrix across its rows: line `row`, any number of columns.
  template <class T>
  float across(unsigned row, unsigned column) const {
    return at<T>(row / 8 * stride + row % 8 * 128 + column / 64 * leading + column % 64 * 2);
  }
};

/// The running lane's part of one product: rows lane / 4 and lane / 4 + 8 of its warp's 16, columns as in mma16816.
template <class T, int N>
void run_product(const simt::PendingProduct& product) {
  static thread_local float second[32][16][N];  // of each warp
  const unsigned lane = simt::lane(), warp = simt::current->fiber->index / 32, g = lane >> 2, t = lane & 3;
  float rows[2][16];
  const SwizzledLines b(product.second_matrix);
  if (product.fragments) {
    const simt::Slots slots = simt::collective(~0u, "warpgroup product", product.fragments, 16);
    for (unsigned k = 0; k < 4; ++k) {
      const auto* row = reinterpret_cast<const uint32_t*>(slots[g * 4 + k]);
      for (unsigned half = 0; half < 2; ++half) widen2<T>(rows[half] + 2 * k, row[half]), widen2<T>(rows[half] + 8 + 2 * k, row[2 + half]);
    }
  } else {
    simt::collective(~0u, "warpgroup product", nullptr, 0);
    const SwizzledLines a(product.first_matrix);
    for (unsigned half = 0; half < 2; ++half)
      for (unsigned k = 0; k < 16; ++k) rows[half][k] = a.along<T>(warp % 4 * 16 + g + 8 * half, k);
  }
  for (unsigned i = lane; i < 16 * N; i += 32) {
    const unsigned k = i / N, n = i % N;
    second[warp][k][n] = product.fragments ? b.across<T>(k, n) : b.along<T>(n, k);
  }
  simt::collective(~0u, "warpgroup product, second half", nullptr, 0);
  for (unsigned j = 0; j < N / 8; ++j)
    for (unsigned e = 0; e < 4; ++e) {
      float sum = product.add ? product.sums[4 * j + e] : 0;
      for (unsigned k = 0; k < 16; ++k) sum += rows[e / 2][k] * second[warp][k][8 * j + 2 * t + e % 2];
      product.sums[4 * j + e] = sum;
    }
}

inline void start_product(const simt::PendingProduct& product) {
  simt::Fiber& fiber = *simt::current->fiber;
  if (!fiber.products_open) simt::die("a product without product_begin after the last wait", "");
  const uint64_t matrices[2] = {product.first_matrix, product.second_matrix};
  const simt::Slots slots = simt::collective(~0u, "start of a warpgroup product", matrices, sizeof matrices);
  for (unsigned i = 0; i < 32; ++i)
    if (std::memcmp(slots[i], matrices, sizeof matrices)) simt::die("lanes start products of different matrices", "");
  if (simt::seed & 2)
    product.run(product);
  else
    fiber.products.push_back(product);
}

template <class T, int N>
struct WarpgroupProduct {
  static void shared(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    start_product({run_product<T, N>, d, nullptr, a, b, add, simt::current->fiber->product_group});
  }
  static void registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    start_product({run_product<T, N>, d, a, 0, b, add, simt::current->fiber->product_group});
  }
};
inline void product_begin() { simt::current->fiber->products_open = true; }
inline void product_commit() { ++simt::current->fiber->product_group; }
template <int N>
void product_wait() {
  simt::Fiber& fiber = *simt::current->fiber;
  std::vector<simt::PendingProduct> all;
  std::swap(all, fiber.products);
  for (const simt::PendingProduct& product : all)
    if (product.group + N < fiber.product_group)
      product.run(product);
    else
      fiber.products.push_back(product);
  fiber.products_open = false;
}
template <int N>
void pin(float (&)[N]) {}
template <int N>
void take_registers() {}
template <int N>
void give_registers() {}

inline void barrier_init(uint64_t* barrier, int arrivals) {
  *barrier = std::bit_cast<uint64_t>(simt::SharedBarrier{0, unsigned(arrivals), unsigned(arrivals), 0, simt::barrier_mark});
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint64_t* barrier) { simt::change_barrier(barrier, 1, 0); }
inline void barrier_expect(uint64_t* barrier, uint32_t bytes) { simt::change_barrier(barrier, 1, int(bytes)); }
inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  if (simt::read_barrier(barrier).phase != parity) return;
  simt::Fiber& fiber = *simt::current->fiber;
  fiber.awaited = barrier, fiber.awaited_parity = parity;
  fiber.state = simt::State::at_shared_barrier;
  simt::yield();
}
inline void fence_for_products() { ++simt::current->fiber->fences; }
inline void store_for_products(void* to, const uint4& value) {
  if (reinterpret_cast<uintptr_t>(to) % 16) simt::die("misaligned 16-byte store", "");
  std::memcpy(to, &value, sizeof value);
  simt::wrote_shared(to);
}
inline void barrier_of_some(int id, int threads) { simt::barrier_of_some(unsigned(id), unsigned(threads)); }

/// Pages of lines of 16-bit elements; boxes of 64 lines by 64 elements, swizzled by 128 bytes.
struct TensorMap {
  const unsigned char* base;
  uint64_t line_bytes, page_bytes;
  int columns, lines, pages;
};
inline void copy_box(void* to, const TensorMap& from, uint64_t* barrier, int column, int row, int page) {
  if (shared_address(to) % 1024) simt::die("a box for swizzled memory that does not begin where its pattern does", "");
  if (row != 0 || from.lines != 64 || column < 0 || column % 64) simt::die("a box that the shim does not know", "");
  const bool inside = page >= 0 && page < from.pages && column < from.columns;
  const unsigned char* first = inside ? from.base + uint64_t(page) * from.page_bytes + uint64_t(column) * 2 : nullptr;
  const simt::BoxCopy box{static_cast<unsigned char*>(to), first, from.line_bytes, barrier, simt::land};
  if (simt::seed & 1)
    simt::land(box);
  else
    simt::current->boxes.push_back(box);
}
inline void prefetch_tensor_map(const TensorMap&) {}

}  // namespace dev
