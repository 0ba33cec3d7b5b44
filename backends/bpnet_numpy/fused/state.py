"""The state of a team of threads, as int64 words, each that several write in a cache line of its own."""

from __future__ import annotations

OWNER, OPEN, TAKEN, ACTIVE, SLEEPERS, STOP = (8 * i for i in range(6))
FRONT, BACK, BODY, WORDS, UNITS, MUTEX, CONDITION, LOCK, UNLOCK, WAIT, BROADCAST, YIELD = range(48, 60)
SIZE = 64  # words
