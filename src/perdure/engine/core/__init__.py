"""Pure decisions: (what is known, what happened, now) → changes. No clock, chance, loop, log or driver."""
