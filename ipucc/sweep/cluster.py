"""Points computed by the workers of a dask cluster."""

import logging
import socket
from collections.abc import Generator, Sequence
from typing import Any, Final

from ipucc.diagnostics import error
from ipucc.sweep.measure import Row, Task, measure

__all__ = ["compute_there"]

_SECONDS: Final = 10
"""How long the scheduler, and then its first worker, may take to answer."""


def compute_there(tasks: Sequence[Task], scheduler: str) -> Generator[tuple[Task, Row], None, None]:
    """The rows of points in the order in which they are done, by the workers of the scheduler at this address.

    Workers read the files of a task under the paths that it names. What they have begun when the iterator ends, they
    finish, and nobody hears of it. Raises the CompileError of a point; IPU0802 where dask is not installed, IPU0803
    where there is no scheduler or no worker, IPU0804 where workers die of a point.
    """
    library = _distributed()
    with _client(library, scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError as failure:
            help = ["dask worker ADDRESS starts one, in an environment with the same ipucc"]
            raise error("IPU0803", f"the scheduler at {scheduler} has no workers", help=help) from failure
        futures = {client.submit(measure, task, pure=False): task for task in tasks}
        try:
            for future in library.as_completed(list(futures), loop=client.loop):
                yield futures[future], future.result()
        except library.KilledWorker as failure:
            raise error("IPU0804", "workers of dask died of a point, or ran out of memory") from failure
        except library.CancelledError as failure:
            raise error("IPU0803", f"the scheduler at {scheduler} has gone, or has cancelled points") from failure
        except ImportError as failure:
            raise error("IPU0805", f"a worker of dask has another ipucc, or none: {failure}") from failure
        finally:
            client.cancel([future for future in futures if not future.done()])


def _client(library: Any, scheduler: str) -> Any:
    """A connection to the scheduler. Raises CompileError IPU0803."""
    try:
        # Whether somebody listens; a client that finds nobody tells of it long and late.
        with socket.create_connection(library.comm.get_address_host_port(scheduler), _SECONDS):
            pass
        return library.Client(scheduler, timeout=_SECONDS)
    except (OSError, ValueError, TypeError) as failure:
        reason = str(failure).splitlines()[0][:200] if str(failure) else type(failure).__name__
        raise error(
            "IPU0803", f"no scheduler of dask answers at {scheduler!r}: {reason}", help=["tcp://HOST:PORT"]
        ) from failure


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as failure:
        raise error(
            "IPU0802", "--scheduler needs dask.distributed, which is not installed", help=["pip install 'ipucc[dask]'"]
        ) from failure
    # What it logs of lost connections is told in our words.
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed
