// Loops over the lanes of a warp that compilers turn into vector instructions. In: a function of one lane's words. Out: Run functions.
#pragma once
#include <bit>
#include <cmath>

#include "warp.h"

namespace ptx {

/// A register's words as T: 4 or 8 bytes; types of 1 or 2 bytes lie in the low part of 4.
template <class T>
struct Slot {
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static T load(Word word) {
    if constexpr (std::is_floating_point_v<T>)
      return std::bit_cast<T>(word);
    else
      return static_cast<T>(word);
  }
  static Word store(T value) {
    if constexpr (std::is_floating_point_v<T>)
      return std::bit_cast<Word>(value);
    else
      return static_cast<Word>(static_cast<std::make_unsigned_t<T>>(value));
  }
};

template <class F>
inline void over_lanes(uint32_t mask, F f) {
  if (mask == 0xffffffffu) {
#pragma GCC ivdep
    for (int i = 0; i < 32; ++i) f(i);
  } else {
    for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
  }
}

template <class D, class A, class F>
void run1(Warp& w, const Op& op, uint32_t mask) {
  auto* d = w.at<typename Slot<D>::Word>(op.d);
  const auto* a = w.at<typename Slot<A>::Word>(op.a);
  over_lanes(mask, [&](int i) { d[i] = Slot<D>::store(F{}(Slot<A>::load(a[i]))); });
}
template <class D, class A, class B, class F>
void run2(Warp& w, const Op& op, uint32_t mask) {
  auto* d = w.at<typename Slot<D>::Word>(op.d);
  const auto* a = w.at<typename Slot<A>::Word>(op.a);
  const auto* b = w.at<typename Slot<B>::Word>(op.b);
  over_lanes(mask, [&](int i) { d[i] = Slot<D>::store(F{}(Slot<A>::load(a[i]), Slot<B>::load(b[i]))); });
}
template <class D, class A, class C, class F>
void run3(Warp& w, const Op& op, uint32_t mask) {
  auto* d = w.at<typename Slot<D>::Word>(op.d);
  const auto* a = w.at<typename Slot<A>::Word>(op.a);
  const auto* b = w.at<typename Slot<A>::Word>(op.b);
  const auto* c = w.at<typename Slot<C>::Word>(op.c);
  over_lanes(mask, [&](int i) { d[i] = Slot<D>::store(F{}(Slot<A>::load(a[i]), Slot<A>::load(b[i]), Slot<C>::load(c[i]))); });
}

}  // namespace ptx
