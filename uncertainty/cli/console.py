"""What the commands say while they work: notices, progress, times and sizes in words. Imports nothing heavy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch and transformers are imported when they are needed: --help must stay quick
    from uncertainty.prepare import Prepared
    from uncertainty.scoring import Job, Progress


def interrupt(signum: int, frame: Any) -> None:
    """Take SIGTERM for Ctrl-C: finish nothing, leave the run folder ready to resume."""
    raise KeyboardInterrupt


def say(*lines: str) -> None:
    """Notices go to stderr; results to stdout."""
    for line in lines:
        print(line, file=sys.stderr)


def quiet_libraries() -> None:
    """One progress bar is enough: ours."""
    import logging

    import transformers
    from huggingface_hub.utils import disable_progress_bars

    # It is imported with peft wherever it is installed, and asks for a package with a kernel that is not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    disable_progress_bars()


def about_data(prepared: Prepared) -> list[str]:
    """What was read and rendered, and what was skipped, one line each."""
    source = prepared.source
    how = "as asked" if prepared.settings.format else f"from the columns {', '.join(source.columns)}"
    return [
        f"data: {source.origin} ({source.kind}), {len(source.rows):,} rows, format {source.format} ({how})",
        f"template: {prepared.template.name} ({prepared.template.kind}); {len(prepared.examples):,} examples, "
        f"{prepared.completion_tokens:,} completion tokens, at most {prepared.max_length:,} tokens each",
        *(f"note: {notice}" for notice in prepared.notices),
        *_about_skipped(prepared),
    ]


def _about_skipped(prepared: Prepared) -> list[str]:
    if not prepared.skipped:
        return []
    first = prepared.skipped[0]
    return [f"skipped: {len(prepared.skipped):,} rows (first: {first['where']}: {first['reason']}, {first['detail']})"]


class Meter:
    """Shows progress: a bar on a terminal, a plain line every half minute elsewhere."""

    def __init__(self, show: Callable[[Progress, str], None], close: Callable[[], None]) -> None:
        self.show, self.close = show, close
        self.called = False

    def __call__(self, progress: Progress) -> None:
        """Show how far the run is."""
        self.called = True
        self.show(progress, f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s")


def progress_meter(job: Job) -> Meter:
    """What shows the progress of ``run_job``: call it with each ``Progress``, and ``close`` it at the end."""
    if not sys.stderr.isatty():
        last = [time.monotonic()]

        def plain(progress: Progress, speed: str) -> None:
            now = time.monotonic()
            if now - last[0] >= 30:
                last[0] = now
                done = progress.resumed_examples + progress.examples
                left = progress.seconds * (progress.examples_total - done) / max(1, progress.examples)
                say(f"{done:,} of {progress.examples_total:,} examples, {speed}, {duration(left)} left")

        return Meter(plain, lambda: None)
    from tqdm import tqdm

    most = "" if job.prepared.settings.target is None else "at most "
    bar = tqdm(total=len(job.prepared.examples), unit="example", file=sys.stderr, dynamic_ncols=True)

    def draw(progress: Progress, speed: str) -> None:
        bar.initial = progress.resumed_examples
        bar.set_postfix_str(f"{speed} x {most}{job.prepared.settings.passes} passes", refresh=False)
        bar.update(progress.resumed_examples + progress.examples - bar.n)

    return Meter(draw, bar.close)


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def size_text(size: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
