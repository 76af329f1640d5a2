// Drawing tokens on one thread. In: a way to draw, a vocabulary. Out: one draw a call, from normally distributed logits.
#pragma once
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "sampler.h"

namespace chai::bench {

class Draws {
 public:
  static const std::vector<std::string>& ways() {
    static const std::vector<std::string> all{"greedy", "temperature", "top-k", "top-p"};
    return all;
  }
  static const std::vector<int>& vocabularies() {
    static const std::vector<int> all{32000, 128256};
    return all;
  }

  Draws(const std::string& way, int vocabulary) {
    std::mt19937 random(7);
    std::normal_distribution<float> spread(0, 3);  // the best of 32,000 is then 12 above the mean
    for (int i = 0; i < vocabulary; ++i) logits_.push_back(spread(random));
    if (way != "greedy") sampling_.temperature = 0.8f, sampling_.seed = 11;
    if (way == "top-k") sampling_.top_k = 40;
    if (way == "top-p") sampling_.top_p = 0.95f;
  }
  void operator()() { sum_ = sum_ + draw(logits_, sampling_, {}, index_++, buffers_).id; }

 private:
  std::vector<float> logits_;
  Sampling sampling_;
  DrawBuffers buffers_;
  uint64_t index_ = 0;
  volatile int64_t sum_ = 0;  // so that draws are not left out
};

}  // namespace chai::bench
