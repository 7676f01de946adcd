"""One run from its directory's first file to its last: the record around the training loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from gpt2lab.data import check_source
from gpt2lab.errors import is_closed_pipe
from gpt2lab.model.llmc import write_checkpoint
from gpt2lab.record.checkpoint import load_checkpoint, save_checkpoint
from gpt2lab.record.metrics import MetricsWriter, Row
from gpt2lab.record.provenance import config_hash
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.tracker import Tracker, start_tracker
from gpt2lab.schema import RunConfig, plain
from gpt2lab.train.check import check_stop_when
from gpt2lab.train.facts import begin_record, data_facts, engine_facts, model_facts
from gpt2lab.train.interrupts import Interrupts
from gpt2lab.train.loop import Ending, Hooks, run_loop
from gpt2lab.train.progress import Display, Transfer, print_ending, print_header, print_lines
from gpt2lab.train.resume import check_same_config, restore, resume_record
from gpt2lab.train.sample import write_samples
from gpt2lab.train.setup import Parts, prepare_parts


def execute(
    config: RunConfig, run_dir: Path, *, overrides: Sequence[str], command: Sequence[str], console: Console
) -> Ending:
    """Run `config` in `run_dir`, or continue the run there when `config.resume` is set.

    Raises the errors of gpt2lab.errors. A run that fails records the reason in its status.json; a run that cannot be
    continued is left unchanged.
    """
    check_source(config.data)
    check_stop_when(config)
    resumes, config.resume = bool(config.resume), None
    run = RunDir.reopen(run_dir) if resumes else RunDir.claim(run_dir)
    with run, Interrupts() as interrupts:
        is_begun = not resumes
        try:
            checkpoint = None
            if resumes:
                check_same_config(config, run)
                checkpoint = load_checkpoint(run.path)
            with Transfer(console) as transfer:
                weights = checkpoint.model_path if checkpoint else None
                parts = prepare_parts(config, weights=weights, report_progress=transfer)
            resumed_s = restore(parts, run, checkpoint) if checkpoint else None
            facts = {"data": data_facts(parts), "model": model_facts(parts), "engine": engine_facts(parts)}
            record = resume_record if resumes else begin_record
            for line in record(run, parts, facts, overrides=list(overrides), command=list(command)):
                print_lines(console, f"warning: {line}", style="yellow")
            is_begun = True
            return _train_and_finish(parts, run, interrupts, facts, resumed_s=resumed_s, console=console)
        except BaseException as error:
            if not is_begun:
                raise
            _end(run, error)


def _end(run: RunDir, error: BaseException) -> NoReturn:
    """Write down what ended the run before it was done, and raise it."""
    if isinstance(error, KeyboardInterrupt):
        run.write_status("interrupted", reason="stopped at once; continue from the last checkpoint, if there is one")
        raise error
    if is_closed_pipe(error):
        run.write_status("interrupted", reason="nobody read its output any more (closed pipe)")
        raise error
    run.fail(error)


def _train_and_finish(
    parts: Parts,
    run: RunDir,
    interrupts: Interrupts,
    facts: dict[str, Any],
    *,
    resumed_s: float | None,
    console: Console,
) -> Ending:
    """Train to the end; `resumed_s` are the seconds trained before a run was continued, None for a new one."""
    config = parts.config
    print_header(console, facts, first_step=parts.engine.step)
    tracker = start_tracker(
        config.tracker,
        run_dir=run.path,
        name=config.name or run.path.name,
        run_config=plain(config) | {"facts": facts},
        tags=config.tags,
        resume=resumed_s is not None,
        warn=lambda line: print_lines(console, line, style="yellow"),
    )
    finished = False
    try:
        ending = _train(parts, run, tracker, interrupts, console=console, elapsed_s=resumed_s or 0.0)
        if ending.state == "finished":
            try:
                write_samples(parts.engine, parts.source, config, parts.spec.model, run.samples)
            except KeyboardInterrupt:  # the trained model is saved already
                console.print("samples left out: interrupted")
        finished = ending.state == "finished"
    finally:
        tracker.finish(finished)
    run.write_status(
        ending.state, reason=ending.reason, step=ending.step, training_s=ending.training_s, tracker=tracker.state
    )
    print_ending(console, ending, facts, run.path)
    return ending


def _train(
    parts: Parts, run: RunDir, tracker: Tracker, interrupts: Interrupts, *, console: Console, elapsed_s: float
) -> Ending:
    engine = parts.engine

    def save(elapsed_s: float) -> None:
        metrics.sync()
        save_checkpoint(
            run.path,
            write_model=lambda file: write_checkpoint(file, engine.parameters(), parts.spec.model),
            state=engine.moments(),
            step=engine.step,
            meta={"config_hash": config_hash(plain(parts.config)), "elapsed_s": repr(elapsed_s)},
        )

    with (
        MetricsWriter(run.metrics) as metrics,
        Display(console, first_step=engine.step, max_steps=parts.config.train.max_steps) as display,
    ):

        def on_row(row: Row) -> None:
            metrics.append(row)
            tracker.log(row)
            display.show(row)

        hooks = Hooks(on_row=on_row, on_step=display.advance, save=save, interrupted=lambda: interrupts.reason)
        interrupts.deferred = True
        try:
            return run_loop(parts, hooks, elapsed_s=elapsed_s)
        finally:
            interrupts.deferred = False
