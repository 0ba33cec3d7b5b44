"""The entries of schedules."""

from __future__ import annotations

import bpnet as bp
from bpnet.errors import ConfigError
from bpnet.testing.cases.entries import BadArguments, BadInputs, Entry, ScheduleCase, all_cases

NO_STEP = BadInputs((-1,), "step must be a whole number of at least 0, got -1", ConfigError)
HALF_A_STEP = BadInputs((0.5,), "step must be a whole number of at least 0, got 0.5", ConfigError)
RISE = "rise must lie between 0 and 1 and make more than 1 of the 10 steps"

SCHEDULES: dict[str, Entry[ScheduleCase]] = {
    "Constant": Entry(
        {"": ScheduleCase(lambda: bp.Constant(0.3))},
        (BadArguments(lambda: bp.Constant(0), "learning_rate must be above 0 and finite, got 0"),),
        (NO_STEP, HALF_A_STEP),
    ),
    "InverseTime": Entry(
        {"": ScheduleCase(lambda: bp.InverseTime(0.3, decay=0.25))},
        (BadArguments(lambda: bp.InverseTime(0.1, decay=-1), r"decay must lie in \[0, inf\), got -1"),),
        (NO_STEP,),
    ),
    "StepDecay": Entry(
        {
            "": ScheduleCase(lambda: bp.StepDecay(0.3, every=7)),
            "every step, by nothing": ScheduleCase(lambda: bp.StepDecay(0.3, every=1, factor=1.0)),
        },
        (
            BadArguments(lambda: bp.StepDecay(0.1, every=0), "every must be a whole number of at least 1, got 0"),
            BadArguments(
                lambda: bp.StepDecay(0.1, every=2.5),  # type: ignore[arg-type]
                "every must be a whole number of at least 1, got 2.5",
            ),
            BadArguments(
                lambda: bp.StepDecay(0.1, every=3, factor=1.1), "factor must be above 0 and at most 1, got 1.1"
            ),
        ),
        (NO_STEP,),
    ),
    "Exponential": Entry(
        {
            "": ScheduleCase(lambda: bp.Exponential(0.3, factor=0.9)),
            "every 10 steps": ScheduleCase(lambda: bp.Exponential(0.3, factor=0.5, every=10)),
        },
        (BadArguments(lambda: bp.Exponential(0.1, factor=0), "factor must be above 0 and finite, got 0"),),
        (NO_STEP,),
    ),
    "Cosine": Entry(
        {
            "": ScheduleCase(lambda: bp.Cosine(0.3, 40), 40),
            "of one step": ScheduleCase(lambda: bp.Cosine(0.3, 1), 1),
            "nearly all warm-up": ScheduleCase(lambda: bp.Cosine(0.3, 40, warmup=39, final=0.1), 40, 39),
            "that stays up": ScheduleCase(lambda: bp.Cosine(0.3, 40, warmup=5, final=0.3), 40, 5),
        },
        (
            BadArguments(lambda: bp.Cosine(0.1, True), "steps must be a whole number of at least 1, got True"),
            BadArguments(lambda: bp.Cosine(0.1, 10, final=0.2), "final must be at most the learning rate 0.1, got 0.2"),
            BadArguments(
                lambda: bp.Cosine(0.1, 10, warmup=10),
                "a warm-up of 10 steps leaves nothing of a schedule of 10 steps; make it shorter",
            ),
        ),
        (NO_STEP,),
    ),
    "OneCycle": Entry(
        {
            "": ScheduleCase(lambda: bp.OneCycle(0.3, 40), 40, 12),
            "of three steps": ScheduleCase(lambda: bp.OneCycle(0.3, 3, rise=0.5, start=1.0, final=0.0), 3, 2),
        },
        (
            BadArguments(lambda: bp.OneCycle(0.1, 1), "steps must be a whole number of at least 2, got 1"),
            BadArguments(lambda: bp.OneCycle(0.1, 10, rise=1.0), RISE),
            BadArguments(lambda: bp.OneCycle(0.1, 10, rise=0.1), RISE),
            BadArguments(
                lambda: bp.OneCycle(0.1, 10, start=2), "start is a part of the learning rate, at most 1, got 2.0"
            ),
        ),
        (NO_STEP,),
    ),
    "WarmUp": Entry(
        {
            "": ScheduleCase(lambda: bp.WarmUp(bp.Constant(0.3), 4), None, 4),
            "of one step": ScheduleCase(lambda: bp.WarmUp(bp.InverseTime(0.3, decay=1.0), 1), None, 1),
            "of a warm-up": ScheduleCase(lambda: bp.WarmUp(bp.Cosine(0.3, 20, warmup=3), 4), 24, 7),
        },
        (
            BadArguments(lambda: bp.WarmUp(0.1, 0), "warmup must be a whole number of at least 1, got 0"),
            BadArguments(
                lambda: bp.WarmUp("fast", 3),  # type: ignore[arg-type]
                "learning_rate must be a number, got 'fast'",
            ),
            BadArguments(
                lambda: bp.WarmUp(bp.Cosine(0.1, 10), 20),
                "a warm-up of 20 steps leaves nothing of Cosine of 10 steps; make it shorter",
            ),
        ),
        (NO_STEP,),
    ),
}
SCHEDULE_CASES: dict[str, ScheduleCase] = all_cases(SCHEDULES)
