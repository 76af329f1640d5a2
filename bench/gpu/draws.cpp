// Drawing tokens on the device by cuda/token_sampler.h. In: rows of normally distributed logits. Out: microseconds of a step's draws:
// greedy, at a temperature, by top-k, top-p and with log-probabilities. A draw other than native/sampler.h's counts as wrong output.
#include <random>

#include "bench.h"
#include "sampler.h"
#include "token_sampler.h"

namespace chai::bench {
namespace {

struct Way {
  const char* name;
  Sampling sampling;
};

std::vector<Way> ways() {
  Way greedy{"greedy", {}}, free{"temperature", {}}, top_k{"top-k", {}}, top_p{"top-p", {}}, logprobs{"top-p-logprobs", {}};
  for (Way* way : {&free, &top_k, &top_p, &logprobs}) way->sampling.temperature = 0.8f, way->sampling.seed = 11;
  top_k.sampling.top_k = 40;
  top_p.sampling.top_p = logprobs.sampling.top_p = 0.95f;
  logprobs.sampling.logprobs = true;
  return {greedy, free, top_k, top_p, logprobs};
}

void measure_row_count(Results& results, const Options& options, const cuda::DeviceFacts& device, int vocabulary, int rows) {
  const std::vector<Way> all = ways();
  std::vector<std::string> cells;
  for (const Way& way : all)
    cells.push_back("draws/" + std::string(way.name) + "/" + std::to_string(vocabulary) + "/" + std::to_string(rows));
  if (!results.wants_any(cells)) return;
  std::mt19937 random(7);
  std::normal_distribution<float> spread(0, 3);  // the best of 32,000 is then 12 above the mean
  std::vector<float> host(size_t(rows) * size_t(vocabulary));
  for (float& logit : host) logit = spread(random);
  const cuda::Stream stream = cuda::make_stream();
  {
    cuda::DeviceArray<float> logits(host.size(), "logits of the benchmark");
    cuda::copy_to_device(logits.get(), host.data(), host.size() * sizeof(float), stream);
    Config config;
    config.vocabulary = vocabulary;
    cuda::TokenSampler sampler(config, rows, device);
    cuda::StepLaunch launch;
    launch.logit_rows = rows, launch.device = &device, launch.stream = stream;
    for (size_t i = 0; i < cells.size(); ++i) {
      measure_or_note(results, cells[i], [&] {
        if (!results.wants(cells[i])) return;
        Step step;
        for (int row = 0; row < rows; ++row) step.draws.push_back({row, all[i].sampling, {}, uint64_t(row)});
        sampler.begin(step, stream);
        const Times times = time_graph(stream, effort_of(options), [&] { sampler.sample(launch, logits.get()); });
        cuda::synchronize(stream);
        sampler.finish(step);
        for (const Draw& draw : step.draws) {
          const auto* row = host.data() + size_t(draw.logit_row) * size_t(vocabulary);
          const Drawn expected = chai::draw({row, size_t(vocabulary)}, draw.sampling, {}, draw.index);
          if (step.drawn[size_t(draw.logit_row)] != expected.id) throw WrongOutput{1};
        }
        Record record(cells[i]);
        record.number("vocabulary", vocabulary).number("rows", rows);
        add_times(record, times);
        results.add(record);
      });
    }
    cuda::synchronize(stream);
  }
  cuda::free_stream(stream);
}

}  // namespace

void measure_draws(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "draws");
  for (const int vocabulary : options.tiny ? std::vector<int>{500} : std::vector<int>{32000, 128256})
    for (const int rows : options.tiny ? std::vector<int>{1, 3} : std::vector<int>{1, 64})
      measure_row_count(results, options, device, vocabulary, rows);
}

}  // namespace chai::bench
