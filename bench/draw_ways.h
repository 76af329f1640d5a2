// What benchmarks of drawing tokens draw, on the CPU and on a device. In: a vocabulary. Out: ways to draw, a row of logits.
#pragma once
#include <random>
#include <vector>

#include "sampler.h"

namespace chai::bench {

struct DrawWay {
  const char* name;
  Sampling sampling;
};

inline std::vector<DrawWay> draw_ways() {
  DrawWay greedy{"greedy", {}}, free{"temperature", {}}, top_k{"top-k", {}}, top_p{"top-p", {}}, logprobs{"top-p-logprobs", {}};
  for (DrawWay* way : {&free, &top_k, &top_p, &logprobs}) way->sampling.temperature = 0.8f, way->sampling.seed = 11;
  top_k.sampling.top_k = 40;
  top_p.sampling.top_p = logprobs.sampling.top_p = 0.95f;
  logprobs.sampling.logprobs = true;
  return {greedy, free, top_k, top_p, logprobs};
}

inline std::vector<int> draw_vocabularies() { return {32000, 128256}; }

/// rows x vocabulary, normally distributed: the best of 32,000 is 12 above the mean.
inline std::vector<float> logits_to_draw_from(int rows, int vocabulary) {
  std::mt19937 random(7);
  std::normal_distribution<float> spread(0, 3);
  std::vector<float> logits(size_t(rows) * size_t(vocabulary));
  for (float& logit : logits) logit = spread(random);
  return logits;
}

}  // namespace chai::bench
