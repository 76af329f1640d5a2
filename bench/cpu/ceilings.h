// What the machine can do at most on one thread: reading memory, multiply-adds of an instruction set.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <string>

namespace chai::bench {

/// Reads all of a region, in two places at once. `bytes`: a multiple of 128.
void read_all(const void* from, size_t bytes);

struct MultiplyAdds {
  double operations;  // of a run, two a multiply-add
  std::function<void()> run;
};
/// Of the kernel table with this name; none where its vectors have no fused multiply-add.
std::optional<MultiplyAdds> multiply_adds_of(const std::string& set);

}  // namespace chai::bench
