"""The learning rate of each update, as a pure function of the step: nothing to save, nothing to resume."""

import math

from gpt2lab.schema import OptimConfig, ScheduleConfig, ScheduleName


def learning_rate(step: int, *, max_steps: int, optim: OptimConfig, schedule: ScheduleConfig) -> float:
    """Return the learning rate of the update that follows `step` updates done.

    A linear warmup to the peak, then constant; cosine to `final_lr_fraction` of the peak (Loshchilov & Hutter, 2017);
    or wsd, constant and then linear to that fraction over the last `decay_fraction` of all steps (Hu et al., 2024).
    """
    peak, warmup = optim.learning_rate, schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.name is ScheduleName.constant:
        return peak
    start = warmup
    if schedule.name is ScheduleName.wsd:
        start = max(warmup, max_steps - round(max_steps * schedule.decay_fraction))
    progress = min(max((step - start) / max(max_steps - start, 1), 0.0), 1.0)
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.name is ScheduleName.cosine else 1 - progress
    return peak * (schedule.final_lr_fraction + (1 - schedule.final_lr_fraction) * falling)


def depends_on_max_steps(schedule: ScheduleConfig) -> bool:
    """Return whether a longer run would have had other learning rates from the start."""
    return schedule.name is not ScheduleName.constant
