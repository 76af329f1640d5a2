// One sequence as the scheduler sees it: its tokens, how many of them are in the cache, and the request that works on it.
// In: tokens and roll-backs. Out: rows still to compute. Plain bookkeeping; the scheduler's lock guards it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kv_cache.h"

namespace chai {

class Request;

struct Sequence {
  std::vector<int32_t> tokens;
  int cached = 0;  // tokens[0, cached) are in the cache; the rest are computed with the next request
  std::unique_ptr<SequenceCache> cache;
  std::shared_ptr<Request> request;  // the one at work, or null
  const Request* newest = nullptr;   // the last one submitted: it alone may still roll back once it has ended
  bool closed = false;
  std::vector<std::function<void()>> on_closed;

  int length() const { return int(tokens.size()); }
  int pending() const { return length() - cached; }
  int warmup_end() const { return cache->geometry().plan->warmup_end(); }

  /// Keeps the first `length` tokens. Where membership must be found anew (0 < length < S+W after clustering) the cache is emptied
  /// and those tokens are computed again by the next request: nothing of the caller's is lost.
  void rollback(int length) {
    length = std::min(length, this->length());
    tokens.resize(length);
    uncache(length);
  }
  /// Keeps all tokens, but the next request computes the last one again, since nobody kept its logits.
  void recompute_last() {
    if (length() > 0) uncache(length() - 1);
  }
  /// Drops the cache of tokens >= length.
  void uncache(int length) {
    if (cached <= length) return;
    if (cache->resolved() && length < warmup_end()) length = 0;
    cached = length;
    cache->truncate(length);
  }
};

}  // namespace chai
