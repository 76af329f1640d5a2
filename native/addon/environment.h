// What one JS environment (the main thread or a worker) has under way: its mailbox, waiting promises, threads and open engines.
// In: registrations from the objects. Out: an orderly end, whenever the environment goes down. There is no process-wide state.
#pragma once
#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "../engine.h"
#include "mailbox.h"

namespace chai::addon {

/// The letters whose promise is not settled yet. Keeps them, and through them what they work on, alive; JS thread only.
class Outstanding {
 public:
  explicit Outstanding(Mailbox& mailbox) : mailbox_(mailbox) {}
  void add(std::shared_ptr<Letter> letter);
  void remove(Letter& letter) noexcept;
  void drop_all() noexcept;

 private:
  Mailbox& mailbox_;
  std::vector<std::shared_ptr<Letter>> letters_;
};

class Environment : public std::enable_shared_from_this<Environment> {
 public:
  /// Makes the state of `env`; its clean-up hook runs before Node.js tears the environment down.
  static std::shared_ptr<Environment> install(Napi::Env env);
  static std::shared_ptr<Environment> of(Napi::Env env);

  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }
  Outstanding& outstanding() { return outstanding_; }
  Napi::Env env() const { return env_; }
  /// Constructors of the classes, and one empty Float32Array that all results without values share.
  Napi::FunctionReference model_class, sequence_class, generation_class;
  Napi::Reference<Napi::Value> no_floats;
  bool constructing = false;  // set while this addon itself makes an instance of a class

  /// Runs `work`, which must not throw, on a thread of its own, joined at the latest when the environment ends. Throws out_of_memory when
  /// there are no threads.
  void start(std::function<void()> work);
  /// Ends an engine that nobody uses any more, off the JS thread (ending it waits for its running step).
  void retire(std::shared_ptr<Engine> engine) noexcept;
  void opened(Engine& engine) { engines_.insert(&engine); }
  void gone(Engine& engine) noexcept { engines_.erase(&engine); }

 private:
  struct Thread {
    std::atomic<bool> done = false;
    std::thread thread;
  };
  Environment(Napi::Env env, std::shared_ptr<Mailbox> mailbox) : env_(env), mailbox_(std::move(mailbox)), outstanding_(*mailbox_) {}
  void tear_down() noexcept;
  void join_finished() noexcept;

  Napi::Env env_;
  std::shared_ptr<Mailbox> mailbox_;
  Outstanding outstanding_;
  std::list<Thread> threads_;
  std::unordered_set<Engine*> engines_;  // each kept alive by its OpenModel, which takes it out again
  bool torn_down_ = false;
};

}  // namespace chai::addon
