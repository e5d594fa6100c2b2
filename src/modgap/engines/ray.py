"""What `replicas` needs of Ray: a cluster, actors on it, and their end.

The cluster is our own on this machine, or an existing one. A cluster of our own requires a token
that only its processes have, shows no dashboard, and leaves no process and no file behind. On an
existing one only the model folder is assumed to be shared: images travel with their requests.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core import installation
from modgap.core.engine import Engine, Request
from modgap.core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

_STORE_BYTES = 200 * 2**20
_CLOSE_S = 20.0
# Ray's messages, its statistics and its support for `uv run` are for its own users. Each variable
# is set only if it is not set already.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # An engine's own processes (vLLM has some) end with its actor, however the actor ends.
    "RAY_process_group_cleanup_enabled": "true",
}


def require() -> None:
    """Raise `UserError` where Ray is not installed."""
    installation.require("ray")


class Cluster:
    """Ray with resources for a number of engines.

    Args:
        address: An existing cluster; one of our own on this machine if `None`.
        replicas: How many engines.
        accelerators_each: GPUs of one engine.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it is too small.
    """

    def __init__(self, address: str | None, replicas: int, accelerators_each: int = 1) -> None:
        self._set = _set_environment(address)
        try:
            import ray  # pyright: ignore[reportMissingImports] - an extra
        except ModuleNotFoundError as error:
            self._restore()
            raise UserError(f"{installation.not_installed('ray')}.") from error
        self.ray: Any = ray
        self._address, self._session = address, None
        # pyright takes this file for the package `ray` if that is not installed.
        self._ours = not ray.is_initialized()  # pyright: ignore[reportAttributeAccessIssue]
        if self._ours:
            _read_again()
        self._cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self._last: tuple[Any, Any] = (None, None)
        self._keep_logs = False
        try:
            if self._ours:
                with _signals_kept():
                    self._connect(replicas)
            self._options = self._room(replicas, accelerators_each)
        except BaseException:
            self.close([], [])
            raise
        threads = os.environ.get("OMP_NUM_THREADS", "")
        fair = max(1, self._cores // replicas) if address is None else 1
        self._threads = int(threads) if threads.isdigit() and int(threads) else fair

    def _connect(self, replicas: int) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address is not None:
                _knock(self._address)
                self.ray.init(address=self._address, **quiet)
                return
            started = self.ray.init(
                address="local",
                num_cpus=max(self._cores, 1),
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
            self._session = Path(started.address_info["session_dir"])
        except Exception as error:  # Ray has no common class for these
            with contextlib.suppress(Exception):
                self.ray.shutdown()
            reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
            if self._address is None:
                raise UserError(f"Ray could not be started on this machine ({reason}).") from error
            raise UserError(
                f"--ray-address {self._address}: no Ray cluster can be used there ({reason}): start"
                " one (ray start --head), give this machine its token (~/.ray/auth_token), or"
                " leave the option out to use this machine's accelerators."
            ) from error

    def _room(self, replicas: int, each: int) -> dict[str, Any]:
        """The resources that an actor asks for."""
        there = self.ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
        where = "this machine" if self._address is None else f"the Ray cluster at {self._address}"
        mask = os.environ.get("CUDA_VISIBLE_DEVICES")
        masked = (
            f" (CUDA_VISIBLE_DEVICES={mask})" if self._address is None and mask is not None else ""
        )
        if gpus and replicas * each > gpus:
            of = f", {each} for each," if each > 1 else ""
            raise UserError(
                f"--replicas {replicas}: {where} has {gpus}"
                f" accelerator{'s' * (gpus > 1)}{masked}{of} so at most {gpus // each}: give that"
                " or fewer, or another --ray-address."
            )
        if not gpus and replicas > cpus:
            raise UserError(
                f"--replicas {replicas}: {where} has no accelerator{masked} and {cpus} CPU cores:"
                f" give at most {cpus}."
            )
        return {
            "num_gpus": each if gpus else 0,
            "num_cpus": 1 if not gpus or self._address is not None else 0,
        }

    def start(self, kind: type, make: Callable[[], Engine]) -> Any:
        """A new actor with an engine; it waits for resources."""
        actor = self.ray.remote(kind).options(
            max_restarts=0, scheduling_strategy="SPREAD", **self._options
        )
        return actor.remote(make, os.getcwd(), self._threads, self._address is not None)

    def stop(self, actor: Any) -> None:
        """End an actor at once, if it is still there."""
        with contextlib.suppress(Exception):
            self.ray.kill(actor)

    def check(self) -> None:
        """Refuse to wait for actors if no machine is left to run them. Raises `UserError`."""
        if any(node["Alive"] for node in self.ray.nodes()):
            return
        where = "on this machine" if self._address is None else f"at {self._address}"
        raise UserError(
            f"Ray {where} has ended, out of memory or killed{self._logs()}: finished work is kept,"
            " give the same command again to resume."
        )

    def portable(self, request: Request) -> Request:
        """A request that can be read where the actors are.

        On an existing cluster it carries the pixels of its image, as PNG.
        """
        if self._address is None or request.image is None:
            return request
        if self._last[0] != request.image:  # consecutive views of a problem share an image
            self._last = (request.image, _packed(request.image))
        return replace(request, image=self._last[1])

    def why(self, error: Exception) -> str:
        """Why an actor failed, in a few words."""
        said = " ".join(str(error).split())
        if "No module named" in said:
            return (
                f"{said[said.index('No module named') :][:80]}: install the same modgap on every"
                " node of the cluster"
            )
        if type(error).__name__ == "OutOfMemoryError" or "memory pressure" in said:
            return "Ray ended its process, because its machine ran out of memory"
        if "node" in type(error).__name__.lower() or "node has died" in said or "its node" in said:
            return "its machine can no longer be reached"
        if "has died" in said or "died unexpectedly" in said or "actor is dead" in said.lower():
            return f"its process died{self._logs()}"
        return f"{type(error).__name__}: {said[:200]}"

    def _logs(self) -> str:
        self._keep_logs = True
        return f" (logs: {self._session / 'logs'})" if self._session else ""

    def close(self, actors: Sequence[Any], idle: Iterable[Any]) -> None:
        """End all actors, idle ones in an orderly way, and the cluster if it is ours.

        Environment variables that we set are removed again: the next cluster may be another one,
        whose token we must not set.
        """
        try:
            self._end(actors, idle)
        finally:
            self._restore()
            if self._ours:
                _read_again()

    def _end(self, actors: Sequence[Any], idle: Iterable[Any]) -> None:
        if not self.ray.is_initialized():
            return
        with contextlib.suppress(Exception):
            refs = [actor.close.remote() for actor in idle]
            if refs:
                self.ray.wait(refs, num_returns=len(refs), timeout=_CLOSE_S)
        for actor in actors:
            self.stop(actor)
        if not self._ours:
            return
        with contextlib.suppress(Exception):
            self.ray.shutdown()
        if (
            self._session
            and not self._keep_logs
            and sys.exc_info()[0] in (None, KeyboardInterrupt, GeneratorExit)
        ):
            shutil.rmtree(self._session, ignore_errors=True)

    def _restore(self) -> None:
        for name, value in self._set.items():
            if os.environ.get(name) == value:
                del os.environ[name]
        self._set = {}


def _set_environment(address: str | None) -> dict[str, str]:
    """Set what Ray reads of the environment, if not set already; returns what was set."""
    wanted = {**_ENVIRONMENT, **_authentication(address)}
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    return new


def _authentication(address: str | None) -> dict[str, str]:
    """Have Ray ask for a token: our own one on our own cluster, else the user's.

    Ray listens on every interface.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    mode, *tokens = (os.environ.get(name) for name in names)
    if mode is not None:
        return {}
    wanted: dict[str, str] = {}
    if address is None and not any(tokens):
        os.environ.pop("RAY_AUTH_TOKEN", None)  # an empty token counts as none
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if address is None or any(tokens) or (Path.home() / ".ray" / "auth_token").exists():
        wanted["RAY_AUTH_MODE"] = "token"
    return wanted


