"""Language models behind an OpenAI-compatible server."""

import json
import os
from collections.abc import Mapping
from numbers import Real
from urllib.parse import urlsplit

from ...._core.optional import optional
from ...._core.parameters import python_number
from ....utils._sklearn_compat import Interval, validate_params
from ._asking import Completion

# Number of alternative tokens requested at each position.
_N_ALTERNATIVES = 10


class ChatError(RuntimeError):
    """A request that failed.

    `status_code` is the server's, None without an answer; `retry_after` is the number of seconds
    to wait, None if the server does not say.
    """

    def __init__(self, message, status_code=None, retry_after=None):
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


class OpenAIChat:
    """A language model behind an OpenAI-compatible server, as a function of messages.

    The model can be OpenAI's or, with ``base_url``, that of any server with the same interface,
    such as vLLM, llama.cpp or Ollama on your own machine. It needs the official client library:
    ``pip install "skdict[llm]"``.

    Parameters
    ----------
    model : str
        Name of the model, as the server knows it.

    base_url : str, default=None
        Address of the server, such as "http://localhost:8000/v1". By default that of the
        environment variable ``OPENAI_BASE_URL``, otherwise OpenAI's.

    api_key : str, default=None
        The server's API key. None uses the environment variable ``OPENAI_API_KEY``, but only with
        ``base_url=None``, so that a server named here is not sent the key of another. The key is
        never part of a representation, pickle, cache or message; an unpickled object uses that of
        the environment.

    temperature : float, default=0.0
        Sampling temperature. None uses the server's default; some models accept no other.

    timeout : float, default=60.0
        Seconds until a request is given up.

    params : dict, default=None
        Further parameters of each request, such as ``{"seed": 0, "max_completion_tokens": 500}``.

    Attributes
    ----------
    name : str
        Everything besides the messages that the answers depend on; identifies them in a cache.

    Raises
    ------
    ImportError
        If openai is not installed.
    ValueError
        If `base_url` contains a user name or password, or the temperature is given twice.

    See Also
    --------
    interpret_features : Explains features with such a model.

    Notes
    -----
    Failed requests are not repeated here, but by :func:`interpret_features`.

    Examples
    --------
    >>> from skdict.inspection import OpenAIChat
    >>> llm = OpenAIChat("qwen3", base_url="http://localhost:8000/v1")
    >>> llm
    OpenAIChat('qwen3', base_url='http://localhost:8000/v1', temperature=0.0)

    With a running server, ``llm([{"role": "user", "content": "Hello"}])`` returns its answer.
    """

    @validate_params(
        {
            "model": [str],
            "base_url": [str, None],
            "temperature": [Interval(Real, 0, None, closed="left"), None],
            "timeout": [Interval(Real, 0, None, closed="neither")],
            "params": [Mapping, None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self, model, *, base_url=None, api_key=None, temperature=0.0, timeout=60.0, params=None
    ):
        _import_openai()
        if temperature is not None and "temperature" in (params or {}):
            raise ValueError(
                f"params has temperature={params['temperature']!r}, and temperature is "
                f"{temperature!r}. Give it only once, as the parameter."
            )
        if "@" in urlsplit(base_url or "").netloc:
            raise ValueError("base_url must not contain a user name or password. Use api_key.")
        self.model = model
        self.base_url = base_url
        self.temperature = python_number(temperature)
        self.timeout = python_number(timeout)
        self.params = params
        self._api_key = api_key
        self._client = None

    @property
    def name(self):
        url = self.base_url or os.environ.get("OPENAI_BASE_URL", "")
        content = [self.model, url, self.temperature, self.params]
        return json.dumps(content, sort_keys=True, default=python_number)

    def __call__(self, messages):
        """Send messages and return the answer.

        Parameters
        ----------
        messages : list of dict
            Each with "role" ("system", "user" or "assistant") and "content".

        Returns
        -------
        completion : Completion
            The text, with the number of tokens if the server returns it.

        Raises
        ------
        RuntimeError
            If the request fails. Its `status_code` is None if there was no answer.
        """
        return self._complete(messages)

    def logprobs(self, messages):
        """Send messages and return the answer with the log-probabilities of its tokens.

        Parameters
        ----------
        messages : list of dict
            Each with "role" ("system", "user" or "assistant") and "content".

        Returns
        -------
        completion : Completion
            The text, with `logprobs`.

        Raises
        ------
        RuntimeError
            If the request fails, or the server returns no log-probabilities.
        """
        completion = self._complete(messages, logprobs=True, top_logprobs=_N_ALTERNATIVES)
        if completion.logprobs is None:
            raise ChatError(f"The server of {self.model!r} returns no log-probabilities.", 400)
        return completion

    def _complete(self, messages, **options):
        openai = _import_openai()
        options |= {name: python_number(value) for name, value in (self.params or {}).items()}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        try:
            if self._client is None:
                self._client = self._connect(openai)
        except openai.OpenAIError as error:  # for example a missing key
            raise ChatError(str(error), 401) from None
        try:
            response = self._client.chat.completions.create(
                model=self.model, messages=messages, **options
            )
        except openai.OpenAIError as error:
            status_code = getattr(error, "status_code", None)
            raise ChatError(self._without_key(error), status_code, _wait(error)) from None
        try:
            return _completion(response)
        except (AttributeError, IndexError, TypeError) as error:  # it may be any JSON
            raise ChatError(f"The server's answer is not a chat completion: {error}.") from None

    def _connect(self, openai):
        key = self._api_key
        if key is None and self.base_url is not None:
            key = "none"  # the client requires one
        return openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=0
        )

    def _without_key(self, error):
        key = self._client.api_key if self._client else None
        message = f"{type(error).__name__}: {error}"
        return message.replace(key, "[API key]") if key else message

    def __repr__(self):
        server = f", base_url={self.base_url!r}" if self.base_url else ""
        return f"OpenAIChat({self.model!r}{server}, temperature={self.temperature})"

    def __getstate__(self):
        return vars(self) | {"_api_key": None, "_client": None}

    # the default copies go through __getstate__ and would lose the key

    def __copy__(self):
        copied = object.__new__(type(self))
        vars(copied).update(vars(self) | {"_client": None})
        return copied

    def __deepcopy__(self, memo):
        return self  # the object is never modified


def _wait(error):
    """The number of seconds that the server asks to wait, or None."""
    try:
        return float(error.response.headers["retry-after"])
    except (AttributeError, KeyError, ValueError):  # no answer, no such header, or a date
        return None


def _completion(response):
    choice, usage = response.choices[0], response.usage
    if not isinstance(choice.message.content, str):
        raise ChatError(f"The model returned no text (finish reason {choice.finish_reason!r}).")
    logprobs = None
    if choice.logprobs is not None and choice.logprobs.content:
        logprobs = [
            (entry.token, {other.token: other.logprob for other in entry.top_logprobs})
            for entry in choice.logprobs.content
        ]
    return Completion(
        choice.message.content,
        prompt_tokens=usage and usage.prompt_tokens,
        completion_tokens=usage and usage.completion_tokens,
        logprobs=logprobs,
        finish_reason=choice.finish_reason,
    )


def _import_openai():
    with optional("openai", "OpenAIChat", '"skdict[llm]"'):
        import openai
    return openai
