// Work that streams hold back, and the order in which it is done.
#pragma once
#include <stdint.h>

#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "cuda.hpp"

namespace fs::driver {

struct Context;

/// One piece of work: a copy, a launch, an event. It runs after the work that it names.
struct Operation {
  Context* context;
  std::function<CUresult()> run;  // empty: only an order
  std::vector<std::shared_ptr<Operation>> after;
  std::vector<std::shared_ptr<Operation>> before;  // which follow it: keeps them alive until it runs
  size_t unmet = 0;         // how many of `after` are not done
  bool done = false;
  double finished_at = 0;  // milliseconds
};
using Ticket = std::shared_ptr<Operation>;

/// All work of all streams that is not done. Nothing runs by itself: a wait for a ticket runs what that needs, and, in an order drawn from
/// the seed, perhaps other work. Seed 0 does only what is needed, in the order of submission; an odd seed also runs some work as
/// soon as it is submitted, as a fast GPU would.
class Queue {
 public:
  void begin(uint64_t seed);
  Ticket submit(Context* context, std::function<CUresult()> work, const std::vector<Ticket>& after);
  /// Until it is done. An operation that fails leaves its context lost, and what follows in that context is dropped.
  void run_until(const Ticket& ticket);
  /// Does one piece of work towards the ticket. So does a real device pass the time between two queries.
  void step_towards(const Ticket& ticket);
  void run_all();

 private:
  void run(const Ticket& operation);
  Ticket take_ready();
  uint64_t seed_ = 0;
  size_t pending_ = 0;
  std::mt19937_64 random_;
  std::vector<Ticket> ready_;  // may hold operations that are done
};

}  // namespace fs::driver
