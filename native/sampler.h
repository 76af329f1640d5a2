// Draws a token id from one row of logits. In: float32 logits, settings, tokens so far. Out: an id and its log-probability.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace chai {

struct Sampling {
  float temperature = 0;         // 0: greedy
  int top_k = 0;                 // 0: off
  float top_p = 1;               // 1: off
  float min_p = 0;               // 0: off
  float repetition_penalty = 1;  // 1: off
  uint64_t seed = 0;
  bool logprobs = false;
  bool penalised() const { return repetition_penalty > 0 && repetition_penalty != 1; }  // needs the tokens so far
};

struct Drawn {
  int32_t id = 0;
  float logprob = 0;
};

/// Memory that draws use one after the other; each thread has its own.
struct DrawBuffers {
  struct Candidate {
    float logit;  // after the repetition penalty
    int32_t id;
    double weight;  // exp((logit - highest) / temperature)
  };
  std::vector<float> logits, weights;
  std::vector<double> sums;
  std::vector<Candidate> candidates;
};

/// Order of transforms as in transformers: repetition penalty, temperature, top-k, top-p, min-p. The random number is a function of
/// (seed, index) alone, so a result never depends on batching or on roll-backs. Greedy ties go to the lowest id.
Drawn draw(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history, uint64_t index, DrawBuffers& buffers);
Drawn draw(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history, uint64_t index);

/// The random number of a draw: uniform in [0, 1), a function of its arguments alone.
double uniform(uint64_t seed, uint64_t index);

/// log softmax(logits)[id], to 1e-7.
double log_probability(std::span<const float> logits, int32_t id);

}  // namespace chai
