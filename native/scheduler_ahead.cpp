// Steps that follow a step in flight before its results are known, so that a device need not wait for the host between two tokens.
// In: the last step in flight. Out: one more row of each of its sequences, whose token is the one that the last step draws for it.
//
// Only plain decoding runs ahead; everything else (a prompt, a warm-up, logits, a penalty, an errand, a newcomer, a pool with no page
// left) waits until nothing is in flight, and is then planned as ever. What the results of an earlier step undo:
// - A sequence ends (stop token, cancelled, failed): its later rows are computed in vain. It is free at once, with no page beyond its
//   tokens; whatever reuses those pages or tables is submitted later, hence runs later.
// - Limits of length and of the queue of tokens are known beforehand: such a sequence sits out, and the others go on.
// - The device fails: the steps behind fail too, with nobody left in them. A step that cannot even be submitted ends its requests when
//   its turn comes, after the tokens of the steps before it.
#include <algorithm>

#include "scheduler.h"

namespace chai {

/// Leaves the flight empty where nothing may run ahead.
void Scheduler::plan_ahead(Flight& flight) {
  const Flight& last = flights_.back();
  if (closing_ || !errands_.empty() || last.failure.error) return;
  for (const auto& request : active_)
    if (request->in_flight == 0 && request->runnable()) return;  // it joins as soon as nothing is in flight
  std::vector<const Part*> going_on;
  for (const Part& part : last.parts) {
    if (!part.request) continue;
    const Follow follow = part.share.draw < 0 ? Follow::waits : part.request->follow();
    if (follow == Follow::waits) return;
    if (follow == Follow::goes_on) going_on.push_back(&part);
  }
  if (!reserve_ahead(going_on)) return;
  for (const Part* part : going_on) put(part->request, flight, part->request->next_position(), 1, part->share.draw);
}

/// Pages for one row more of each, all or none.
bool Scheduler::reserve_ahead(const std::vector<const Part*>& parts) {
  const auto position_of = [](const Part* part) { return part->request->next_position(); };
  size_t tried = 0;
  bool enough = true;
  try {
    while (enough && tried < parts.size()) {
      const Part* part = parts[tried++];
      enough = part->request->sequence->cache->reserve(position_of(part), position_of(part) + 1);
    }
  } catch (const std::bad_alloc&) {
    enough = false;
  }
  for (size_t i = 0; !enough && i < tried; ++i) parts[i]->request->sequence->cache->truncate(position_of(parts[i]));
  return enough;
}

/// A request is about to end: its rows in steps still in flight are nobody's, and the pages taken for them go back.
void Scheduler::leave(Request& request) {
  for (Flight& flight : flights_)
    for (Part& part : flight.parts)
      if (part.request.get() == &request) part.request.reset();
  request.in_flight = 0;
  request.sequence->cache->truncate(request.sequence->cached);
}

}  // namespace chai
