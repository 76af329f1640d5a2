// Counting; see counters.h. In: addresses of lanes. Out: sectors, wavefronts.
#include "counters.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "settings.h"

namespace ptx {
namespace {

constexpr uint32_t sector_bytes = 32, banks = 32;

size_t index_of(const Warp& warp, const Op& op) { return size_t(&op - warp.block->kernel->ops.data()); }

uint32_t block_of(const Warp& warp) {
  const Block& b = *warp.block;
  return b.id[0] * 73856093u ^ b.id[1] * 19349663u ^ b.id[2] * 83492791u;
}

/// Lanes go together as far as their bytes fit through the banks at once: 32, 16 or 8 of them.
Traffic wavefronts_of(const uint64_t* addresses, uint32_t bytes, uint32_t mask) {
  Traffic traffic;
  traffic.requests = 1;
  const uint32_t together = bytes <= 4 ? 32 : 128 / bytes, words_of_lane = std::max(bytes / 4, 1u);
  for (uint32_t first = 0; first < 32; first += together) {
    const uint32_t lanes = together == 32 ? mask : mask & ((1u << together) - 1) << first;
    if (!lanes) continue;
    uint64_t words[banks][32];
    uint32_t used[banks] = {}, most = 0;
    each_lane(lanes, [&](int lane) {
      for (uint32_t i = 0; i < words_of_lane; ++i) {
        const uint64_t word = addresses[lane] / 4 + i;
        uint64_t* bank = words[word % banks];
        uint32_t& count = used[word % banks];
        if (std::find(bank, bank + count, word) != bank + count) continue;
        bank[count++] = word;
        traffic.bytes += 4;
        most = std::max(most, count);
      }
    });
    traffic.parts += most;
    ++traffic.ideal;
  }
  return traffic;
}

/// By name and text: a template's kernel may be compiled into several modules. Never destroyed.
auto& all() {
  static auto& kernels = *new std::map<std::pair<std::string, const std::string*>, CountedKernel>;
  return kernels;
}

void write_report() {
  std::vector<const CountedKernel*> kernels;
  for (const auto& [key, kernel] : all()) kernels.push_back(&kernel);
  const std::string text = report_of(kernels);
  if (FILE* file = std::fopen(settings().counts.c_str(), "w")) {
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
  }
}

CountedKernel& counted(const Kernel& kernel) {
  CountedKernel& known = all()[{kernel.name, kernel.text.get()}];
  if (known.lines.empty()) {
    known.name = kernel.name;
    known.text = kernel.text;
    for (const Op& op : kernel.ops) known.lines.push_back(op.line);
    known.counts = Counters(kernel.ops.size());
  }
  return known;
}

}  // namespace

void Sectors::touch(uint64_t sector, uint32_t block) {
  if (sector / page != last_) {
    last_ = sector / page;
    auto& stamps = pages_[last_];
    if (!stamps) stamps = std::make_unique<uint32_t[]>(page);
    stamps_ = stamps.get();
  }
  uint32_t& stamp = stamps_[sector % page];
  const uint32_t now = block | 1u << 31;
  if (stamp == now) return;
  in_launch += stamp == 0;
  ++in_blocks;
  stamp = now;
}

void Counters::touch(Traffic& to, const Warp& warp, const uint64_t* addresses, const uint32_t* bytes, uint32_t mask, Access what) {
  uint64_t sectors[32], useful = 0;
  uint32_t wanted[32], count = 0;
  each_lane(mask, [&](int lane) {
    if (bytes[lane] == 0) return;
    const uint64_t sector = addresses[lane] / sector_bytes;
    uint32_t at = count;
    while (at > 0 && sectors[at - 1] != sector) --at;
    if (at == 0) sectors[count] = sector, wanted[count] = 0, at = ++count;
    wanted[at - 1] |= uint32_t((uint64_t{1} << bytes[lane]) - 1) << addresses[lane] % sector_bytes;
  });
  const uint32_t block = block_of(warp);
  for (uint32_t i = 0; i < count; ++i) {
    useful += uint32_t(__builtin_popcount(wanted[i]));
    if (what != Access::store) read.touch(sectors[i], block);
    if (what != Access::load) written.touch(sectors[i], block);
  }
  to += {1, useful, count, (useful + sector_bytes - 1) / sector_bytes};
}

void Counters::memory(Warp& warp, const Op& op, uint32_t mask, Space space, uint32_t bytes, Access what) {
  uint64_t addresses[32];
  uint32_t sizes[32], in_global = 0, in_shared = 0;
  const Block& block = *warp.block;
  each_lane(mask, [&](int lane) {
    addresses[lane] = warp.address(op, lane);
    sizes[lane] = bytes;
    if (space == Space::global) in_global |= 1u << lane;
    if (space == Space::shared) in_shared |= 1u << lane;
    if (space != Space::generic) return;
    if (addresses[lane] - reinterpret_cast<uint64_t>(block.shared) < block.shared_bytes)
      addresses[lane] -= reinterpret_cast<uint64_t>(block.shared), in_shared |= 1u << lane;
    else if (addresses[lane] - reinterpret_cast<uint64_t>(warp.local.data()) >= warp.local.size() &&
             addresses[lane] - reinterpret_cast<uint64_t>(block.parameters) >= block.kernel->parameter_bytes)
      in_global |= 1u << lane;
  });
  const size_t at = index_of(warp, op);
  access[at] = what;
  if (in_global) touch(global[at], warp, addresses, sizes, in_global, what);
  if (in_shared) shared[at] += wavefronts_of(addresses, bytes, in_shared);
}

void Counters::copy(Warp& warp, const Op& op, uint32_t mask) {
  const Place* places = &warp.block->kernel->places[op.more];
  uint64_t to[32], from[32];
  uint32_t bytes[32];
  each_lane(mask, [&](int lane) {
    to[lane] = warp.address(op, lane);
    from[lane] = warp.at<uint64_t>(places[0])[lane] + uint64_t(op.target);
    bytes[lane] = places[1] == nowhere ? op.width : warp.at<uint32_t>(places[1])[lane];
  });
  const size_t at = index_of(warp, op);
  touch(global[at], warp, from, bytes, mask, Access::load);
  copied[at] += wavefronts_of(to, op.width, mask);
}

/// Each matrix is 8 rows of 16 bytes, in one wavefront if they lie in different sixteenths of the banks' 128 bytes.
void Counters::matrices(Warp& warp, const Op& op) {
  uint64_t rows[32];
  for (int lane = 0; lane < 8 * int(op.more_count); ++lane) rows[lane] = warp.address(op, lane);
  shared[index_of(warp, op)] += wavefronts_of(rows, 16, uint32_t((uint64_t{1} << 8 * op.more_count) - 1));
}

void Counters::tensor_line(const Op& op, const Warp& warp, uint64_t from, uint64_t bytes) {
  tensor_bytes += bytes;
  const uint64_t first = from / sector_bytes, last = (from + bytes - 1) / sector_bytes;
  for (uint64_t sector = first; sector <= last; ++sector) read.touch(sector, block_of(warp));
  global[index_of(warp, op)] += {1, bytes, last - first + 1, (bytes + sector_bytes - 1) / sector_bytes};
}

void Counters::add(const Counters& launch) {
  launches += launch.launches, blocks += launch.blocks, tensor_bytes += launch.tensor_bytes;
  read.add(launch.read), written.add(launch.written);
  for (size_t i = 0; i < executed.size(); ++i) {
    executed[i] += launch.executed[i];
    global[i] += launch.global[i], shared[i] += launch.shared[i], copied[i] += launch.copied[i];
    access[i] = std::max(access[i], launch.access[i]);
  }
}

std::shared_ptr<Counters> counts_of_launch(const Kernel& kernel) {
  if (settings().counts.empty()) return nullptr;
  static const int registered = std::atexit(write_report);
  (void)registered;
  CountedKernel& known = counted(kernel);
  std::shared_ptr<Counters> launch(new Counters(kernel.ops.size()), [&known](Counters* counts) {
    known.counts.add(*counts);
    delete counts;
  });
  launch->launches = 1;
  return launch;
}

}  // namespace ptx
