// Counters as JSON; see counters.h. In: counts by operation, PTX text. Out: sums of each kernel, its opcodes, its worst source lines.
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "counters.h"

namespace ptx {
namespace {

/// Where an operation stands in the source and what it is, for each line of a PTX text.
struct TextLine {
  std::string source, opcode;
};

std::vector<TextLine> lines_of(const std::string& text) {
  std::map<std::string, std::string> files;  // by number
  std::vector<TextLine> lines(1);
  std::vector<std::pair<std::string, std::string>> places(1);  // file's number, line
  std::pair<std::string, std::string> place;
  for (size_t from = 0; from < text.size();) {
    const size_t end = std::min(text.find('\n', from), text.size());
    std::string line = text.substr(from, end - from);
    from = end + 1;
    line.erase(0, std::min(line.find_first_not_of(" \t{"), line.size()));
    if (line.compare(0, 5, ".loc\t") == 0) {
      const size_t space = line.find(' ');
      place = {line.substr(5, space - 5), line.substr(space + 1, line.find(' ', space + 1) - space - 1)};
    } else if (line.compare(0, 6, ".file\t") == 0) {
      std::string path = line.substr(line.find('"') + 1);
      path.erase(path.find('"'));
      files[line.substr(6, line.find(' ') - 6)] = path.substr(path.rfind('/') + 1);
    }
    if (line[0] == '@') line.erase(0, std::min(line.find_first_of(" \t"), line.size() - 1) + 1);
    lines.push_back({"", line.substr(0, line.find_first_of(" \t;"))});
    places.push_back(place);
  }
  for (size_t i = 0; i < lines.size(); ++i)
    if (!places[i].first.empty()) lines[i].source = files[places[i].first] + ":" + places[i].second;
  return lines;
}

std::string short_name(const std::string& name) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string words = status == 0 && demangled ? demangled : name;
  std::free(demangled);
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at; (at = words.find(anonymous)) != std::string::npos;) words.erase(at, anonymous.size());
  int depth = 0;  // of template arguments, in which casts stand in parentheses
  for (size_t i = 0; i < words.size(); ++i) {
    depth += words[i] == '<' ? 1 : words[i] == '>' ? -1 : 0;
    if (words[i] == '(' && depth == 0) words.erase(i);
  }
  if (words.compare(0, 5, "void ") == 0) words.erase(0, 5);
  return words;
}

std::string ratio(uint64_t part, uint64_t whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", whole ? double(part) / double(whole) : 1.0);
  return text;
}

std::string field(const char* name, uint64_t value) { return std::string("\"") + name + "\": " + std::to_string(value); }

std::string json_of(const Traffic& t, const char* parts) {
  return "{" + field("requests", t.requests) + ", " + field("bytes", t.bytes) + ", " + field(parts, t.parts) + ", " +
         field("ideal", t.ideal) + ", \"efficiency\": " + ratio(t.ideal, t.parts) + "}";
}

/// The ten with most to gain, as a JSON list.
std::string worst_of(const std::map<std::string, Traffic>& by_line, const char* parts) {
  std::vector<std::pair<std::string, Traffic>> worst(by_line.begin(), by_line.end());
  std::erase_if(worst, [](const auto& line) { return line.second.parts <= line.second.ideal; });
  std::stable_sort(worst.begin(), worst.end(),
                   [](const auto& a, const auto& b) { return a.second.parts - a.second.ideal > b.second.parts - b.second.ideal; });
  if (worst.size() > 10) worst.resize(10);
  std::string list;
  for (const auto& [line, traffic] : worst)
    list += (list.empty() ? "\n      " : ",\n      ") + ("{\"line\": \"" + line + "\", " + field("extra", traffic.parts - traffic.ideal)) +
            ", \"of\": " + json_of(traffic, parts) + "}";
  return "[" + list + "]";
}

