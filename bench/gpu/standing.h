// How the cells of a section stand, by its file. In: one line a cell and try. Out: those that are settled, and those that failed once and
// are tried once more in a later call, since what they met may have been there for that moment only.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>

namespace chai::bench {

// Errors that cells are noted with.
constexpr std::string_view broken_off = "its measuring was broken off twice", not_done = "not done after ", throttled_error = "throttled",
                           wrong_output = "wrong output";

/// `failed`: for good, since it hung, ended two processes, failed twice, or needs more than the device has ("final": true).
enum class Standing : uint8_t { measured, failed_once, failed };

/// By cell. `path`: the section's file.
std::map<std::string, Standing> standings(const std::string& path);
std::set<std::string> failed_once(const std::string& path);
/// Cells whose last line has this error.
std::set<std::string> with_error(const std::string& path, std::string_view error);

}  // namespace chai::bench
