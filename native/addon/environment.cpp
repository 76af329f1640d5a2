// State of one JS environment and its end; see environment.h.
#include "environment.h"

#include <string>
#include <system_error>
#include <utility>

namespace chai::addon {
namespace {

struct Instance {  // what N-API keeps; objects that outlive its finalizer share the state itself
  std::shared_ptr<Environment> environment;
};

/// Where nobody is left to hear of a failure.
void close_quietly(Engine& engine) noexcept {
  try {
    engine.close();
  } catch (...) {
  }
}

}  // namespace

void Outstanding::add(std::shared_ptr<Letter> letter) {
  letters_.push_back(std::move(letter));
  letters_.back()->place_ = letters_.size();
  if (letters_.size() == 1) mailbox_.keep_loop_alive(true);
}

void Outstanding::remove(Letter& letter) noexcept {
  if (letter.place_ == 0) return;
  const size_t place = std::exchange(letter.place_, 0);
  const std::shared_ptr<Letter> removed = std::move(letters_[place - 1]);  // ends last: it may be the last to hold the letter
  if (place != letters_.size()) {
    letters_[place - 1] = std::move(letters_.back());
    letters_[place - 1]->place_ = place;
  }
  letters_.pop_back();
  if (letters_.empty()) mailbox_.keep_loop_alive(false);
}

void Outstanding::drop_all() noexcept {
  while (!letters_.empty()) {
    const std::shared_ptr<Letter> letter = letters_.back();
    remove(*letter);
    letter->drop();
  }
}

std::shared_ptr<Environment> Environment::install(Napi::Env env) {
  std::shared_ptr<Environment> environment(new Environment(env, Mailbox::create(env)));
  env.SetInstanceData(new Instance{environment});
  // Hooks run newest first: this one before the mailbox's function ends, and both before the finalizers.
  const auto hook = [](void* data) { static_cast<Environment*>(data)->tear_down(); };
  if (napi_add_env_cleanup_hook(env, hook, environment.get()) != napi_ok)
    throw Error(Code::device_fault, "Node.js refused a clean-up hook");
  return environment;
}

std::shared_ptr<Environment> Environment::of(Napi::Env env) { return env.GetInstanceData<Instance>()->environment; }

void Environment::join_finished() noexcept {
  std::erase_if(threads_, [](Thread& thread) {
    if (!thread.done) return false;
    thread.thread.join();
    return true;
  });
}

void Environment::start(std::function<void()> work) {
  join_finished();
  Thread& thread = threads_.emplace_back();
  try {
    thread.thread = std::thread([work = std::move(work), &done = thread.done]() mutable {
      work();
      work = nullptr;  // what it holds ends on this thread, not on the one that joins
      done = true;
    });
  } catch (const std::system_error& error) {
    threads_.pop_back();
    throw Error(Code::out_of_memory, std::string("no thread could be started: ") + error.what());
  } catch (...) {
    threads_.pop_back();
    throw;
  }
}

void Environment::retire(std::shared_ptr<Engine> engine) noexcept {
  if (!torn_down_) {
    try {
      return start([engine] { close_quietly(*engine); });
    } catch (...) {  // no thread to be had: waiting for a step is better than leaking the model
    }
  }
  close_quietly(*engine);
}

void Environment::tear_down() noexcept {
  mailbox_->close();
  outstanding_.drop_all();  // cancels loads; the promises of a dying environment are never settled
  torn_down_ = true;
  for (Engine* engine : engines_) close_quietly(*engine);
  for (Thread& thread : threads_) thread.thread.join();
  threads_.clear();
  model_class.Reset();
  sequence_class.Reset();
  generation_class.Reset();
  no_floats.Reset();
}

}  // namespace chai::addon
