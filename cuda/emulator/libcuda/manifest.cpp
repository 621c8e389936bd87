#include "manifest.hpp"

#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <sstream>

namespace fs::driver {
namespace {

template <class T>
bool parse(const std::string& text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && *value >= T(0);
}

bool parse_line(const std::vector<std::string>& words, ManifestEntry* entry) {
  if (words.size() < 5 || !parse(words[0], &entry->module)) return false;
  entry->kernel = words[1];
  entry->portable = words[2].rfind("ptx", 0) == 0;
  std::string architecture = entry->portable ? words[2].substr(3) : words[2];
  entry->alone = !entry->portable && islower(architecture.back());
  if (entry->alone) architecture.pop_back();
  if (!parse(architecture, &entry->architecture)) return false;
  entry->parameter_sizes.resize(words.size() - 5);
  for (size_t i = 3; i + 2 < words.size(); i++) {
    if (!parse(words[i], &entry->parameter_sizes[i - 3])) return false;
  }
  return parse(words[words.size() - 2], &entry->registers) && parse(words.back(), &entry->static_shared);
}

}  // namespace

bool ManifestEntry::runs_on(int device_architecture) const {
  if (alone) return architecture == device_architecture;
  if (architecture > device_architecture) return false;
  return portable || architecture / 10 == device_architecture / 10;
}

bool Manifest::load(std::string* problem) {
  entries_.clear();
  const char* path = getenv("FEWSTEP_EMU_MANIFEST");
  present_ = path && *path;
  if (!present_) return true;
  std::ifstream file(path);
  if (!file) {
    *problem = std::string("FEWSTEP_EMU_MANIFEST: cannot read ") + path;
    return false;
  }
  std::string line;
  for (int number = 1; std::getline(file, line); number++) {
    std::istringstream stream(line.substr(0, line.find('#')));
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    if (words.empty()) continue;
    if (!parse_line(words, &entries_.emplace_back())) {
      *problem = std::string("FEWSTEP_EMU_MANIFEST: ") + path + ":" + std::to_string(number) + ": not a manifest line: " + line;
      return false;
    }
  }
  return true;
}

bool Manifest::supports(int architecture) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const ManifestEntry& e) { return e.runs_on(architecture); });
}

const ManifestEntry* Manifest::find(int module, const std::string& kernel, int architecture, bool* exists) const {
  const ManifestEntry* best = nullptr;
  *exists = false;
  for (const ManifestEntry& e : entries_) {
    if (e.kernel != kernel || (module >= 0 && e.module != module)) continue;
    *exists = true;
    if (!e.runs_on(architecture)) continue;
    const auto rank = [](const ManifestEntry& entry) { return (entry.portable ? 0 : 1000) + entry.architecture; };
    if (!best || rank(e) > rank(*best)) best = &e;
  }
  return best;
}

}  // namespace fs::driver