std::string most_of(const std::map<std::string, uint64_t>& counts, size_t number) {
  std::vector<std::pair<std::string, uint64_t>> most(counts.begin(), counts.end());
  std::stable_sort(most.begin(), most.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  if (most.size() > number) most.resize(number);
  std::string list;
  for (const auto& [name, count] : most) list += (list.empty() ? "" : ", ") + field(name.c_str(), count);
  return "{" + list + "}";
}

/// FLOPs of a warp's share of a product.
uint64_t flops_of(const std::string& opcode) {
  if (opcode.compare(0, 4, "mma.") == 0) return 2 * 16 * 8 * 16;
  const size_t columns = opcode.find(".m64n");
  if (opcode.compare(0, 15, "wgmma.mma_async") != 0 || columns == std::string::npos) return 0;
  return 2 * 16 * 16 * std::strtoull(opcode.c_str() + columns + 5, nullptr, 10);
}

std::string report_of(const CountedKernel& kernel, const std::vector<TextLine>& lines) {
  const Counters& counts = kernel.counts;
  Traffic global[3], shared, copied, tensor;
  std::map<std::string, Traffic> sectors, wavefronts;
  std::map<std::string, uint64_t> opcodes, executed;
  uint64_t instructions = 0, flops = 0, float_operations = 0;
  for (size_t i = 0; i < kernel.lines.size(); ++i) {
    const TextLine& line = lines.at(kernel.lines[i]);
    const bool is_tensor = line.opcode.compare(0, 13, "cp.async.bulk") == 0;
    (is_tensor ? tensor : global[size_t(counts.access[i])]) += counts.global[i];
    shared += counts.shared[i];
    copied += counts.copied[i];
    sectors[line.source] += counts.global[i];
    wavefronts[line.source] += counts.shared[i];
    wavefronts[line.source + " (copy)"] += counts.copied[i];
    instructions += counts.executed[i];
    if (!counts.executed[i]) continue;
    opcodes[line.opcode] += counts.executed[i];
    executed[line.source] += counts.executed[i];
    flops += counts.executed[i] * flops_of(line.opcode);
    if (line.opcode.find(".f32") != std::string::npos && (line.opcode[0] == 'f' || line.opcode[0] == 'm' || line.opcode[0] == 'a') &&
        (line.opcode.compare(0, 3, "fma") == 0 || line.opcode.compare(0, 4, "mul.") == 0 || line.opcode.compare(0, 4, "add.") == 0))
      float_operations += counts.executed[i];
  }
  const auto touched = [](const Sectors& s, uint64_t asked) {
    return "{" + field("distinct_bytes", s.in_launch * 32) + ", " + field("bytes_distinct_in_each_block", s.in_blocks * 32) + ", " +
           field("bytes_of_all_requests", asked * 32) + "}";
  };
  std::string text = "{\n    \"kernel\": \"" + short_name(kernel.name) + "\", " + field("launches", counts.launches) + ", " +
                     field("blocks", counts.blocks) + ", " + field("warp_instructions", instructions) + ",\n    ";
  text += field("tensor_core_flops", flops) + ", " + field("fp32_instructions", float_operations) + ", " +
          field("tensor_copy_bytes", counts.tensor_bytes) + ",\n    ";
  text += "\"read\": " + touched(counts.read, global[0].parts + global[2].parts + tensor.parts) + ",\n    ";
  text += "\"written\": " + touched(counts.written, global[1].parts + global[2].parts) + ",\n    ";
  const char* names[3] = {"global_loads", "global_stores", "global_atomics"};
  for (size_t i = 0; i < 3; ++i) text += std::string("\"") + names[i] + "\": " + json_of(global[i], "sectors") + ",\n    ";
  text += "\"tensor_copies\": " + json_of(tensor, "sectors") + ",\n    ";
  text += "\"shared\": " + json_of(shared, "wavefronts") + ",\n    \"copies_to_shared\": " + json_of(copied, "wavefronts") + ",\n    ";
  text += "\"opcodes\": " + most_of(opcodes, 16) + ",\n    \"executed_lines\": " + most_of(executed, 16) + ",\n    ";
  text += "\"wasted_sectors\": " + worst_of(sectors, "sectors") + ",\n    \"extra_wavefronts\": " + worst_of(wavefronts, "wavefronts");
  return text + "\n  }";
}

}  // namespace

std::string report_of(const std::vector<const CountedKernel*>& kernels) {
  std::map<const std::string*, std::vector<TextLine>> texts;
  std::string all;
  for (const CountedKernel* kernel : kernels) {
    if (kernel->counts.launches == 0) continue;
    auto& lines = texts[kernel->text.get()];
    if (lines.empty()) lines = lines_of(*kernel->text);
    all += (all.empty() ? "[\n  " : ",\n  ") + report_of(*kernel, lines);
  }
  return all.empty() ? "[]\n" : all + "\n]\n";
}

}  // namespace ptx
