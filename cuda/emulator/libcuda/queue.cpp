#include "queue.hpp"

#include <chrono>

#include "state.hpp"

namespace fs::driver {
namespace {
// A program that never waits would fill memory: beyond this, old work is done.
constexpr size_t pending_limit = 16384;
}  // namespace

void Queue::begin(uint64_t seed) {
  seed_ = seed;
  random_.seed(seed);
  ready_.clear();
  pending_ = 0;
}

Ticket Queue::submit(Context* context, std::function<CUresult()> work, const std::vector<Ticket>& after) {
  auto operation = std::make_shared<Operation>();
  operation->context = context;
  operation->run = std::move(work);
  for (const Ticket& earlier : after) {
    if (!earlier || earlier->done) continue;
    operation->after.push_back(earlier);
    earlier->before.push_back(operation);
  }
  operation->unmet = operation->after.size();
  pending_++;
  if (!operation->unmet) ready_.push_back(operation);
  if (pending_ > pending_limit) run_all();
  if (seed_ % 2) {
    for (uint64_t n = random_() % 3; n > 0; n--) {
      if (const Ticket next = take_ready()) run(next);
    }
  }
  return operation;
}

void Queue::run(const Ticket& operation) {
  Context& context = *operation->context;
  if (operation->run && !context.lost) {
    if (const CUresult result = operation->run()) Driver::instance().lose(context, result);
  }
  operation->run = nullptr;
  operation->after.clear();
  operation->done = true;
  operation->finished_at =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
  pending_--;
  for (const Ticket& later : operation->before) {
    if (!--later->unmet) ready_.push_back(later);
  }
  operation->before.clear();
}

Ticket Queue::take_ready() {
  while (!ready_.empty()) {
    const size_t i = seed_ ? random_() % ready_.size() : 0;
    Ticket operation = ready_[i];
    ready_.erase(ready_.begin() + ptrdiff_t(i));
    if (!operation->done) return operation;
  }
  return nullptr;
}

void Queue::run_until(const Ticket& ticket) {
  if (!ticket) return;
  if (seed_) {
    while (!ticket->done) run(take_ready());
    return;
  }
  std::vector<Ticket> path = {ticket};
  while (!path.empty()) {
    const Ticket operation = path.back();
    Ticket needed;
    for (const Ticket& earlier : operation->after) {
      if (!earlier->done) {
        needed = earlier;
        break;
      }
    }
    if (needed) {
      path.push_back(needed);
      continue;
    }
    if (!operation->done) run(operation);
    path.pop_back();
  }
}

void Queue::step_towards(const Ticket& ticket) {
  if (!ticket || ticket->done) return;
  if (seed_) {
    run(take_ready());
    return;
  }
  Ticket operation = ticket;
  for (bool deeper = true; deeper;) {
    deeper = false;
    for (const Ticket& earlier : operation->after) {
      if (!earlier->done) {
        const Ticket next = earlier;
        operation = next;
        deeper = true;
        break;
      }
    }
  }
  run(operation);
}

void Queue::run_all() {
  while (const Ticket next = take_ready()) run(next);
}

}  // namespace fs::driver
