// Products by cuBLAS: every operation against double precision, what happens when the library is missing, unfit or refuses, and where it
// must not be asked.
#include "linear_products.h"
#if !defined(__CUDACC__)
#include "simt_runtime.h"
#endif

namespace chai::cuda {
namespace {

constexpr Planned by_library{0, true};

/// Products that the library did during `body`; -1 where they are not counted.
template <class Body>
int counted(Body body) {
  const int before = library_calls();
  body();
  return library_is_counted() ? library_calls() - before : -1;
}
bool is(int count, int wanted) { return count == wanted || count == -1; }

}  // namespace

TEST(cuda_output_by_a_library) {
  for (const Element type : {Element::float16, Element::bfloat16})
    for (const bool biased : {false, true})
      CHECK(is(counted([&] { check_output(odd_config(5, 5, 7, false), type, 300, biased, false, 0, by_library); }), 1));
  CHECK(is(
      counted([] { check_output(opt_config(NormPlacement::after, Activation::relu), Element::float16, 256, true, false, 0, by_library); }),
      1));
  // too few rows; a graph's launch, which knows no host
  CHECK(is(counted([] { check_output(odd_config(5, 5, 7, false), Element::float16, 255, true, false, 0, by_library); }), 0));
  CHECK(is(counted([] { check_output(odd_config(5, 5, 7, false), Element::float16, 3, true, false, 256, by_library); }), 0));
}

TEST(cuda_feed_forward_by_a_library) {
  for (const bool biased : {false, true})
    CHECK(is(counted([&] { check_feed_forward(odd_config(4, 4, 10, true), Element::float16, 257, biased, false, 0, by_library); }), 3));
  CHECK(is(counted([] { check_feed_forward(odd_config(4, 4, 10, true), Element::bfloat16, 256, true, false, 0, by_library); }), 3));
  for (const Activation activation : {Activation::relu, Activation::gelu})
    CHECK(is(counted([&] {
               check_feed_forward(opt_config(NormPlacement::before, activation), Element::float16, 256, true, false, 0, by_library);
             }),
             2));
  // more rows than a piece: two of gate and up each, one of down
  CHECK(is(counted([] { check_feed_forward(odd_config(4, 4, 10, true), Element::float16, 1030, true, false, 0, by_library); }), 5));
}

TEST(cuda_logits_and_embed_by_a_library) {
  Config narrow = odd_config(4, 4, 10, true);
  narrow.embedding = 20;
  std::vector<int32_t> all;
  for (int i = 0; i < 260; ++i) all.push_back(i);
  CHECK(is(counted([&] { check_logits(odd_config(4, 4, 10, true), Element::float16, 260, all, true, 0, by_library); }), 1));
  CHECK(is(counted([&] { check_logits(narrow, Element::bfloat16, 260, all, true, 0, by_library); }), 2));
  CHECK(is(counted([&] { check_logits(narrow, Element::float16, 260, {1, 2, 5, 7, 200}, true, 0, by_library); }), 0));
  CHECK(is(counted([&] { check_embed(narrow, Element::float16, 260, true, 0, by_library); }), 1));
}

/// A warm-up row alone, before and after rows that the library has: its bits are those of our own kernels.
TEST(cuda_bits_of_a_warm_up_row_beside_a_library) {
  const Config c = with_hidden(odd_config(6, 3, 24, true), 72, 40);
  constexpr int others = least_library_rows_beside_others;
  Fixture f(c, Element::float16, others + 1, by_library);
  const Layer layer(f, true);
  const std::vector<float> all = f.rows(others, c.hidden), the_x = f.rows(1, c.hidden);
  const std::vector<float> mixed = f.rows(others, c.query_width()), the_mixed = f.rows(1, c.query_width());
  std::vector<float> first;
  for (const int before : {-1, 0, others}) {  // -1: alone
    Ragged ragged(c, Element::float16, 2, 460);
    ragged.add_sequence(HeadKind::dense, false);
    ragged.add_sequence(HeadKind::clustered, true);
    if (before > 0) ragged.add_segment(0, 3, others, false);
    ragged.add_segment(1, 4, 1, true);
    if (before == 0) ragged.add_segment(0, 3, others, false);
    std::vector<float> x = before < 0 ? std::vector<float>{} : all, from = before < 0 ? std::vector<float>{} : mixed;
    const int place = std::max(before, 0);
    x.insert(x.begin() + place * pitch_of(c.hidden), the_x.begin(), the_x.end());
    from.insert(from.begin() + place * pitch_of(c.query_width()), the_mixed.begin(), the_mixed.end());
    const Buffer<float> on_device(x);
    const Buffer<uint16_t> of_heads(f.narrow_rows(from));
    const StepLaunch step = ragged.launch(f);
    const int calls = counted([&] {
      f.linear.output(step, layer.weights, of_heads.get(), on_device.get());
      f.linear.feed_forward(step, layer.weights, on_device.get());
    });
    CHECK(is(calls, before < 0 ? 0 : 4));
    const std::vector<float> out = on_device.read();
    const std::vector<float> row(out.begin() + place * pitch_of(c.hidden), out.begin() + (place + 1) * pitch_of(c.hidden));
    if (first.empty()) first = row;
    CHECK(std::memcmp(first.data(), row.data(), row.size() * sizeof(float)) == 0);
  }
}

TEST(cuda_products_by_a_library_that_is_not_there) {
  const DeviceFacts device = first_device();
  const auto absent = Cublas::open({"libno-such-library.so.13", "libno-such-library.so.12"}, device);
  CHECK(absent->state() == CublasState::not_installed && !absent->ready());
  CHECK(absent->description().find("libno-such-library") != std::string::npos);
  const auto other = Cublas::open({"libno-such-library.so", "libc.so.6", "msvcrt.dll"}, device);
  CHECK(other->state() == CublasState::lacks_function && other->description().find("cublas") != std::string::npos);
  CHECK(Cublas::open(false, device)->state() == CublasState::switched_off);
  const Config c = odd_config(4, 4, 10, true);
  Linear without(c, Element::float16, 512, device, Cublas::open(false, device)), with_none(c, Element::float16, 512, device);
  CHECK(without.bytes() == with_none.bytes());
}

#if !defined(__CUDACC__)
TEST(cuda_products_by_a_library_that_is_unfit) {
  const DeviceFacts device = first_device();
  const auto state = [&] { return test_library(device)->state(); };
  CHECK(state() == CublasState::ready);
  standin().create_status = 1;
  CHECK(state() == CublasState::call_failed);
  standin().create_status = 0, standin().version = 11801;
  CHECK(state() == CublasState::other_version);
  standin().version = 130100;
  CHECK(test_library(device)->description() == "cuBLAS 13.1.0");
  standin().version = 120405;
  set_device_bytes(device_bytes_used() + 1000);
  CHECK(state() == CublasState::no_memory);
  set_device_bytes(uint64_t{4} << 30);
}

/// The first, second or third product of a step is refused: our own kernels do it and all later ones.
TEST(cuda_products_by_a_library_that_refuses) {
  const Config c = odd_config(4, 4, 10, true);
  for (const int at : {0, 1, 2}) {
    standin().refuse_at = at;
    CHECK(counted([&] { check_feed_forward(c, Element::float16, 256, true, false, 0, by_library); }) == at);
  }
  standin().refuse_at = 0;
  CHECK(counted([&] { check_output(c, Element::float16, 256, true, false, 0, by_library); }) == 0);
  Fixture f(c, Element::float16, 256, by_library);
  const Layer layer(f, false);
  Ragged ragged = one_sequence(c);
  const StepLaunch step = plain_step(f, ragged, 256);
  const Buffer<float> x(f.rows(256, c.hidden));
  f.linear.feed_forward(step, layer.weights, x.get());
  CHECK(f.linear.library()->state() == CublasState::call_failed);
  CHECK(f.linear.library()->description().find("status 15") != std::string::npos);
  standin().refuse_at = -1;
  CHECK(counted([&] { f.linear.feed_forward(step, layer.weights, x.get()); }) == 0);
  CHECK(!standin().misused);
}
#endif

}  // namespace chai::cuda
