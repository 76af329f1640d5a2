// The way from other threads to the JS thread; see mailbox.h.
#include "mailbox.h"

namespace chai::addon {

std::shared_ptr<Mailbox> Mailbox::create(Napi::Env env) {
  std::shared_ptr<Mailbox> mailbox(new Mailbox);
  mailbox->env_ = env;
  auto owner = std::make_unique<std::shared_ptr<Mailbox>>(mailbox);  // drain() gets a plain pointer: it must not end before the function
  const auto let_go = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Mailbox>*>(data); };
  const Napi::String name = Napi::String::New(env, "chai-llm");
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, owner.get(), let_go, mailbox.get(), drain, &mailbox->wake_);
  if (status != napi_ok) throw Error(Code::device_fault, "Node.js refused a thread-safe function");
  owner.release();
  napi_unref_threadsafe_function(env, mailbox->wake_);
  return mailbox;
}

void Mailbox::post(std::shared_ptr<Letter> letter) noexcept {
  const std::lock_guard hold(mutex_);
  if (!wake_ || letter->queued_) return;
  letter->queued_ = true;
  Letter* newest = letter.get();
  (last_ ? last_->next_ : first_) = std::move(letter);
  last_ = newest;
  if (!waking_) waking_ = napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Mailbox::keep_loop_alive(bool keep) noexcept {
  if (!wake_) return;  // written by this thread only
  if (keep)
    napi_ref_threadsafe_function(env_, wake_);
  else
    napi_unref_threadsafe_function(env_, wake_);
}

/// Everything that waits, as a chain. Its letters count as queued until detached, so nobody links them elsewhere meanwhile.
std::shared_ptr<Letter> Mailbox::collect() noexcept {
  const std::lock_guard hold(mutex_);
  waking_ = false;
  last_ = nullptr;
  return std::move(first_);
}

/// Takes the first letter out of a collected chain: what it is posted for from now on needs a new delivery. Returns the rest.
std::shared_ptr<Letter> Mailbox::detach(Letter& letter) noexcept {
  const std::lock_guard hold(mutex_);
  letter.queued_ = false;
  return std::move(letter.next_);
}

void Mailbox::drain(napi_env env, napi_value, void* context, void*) {
  if (!env) return;  // the environment is going down
  Mailbox& mailbox = *static_cast<Mailbox*>(context);
  std::shared_ptr<Letter> letter = mailbox.collect();
  while (letter) {
    std::shared_ptr<Letter> rest = mailbox.detach(*letter);
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env, &scope) != napi_ok) scope = nullptr;
    try {
      letter->deliver(env);
    } catch (...) {  // only when JS cannot run any more: a worker that is being terminated
    }
    if (scope) napi_close_handle_scope(env, scope);
    letter = std::move(rest);
  }
}

void Mailbox::close() noexcept {
  napi_threadsafe_function wake = nullptr;
  {
    const std::lock_guard hold(mutex_);
    std::swap(wake, wake_);
  }
  for (std::shared_ptr<Letter> letter = collect(); letter;) letter = detach(*letter);  // one by one: a long chain must not recurse
  if (wake) napi_release_threadsafe_function(wake, napi_tsfn_abort);
}

}  // namespace chai::addon
