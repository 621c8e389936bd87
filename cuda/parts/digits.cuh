// Walking through a flattened index of three dimensions without dividing at each step.
#pragma once
#include "device/fewstep.cuh"

namespace {

// (high * middles + middle) * lows + low.
struct Digits {
  int high, middle, low;
};

FEWSTEP_DEVICE Digits digits_of(int value, int middles, int lows) {
  const int rest = value / lows;
  return {rest / middles, rest % middles, value - rest * lows};
}

// a + b, where both are digits of the same system.
FEWSTEP_DEVICE Digits add(Digits a, Digits b, int middles, int lows) {
  Digits sum = {a.high + b.high, a.middle + b.middle, a.low + b.low};
  if (sum.low >= lows) {
    sum.low -= lows;
    sum.middle++;
  }
  if (sum.middle >= middles) {
    sum.middle -= middles;
    sum.high++;
  }
  return sum;
}

}  // namespace
