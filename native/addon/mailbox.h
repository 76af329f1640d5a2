// Brings results from other threads to the JS thread of one environment. In: letters, posted from any thread. Out: deliver() on the JS
// thread, in the order of posting. However many letters wait, one wake-up at most is under way.
#pragma once
#include <memory>
#include <mutex>

#include "js.h"

namespace chai::addon {

/// Something that a thread has ready for the JS thread. Links itself into the queue, so that posting allocates nothing and cannot fail.
class Letter {
 public:
  virtual ~Letter() = default;
  /// On the JS thread, inside a handle scope.
  virtual void deliver(Napi::Env env) = 0;
  /// On the JS thread: lets go of all that belongs to it (JS references, engine handles). The memory may then end on any thread.
  virtual void drop() noexcept = 0;

 private:
  friend class Mailbox;
  friend class Outstanding;
  std::shared_ptr<Letter> next_;  // guarded by the mailbox
  bool queued_ = false;           // guarded by the mailbox
  size_t place_ = 0;              // among the outstanding ones, from 1; JS thread only
};

class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  static std::shared_ptr<Mailbox> create(Napi::Env env);
  /// Any thread. A letter that waits already is not queued twice; after close() letters are thrown away.
  void post(std::shared_ptr<Letter> letter) noexcept;
  /// JS thread: whether this mailbox keeps the event loop alive (it does not at first).
  void keep_loop_alive(bool keep) noexcept;
  /// JS thread, idempotent: nothing is delivered any more.
  void close() noexcept;

 private:
  Mailbox() = default;
  static void drain(napi_env env, napi_value, void* context, void*);
  std::shared_ptr<Letter> collect() noexcept;
  std::shared_ptr<Letter> detach(Letter& letter) noexcept;

  napi_env env_ = nullptr;
  std::mutex mutex_;
  napi_threadsafe_function wake_ = nullptr;  // null once closed
  bool waking_ = false;
  std::shared_ptr<Letter> first_;
  Letter* last_ = nullptr;
};

}  // namespace chai::addon