def _read_again() -> None:
    """Have Ray read the environment again.

    It keeps the mode from its import, and the first token that it was given. If a version of Ray
    has these elsewhere, the second cluster of a process is refused, and its error says so.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray._raylet import (  # pyright: ignore[reportMissingImports]
            AuthenticationTokenLoader,
            Config,
        )  # pyright: ignore  # an extra, and private

        # Before the token: a thread of Ray's that ends late would read a token that does not exist.
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raise `OSError` if nothing listens there; Ray takes two minutes to notice that."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _packed(opener: Callable[[], Image]) -> Callable[[], Image]:
    """An opener of the same image that works on another machine.

    If the image cannot be opened, it raises the reason there, to the engine.
    """
    from modgap.core.images import decode, reason, to_rgb

    buffer = io.BytesIO()
    try:
        to_rgb(opener()).save(buffer, "PNG")
    except Exception as error:
        return functools.partial(_refuse, reason(error))
    return functools.partial(decode, buffer.getvalue())


def _refuse(why: str) -> Image:
    raise UserError(why)


@contextlib.contextmanager
def _signals_kept() -> Generator[None]:
    """Inside, Ray takes SIGTERM for itself; afterwards the program's own handler is restored.

    Without a handler of the program's own Ray's is kept, and it prints no stack.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        kept = signal.getsignal(signal.SIGTERM) if before in (signal.SIG_DFL, None) else before
        signal.signal(signal.SIGTERM, kept)
