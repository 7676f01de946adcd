"""One run from its directory's first file to its last: the record around the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2lab.errors import ConfigError, Gpt2labError
from gpt2lab.model.llmc import write_checkpoint
from gpt2lab.record.checkpoint import save_checkpoint
from gpt2lab.record.metrics import COLUMNS, MetricsWriter
from gpt2lab.record.provenance import collect, config_hash
from gpt2lab.record.rundir import RunDir, now_utc
from gpt2lab.record.source_archive import find_source_root, source_hash, write_source_archive
from gpt2lab.record.tracker import Tracker, start_tracker
from gpt2lab.schema import RunConfig, parse_stop_when, plain
from gpt2lab.train.facts import data_facts, engine_facts, model_facts
from gpt2lab.train.interrupts import Interrupts
from gpt2lab.train.loop import Ending, Hooks, Row, run_loop
from gpt2lab.train.progress import Display, Transfer, print_ending, print_header
from gpt2lab.train.resume import check_same_config, restore
from gpt2lab.train.sample import Words, answer_examples, continue_text
from gpt2lab.train.setup import Parts, prepare_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    run_dir: Path
    state: str  # finished or interrupted
    reason: str
    last_row: Row
    facts: dict[str, Any]  # the sections data, model and engine of provenance.json


def execute(
    config: RunConfig, run_dir: Path, *, overrides: Sequence[str], command: Sequence[str], console: Console
) -> Outcome:
    """Run `config` in `run_dir`, or continue the run there when `config.resume` is set.

    Raises the errors of gpt2lab.errors; the directory's status.json then says failed, and why.
    """
    _check_stop_when(config)
    run = RunDir.reopen(run_dir) if config.resume else RunDir.claim(run_dir)
    with run, Interrupts() as interrupts:
        try:
            if config.resume:
                check_same_config(config, run)
                run.write_status("running")
            return _execute(config, run, interrupts, overrides=overrides, command=command, console=console)
        except ConfigError as error:
            # A refused resume leaves the run what it was.
            if not config.resume:
                run.write_status("failed", reason=str(error))
            raise
        except KeyboardInterrupt:
            run.write_status(
                "interrupted", reason="stopped at once; continue from the last checkpoint, if there is one"
            )
            raise
        except BaseException as error:
            run.write_status("failed", reason=str(error) if isinstance(error, Gpt2labError) else repr(error))
            raise


def _execute(
    config: RunConfig,
    run: RunDir,
    interrupts: Interrupts,
    *,
    overrides: Sequence[str],
    command: Sequence[str],
    console: Console,
) -> Outcome:
    with Transfer(console) as transfer:
        parts = prepare_parts(config, report_progress=transfer)
    elapsed_s = restore(parts, run) if config.resume else 0.0
    facts = {"data": data_facts(parts), "model": model_facts(parts), "engine": engine_facts(parts)}
    settings = plain(config)
    root = find_source_root()
    if config.resume:
        _note_resume(run, parts.engine.step, source_hash(root), console)
    else:
        run.write_config(settings)
        run.write_overrides(list(overrides))
        run.write_provenance(collect(command=list(command), config=settings, source_root=root, **facts))
        write_source_archive(run.source_archive, root)
    print_header(console, facts, first_step=parts.engine.step)
    tracker = start_tracker(
        config.tracker,
        run_dir=run.path,
        name=config.name or run.path.name,
        run_config=settings | {"facts": facts},
        tags=config.tags,
        resume=bool(config.resume),
        warn=lambda line: console.print(line, style="yellow", markup=False, soft_wrap=True),
    )
    finished = False
    try:
        ending = _train(parts, run, tracker, interrupts, console=console, elapsed_s=elapsed_s)
        if ending.state == "finished":
            write_samples(parts, run.samples)
        finished = ending.state == "finished"
    finally:
        tracker.finish(finished)
    run.write_status(
        ending.state,
        reason=ending.reason,
        step=parts.engine.step,
        training_s=ending.training_s,
        tracker=tracker.state,
    )
    print_ending(console, ending.state, ending.reason, ending.last_row, facts, run.path)
    return Outcome(run_dir=run.path, state=ending.state, reason=ending.reason, last_row=ending.last_row, facts=facts)


def _note_resume(run: RunDir, step: int, source: str, console: Console) -> None:
    """Add to status.json that the run goes on from `step`, and say when it does so with other source code."""
    earlier = run.read_status().get("resumes", [])
    run.write_status("running", resumes=[*earlier, {"step": step, "at": now_utc(), "source_hash": source}])
    if run.read_provenance()["source_hash"] != source:
        console.print("warning: the source code has changed since this run began", style="yellow")


def _train(
    parts: Parts, run: RunDir, tracker: Tracker, interrupts: Interrupts, *, console: Console, elapsed_s: float
) -> Ending:
    engine = parts.engine
    elapsed = elapsed_s

    def save() -> None:
        save_checkpoint(
            run.path,
            write_model=lambda file: write_checkpoint(file, engine.parameters(), parts.model),
            state=engine.moments(),
            step=engine.step,
            meta={"config_hash": config_hash(plain(parts.config)), "elapsed_s": repr(elapsed)},
        )

    with (
        MetricsWriter(run.metrics) as metrics,
        Display(console, first_step=engine.step, max_steps=parts.config.train.max_steps) as display,
    ):

        def on_row(row: Row) -> None:
            nonlocal elapsed
            elapsed = row.get("elapsed_s") or elapsed
            metrics.append(row)
            tracker.log(row)
            display.show(row)

        hooks = Hooks(on_row=on_row, on_step=display.advance, save=save, interrupted=lambda: interrupts.reason)
        interrupts.deferred = True
        try:
            return run_loop(parts, hooks, elapsed_s=elapsed_s)
        finally:
            interrupts.deferred = False


def write_samples(parts: Parts, folder: Path) -> None:
    """Write `sample.count` texts of the model as folder/sample-1.txt, sample-2.txt, ...

    A model that learned answers shows them for validation examples, unless `sample.prompt` says how to begin.
    """
    options, source = parts.config.sample, parts.source
    if not options.count:
        return
    if source.answer_span and not options.prompt:
        texts = answer_examples(parts.engine, source, count=options.count, max_seq_len=parts.model.max_seq_len)
    else:
        texts = continue_text(
            parts.engine,
            Words(tokenizer=source.tokenizer, default_prompt=source.prompt, room=source.row_len),
            options.prompt or None,
            count=options.count,
            max_tokens=options.max_tokens,
            max_seq_len=parts.model.max_seq_len,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=parts.config.seed,
        )
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts, 1):
        (folder / f"sample-{number}.txt").write_text(text + "\n", encoding="utf-8")


def _check_stop_when(config: RunConfig) -> None:
    if config.train.stop_when is not None:
        metric = parse_stop_when(config.train.stop_when)[0]
        names = [column.name for column in COLUMNS]
        if metric not in names:
            raise ConfigError(
                f"train.stop_when={config.train.stop_when}: no metric {metric}; expected one of {', '.join(names)}"
            )
