"""The engine's maintenance: one service per module, each `async step(now) -> next due`, run by `LoopRunner`."""
