"""Answers prompts with any server that speaks OpenAI's chat completions.

Such servers are vLLM, SGLang, llama.cpp and commercial APIs. The original evaluated with vLLM in
its own process only. Here a sample is one HTTP request with a seed of its own, at most
`concurrency` of them are under way, and whatever a busy server does to one of them costs a retry,
not the run:

* tried again, with exponential backoff and full jitter: 429, 5xx, timeouts, dropped connections,
  unreadable replies;
* recorded as failed and made again by the next run: what the retries did not fix, and any other
  refusal;
* ending the run at once with a remedy: what no retry fixes (key, model, credit, address), or a
  server that is gone.

The key is read from the environment when the requests start. It is stored nowhere and removed from
all that comes back (`core.secrets`). A redirect to another origin is not followed: whoever is there
would get the prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import random
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import openai

from modgap.core.engine import Completion, Request, Sampling, Start, sample_seed
from modgap.core.errors import ServerError, TemperatureRefusedError, UserError
from modgap.core.secrets import keep_out, keep_out_of_url, read_key, without_secrets
from modgap.engines.chat import Dialect, Reply, read_reply, to_messages
from modgap.engines.failures import (
    cause,
    is_transient,
    never_connected,
    no_credit,
    read_bounded,
    refused_parameter,
    retry_after,
)

if TYPE_CHECKING:
    from modgap.core.options import EvalOptions, JudgeOptions

_OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "no-key-needed"
_KEY_IN_URL = "{url_option} of {host}: keys belong into an environment variable (--api-key-env)."
_REFUSED_REDIRECT = "modgap_refused_redirect"
_CONNECT_SECONDS = 10.0
_LONGEST_CAUSE = 300
_ODD_LIST = (ValueError, AttributeError, TypeError, RecursionError)
"""What a list of models that is none raises in the client."""
_LONGEST_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = 120.0

Messages = list[Any]


@dataclass(slots=True)
class Usage:
    """What the requests took so far.

    Attributes:
        prompt_tokens: Tokens of all prompts answered, as the server counts them.
        completion_tokens: Tokens sampled, as the server counts them.
        completions: Responses received.
        failures: Samples that failed for good.
        retries: Requests made again.
        prices: Price of a million prompt and of a million completion tokens, if known.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    completions: int = 0
    failures: int = 0
    retries: int = 0
    prices: tuple[float, float] | None = None

    @property
    def cost(self) -> float | None:
        """What the tokens cost, in the prices' currency; `None` without prices."""
        if self.prices is None:
            return None
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is reached, and how patiently.

    Attributes:
        base_url: Where it is, up to `/v1`; `OPENAI_BASE_URL` or OpenAI's own if not given.
        api_key_env: The environment variable that holds the key. A server over plain http needs
            none.
        concurrency: Most requests under way at once.
        timeout: Seconds that one request may take, the server's queue included.
        max_retries: How often a request is made again before its sample fails.
        backoff: Seconds; the n-th wait is drawn from 0 to `backoff * 2**n`, at most 30, and added
            to what the server asks for in `Retry-After` (of which at most 120 are honoured).
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout: float = 600.0
    max_retries: int = 8
    backoff: float = 0.5

    @classmethod
    def of(cls, options: EvalOptions | JudgeOptions, base_url: str | None) -> Server:
        """A server as the options of a command describe it."""
        return cls(
            base_url,
            options.api_key_env,
            options.concurrency,
            options.timeout,
            options.max_retries,
        )

    def check(self) -> None:
        """Refuse numbers that cannot work. Raises `UserError`."""
        for name, value, least in (
            ("concurrency", self.concurrency, 1),
            ("max-retries", self.max_retries, 0),
        ):
            if value < least:
                raise UserError(f"--{name} {value}: must be at least {least}.")
        if self.timeout <= 0:
            raise UserError(f"--timeout {self.timeout}: must be more than 0 seconds.")


