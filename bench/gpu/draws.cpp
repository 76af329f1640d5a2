// Drawing tokens on the device by cuda/token_sampler.h. In: rows of normally distributed logits. Out: microseconds of a step's draws:
// greedy, at a temperature, by top-k, top-p and with log-probabilities. A draw other than native/sampler.h's counts as wrong output.
#include "../draw_ways.h"
#include "bench.h"
#include "token_sampler.h"

namespace chai::bench {
namespace {

void measure_row_count(Results& results, const Options& options, const cuda::DeviceFacts& device, int vocabulary, int rows) {
  const std::vector<DrawWay> all = draw_ways();
  std::vector<std::string> cells;
  for (const DrawWay& way : all)
    cells.push_back("draws/" + std::string(way.name) + "/" + std::to_string(vocabulary) + "/" + std::to_string(rows));
  if (!results.wants_any(cells)) return;
  const std::vector<float> host = logits_to_draw_from(rows, vocabulary);
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
  for (const int vocabulary : options.tiny ? std::vector<int>{500} : draw_vocabularies())
    for (const int rows : options.tiny ? std::vector<int>{1, 3} : std::vector<int>{1, 64})
      measure_row_count(results, options, device, vocabulary, rows);
}

}  // namespace chai::bench
