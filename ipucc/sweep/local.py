"""Points computed by processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from ipucc.diagnostics import error
from ipucc.sweep.measure import Row, Task, measure

__all__ = ["compute_here"]


def compute_here(tasks: Sequence[Task], jobs: int) -> Generator[tuple[Task, Row], None, None]:
    """The rows of points in the order in which they are done, by up to `jobs` processes.

    They end with the iterator, whatever ends it, and with this process, even if it is killed. Raises the CompileError
    of a point, and IPU0804 where a process has ended on its own.
    """
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(
        max(1, min(jobs, len(tasks))), multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        futures = _submit(executor, tasks)
        for future in as_completed(futures):
            yield futures[future], future.result()
        executor.shutdown()
    except BaseException as failure:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in before:
                process.terminate()
        if isinstance(failure, BrokenProcessPool):
            raise error(
                "IPU0804", "a process that compiled a point was killed or ran out of memory",
                help=["with --jobs 1 there is one at a time; the same command goes on with what is not done yet"],
            ) from failure  # fmt: skip
        raise


def _submit(executor: ProcessPoolExecutor, tasks: Sequence[Task]) -> dict[Future[Row], Task]:
    """Starts the processes. Ctrl-C reaches all processes of a terminal: it is for this one to act on, and they are born
    with SIGINT blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {executor.submit(measure, task): task for task in tasks}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_with_parent() -> None:
    """A process of the pool waits for work for ever, also where nobody is left to send any."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