class OpenAIEngine:
    """The `openai` engine.

    Args:
        model: The model's name on the server.
        server: Where the server is and how it is asked; a URL takes the defaults of all else.
        prices: Price of a million prompt and of a million completion tokens, for `usage.cost`.
        raw: Send a prompt's text as a raw completion, without a chat template, a system turn or an
            image.
        extra_body: Parameters beyond OpenAI's, for servers that take them; left out where one says
            that it does not.

    Attributes:
        usage: Tokens, failures and retries so far, over all calls of `generate`.

    Raises:
        UserError: The address or a number is bad, or the key is not set or cannot be one.
    """

    continues = True  # a started turn of the assistant's

    def __init__(
        self,
        model: str,
        server: Server | str | None = None,
        *,
        prices: tuple[float, float] | None = None,
        raw: bool = False,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(server, Server):
            server = Server(server)
        server.check()
        self._server = server
        self._url = _address(server.base_url)
        self._plain = _check_url(self._url)
        self._model = model
        self._random = random.Random()
        self._dialect = Dialect(extra_body)
        self._raw = raw
        # Whether the server ever answered, and how many samples in a row failed for good on
        # retryable errors.
        self._reached = False
        self._failed_in_a_row = 0
        self.usage = Usage(prices=prices)
        self._key()

    @classmethod
    def start(cls, model: str | Path, options: EvalOptions) -> Start:
        """How it starts; the server has the model, so only its name is known."""
        server = Server.of(options, options.base_url)
        return Start(functools.partial(cls, str(model), server), identity={"model": str(model)})

    @staticmethod
    def check_options(options: EvalOptions) -> None:
        """Refuse an address or a key that cannot be one, before anything is recorded."""
        check_server(options.base_url, options.api_key_env)

    @property
    def refused(self) -> Sequence[str]:
        """Parts of the sampling that the server does not take, and of which it applies its own."""
        return self._dialect.refused

    def _key(self) -> str:
        key = read_key(self._server.api_key_env)
        if not key and not self._plain:
            raise UserError(
                f"{self._url} needs a key and {self._server.api_key_env} is not set: export"
                f" {self._server.api_key_env}=..., or name another variable with --api-key-env."
            )
        return key or _NO_KEY

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Generator[Completion, None, None]:
        """Every wanted sample of every request, each as soon as it is finished.

        The requests are made by an event loop in a thread, so that this works in a notebook, too.
        Leaving the iterator early (an interrupt, `close`) drops what is under way and ends the
        thread.

        Raises:
            UserError: The server answers no more; what was finished before has been yielded.
        """
        results: queue.SimpleQueue[Completion | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._answer_all(requests, sampling, results.put))
        thread = threading.Thread(
            target=_drive, args=(loop, task, results.put), name="modgap-openai", daemon=True
        )
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    async def _answer_all(
        self, requests: Sequence[Request], sampling: Sampling, emit: Callable[[Completion], None]
    ) -> None:
        """Answer with as many workers as requests may be under way; they share one list of jobs."""
        jobs = _jobs(requests)
        turn = asyncio.Lock()

        async def work(client: openai.AsyncOpenAI) -> None:
            while True:
                async with turn:  # an image is encoded once for its samples, beside the loop
                    job = await asyncio.to_thread(next, jobs, None)
                if job is None:
                    return
                request, messages, sample = job
                if isinstance(messages, str):
                    emit(self._unasked(request, sample, messages, sampling))
                else:
                    emit(await self._answer(client, request, messages, sample, sampling))

        async with self._client() as client:
            count = min(self._server.concurrency, sum(len(request.samples) for request in requests))
            workers = [asyncio.create_task(work(client)) for _ in range(count)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _client(self) -> openai.AsyncOpenAI:
        timeout = openai.Timeout(
            self._server.timeout, connect=min(self._server.timeout, _CONNECT_SECONDS)
        )
        # A proxy named in the environment is not asked for a server on this machine.
        local = urlsplit(self._url).hostname in ("localhost", "127.0.0.1", "::1")
        if not local:
            for proxy in getproxies().values():
                keep_out_of_url(proxy)
        return openai.AsyncOpenAI(
            api_key=self._key(),
            base_url=self._url,
            max_retries=0,  # ours are bounded, jittered and depend on the error
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=not local,
                timeout=timeout,
                event_hooks={"response": [_stay_at_origin, read_bounded]},
            ),
        )

    async def _answer(
        self,
        client: openai.AsyncOpenAI,
        request: Request,
        messages: Messages,
        sample: int,
        sampling: Sampling,
    ) -> Completion:
        """One sample, asked for until it is answered or has failed for good."""
        seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
        attempt = 0
        while True:
            prompt = self._dialect.shown(request.prompt)
            parameters = self._dialect.parameters(prompt, sampling, seed)
            turns = [] if self._raw else self._dialect.messages(messages, request.prompt)
            try:
                async with asyncio.timeout(self._server.timeout):
                    if self._raw:
                        sent = await client.completions.with_raw_response.create(
                            model=self._model, prompt=request.prompt.text, **parameters
                        )
                    else:
                        sent = await client.chat.completions.with_raw_response.create(
                            model=self._model, messages=turns, **parameters
                        )
                self._reached = True
                reply = read_reply(sent.content, prompt.prefill)
                self._failed_in_a_row = 0
                break
            except Exception as error:  # a reply may break the client, too: that costs its sample
                if self._dialect.adapt(refused_parameter(error), parameters, turns):
                    continue
                await self._raise_if_hopeless(client, error, sampling)
                self._reached = self._reached or isinstance(error, openai.APIStatusError)
                if is_transient(error) and attempt < self._server.max_retries:
                    await asyncio.sleep(self._wait(error, attempt))
                    attempt += 1
                    self.usage.retries += 1
                    continue
                reply = self._failed(error, attempt)
                break
        self._count(reply)
        return Completion(
            request=replace(request, prompt=prompt),
            sample=sample,
            text=without_secrets(reply.text),
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            image_tokens=reply.image_tokens,
            seed=seed,
            error=reply.error,
            left_out=(
                ()
                if self._raw
                else tuple(self._dialect.left_out(request.prompt, turns, parameters))
            ),
        )

    def _unasked(self, request: Request, sample: int, error: str, sampling: Sampling) -> Completion:
        """The record of a sample whose image cannot be sent."""
        seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
        self.usage.failures += 1
        return Completion(request, sample, "", "error", 0, 0, seed, error=error)

    def _wait(self, error: Exception, attempt: int) -> float:
        """Seconds until the next attempt: what the server asks for, and full jitter.

        The jitter keeps the attempts from coming all at once.
        """
        jitter = self._random.uniform(0, min(_LONGEST_BACKOFF, self._server.backoff * 2**attempt))
        return min(retry_after(error), _LONGEST_RETRY_AFTER) + jitter

    async def _raise_if_hopeless(
        self, client: openai.AsyncOpenAI, error: Exception, sampling: Sampling
    ) -> None:
        """End the run for what no retry fixes, with the remedy."""
        status = getattr(error, "status_code", None)
        server: dict[str, object] = {"server": self._url, "said": self._cause(error)}
        failed = "{server}: {said}. Remedy: "
        if status == 401 or (status == 403 and not self._reached):
            name = self._server.api_key_env
            key = f"check the key in {name} (--api-key-env names another variable)."
            raise ServerError(failed + "{key}", key=key, **server) from None
        if (refused := _refused_redirect(error)) and not self._reached:
            raise ServerError(
                failed + "give {origin} in {url_option}, if that is your server.",
                origin=refused, **server,
            ) from None  # fmt: skip
        if no_credit(error):
            raise ServerError(
                failed + "add credit to the account; the same command then resumes.", **server
            ) from None
        if status == 404:
            names = await self._models(client)
            if names:
                remedy = "{model_option} {model} is not one of the server's models: {names}."
            else:
                remedy = (
                    "check {model_option} {model}, and that {url_option} ends where the API starts "
                )
                remedy += "(mostly in /v1)."
            raise ServerError(failed + remedy, model=self._model, names=names, **server) from None
        if refused_parameter(error) == "temperature":
            raise TemperatureRefusedError(
                failed
                + "--temperature {temperature} is not taken by {model}: give another (often only"
                " 1), or --temperature model, which sends none.",
                temperature=sampling.temperature, model=self._model, **server,
            ) from None  # fmt: skip
        if never_connected(error) and not self._reached:
            raise ServerError(
                failed + "start the server, or correct {url_option}.", **server
            ) from None

    async def _models(self, client: openai.AsyncOpenAI) -> str:
        """The names of the server's models, for the remedy of a 404; empty if it does not say."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                models = [model.id async for model in client.models.list()]
            names = sorted(without_secrets(str(name)) for name in models)
        except (openai.APIError, TimeoutError, *_ODD_LIST):
            return ""
        return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")

    def _failed(self, error: Exception, attempts: int) -> Reply:
        """The record of a sample that failed for good; ends the run if the server is gone."""
        said = self._cause(error)
        if is_transient(error):
            self._failed_in_a_row += 1
            if self._failed_in_a_row > max(64, 2 * self._server.concurrency):
                raise UserError(
                    f"{self._url} has failed {self._failed_in_a_row} samples in a row ({said}). "
                    "Remedy: repair the server; the same command then resumes."
                )
        tries = f" (tried {attempts + 1} times)" if attempts else ""
        return Reply("", "error", error=said + tries)

    def _count(self, reply: Reply) -> None:
        failed = reply.finish_reason == "error"
        self.usage.failures += failed
        self.usage.completions += not failed
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens

    def _cause(self, error: Exception) -> str:
        # Before it is cut, so that no half of a key is left.
        said = without_secrets(cause(error))
        return said if len(said) <= _LONGEST_CAUSE else said[: _LONGEST_CAUSE - 3] + "..."


def _jobs(requests: Sequence[Request]) -> Iterator[tuple[Request, Messages | str, int]]:
    """Every sample with its messages, made once for each request, or with why there are none."""
    for request in requests:
        try:
            messages: Messages | str = to_messages(request)
        except Exception as error:  # its image cannot be decoded
            messages = request.refusal(error)
        for sample in request.samples:
            yield request, messages, sample


def check_server(base_url: str | None, api_key_env: str) -> None:
    """Refuse an address or a key that cannot be one. Raises `UserError`, which repeats no key."""
    _check_url(_address(base_url))
    read_key(api_key_env)


def _address(base_url: str | None) -> str:
    return (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL).strip()


def served_models(server: Server) -> list[str]:
    """The names of the models that a server has; asked once, for at most 10 seconds.

    Raises:
        UserError: The address is bad, or no server answers there with a list.
    """
    timeout = min(server.timeout, _CONNECT_SECONDS)
    engine = OpenAIEngine("", replace(server, timeout=timeout, max_retries=0))

    async def ask() -> list[str]:
        async with engine._client() as client, asyncio.timeout(timeout):
            models = [model.id async for model in client.models.list()]
            return sorted(without_secrets(str(name)) for name in models)

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's thread has an event loop of its own
            return thread.submit(lambda: asyncio.run(ask())).result()
    except (openai.APIError, TimeoutError, *_ODD_LIST) as error:
        raise ServerError(
            "{server}: {said}. Remedy: start the server, correct {url_option} (mostly it ends in"
            " /v1) or name the model.",
            server=server.base_url, said=engine._cause(error),
        ) from None  # fmt: skip


async def _stay_at_origin(response: Any) -> None:
    """Keep the client (httpx, or httpx2) from following a redirect to another origin."""
    if not response.has_redirect_location:
        return
    target = response.url.join(response.headers["location"])
    if _origin(target) != _origin(response.url):
        response.extensions[_REFUSED_REDIRECT] = without_secrets(_origin(target))
        del response.headers["location"]


def _origin(url: Any) -> str:
    parts = urlsplit(str(url))
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _refused_redirect(error: Exception) -> str:
    """The origin that a refused redirect leads to; empty for any other error."""
    if not isinstance(error, openai.APIStatusError):
        return ""
    return error.response.extensions.get(_REFUSED_REDIRECT, "")


def _check_url(url: str) -> bool:
    """Whether an address is plain http.

    Such servers (on this machine, on a cluster) mostly want no key.

    Raises:
        UserError: It is not an address, or has a password in it.
    """
    if "@" in url:  # in the path, too: a password may hold a slash
        userinfo, _, rest = url.rpartition("@")
        keep_out(userinfo.partition("//")[2] or userinfo)
        raise ServerError(_KEY_IN_URL, host=re.split("[/?#]", rest)[0])
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ServerError(
            "{url_option} {url!r} is not an address: write it like http://localhost:8000/v1.",
            url=url.partition("?")[0],
        )
    if parts.query or parts.fragment:
        raise ServerError(_KEY_IN_URL, host=host)
    return parts.scheme == "http"


def _drive(
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[None],
    emit: Callable[[BaseException | None], None],
) -> None:
    """Run the task to its end, in its own thread; emits its error last, and then `None`."""
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except BaseException as error:
        emit(error)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        emit(None)
